"""The text about a failed case: the error, where it was raised, the values, and the cause."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from .assertions import shortened

__all__ = ["describe"]

_KIT = str(Path(__file__).parent)
_MACHINERY = ("examination.py", "certification.py", "examiner_process.py", "tasks.py", "expectations.py")


def describe(error: BaseException) -> str:
    """Return all that is known of an error that a case raised."""
    lines = [_headline(error), *(f"  {place}" for place in _places(error.__traceback__))]
    if isinstance(error, AssertionError):
        lines += _locals(error)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for _ in range(5):
        if cause is None:
            break
        lines += [f"caused by {_headline(cause)}", *(f"  {place}" for place in _last(cause.__traceback__))]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(lines)


def _headline(error: BaseException) -> str:
    said = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, BaseExceptionGroup):
        said += "".join(f"\n  - {_headline(one)}" for one in error.exceptions[:5])
    return said


def _places(trace: TracebackType | None) -> Iterator[str]:
    """Yield the lines of the case, and the line of the store that raised the error."""
    frames = traceback.extract_tb(trace)
    for number, frame in enumerate(frames):
        of_kit = frame.filename.startswith(_KIT) and Path(frame.filename).name not in _MACHINERY
        if of_kit or (number == len(frames) - 1 and not frame.filename.startswith(_KIT)):
            yield f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}"


def _last(trace: TracebackType | None) -> Iterator[str]:
    for frame in traceback.extract_tb(trace)[-2:]:
        yield f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}"


def _locals(error: AssertionError) -> Iterator[str]:
    """Yield the local names of the case's function, if the assertion says nothing of values itself."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if error.args or trace is None or not trace.tb_frame.f_code.co_filename.startswith(_KIT):
        return
    for name, value in trace.tb_frame.f_locals.items():
        if name != "h" and not name.startswith("@"):
            yield f"    {name} = {shortened(value)}"
