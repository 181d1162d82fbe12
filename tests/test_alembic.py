"""Alembic's autogeneration leaves the workflow tables alone, wherever they are and whatever they are called."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from workflow_runtime.errors import ConfigurationError
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_d1 import exclude_workflow_tables as exclude_sqlite_tables
from workflow_store_d1 import get_sqlalchemy_tables as sqlite_tables
from workflow_store_postgres import PostgresWorkflowStore, exclude_workflow_tables, get_sqlalchemy_tables

NAMES: list[Any] = [
    pytest.param(None, id="defaults"),
    pytest.param(
        {"runs": 'My "Runs"', "events": "select", "signal_deliveries": "Inbox", "timers": "t" * 63}, id="others"
    ),
]
STRICT = {"compare_type": True, "compare_server_default": True}


def compare(connection: sa.Connection, metadata: sa.MetaData, **options: Any) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection, opts=STRICT | options), metadata))


def postgres_engine(dsn: str) -> sa.Engine:
    return sa.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))


def compare_postgres(dsn: str, metadata: sa.MetaData, **options: Any) -> list[Any]:
    engine = postgres_engine(dsn)
    with engine.connect() as connection:
        found = compare(connection, metadata, **options)
    engine.dispose()
    return found


def hooks(excluded: Any) -> dict[str, Any]:
    return {"include_name": excluded.include_name, "include_object": excluded.include_object}


def kinds(changes: list[Any]) -> list[tuple[str, str]]:
    return sorted((change[0], change[1].name) for change in changes)


def app_metadata() -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True))
    return metadata


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> sa.Engine:
    return sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")


async def _make_sqlite(path: str, tables: Mapping[str, str] | None) -> None:
    async with SQLiteWorkflowStore.open(path, tables=tables) as store:
        await store.ensure_schema()


async def _make_postgres(dsn: str, schema: str | None, tables: Mapping[str, str] | None) -> None:
    async with PostgresWorkflowStore.connect(dsn, schema=schema, tables=tables) as store:
        await store.ensure_schema()


@pytest.mark.parametrize("registered", [False, True], ids=["apart", "in-the-apps-metadata"])
@pytest.mark.parametrize("hooked", [False, True], ids=["without-hooks", "with-hooks"])
@pytest.mark.parametrize("tables", NAMES)
async def test_nothing_is_generated_for_sqlite(
    sqlite_engine: sa.Engine, tables: Mapping[str, str] | None, hooked: bool, registered: bool
) -> None:
    await _make_sqlite(str(sqlite_engine.url.database), tables)
    metadata = app_metadata()
    if registered:
        sqlite_tables(metadata, tables)
    options = hooks(exclude_sqlite_tables(tables)) if hooked else {}
    with sqlite_engine.connect() as connection:
        changes = kinds(compare(connection, metadata, **options))
    if not hooked and not registered:
        assert len(changes) > 9, "without hooks Alembic drops what it does not know, or this test sees nothing"
        return
    assert changes == [("add_table", "orders")]


@pytest.mark.parametrize("registered", [False, True], ids=["apart", "in-the-apps-metadata"])
@pytest.mark.parametrize("hooked", [False, True], ids=["without-hooks", "with-hooks"])
@pytest.mark.parametrize("schema", [None, "Flows; all"])
@pytest.mark.parametrize("tables", NAMES)
async def test_nothing_is_generated_for_postgres(
    empty_dsn: str, tables: Mapping[str, str] | None, schema: str | None, hooked: bool, registered: bool
) -> None:
    await _make_postgres(empty_dsn, schema, tables)
    metadata = app_metadata()
    if registered:
        get_sqlalchemy_tables(metadata, schema, tables)
    options = hooks(exclude_workflow_tables(schema, tables)) if hooked else {}
    changes = kinds(compare_postgres(empty_dsn, metadata, include_schemas=True, **options))
    if not hooked and not registered:
        assert len(changes) > 9, "without hooks Alembic drops what it does not know, or this test sees nothing"
        return
    assert changes == [("add_table", "orders")]


async def test_tables_of_the_same_names_elsewhere_are_the_apps(empty_dsn: str) -> None:
    """Another schema's tables are compared as ever, and so is what the application has in its own."""
    await _make_postgres(empty_dsn, "flows", None)
    metadata = app_metadata()
    sa.Table("workflow_runs", metadata, sa.Column("id", sa.Integer, primary_key=True))
    for name in ("workflow_events", "invoices"):
        sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True), schema="books")
    engine = postgres_engine(empty_dsn)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA books")
        for table in ("books.workflow_events (id int)", "books.workflow_timers (id int)", "workflow_runs (id int)"):
            connection.exec_driver_sql(f"CREATE TABLE {table}")
    engine.dispose()
    hidden = hooks(exclude_workflow_tables("flows"))
    changes = compare_postgres(empty_dsn, metadata, include_schemas=True, **hidden)
    named = [change for change in changes if isinstance(change, tuple) and change[0] in {"add_table", "remove_table"}]
    tables = [(kind, table.schema, table.name) for kind, table in named]
    assert sorted(tables, key=str) == [
        ("add_table", "books", "invoices"),
        ("add_table", None, "orders"),
        ("remove_table", "books", "workflow_timers"),
    ]


