"""SCHEDULE: each tick of a schedule fires once, for as long as the schedule lives."""

from __future__ import annotations

from typing import Any

from workflow_runtime.errors import LeaseLostError, ScheduleNotFoundError
from workflow_runtime.store import (
    BucketSkipped,
    BucketStarted,
    ClaimedBucket,
    Deleted,
    NotFound,
    Schedule,
    ScheduleChanged,
    ScheduleUpserted,
)

from ..catalogue import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..scenarios import LEASE_MS, MANY, claim_many, create, record, unchanged

_HOUR = 3_600_000


async def _upsert(h: StoreHarness, schedule_id: str = "nightly", **overrides: Any) -> ScheduleUpserted:
    arguments: dict[str, Any] = {
        "schedule_id": schedule_id,
        "workflow_id": "report",
        "workflow_version": "3",
        "spec": '{"cron":"0 2 * * *"}',
        "input": '{"a":1}',
        "next_fire_at_ms": h.now_ms + _HOUR,
        "now_ms": h.now_ms,
    }
    return await h.store.upsert_schedule(**(arguments | overrides))


async def _claim(h: StoreHarness, **overrides: Any) -> tuple[ClaimedBucket, ...]:
    arguments: dict[str, Any] = {"owner": "worker-1", "lease_ms": LEASE_MS, "now_ms": h.now_ms, "limit": MANY}
    return (await h.second.claim_due_schedule_buckets(**(arguments | overrides))).buckets


async def _claim_one(h: StoreHarness, **overrides: Any) -> ClaimedBucket:
    buckets = await _claim(h, **overrides)
    assert len(buckets) == 1, f"expected one due tick, got {buckets}"
    return buckets[0]


def _mark_arguments(h: StoreHarness, bucket: ClaimedBucket, run_id: str | None, **overrides: Any) -> dict[str, Any]:
    return {
        "schedule_id": bucket.schedule.schedule_id,
        "fire_at_ms": bucket.fire_at_ms,
        "lease_token": bucket.lease.token,
        "operation_id": h.new_id("op"),
        "expected_revision": bucket.schedule.revision,
        "next_fire_at_ms": bucket.fire_at_ms + _HOUR,
        "run_id": run_id,
        "now_ms": h.now_ms,
    } | overrides


async def _mark(h: StoreHarness, bucket: ClaimedBucket, run_id: str | None, **overrides: Any) -> Any:
    return await h.store.mark_schedule_bucket_started(**_mark_arguments(h, bucket, run_id, **overrides))


async def _get(h: StoreHarness, schedule_id: str = "nightly") -> Schedule:
    return await h.second.get_schedule(schedule_id=schedule_id)


@clause("SCHEDULE-1", "SCHEDULE-3")
async def new_schedule(h: StoreHarness) -> None:
    """A new schedule has revision 1 and the given facts, and fires first at `next_fire_at_ms`."""
    facts: dict[str, Any] = {"overlap_policy": "buffer-one", "queue": "slow", "priority": 7}
    answer = await _upsert(h, **facts)
    assert answer.kind == "created"
    schedule = await _get(h)
    assert schedule == answer.schedule
    assert (schedule.workflow_id, schedule.workflow_version, schedule.spec) == ("report", "3", '{"cron":"0 2 * * *"}')
    assert (schedule.overlap_policy, schedule.queue, schedule.priority) == ("buffer-one", "slow", 7)
    assert (schedule.input, schedule.enabled, schedule.revision) == ('{"a":1}', True, 1)
    assert (schedule.next_fire_at_ms, schedule.last_fire_at_ms) == (h.now_ms + _HOUR, None)
    assert (schedule.created_at_ms, schedule.updated_at_ms) == (h.now_ms, h.now_ms)
    assert await _claim(h, now_ms=h.now_ms + _HOUR - 1) == ()
    assert (await _claim_one(h, now_ms=h.now_ms + _HOUR)).fire_at_ms == h.now_ms + _HOUR


@clause("SCHEDULE-2")
async def unchanged_definition_writes_nothing(h: StoreHarness) -> None:
    """The same definition again keeps revision, times and next fire time, whatever fire time it brings."""
    before = (await _upsert(h)).schedule
    h.advance(1_000)
    answer = await _upsert(h, next_fire_at_ms=h.now_ms + 9 * _HOUR)
    assert (answer.kind, answer.schedule) == ("unchanged", before)
    assert await _get(h) == before
    assert (await _upsert(h, next_fire_at_ms=None)).kind == "unchanged"
    assert await _get(h) == before


