"""SCHEDULE: creating, changing, listing and deleting schedules. Their ticks are the subject of `ticks`."""

from __future__ import annotations

from typing import Any

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError, ScheduleNotFoundError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    BucketSkipped,
    BucketStarted,
    Deleted,
    NotFound,
    RequestedBucket,
    Schedule,
    ScheduleChanged,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..samples import MANY
from ..scenarios import record
from ..ticking import (
    HOUR,
    claim_tick,
    claim_ticks,
    end_run,
    get_schedule,
    request,
    settle,
    settle_arguments,
    start_tick,
    upsert,
)


@clause("SCHEDULE-1", "SCHEDULE-5")
async def new_schedule(h: StoreHarness) -> None:
    """A new schedule has revision 1 and the given facts, and fires first at `next_fire_at_ms`."""
    facts: dict[str, Any] = {"overlap_policy": "buffer-one", "queue": "slow", "priority": 7}
    answer = await upsert(h, next_fire_at_ms=h.now_ms + HOUR, **facts)
    assert answer.kind == "created"
    schedule = await get_schedule(h)
    assert schedule == answer.schedule
    assert (schedule.workflow_id, schedule.workflow_version, schedule.spec) == ("report", "3", '{"cron":"0 2 * * *"}')
    assert (schedule.overlap_policy, schedule.queue, schedule.priority) == ("buffer-one", "slow", 7)
    assert (schedule.input, schedule.enabled, schedule.revision) == ('{"a":1}', True, 1)
    assert (schedule.next_fire_at_ms, schedule.last_fire_at_ms) == (h.now_ms + HOUR, None)
    assert (schedule.previous_run_id, schedule.buffered_fire_at_ms) == (None, None)
    assert (schedule.created_at_ms, schedule.updated_at_ms) == (h.now_ms, h.now_ms)
    assert (await claim_ticks(h, now_ms=h.now_ms + HOUR - 1)).buckets == ()
    assert (await claim_tick(h, now_ms=h.now_ms + HOUR)).fire_at_ms == h.now_ms + HOUR


@clause("ARG-4", "SCHEDULE-1", schedules=True)
async def new_schedule_of_which_little_is_said(h: StoreHarness) -> None:
    """Arguments that are left out have the contract's values: a schedule skips overlaps, for the common queue."""
    await h.store.upsert_schedule(
        schedule_id="nightly",
        workflow_id="report",
        workflow_version="3",
        spec=JsonText('"daily"'),
        input=JsonText("null"),
        next_fire_at_ms=h.now_ms,
        now_ms=h.now_ms,
    )
    schedule = await get_schedule(h)
    assert (schedule.overlap_policy, schedule.queue, schedule.priority) == ("skip", "default", 0)
    assert schedule.enabled


@clause("SCHEDULE-1", "SCHEDULE-7")
async def new_schedule_under_a_known_id(h: StoreHarness) -> None:
    """A schedule created under the id of a deleted one knows nothing of its life: no ticks, no runs, no marks."""
    await upsert(h)
    await start_tick(h, "tick-1")
    await request(h, h.now_ms + 5)
    await settle(h, await claim_tick(h), "buffer")
    await request(h, h.now_ms + 6, h.now_ms + 7)
    await h.store.delete_schedule(schedule_id="nightly")
    created = (await upsert(h, next_fire_at_ms=h.now_ms + HOUR)).schedule
    assert created is not None
    assert (created.revision, created.last_fire_at_ms) == (1, None)
    assert (created.previous_run_id, created.buffered_fire_at_ms) == (None, None)
    await end_run(h, "tick-1")
    assert (await claim_ticks(h)).buckets == ()
    assert await request(h, h.now_ms + 6) == 1
    await settle(h, await claim_tick(h), "skip")
    assert (await claim_ticks(h)).buckets == (), "a tick requested of the deleted schedule was claimed"


@clause("SCHEDULE-2")
async def unchanged_definition_writes_nothing(h: StoreHarness) -> None:
    """The same definition again keeps revision, times and next fire time, whatever fire time it brings."""
    before = (await upsert(h)).schedule
    tick = await claim_tick(h)
    h.advance(1_000)
    for again in ({"next_fire_at_ms": h.now_ms + 9 * HOUR}, {"next_fire_at_ms": None}, {"enabled": True}):
        answer = await upsert(h, **again)
        assert (answer.kind, answer.schedule) == ("unchanged", before), f"{again} answered {answer}"
    assert (await upsert(h, expected_revision=1)).kind == "unchanged"
    assert await get_schedule(h) == before
    assert isinstance(await settle(h, tick, "start", "tick-1"), BucketStarted)


