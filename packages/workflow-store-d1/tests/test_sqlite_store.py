"""A user of a SQLite file reads of SQLite: the store on it has its own name, and no text names D1."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_runtime.errors import ConfigurationError, SchemaBehindError, WorkflowError
from workflow_runtime.payloads import JsonText
from workflow_store_d1 import D1WorkflowStore, SQLiteWorkflowStore, get_migrations, schema
from workflow_store_d1.local import LocalD1Database
from workflow_store_sql import StoreOpening

NEW_RUN: dict[str, Any] = {
    "run_id": "a",
    "workflow_id": "w",
    "workflow_version": "1",
    "input": JsonText("1"),
    "operation_id": "o",
    "now_ms": 1,
}


def run_script(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def texts_of(error: BaseException | None) -> list[str]:
    """Return what an error says, and what its causes do."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    return texts


async def test_store_says_what_it_is(path: Path) -> None:
    async with SQLiteWorkflowStore.open(path) as store:
        assert type(store) is SQLiteWorkflowStore
        assert repr(store) == f"<SQLiteWorkflowStore {str(path)!r}>"
    assert repr(store) == f"<SQLiteWorkflowStore {str(path)!r}>"


async def test_store_on_a_database_of_the_callers_own_says_what_it_is() -> None:
    class Wrapped:
        def __init__(self, inner: LocalD1Database) -> None:
            self.prepare, self.batch = inner.prepare, inner.batch

    database = await LocalD1Database.open(":memory:")
    assert repr(SQLiteWorkflowStore(database)) == "<SQLiteWorkflowStore ':memory:'>"
    assert repr(SQLiteWorkflowStore(cast("Any", Wrapped(database)))) == "<SQLiteWorkflowStore>"
    await database.close()


async def test_it_is_the_d1_store_on_a_file(path: Path) -> None:
    """Both names open a file, each gives its own class, and what is written by one is there for the other."""
    assert issubclass(SQLiteWorkflowStore, D1WorkflowStore)
    opening: StoreOpening[D1WorkflowStore] = SQLiteWorkflowStore.open(path)
    async with opening as sqlite, D1WorkflowStore.open(path) as d1:
        assert type(d1) is D1WorkflowStore
        await sqlite.ensure_schema()
        await sqlite.create_run(**NEW_RUN)
        assert await d1.load_run(run_id="a") is not None
        async with sqlite.open_heartbeats() as renewer:
            assert type(renewer) is SQLiteWorkflowStore


async def open_with(path: Path, **options: Any) -> None:
    async with SQLiteWorkflowStore.open(path, **options):
        pass


async def call_unopened(path: Path) -> None:
    await cast("Any", SQLiteWorkflowStore.open(path)).ensure_schema()


async def call_the_class(path: Path) -> None:
    SQLiteWorkflowStore(cast("Any", path))


async def open_a_folder(path: Path) -> None:
    await open_with(path.parent)


async def open_a_text(path: Path) -> None:
    path.write_text("no database, but a text that is long enough to be read as one" * 100)
    await open_with(path)


async def call_in_another_loop(path: Path) -> None:
    async with SQLiteWorkflowStore.open(path) as store:
        await asyncio.to_thread(asyncio.run, cast("Any", store.load_run(run_id="a")))


async def call_closed(path: Path) -> None:
    store = await SQLiteWorkflowStore.open(path)
    await store.close()
    await store.load_run(run_id="a")


async def call_in_its_transaction(path: Path) -> None:
    async with SQLiteWorkflowStore.open(path) as store:
        database = cast("LocalD1Database", store.database)
        async with database.interactive() as transaction:
            await transaction.run([database.prepare("SELECT 1")])
            await store.load_run(run_id="a")


async def lose_the_file(path: Path) -> None:
    async with SQLiteWorkflowStore.open(path) as store:
        await store.ensure_schema()
        path.unlink()
        await store.create_run(**NEW_RUN)


async def read_without_tables(path: Path) -> None:
    async with SQLiteWorkflowStore.open(path) as store:
        await store.load_run(run_id="a")


