"""Sends named SQL to a pool of connections, and sends it again where that is the remedy."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from workflow_migrations import DEFAULT_TABLES, TableNames, render_sql
from workflow_runtime.store import ConfigurationError, Home, StoreUnavailableError, new_id
from workflow_store_sql import load_statements

from .connections import Connections
from .failures import SERIALIZATION_STATES, database_errors
from .lent_connection import LentConnection, Row

__all__ = ["MAX_TRIES", "HeldConnection", "Row", "Sender", "StatementSender", "wait_a_little"]

MAX_TRIES = 40
"""Number of times that a statement is sent which the server rolls back because of concurrent ones."""
_LONGEST_WAIT_S = 0.1
_READ_ONLY = "25006"


class Sender(Protocol):
    """An object that sends named SQL."""

    async def rows(self, name: str, *values: object) -> Sequence[Row]:
        """Run one named statement and give its rows."""
        ...


class StatementSender:
    """Connections, the names of the tables, and a source of lease tokens.

    A statement is a transaction of its own: no connection is held between two of them, so that a pool of one connection
    serves any number of tasks.

    Args:
        connections: Where statements go.
        home: Where the connections can be used.
        tables: The names to use.
        schema: Where the tables are; by default wherever the connection's search_path finds them.
        new_token: Makes a lease token that was never used before.
    """

    def __init__(
        self,
        connections: Connections,
        home: Home,
        tables: TableNames,
        schema: str | None,
        *,
        new_token: Callable[[], str] = new_id,
    ) -> None:
        self.connections = connections
        self.home = home
        self.tables = tables
        self.schema = schema
        self.new_token = new_token
        self.head_table: str = render_sql(DEFAULT_TABLES.event_locks, tables, schema=schema)
        """The head table as SQL names it."""
        self._sql = load_statements("workflow_store_postgres", tables, schema)
        self._closed = False

    def sql(self, name: str) -> str:
        """Return the text of one of the named statements."""
        return self._sql[name]

    async def rows(self, name: str, *values: object) -> Sequence[Row]:
        """Run one named statement as a transaction of its own.

        Raises:
            StoreError: The database could not do it.
            ConfigurationError: The store, or its pool, is closed.
        """
        sql = self._sql[name]
        for tries in range(1, MAX_TRIES + 1):
            try:
                return await self._fetch(sql, values)
            except StoreUnavailableError as error:
                if getattr(error.__cause__, "sqlstate", None) == _READ_ONLY:
                    # The server may have become a standby while its successor took over the name: connect anew.
                    await self.connections.expire()
                # Rolled back as a whole, so nothing can be done twice. No other failure is that certain.
                if tries == MAX_TRIES or getattr(error.__cause__, "sqlstate", None) not in SERIALIZATION_STATES:
                    raise
            await wait_a_little(tries)
        raise AssertionError("the last try returns or raises")

    async def rows_planned_for_values(self, name: str, *values: object) -> Sequence[Row]:
        """Run one named statement that reads, by a plan for just these values: the one plan for all is a bad one."""
        async with self.transaction() as connection:
            await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
            rows: Sequence[Row] = await connection.fetch(self._sql[name], *values)
            return rows

    async def settled(self, name: str, *values: object) -> Sequence[Row]:
        """Run a statement until it was not overtaken: until it did not have to wait for one that changed its facts.

        Raises:
            StoreUnavailableError: The run is being modified concurrently.
        """
        rows = await self.settled_soon(name, *values, tries=MAX_TRIES)
        if rows and rows[0]["overtaken"]:
            raise StoreUnavailableError("too many others write the same run or schedule")
        return rows

    async def settled_soon(self, name: str, *values: object, tries: int) -> Sequence[Row]:
        """As `settled`, but give the last answer when it was overtaken every time."""
        rows = await self.rows(name, *values)
        for tried in range(1, tries):
            if not rows or not rows[0]["overtaken"]:
                break
            await wait_a_little(tried)
            rows = await self.rows(name, *values)
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[LentConnection]:
        """Keep one connection for one transaction."""
        self.check_open()
        with database_errors():
            async with self.connections.lend() as connection:
                await connection.begin(isolation="read_committed")
                yield connection
                await connection.commit()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[HeldConnection]:
        """Keep one connection for somebody else's statements. What is raised inside passes as it is."""
        self.check_open()
        async with self.connections.lend() as connection:
            yield HeldConnection(connection, self._sql)

    def close(self) -> None:
        """Send nothing any more."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """True if it was closed."""
        return self._closed

    def check_open(self) -> None:
        """Raise unless statements can be sent, from where this is called.

        Raises:
            ConfigurationError: The store is closed, or belongs to another event loop or process.
        """
        self.home.check()
        if self._closed:
            raise ConfigurationError("the store is closed")

    async def _fetch(self, sql: str, values: Sequence[object]) -> Sequence[Row]:
        self.check_open()
        return await self.connections.fetch(sql, values)


class HeldConnection:
    """A connection that is held for a while. A statement that fails is not sent again."""

    def __init__(self, connection: LentConnection, sql: Mapping[str, str]) -> None:
        self.connection = connection
        self._sql = sql

    async def rows(self, name: str, *values: object) -> Sequence[Row]:
        """Run one named statement, in the transaction that is open."""
        with database_errors():
            return await self.connection.fetch(self._sql[name], *values)


async def wait_a_little(tries: int) -> None:
    """Back off for a random moment, so that two do not meet again and again."""
    longest = min(_LONGEST_WAIT_S, 0.001 * 2 ** min(tries, 10))
    await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  # no secret
