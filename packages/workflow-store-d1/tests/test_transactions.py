"""Transactions on a local file: statements that run at once, inside a transaction that others wait for."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime.errors import ConfigurationError, LeaseLostError, StoreUnavailableError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Lease, NewEvent, TransactionWrite
from workflow_store_d1 import D1DatabaseError, D1WorkflowStore, SQLiteTransaction
from workflow_store_d1.limits import MAX_BOUND_VALUES
from workflow_store_d1.local import LocalD1Database

if TYPE_CHECKING:
    from conftest import Scenes

Work = Callable[[SQLiteTransaction], Awaitable[None]]
INSERT = "INSERT INTO business VALUES (?1)"


@pytest.fixture
async def database(store: D1WorkflowStore, open_database: Any) -> LocalD1Database:
    """Another handle on the file, to look behind the store's back."""
    other: LocalD1Database = await open_database(busy_timeout=timedelta(milliseconds=10))
    await other.prepare("CREATE TABLE business (key TEXT NOT NULL UNIQUE)").run()
    return other


async def rows(database: LocalD1Database) -> list[str]:
    found = await database.prepare("SELECT key FROM business ORDER BY key").all()
    return [row["key"] for row in found.results]


async def transact(store: D1WorkflowStore, lease: Lease, work: Work, *, index: int = 0, operation: str = "o") -> int:
    async def write(tx: SQLiteTransaction) -> TransactionWrite:
        await work(tx)
        event = NewEvent(kind="step", payload=JsonText("1"))
        return TransactionWrite(expected_next_index=index, events=(event,), now_ms=1_000_001, lease_ms=10_000)

    appended = await store.append_in_transaction(
        run_id="a", lease_token=lease.token, operation_id=operation, work=write
    )
    return appended.next_index


async def test_statements_run_in_the_order_in_which_they_were_given(
    scenes: "Scenes", database: LocalD1Database
) -> None:
    async def work(tx: SQLiteTransaction) -> None:
        tx.add(INSERT, "added")
        assert await tx.execute(INSERT, "executed") == 1
        assert [row["key"] for row in await tx.fetch("SELECT key FROM business ORDER BY rowid")] == [
            "added",
            "executed",
        ]
        tx.add("UPDATE business SET key = key || '!'")
        assert await rows(database) == []

    assert await transact(scenes.store, await scenes.running("a"), work) == 1
    assert await rows(database) == ["added!", "executed!"]


async def test_what_is_only_added_does_not_hold_the_file(scenes: "Scenes", database: LocalD1Database) -> None:
    async def work(tx: SQLiteTransaction) -> None:
        tx.add(INSERT, "added")
        await database.prepare(INSERT).bind("by another").run()
        await scenes.store.load_run(run_id="a")

    await transact(scenes.store, await scenes.running("a"), work)
    assert await rows(database) == ["added", "by another"]


@pytest.mark.parametrize("reads", [False, True])
async def test_statement_at_once_holds_the_file_until_the_end(
    scenes: "Scenes", database: LocalD1Database, reads: bool
) -> None:
    """Nobody changes the rows that a function has read before it writes, so its write cannot conflict."""

    async def work(tx: SQLiteTransaction) -> None:
        if reads:
            assert await tx.fetch("SELECT key FROM business") == []
        else:
            await tx.execute(INSERT, "executed")
        with pytest.raises(D1DatabaseError, match="locked"):
            await database.prepare(INSERT).bind("by another").run()
        if reads:
            await tx.execute(INSERT, "executed")

    await transact(scenes.store, await scenes.running("a"), work)
    await database.prepare(INSERT).bind("by another").run()
    assert await rows(database) == ["by another", "executed"]


async def test_other_tasks_on_the_handle_wait(scenes: "Scenes", database: LocalD1Database) -> None:
    """A write of another task must not slip into the transaction, to be rolled back with it."""
    lease, begun = await scenes.running("a"), asyncio.Event()

    async def start_another() -> None:
        await begun.wait()
        await scenes.queued("b")

    other = asyncio.create_task(start_another())

    async def work(tx: SQLiteTransaction) -> None:
        await tx.execute(INSERT, "executed")
        begun.set()
        await asyncio.sleep(0.05)
        assert not other.done()
        raise LookupError

    with pytest.raises(LookupError):
        await transact(scenes.store, lease, work)
    await other
    assert await scenes.store.load_run(run_id="b") is not None
    assert await rows(database) == []


async def test_store_inside_its_own_transaction_is_refused_instead_of_waiting_for_ever(scenes: "Scenes") -> None:
    async def work(tx: SQLiteTransaction) -> None:
        await scenes.store.load_run(run_id="a")
        await tx.fetch("SELECT 1")
        await scenes.queued("b")

    lease = await scenes.running("a")
    with pytest.raises(ConfigurationError, match="inside its own transaction"):
        await transact(scenes.store, lease, work)
    await scenes.queued("b")


