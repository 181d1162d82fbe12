"""Sends named SQL to a database. The one place where a database's errors become the contract's."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from workflow_migrations import DEFAULT_TABLES, TableNames, load_queries, render_sql
from workflow_runtime.errors import (
    ConfigurationError,
    SchemaMissingError,
    StoreError,
    StoreOperationError,
    StoreUnavailableError,
)
from workflow_runtime.ids import new_id

from .database import D1Database, D1DatabaseError, D1PreparedStatement, D1Result, D1Value, Row

__all__ = ["REMEDY", "SendBatch", "Session", "json_list", "store_error"]

REMEDY = "run `await store.ensure_schema()`, or apply the .sql files in the package's folder `migrations`"

SendBatch: TypeAlias = Callable[[Sequence[D1PreparedStatement]], Awaitable[Sequence[D1Result]]]


class Session:
    """A database, the names of its tables, and a source of lease tokens.

    Args:
        database: Where the statements go.
        tables: The names to use.
        new_token: Makes a lease token that was never used before.
    """

    def __init__(self, database: D1Database, tables: TableNames, *, new_token: Callable[[], str] = new_id) -> None:
        self.tables = tables
        self.new_token = new_token
        self._database = database
        self._sql = _queries(tables)
        self._closed = False

    @property
    def database(self) -> D1Database:
        """Where the statements go."""
        return self._database

    def statement(self, name: str, *values: D1Value) -> D1PreparedStatement:
        """Make one of the named statements."""
        return self.prepare(self._sql[name], *values)

    def prepare(self, sql: str, *values: D1Value) -> D1PreparedStatement:
        """Make a statement of SQL text.

        Raises:
            ConfigurationError: The store is closed.
        """
        if self._closed:
            raise ConfigurationError("the store is closed")
        try:
            return self._database.prepare(sql).bind(*values)
        except D1DatabaseError as error:
            raise store_error(error) from error

    async def rows(self, name: str, *values: D1Value) -> Sequence[Row]:
        """Run one named statement as a unit of its own."""
        statement = self.statement(name, *values)
        try:
            return (await statement.all()).results
        except D1DatabaseError as error:
            raise store_error(error) from error

    async def batch(
        self, statements: Sequence[D1PreparedStatement], send: SendBatch | None = None
    ) -> list[Sequence[Row]]:
        """Run statements in order as one unit and give the rows of each.

        Args:
            statements: What to run.
            send: How; as the database's batch when absent.
        """
        try:
            return [result.results for result in await (send or self._database.batch)(statements)]
        except D1DatabaseError as error:
            raise store_error(error) from error

    def close(self) -> None:
        """Make no statement any more."""
        self._closed = True


def json_list(items: Iterable[object] | None) -> str | None:
    """Write a list as one parameter; `None` stays `None`. Ids are valid Unicode: no escapes are needed."""
    return None if items is None else json.dumps(list(items), ensure_ascii=False, separators=(",", ":"))


def store_error(error: D1DatabaseError) -> StoreError:
    """Say a database's error in the contract's words."""
    if error.unavailable:
        return StoreUnavailableError(error.problem)
    if "no such table" in error.problem:
        return SchemaMissingError(REMEDY)
    return StoreOperationError(error.problem)


@lru_cache(maxsize=8)
def _queries(tables: TableNames) -> Mapping[str, str]:
    queries = load_queries("workflow_store_d1")
    if tables == DEFAULT_TABLES:
        return {name: query.sql for name, query in queries.items()}
    return {name: render_sql(query.sql, tables) for name, query in queries.items()}
