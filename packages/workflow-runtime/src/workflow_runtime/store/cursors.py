"""Opaque cursors for keyset pages: the sort key of the last row that was shown, in a form nobody will parse.

A cursor comes back from outside, often by way of a URL, so it may be anything. Only text that these functions made is
taken for one: what is read from it must give the very same text again.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from ..errors import InvalidArgumentError
from ..ids import check_id

__all__ = ["decode_run_cursor", "decode_schedule_cursor", "encode_run_cursor", "encode_schedule_cursor"]

_SEPARATOR = "\0"
"""No id holds one."""

_END_OF_TIME_MS = 2**53
_DIGITS = len(str(_END_OF_TIME_MS))


def encode_run_cursor(created_at_ms: int, run_id: str) -> str:
    """Make the cursor that continues a listing of runs after this one."""
    return _encode(["run", str(created_at_ms), run_id])


def decode_run_cursor(cursor: str) -> tuple[int, str]:
    """Read it back.

    Raises:
        InvalidArgumentError: It is not a cursor of a listing of runs.
    """
    match _decode(cursor):
        case ["run", time, run_id] if _is_time(time) and _is_id(run_id):
            return int(time), run_id
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
        case ["schedule", schedule_id] if _is_id(schedule_id):
            return schedule_id
    raise InvalidArgumentError("cursor", "is not a cursor of a listing of schedules")


def _encode(fields: Sequence[str]) -> str:
    return base64.urlsafe_b64encode(_SEPARATOR.join(fields).encode("utf-8")).decode("ascii")


def _decode(cursor: str) -> list[str]:
    """Take a cursor apart; nothing is in what was never made into one."""
    try:
        fields = (
            base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode("utf-8").split(_SEPARATOR)
        )
    except (ValueError, AttributeError):  # not base64, not UTF-8, or not a string
        return []
    return fields if _encode(fields) == cursor else []


def _is_time(text: str) -> bool:
    # int() would take a sign, spaces, underscores and foreign digits too.
    plain = text.isascii() and text.isdecimal() and len(text) <= _DIGITS
    return plain and str(int(text)) == text and int(text) < _END_OF_TIME_MS


def _is_id(text: str) -> bool:
    try:
        check_id("cursor", text)
    except InvalidArgumentError:
        return False
    return True
