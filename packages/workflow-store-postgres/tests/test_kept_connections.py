"""A store with a pool of its own keeps free connections for its next statement, and gives them back in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from workflow_runtime.errors import StoreUnavailableError
from workflow_store_postgres import PostgresWorkflowStore, kept_connections
from workflow_store_postgres.lent_connection import LentConnection

Connect = Callable[..., Awaitable[PostgresWorkflowStore]]


class Lent:
    """The pool of a store, which counts how often it lends connections."""

    def __init__(self, store: PostgresWorkflowStore) -> None:
        self.count = 0
        self._pool = store._sender.connections._pool
        store._sender.connections._pool = self

    def acquire(self) -> Any:
        self.count += 1
        return self._pool.acquire()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def free(store: PostgresWorkflowStore) -> int:
    kept = store._sender.connections._kept
    return 0 if kept is None else len(kept._free)


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        yield pool


async def test_statements_in_a_row_take_the_same_connection(connect: Connect) -> None:
    store = await connect()
    lent = Lent(store)
    for _ in range(20):
        await store.read_clock()
    assert lent.count == 1
    assert free(store) == 1


async def test_statements_at_once_take_several(connect: Connect) -> None:
    store = await connect(max_size=4)
    lent = Lent(store)
    for _ in range(5):
        await asyncio.gather(*(store.read_clock() for _ in range(20)))
    assert 1 <= free(store) <= 4
    assert lent.count <= 4, "who waits gets the connection of somebody who is done"


async def test_the_pool_of_somebody_else_gets_its_connection_back(pool: asyncpg.Pool) -> None:
    """The program may need it for itself."""
    store = PostgresWorkflowStore(pool, listen=False)
    await store.read_clock()
    assert pool.get_idle_size() == pool.get_size() == 1
    await store.close()


async def test_who_waits_for_the_only_connection_gets_it(connect: Connect) -> None:
    """Statements, and transactions, which need one for longer."""
    store = await connect(max_size=1)

    async def transact() -> None:
        async with store._sender.transaction() as connection:
            await connection.fetchval("SELECT 1")

    for _ in range(5):
        await asyncio.wait_for(asyncio.gather(*(store.read_clock() for _ in range(5)), transact(), transact()), 10)


async def test_who_gives_up_waiting_passes_a_connection_on(connect: Connect) -> None:
    """Also in the very moment in which it gets one."""
    store = await connect(max_size=1)
    for turns in range(12):
        calls = [asyncio.ensure_future(store.read_clock()) for _ in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
        calls[1].cancel()
        calls[2].cancel()
        await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        await asyncio.wait_for(store.read_clock(), 10)
        assert store._sender.connections._kept._out == 0  # type: ignore[union-attr]


async def test_a_connection_for_somebody_who_has_just_given_up_is_not_lost() -> None:
    """It comes before the waiter has heard of its own cancellation."""

    async def give_back(lent: LentConnection) -> None:
        given.append(lent)

    given: list[LentConnection] = []
    for most in (1_000, 1):
        kept, lent = kept_connections.KeptConnections(1, give_back), LentConnection(None, 1.0)
        assert await kept.take(1.0) is None
        waiter = asyncio.ensure_future(kept.take(10.0))
        await asyncio.sleep(0)
        assert kept.add(lent)
        lent.uses = 1_000 - most
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await kept.give_all_back()
        assert kept._out == 0
        assert given.pop() is lent
        kept.close()


async def test_who_waits_for_too_long_hears_it(connect: Connect) -> None:
    store = await connect(max_size=1, acquire_timeout=timedelta(milliseconds=50))
    async with store._sender.transaction():
        with pytest.raises(StoreUnavailableError, match=r"no free connection within 0\.05 s"):
            await store.read_clock()
    await store.read_clock()


async def test_who_is_cancelled_while_a_transaction_is_rolled_back_loses_no_connection(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolling_back = asyncio.Event()

    async def never_answered(self: LentConnection) -> None:
        rolling_back.set()
        await asyncio.Event().wait()

    async def fail() -> None:
        async with store._sender.transaction() as connection:
            await connection.execute("SELECT 1 / 0")

    store = await connect(max_size=1)
    monkeypatch.setattr(LentConnection, "roll_back", never_answered)
    failing = asyncio.ensure_future(fail())
    await asyncio.wait_for(rolling_back.wait(), 10)
    failing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await failing
    monkeypatch.undo()
    await asyncio.wait_for(store.read_clock(), 10)


async def test_a_transaction_leaves_nothing_behind_on_a_kept_connection(connect: Connect) -> None:
    store = await connect(max_size=1)
    async with store._sender.transaction() as connection:
        await connection.execute("SET statement_timeout = 12345")
    assert free(store) == 0, "what ran there may have left something"
    await store.read_clock()
    async with store._sender.held() as held:
        assert await held.connection.fetchval("SHOW statement_timeout") != "12345ms"


@pytest.mark.real_time
async def test_idle_connections_go_back(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_connections, "_IDLE_S", 0.05)
    store = await connect(max_size=3)
    await asyncio.gather(*(store.read_clock() for _ in range(3)))
    assert free(store) > 0
    own = store._sender.connections._pool
    async with asyncio.timeout(10):
        while free(store) or own.get_idle_size() != own.get_size():
            await asyncio.sleep(0.01)
    await store.read_clock()


async def test_a_connection_goes_back_after_many_statements(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool may replace it: asyncpg does after `max_queries`."""
    monkeypatch.setattr(kept_connections, "_MOST_USES", 10)
    store = await connect()
    lent = Lent(store)
    for _ in range(40):
        await store.read_clock()
    assert lent.count == 4


@pytest.mark.real_time
async def test_a_kept_connection_that_the_server_has_closed_is_not_used(
    connect: Connect, database: asyncpg.Connection
) -> None:
    store = await connect(max_size=1)
    await store.read_clock()
    pid = store._sender.connections._kept._free[0][1].raw.get_server_pid()  # type: ignore[union-attr]
    await database.execute("SELECT pg_terminate_backend($1)", pid)
    async with asyncio.timeout(10):
        while store._sender.connections._kept._free[0][1].is_open:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
    await store.read_clock()


async def test_a_closed_store_has_given_all_back(dsn: str) -> None:
    """Otherwise its pool would wait for them, and then cut them."""
    store = await PostgresWorkflowStore.connect(dsn, max_size=3)
    await asyncio.gather(*(store.read_clock() for _ in range(3)))
    own, connections = store._sender.connections._pool, store._sender.connections
    await connections.settle()
    assert own.get_idle_size() == own.get_size()
    await store.close()
    assert own.get_size() == 0
