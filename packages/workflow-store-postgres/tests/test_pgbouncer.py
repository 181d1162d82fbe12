"""Behind PgBouncer in transaction mode; `nox -s "contract(postgres-pgbouncer)"` takes the whole contract through it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_runtime.errors import StoreOperationError
from workflow_runtime.payloads import JsonText
from workflow_store_postgres import PostgresWorkflowStore, get_migration_sql

# What such a pooler needs: no prepared statement outlives its transaction.
OPTIONS: dict[str, Any] = {"statement_cache_size": 0, "listen": False}


@workflow(id="greet")
async def greet(ctx: Context, name: str) -> str:
    greeting = await ctx.step(compose, name)
    await ctx.sleep(timedelta(milliseconds=10))
    return f"{greeting} {await ctx.wait_for_event('goodbye')}"


def compose(name: str) -> str:
    return f"hello {name}"


@pytest.fixture
async def stores(pooled_dsn: str) -> AsyncIterator[list[PostgresWorkflowStore]]:
    """Eight workers' handles, each with sessions of its own."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(PostgresWorkflowStore.connect(pooled_dsn, **OPTIONS, max_size=2))
            for _ in range(8)
        ]


async def test_claims_of_many_handles_never_share_a_run(stores: list[PostgresWorkflowStore]) -> None:
    count = 200
    for number in range(count):
        await stores[number % len(stores)].create_run(
            run_id=f"r{number}",
            workflow_id="w",
            workflow_version="1",
            input=JsonText("1"),
            operation_id="create",
            now_ms=1,
        )

    async def claim_all(store: PostgresWorkflowStore, owner: str) -> list[str]:
        claimed: list[str] = []
        while True:
            batch = await store.claim_pending_runs(owner=owner, lease_ms=60_000, limit=3, now_ms=5)
            if not batch.claims:
                return claimed
            claimed += [claim.run.run_id for claim in batch.claims]

    shares = await asyncio.gather(*(claim_all(store, f"w{number}") for number, store in enumerate(stores)))
    taken = [run_id for share in shares for run_id in share]
    assert sorted(taken) == sorted(f"r{number}" for number in range(count))


@pytest.mark.real_time
async def test_runtime_finishes_its_runs(stores: list[PostgresWorkflowStore]) -> None:
    """Two workers and a client, each with its own handle: steps, timers, signals, results."""
    workers = [WorkflowRuntime(store=store, workflows=[greet]) for store in stores[:2]]
    client = WorkflowRuntime(store=stores[2], workflows=[greet])
    working = [
        asyncio.create_task(worker.work(concurrency=5, poll_interval=timedelta(milliseconds=20))) for worker in workers
    ]
    handles = [await client.start_run(greet, f"n{number}") for number in range(10)]
    for number, handle in enumerate(handles):
        await client.deliver_signal(handle.run_id, "goodbye", f"bye {number}", signal_id="once")
    results = [await handle.result(timeout=timedelta(seconds=60)) for handle in handles]
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    assert results == [f"hello n{number} bye {number}" for number in range(10)]


async def test_schema_is_made_through_the_pooler(pooled_dsn: str, database: asyncpg.Connection) -> None:
    """Many at once: their lock must not stay behind on a session that others get next."""
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(PostgresWorkflowStore.connect(pooled_dsn, schema="fresh", **OPTIONS))
            for _ in range(4)
        ]
        await asyncio.wait_for(asyncio.gather(*(store.ensure_schema() for store in stores)), 60)
        await stores[0].check_schema()
    assert await database.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_tables_in_use_are_migrated_through_the_pooler(pooled_dsn: str, database: asyncpg.Connection) -> None:
    """Also by those that build an index, which hold nothing on a session in between."""
    await database.execute("CREATE SCHEMA used")
    await database.execute(get_migration_sql("used", to_id="0000_workflow_store", transaction=False))
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(PostgresWorkflowStore.connect(pooled_dsn, schema="used", **OPTIONS))
            for _ in range(4)
        ]
        await asyncio.wait_for(asyncio.gather(*(store.ensure_schema(contract=True) for store in stores)), 60)
        await stores[0].check_schema(deep=True)
    assert await database.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_prepared_statements_behind_the_pooler_are_named_as_the_fault(pooled_dsn: str) -> None:
    """The statement was prepared on a session that another client has now."""
    other = await asyncpg.connect(pooled_dsn, statement_cache_size=0)
    try:
        async with PostgresWorkflowStore.connect(pooled_dsn, max_size=1) as store:
            await store.read_clock()
            async with other.transaction():
                await other.execute("SELECT 1")  # takes the session that the store had
                with pytest.raises(StoreOperationError, match=r"26000.*statement_cache_size=0"):
                    await store.read_clock()
    finally:
        await other.close()


async def test_statements_of_two_clients_that_share_a_name_are_named_as_the_fault(
    pooled_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes count their statements alike, and meet on one session."""
    monkeypatch.setattr("asyncpg.connection._uid", 0)
    async with PostgresWorkflowStore.connect(pooled_dsn, max_size=1) as store:
        await store.read_clock()
    monkeypatch.setattr("asyncpg.connection._uid", 0)
    async with PostgresWorkflowStore.connect(pooled_dsn, max_size=1) as store:
        with pytest.raises(StoreOperationError, match=r"42P05.*statement_cache_size=0"):
            await store.read_clock()


async def test_setting_that_the_pooler_does_not_let_through(pooled_dsn: str) -> None:
    """No repeat will help, so it is no passing failure."""
    with pytest.raises(StoreOperationError, match="ALTER ROLE"):
        await PostgresWorkflowStore.connect(pooled_dsn, **OPTIONS, server_settings={"search_path": "elsewhere"})
