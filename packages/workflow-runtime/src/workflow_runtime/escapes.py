"""Exceptions of user code, handled without trusting them: each ends the attempt or the run that it comes from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = [
    "EscapedError",
    "attribute",
    "cause_of",
    "exc_info_of",
    "is_interrupt",
    "members_of",
    "name_of",
    "text_of",
    "traceback_of",
]


class EscapedError(Exception):
    """A carrier of what a step raised where a future, a coroutine or a store's transaction could not carry it as it is.

    `StopIteration` cannot leave a coroutine, `SystemExit` would end the event loop, `GeneratorExit` would look like
    the end of a generator on the way.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def is_interrupt(error: BaseException) -> bool:
    """Return True if Python itself may have raised it on Ctrl-C; it does so on the main thread only."""
    return issubclass(type(error), KeyboardInterrupt) and _is_main_thread()


def _is_main_thread() -> bool:
    if sys.platform == "emscripten":
        return True  # there are no others
    from threading import current_thread, main_thread  # noqa: PLC0415  # there are Pythons without threads

    return current_thread() is main_thread()


def cause_of(error: BaseException) -> BaseException | None:
    """Return what an error was raised from, or else while what was being handled, as Python would print it."""
    # Not by attribute access, which a user's class may have redefined.
    cause: BaseException | None = _CAUSE(error)
    return cause if cause is not None or _SUPPRESS_CONTEXT(error) else _CONTEXT(error)


def members_of(error: BaseException) -> tuple[BaseException, ...]:
    """Return the exceptions of a group; nothing of any other error."""
    return _MEMBERS(error) if issubclass(type(error), BaseExceptionGroup) else ()


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return where an error was raised."""
    traceback: TracebackType | None = _TRACEBACK(error)
    return traceback


def exc_info_of(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return what a logger takes as `exc_info`."""
    return type(error), error, traceback_of(error)


def name_of(error: BaseException) -> str:
    """Return the name of an error's class."""
    name: str = _QUALNAME(type(error))
    return name


def text_of(error: object) -> str:
    """Return an error's message, whatever its class does when it is asked."""
    try:
        return str.__str__(str(error))
    except BaseException as broken:  # a user's exception class with a broken method
        if is_interrupt(broken):
            raise
        return "(its message cannot be read)"


def attribute(error: BaseException, name: str) -> Any:
    """Return an attribute if the error has it and lets it be read; else `None`."""
    try:
        return object.__getattribute__(error, name)
    except BaseException as broken:  # a property is the user's code
        if is_interrupt(broken):
            raise
        return None


def _reader(kind: type[BaseException], name: str) -> Callable[[BaseException], Any]:
    read: Callable[[BaseException], Any] = vars(kind)[name].__get__
    return read


_QUALNAME: Callable[[type], Any] = vars(type)["__qualname__"].__get__
_TRACEBACK = _reader(BaseException, "__traceback__")
_CAUSE = _reader(BaseException, "__cause__")
_CONTEXT = _reader(BaseException, "__context__")
_SUPPRESS_CONTEXT = _reader(BaseException, "__suppress_context__")
_MEMBERS = _reader(BaseExceptionGroup, "exceptions")
