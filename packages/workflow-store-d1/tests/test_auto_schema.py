"""Whose tables a runtime makes by itself: those of a file, not those of D1; and what that costs where queries count."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime import ConfigurationError, Context, SchemaMissingError, WorkflowRuntime, meter_queries, workflow
from workflow_store_d1 import D1WorkflowStore, SQLiteWorkflowStore
from workflow_store_d1.local import LocalD1Database

OpenDatabase = Callable[[], Awaitable[LocalD1Database]]

TABLES = "SELECT count(*) AS n FROM sqlite_master WHERE name LIKE 'workflow_%'"


@workflow(id="greet")
async def greet(ctx: Context, name: str) -> str:
    return f"hello {name}"


async def made(database: LocalD1Database) -> bool:
    return (await database.prepare(TABLES).all()).results != [{"n": 0}]


async def test_a_file_is_its_programs_own(path: Path) -> None:
    for opening in (SQLiteWorkflowStore.open(path), D1WorkflowStore.open(path), SQLiteWorkflowStore.open(":memory:")):
        async with opening as store:
            assert store.capabilities.auto_schema


async def test_d1_is_not(open_database: OpenDatabase) -> None:
    assert not D1WorkflowStore(await open_database()).capabilities.auto_schema
    async with D1WorkflowStore.connect_http("a" * 32, "0" * 8, "token") as store:
        assert not store.capabilities.auto_schema
        assert store.capabilities.heartbeats


async def test_on_d1_nothing_is_made_unless_it_is_asked_for(open_database: OpenDatabase) -> None:
    database = await open_database()
    store = D1WorkflowStore(database)
    runtime = WorkflowRuntime(store=store, workflows=[greet])
    for call in (runtime.start_run(greet, "ann"), runtime.sweep()):
        with pytest.raises(SchemaMissingError):
            await call
    assert not await made(database)
    await WorkflowRuntime(store=store, workflows=[greet], auto_schema=True).start_run(greet, "ann")
    assert await made(database)


async def queries_of_first_calls(store: D1WorkflowStore, **options: Any) -> int:
    with meter_queries() as meter:
        await WorkflowRuntime(store=store, workflows=[greet], **options).start_run(greet, "ann")
    return meter.queries


async def test_tables_that_fit_cost_one_query(store: D1WorkflowStore) -> None:
    """As much as a worker's look at them, which `QueryCosts.read` counts."""
    bare = await queries_of_first_calls(store, auto_schema=False)
    assert await queries_of_first_calls(store) == bare + 1
    metered = store.capabilities.metered
    assert metered is not None
    assert metered.read == 1


@pytest.mark.parametrize("max_queries", [47, 50, 200])
async def test_sweep_with_a_limit_counts_the_tables_that_it_makes(
    open_database: OpenDatabase, max_queries: int
) -> None:
    """It keeps to the limit, and begins nothing that it could not bring to an end with what is left."""
    database = await open_database()
    runtime = WorkflowRuntime(store=D1WorkflowStore(database), workflows=[greet], auto_schema=True)
    report = await runtime.sweep(max_queries=max_queries)
    assert report.queries is not None
    assert 20 < report.queries <= max_queries
    await runtime.start_run(greet, "ann")
    assert (await runtime.sweep(max_queries=50)).outcomes == {"finished": 1}


@pytest.mark.parametrize("call", ["start_run", "run_here"])
async def test_limit_too_small_for_making_them_says_so(open_database: OpenDatabase, call: str) -> None:
    database = await open_database()
    runtime = WorkflowRuntime(store=D1WorkflowStore(database), workflows=[greet], auto_schema=True)
    begin: Callable[..., Awaitable[Any]] = getattr(runtime, call)
    with meter_queries(20), pytest.raises(ConfigurationError, match="auto_schema: making the tables takes too many"):
        await begin(greet, "ann")
    assert not await made(database)
    await begin(greet, "ann")
    assert await made(database)


async def test_run_that_begins_here_is_driven_with_what_the_tables_have_left(tmp_path: Path) -> None:
    """With too few queries for tables, run and drive it is only created, and nobody holds it in vain."""
    outcomes = set()
    for max_queries in range(52, 82, 2):
        async with SQLiteWorkflowStore.open(tmp_path / f"{max_queries}.db") as store:
            runtime = WorkflowRuntime(store=store, workflows=[greet])
            with meter_queries(max_queries):
                handle = await runtime.run_here(greet, "ann")
            run = await handle.load()
            outcomes.add((run.status.value, run.lease_owner, run.crashes))
    assert outcomes == {("queued", None, 0), ("finished", None, 0)}
