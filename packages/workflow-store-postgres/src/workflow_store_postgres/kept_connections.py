"""Connections that a store keeps for its next statement."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from workflow_runtime.store import StoreUnavailableError

from .lent_connection import LentConnection

__all__ = ["KeptConnections"]

_MOST_USES = 1_000
"""Then the pool gets a connection back: it may want to replace it (asyncpg's `max_queries`)."""
_IDLE_S = 10.0
"""Then, too: it may want to close it (asyncpg's `max_inactive_connection_lifetime`)."""


class KeptConnections:
    """The connections of a pool that nobody else uses: those that are free, and who waits for one.

    A connection that has nothing to clean up goes to whoever waits, or is kept. The pool is never asked for more than
    it has, so nobody waits there.

    Args:
        size: The most connections that the pool has.
        give_back: Gives a connection back to its pool.
    """

    def __init__(self, size: int, give_back: Callable[[LentConnection], Awaitable[None]]) -> None:
        self._size = size
        self._give_back = give_back
        self._out = 0
        """Number of connections that are in use, or are being opened for somebody."""
        self._free: list[tuple[float, LentConnection]] = []
        """Connections, with the time at which each was used last, the oldest first."""
        self._waiting: deque[asyncio.Future[LentConnection | None]] = deque()
        self._looking: asyncio.TimerHandle | None = None
        self._giving: set[asyncio.Task[None]] = set()
        self._closed = False

    async def take(self, within_s: float) -> LentConnection | None:
        """Take a connection, or the right to have one from the pool; `add` or `gone` follows.

        Args:
            within_s: How long to wait.

        Returns:
            The connection; `None` if the pool has one.

        Raises:
            StoreUnavailableError: All are in use for longer.
        """
        while self._free:
            _, lent = self._free.pop()
            if lent.is_open:
                self._out += 1
                return lent
            self._begin_to_give_back(lent)
        if self._out + len(self._giving) < self._size:
            self._out += 1
            return None
        return await self._wait(within_s)

    async def _wait(self, within_s: float) -> LentConnection | None:
        turn: asyncio.Future[LentConnection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(within_s):
                return await turn
        except TimeoutError:
            self._pass_on(turn)
            raise StoreUnavailableError(f"no free connection within {within_s:g} s") from None
        except asyncio.CancelledError:
            self._pass_on(turn)
            raise

    def _pass_on(self, turn: asyncio.Future[LentConnection | None]) -> None:
        # It may have been given a connection in the moment in which it gave up.
        if turn.cancelled() or not turn.done():
            turn.cancel()
        elif (lent := turn.result()) is None:
            self.gone()
        elif not self.add(lent):
            self._out -= 1
            self._begin_to_give_back(lent)

    def add(self, lent: LentConnection) -> bool:
        """Pass on, or keep, a connection that has nothing to clean up. Return False if it has to be given back."""
        lent.uses += 1
        if self._closed or lent.uses >= _MOST_USES:
            return False
        if (turn := self._next_turn()) is not None:
            turn.set_result(lent)
            return True
        self._out -= 1
        self._keep(lent)
        return True

    def gone(self) -> None:
        """Note that a connection is the pool's again, or was never opened."""
        if (turn := self._next_turn()) is not None:
            turn.set_result(None)
        else:
            self._out -= 1

    def _next_turn(self) -> asyncio.Future[LentConnection | None] | None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                return turn
        return None

    def _keep(self, lent: LentConnection) -> None:
        loop = asyncio.get_running_loop()
        self._free.append((loop.time(), lent))
        if self._looking is None:
            self._looking = loop.call_later(_IDLE_S, self._give_idle_back)

    async def give_all_back(self) -> None:
        """Return all that are free to the pool."""
        free, self._free = self._free, []
        for _, lent in free:
            self._begin_to_give_back(lent)
        if self._giving:
            await asyncio.wait(self._giving)

    def close(self) -> None:
        """Keep none any more."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _give_idle_back(self) -> None:
        loop = asyncio.get_running_loop()
        self._looking = None
        while self._free and self._free[0][0] <= loop.time() - _IDLE_S:
            self._begin_to_give_back(self._free.pop(0)[1])
        if self._free:
            self._looking = loop.call_at(self._free[0][0] + _IDLE_S, self._give_idle_back)

    def _begin_to_give_back(self, lent: LentConnection) -> None:
        async def give_back() -> None:
            await self._give_back(lent)

        task = asyncio.get_running_loop().create_task(give_back())
        self._giving.add(task)
        task.add_done_callback(self._given)

    def _given(self, task: asyncio.Task[None]) -> None:
        self._giving.discard(task)
        if self._out + len(self._giving) < self._size and (turn := self._next_turn()) is not None:
            self._out += 1
            turn.set_result(None)
