"""Each verb is one statement and, on a pool of the store's own, one round trip: counted on the wire."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from postgres_wire import Wire, wire_to
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Awaited, NewEvent, Timer
from workflow_store_postgres import PostgresWorkflowStore

ONE = JsonText("1")
NEXT_TRANSACTION = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
"""A transaction that only reads gets no number."""


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Wire]:
    async with wire_to(dsn) as wire:
        yield wire


@pytest.fixture
async def store(wire: Wire) -> AsyncIterator[PostgresWorkflowStore]:
    """One connection, so that a statement that was prepared is prepared for all."""
    async with PostgresWorkflowStore.connect(wire.dsn, max_size=1) as store:
        yield store


def run(run_id: str, **options: Any) -> dict[str, Any]:
    facts = {"workflow_id": "w", "workflow_version": "1", "input": ONE, "operation_id": "create", "now_ms": 1}
    return {"run_id": run_id, **facts, **options}


HELD: dict[str, Any] = {"owner": "w", "lease_ms": 10}
BATCH: dict[str, Any] = {**HELD, "now_ms": 100, "limit": 10}

ONE_TRIP: dict[str, tuple[str, dict[str, Any]]] = {
    "start": ("create_run", run("{new}")),
    "start and claim": ("create_run", run("{new}", **HELD)),
    "start again": ("create_run", run("queued", operation_id="another")),
    "load": ("load_run", {"run_id": "queued"}),
    "load with history": ("load_execution", {"run_id": "paused"}),
    "claim": ("claim_run", {"run_id": "queued", **HELD, "now_ms": 100, "max_crashes": 9}),
    "claim in vain": ("claim_run", {"run_id": "nobody", **HELD, "now_ms": 100, "max_crashes": 3}),
    "claim pending": ("claim_pending_runs", BATCH),
    "claim stale": ("claim_stale_runs", {**BATCH, "max_crashes": 9}),
    "claim timers": ("claim_due_timers", BATCH),
    "list pending": ("list_pending_runs", {"now_ms": 100, "limit": 10}),
    "signal": (
        "deliver_signal",
        {"run_id": "paused", "signal_id": "{new}", "name": "go", "payload": ONE, "now_ms": 5},
    ),
    "signal again": (
        "deliver_signal",
        {"run_id": "queued", "signal_id": "s", "name": "go", "payload": ONE, "now_ms": 5},
    ),
    "signal nobody": ("deliver_signal", {"run_id": "no", "signal_id": "s", "name": "go", "payload": ONE, "now_ms": 5}),
    "approval": ("deliver_approval", {"run_id": "queued", "approval_id": "{new}", "approved": True, "now_ms": 5}),
    "inbox": ("read_inbox", {"run_id": "queued", "limit": 10}),
    "cancel": ("cancel_run", {"run_id": "queued", "now_ms": 5}),
    "terminate": ("terminate_run", {"run_id": "queued", "now_ms": 5}),
    "requeue": ("requeue_run", {"run_id": "queued", "now_ms": 5}),
    "delete": ("delete_run", {"run_id": "queued", "now_ms": 5}),
    "prune": ("prune_runs", {"finished_before_ms": 500, "limit": 10}),
    "events": ("read_events", {"run_id": "paused", "limit": 10}),
    "list": ("list_runs", {"limit": 10}),
    "count": ("count_runs", {}),
    "timeline": ("get_run_timeline", {"run_id": "paused"}),
    "clock": ("read_clock", {}),
    "upsert schedule": (
        "upsert_schedule",
        {
            "schedule_id": "s",
            "workflow_id": "w",
            "workflow_version": "1",
            "spec": ONE,
            "input": ONE,
            "next_fire_at_ms": 5,
            "now_ms": 1,
        },
    ),
    "list schedules": ("list_schedules", {"limit": 10}),
    "delete schedule": ("delete_schedule", {"schedule_id": "s"}),
    "claim ticks": ("claim_due_schedule_buckets", BATCH),
}

BY_THE_DRIVER: dict[str, tuple[str, dict[str, Any]]] = {
    "append one": (
        "append_events",
        {"events": [NewEvent(kind="step", payload=ONE)], "expected_next_index": 0, "lease_ms": 10, "now_ms": 5},
    ),
    "append with everything": (
        "append_events",
        {
            "events": [NewEvent(kind="step", payload=ONE)] * 101,
            "expected_next_index": 0,
            "lease_ms": 10,
            "now_ms": 5,
            "taken_inbox": list(range(1, 102)),
            "set_timers": [Timer(timer_id=f"t{number}", fire_at_ms=9) for number in range(101)],
            "removed_timers": [f"r{number}" for number in range(101)],
        },
    ),
    "pause": (
        "mark_run_paused",
        {
            "events": [NewEvent(kind="wait", payload=ONE)],
            "expected_next_index": 0,
            "seen_inbox_seq": 0,
            "now_ms": 5,
            "set_timers": [Timer(timer_id="t", fire_at_ms=9)],
            "awaited": [Awaited(kind="signal", name="go", step_id="w")],
        },
    ),
    "finish": ("mark_run_finished", {"expected_next_index": 0, "output": ONE, "now_ms": 5}),
    "fail": ("mark_run_errored", {"expected_next_index": 0, "error": ONE, "now_ms": 5}),
    "release": ("release_run_lease", {"now_ms": 5}),
    "timer": ("schedule_timer", {"timer_id": "t", "fire_at_ms": 9, "now_ms": 5}),
}


async def start(store: PostgresWorkflowStore, run_id: str) -> str:
    created = await store.create_run(**run(run_id, **HELD))
    assert created.kind == "created"
    assert created.claim is not None
    return created.claim.lease.token


async def prepare(store: PostgresWorkflowStore) -> None:
    """Make a queued and a paused run."""
    await store.create_run(**run("queued"))
    verb, values = BY_THE_DRIVER["pause"]
    await getattr(store, verb)(run_id="paused", lease_token=await start(store, "paused"), operation_id="p", **values)


def named(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: name if value == "{new}" else value for key, value in values.items()}


def counted(wire: Wire) -> tuple[int, int]:
    counts = (wire.trips, wire.statements)
    wire.reset()
    return counts


@pytest.mark.parametrize("work", ONE_TRIP)
async def test_call_is_one_statement_and_one_trip(store: PostgresWorkflowStore, wire: Wire, work: str) -> None:
    await prepare(store)
    verb, values = ONE_TRIP[work]
    await getattr(store, verb)(**named(values, "first"))  # prepares the statement
    wire.reset()
    await getattr(store, verb)(**named(values, "second"))
    assert counted(wire) == (1, 1)


@pytest.mark.parametrize("work", BY_THE_DRIVER)
async def test_drivers_write_is_one_trip_and_its_repeat_two(
    store: PostgresWorkflowStore, wire: Wire, work: str
) -> None:
    verb, values = BY_THE_DRIVER[work]
    for run_id in ("first", "second"):
        token = await start(store, run_id)
        for expected in ((1, 1), (2, 2)):  # what wrote nothing is explained by a second statement
            wire.reset()
            await getattr(store, verb)(run_id=run_id, lease_token=token, operation_id="o", **values)
            assert run_id == "first" or counted(wire) == expected


async def test_heartbeat_is_one_statement(store: PostgresWorkflowStore, wire: Wire) -> None:
    token = await start(store, "a")
    for _ in range(2):
        wire.reset()
        await store.heartbeat_run_lease(run_id="a", lease_token=token, lease_ms=10, now_ms=5)
    assert counted(wire) == (1, 1)


async def test_tick_is_one_trip_to_claim_and_one_to_start(store: PostgresWorkflowStore, wire: Wire) -> None:
    for schedule_id in ("s", "t"):
        await store.upsert_schedule(**ONE_TRIP["upsert schedule"][1] | {"schedule_id": schedule_id})
        wire.reset()
        (bucket,) = (await store.claim_due_schedule_buckets(**BATCH)).buckets
        await store.mark_schedule_bucket_started(
            schedule_id=schedule_id,
            fire_at_ms=bucket.fire_at_ms,
            lease_token=bucket.lease.token,
            operation_id="o",
            expected_revision=1,
            next_fire_at_ms=None,
            run_id=f"ticked by {schedule_id}",
            now_ms=100,
        )
    assert counted(wire) == (2, 2)


async def test_claim_of_many_runs_is_one_statement(store: PostgresWorkflowStore, wire: Wire) -> None:
    for count in (1, 30):
        for number in range(count):
            await store.create_run(**run(f"{count}-{number}"))
        wire.reset()
        claimed = await store.claim_pending_runs(**{**BATCH, "limit": count})
        assert len(claimed.claims) == count
    assert counted(wire) == (1, 1)


async def test_pool_of_the_users_adds_its_reset(dsn: str) -> None:
    async with wire_to(dsn) as wire, asyncpg.create_pool(wire.dsn, min_size=1, max_size=1) as pool:
        store = PostgresWorkflowStore(pool)
        await store.read_clock()
        wire.reset()
        await store.read_clock()
        assert counted(wire) == (2, 2)


async def test_without_statement_cache_the_statement_is_prepared_each_time(dsn: str) -> None:
    async with (
        wire_to(dsn) as wire,
        PostgresWorkflowStore.connect(wire.dsn, max_size=1, statement_cache_size=0) as store,
    ):
        await store.read_clock()
        wire.reset()
        await store.read_clock()
        assert counted(wire) == (2, 1)


async def test_no_statement_is_too_long_for_the_cache(store: PostgresWorkflowStore) -> None:
    """asyncpg does not keep longer ones."""
    assert max(len(sql) for sql in store._session._sql.values()) < 15 * 1024


async def test_idle_polls_write_nothing(store: PostgresWorkflowStore, database: asyncpg.Connection) -> None:
    await prepare(store)
    await store.claim_pending_runs(**BATCH)
    idle: dict[str, Any] = {"owner": "w", "lease_ms": 10, "now_ms": 2, "limit": 10}

    async def transactions_that_wrote() -> int:
        before = await database.fetchval(NEXT_TRANSACTION)
        await store.claim_pending_runs(**idle)
        await store.claim_stale_runs(**idle, max_crashes=3)
        await store.claim_due_timers(**idle)
        await store.claim_due_schedule_buckets(**idle)
        written: int = await database.fetchval(NEXT_TRANSACTION) - before
        return written

    # The server's own vacuum may write meanwhile, but not every time.
    assert 0 in [await transactions_that_wrote() for _ in range(5)]


async def test_appends_and_renewals_are_hot_updates(store: PostgresWorkflowStore, database: asyncpg.Connection) -> None:
    """Neither moves the head to another page or touches its indexes."""
    token, count = await start(store, "a"), 1_000
    for index in range(count):
        await store.append_events(
            run_id="a",
            lease_token=token,
            operation_id=f"o{index}",
            expected_next_index=index,
            events=[NewEvent(kind="step", payload=ONE)],
            now_ms=index,
            lease_ms=10,
        )
        await store.heartbeat_run_lease(run_id="a", lease_token=token, lease_ms=20, now_ms=index)
    updates = await _updates_of_heads(store, database, 2 * count)
    assert updates["n_tup_hot_upd"] >= 0.98 * updates["n_tup_upd"], dict(updates)


async def _updates_of_heads(store: PostgresWorkflowStore, database: asyncpg.Connection, least: int) -> Any:
    """Read the server's counts, which sessions hand in when they are idle."""
    async with asyncio.timeout(20):
        while True:
            async with store._session.transaction() as writer:
                await writer.execute("SELECT pg_stat_force_next_flush()")
            counts = await database.fetchrow(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'workflow_event_locks'"
            )
            if counts["n_tup_upd"] >= least:
                return counts
            await asyncio.sleep(0.05)