_CHANGES: dict[str, dict[str, Any]] = {
    "workflow_id": {"workflow_id": "other"},
    "workflow_version": {"workflow_version": "4"},
    "spec": {"spec": '{"cron":"0 3 * * *"}'},
    "input": {"input": "null"},
    "overlap_policy": {"overlap_policy": "allow"},
    "queue": {"queue": "q"},
    "priority": {"priority": 1},
    "enabled": {"enabled": False},
}


@clause("SCHEDULE-2", "SCHEDULE-3", each=_CHANGES)
async def changed_definition_takes_effect(h: StoreHarness, what: str) -> None:
    """Any change takes the next revision; only a change of `spec` takes the fire time that comes along."""
    created = (await upsert(h, next_fire_at_ms=h.now_ms + HOUR)).schedule
    assert created is not None
    h.advance(10)
    answer = await upsert(h, next_fire_at_ms=h.now_ms + 5, **_CHANGES[what])
    assert answer.kind == "updated", f"{_CHANGES[what]} answered {answer.kind}"
    now = await get_schedule(h)
    assert now == answer.schedule
    assert getattr(now, what) == _CHANGES[what][what]
    assert (now.revision, now.created_at_ms, now.updated_at_ms) == (2, created.created_at_ms, h.now_ms)
    assert now.next_fire_at_ms == (h.now_ms + 5 if what == "spec" else created.next_fire_at_ms)


@clause("SCHEDULE-2", each=("spec", "input"))
async def payloads_of_a_definition_compare_as_text(h: StoreHarness, what: str) -> None:
    """The same JSON value in another text is a change, as it is one for whoever reads the text back."""
    await upsert(h, **{what: '{"a":1,"b":2}'})
    for revision, text in enumerate(('{"b":2,"a":1}', '{"b": 2, "a": 1}', '{"b": 2, "a": 1.0}'), start=2):
        answer = await upsert(h, **{what: text})
        schedule = await get_schedule(h)
        assert (answer.kind, schedule.revision, getattr(schedule, what)) == ("updated", revision, text)


@clause("SCHEDULE-3", "SCHEDULE-13")
async def change_leaves_the_life_of_the_schedule(h: StoreHarness) -> None:
    """A change keeps the high-water mark, the previous run, and the buffered and the requested ticks."""
    await upsert(h)
    due = await start_tick(h, "tick-1")
    await request(h, due.fire_at_ms + 5)
    await settle(h, await claim_tick(h), "buffer")
    await request(h, due.fire_at_ms + 6)
    changed = (await upsert(h, spec='"other"', next_fire_at_ms=None)).schedule
    assert changed is not None
    assert (changed.last_fire_at_ms, changed.previous_run_id) == (due.fire_at_ms, "tick-1")
    assert changed.buffered_fire_at_ms == due.fire_at_ms + 5
    assert ((await claim_tick(h)).source, changed.next_fire_at_ms) == ("requested", None)


@clause("SCHEDULE-3")
async def due_tick_outlives_a_change(h: StoreHarness) -> None:
    """A tick that is due stays due when something else than the timing changes: a deploy never swallows one."""
    await upsert(h)
    await upsert(h, workflow_version="4", next_fire_at_ms=h.now_ms + HOUR)
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source, tick.schedule.workflow_version) == (h.now_ms, "due", "4")
    assert isinstance(await settle(h, tick, "start", "tick-1"), BucketStarted)
    assert (await record(h, "tick-1")).workflow_version == "4"


@clause("SCHEDULE-3")
async def enabling_takes_the_fire_time(h: StoreHarness) -> None:
    """A schedule that is enabled again fires first at the time that comes along; disabling leaves the time."""
    await upsert(h)
    off = await upsert(h, enabled=False, next_fire_at_ms=h.now_ms + 1)
    assert off.schedule is not None
    assert (off.schedule.next_fire_at_ms, off.schedule.enabled) == (h.now_ms, False)
    assert (await claim_ticks(h, now_ms=h.now_ms + 9 * HOUR)).buckets == (), "a disabled schedule fired"
    kept = await upsert(h, priority=3, next_fire_at_ms=h.now_ms + 2)
    assert kept.schedule is not None
    assert (kept.schedule.next_fire_at_ms, kept.schedule.enabled) == (h.now_ms, False)
    on = await upsert(h, priority=3, enabled=True, next_fire_at_ms=h.now_ms + HOUR)
    assert on.schedule is not None
    assert (on.schedule.next_fire_at_ms, on.schedule.enabled) == (h.now_ms + HOUR, True)


