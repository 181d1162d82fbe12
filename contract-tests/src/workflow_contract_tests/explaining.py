"""What a failed case says: the error, where it was raised, both sides of the comparison, and the cause.

An assertion without a test framework shows no values. They are read from the frame that raised it: names, attributes
and subscripts are evaluated again, calls never are.
"""

from __future__ import annotations

import ast
import functools
import linecache
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

__all__ = ["describe"]

_KIT = str(Path(__file__).parent)
_MACHINERY = ("examination.py", "certification.py", "examiner_process.py", "tasks.py", "expectations.py")
_LONGEST = 600
_READABLE = (
    ast.Expression,
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.Slice,
    ast.Constant,
    ast.Tuple,
    ast.List,
    ast.Set,
    ast.Dict,
    ast.Starred,
    ast.UnaryOp,
    ast.BinOp,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.comprehension,
    ast.expr_context,
    ast.operator,
    ast.unaryop,
)
"""The parts of an expression that may be evaluated again: none of them changes anything."""


def describe(error: BaseException) -> str:
    """Return all that is known of an error that a case raised."""
    lines = [_headline(error), *(f"  {place}" for place in _places(error.__traceback__))]
    if isinstance(error, AssertionError):
        lines += _values(error)
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


def _values(error: AssertionError) -> Iterator[str]:
    """Yield both sides of the comparison that failed, or the local names of its function."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_code.co_filename.startswith(_KIT):
        return
    test = _failed_test(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
    if test is None:
        return
    sides = {"left": test.left, "right": test.comparators[0]} if isinstance(test, ast.Compare) else {}
    shown = {name: _evaluated(side, trace.tb_frame) for name, side in sides.items()}
    yield from (f"    {name} = {text}" for name, text in shown.items() if text is not None)
    if not shown or None in shown.values():
        yield from (f"    {name} = {_short(value)}" for name, value in _named_in(test, trace.tb_frame))


def _failed_test(filename: str, line: int) -> ast.expr | None:
    found = [node for node in _asserts(filename) if node.lineno <= line <= (node.end_lineno or node.lineno)]
    return found[-1].test if found else None


@functools.cache
def _asserts(filename: str) -> tuple[ast.Assert, ...]:
    tree = ast.parse("".join(linecache.getlines(filename)))
    return tuple(sorted((n for n in ast.walk(tree) if isinstance(n, ast.Assert)), key=lambda node: node.lineno))


def _evaluated(side: ast.expr, frame: FrameType) -> str | None:
    if not all(isinstance(node, _READABLE) for node in ast.walk(side)):
        return None
    code = compile(ast.Expression(side), "<the failed assertion>", "eval")
    try:
        return _short(eval(code, {**frame.f_globals, **frame.f_locals}))  # noqa: S307  # of the kit's own source
    except Exception:  # noqa: BLE001  # what cannot be shown is left out
        return None


def _named_in(test: ast.expr, frame: FrameType) -> Iterator[tuple[str, Any]]:
    """Yield the local names of the frame, those of the failed test first."""
    mentioned = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    local = {name: value for name, value in frame.f_locals.items() if name != "h" and not name.startswith("@")}
    yield from sorted(local.items(), key=lambda item: item[0] not in mentioned)


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  # a value of the store may refuse even that
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"