@clause("SCHEDULE-2")
async def changed_definition_takes_effect(h: StoreHarness) -> None:
    """Any change of the definition takes the new fire time and the next revision."""
    created = (await _upsert(h)).schedule
    changes: list[dict[str, Any]] = [
        {"workflow_id": "other"},
        {"workflow_version": "4"},
        {"spec": '{"cron":"0 3 * * *"}'},
        {"input": "null"},
        {"overlap_policy": "allow"},
        {"queue": "q"},
        {"priority": 1},
        {"enabled": False},
    ]
    definition: dict[str, Any] = {}
    for number, change in enumerate(changes, start=2):
        definition |= change
        h.advance(10)
        answer = await _upsert(h, next_fire_at_ms=h.now_ms + number, **definition)
        assert answer.kind == "updated", f"{change} answered {answer.kind}"
        now = await _get(h)
        assert now == answer.schedule
        assert (now.revision, now.next_fire_at_ms, now.updated_at_ms) == (number, h.now_ms + number, h.now_ms)
        assert (now.created_at_ms, now.last_fire_at_ms) == (created.created_at_ms, None)


@clause("SCHEDULE-3", "SCHEDULE-5")
async def unknown_schedule(h: StoreHarness) -> None:
    """An unknown schedule raises when it is got, and is not found when it is deleted."""
    with refused(ScheduleNotFoundError, "an unknown schedule"):
        await h.store.get_schedule(schedule_id="nothing")
    assert isinstance(await h.store.delete_schedule(schedule_id="nothing"), NotFound)


@clause("SCHEDULE-4", "LIST-3", "ARG-2")
async def schedules_are_paged_by_id(h: StoreHarness) -> None:
    """Pages are ordered by id in order of code points, and miss or double nothing when others come and go."""
    ids = ["B", "a", "a/b", "b", "é", "￿", "😀"]
    for schedule_id in reversed(ids):
        await _upsert(h, schedule_id)
    assert (await h.store.list_schedules(limit=0)).schedules == ()
    seen: list[str] = []
    cursor: str | None = None
    for visit in range(20):
        page = await h.second.list_schedules(limit=2, cursor=cursor)
        seen += [schedule.schedule_id for schedule in page.schedules]
        cursor = page.next_cursor
        if cursor is None:
            break
        await _upsert(h, f"A{visit}")
        await h.store.delete_schedule(schedule_id=f"A{visit - 1}")
    assert [schedule_id for schedule_id in seen if not schedule_id.startswith("A")] == ids
    whole = await h.store.list_schedules(limit=MANY)
    assert whole.next_cursor is None
    assert [s.schedule_id for s in whole.schedules] == sorted(s.schedule_id for s in whole.schedules)


@clause("SCHEDULE-5")
async def deleted_schedule_fires_nothing(h: StoreHarness) -> None:
    """Nothing of a deleted schedule fires, a claimed tick answers `schedule-changed`, and its runs stay."""
    await _upsert(h, next_fire_at_ms=h.now_ms)
    assert isinstance(await _mark(h, await _claim_one(h), "tick-1"), BucketStarted)
    h.advance(_HOUR)
    bucket = await _claim_one(h)
    assert isinstance(await h.second.delete_schedule(schedule_id="nightly"), Deleted)
    assert isinstance(await _mark(h, bucket, "tick-2"), ScheduleChanged)
    assert await h.store.load_run(run_id="tick-2") is None, "a tick of a deleted schedule started a run"
    assert await _claim(h, now_ms=h.now_ms + 100 * _HOUR) == ()
    assert (await record(h, "tick-1")).status == "queued"


@clause("SCHEDULE-5", "SCHEDULE-8")
async def tick_of_a_deleted_schedule_does_not_fit_its_namesake(h: StoreHarness) -> None:
    """A tick claimed before deletion starts nothing for the schedule created under the same id."""
    await _upsert(h, next_fire_at_ms=h.now_ms)
    old = await _claim_one(h)
    await h.second.delete_schedule(schedule_id="nightly")
    await _upsert(h, next_fire_at_ms=h.now_ms)
    new = await _claim_one(h)
    assert new.lease.token != old.lease.token
    try:
        answer = await _mark(h, old, "stolen")
    except LeaseLostError:
        pass
    else:
        assert isinstance(answer, ScheduleChanged), f"a tick of the deleted schedule answered {answer.kind}"
    assert await h.store.load_run(run_id="stolen") is None
    assert isinstance(await _mark(h, new, "mine"), BucketStarted)