@clause("SCHEDULE-1", "SCHEDULE-3")
async def schedule_created_disabled(h: StoreHarness) -> None:
    """A schedule may begin disabled; then nothing of it fires by itself."""
    created = await upsert(h, enabled=False)
    assert created.schedule is not None
    assert (created.kind, created.schedule.enabled) == ("created", False)
    claims = await claim_ticks(h, now_ms=h.now_ms + HOUR)
    assert (claims.buckets, claims.next_due_ms) == ((), None)


@clause("SCHEDULE-2", "SCHEDULE-16")
async def changed_schedule_frees_its_claimed_tick(h: StoreHarness) -> None:
    """A change frees the claimed tick at once; the worker that had it learns so, and has written nothing."""
    await upsert(h)
    old = await claim_tick(h)
    changed = (await upsert(h, priority=1)).schedule
    new = await claim_tick(h)
    assert (new.fire_at_ms, new.schedule) == (old.fire_at_ms, changed)
    assert new.lease.token != old.lease.token
    assert isinstance(await settle(h, old, "start", "tick-1"), ScheduleChanged)
    assert await h.store.load_run(run_id="tick-1") is None
    assert await get_schedule(h) == changed, "a refused mark changed the schedule"
    assert isinstance(await settle(h, new, "start", "tick-1"), BucketStarted)


@clause("SCHEDULE-4")
async def expected_revision_guards_the_change(h: StoreHarness) -> None:
    """With an older revision, or without the schedule, the answer is `conflict` and nothing is written."""
    answer = await upsert(h, expected_revision=1)
    assert (answer.kind, answer.schedule) == ("conflict", None)
    with refused(ScheduleNotFoundError, "a schedule that a conflict must not have created"):
        await get_schedule(h)
    await upsert(h)
    second = (await upsert(h, priority=1, expected_revision=1)).schedule
    assert second is not None
    assert second.revision == 2
    tick = await claim_tick(h)
    for change in ({"priority": 2}, {"priority": 1}, {"spec": "1", "next_fire_at_ms": None}):
        for revision in (1, 3):
            answer = await upsert(h, **change, expected_revision=revision)
            assert (answer.kind, answer.schedule) == ("conflict", second), f"{change} at {revision}"
    assert await get_schedule(h) == second
    assert isinstance(await settle(h, tick, "start", "tick-1"), BucketStarted), "a conflict freed the claimed tick"


@clause("SCHEDULE-5", "SCHEDULE-7", "SCHEDULE-8")
async def unknown_schedule(h: StoreHarness) -> None:
    """An unknown schedule raises when it is got, and is not found by the other verbs, also beside another one."""
    for others in ([], ["other"]):
        for name in others:
            await upsert(h, name, next_fire_at_ms=None)
        with refused(ScheduleNotFoundError, "an unknown schedule"):
            await h.store.get_schedule(schedule_id="nothing")
        assert isinstance(await h.store.delete_schedule(schedule_id="nothing"), NotFound)
        for moments in ([], [h.now_ms]):
            asked = await h.store.request_schedule_buckets(
                schedule_id="nothing", fire_times_ms=moments, now_ms=h.now_ms
            )
            assert isinstance(asked, NotFound)
    await upsert(h, "nothing", next_fire_at_ms=None)
    assert (await claim_ticks(h)).buckets == (), "a request for an unknown schedule was kept"


