"""Bounds on every wait for the server."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["Deadline"]

_LATE_S = 0.1
"""An event loop that comes this late was blocked."""
_SECOND_LOOK_S = 1.0


class Deadline:
    """A bound on an answer: `TimeoutError` is raised inside its `async with` when that takes too long.

    Time in which the event loop was blocked does not count: what has come in meanwhile is still to be read, and an
    answer that is thrown away may have brought a claim.

    Args:
        seconds: How long the answer may take.
    """

    __slots__ = ("_due", "_handle", "_loop", "_seconds", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> None:
        self._timeout = asyncio.timeout(None)
        await self._timeout.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._expire_in(self._seconds)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._handle.cancel()
        await self._timeout.__aexit__(kind, error, traceback)

    def _expire_in(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        self._handle = self._loop.call_at(self._due, self._expire)

    def _expire(self) -> None:
        if self._loop.time() - self._due > _LATE_S:
            self._expire_in(min(_SECOND_LOOK_S, self._seconds))
        else:
            self._timeout.reschedule(self._due)
