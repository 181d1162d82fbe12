"""The store as a whole: opening, closing, names of tables, errors of the database below."""

import asyncio
import re
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_runtime.errors import (
    CapabilityNotSupportedError,
    ConfigurationError,
    InvalidArgumentError,
    LeaseLostError,
    RunFailedError,
    SchemaMissingError,
    StoreOperationError,
    StoreUnavailableError,
)
from workflow_runtime.payloads import JsonText, encode_json
from workflow_runtime.store import WorkflowExecutionStore
from workflow_store_d1 import D1Database, D1WorkflowStore, SQLiteWorkflowStore
from workflow_store_d1.local import LocalD1Database

if TYPE_CHECKING:
    from conftest import Scenes

OpenStore = Callable[..., Awaitable[D1WorkflowStore]]
OpenDatabase = Callable[..., Awaitable[LocalD1Database]]

CUSTOM = {
    "schema_migrations": "audit migrations",
    "runs": "audit_runs",
    "run_states": 'audit "states"',
    "event_locks": "audit_heads",
    "events": "workflow_timers",
    "timers": "workflow_events",
    "signal_deliveries": "é" * 31,
    "schedules": "select",
    "schedule_buckets": "audit_buckets",
}


NEW_RUN: dict[str, Any] = {
    "run_id": "a",
    "workflow_id": "w",
    "workflow_version": "1",
    "input": JsonText("1"),
    "operation_id": "o",
    "now_ms": 1,
}
HELD: dict[str, Any] = {"owner": "x", "lease_ms": 1}


def as_contract(store: D1WorkflowStore) -> WorkflowExecutionStore:
    return store


def as_database(database: LocalD1Database) -> D1Database:
    return database


async def test_store_is_opened_by_await_or_by_async_with(path: Path) -> None:
    store = await D1WorkflowStore.open(path)
    await store.ensure_schema()
    await store.close()
    async with D1WorkflowStore.open(str(path)) as again:
        await as_contract(again).check_schema()


@pytest.mark.parametrize("db", ["app.db", Path("app.db"), b"app.db", sqlite3.Connection, None, 5])
def test_store_of_something_else_says_how_to_open_one(db: Any) -> None:
    """A path, above all."""
    with pytest.raises(ConfigurationError, match=r"write `async with SQLiteWorkflowStore.open\(path\) as store:`"):
        SQLiteWorkflowStore(db)


async def test_store_that_is_not_open_says_so(path: Path) -> None:
    """As itself, and as the store of a runtime."""
    opening: Any = SQLiteWorkflowStore.open(path)
    with pytest.raises(
        ConfigurationError, match=r"not open yet, .*`async with SQLiteWorkflowStore.open\(...\) as store:`"
    ):
        await opening.ensure_schema()
    assert not hasattr(opening, "capabilities")
    with pytest.raises(ConfigurationError, match="the store is not open yet: write `async with"):
        WorkflowRuntime(store=opening, workflows=[])


@pytest.mark.parametrize(
    "call",
    [
        lambda: SQLiteWorkflowStore.open("app.db", busy_timeout=cast("Any", 5)).__aenter__(),
        lambda: D1WorkflowStore.connect_http("a" * 32, "0" * 8, "token", timeout=cast("Any", 5)).__aenter__(),
    ],
)
async def test_number_for_a_duration(call: Callable[[], Awaitable[Any]]) -> None:
    """Says what to write."""
    with pytest.raises(InvalidArgumentError, match=r"must be a timedelta, not int: write timedelta\(seconds=5\)"):
        await call()


async def test_closed_store_says_so(path: Path) -> None:
    store = await D1WorkflowStore.open(path)
    await store.close()
    await store.close()
    for call in (store.read_clock(), store.ensure_schema(), store.load_run(run_id="a")):
        with pytest.raises(ConfigurationError, match="the store is closed"):
            await call


async def test_database_of_the_caller_stays_open(open_database: OpenDatabase) -> None:
    database = await open_database()
    async with D1WorkflowStore(as_database(database)) as store:
        await store.ensure_schema()
    assert (await database.prepare("SELECT 1 AS one").all()).results == [{"one": 1}]


async def test_clock_is_the_databases(store: D1WorkflowStore) -> None:
    first, second = await store.read_clock(), await store.read_clock()
    assert first <= second
    with closing(sqlite3.connect(":memory:")) as other:
        (seconds,) = other.execute("SELECT CAST(strftime('%s', 'now') AS INTEGER)").fetchone()
    assert abs(seconds * 1_000 - second) < 10_000


