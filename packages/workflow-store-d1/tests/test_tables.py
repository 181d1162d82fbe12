"""The description of the tables is what a migrated database holds, and it can be read with SQLAlchemy."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import MetaData, create_engine, func, select
from workflow_migrations import DEFAULT_TABLES, ReadOnlyTableError
from workflow_runtime.errors import ConfigurationError
from workflow_runtime.payloads import JsonText
from workflow_store_d1 import SQLiteWorkflowStore, get_sqlalchemy_tables, get_table_definitions

NAMES = [pytest.param(None, id="defaults"), pytest.param({"runs": 'My "Runs"', "events": "log"}, id="others")]


async def make(path: Path, tables: dict[str, str] | None) -> None:
    async with SQLiteWorkflowStore.open(path, tables=tables) as store:
        await store.ensure_schema()
        await store.create_run(
            run_id="a",
            workflow_id="ship",
            workflow_version="1",
            input=JsonText('{"order":1}'),
            operation_id="o",
            now_ms=1,
        )


@pytest.mark.parametrize("tables", NAMES)
async def test_definitions_are_those_of_the_database(path: Path, tables: dict[str, str] | None) -> None:
    await make(path, tables)
    definitions = get_table_definitions(tables)
    connection = sqlite3.connect(path)
    for table in definitions:
        found = connection.execute(
            'SELECT name, type, NOT "notnull", pk > 0 FROM pragma_table_xinfo(?) ORDER BY cid', (table.name,)
        ).fetchall()
        assert found == [(item.name, item.type, item.nullable, item.primary_key) for item in table.columns]
        assert table.schema is None
    connection.close()
    assert {table.key for table in definitions} == set(DEFAULT_TABLES.by_key())
    assert all(table.comment for table in definitions)


@pytest.mark.parametrize("tables", NAMES)
async def test_tables_can_be_selected_and_joined(path: Path, tables: dict[str, str] | None) -> None:
    await make(path, tables)
    known = get_sqlalchemy_tables(tables=tables)
    runs, states = known["runs"], known["run_states"]
    query = select(runs.c.workflow_id, states.c.input).join(states, states.c.run_id == runs.c.run_id)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert connection.execute(query).all() == [("ship", '{"order":1}')]
        counts = {key: connection.scalar(select(func.count()).select_from(table)) for key, table in known.items()}
        for table in known.values():
            connection.execute(select(table)).all()
    engine.dispose()
    filled = {"schema_migrations", "runs", "run_states", "event_locks"}
    assert {key for key, count in counts.items() if count} == filled
    assert counts.keys() == DEFAULT_TABLES.by_key().keys()


async def test_tables_are_neither_created_nor_dropped(path: Path, tmp_path: Path) -> None:
    await make(path, None)
    metadata = MetaData()
    get_sqlalchemy_tables(metadata)
    missing, present = (create_engine(f"sqlite:///{file}") for file in (tmp_path / "other.db", path))
    with pytest.raises(ReadOnlyTableError, match="migrations"):
        metadata.create_all(missing)
    with pytest.raises(ReadOnlyTableError):
        metadata.drop_all(present)
    missing.dispose()
    present.dispose()
    async with SQLiteWorkflowStore.open(path) as store:
        await store.check_schema()


def test_names_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError):
        get_table_definitions({"nothing": "x"})


def test_package_does_not_import_sqlalchemy() -> None:
    script = "import sys, workflow_store_d1 as w; w.get_table_definitions(); assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigurationError, match=r"workflow-store-d1\[sqlalchemy\]"):
        get_sqlalchemy_tables()
