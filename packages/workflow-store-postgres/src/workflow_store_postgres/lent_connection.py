"""A connection of a pool, on which nobody waits for ever for a server that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import asyncpg
from workflow_runtime.store import StoreUnavailableError

from .deadlines import Deadline
from .failures import DATABASE_ERRORS

__all__ = ["GRACE_S", "LentConnection", "Row", "cut"]

Row: TypeAlias = Mapping[str, Any]
T = TypeVar("T")

GRACE_S = 1.0
"""The longest that the server takes to confirm that a statement is cancelled, or a session ended. Then the connection
is cut: the server may go on with the statement, and notices in the end that nobody listens.
"""


class LentConnection:
    """A connection of a pool, for a while. Each statement on it is answered in time, or is cancelled and fails.

    Args:
        connection: As its pool lends it.
        timeout_s: How long an answer may take.
    """

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self.raw = connection
        """The `asyncpg.Connection`, whose own calls may take as long as they like."""
        self.silent: bool = False
        """True if a statement was left without an answer."""
        self.uses: int = 0
        """Number of statements after which it was kept."""
        self._timeout_s = timeout_s
        self._transaction: Any = None

    @property
    def is_open(self) -> bool:
        """True if it can be used; one that the server has closed is the pool's again."""
        try:
            return not self.raw.is_closed()
        except asyncpg.InterfaceError:
            return False

    async def fetch(self, sql: str, *values: object) -> Sequence[Row]:
        """Run a statement and give its rows."""
        rows: Sequence[Row] = await self.within(self.raw.fetch(sql, *values))
        return rows

    async def fetchrow(self, sql: str, *values: object) -> Row:
        """Run a statement and give its first row."""
        row: Row = await self.within(self.raw.fetchrow(sql, *values))
        return row

    async def fetchval(self, sql: str, *values: object) -> Any:
        """Run a statement and give the first value of its first row."""
        return await self.within(self.raw.fetchval(sql, *values))

    async def execute(self, sql: str, *values: object, timeout_s: float | None = None) -> None:
        """Run a statement.

        Args:
            sql: The statement.
            values: Its parameters.
            timeout_s: How long its answer may take, where that is to be expected.
        """
        await self.within(self.raw.execute(sql, *values), timeout_s)

    async def begin(self, **options: Any) -> None:
        """Begin a transaction."""
        self._transaction = transaction = self.raw.transaction(**options)
        try:
            await self.within(transaction.start())
        except BaseException:
            self._transaction = None
            cut(self.raw)  # whether a transaction is open is not known
            raise

    async def commit(self) -> None:
        """Commit it. When no answer comes, it may be committed all the same."""
        transaction, self._transaction = self._transaction, None
        await self.within(transaction.commit())

    async def roll_back(self) -> None:
        """Undo it, if it is open. A connection that does not even do that in time is cut."""
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            return
        try:
            async with asyncio.timeout(GRACE_S):
                await transaction.rollback()
        except DATABASE_ERRORS:  # a lost connection has rolled back
            cut(self.raw)

    async def within(self, answer: Awaitable[T], timeout_s: float | None = None) -> T:
        """Wait for an answer, but not for ever.

        Raises:
            StoreUnavailableError: It did not come. Whether the statement was done is not known.
        """
        timeout_s = timeout_s or self._timeout_s
        try:
            async with Deadline(timeout_s):
                return await answer
        except TimeoutError as error:
            self.silent = True
            raise StoreUnavailableError(f"the server did not answer in time (at most {timeout_s:g} s)") from error


def cut(connection: asyncpg.Connection) -> None:
    """End a connection without waiting for anything."""
    with suppress(asyncpg.InterfaceError):  # it is back in its pool and may belong to somebody else
        connection.terminate()
