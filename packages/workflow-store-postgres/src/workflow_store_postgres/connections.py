"""Connections of a pool, lent so that nobody waits for ever for a server that does not answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg
from workflow_runtime.store import StoreUnavailableError

from .failures import DATABASE_ERRORS, database_errors, opening_error
from .inherited import Inherited
from .kept_connections import KeptConnections
from .lent_connection import GRACE_S, LentConnection, Row, cut

__all__ = ["MOMENT_S", "Connections", "close_or_cut", "in_time"]

T = TypeVar("T")

MOMENT_S = 0.25
"""The longest that a cancelled caller waits for the server to confirm: where the server is well, nothing of the
caller's goes on afterwards.
"""


class Connections:
    """The connections of a pool, lent one by one.

    A caller that is cancelled, or gives a statement up, returns after a moment. What is left to be done with the
    connection (asyncpg asks the server to cancel the statement, and waits for its word) goes on afterwards, and not for
    long.

    Args:
        pool: An `asyncpg.Pool`.
        acquire_timeout_s: How long to wait for a free connection.
        statement_timeout_s: How long an answer may take.
    """

    def __init__(self, pool: asyncpg.Pool, *, acquire_timeout_s: float, statement_timeout_s: float) -> None:
        self._pool = pool
        self._kept: KeptConnections | None = None
        self._inherited = Inherited(pool)
        self._acquire_timeout_s = acquire_timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._leaving: set[asyncio.Task[None]] = set()
        self.on_silence: set[Callable[[], None]] = set()
        """Called when the server has left a statement without an answer: other connections may be dead as well."""

    def keep(self) -> None:
        """Keep connections that are free, instead of giving them back each time: nobody else uses the pool.

        The pool's way out and in takes two tasks, which is more than the statement costs in this process.
        """
        self._kept = KeptConnections(self._pool.get_max_size(), self._release)

    async def fetch(self, sql: str, values: Sequence[object]) -> Sequence[Row]:
        """Run one statement on any connection."""
        lent = await self._take()
        try:
            with database_errors():
                rows = await lent.fetch(sql, *values)
        except BaseException as error:
            await self._take_back_after(lent, error)
            raise
        # The statement has left nothing behind that would have to be cleaned up.
        if self._kept is None or not self._kept.add(lent):
            await self._take_back(lent)
        return rows

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[LentConnection]:
        """Lend a connection. A transaction that is open at the end is rolled back."""
        lent = await self._take()
        try:
            yield lent
        except BaseException as error:
            await self._take_back_after(lent, error)
            raise
        await self._take_back(lent)

    async def expire(self) -> None:
        """Have every connection made anew before it is used again."""
        await self._pool.expire_connections()
        if self._kept is not None:
            await self._kept.give_all_back()

    async def settle(self) -> None:
        """Wait until nothing goes on any more with the connections that were given up; it takes a second or two."""
        if self._kept is not None:
            self._kept.close()
            await self._kept.give_all_back()
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=2 * GRACE_S)

    async def _take(self) -> LentConnection:
        if self._kept is not None and (lent := await self._kept.take(self._acquire_timeout_s)) is not None:
            return lent
        try:
            # The pool may run its user's functions here, so the wait is bounded.
            connection = await in_time(
                self._pool.acquire(),
                self._acquire_timeout_s,
                problem="no free connection",
                undo=lambda connection: self._leave(self._lent(connection)),
            )
        except BaseException:
            self._gone()
            raise
        return self._lent(connection)

    def _gone(self) -> None:
        if self._kept is not None:
            self._kept.gone()

    def _lent(self, connection: Any) -> LentConnection:
        return LentConnection(connection, self._statement_timeout_s)

    async def _take_back(self, lent: LentConnection) -> None:
        try:
            await self._release(lent)
        finally:
            self._gone()

    async def _release(self, lent: LentConnection) -> None:
        with suppress(*DATABASE_ERRORS):  # the work is done; the pool discards a connection that cannot be cleaned
            await self._pool.release(lent.raw, timeout=self._statement_timeout_s)

    async def _take_back_after(self, lent: LentConnection, error: BaseException) -> None:
        if lent.silent:
            for notice in tuple(self.on_silence):
                notice()
        if isinstance(error, asyncpg.PostgresError) or isinstance(error.__cause__, asyncpg.PostgresError):
            try:
                await lent.roll_back()  # an error from the server: the connection works
            finally:
                await self._take_back(lent)
        else:
            left = self._leave(lent)
            left.add_done_callback(lambda _: self._gone())
            await asyncio.wait([left], timeout=MOMENT_S)

    def _leave(self, lent: LentConnection) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._clean_up(lent))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task

    async def _clean_up(self, lent: LentConnection) -> None:
        try:
            async with asyncio.timeout(3 * GRACE_S):  # asyncpg 0.30 does not always honour its own timeout
                await lent.roll_back()
                await self._pool.release(lent.raw, timeout=GRACE_S)
        except DATABASE_ERRORS:
            pass
        finally:
            cut(lent.raw)  # does nothing if the connection is back in its pool


async def close_or_cut(connection: asyncpg.Connection) -> None:
    """End a session politely if that is quick, else by force."""
    try:
        async with asyncio.timeout(GRACE_S):
            await connection.close()
    except DATABASE_ERRORS:
        cut(connection)


async def in_time(opening: Awaitable[T], timeout_s: float, *, problem: str, undo: Callable[[T], object]) -> T:
    """Wait for a connection, or for what opens one, but not for ever, and not for its end when that is too late.

    Args:
        opening: What may take too long.
        timeout_s: How long it may take.
        problem: What is wrong when it does.
        undo: Called with what it gives when nobody waits for that any more.

    Raises:
        StoreError: It took too long, or a connection cannot be opened.
        ConfigurationError: A connection cannot be opened like this.
    """
    task = _started(opening)
    try:
        if not task.done():
            await asyncio.wait([task], timeout=timeout_s)
    except asyncio.CancelledError:
        _abandon(task, undo)
        raise
    if not task.done():
        _abandon(task, undo)
        raise StoreUnavailableError(f"{problem} within {timeout_s:g} s")
    if task.cancelled():
        raise StoreUnavailableError(f"{problem}: the program is ending")
    error = task.exception()
    if error is not None:
        raise opening_error(error)
    return task.result()


def _abandon(task: asyncio.Task[T], undo: Callable[[T], object]) -> None:
    def end(ended: asyncio.Task[T]) -> None:
        if not ended.cancelled() and ended.exception() is None:
            undo(ended.result())

    task.cancel()
    task.add_done_callback(end)


def _started(opening: Awaitable[T]) -> asyncio.Task[T]:
    async def open_it() -> T:
        return await opening

    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        # A free connection is given without a turn of the loop.
        return asyncio.Task(open_it(), loop=loop, eager_start=True)
    return loop.create_task(open_it())
