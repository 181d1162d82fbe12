"""The description of the tables is what a migrated database holds, and it can be read with SQLAlchemy."""

import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import MetaData, Table, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from workflow_migrations import DEFAULT_TABLES, ReadOnlyTableError
from workflow_runtime.errors import ConfigurationError
from workflow_runtime.payloads import JsonText
from workflow_store_postgres import PostgresWorkflowStore, get_sqlalchemy_tables, get_table_definitions

if TYPE_CHECKING:
    from conftest import Scenes

NAMES = [
    pytest.param(None, None, id="defaults"),
    pytest.param("Flows; all", {"runs": 'My "Runs"', "events": "log"}, id="others"),
]
COLUMNS = """
SELECT
    found.column_name::text AS name,
    found.data_type::text AS type,
    found.is_nullable = 'YES' AS nullable,
    EXISTS (
        SELECT 1
        FROM information_schema.table_constraints AS its
        INNER JOIN information_schema.key_column_usage AS used USING (constraint_schema, constraint_name)
        WHERE
            its.constraint_type = 'PRIMARY KEY'
            AND its.table_schema = found.table_schema
            AND its.table_name = found.table_name
            AND used.column_name = found.column_name
    ) AS primary_key
FROM information_schema.columns AS found
WHERE found.table_schema = $1 AND found.table_name = $2
ORDER BY found.ordinal_position
"""


@pytest.fixture
async def engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    yield engine
    await engine.dispose()


@pytest.mark.parametrize(("schema", "tables"), NAMES)
async def test_definitions_are_those_of_the_database(
    empty_dsn: str, schema: str | None, tables: dict[str, str] | None
) -> None:
    async with PostgresWorkflowStore.connect(empty_dsn, schema=schema, tables=tables) as store:
        await store.ensure_schema()
    definitions = get_table_definitions(schema, tables)
    connection = await asyncpg.connect(empty_dsn)
    try:
        for table in definitions:
            assert table.schema == schema
            found = await connection.fetch(COLUMNS, schema or "public", table.name)
            told = [(item.name, item.type, item.nullable, item.primary_key) for item in table.columns]
            assert [tuple(row) for row in found] == told
    finally:
        await connection.close()
    assert {table.key for table in definitions} == set(DEFAULT_TABLES.by_key())
    assert all(table.comment for table in definitions)


@pytest.mark.parametrize("arguments", [{"tables": {"nothing": "x"}}, {"schema": ""}])
def test_names_that_cannot_work(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        get_table_definitions(**arguments)
    with pytest.raises(ConfigurationError):
        get_sqlalchemy_tables(**arguments)


async def test_every_table_can_be_selected(scenes: "Scenes", engine: AsyncEngine) -> None:
    await scenes.waiting("a", "go")
    await scenes.store.deliver_signal(
        run_id="a", signal_id="s", name="go", payload=JsonText('{"odd":"\\u0000"}'), now_ms=5
    )
    tables = get_sqlalchemy_tables()
    assert list(tables) == [table.key for table in get_table_definitions()]
    async with engine.connect() as connection:
        counts = {
            key: await connection.scalar(select(func.count()).select_from(table)) for key, table in tables.items()
        }
        rows = {key: (await connection.execute(select(table))).mappings().first() for key, table in tables.items()}
    filled = {"schema_migrations", "runs", "run_states", "event_locks", "signal_deliveries"}
    assert {key for key, count in counts.items() if count} == filled
    head, delivery = rows["event_locks"], rows["signal_deliveries"]
    assert head is not None
    assert delivery is not None
    assert (head["status"], head["cancel_requested"]) == ("queued", False)
    assert delivery["payload"] == {"odd": "\0"}


@pytest.mark.parametrize(("schema", "tables"), NAMES)
async def test_joins_work_with_names_of_the_users_own(
    dsn: str, engine: AsyncEngine, schema: str | None, tables: dict[str, str] | None
) -> None:
    async with PostgresWorkflowStore.connect(dsn, schema=schema, tables=tables) as store:
        await store.ensure_schema()
        await store.create_run(
            run_id="a",
            workflow_id="ship",
            workflow_version="1",
            input=JsonText('{"order":1}'),
            operation_id="o",
            now_ms=1,
        )
    known: Mapping[str, Table] = get_sqlalchemy_tables(schema=schema, tables=tables)
    runs, states = known["runs"], known["run_states"]
    query = select(runs.c.workflow_id, states.c.input).join(states, states.c.run_id == runs.c.run_id)
    async with engine.connect() as connection:
        assert (await connection.execute(query)).all() == [("ship", {"order": 1})]


async def test_tables_are_neither_created_nor_dropped(engine: AsyncEngine, store: PostgresWorkflowStore) -> None:
    metadata = MetaData()
    tables = get_sqlalchemy_tables(metadata, schema="elsewhere")
    assert set(metadata.tables.values()) == set(tables.values())
    with pytest.raises(ReadOnlyTableError, match="migrations"):
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
    theirs = MetaData()
    get_sqlalchemy_tables(theirs)
    with pytest.raises(ReadOnlyTableError):
        async with engine.begin() as connection:
            await connection.run_sync(theirs.drop_all)
    await store.check_schema()


def test_package_does_not_import_sqlalchemy() -> None:
    script = (
        "import sys, workflow_store_postgres as w; w.get_table_definitions(); assert 'sqlalchemy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigurationError, match=r"workflow-store-postgres\[sqlalchemy\]"):
        get_sqlalchemy_tables()
