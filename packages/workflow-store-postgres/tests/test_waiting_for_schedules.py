"""Statements that had to wait for a schedule act on what is there then, not on what was before.

As in `test_waiting`: a transaction holds the row, the store's call queues up behind it, and only then it commits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from test_waiting import PoolOfOne, until_waiting
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import ClaimedBucket
from workflow_store_postgres import PostgresWorkflowStore

ONE = JsonText("1")
SCHEDULE: dict[str, Any] = {
    "schedule_id": "s",
    "workflow_id": "w",
    "workflow_version": "1",
    "spec": ONE,
    "input": ONE,
    "next_fire_at_ms": 5,
    "now_ms": 1,
}
Behind = Callable[..., Any]


@pytest.fixture
async def store(connect: Callable[..., Awaitable[PostgresWorkflowStore]]) -> PostgresWorkflowStore:
    store = await connect()
    await store.ensure_schema()
    await store.upsert_schedule(**SCHEDULE)
    return store


@pytest.fixture
async def behind(dsn: str, store: PostgresWorkflowStore, database: asyncpg.Connection) -> AsyncIterator[Behind]:
    """`async with behind(call, ...)`: the calls wait for the schedule until the block has done its own writes."""
    holder = await asyncpg.connect(dsn)

    @asynccontextmanager
    async def wait_behind(
        *calls: Callable[[], Awaitable[Any]],
    ) -> AsyncIterator[tuple[PostgresWorkflowStore, list[Any], list[Callable[[], Awaitable[Any]]]]]:
        answers: list[Any] = []
        late = list(calls)
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("SELECT 1 FROM workflow_schedules FOR UPDATE")
        held = PostgresWorkflowStore(PoolOfOne(holder), listen=False)
        yield held, answers, late
        tasks = [asyncio.ensure_future(call()) for call in late]
        await until_waiting(database, len(tasks))
        await held.close()  # or its notices would go out later, on the connection that commits
        await transaction.commit()
        answers += await asyncio.wait_for(asyncio.gather(*tasks), 20)

    yield wait_behind
    await holder.close()


async def claimed(store: PostgresWorkflowStore, now_ms: int = 9, lease_ms: int = 10) -> ClaimedBucket:
    claims = await store.claim_due_schedule_buckets(owner="w", lease_ms=lease_ms, now_ms=now_ms, limit=5)
    (tick,) = claims.buckets
    return tick


async def settle(store: PostgresWorkflowStore, tick: ClaimedBucket, action: Any, **options: Any) -> Any:
    values: dict[str, Any] = {
        "schedule_id": "s",
        "fire_at_ms": tick.fire_at_ms,
        "lease_token": tick.lease.token,
        "operation_id": f"settle {tick.fire_at_ms}",
        "expected_revision": tick.schedule.revision,
        "next_fire_at_ms": tick.fire_at_ms + 1,
        "now_ms": 9,
    }
    return await store.mark_schedule_bucket_started(action=action, **values | options)


async def test_start_that_waited_for_the_start_of_the_previous_run_overlaps(
    store: PostgresWorkflowStore, behind: Behind
) -> None:
    """The run that was started meanwhile is not there for the waiting statement: it must not take it for ended."""
    async with behind() as (holder, answers, late):
        assert (await settle(holder, await claimed(holder), "start", run_id="first")).kind == "started"
        second = await claimed(holder)
        assert second.overlapping_run_id == "first"
        late.append(lambda: settle(store, second, "start", run_id="second"))
    assert (answers[0].kind, answers[0].run_id) == ("overlapping", "first")
    assert await store.load_run(run_id="second") is None


async def test_tick_requested_while_a_settlement_waits_is_kept(store: PostgresWorkflowStore, behind: Behind) -> None:
    tick = await claimed(store)
    async with behind(lambda: settle(store, tick, "skip", next_fire_at_ms=None)) as (holder, answers, _):
        await holder.request_schedule_buckets(schedule_id="s", fire_times_ms=[77], now_ms=9)
    assert answers[0].kind == "skipped"
    assert (await claimed(store)).fire_at_ms == 77


async def test_request_that_waits_for_the_settlement_of_its_tick_is_new(
    store: PostgresWorkflowStore, behind: Behind
) -> None:
    await store.request_schedule_buckets(schedule_id="s", fire_times_ms=[3], now_ms=9)
    tick = await claimed(store)

    def request_again() -> Awaitable[Any]:
        return store.request_schedule_buckets(schedule_id="s", fire_times_ms=[3, 4], now_ms=9)

    async with behind(request_again) as (holder, answers, _):
        assert (await settle(holder, tick, "skip")).kind == "skipped"
    assert answers[0].count == 2
    assert (await claimed(store)).fire_at_ms == 3


async def test_twins_that_request_together_count_each_tick_once(store: PostgresWorkflowStore, behind: Behind) -> None:
    def request() -> Awaitable[Any]:
        return store.request_schedule_buckets(schedule_id="s", fire_times_ms=[3, 4], now_ms=9)

    async with behind(request) as (holder, answers, _):
        await holder.request_schedule_buckets(schedule_id="s", fire_times_ms=[2, 3], now_ms=9)
    assert answers[0].count == 1
    assert (await claimed(store)).fire_at_ms == 2


async def test_change_that_waits_for_a_settlement_keeps_what_was_settled(
    store: PostgresWorkflowStore, behind: Behind
) -> None:
    tick = await claimed(store)
    async with behind(lambda: store.upsert_schedule(**SCHEDULE | {"priority": 3})) as (holder, answers, _):
        await settle(holder, tick, "start", run_id="first")
    schedule = answers[0].schedule
    assert (answers[0].kind, schedule.last_fire_at_ms, schedule.next_fire_at_ms) == ("updated", 5, 6)
    assert (schedule.previous_run_id, schedule.revision, schedule.priority) == ("first", 2, 3)


async def test_change_that_waits_for_another_of_the_same_revision_is_a_conflict(
    store: PostgresWorkflowStore, behind: Behind
) -> None:
    def change() -> Awaitable[Any]:
        return store.upsert_schedule(**SCHEDULE | {"priority": 3}, expected_revision=1)

    async with behind(change) as (holder, answers, _):
        await holder.upsert_schedule(**SCHEDULE | {"priority": 4}, expected_revision=1)
    assert (answers[0].kind, answers[0].schedule.priority) == ("conflict", 4)


@pytest.mark.parametrize("expected_revision", [None, 1])
async def test_change_that_waits_for_a_deletion_creates_only_what_it_may(
    store: PostgresWorkflowStore, behind: Behind, expected_revision: int | None
) -> None:
    def change() -> Awaitable[Any]:
        return store.upsert_schedule(**SCHEDULE | {"priority": 3}, expected_revision=expected_revision)

    async with behind(change) as (holder, answers, _):
        await holder.delete_schedule(schedule_id="s")
    assert answers[0].kind == ("created" if expected_revision is None else "conflict")


async def test_settlement_that_waits_for_the_deletion_starts_nothing(
    store: PostgresWorkflowStore, behind: Behind
) -> None:
    tick = await claimed(store)
    async with behind(lambda: settle(store, tick, "start", run_id="first")) as (holder, answers, _):
        await holder.delete_schedule(schedule_id="s")
    assert answers[0].kind == "schedule-changed"
    assert await store.load_run(run_id="first") is None


async def test_deletion_that_waits_for_a_request_removes_the_ticks(
    store: PostgresWorkflowStore, behind: Behind, database: asyncpg.Connection
) -> None:
    async with behind(lambda: store.delete_schedule(schedule_id="s")) as (holder, answers, _):
        await holder.request_schedule_buckets(schedule_id="s", fire_times_ms=[3], now_ms=9)
    assert answers[0].kind == "deleted"
    assert await database.fetchval("SELECT count(*) FROM workflow_schedule_buckets") == 0


async def test_claim_that_was_held_up_knows_the_run_that_was_started_meanwhile(
    store: PostgresWorkflowStore, dsn: str, database: asyncpg.Connection
) -> None:
    """The claim is held up after it has read the schedule as of its beginning, and before it locks it."""
    await database.execute("SELECT pg_advisory_lock(1)")
    async with PostgresWorkflowStore.connect(dsn, max_size=1) as slow:
        place = "SELECT candidate.schedule_id FROM candidate"
        sql = slow._sender.sql("claim_due_schedule_buckets")
        assert sql.count(place) == 1
        held_up = sql.replace(place, f"{place} WHERE (SELECT pg_advisory_xact_lock(1)) IS NOT NULL")
        slow._sender._sql = {"claim_due_schedule_buckets": held_up}
        late = asyncio.ensure_future(claimed(slow))
        await until_waiting(database, 1)
        await settle(store, await claimed(store), "start", run_id="first")
        await database.execute("SELECT pg_advisory_unlock(1)")
        tick = await asyncio.wait_for(late, 20)
    assert (tick.fire_at_ms, tick.overlapping_run_id) == (6, "first")
    assert tick.schedule.previous_run_id == "first"
