"""Whatever happens below, the store says it in the contract's words, and a repeat of the operation is safe."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import pytest
from workflow_runtime.errors import (
    ConfigurationError,
    InvalidArgumentError,
    LeaseLostError,
    SchemaMissingError,
    StoreAccessError,
    StoreError,
    StoreOperationError,
    StoreUnavailableError,
)
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent
from workflow_store_postgres import PostgresWorkflowStore
from workflow_store_postgres.failures import database_errors
from workflow_test_support.relays.postgres_wire import Wire, wire_to
from workflow_test_support.servers.postgres_server import LocalServer

if TYPE_CHECKING:
    from conftest import Scenes

Connect = Callable[..., Awaitable[PostgresWorkflowStore]]

T = TypeVar("T")

ONE = JsonText("1")
NEW: dict[str, Any] = {
    "run_id": "a",
    "workflow_id": "w",
    "workflow_version": "1",
    "input": ONE,
    "operation_id": "create",
    "now_ms": 1,
}
HELD: dict[str, Any] = {"owner": "w", "lease_ms": 10_000}
SIGNAL: dict[str, Any] = {"run_id": "a", "signal_id": "s", "name": "go", "payload": ONE, "now_ms": 5}


def append(token: str, index: int, operation_id: str = "o") -> dict[str, Any]:
    return {
        "run_id": "a",
        "lease_token": token,
        "operation_id": operation_id,
        "expected_next_index": index,
        "events": [NewEvent(kind="step", payload=ONE)],
        "now_ms": 5,
        "lease_ms": 10,
    }


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Wire]:
    async with wire_to(dsn) as wire:
        yield wire


async def start(store: PostgresWorkflowStore) -> str:
    created = await store.create_run(**NEW, **HELD)
    assert created.kind == "created"
    assert created.claim is not None
    return created.claim.lease.token


async def repeated(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call while the store is away, as the runtime does."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except StoreUnavailableError:
                await asyncio.sleep(0.01)


CALLS: dict[str, dict[str, Any]] = {
    "create_run": {key: value for key, value in (NEW | HELD).items() if key != "run_id"},
    "append_events": {key: value for key, value in append("", 0).items() if key not in {"run_id", "lease_token"}},
    "mark_run_paused": {"operation_id": "o", "expected_next_index": 0, "seen_inbox_seq": 0, "now_ms": 5},
    "mark_run_finished": {"operation_id": "o", "expected_next_index": 0, "output": ONE, "now_ms": 5},
    "release_run_lease": {"operation_id": "o", "now_ms": 5},
    "schedule_timer": {"operation_id": "o", "timer_id": "t", "fire_at_ms": 9, "now_ms": 5},
}


@pytest.mark.parametrize("verb", CALLS)
async def test_lost_answer_is_given_again(dsn: str, wire: Wire, verb: str) -> None:
    """The server has committed, and the connection breaks before it can say so."""
    values = CALLS[verb]
    async with PostgresWorkflowStore.connect(wire.dsn, max_size=1) as store:
        token = {} if verb == "create_run" else {"lease_token": await start(store)}
        with suppress(LeaseLostError):  # prepares the statement, so that the next answer is that of its execution
            await getattr(store, verb)(run_id="another", **token, **values)
        wire.swallow_answers = 1
        with pytest.raises(StoreUnavailableError):
            await getattr(store, verb)(run_id="a", **token, **values)
    async with PostgresWorkflowStore.connect(dsn) as other:
        run = await other.load_run(run_id="a")
        assert run is not None
        repeated_answer = await getattr(other, verb)(run_id="a", **token, **values)
        assert await other.load_run(run_id="a") == run, "the repeat wrote something"
        if verb == "create_run":
            assert repeated_answer.kind == "created"
        if verb == "append_events":
            assert repeated_answer.next_index == run.next_index == 1


async def test_signal_whose_answer_was_lost_is_there(connect: Connect, wire: Wire) -> None:
    async with PostgresWorkflowStore.connect(wire.dsn, max_size=1) as store:
        await start(store)
        await store.deliver_signal(**SIGNAL | {"run_id": "another"})
        wire.swallow_answers = 1
        with pytest.raises(StoreUnavailableError):
            await store.deliver_signal(**SIGNAL)
    other = await connect()
    assert (await other.deliver_signal(**SIGNAL)).kind == "duplicate"
    assert len(await other.read_inbox(run_id="a", limit=5)) == 1


async def test_every_backend_may_die_at_any_time(connect: Connect, database: asyncpg.Connection) -> None:
    """Somebody terminates all sessions over and over; each append is done once all the same."""
    store = await connect(max_size=2)
    token = await start(store)
    killed = 0

    async def terminate() -> None:
        nonlocal killed
        while True:
            await asyncio.sleep(0.1)  # a new session must have the time to do something
            killed += await database.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    killer = asyncio.create_task(terminate())
    index = 0
    while killed < 12:
        answer = await repeated(partial(store.append_events, **append(token, index, f"o{index}")))
        assert answer.next_index == index + 1
        await repeated(partial(store.deliver_signal, **SIGNAL | {"signal_id": f"s{index}"}))
        index += 1
    killer.cancel()
    await asyncio.gather(killer, return_exceptions=True)
    log = await repeated(partial(store.read_events, run_id="a", limit=100_000))
    inbox = await repeated(partial(store.read_inbox, run_id="a", limit=100_000))
    assert [event.index for event in log] == list(range(index))
    assert [entry.delivery_id for entry in inbox] == [f"s{number}" for number in range(index)]


async def test_server_restarts_under_a_working_store() -> None:
    with LocalServer() as server:
        async with PostgresWorkflowStore.connect(server.dsn) as store:
            await store.ensure_schema()
            token = await start(store)
            await store.append_events(**append(token, 0))
            await asyncio.to_thread(server.stop)
            with pytest.raises(StoreUnavailableError):
                await store.append_events(**append(token, 1, "p"))
            await asyncio.to_thread(server.start)
            assert (await repeated(lambda: store.append_events(**append(token, 1, "p")))).next_index == 2


async def test_server_that_is_not_there(wire: Wire) -> None:
    wire.refusing = True
    with pytest.raises(StoreUnavailableError):
        async with PostgresWorkflowStore.connect(wire.dsn):
            pass
    with pytest.raises(StoreUnavailableError):
        await PostgresWorkflowStore.connect("postgresql://postgres@127.0.0.1:1/postgres")


async def test_connection_that_breaks_while_the_server_is_away(wire: Wire) -> None:
    async with PostgresWorkflowStore.connect(wire.dsn) as store:
        await store.read_clock()
        wire.refusing = True
        wire.cut()
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                await store.read_clock()
        wire.refusing = False
        assert await store.read_clock() > 0


async def test_pool_without_a_free_connection(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, pool.acquire():
        store = PostgresWorkflowStore(pool, acquire_timeout=timedelta(milliseconds=50))
        with pytest.raises(StoreUnavailableError, match="no free connection"):
            await store.read_clock()


async def test_statement_timeout(scenes: "Scenes", dsn: str, database: asyncpg.Connection) -> None:
    await scenes.queued("a")
    async with PostgresWorkflowStore.connect(dsn, server_settings={"statement_timeout": "50"}) as store:
        async with database.transaction():
            await database.execute("SELECT 1 FROM workflow_event_locks FOR UPDATE")
            with pytest.raises(StoreUnavailableError, match="57014"):
                await store.deliver_signal(**SIGNAL)
        assert (await store.deliver_signal(**SIGNAL)).kind == "buffered"


async def test_lock_timeout(scenes: "Scenes", dsn: str, database: asyncpg.Connection) -> None:
    await scenes.queued("a")
    async with (
        PostgresWorkflowStore.connect(dsn, server_settings={"lock_timeout": "50"}) as store,
        database.transaction(),
    ):
        await database.execute("SELECT 1 FROM workflow_event_locks FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="55P03"):
            await store.terminate_run(run_id="a", now_ms=5)


async def test_command_timeout_of_asyncpg(scenes: "Scenes", dsn: str, database: asyncpg.Connection) -> None:
    await scenes.queued("a")
    async with PostgresWorkflowStore.connect(dsn, command_timeout=0.1) as store, database.transaction():
        await database.execute("SELECT 1 FROM workflow_event_locks FOR UPDATE")
        with pytest.raises(StoreUnavailableError):
            await store.terminate_run(run_id="a", now_ms=5)


async def test_server_that_takes_no_writes(scenes: "Scenes", dsn: str) -> None:
    await scenes.queued("a")
    async with PostgresWorkflowStore.connect(dsn, server_settings={"default_transaction_read_only": "on"}) as store:
        with pytest.raises(StoreUnavailableError, match="takes no writes: a standby"):
            await store.deliver_signal(**SIGNAL)
        assert await store.load_run(run_id="a") is not None


async def test_role_without_rights(scenes: "Scenes", dsn: str, database: asyncpg.Connection) -> None:
    await scenes.queued("a")
    await database.execute("CREATE ROLE nobody_in_particular")
    try:
        async with PostgresWorkflowStore.connect(dsn, server_settings={"role": "nobody_in_particular"}) as store:
            with pytest.raises(StoreAccessError, match="permission denied"):
                await store.deliver_signal(**SIGNAL)
    finally:
        await database.execute("DROP ROLE nobody_in_particular")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"max_size": -1}, ConfigurationError),
        ({"no_such_option": 1}, ConfigurationError),
    ],
)
async def test_options_that_cannot_work(dsn: str, change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        await PostgresWorkflowStore.connect(dsn, **change)


async def test_dsn_that_is_none() -> None:
    with pytest.raises(ConfigurationError):
        await PostgresWorkflowStore.connect("not a dsn")


async def test_too_many_connections(database: asyncpg.Connection, dsn: str) -> None:
    await database.execute("CREATE ROLE modest LOGIN CONNECTION LIMIT 0")
    try:
        with pytest.raises(StoreUnavailableError, match="53300"):
            await PostgresWorkflowStore.connect(dsn, user="modest")
    finally:
        await database.execute("DROP ROLE modest")


async def test_missing_tables_are_named_as_such(empty_dsn: str) -> None:
    async with PostgresWorkflowStore.connect(empty_dsn) as store:
        with pytest.raises(SchemaMissingError, match="ensure_schema"):
            await store.create_run(**NEW)
    async with PostgresWorkflowStore.connect(empty_dsn, schema="nowhere") as store:
        with pytest.raises(SchemaMissingError, match="ensure_schema"):
            await store.load_run(run_id="a")


async def test_payload_that_is_no_json_is_refused_and_nothing_is_written(connect: Connect) -> None:
    store = await connect()
    with pytest.raises(InvalidArgumentError, match="JSON"):
        await store.create_run(**NEW | {"input": JsonText('{"cut')})
    assert await store.load_run(run_id="a") is None


async def test_closed_store_and_closed_pool(dsn: str, connect: Connect) -> None:
    store = await connect()
    await store.close()
    await store.close()
    with pytest.raises(ConfigurationError, match="closed"):
        await store.read_clock()
    with pytest.raises(ConfigurationError, match="closed"):
        await store.ensure_schema()
    pool = await asyncpg.create_pool(dsn, min_size=1)
    users = PostgresWorkflowStore(pool)
    await pool.close()
    with pytest.raises(ConfigurationError, match="pool is closed"):
        await users.read_clock()


async def test_cancelled_call_leaves_the_connection_usable(
    scenes: "Scenes", dsn: str, database: asyncpg.Connection
) -> None:
    await scenes.queued("a")
    async with PostgresWorkflowStore.connect(dsn, max_size=1) as store:
        async with database.transaction():
            await database.execute("SELECT 1 FROM workflow_event_locks FOR UPDATE")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(store.terminate_run(run_id="a", now_ms=5), 0.2)
        run = await asyncio.wait_for(store.load_run(run_id="a"), 20)
        assert run is not None
        assert run.status == "queued"


async def test_deadlock_is_resolved_by_a_repeat(scenes: "Scenes", dsn: str, database: asyncpg.Connection) -> None:
    """The server breaks a deadlock by failing one side; when that is the store, it sends its statement again."""
    await scenes.queued("a")
    await scenes.queued("b")
    await database.execute("SET deadlock_timeout = '10s'")
    async with PostgresWorkflowStore.connect(dsn, server_settings={"deadlock_timeout": "500ms"}) as store:
        await database.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM 1 FROM workflow_event_locks WHERE run_id = 'b' FOR UPDATE; RETURN NEW; END $$"
        )
        await database.execute(
            "CREATE TRIGGER slow BEFORE UPDATE ON workflow_event_locks FOR EACH ROW "
            "WHEN (OLD.run_id = 'a') EXECUTE FUNCTION slow()"
        )
        other = await asyncpg.connect(dsn)
        await other.execute("SET deadlock_timeout = '10s'")
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT 1 FROM workflow_event_locks WHERE run_id = 'b' FOR UPDATE")
        call = asyncio.create_task(store.cancel_run(run_id="a", now_ms=5))
        await asyncio.sleep(0.2)
        await other.execute("SELECT 1 FROM workflow_event_locks WHERE run_id = 'a' FOR UPDATE")
        await transaction.commit()
        assert (await asyncio.wait_for(call, 30)).kind == "requested"
        await other.close()


def classes_below(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(classes_below(below) for below in kind.__subclasses__()))


ASYNCPGS_OWN = sorted(
    {
        kind
        for root in (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
        for kind in classes_below(root)
    }
    | {getattr(asyncpg, name) for name in asyncpg.exceptions.__all__ if issubclass(getattr(asyncpg, name), Exception)},
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", [kind for kind in ASYNCPGS_OWN if not issubclass(kind, Warning)])
def test_every_failure_of_asyncpg_is_one_of_the_contract(kind: type[Exception]) -> None:
    """All of asyncpg's own errors: none escapes, and those that pass are retryable."""
    with pytest.raises((StoreError, ConfigurationError)) as raised, database_errors():
        raise kind("something")
    assert raised.value.__cause__ is not None
    assert type(raised.value.__cause__) is kind
    state = getattr(kind, "sqlstate", None) or ""
    if state[:2] in {"08", "40", "53", "57", "58"} or state in {"25006", "25P03", "25P04", "55006", "55P03", "72000"}:
        assert isinstance(raised.value, StoreUnavailableError)
    elif state[:2] == "28" or state in {"3D000", "42501"}:
        assert isinstance(raised.value, StoreAccessError)
    elif state and kind.__module__.startswith("asyncpg"):
        assert not getattr(raised.value, "retryable", False)


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError("gone"), OSError(28, "No space left")])
def test_failure_of_the_network_or_of_this_machine_passes(error: OSError) -> None:
    with pytest.raises(StoreUnavailableError), database_errors():
        raise error


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"database": "no_such_database"}, "create the database"),
        ({"user": "no_such_role"}, "check user, password"),
    ],
)
async def test_refused_connection_says_what_to_do(dsn: str, change: dict[str, Any], hint: str) -> None:
    with pytest.raises(StoreOperationError, match=hint):
        await PostgresWorkflowStore.connect(dsn, **change)
