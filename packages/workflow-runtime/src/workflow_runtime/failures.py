"""Errors as records: made of whatever user code raises, written within a bound, read back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import islice
from traceback import FrameSummary, StackSummary, format_list
from types import TracebackType
from typing import Any

from .errors import RunFailedError, StepFailedError
from .escapes import attribute, cause_of, members_of, name_of, text_of, traceback_of
from .failure import Failure
from .payloads import JsonText, encode_json

__all__ = ["MAX_FAILURE_BYTES", "failure_of", "read_failure", "write_failure"]

MAX_FAILURE_BYTES = 16_000
"""The most bytes that a recorded error takes as JSON, besides the facts that are written with it."""

_MAX_CHARACTERS = 8_000
_MAX_NAME = 200
_MAX_CHAIN = 20
_MAX_MEMBERS = 20
_MAX_ERRORS = 60
_MAX_NOTES = 10
_FIRST_FRAMES, _LAST_FRAMES = 5, 25
_LEAST_BYTES = 160
"""Below this an error of the chain or of a group is left out."""
_OWN_FILES = os.path.join(os.path.dirname(__file__), "engine")  # noqa: PTH118, PTH120  # pathlib is slow to import


def failure_of(error: BaseException) -> Failure:
    """Take down an error of any class, also of one that answers no question about itself."""
    return _Taker().take(error, chain=0)


class _Taker:
    """A walk over causes and members, each of them once, and bounded."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def take(self, error: BaseException, *, chain: int) -> Failure:
        self._seen.add(id(error))
        members = members_of(error)
        taken = [
            self.take(member, chain=chain + 1)
            for member in members[:_MAX_MEMBERS]
            if id(member) not in self._seen and self._has_room(chain)
        ]
        cause, left_out = self._cause(error, chain)
        return Failure(
            error_type=name_of(error)[:_MAX_NAME],
            message=text_of(error)[:_MAX_CHARACTERS],
            notes=_notes(error),
            traceback=_frames(traceback_of(error)),
            cause=cause,
            members=tuple(taken),
            omitted=len(members) - len(taken) + left_out,
        )

    def _cause(self, error: BaseException, chain: int) -> tuple[Failure | None, int]:
        recorded = attribute(error, "failure") if issubclass(type(error), (StepFailedError, RunFailedError)) else None
        if type(recorded) is Failure:
            return recorded, 0
        cause = cause_of(error)
        if cause is None or id(cause) in self._seen:
            return None, 0
        return (self.take(cause, chain=chain + 1), 0) if self._has_room(chain) else (None, 1)

    def _has_room(self, chain: int) -> bool:
        return chain < _MAX_CHAIN and len(self._seen) < _MAX_ERRORS


def _notes(error: BaseException) -> tuple[str, ...]:
    notes = attribute(error, "__notes__")
    if type(notes) is not list:
        return ()
    own = attribute(error, "recorded_note")
    return tuple(text_of(note)[:_MAX_CHARACTERS] for note in islice(notes, _MAX_NOTES) if note is not own)


def _frames(traceback: TracebackType | None) -> str:
    frames: list[tuple[Any, int]] = []
    while traceback is not None:
        frames.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    # The engine's own frames explain nothing to the user.
    users = next((i for i, (frame, _) in enumerate(frames) if not _is_ours(frame)), 0)
    frames = frames[users:]
    left_out = max(0, len(frames) - _FIRST_FRAMES - _LAST_FRAMES)
    first, last = (frames[:_FIRST_FRAMES], frames[-_LAST_FRAMES:]) if left_out else (frames, [])
    gap = f"  ({left_out} calls left out)\n" if left_out else ""
    return _format(first) + gap + _format(last)


def _is_ours(frame: Any) -> bool:
    return bool(frame.f_code.co_filename.startswith(_OWN_FILES)) or frame.f_code.co_filename.endswith(_THREADS)


_THREADS = ("concurrent/futures/thread.py", "asyncio/threads.py")


def _format(frames: Iterable[tuple[Any, int]]) -> str:
    try:
        return "".join(format_list(StackSummary.extract(iter(frames))))
    except Exception:  # noqa: BLE001  # a loader that cannot give the source of what it loaded
        lines = (FrameSummary(f.f_code.co_filename, line, f.f_code.co_name, line="") for f, line in frames)
        return "".join(format_list(list(lines)))


def write_failure(failure: Failure, **facts: Any) -> JsonText:
    """Write a failure within `MAX_FAILURE_BYTES`, and small facts beside it. Readers of old know type and message."""
    return encode_json({**_written(failure, MAX_FAILURE_BYTES), **facts})


def _written(failure: Failure, room: int) -> dict[str, Any]:
    """Write an error into so many bytes: half for itself if need be, the rest for what it comes from."""
    own = room if failure.cause is None and not failure.members else room // 2
    record: dict[str, Any] = {
        "error_type": _cut(failure.error_type, min(own // 4, 6 * _MAX_NAME)),
        "message": _cut(failure.message, own // 2 - 60),
    }
    if failure.notes:
        each = (own - _size(record)) // (2 * len(failure.notes)) - 20
        record["notes"] = [_cut(note, each) for note in failure.notes if each > 0]
    if failure.traceback:
        record["traceback"] = _cut_frames(failure.traceback, own - _size(record) - 20)
    return _with_origins(record, failure, room - _size(record) - 60)


def _with_origins(record: dict[str, Any], failure: Failure, room: int) -> dict[str, Any]:
    omitted = failure.omitted
    if failure.cause is not None:
        share = room // 2 if failure.members else room
        if share >= _LEAST_BYTES:
            record["cause"] = _written(failure.cause, share)
            room -= _size(record["cause"])
        else:
            omitted += 1
    if failure.members:
        fitting = failure.members[: room // _LEAST_BYTES]
        each = room // len(fitting) - 2 if fitting else 0
        record["members"] = [_written(member, each) for member in fitting]
        omitted += len(failure.members) - len(fitting)
    if omitted:
        record["omitted"] = omitted
    return record


def _cut(text: str, room: int) -> str:
    """Shorten a text so that it takes at most so many bytes as JSON."""
    if len(text) * 12 <= room or _size(text) <= room:
        return text
    low, high = 0, min(len(text), max(0, room))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _size(text[:middle]) <= room - 12 else (low, middle - 1)
    return text[:low] + "…"


def _cut_frames(frames: str, room: int) -> str:
    """Leave out outer calls: the innermost one is where to look."""
    while frames and _size(frames) > room:
        _, _, rest = frames.partition("\n  File ")
        frames = "  File " + rest if rest else ""
    return frames


def _size(value: Any) -> int:
    return len(json.dumps(value))


def read_failure(facts: dict[str, Any]) -> Failure:
    """Read what `write_failure` wrote, or an older version that knew type and message only."""
    cause = facts.get("cause")
    return Failure(
        error_type=facts["error_type"],
        message=facts["message"],
        notes=tuple(facts.get("notes", ())),
        traceback=facts.get("traceback", ""),
        cause=None if cause is None else read_failure(cause),
        members=tuple(read_failure(member) for member in facts.get("members", ())),
        omitted=facts.get("omitted", 0),
    )
