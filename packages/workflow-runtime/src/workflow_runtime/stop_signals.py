"""SIGTERM and SIGINT, borrowed from a program that does nothing with them itself, and given back as they were found."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from .logs import get_logger, one_line

__all__ = ["hear_stop_signals"]

logger = get_logger("workflow_runtime")

_HEARD = (signal.SIGTERM, signal.SIGINT)
_ONES_HEARD = 2
"""One asks for a stop, the next one for haste. A third means what the signal does without us."""


@contextmanager
def hear_stop_signals(received: Callable[[], None]) -> Iterator[None]:
    """Call a function on SIGTERM and SIGINT while the block lasts, unless the program has a handler of its own.

    What is no program's own is Python's default and the handler with which `asyncio.run` turns Ctrl-C into a
    cancellation. Everything else stays as it is: the handler of a signal decides what it stops.

    Signals belong to the main thread; elsewhere none arrives.

    Args:
        received: Called on the running event loop for the first and for the second signal. The third one does what it
            would have done without the block.
    """
    loop = asyncio.get_running_loop()

    def tell() -> None:
        try:
            loop.call_soon_threadsafe(received)
        except RuntimeError:
            return  # the loop is closed: there is nothing left to stop

    heard = [handler for number in _HEARD if (handler := _borrow(number)) is not None]
    for handler in heard:
        handler.listeners.append(tell)
    try:
        yield
    finally:
        for handler in heard:
            handler.leave(tell)


class _Borrowed:
    """The handler of one signal while somebody listens.

    It may live on: who has put a handler on top of this one will put this one back. Then it does what was found.
    """

    def __init__(self, number: signal.Signals, found: Any) -> None:
        self.listeners: list[Callable[[], None]] = []
        self._number = number
        self._found = found
        self._came = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._came += 1
        if not self.listeners or self._came > _ONES_HEARD:
            self._do_as_found(frame)
            return
        for tell in tuple(self.listeners):
            tell()

    def leave(self, tell: Callable[[], None]) -> None:
        """Remove a listener; after the last one the signal gets its former handler back, unless another was set."""
        self.listeners.remove(tell)
        if self.listeners:
            return
        self._came = 0
        present: object = signal.getsignal(self._number)
        if present is self:
            signal.signal(self._number, _still_good(self._found))

    def _do_as_found(self, frame: FrameType | None) -> None:
        found = _still_good(self._found)
        if callable(found):
            found(self._number, frame)
        else:
            signal.signal(self._number, found)
            signal.raise_signal(self._number)


def _borrow(number: signal.Signals) -> _Borrowed | None:
    """Take a signal, or join those who have; `None` where it is not to be had."""
    if sys.platform == "emscripten":
        return None
    present: Any = signal.getsignal(number)
    borrowed = present if isinstance(present, _Borrowed) else _Borrowed(number, present)
    if borrowed is not present and not (
        present in (signal.SIG_DFL, signal.default_int_handler) or _is_of_asyncio_run(present)
    ):
        logger.info("%s has a handler of the program's own: it has to stop the work", one_line(number.name))
        return None
    try:
        signal.signal(number, borrowed)
    except ValueError:
        return None  # not the main thread, or a subinterpreter
    return borrowed


def _is_of_asyncio_run(handler: Any) -> bool:
    return isinstance(handler, partial) and isinstance(getattr(handler.func, "__self__", None), asyncio.Runner)


def _still_good(found: Any) -> Any:
    """Return what was found, or what its owner would have put back: `asyncio.run` does not when it finds ours."""
    if _is_of_asyncio_run(found):
        main_task = found.keywords.get("main_task")
        if main_task is not None and main_task.done():
            return signal.default_int_handler
    return found