async def test_custom_table_names_are_used_everywhere(path: Path, open_store: OpenStore) -> None:
    store = await open_store(tables=CUSTOM)
    await store.ensure_schema()
    await store.check_schema()
    await store.create_run(**NEW_RUN, **HELD)
    assert (await store.claim_stale_runs(owner="x", lease_ms=1, now_ms=5, limit=1, max_crashes=9)).claims
    assert await store.load_execution(run_id="a")
    await store.close()
    with closing(sqlite3.connect(path)) as reader:
        names = {name for (name,) in reader.execute("SELECT tbl_name FROM sqlite_master")}
        indexes = {name for (name,) in reader.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert names == set(CUSTOM.values())
    assert not any(name.startswith("workflow_runs") for name in indexes)


async def test_two_stores_share_a_file_under_different_names(path: Path, store: D1WorkflowStore) -> None:
    async with D1WorkflowStore.open(path, tables={key: f"other_{key}" for key in CUSTOM}) as other:
        await other.ensure_schema()
        await other.create_run(**NEW_RUN)
    assert await store.load_run(run_id="a") is None


@pytest.mark.parametrize(
    ("tables", "problem"),
    [({"run": "x"}, "no such table"), ({"runs": ""}, "empty"), ({"runs": "x", "events": "x"}, "same name")],
)
async def test_unusable_table_names_are_refused_before_the_file_is_touched(
    path: Path, tables: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        await D1WorkflowStore.open(path, tables=tables)
    assert not path.exists()


async def test_missing_tables_are_named_as_such(open_store: OpenStore) -> None:
    store = await open_store()
    with pytest.raises(SchemaMissingError, match=re.escape("await store.ensure_schema()")):
        await store.load_run(run_id="a")


async def test_busy_database_is_unavailable(store: D1WorkflowStore, path: Path, open_store: OpenStore) -> None:
    impatient = await open_store(busy_timeout=timedelta(0))
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError) as refused:
            await impatient.requeue_run(run_id="a", now_ms=1)
        assert await impatient.load_run(run_id="a") is None
    assert refused.value.retryable
    assert isinstance(refused.value.__cause__, Exception)
    assert isinstance(refused.value.__cause__.__cause__, sqlite3.OperationalError)


async def test_full_disk_passes_when_there_is_room_again(
    open_database: OpenDatabase, unguarded: Callable[[LocalD1Database, str], Awaitable[Any]]
) -> None:
    database = await open_database()
    store = D1WorkflowStore(database)
    await store.ensure_schema()
    pages = await unguarded(database, "PRAGMA page_count")
    await unguarded(database, f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailableError, match="full"):
        await store.create_run(**{**NEW_RUN, "input": encode_json("x" * 500_000)})
    await unguarded(database, "PRAGMA max_page_count = 100000")
    assert (await store.create_run(**NEW_RUN)).kind == "created"


async def test_damaged_file_is_a_store_error(path: Path, open_store: OpenStore) -> None:
    store = await open_store()
    await store.ensure_schema()
    await store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(StoreOperationError):
        async with D1WorkflowStore.open(path) as damaged:
            await damaged.load_run(run_id="a")


async def test_unusable_path_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreOperationError, match="unable to open"):
        await D1WorkflowStore.open(tmp_path)


async def test_lease_tokens_come_from_the_injected_source(open_database: OpenDatabase) -> None:
    database = await open_database()
    tokens = iter(["first", "second"])
    store = D1WorkflowStore(database, new_token=lambda: next(tokens))
    await store.ensure_schema()
    created = await store.create_run(**NEW_RUN, **HELD)
    assert created.kind == "created"
    assert created.claim is not None
    batch = await store.claim_stale_runs(owner="x", lease_ms=1, now_ms=5, limit=1, max_crashes=9)
    assert (created.claim.lease.token, batch.claims[0].lease.token) == ("first", "second")


async def test_pausing_does_not_write_a_large_input_again(scenes: "Scenes", path: Path) -> None:
    large = scenes.json("x" * 899_998)
    lease = await scenes.running("a", input=large)
    wal = path.with_name(path.name + "-wal")
    before = wal.stat().st_size
    await scenes.pause("a", lease)
    assert wal.stat().st_size - before < 100_000