@pytest.mark.parametrize("schema", [None, "flows"])
async def test_default_schema_may_be_ours(empty_dsn: str, schema: str | None) -> None:
    """Where the search_path of Alembic's connection leads to the tables, they have no schema's name there."""
    await _make_postgres(empty_dsn, "flows", None)
    changes = compare_postgres(
        f"{empty_dsn}?options=-csearch_path%3Dflows", app_metadata(), **hooks(exclude_workflow_tables(schema))
    )
    assert kinds(changes) == [("add_table", "orders")]


async def test_names_by_a_convention_are_the_apps_own(empty_dsn: str) -> None:
    """A MetaData that names constraints by a rule does not rename ours."""
    await _make_postgres(empty_dsn, None, None)
    rules = {"uq": "uq_%(table_name)s_%(column_0_name)s", "ix": "ix_%(column_0_label)s", "pk": "pk_%(table_name)s"}
    metadata = sa.MetaData(naming_convention=rules)
    get_sqlalchemy_tables(metadata)
    assert kinds(compare_postgres(empty_dsn, metadata)) == []


@pytest.mark.parametrize("hook", ["include_name", "include_object"])
async def test_each_hook_alone_keeps_the_tables(empty_dsn: str, hook: str) -> None:
    """Who gives only one of them loses nothing, in whatever schema the tables are."""
    await _make_postgres(empty_dsn, "flows", None)
    for hidden in (exclude_workflow_tables(), exclude_workflow_tables("flows")):
        changes = compare_postgres(empty_dsn, app_metadata(), include_schemas=True, **{hook: hooks(hidden)[hook]})
        assert kinds(changes) == [("add_table", "orders")]


@pytest.mark.parametrize(
    ("type_", "name", "schema", "kept"),
    [
        ("table", "workflow_runs", "flows", False),
        ("table", "workflow_runs", None, True),
        ("table", "workflow_runs", "other", True),
        ("table", "orders", "flows", True),
        ("column", "workflow_runs", "flows", True),
        ("schema", "flows", None, True),
    ],
)
def test_only_tables_are_hidden_by_name(type_: str, name: str, schema: str | None, kept: bool) -> None:
    hidden = exclude_workflow_tables("flows")
    assert hidden.include_name(name, type_, {"schema_name": schema}) is kept
    anywhere = exclude_workflow_tables()
    assert anywhere.include_name(name, type_, {"schema_name": schema}) is (type_ != "table" or name == "orders")


def test_names_that_cannot_work_are_refused() -> None:
    for exclude in (exclude_workflow_tables, exclude_sqlite_tables):
        with pytest.raises(ConfigurationError, match="there is no such table"):
            exclude(tables={"nothing": "x"})
    with pytest.raises(ConfigurationError, match="schema"):
        exclude_workflow_tables("")
