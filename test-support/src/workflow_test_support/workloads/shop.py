"""A shop whose sales are rows beside the workflow tables: on SQLite and on Postgres, with pools of any size."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import asyncpg
from workflow_runtime import Context, JsonCodec, TestClock, Workflow
from workflow_runtime.engine.handler_outcome import Finished
from workflow_runtime.engine.history import from_event
from workflow_runtime.engine.machine import Machine
from workflow_runtime.store import Event
from workflow_store_d1 import SQLiteTransaction, SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.database_pool import DatabasePool

TABLE = "CREATE TABLE sales (key text NOT NULL)"


async def sell(tx: Any, key: str) -> str:
    """Write a sale in a transaction, and give what is recorded."""
    if isinstance(tx, SQLiteTransaction):
        await tx.execute("INSERT INTO sales VALUES (?1)", key)
    else:
        await tx.execute("INSERT INTO sales VALUES ($1)", key)
    return f"sold {key}"


async def add_sale(tx: Any, key: str) -> str:
    """As `sell`, but without holding SQLite's file until the end."""
    if isinstance(tx, SQLiteTransaction):
        tx.add("INSERT INTO sales VALUES (?1)", key)
        return f"sold {key}"
    return await sell(tx, key)


@dataclass
class Shop:
    """A database with our tables and that of the sales."""

    kind: str
    open: Callable[..., AbstractAsyncContextManager[Any]]
    """Opens a store; on Postgres its pool has the size `max_size`."""
    sales: Callable[[], Awaitable[list[str]]]
    """The committed sales, sorted."""
    location: str
    """Path of the file, or DSN."""


@asynccontextmanager
async def sqlite_shop(path: str) -> AsyncIterator[Shop]:
    """Set one up on a file."""

    def open_store(max_size: int = 1) -> AbstractAsyncContextManager[Any]:
        return SQLiteWorkflowStore.open(path)

    async def sales() -> list[str]:
        with closing(sqlite3.connect(path)) as connection:
            return [key for (key,) in connection.execute("SELECT key FROM sales ORDER BY key")]

    async with open_store() as store:
        await store.ensure_schema()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(TABLE)
    yield Shop("sqlite", open_store, sales, path)


@asynccontextmanager
async def postgres_shop(databases: DatabasePool) -> AsyncIterator[Shop]:
    """Set one up in a database of its own, which has `TABLE`."""
    async with databases.database() as dsn:

        def open_store(max_size: int = 2, **options: Any) -> AbstractAsyncContextManager[Any]:
            return PostgresWorkflowStore.connect(options.pop("dsn", dsn), max_size=max_size, **options)

        async def sales() -> list[str]:
            connection = await asyncpg.connect(dsn)
            try:
                return [row["key"] for row in await connection.fetch("SELECT key FROM sales ORDER BY key")]
            finally:
                await connection.close()

        yield Shop("postgres", open_store, sales, dsn)


async def read_log(store: Any, run_id: str) -> tuple[Event, ...]:
    """Read the whole log of a run."""
    events: tuple[Event, ...] = await store.read_events(run_id=run_id, limit=10_000)
    return events


async def kinds(store: Any, run_id: str) -> list[str]:
    """Read a log as `kind step-id`."""
    return [f"{event.kind} {event.step_id or ''}".strip() for event in await read_log(store, run_id)]


async def replayed(store: Any, workflow: Workflow[Any, Any], run_id: str) -> Any:
    """Replay a finished run's log on a fresh machine, event by event, and give the handler's output."""
    events = [from_event(run_id, event) for event in await read_log(store, run_id)]
    run = await store.load_run(run_id=run_id)
    machine, codec = Machine(run_id), JsonCodec()
    context = Context(
        machine=machine,
        run_id=run_id,
        codec=codec,
        retry=workflow.retry,
        max_payload_bytes=100_000,
        now_ms=TestClock().now_ms,
        store=store,
    )
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def handler() -> Any:
        return await workflow.handler(context, codec.decode(run.input))

    def replay() -> None:
        try:
            machine.start(handler)
            machine.run()
            for event in events:
                machine.apply(event)
                machine.run()
            done.set_result(machine.outcome)
            machine.suspend()
        except Exception as error:  # noqa: BLE001  # handed to the test
            done.set_exception(error)

    asyncio.get_running_loop().call_soon(replay)
    outcome = await done
    assert isinstance(outcome, Finished), outcome
    return outcome.output