async def check_without_tables(path: Path) -> None:
    async with SQLiteWorkflowStore.open(path) as store:
        await store.check_schema()


async def check_a_newer_file(path: Path) -> None:
    async with SQLiteWorkflowStore.open(path) as store:
        await store.ensure_schema()
        run_script(
            path,
            "INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, applied_at) "
            "VALUES ('0099_later', 'workflow-store-d1', '9', 1)",
        )
        await store.check_schema()


async def check_foreign_tables(path: Path) -> None:
    run_script(path, "CREATE TABLE workflow_runs (id INTEGER)")
    async with SQLiteWorkflowStore.open(path) as store:
        await store.ensure_schema()


async def write_what_is_too_large(path: Path) -> None:
    async with SQLiteWorkflowStore.open(path) as store:
        await store.ensure_schema()
        await store.create_run(**NEW_RUN | {"input": JsonText('"' + "x" * 1_000_000 + '"')})


MISTAKES: dict[str, Callable[[Path], Awaitable[None]]] = {
    "the class is called with a path": call_the_class,
    "the store is not opened": call_unopened,
    "no path": lambda path: open_with(cast("Any", "")),
    "no duration": lambda path: open_with(path, busy_timeout=5),
    "no way to be synchronous": lambda path: open_with(path, synchronous="OFF"),
    "payloads that SQLite cannot carry": lambda path: open_with(path, max_payload_bytes=10**12),
    "no key of a table": lambda path: open_with(path, tables={"run": "runs"}),
    "a folder": open_a_folder,
    "a file that is no database": open_a_text,
    "another event loop": call_in_another_loop,
    "a closed store": call_closed,
    "its own transaction": call_in_its_transaction,
    "a lost file": lose_the_file,
    "no tables at a call": read_without_tables,
    "no tables at the start": check_without_tables,
    "a newer file": check_a_newer_file,
    "tables of somebody else": check_foreign_tables,
    "too large a payload": write_what_is_too_large,
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_no_error_names_d1(path: Path, mistake: str) -> None:
    with pytest.raises(WorkflowError) as raised:
        await MISTAKES[mistake](path)
    assert [text for text in texts_of(raised.value) if "D1" in text] == []


async def test_error_about_a_missing_migration_does_not_name_d1(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteWorkflowStore.open(path) as store:
        await store.ensure_schema()
        released = get_migrations()
        later = replace(released[-1], migration_id="0007_later", number=7)
        monkeypatch.setattr(schema, "get_migrations", lambda: (*released, later))
        with pytest.raises(SchemaBehindError) as raised:
            await store.check_schema()
    assert [text for text in texts_of(raised.value) if "D1" in text] == []


async def test_handler_that_uses_the_store_does_not_read_of_d1(path: Path) -> None:
    async def refusal_of(call: Callable[[], Awaitable[object]]) -> str:
        with pytest.raises(ConfigurationError) as raised:
            await call()
        return str(raised.value)

    @workflow()
    async def uses_the_store(ctx: Context, _: None) -> list[str]:
        calls: list[Callable[[], Awaitable[object]]] = [
            store.ensure_schema,
            store.check_schema,
            store.read_clock,
            store.close,
            lambda: store.load_run(run_id="a"),
            store.database.prepare("SELECT 1").run,
        ]
        return [await refusal_of(call) for call in calls]

    async with SQLiteWorkflowStore.open(path) as store:
        await store.ensure_schema()
        handle = await WorkflowRuntime(store=store, workflows=[uses_the_store]).run_here(uses_the_store, None)
        texts = await handle.result()
    assert [text for text in texts if "D1" in text] == []
    assert [text.partition(" ")[0] for text in texts[:4]] == [
        "SQLiteWorkflowStore.ensure_schema()",
        "SQLiteWorkflowStore.check_schema()",
        "SQLiteWorkflowStore.read_clock()",
        "SQLiteWorkflowStore.close()",
    ]
