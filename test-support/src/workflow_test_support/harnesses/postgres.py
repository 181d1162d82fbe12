"""The Postgres store."""

from __future__ import annotations

import atexit
import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import asyncpg
from workflow_contract_tests import Statements, StoreHarness
from workflow_migrations import TableNames, render_sql
from workflow_store_postgres import PostgresWorkflowStore, get_migration_sql
from workflow_test_support.servers.database_pool import DatabasePool
from workflow_test_support.servers.postgres_databases import make_template
from workflow_test_support.servers.postgres_server import LocalServer

BUSINESS = "CREATE TABLE business (key text NOT NULL)"


def watched_connection(statements: Statements) -> type[asyncpg.Connection]:
    """Make the class of a connection whose statements can be disturbed, also those that begin and end transactions."""

    class WatchedConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
        async def fetch(self, *arguments: Any, **options: Any) -> Any:
            return await statements.send(lambda: super(WatchedConnection, self).fetch(*arguments, **options))

        async def execute(self, *arguments: Any, **options: Any) -> Any:
            return await statements.send(lambda: super(WatchedConnection, self).execute(*arguments, **options))

    return WatchedConnection


def harness_on(
    dsn: str,
    *,
    arguments: Mapping[str, Any] | None = None,
    subject: Mapping[str, str] | None = None,
    store: type[PostgresWorkflowStore] = PostgresWorkflowStore,
) -> StoreHarness:
    """Return a harness on a database that has the table of the business and no rows.

    Args:
        dsn: The database, for the looks behind the store's back.
        arguments: Arguments of `PostgresWorkflowStore.connect`, where they are not just this DSN.
        subject: What the report should say of it.
        store: The store's class.
    """
    arguments = arguments or {"dsn": dsn}
    statements = Statements()
    connection_class = watched_connection(statements)
    names = TableNames.of(arguments.get("tables"))
    delete_state = "DELETE FROM workflow_run_states WHERE run_id = $1"

    async def corrupt(run_id: str) -> None:
        async with _connected(dsn) as connection:
            await connection.execute(render_sql(delete_state, names, schema=arguments.get("schema")), run_id)

    return StoreHarness(
        lambda: store.connect(**arguments, connection_class=connection_class),
        contract_version="0.1",
        process_factory=f"{store.__module__.partition('.store')[0]}:{store.__name__}.connect",
        process_arguments=arguments,
        corrupt=corrupt,
        statements=statements,
        subject=subject or {},
        **business_on(dsn),
    )


def business_on(dsn: str) -> dict[str, Any]:
    """Return how a harness writes rows of the business, and reads them beside the store."""

    async def write_business(tx: asyncpg.Connection, key: str) -> None:
        await tx.execute("INSERT INTO business VALUES ($1)", key)

    async def read_business() -> list[str]:
        async with _connected(dsn) as connection:
            return [row["key"] for row in await connection.fetch("SELECT key FROM business")]

    return {"write_business": write_business, "read_business": read_business}


@asynccontextmanager
async def harness() -> AsyncIterator[StoreHarness]:
    """Make a harness on a database of a server of our own."""
    async with _databases().database() as dsn:
        yield harness_on(dsn, subject=await _subject(dsn))


@functools.cache
def _databases() -> DatabasePool:
    """Start the server of this process. Its databases go with it."""
    until_exit = ExitStack()
    atexit.register(until_exit.close)
    dsn = until_exit.enter_context(LocalServer(durable=True)).dsn
    return DatabasePool(dsn, make_template(dsn, "template0", get_migration_sql(transaction=False), BUSINESS))


async def _subject(dsn: str) -> dict[str, str]:
    async with _connected(dsn) as connection:
        settings = ("default_transaction_isolation", "fsync")
        return {
            "database": f"PostgreSQL {connection.get_settings().server_version}",
            "driver": f"asyncpg {asyncpg.__version__}",
            **{name: await connection.fetchval(f"SHOW {name}") for name in settings},
        }


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()