@clause("SCHEDULE-6", "LIST-3", "ARG-2")
async def schedules_are_paged_by_id(h: StoreHarness) -> None:
    """Pages are ordered by id in order of code points, and miss or double nothing when others come and go."""
    ids = ["B", "a", "a/b", "b", "é", "￿", "😀"]
    for schedule_id in reversed(ids):
        await upsert(h, schedule_id)
    assert (await h.store.list_schedules(limit=0)).schedules == ()
    seen: list[str] = []
    cursor: str | None = None
    for visit in range(20):
        page = await h.second.list_schedules(limit=2, cursor=cursor)
        seen += [schedule.schedule_id for schedule in page.schedules]
        cursor = page.next_cursor
        if cursor is None:
            break
        await upsert(h, f"A{visit}")
        await h.store.delete_schedule(schedule_id=f"A{visit - 1}")
    assert [schedule_id for schedule_id in seen if not schedule_id.startswith("A")] == ids
    whole = await h.store.list_schedules(limit=MANY)
    assert whole.next_cursor is None
    assert [s.schedule_id for s in whole.schedules] == sorted(s.schedule_id for s in whole.schedules)


@clause("SCHEDULE-7")
async def deleted_schedule_fires_nothing(h: StoreHarness) -> None:
    """Nothing of a deleted schedule fires, a claimed tick answers `schedule-changed`, and its runs stay."""
    await upsert(h, overlap_policy="allow")
    await start_tick(h, "tick-1")
    h.advance(HOUR)
    await request(h, h.now_ms + 1)
    tick = await claim_tick(h)
    assert isinstance(await h.second.delete_schedule(schedule_id="nightly"), Deleted)
    assert isinstance(await settle(h, tick, "start", "tick-2"), ScheduleChanged)
    assert await h.store.load_run(run_id="tick-2") is None, "a tick of a deleted schedule started a run"
    claims = await claim_ticks(h, now_ms=h.now_ms + 100 * HOUR)
    assert (claims.buckets, claims.next_due_ms) == ((), None)
    assert (await record(h, "tick-1")).status == "queued"


@clause("SCHEDULE-7")
async def deletion_spares_the_other_schedules(h: StoreHarness) -> None:
    """Schedules whose ids look alike keep their definition, and their requested, buffered and claimed ticks."""
    names = ["a", "A", "a%", "a_", "ab", "a ", "b"]
    for name in names:
        await upsert(h, name, workflow_id=name)
        await settle(h, await claim_tick(h, workflow_ids=[name]), "start", f"run of {name}", next_fire_at_ms=None)
        await request(h, 5, schedule_id=name)
        await settle(h, await claim_tick(h, workflow_ids=[name]), "buffer")
        await request(h, 6, 7, schedule_id=name)
    ticks = {tick.schedule.schedule_id: tick for tick in (await claim_ticks(h)).buckets}
    before = [await _everything(h, name) for name in names[1:]]
    assert isinstance(await h.store.delete_schedule(schedule_id="a"), Deleted)
    assert [await _everything(h, name) for name in names[1:]] == before, "a deletion changed another schedule"
    for name in names[1:]:
        assert isinstance(await settle(h, ticks[name], "skip"), BucketSkipped)
        assert [one.fire_at_ms for one in (await _everything(h, name))[1]] == [7]


async def _everything(h: StoreHarness, name: str) -> tuple[Schedule, tuple[RequestedBucket, ...]]:
    return await get_schedule(h, name), await h.second.list_requested_buckets(schedule_id=name, limit=MANY)


@clause("SCHEDULE-7", "SCHEDULE-16")
async def tick_of_a_deleted_schedule_does_not_fit_its_namesake(h: StoreHarness) -> None:
    """A tick claimed or settled before deletion does nothing to the schedule created under the same id."""
    await upsert(h)
    old = await claim_tick(h)
    await h.second.delete_schedule(schedule_id="nightly")
    await upsert(h)
    new = await claim_tick(h)
    assert new.lease.token != old.lease.token
    await _does_not_start(h, settle_arguments(h, old, "start", "stolen"))
    marked = settle_arguments(h, new, "start", "mine")
    assert isinstance(await h.store.mark_schedule_bucket_started(**marked), BucketStarted)
    await h.second.delete_schedule(schedule_id="nightly")
    await upsert(h)
    await h.store.delete_run(run_id="mine", now_ms=h.now_ms)
    await _does_not_start(h, marked)


async def _does_not_start(h: StoreHarness, arguments: dict[str, Any]) -> None:
    before = await get_schedule(h)
    try:
        answer = await h.store.mark_schedule_bucket_started(**arguments)
    except LeaseLostError:
        pass
    else:
        assert isinstance(answer, ScheduleChanged), f"a tick of the deleted schedule answered {answer.kind}"
    assert await h.store.load_run(run_id=arguments["run_id"]) is None
    assert await get_schedule(h) == before


