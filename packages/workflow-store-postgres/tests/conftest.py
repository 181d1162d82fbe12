import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from workflow_runtime.payloads import JsonText, encode_json
from workflow_runtime.store import Awaited, Lease, NewEvent
from workflow_store_postgres import PostgresWorkflowStore, get_migration_sql
from workflow_test_support.harnesses.postgres import BUSINESS, business_on
from workflow_test_support.servers.database_pool import DatabasePool, database_pool
from workflow_test_support.servers.pgbouncer import PgBouncer, PgBouncerNotFoundError
from workflow_test_support.servers.postgres_databases import at_database, new_database, new_template
from workflow_test_support.servers.postgres_server import postgres_dsn

NOW_MS = 1_000_000
LEASE_MS = 10_000


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """One server for all tests of this process."""
    with postgres_dsn() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(server_dsn: str) -> Iterator[str]:
    """A database with our tables, made by the shipped script, to be copied."""
    with new_template(server_dsn, "template0", get_migration_sql(transaction=False), BUSINESS) as name:
        yield name


@pytest.fixture(scope="session")
def databases(server_dsn: str, template: str) -> Iterator[DatabasePool]:
    """Copies of the template."""
    with database_pool(server_dsn, template) as pool:
        yield pool


@pytest.fixture
async def empty_dsn(server_dsn: str) -> AsyncIterator[str]:
    """A database without our tables."""
    async with new_database(server_dsn, "template0") as dsn:
        yield dsn


@pytest.fixture
async def dsn(databases: DatabasePool) -> AsyncIterator[str]:
    """A database with our tables."""
    async with databases.database() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def pooler_dsn(server_dsn: str) -> Iterator[str]:
    """The server through PgBouncer in transaction mode."""
    try:
        pooler = PgBouncer(server_dsn)
    except PgBouncerNotFoundError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with pooler:
        yield pooler.dsn


@pytest.fixture
def pooled_dsn(pooler_dsn: str, dsn: str) -> str:
    """The database with our tables, through PgBouncer."""
    return at_database(pooler_dsn, urlsplit(dsn).path.removeprefix("/"))


@pytest.fixture
async def connect(dsn: str) -> AsyncIterator[Callable[..., Awaitable[PostgresWorkflowStore]]]:
    """Open handles on the database."""
    async with AsyncExitStack() as stack:

        async def connect_one(**options: Any) -> PostgresWorkflowStore:
            return await stack.enter_async_context(PostgresWorkflowStore.connect(dsn, **options))

        yield connect_one


@pytest.fixture
async def store(connect: Callable[..., Awaitable[PostgresWorkflowStore]]) -> PostgresWorkflowStore:
    return await connect()


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection, to look and to interfere behind the store's back."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
def business(dsn: str) -> dict[str, Any]:
    """How a harness writes rows of the business, and reads them."""
    return business_on(dsn)


class Scenes:
    """Puts runs of a store into the states that tests begin with."""

    now_ms = NOW_MS
    lease_ms = LEASE_MS

    def __init__(self, store: PostgresWorkflowStore) -> None:
        self.store = store
        self._operations = 0

    def operation(self) -> str:
        self._operations += 1
        return f"operation-{self._operations}"

    def json(self, value: object) -> JsonText:
        return encode_json(value)

    async def queued(self, run_id: str, **options: Any) -> None:
        await self.store.create_run(**self._new(run_id, options))

    async def running(self, run_id: str, **options: Any) -> Lease:
        created = await self.store.create_run(**self._new(run_id, options), owner="worker", lease_ms=LEASE_MS)
        assert created.kind == "created"
        assert created.claim is not None
        return created.claim.lease

    async def append(self, run_id: str, lease: Lease, first: int, payloads: Sequence[JsonText | None]) -> None:
        await self.store.append_events(
            run_id=run_id,
            lease_token=lease.token,
            operation_id=self.operation(),
            expected_next_index=first,
            events=[NewEvent(kind="step", payload=payload) for payload in payloads],
            now_ms=NOW_MS,
            lease_ms=LEASE_MS,
        )

    async def pause(self, run_id: str, lease: Lease, **options: Any) -> None:
        values = {"expected_next_index": 0, "seen_inbox_seq": 0, "now_ms": NOW_MS} | options
        await self.store.mark_run_paused(
            run_id=run_id, lease_token=lease.token, operation_id=self.operation(), **values
        )

    async def waiting(self, run_id: str, signal: str) -> None:
        lease = await self.running(run_id)
        await self.pause(run_id, lease, awaited=[Awaited(kind="signal", name=signal, step_id="wait")])

    def _new(self, run_id: str, options: dict[str, Any]) -> dict[str, Any]:
        facts = {
            "workflow_id": "ship",
            "workflow_version": "1",
            "input": JsonText('{"order":1}'),
            "operation_id": self.operation(),
            "now_ms": NOW_MS,
        }
        return {"run_id": run_id, **facts, **options}


@pytest.fixture
def scenes(store: PostgresWorkflowStore) -> Scenes:
    return Scenes(store)