@clause("SCHEDULE-6")
async def due_ticks_are_claimed_earliest_first(h: StoreHarness) -> None:
    """Ticks of enabled schedules come earliest first, within the limit; the answer says when the next is due."""
    for schedule_id, delay in (("c", 30), ("a", 20), ("b", 10), ("later", _HOUR)):
        await _upsert(h, schedule_id, next_fire_at_ms=h.now_ms + delay)
    await _upsert(h, "off", next_fire_at_ms=h.now_ms, enabled=False)
    await _upsert(h, "never", next_fire_at_ms=None)
    begin = h.now_ms
    h.advance(30)
    assert await _claim(h, limit=0) == ()
    first = await _claim(h, limit=2)
    assert [(b.schedule.schedule_id, b.fire_at_ms) for b in first] == [("b", begin + 10), ("a", begin + 20)]
    rest = await h.second.claim_due_schedule_buckets(owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms, limit=MANY)
    assert [b.schedule.schedule_id for b in rest.buckets] == ["c"]
    assert rest.next_due_ms is not None
    assert rest.next_due_ms <= begin + _HOUR


@clause("SCHEDULE-6")
async def claimed_tick_belongs_to_its_claimer(h: StoreHarness) -> None:
    """A tick under a live lease is not claimed again; one whose lease expired is, with a new token."""
    await _upsert(h, next_fire_at_ms=h.now_ms)
    first = await _claim_one(h, lease_ms=1_000)
    assert (first.lease.owner, first.lease.expires_at_ms) == ("worker-1", h.now_ms + 1_000)
    assert first.schedule == await _get(h)
    assert await _claim(h, now_ms=h.now_ms + 999) == ()
    h.advance(1_000)
    second = await _claim_one(h, owner="worker-2")
    assert second.fire_at_ms == first.fire_at_ms
    assert second.lease.token != first.lease.token
    with refused(LeaseLostError, "a mark with the token of an older claim"):
        await _mark(h, first, "late")
    assert await h.store.load_run(run_id="late") is None
    assert isinstance(await _mark(h, second, "right"), BucketStarted)


@clause("SCHEDULE-7", "RUN-1")
async def marking_starts_the_run_and_moves_on(h: StoreHarness) -> None:
    """The run, the mark, the next fire time and the high-water mark are one unit."""
    await _upsert(h, next_fire_at_ms=h.now_ms, queue="slow", priority=7, input='{"b":2,"a":1}')
    h.advance(5)
    bucket = await _claim_one(h)
    answer = await _mark(h, bucket, "tick-1")
    assert isinstance(answer, BucketStarted)
    assert answer.run_id == "tick-1"
    run = await record(h, "tick-1")
    assert (run.workflow_id, run.workflow_version, run.input) == ("report", "3", '{"b":2,"a":1}')
    assert (run.queue, run.priority, run.status, run.due_at_ms) == ("slow", 7, "queued", h.now_ms)
    assert (run.created_at_ms, run.next_index, run.inbox_seq) == (h.now_ms, 0, 0)
    schedule = await _get(h)
    assert (schedule.next_fire_at_ms, schedule.last_fire_at_ms) == (bucket.fire_at_ms + _HOUR, bucket.fire_at_ms)
    assert schedule.revision == bucket.schedule.revision
    assert await _claim(h) == ()
    assert [c.run.run_id for c in (await claim_many(h, "claim_pending_runs")).claims] == ["tick-1"]


@clause("SCHEDULE-7")
async def skipping_moves_on_without_a_run(h: StoreHarness) -> None:
    """A tick marked without a run moves the schedule on and starts nothing; without a next time it rests."""
    await _upsert(h, next_fire_at_ms=h.now_ms)
    bucket = await _claim_one(h)
    assert isinstance(await _mark(h, bucket, None, next_fire_at_ms=None), BucketSkipped)
    assert (await h.store.list_runs(limit=9)).runs == ()
    schedule = await _get(h)
    assert (schedule.next_fire_at_ms, schedule.last_fire_at_ms) == (None, bucket.fire_at_ms)
    assert await _claim(h, now_ms=h.now_ms + 100 * _HOUR) == ()


@clause("SCHEDULE-7")
async def existing_run_counts_as_started(h: StoreHarness) -> None:
    """A tick whose run id is there already is started, and the run stays as it is."""
    await _upsert(h, next_fire_at_ms=h.now_ms)
    await create(h, "tick-1", workflow_id="something-else")
    bucket = await _claim_one(h)
    async with unchanged(h, "tick-1", after="a tick with an existing run id"):
        answer = await _mark(h, bucket, "tick-1", now_ms=h.advance(1))
    assert isinstance(answer, BucketStarted)
    assert (await _get(h)).last_fire_at_ms == bucket.fire_at_ms


