"""Log lines with text from outside: nothing of it looks like a line of its own, or drives a terminal.

The rule for every call of a logger here: ids go in with `%r`, anything else that is text with `%s` and `one_line`, and
a stack with `indented`. A traceback is indented as a whole by a filter, because the texts of its exceptions are
foreign too.
"""

from __future__ import annotations

import logging
import re
import traceback
from types import TracebackType

from .escapes import name_of

__all__ = ["get_logger", "indented", "one_line"]

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Ends of lines, the beginnings of a terminal's commands, what turns the direction of a text, halves of characters."""
_CONTROLS_WITHIN_LINES = re.compile(_CONTROLS.pattern.replace(r"\x00-\x1f", r"\x00-\x08\x0b-\x1f"))
_LONGEST = 2_000
_LONGEST_TRACEBACK = 50_000


def one_line(text: object) -> str:
    """Write an exception, or any other text from outside, so that it stays within a line.

    Args:
        text: What is written by `str`; an exception without a text by its type.
    """
    said = _said(text)
    if len(said) > _LONGEST:
        said = f"{said[:_LONGEST]}... ({len(said)} characters)"
    return _CONTROLS.sub(_escape, said)


def indented(text: str) -> str:
    """Keep the lines of a text apart from those of the log: none of them begins where a line of the log does."""
    return "\n".join(f"    {line}" for line in _CONTROLS_WITHIN_LINES.sub(_escape, text).split("\n"))


def get_logger(name: str) -> logging.Logger:
    """Return a logger whose tracebacks are `indented`."""
    logger = logging.getLogger(name)
    logger.addFilter(_indent_traceback)  # the same filter twice counts once
    return logger


def _indent_traceback(record: logging.LogRecord) -> bool:
    # A formatter writes this text where there is one, and makes its own where there is none.
    if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
        record.exc_text = indented(_formatted(*record.exc_info[1:]))
    return True


def _formatted(error: BaseException, stack: TracebackType | None) -> str:
    try:
        text = "".join(traceback.format_exception(error)).rstrip("\n")
    except Exception:  # noqa: BLE001  # the class of an exception may be the user's
        calls = "".join(traceback.format_tb(stack))
        text = f"Traceback (most recent call last):\n{calls}{name_of(error)}: (it cannot be read)"
    if len(text) > _LONGEST_TRACEBACK:
        half = _LONGEST_TRACEBACK // 2
        text = f"{text[:half]}\n... ({len(text) - 2 * half} characters left out)\n{text[-half:]}"
    return text


def _said(text: object) -> str:
    try:
        return str(text) or type(text).__name__
    except Exception:  # noqa: BLE001  # the class of an exception may be the user's
        return f"{type(text).__name__} without a text"


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")