async def test_largest_payloads_fit_side_by_side(scenes: "Scenes") -> None:
    """Input and output of the declared size share a row, and a row has D1's limit."""
    store = scenes.store
    large = scenes.json("x" * (store.capabilities.max_payload_bytes - 2))
    lease = await scenes.running("a", input=large)
    finish: dict[str, Any] = {"lease_token": lease.token, "operation_id": "f", "expected_next_index": 0, "now_ms": 1}
    await store.mark_run_finished(run_id="a", output=large, **finish)
    run = await store.load_run(run_id="a")
    assert run is not None
    assert run.input == run.output == large


def test_import_brings_no_database_library() -> None:
    """The package must import where there is no sqlite3: on Cloudflare."""
    code = (
        "import sys, workflow_store_d1\n"
        "unwanted = {'sqlite3', '_sqlite3', 'workflow_store_d1.local', 'ssl', 'threading'}\n"
        "print(sorted(unwanted & (set(sys.modules) - before)))"
    )
    before = "import sys; before = set(sys.modules); import asyncio; before |= set(sys.modules)\n"
    ran = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"


async def test_idle_polls_write_nothing(scenes: "Scenes", path: Path) -> None:
    await scenes.waiting("a", "go")
    wal = path.with_name(path.name + "-wal")
    before = wal.stat()
    idle: dict[str, Any] = {"owner": "w", "lease_ms": 10, "now_ms": 2, "limit": 10}
    for _ in range(3):
        await scenes.store.claim_pending_runs(**idle)
        await scenes.store.claim_stale_runs(**idle, max_crashes=3)
        await scenes.store.claim_due_timers(**idle)
        await scenes.store.claim_due_schedule_buckets(**idle)
    after = wal.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


async def test_python_without_sqlite_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pyodide, for one."""
    monkeypatch.delitem(sys.modules, "workflow_store_d1.local")
    monkeypatch.setitem(sys.modules, "workflow_store_d1.sqlite_connection", None)
    with pytest.raises(ConfigurationError, match=r"cannot open a file .* hand the D1 binding over"):
        await D1WorkflowStore.open(path)


async def test_database_in_memory_has_no_second_connection() -> None:
    """It would be another database."""
    async with D1WorkflowStore.open(":memory:") as store:
        assert not store.capabilities.heartbeats
        with pytest.raises(CapabilityNotSupportedError):
            store.open_heartbeats()


async def test_heartbeats_open_the_same_file_wherever_the_program_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with D1WorkflowStore.open("app.db") as store:
        await store.ensure_schema()
        (tmp_path / "folder").mkdir()
        monkeypatch.chdir(tmp_path / "folder")
        async with store.open_heartbeats() as renewer:
            with pytest.raises(LeaseLostError):
                await renewer.heartbeat_run_lease(run_id="r", lease_token="t", lease_ms=1, now_ms=1)
    assert list((tmp_path / "folder").iterdir()) == []


async def test_file_that_was_lost_is_no_passing_fault(path: Path, open_store: Any) -> None:
    store = await open_store()
    await store.ensure_schema()
    path.unlink()
    with pytest.raises(StoreOperationError, match=r"app\.db is no longer there: it was deleted, moved or replaced"):
        await store.create_run(**NEW_RUN)


async def test_handler_that_talks_to_the_file_is_told_and_hurts_nobody(path: Path) -> None:
    """By a verb of the store or past it: the thread is not touched, the run ends with the error, and all goes on."""

    @workflow()
    async def asks(ctx: Context, way: str) -> None:
        if way == "verb":
            await store.load_run(run_id="a")
        elif way == "statement":
            await store.database.prepare("SELECT 1").all()
        elif way == "transaction":
            async with store.database.interactive() as transaction:  # type: ignore[attr-defined]  # a local one
                await transaction.run([store.database.prepare("SELECT 1")])
        else:
            async with D1WorkflowStore.open(path) as own:  # on the handler's own event loop
                await own.load_run(run_id="a")

    async with D1WorkflowStore.open(path) as store:
        await store.ensure_schema()
        runtime = WorkflowRuntime(store=store, workflows=[asks])
        for way in ("verb", "statement", "transaction", "own"):
            async with asyncio.timeout(20):
                handle = await runtime.run_here(asks, way)
                with pytest.raises(RunFailedError, match="step"):
                    await handle.result()
        assert await store.load_run(run_id="a") is None