@clause("SCHEDULE-8")
async def requested_ticks_are_claimable_at_once(h: StoreHarness) -> None:
    """Requested ticks come at once: past, future, below the high-water mark, and of a disabled schedule."""
    await upsert(h, overlap_policy="allow")
    due = (await start_tick(h, "tick-1", next_fire_at_ms=None)).fire_at_ms
    await upsert(h, overlap_policy="allow", enabled=False)
    moments = [due - HOUR, due, due + 1, due + 9 * HOUR]
    assert await request(h, *reversed(moments)) == 4
    for number, moment in enumerate(moments):
        tick = await claim_tick(h)
        assert (tick.fire_at_ms, tick.source) == (moment, "requested")
        assert isinstance(await settle(h, tick, "start", f"asked-{number}"), BucketStarted)
    schedule = await get_schedule(h)
    assert (schedule.last_fire_at_ms, schedule.next_fire_at_ms, schedule.revision) == (due, None, 2)
    assert (await claim_ticks(h, now_ms=h.now_ms + 99 * HOUR)).buckets == ()


@clause("SCHEDULE-8")
async def requested_tick_waits_once(h: StoreHarness) -> None:
    """A tick that waits is not requested twice, also while it is claimed; one that was settled waits again."""
    await upsert(h, next_fire_at_ms=None)
    assert await request(h) == 0
    assert await request(h, 5, 7, 5) == 2
    assert await request(h, 7, 9) == 1
    tick = await claim_tick(h)
    assert await request(h, 5, 9) == 0
    await settle(h, tick, "skip")
    assert await request(h, 5) == 1
    settled = []
    for _ in range(3):
        tick = await claim_tick(h)
        settled.append(tick.fire_at_ms)
        await settle(h, tick, "skip")
    assert settled == [5, 7, 9]
    assert (await claim_ticks(h)).buckets == ()


@clause("SCHEDULE-8", "SCHEDULE-9")
async def requests_of_schedules_are_apart(h: StoreHarness) -> None:
    """Each schedule has its own requested ticks, whichever schedule has the earlier ones, and in whatever order."""
    moments = {"a": (5, 60), "c": (9, 6), "b": (50, 7), "d": (8, 4)}
    for schedule_id in moments:
        await upsert(h, schedule_id, next_fire_at_ms=None, workflow_id=schedule_id)
    for schedule_id, asked in moments.items():
        assert await request(h, *asked, schedule_id=schedule_id) == 2
    for schedule_id, asked in moments.items():
        for fire_at_ms in sorted(asked):
            tick = await claim_tick(h, workflow_ids=[schedule_id])
            assert (tick.schedule.schedule_id, tick.fire_at_ms) == (schedule_id, fire_at_ms)
            await settle(h, tick, "skip", next_fire_at_ms=None)
        assert (await claim_ticks(h, workflow_ids=[schedule_id])).buckets == ()


@clause("SCHEDULE-8", "ARG-3")
async def bad_moments_are_refused(h: StoreHarness) -> None:
    """Moments that are none, and more than 1,000 of them, are refused by name; nothing is written."""
    await upsert(h, next_fire_at_ms=None)
    bad: tuple[Any, ...] = ([5, -1], [2**53], ["1"], [1.0], [True], range(1_001))
    for moments in bad:
        with refused(InvalidArgumentError, f"the moments {moments!r}"[:80]) as refusal:
            await h.store.request_schedule_buckets(schedule_id="nightly", fire_times_ms=moments, now_ms=h.now_ms)
        assert refusal.error.argument == "fire_times_ms"
    assert (await claim_ticks(h)).buckets == ()
    assert await request(h, *range(1_000)) == 1_000


@clause("SCHEDULE-8")
async def request_during_a_claim_is_kept(h: StoreHarness) -> None:
    """Ticks requested while another is claimed wait behind it, and are there when it was settled."""
    await upsert(h)
    tick = await claim_tick(h)
    assert await request(h, tick.fire_at_ms - 1) == 1
    assert (await claim_ticks(h)).buckets == (), "two ticks of one schedule are claimed at once"
    await settle(h, tick, "skip")
    assert (await claim_tick(h)).fire_at_ms == tick.fire_at_ms - 1
