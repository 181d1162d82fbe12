"""A server's tables are somebody's: a runtime makes them only when it is told to."""

from __future__ import annotations

import asyncpg
import pytest
from workflow_runtime import Context, SchemaMissingError, StoreAccessError, WorkflowRuntime, workflow
from workflow_store_postgres import PostgresWorkflowStore


@workflow(id="greet")
async def greet(ctx: Context, name: str) -> str:
    return f"hello {name}"


async def tables_of(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'workflow_%'")
    finally:
        await connection.close()
    return count


async def test_nothing_is_made_by_default(empty_dsn: str) -> None:
    async with PostgresWorkflowStore.connect(empty_dsn) as store:
        assert not store.capabilities.auto_schema
        runtime = WorkflowRuntime(store=store, workflows=[greet])
        for call in (runtime.start_run(greet, "ann"), runtime.sweep(), runtime.work(handle_signals=False)):
            with pytest.raises(SchemaMissingError, match="ensure_schema"):
                await call
    assert await tables_of(empty_dsn) == 0


async def test_tables_are_made_when_it_is_asked_for(empty_dsn: str) -> None:
    async with PostgresWorkflowStore.connect(empty_dsn) as store:
        runtime = WorkflowRuntime(store=store, workflows=[greet], auto_schema=True)
        handle = await runtime.run_here(greet, "ann")
        assert await handle.result() == "hello ann"
        await store.check_schema(deep=True)


async def test_role_that_may_not_make_them_is_told_what_it_needs(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    role = f"client_of_{await connection.fetchval('SELECT current_database()')}"
    await connection.execute(f"CREATE SCHEMA workflows; CREATE ROLE {role}; GRANT USAGE ON SCHEMA workflows TO {role}")
    try:
        settings = {"role": role}
        async with PostgresWorkflowStore.connect(empty_dsn, schema="workflows", server_settings=settings) as store:
            runtime = WorkflowRuntime(store=store, workflows=[greet], auto_schema=True)
            with pytest.raises(StoreAccessError, match="the role that migrates needs CREATE on the schema"):
                await runtime.start_run(greet, "ann")
        assert await tables_of(empty_dsn) == 0
        # With tables that are there, the same role needs no more than that.
        async with PostgresWorkflowStore.connect(empty_dsn, schema="workflows") as owner:
            await owner.ensure_schema()
        await connection.execute(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA workflows TO {role}")
        async with PostgresWorkflowStore.connect(empty_dsn, schema="workflows", server_settings=settings) as store:
            await WorkflowRuntime(store=store, workflows=[greet], auto_schema=True).start_run(greet, "ann")
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()