@clause("SCHEDULE-8")
async def changed_schedule_refuses_the_mark(h: StoreHarness) -> None:
    """When the definition changed after the claim, the mark answers `schedule-changed` and writes nothing."""
    await _upsert(h, next_fire_at_ms=h.now_ms)
    bucket = await _claim_one(h)
    changed = (await _upsert(h, next_fire_at_ms=h.now_ms + 2 * _HOUR, priority=1)).schedule
    assert isinstance(await _mark(h, bucket, "tick-1"), ScheduleChanged)
    assert await h.store.load_run(run_id="tick-1") is None
    assert await _get(h) == changed, "a refused mark changed the schedule"


@clause("SCHEDULE-8", "FENCE-1")
async def wrong_token_refuses_the_mark(h: StoreHarness) -> None:
    """A token that is not the tick's current one raises, and nothing is written."""
    before = (await _upsert(h, next_fire_at_ms=h.now_ms)).schedule
    bucket = await _claim_one(h)
    with refused(LeaseLostError, "a mark with an invented token"):
        await _mark(h, bucket, "tick-1", lease_token="invented")
    with refused(LeaseLostError, "a mark of a tick that nobody claimed"):
        await _mark(h, bucket, "tick-1", fire_at_ms=bucket.fire_at_ms + 1)
    assert await h.store.load_run(run_id="tick-1") is None
    assert await _get(h) == before


@clause("SCHEDULE-8", "FENCE-2")
async def expired_claim_may_still_mark(h: StoreHarness) -> None:
    """A claimer whose lease expired, but whom nobody replaced, may still mark its tick."""
    await _upsert(h, next_fire_at_ms=h.now_ms)
    bucket = await _claim_one(h, lease_ms=1_000)
    h.advance(60_000)
    assert isinstance(await _mark(h, bucket, "tick-1"), BucketStarted)


@clause("SCHEDULE-8", "OP-1", each=("tick-1", ""))
async def repeated_mark_gives_the_first_answer(h: StoreHarness, run_id: str) -> None:
    """The call that marked the tick may be repeated after a lost answer, also when the schedule has changed since."""
    await _upsert(h, next_fire_at_ms=h.now_ms)
    arguments = _mark_arguments(h, await _claim_one(h), run_id or None)
    first = await h.store.mark_schedule_bucket_started(**arguments)
    marked = await _get(h)
    assert await h.second.mark_schedule_bucket_started(**(arguments | {"now_ms": h.advance(9)})) == first
    assert await _get(h) == marked, "the repeated mark moved the schedule again"
    await _upsert(h, next_fire_at_ms=h.now_ms + 5 * _HOUR, priority=3)
    assert await h.second.mark_schedule_bucket_started(**arguments) == first
    assert len((await h.store.list_runs(limit=9)).runs) == (1 if run_id else 0)


@clause("SCHEDULE-8", "FENCE-1")
async def marked_tick_is_not_marked_by_another(h: StoreHarness) -> None:
    """After the mark, the same token under another operation id starts nothing."""
    await _upsert(h, next_fire_at_ms=h.now_ms)
    bucket = await _claim_one(h)
    await _mark(h, bucket, "tick-1")
    try:
        answer = await _mark(h, bucket, "tick-2")
    except LeaseLostError:
        pass
    else:
        assert getattr(answer, "run_id", "tick-1") == "tick-1", "one tick started two runs"
    assert await h.store.load_run(run_id="tick-2") is None, "one tick started two runs"


@clause("SCHEDULE-9")
async def fired_tick_never_fires_again(h: StoreHarness) -> None:
    """A tick at or before the high-water mark is not claimed again, though its run is gone and the definition reset."""
    first = h.now_ms
    await _upsert(h, next_fire_at_ms=first)
    await _mark(h, await _claim_one(h), "tick-1")
    await h.store.delete_run(run_id="tick-1", now_ms=h.now_ms)
    for fire_at_ms in (first, first - _HOUR):
        await _upsert(h, next_fire_at_ms=fire_at_ms, priority=(first - fire_at_ms) // _HOUR + 1)
        assert (await _get(h)).last_fire_at_ms == first
        assert await _claim(h, now_ms=first + 100) == (), "a tick fired a second time"
    await _upsert(h, next_fire_at_ms=first + 1, priority=9)
    assert (await _claim_one(h, now_ms=first + 100)).fire_at_ms == first + 1
