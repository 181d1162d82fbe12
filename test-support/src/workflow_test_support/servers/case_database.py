"""A database of D1's that serves one case of the contract after the other, in Pyodide and elsewhere.

On D1, making the tables takes longer than most cases do, and emptying them a tenth of that.
"""

from __future__ import annotations

from typing import Any

from workflow_store_d1 import D1WorkflowStore
from workflow_store_d1.database import D1Database

__all__ = ["BUSINESS", "CaseDatabase"]

BUSINESS = "CREATE TABLE business (key TEXT NOT NULL)"
_MIGRATIONS = "workflow_schema_migrations"
_SCHEMA = """
SELECT name, type, sql
FROM sqlite_master
WHERE substr(name, 1, 4) <> '_cf_' AND substr(name, 1, 7) <> 'sqlite_'
ORDER BY name
"""


class CaseDatabase:
    """The memory of how the tables of one database were made, from the first case on."""

    def __init__(self) -> None:
        self._made: list[dict[str, Any]] | None = None
        self._applied: list[dict[str, Any]] = []

    async def afresh(self, database: D1Database, *, with_tables: bool) -> None:
        """Leave the store's tables and one of the business without rows.

        Args:
            database: The database.
            with_tables: False if the case makes the store's tables itself.
        """
        schema = await self._rows(database, _SCHEMA)
        if with_tables and schema == self._made and await self._read_applied(database) == self._applied:
            kept = [row["name"] for row in schema if row["type"] == "table" and row["name"] != _MIGRATIONS]
            await database.batch([database.prepare(f'DELETE FROM "{name}"') for name in kept])
            return
        # A case has changed more than rows, or none was there before.
        drops = [f'DROP TABLE "{row["name"]}"' for row in schema if row["type"] == "table"]
        await database.batch([database.prepare(sql) for sql in (*drops, BUSINESS)])
        if with_tables:
            await D1WorkflowStore(database).ensure_schema()
            self._made = await self._rows(database, _SCHEMA)
            self._applied = await self._read_applied(database)

    async def _read_applied(self, database: D1Database) -> list[dict[str, Any]]:
        return await self._rows(database, f"SELECT * FROM {_MIGRATIONS} ORDER BY migration_id")

    async def _rows(self, database: D1Database, sql: str) -> list[dict[str, Any]]:
        return [dict(row) for row in (await database.prepare(sql).all()).results]
