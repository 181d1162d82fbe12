"""The database's own history: triggers write down, in the unit that does it, each settled tick and each run's life.

An entry's number is drawn inside its unit. A unit that counts a run as ended has seen the unit that ended it committed,
so its number is the greater one: the order of the numbers tells which runs were live at once, and no clock is asked.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import asyncpg
from workflow_runtime import WorkflowExecutionStore
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore

__all__ = ["Database", "PostgresDatabase", "SQLiteDatabase", "database_at"]

_TERMINAL = "('finished', 'errored', 'aborted', 'dead')"
_BORN = "('born', NEW.run_id, NULL, NULL)"
_ENDED = "('ended', NEW.run_id, NULL, NEW.status)"
_SETTLED = "('settled', NEW.schedule_id, NEW.settled_fire_at, NEW.settled_outcome)"
_ENDS = f"OLD.status NOT IN {_TERMINAL} AND NEW.status IN {_TERMINAL}"
_SETTLES = "NEW.settled_operation_id {differs} OLD.settled_operation_id"
_TRIGGERS = (
    ("born", "INSERT ON workflow_event_locks", "true", _BORN),
    ("ended", "UPDATE ON workflow_event_locks", _ENDS, _ENDED),
    ("settled", "UPDATE ON workflow_schedules", _SETTLES, _SETTLED),
)
_COLUMNS = "what text NOT NULL, subject text NOT NULL, fire_at bigint, outcome text"


class Database(ABC):
    """One database with a store in it, looked at from beside the store."""

    @abstractmethod
    def open_store(self) -> AbstractAsyncContextManager[WorkflowExecutionStore]:
        """Open the store."""

    @abstractmethod
    async def keep_ledger(self) -> None:
        """Begin to write down the history."""

    @abstractmethod
    async def fetch(self, sql: str) -> Sequence[dict[str, Any]]:
        """Read rows."""


class PostgresDatabase(Database):
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def open_store(self) -> AbstractAsyncContextManager[WorkflowExecutionStore]:
        return PostgresWorkflowStore.connect(self._dsn, max_size=4)

    async def keep_ledger(self) -> None:
        await self._execute(f"CREATE TABLE ledger (seq bigserial PRIMARY KEY, {_COLUMNS})")
        for name, event, condition, entry in _TRIGGERS:
            await self._execute(
                f"CREATE FUNCTION note_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"INSERT INTO ledger (what, subject, fire_at, outcome) VALUES {entry}; RETURN NULL; END $$"
            )
            when = condition.format(differs="IS DISTINCT FROM")
            await self._execute(
                f"CREATE TRIGGER {name} AFTER {event} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION note_{name}()"
            )

    async def fetch(self, sql: str) -> Sequence[dict[str, Any]]:
        connection = await asyncpg.connect(self._dsn)
        try:
            return [dict(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def _execute(self, sql: str) -> None:
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


class SQLiteDatabase(Database):
    def __init__(self, path: Path) -> None:
        self._path = path

    def open_store(self) -> AbstractAsyncContextManager[WorkflowExecutionStore]:
        return SQLiteWorkflowStore.open(self._path, synchronous="NORMAL")

    async def keep_ledger(self) -> None:
        with closing(self._connect()) as connection:
            connection.execute(f"CREATE TABLE ledger (seq INTEGER PRIMARY KEY AUTOINCREMENT, {_COLUMNS})")
            for name, event, condition, entry in _TRIGGERS:
                connection.execute(
                    f"CREATE TRIGGER {name} AFTER {event} WHEN {condition.format(differs='IS NOT')} BEGIN "
                    f"INSERT INTO ledger (what, subject, fire_at, outcome) VALUES {entry}; END"
                )

    async def fetch(self, sql: str) -> Sequence[dict[str, Any]]:
        with closing(self._connect()) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql)]

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30, isolation_level=None)


def database_at(address: str) -> Database:
    """Open what an address names: a PostgreSQL server, or else a file."""
    return PostgresDatabase(address) if address.startswith("postgres") else SQLiteDatabase(Path(address))
