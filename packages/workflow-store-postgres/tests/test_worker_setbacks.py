"""A worker on a real server that is read-only, without grants, or lets nobody in for a while: it goes on by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from workflow_runtime import Context, RunStatus, StoreAccessError, WorkflowRuntime, workflow
from workflow_runtime.ids import new_id
from workflow_store_postgres import PostgresWorkflowStore

pytestmark = pytest.mark.real_time

Trouble = Callable[[asyncpg.Connection, str, str], Awaitable[None]]


@asynccontextmanager
async def an_app_role(database: asyncpg.Connection) -> AsyncIterator[str]:
    role = f"app_{new_id()[:12]}"
    await database.execute(f"CREATE ROLE {role} LOGIN")
    await database.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        yield role
    finally:
        await cut_off(database, role)
        await database.execute(f"DROP OWNED BY {role}")
        await database.execute(f"DROP ROLE {role}")


async def cut_off(database: asyncpg.Connection, role: str) -> None:
    await database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)


async def become_read_only(database: asyncpg.Connection, role: str, name: str) -> None:
    """As the old primary behind a fixed name: the sessions stay, and so does their state."""
    await database.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    await cut_off(database, role)
    await asyncio.sleep(0.5)  # so that sessions are made that stay read-only


async def become_writable(database: asyncpg.Connection, role: str, name: str) -> None:
    await database.execute(f"ALTER ROLE {role} RESET default_transaction_read_only")


async def take_grants(database: asyncpg.Connection, role: str, name: str) -> None:
    await database.execute(f"REVOKE UPDATE ON workflow_event_locks FROM {role}")


async def take_grants_on_events(database: asyncpg.Connection, role: str, name: str) -> None:
    await database.execute(f"REVOKE INSERT ON workflow_events FROM {role}")


async def give_grants(database: asyncpg.Connection, role: str, name: str) -> None:
    await database.execute(f"GRANT ALL ON workflow_event_locks, workflow_events TO {role}")


async def shut_out(database: asyncpg.Connection, role: str, name: str) -> None:
    await database.execute(f"ALTER ROLE {role} NOLOGIN")
    await cut_off(database, role)


async def let_in(database: asyncpg.Connection, role: str, name: str) -> None:
    await database.execute(f"ALTER ROLE {role} LOGIN")


@pytest.mark.parametrize(
    ("trouble", "end_of_it"),
    [
        (become_read_only, become_writable),
        (take_grants, give_grants),
        (take_grants_on_events, give_grants),
        (shut_out, let_in),
    ],
)
async def test_worker_goes_on_by_itself(
    store: PostgresWorkflowStore,
    dsn: str,
    database: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    trouble: Trouble,
    end_of_it: Trouble,
) -> None:
    """Three seconds of it; the run in flight counts no crash, later ones are driven, and the health tells."""
    caplog.set_level(logging.INFO, "workflow_runtime")
    going = asyncio.Event()

    async def short() -> None:
        going.set()
        await asyncio.sleep(0.02)

    @workflow(id="works")
    async def works(ctx: Context, steps: int) -> None:
        for _ in range(steps):
            await ctx.step(short)

    async with an_app_role(database) as role, PostgresWorkflowStore.connect(dsn, user=role) as mine:
        runtime = WorkflowRuntime(store=mine, workflows=[works])
        outside = WorkflowRuntime(store=store, workflows=[works])
        stop = asyncio.Event()
        working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False, poll_interval=timedelta(seconds=1)))
        async with asyncio.timeout(90):
            in_flight = await outside.start_run(works, 30, run_id="in-flight")
            await going.wait()
            name: Any = await database.fetchval("SELECT current_database()")
            await trouble(database, role, name)
            await outside.start_run(works, 1, run_id="meanwhile")
            while runtime.health().store_reachable:
                await asyncio.sleep(0.01)
            await asyncio.sleep(3)
            assert not working.done(), "the worker ended"
            await end_of_it(database, role, name)
            for handle in (in_flight, outside.attach("meanwhile")):
                await handle.result(timeout=timedelta(seconds=60))
            assert runtime.health().store_reachable
            stop.set()
            await working
        run = await store.load_run(run_id="in-flight")
        assert run is not None
        assert (run.status, run.crashes) == (RunStatus.FINISHED, 0)


async def test_role_without_grants_ends_a_worker_at_its_start(
    store: PostgresWorkflowStore, dsn: str, database: asyncpg.Connection
) -> None:
    """With the cause, and what to grant."""

    @workflow(id="works")
    async def works(ctx: Context, _: Any) -> None:
        """Never driven."""

    async with an_app_role(database) as role, PostgresWorkflowStore.connect(dsn, user=role) as mine:
        await take_grants(database, role, "")
        runtime = WorkflowRuntime(store=mine, workflows=[works])
        with pytest.raises(StoreAccessError, match=r"42501.*needs USAGE"):
            await asyncio.wait_for(runtime.work(handle_signals=False), 30)