async def test_statement_that_fails_is_the_function_s_business(scenes: "Scenes", database: LocalD1Database) -> None:
    async def go_on(tx: SQLiteTransaction) -> None:
        await tx.execute(INSERT, "once")
        with pytest.raises(D1DatabaseError, match="UNIQUE"):
            await tx.execute(INSERT, "once")

    async def add_twice(tx: SQLiteTransaction) -> None:
        tx.add(INSERT, "twice")
        tx.add(INSERT, "twice")

    async def end_it(tx: SQLiteTransaction) -> None:
        await tx.execute(INSERT, "rolled back")
        with pytest.raises(D1DatabaseError, match="UNIQUE"):
            await tx.execute("INSERT OR ROLLBACK INTO business VALUES (?1)", "once")
        await tx.execute(INSERT, "in no transaction")

    lease = await scenes.running("a")
    await transact(scenes.store, lease, go_on)
    with pytest.raises(D1DatabaseError, match="UNIQUE"):
        await transact(scenes.store, lease, add_twice, index=1, operation="p")
    with pytest.raises(D1DatabaseError, match="has ended the transaction"):
        await transact(scenes.store, lease, end_it, index=1, operation="q")
    assert await rows(database) == ["once"]


async def test_limits_of_d1_hold_for_the_statements(scenes: "Scenes", database: LocalD1Database) -> None:
    async def bind_too_many(tx: SQLiteTransaction) -> None:
        tx.add("SELECT 1", *range(MAX_BOUND_VALUES + 1))

    async def end_the_transaction(tx: SQLiteTransaction) -> None:
        await tx.execute(INSERT, "committed too early")
        await tx.execute("COMMIT")

    lease = await scenes.running("a")
    with pytest.raises(D1DatabaseError, match="values are bound"):
        await transact(scenes.store, lease, bind_too_many)
    with pytest.raises(D1DatabaseError, match="COMMIT is not allowed"):
        await transact(scenes.store, lease, end_the_transaction)
    assert await rows(database) == []


async def test_collector_is_closed_behind_the_function(scenes: "Scenes") -> None:
    kept: list[SQLiteTransaction] = []

    async def work(tx: SQLiteTransaction) -> None:
        kept.append(tx)

    await transact(scenes.store, await scenes.running("a"), work)
    with pytest.raises(ConfigurationError, match="too late"):
        kept[0].add(INSERT, "late")
    with pytest.raises(ConfigurationError, match="too late"):
        await kept[0].execute(INSERT, "late")


async def test_file_that_another_process_holds_makes_the_store_unavailable(
    scenes: "Scenes", database: LocalD1Database, open_store: Callable[..., Awaitable[D1WorkflowStore]]
) -> None:
    """Retryable, so that the runtime repeats the transaction; not an error of the function."""
    lease = await scenes.running("a")
    impatient = await open_store(busy_timeout=timedelta(milliseconds=10))

    async def work(tx: SQLiteTransaction) -> None:
        await tx.execute(INSERT, "executed")

    async with database.interactive() as transaction:
        await transaction.run([database.prepare("SELECT 1")])
        with pytest.raises(StoreUnavailableError):
            await transact(impatient, lease, work)
    assert await transact(impatient, lease, work) == 1


async def test_fence_is_checked_at_the_commit_too(scenes: "Scenes", database: LocalD1Database) -> None:
    lease = await scenes.running("a")

    async def lose(tx: SQLiteTransaction) -> None:
        await scenes.store.terminate_run(run_id="a", now_ms=5)
        await tx.execute(INSERT, "late")

    with pytest.raises(LeaseLostError):
        await transact(scenes.store, lease, lose)
    assert await rows(database) == []


async def test_cancelled_statement_lets_the_others_go_on(scenes: "Scenes", database: LocalD1Database) -> None:
    """Whatever the thread is doing when the task is cancelled, it is rolled back before anybody else's turn."""
    lease = await scenes.running("a")

    async def work(tx: SQLiteTransaction) -> None:
        while True:
            await tx.execute("INSERT INTO business VALUES (hex(randomblob(16)))")

    for delay in (0, 0.001, 0.005, 0.02):
        call = asyncio.create_task(transact(scenes.store, lease, work))
        await asyncio.sleep(delay)
        call.cancel()
        await scenes.store.load_run(run_id="a")
        await asyncio.wait([call])
        assert call.cancelled()
        assert await rows(database) == []
    await scenes.append("a", lease, 0, [None])


async def test_statement_that_outlives_its_transaction_holds_nobody_up(
    scenes: "Scenes", database: LocalD1Database
) -> None:
    """As a branch of a `gather` does whose other branch failed. It gets its turn when its transaction is over."""
    mine, begun, over = scenes.store.database, asyncio.Event(), asyncio.Event()
    assert isinstance(mine, LocalD1Database)

    async def be_in_the_way() -> None:
        async with mine.interactive() as transaction:
            await transaction.run([mine.prepare("SELECT 1")])
            begun.set()
            await over.wait()

    others: list[asyncio.Task[Any]] = []

    async def leave(tx: SQLiteTransaction) -> None:
        others.append(asyncio.create_task(be_in_the_way(), context=Context()))
        await begun.wait()
        others.append(asyncio.create_task(tx.execute(INSERT, "left")))
        await asyncio.sleep(0)
        raise LookupError

    with pytest.raises(LookupError):
        await transact(scenes.store, await scenes.running("a"), leave)
    over.set()
    with pytest.raises(D1DatabaseError, match="has ended"):
        await others[1]
    await scenes.queued("b")
    assert await rows(database) == []
