"""Opaque cursors for keyset pages: the sort key of the last row that was shown, in a form nobody will parse."""

from __future__ import annotations

import base64
import binascii
import json

from ..errors import InvalidArgumentError

__all__ = ["decode_run_cursor", "decode_schedule_cursor", "encode_run_cursor", "encode_schedule_cursor"]


def encode_run_cursor(created_at_ms: int, run_id: str) -> str:
    """Make the cursor that continues a listing of runs after this one."""
    return _encode(["run", created_at_ms, run_id])


def decode_run_cursor(cursor: str) -> tuple[int, str]:
    """Read it back.

    Raises:
        InvalidArgumentError: It is not a cursor of a listing of runs.
    """
    match _decode(cursor):
        case ["run", int(created_at_ms), str(run_id)] if 0 <= created_at_ms < 2**53:
            return created_at_ms, run_id
    raise InvalidArgumentError("cursor", "is not a cursor of a listing of runs")


def encode_schedule_cursor(schedule_id: str) -> str:
    """Make the cursor that continues a listing of schedules after this one."""
    return _encode(["schedule", schedule_id])


def decode_schedule_cursor(cursor: str) -> str:
    """Read it back.

    Raises:
        InvalidArgumentError: It is not a cursor of a listing of schedules.
    """
    match _decode(cursor):
        case ["schedule", str(schedule_id)]:
            return schedule_id
    raise InvalidArgumentError("cursor", "is not a cursor of a listing of schedules")


def _encode(fields: list[str | int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode("ascii")).decode("ascii")


def _decode(cursor: str) -> object:
    try:
        return json.loads(base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, ValueError):
        return None
