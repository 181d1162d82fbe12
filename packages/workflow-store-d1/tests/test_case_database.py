"""The database of the contract's cases: none of them sees what another has done."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from workflow_runtime.errors import SchemaMissingError
from workflow_runtime.payloads import JsonText
from workflow_store_d1 import D1WorkflowStore
from workflow_store_d1.local import LocalD1Database
from workflow_test_support.servers.case_database import CaseDatabase

CHANGES = {
    "table": "CREATE TABLE more (n)",
    "column": "ALTER TABLE workflow_runs ADD COLUMN more INTEGER",
    "index": "CREATE INDEX more ON workflow_runs (queue)",
    "lost index": "DROP INDEX workflow_runs_created",
    "trigger": "CREATE TRIGGER more AFTER INSERT ON workflow_runs BEGIN SELECT 1; END",
    "migrations": "DELETE FROM workflow_schema_migrations",
}
SCHEMA = "SELECT name, sql FROM sqlite_master ORDER BY name"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[LocalD1Database]:
    opened = await LocalD1Database.open(path)
    yield opened
    await opened.close()


async def everything(database: LocalD1Database) -> list[object]:
    """Give the schema and all rows."""
    schema = (await database.prepare(SCHEMA).all()).results
    tables = [row["name"] for row in schema if str(row["sql"]).startswith("CREATE TABLE")]
    rows = [(await database.prepare(f'SELECT * FROM "{name}"').all()).results for name in tables]
    return [schema, *rows]


async def test_next_case_gets_the_same_tables_without_rows(database: LocalD1Database) -> None:
    tables, store = CaseDatabase(), D1WorkflowStore(database)
    await tables.afresh(database, with_tables=True)
    before = await everything(database)
    await store.create_run(
        run_id="a", workflow_id="w", workflow_version="1", input=JsonText("1"), operation_id="o", now_ms=1
    )
    await database.prepare("INSERT INTO business VALUES ('sale')").run()
    await tables.afresh(database, with_tables=True)
    assert await everything(database) == before
    await store.check_schema()


@pytest.mark.parametrize("what", CHANGES)
async def test_tables_that_were_changed_are_made_anew(database: LocalD1Database, what: str) -> None:
    tables = CaseDatabase()
    await tables.afresh(database, with_tables=True)
    before = (await database.prepare(SCHEMA).all()).results
    await database.prepare(CHANGES[what]).run()
    await tables.afresh(database, with_tables=True)
    assert (await database.prepare(SCHEMA).all()).results == before
    await D1WorkflowStore(database).check_schema()


async def test_case_that_makes_the_tables_itself_finds_none(database: LocalD1Database) -> None:
    tables = CaseDatabase()
    for _ in range(2):
        await tables.afresh(database, with_tables=True)
        await tables.afresh(database, with_tables=False)
        assert [row["name"] for row in (await database.prepare(SCHEMA).all()).results] == ["business"]
        with pytest.raises(SchemaMissingError):
            await D1WorkflowStore(database).check_schema()
