"""A `D1Database` for CPython whose calls are made inside workerd, on the binding of a real D1.

Values and rows travel as JSON, which is what JavaScript's numbers allow.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from workflow_store_d1 import D1DatabaseError, D1PreparedStatement, D1WorkflowStore
from workflow_store_d1.database import D1Value
from workflow_store_d1.failures import failure
from workflow_store_d1.javascript import EXACT, as_read

__all__ = ["WorkerD1Database", "WorkerResult", "WorkerStatement", "open_empty", "open_store"]

_TIMEOUT_S = 60
_IDLE_S = 2
"""workerd closes a connection that is idle for five seconds."""


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """The outcome of one statement, with all that D1 tells besides."""

    results: list[dict[str, Any]]
    meta: Mapping[str, Any]


class WorkerStatement:
    """One statement with its values."""

    def __init__(self, database: WorkerD1Database, sql: str, values: tuple[D1Value, ...] = ()) -> None:
        self._database = database
        self.sql = sql
        self.values = values

    def bind(self, *values: D1Value) -> Self:
        """Return a statement of the same text with these values."""
        return type(self)(self._database, self.sql, values)

    async def all(self) -> WorkerResult:
        """Run it as a transaction of its own and give its rows."""
        (result,) = await self._database.call("all", [self])
        return result

    async def run(self) -> WorkerResult:
        """Run it as a transaction of its own."""
        (result,) = await self._database.call("run", [self])
        return result


class WorkerD1Database:
    """One handle on a database of workerd's. It keeps its connections; any event loop may use it.

    Args:
        url: Where workerd listens.
        name: The name of the binding.
    """

    def __init__(self, url: str, name: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port)
        self._path = f"/binding/{name}"
        self._idle: list[tuple[HTTPConnection, float]] = []

    def prepare(self, sql: str) -> WorkerStatement:
        """Make a statement of SQL text."""
        return WorkerStatement(self, sql)

    async def batch(self, statements: Sequence[D1PreparedStatement]) -> list[WorkerResult]:
        """Run statements in order as one transaction: all or none."""
        mine = [statement for statement in statements if isinstance(statement, WorkerStatement)]
        assert len(mine) == len(statements)
        return await self.call("batch", mine)

    async def call(
        self, mode: Literal["all", "run", "batch"], statements: Sequence[WorkerStatement]
    ) -> list[WorkerResult]:
        """Make one call of the binding."""
        listed = [{"sql": one.sql, "values": [_sent(value) for value in one.values]} for one in statements]
        answer = await asyncio.to_thread(self._exchange, json.dumps({"mode": mode, "statements": listed}))
        if "error" in answer:
            raise failure(answer["error"])
        return [WorkerResult([_received(row) for row in one["results"]], one["meta"]) for one in answer["results"]]

    async def empty(self) -> None:
        """Drop every table."""
        found = await self.prepare(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB '_cf_*'"
        ).all()
        drops = [self.prepare(f'DROP TABLE "{row["name"]}"') for row in found.results]
        if drops:
            await self.batch(drops)

    def close(self) -> None:
        """End the connections that are idle, which all are when no call is under way."""
        while self._idle:
            self._idle.pop()[0].close()

    def _exchange(self, body: str) -> dict[str, Any]:
        """Send one request, on a thread; a task that is cancelled meanwhile leaves the connection in order."""
        connection = self._connection()
        try:
            connection.request("POST", self._path, body)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError | HTTPException):
                raise D1DatabaseError(str(error), unavailable=True, outcome_unknown=True) from error
            raise
        self._idle.append((connection, time.monotonic()))
        return answer

    def _connection(self) -> HTTPConnection:
        while self._idle:
            connection, used_at = self._idle.pop()
            if time.monotonic() - used_at < _IDLE_S:
                return connection
            connection.close()
        return HTTPConnection(*self._address, timeout=_TIMEOUT_S)


@asynccontextmanager
async def open_empty(url: str, name: str = "DB") -> AsyncIterator[WorkerD1Database]:
    """Open a database of workerd's and drop what is in it."""
    database = WorkerD1Database(url, name)
    try:
        await database.empty()
        yield database
    finally:
        database.close()


@asynccontextmanager
async def open_store(url: str, name: str) -> AsyncIterator[D1WorkflowStore]:
    """Open a store on a database of workerd's, also from another process."""
    database = WorkerD1Database(url, name)
    try:
        async with D1WorkflowStore(database) as store:
            yield store
    finally:
        database.close()


def _sent(value: D1Value) -> object:
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, int) and abs(value) > EXACT:
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    return value


def _received(row: dict[str, Any]) -> dict[str, Any]:
    return {name: bytes(value) if isinstance(value, list) else as_read(value) for name, value in row.items()}
