"""With a synchronous standby, an answer means that the standby has it, also the answer to a repeat.

A connection that breaks while a commit waits for the standby leaves a commit that everybody sees and the standby does
not have. Whoever asks again finds it done; answered at once, it would be lost with the primary.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from workflow_runtime.errors import LeaseLostError, StoreUnavailableError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent, RunToCreate, SignalToDeliver
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_pair import ServerPair

ONE = JsonText("1")
NEW: dict[str, Any] = {
    "workflow_id": "w",
    "workflow_version": "1",
    "input": ONE,
    "operation_id": "create",
    "now_ms": 1,
}
WRITE: dict[str, Any] = {"operation_id": "o", "now_ms": 5}
LOG: dict[str, Any] = WRITE | {"expected_next_index": 0}
APPROVAL: dict[str, Any] = {"approval_id": "a", "approved": True, "now_ms": 5}
SCHEDULE: dict[str, Any] = {
    "workflow_id": "w",
    "workflow_version": "1",
    "spec": ONE,
    "input": ONE,
    "next_fire_at_ms": 9,
    "now_ms": 5,
}

DRIVER: dict[str, dict[str, Any]] = {
    "append_events": LOG | {"events": [NewEvent(kind="step", payload=ONE)], "lease_ms": 10_000},
    "mark_run_paused": LOG | {"seen_inbox_seq": 0},
    "mark_run_finished": LOG | {"output": ONE},
    "mark_run_errored": LOG | {"error": ONE},
    "release_run_lease": WRITE,
    "schedule_timer": WRITE | {"timer_id": "t", "fire_at_ms": 9},
}
OUTSIDE: dict[str, dict[str, Any]] = {
    "deliver_signal": {"signal_id": "s", "name": "go", "payload": ONE, "now_ms": 5},
    "deliver_approval": APPROVAL,
    "cancel_run": {"now_ms": 5},
    "terminate_run": {"now_ms": 5},
}

Connect = Callable[[], Awaitable[PostgresWorkflowStore]]


@pytest.fixture(scope="module")
def pair() -> Iterator[ServerPair]:
    with ServerPair() as pair:
        yield pair


@pytest.fixture
async def store(pair: ServerPair) -> AsyncIterator[PostgresWorkflowStore]:
    async with PostgresWorkflowStore.connect(pair.dsn, max_size=1) as store:
        await store.ensure_schema()
        yield store


async def cut_off(pair: ServerPair, call: Awaitable[Any]) -> None:
    """Let a call commit, and break its connection while it waits for the standby."""
    calling = asyncio.ensure_future(call)
    connection = await asyncpg.connect(pair.dsn)
    async with asyncio.timeout(30):
        while not await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        ):
            await asyncio.sleep(0.01)
    await connection.close()
    with pytest.raises(StoreUnavailableError):
        await calling


async def check(pair: ServerPair, call: Callable[[], Awaitable[Any]]) -> Any:
    """The repeat of a call that was cut off is answered when the standby has it, and not before."""
    with pair.held_replication():
        await cut_off(pair, call())
        repeat = asyncio.ensure_future(call())
        done, _ = await asyncio.wait([repeat], timeout=0.3)
        assert not done, "answered, though the standby does not have it"
    return await asyncio.wait_for(repeat, 30)


async def start(store: PostgresWorkflowStore, run_id: str) -> str:
    created = await store.create_run(run_id=run_id, **NEW, owner="w", lease_ms=10_000)
    assert created.kind == "created"
    assert created.claim is not None
    return created.claim.lease.token


@pytest.mark.parametrize("verb", DRIVER)
async def test_repeat_of_a_drivers_write_waits_for_the_standby(
    pair: ServerPair, store: PostgresWorkflowStore, verb: str
) -> None:
    token = await start(store, verb)
    write = getattr(store, verb)
    await check(pair, lambda: write(run_id=verb, lease_token=token, **DRIVER[verb]))
    if verb not in {"append_events", "schedule_timer"}:
        with pytest.raises(LeaseLostError):
            await write(run_id=verb, lease_token=token, **DRIVER[verb] | {"operation_id": "another"})


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("deliver_signal", "duplicate"),
        ("deliver_approval", "already-decided"),
        ("cancel_run", "duplicate"),
        ("terminate_run", "finished"),
    ],
)
async def test_repeat_from_outside_waits_for_the_standby(
    pair: ServerPair, store: PostgresWorkflowStore, verb: str, kind: str
) -> None:
    await start(store, verb)
    call = getattr(store, verb)
    assert (await check(pair, lambda: call(run_id=verb, **OUTSIDE[verb]))).kind == kind


@pytest.mark.parametrize(("operation_id", "kind"), [("create", "created"), ("another", "existing")])
async def test_repeated_creation_waits_for_the_standby(
    pair: ServerPair, store: PostgresWorkflowStore, operation_id: str, kind: str
) -> None:
    """Under the same operation, and by somebody else who finds the run there."""
    operations = iter(["create", operation_id])
    run_id = f"created-{operation_id}"
    answer = await check(pair, lambda: store.create_run(run_id=run_id, **NEW | {"operation_id": next(operations)}))
    assert answer.kind == kind


@pytest.mark.parametrize(("operation_id", "kind"), [("create", "created"), ("another", "existing")])
async def test_repeated_creation_of_many_waits_for_the_standby(
    pair: ServerPair, store: PostgresWorkflowStore, operation_id: str, kind: str
) -> None:
    operations = iter(["create", operation_id])

    def create() -> Awaitable[Any]:
        facts = {name: value for name, value in NEW.items() if name != "now_ms"} | {"operation_id": next(operations)}
        runs = [RunToCreate(run_id=f"many-{operation_id}-{number}", **facts) for number in range(3)]
        return store.create_runs(runs=runs, now_ms=1)

    assert [answer.kind for answer in await check(pair, create)] == [kind] * 3


async def test_repeated_deliveries_of_many_wait_for_the_standby(pair: ServerPair, store: PostgresWorkflowStore) -> None:
    await start(store, "signalled")
    signals = [SignalToDeliver(run_id="signalled", signal_id=f"s{number}", name="go") for number in range(3)]
    answers = await check(pair, lambda: store.deliver_signals(signals=signals, now_ms=5))
    assert [answer.kind for answer in answers] == ["duplicate"] * 3


async def test_repeated_schedule_waits_for_the_standby(pair: ServerPair, store: PostgresWorkflowStore) -> None:
    answer = await check(pair, lambda: store.upsert_schedule(schedule_id="nightly", **SCHEDULE))
    assert answer.kind == "unchanged"


async def test_repeated_request_for_ticks_waits_for_the_standby(pair: ServerPair, store: PostgresWorkflowStore) -> None:
    await store.upsert_schedule(schedule_id="asked", **SCHEDULE)
    call = store.request_schedule_buckets
    answer = await check(pair, lambda: call(schedule_id="asked", fire_times_ms=[1, 2], now_ms=5))
    assert answer.count == 0


async def test_repeated_settlement_of_a_tick_waits_for_the_standby(
    pair: ServerPair, store: PostgresWorkflowStore
) -> None:
    await store.upsert_schedule(schedule_id="settled", **SCHEDULE | {"workflow_id": "settled"})
    claims = await store.claim_due_schedule_buckets(owner="w", lease_ms=10, now_ms=9, limit=1, workflow_ids=["settled"])
    (tick,) = claims.buckets
    answer = await check(
        pair,
        lambda: store.mark_schedule_bucket_started(
            schedule_id="settled",
            fire_at_ms=tick.fire_at_ms,
            lease_token=tick.lease.token,
            expected_revision=1,
            action="start",
            run_id="settled",
            **WRITE,
        ),
    )
    assert answer.kind == "started"
