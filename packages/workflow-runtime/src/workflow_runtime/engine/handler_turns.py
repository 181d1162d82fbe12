"""The way from a driver's task into a handler's event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from ..isolation import Fence
from ..watch import WatchedDrive

__all__ = ["HandlerTurns"]

T = TypeVar("T")

_TURN_S = 0.02
"""Time for which a handler, or its replay, goes on before the application's event loop gets a turn."""


class HandlerTurns:
    """Turns of a handler on the application's event loop. A driver calls everything of the handler's loop through them.

    Each turn is a plain callback (see `WorkflowLoop.run_until_blocked`), fenced off from the application and timed.

    Args:
        watched: Notified of each turn.
    """

    def __init__(self, watched: WatchedDrive) -> None:
        self._fence = Fence(asyncio.get_running_loop())
        self._watched = watched

    async def call(self, function: Callable[[], T]) -> T:
        """Call something of the handler's loop, in one turn."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        loop.call_soon(self._call, function, done)
        return await done

    async def repeat(self, function: Callable[..., bool]) -> None:
        """Call something until it returns true. The application's event loop goes on after each short while.

        Args:
            function: Stops at `until_s`, a moment of `time.perf_counter`.
        """
        while not await self.call(lambda: function(until_s=time.perf_counter() + _TURN_S)):
            pass

    def _call(self, function: Callable[[], T], done: asyncio.Future[T]) -> None:
        try:
            with self._fence, self._watched:
                result = function()
        except BaseException as error:  # noqa: BLE001  # handed on to the driver's task
            if not done.cancelled():
                done.set_exception(_carried(error))
        else:
            if not done.cancelled():
                done.set_result(result)


def _carried(error: BaseException) -> BaseException:
    # asyncio futures refuse StopIteration.
    return RuntimeError("a handler raised StopIteration") if isinstance(error, StopIteration) else error
