"""The way from a driver's task into a handler's event loop, and back."""

from __future__ import annotations

import asyncio
import time
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable
from typing import Any, TypeVar

from ..isolation import Fence
from ..watch import WatchedDrive

__all__ = ["HandlerTurns"]

T = TypeVar("T")

_TURN_S = 0.02
"""Time for which a handler, or its replay, goes on before the application's event loop gets a turn."""


class HandlerTurns:
    """Turns of a handler on the application's event loop. A driver calls everything of the handler's loop through them.

    Each turn happens at once, in the driver's task: a callback of its own would cost each step two more turns of the
    application's event loop. It is fenced off from the application, and timed.

    Args:
        watched: Notified of each turn.
    """

    def __init__(self, watched: WatchedDrive) -> None:
        self._loop = asyncio.get_running_loop()
        self._fence = Fence.around(self._loop)
        self._watched = watched

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call something of the handler's loop, in one turn."""
        # A thread has one current task since Python 3.14, whatever event loop it belongs to.
        task = asyncio.current_task(self._loop)
        assert task is not None
        _leave_task(self._loop, task)
        try:
            with self._fence, self._watched:
                return function(*args)
        finally:
            _enter_task(self._loop, task)

    async def repeat(self, function: Callable[..., bool], *args: Any) -> None:
        """Call something until it returns true. The application's event loop goes on after each short while.

        Args:
            function: Its last argument is a moment of `time.perf_counter`, at which it stops.
            args: The others.
        """
        while not self.call(function, *args, time.perf_counter() + _TURN_S):  # noqa: ASYNC110  # others get a turn
            await asyncio.sleep(0)
