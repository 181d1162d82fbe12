"""SCHEDULE: each tick is claimed by one worker, settled once, and never starts a run beside a live one."""

from __future__ import annotations

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError
from workflow_runtime.store import (
    BucketBuffered,
    BucketOverlapping,
    BucketSkipped,
    BucketStarted,
    RunStatus,
    ScheduleChanged,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..scenarios import claim, claim_pending, create, park, record, start, start_waiting, unchanged
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

_NOT_ALLOW = ("skip", "buffer-one", "cancel-previous", "terminate-previous")


@clause("SCHEDULE-9")
async def due_ticks_are_claimed_earliest_first(h: StoreHarness) -> None:
    """Ticks come earliest first, of whatever source, within the limit."""
    begin = h.now_ms
    for schedule_id, delay in (("c", 30), ("a", 20), ("b", 10), ("later", HOUR)):
        await upsert(h, schedule_id, next_fire_at_ms=begin + delay)
    await upsert(h, "off", enabled=False)
    await upsert(h, "never", next_fire_at_ms=None)
    await upsert(h, "asked", next_fire_at_ms=None)
    await request(h, begin + 25, schedule_id="asked")
    h.advance(30)
    assert (await claim_ticks(h, limit=0)).buckets == ()
    first = (await claim_ticks(h, limit=2)).buckets
    assert [(b.schedule.schedule_id, b.fire_at_ms) for b in first] == [("b", begin + 10), ("a", begin + 20)]
    rest = (await claim_ticks(h)).buckets
    assert [(b.schedule.schedule_id, b.source) for b in rest] == [("asked", "requested"), ("c", "due")]


@clause("SCHEDULE-9")
async def one_tick_of_a_schedule_at_a_time(h: StoreHarness) -> None:
    """Of a schedule's due and requested ticks the earliest comes first, and the next only when it was settled."""
    due = h.now_ms
    await upsert(h, overlap_policy="allow")
    await request(h, due - 5, due + 5)
    expected = [(due - 5, "requested"), (due, "due"), (due + 5, "requested")]
    for number, wanted in enumerate(expected):
        tick = await claim_tick(h)
        assert (tick.fire_at_ms, tick.source) == wanted
        assert (await claim_ticks(h)).buckets == (), "two ticks of one schedule are claimed at once"
        await settle(h, tick, "start", f"tick-{number}")


@clause("SCHEDULE-9", "SCHEDULE-13")
async def due_and_requested_moment_is_one_tick(h: StoreHarness) -> None:
    """A moment that is due and requested is claimed once, as due, and settling it settles the request."""
    await upsert(h)
    await request(h, h.now_ms)
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source) == (h.now_ms, "due")
    await settle(h, tick, "skip")
    schedule = await get_schedule(h)
    assert (schedule.last_fire_at_ms, schedule.next_fire_at_ms) == (h.now_ms, h.now_ms + HOUR)
    assert (await claim_ticks(h)).buckets == ()


@clause("SCHEDULE-9", "FENCE-3")
async def claimed_tick_belongs_to_its_claimer(h: StoreHarness) -> None:
    """A tick under a live lease is not claimed again; one whose lease expired is, with a new token."""
    await upsert(h)
    first = await claim_tick(h, lease_ms=1_000)
    assert (first.lease.owner, first.lease.expires_at_ms) == ("worker-1", h.now_ms + 1_000)
    assert first.schedule == await get_schedule(h)
    assert (await claim_ticks(h, now_ms=h.now_ms + 999)).buckets == ()
    h.advance(1_000)
    second = await claim_tick(h, owner="worker-2")
    assert (second.fire_at_ms, second.lease.owner) == (first.fire_at_ms, "worker-2")
    assert second.lease.token != first.lease.token
    assert second.lease.number > first.lease.number
    with refused(LeaseLostError, "a mark with the token of an older claim"):
        await settle(h, first, "start", "late")
    assert await h.store.load_run(run_id="late") is None
    assert isinstance(await settle(h, second, "start", "right"), BucketStarted)


@clause("SCHEDULE-9", "SCHEDULE-15", each=("ended", "deleted", "paused", "dead", "later"))
async def buffered_tick_waits_for_its_predecessor(h: StoreHarness, how: str) -> None:
    """A buffered tick is claimed when the previous run has ended or is gone, before others, and never sooner."""
    await upsert(h, next_fire_at_ms=h.now_ms)
    due = await start_tick(h, "tick-1", available_at_ms=h.now_ms + HOUR if how == "later" else None)
    await request(h, due.fire_at_ms + 7)
    await settle(h, await claim_tick(h), "buffer")
    assert (await get_schedule(h)).buffered_fire_at_ms == due.fire_at_ms + 7
    if how == "paused":
        await (await claim(h, "tick-1")).pause(signals=["go"])
    claims = await claim_ticks(h, now_ms=h.now_ms + 1_000)
    assert claims.buckets == (), f"a buffered tick was claimed while the previous run was {how}"
    assert claims.next_due_ms == due.fire_at_ms + HOUR, "a buffered tick whose time has not come wakes workers"
    await request(h, due.fire_at_ms - HOUR)
    if how == "deleted":
        await h.store.delete_run(run_id="tick-1", now_ms=h.now_ms)
    elif how == "dead":
        batch = await park(h, await claim(h, "tick-1", lease_ms=1), now_ms=h.now_ms + 1)
        assert batch.dead == ("tick-1",)
    else:
        await end_run(h, "tick-1")
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source) == (due.fire_at_ms + 7, "buffered")
    assert tick.overlapping_run_id is None
    assert isinstance(await settle(h, tick, "start", "tick-2"), BucketStarted)
    schedule = await get_schedule(h)
    assert (schedule.buffered_fire_at_ms, schedule.previous_run_id) == (None, "tick-2")
    assert (schedule.last_fire_at_ms, schedule.next_fire_at_ms) == (due.fire_at_ms, due.fire_at_ms + HOUR)
    assert (await claim_tick(h)).source == "requested"


@clause("SCHEDULE-10")
async def claim_names_the_live_previous_run(h: StoreHarness) -> None:
    """A claim names the previous run while it is live, by whatever policy, and not when it has ended."""
    await upsert(h, overlap_policy="allow")
    assert (await start_tick(h, "tick-1")).overlapping_run_id is None
    h.advance(HOUR)
    tick = await claim_tick(h)
    assert (tick.schedule.previous_run_id, tick.overlapping_run_id) == ("tick-1", "tick-1")
    await settle(h, tick, "start", "tick-2")
    await end_run(h, "tick-2")
    h.advance(HOUR)
    tick = await claim_tick(h)
    assert (tick.schedule.previous_run_id, tick.overlapping_run_id) == ("tick-2", None)


@clause("SCHEDULE-10")
async def next_due_is_what_time_decides(h: StoreHarness) -> None:
    """The answer says when the next tick is due or the claim of another runs out, or that the limit left some."""
    begin = h.now_ms
    assert (await claim_ticks(h)).next_due_ms is None
    await upsert(h, "later", next_fire_at_ms=begin + HOUR)
    await upsert(h, "off", enabled=False)
    assert (await claim_ticks(h)).next_due_ms == begin + HOUR
    for schedule_id in ("a", "b", "c"):
        await upsert(h, schedule_id, next_fire_at_ms=begin, workflow_id=f"flow-{schedule_id}")
    await request(h, begin + 9 * HOUR, schedule_id="c")
    left = (await claim_ticks(h, limit=1, lease_ms=5_000)).next_due_ms
    assert left is not None
    assert left <= h.now_ms, "the limit left ticks behind, and the answer does not say so"
    assert (await claim_ticks(h, limit=0, workflow_ids=["flow-a"])).next_due_ms == begin + 5_000
    claims = await claim_ticks(h, lease_ms=7_000)
    assert [b.schedule.schedule_id for b in claims.buckets] == ["b", "c"]
    assert claims.next_due_ms == begin + 5_000
    assert (await claim_ticks(h, workflow_ids=["flow-b"])).next_due_ms == begin + 7_000
    await settle(h, claims.buckets[0], "skip")
    assert (await claim_ticks(h, workflow_ids=["flow-b"])).next_due_ms == begin + HOUR


@clause("SCHEDULE-10")
async def requested_ticks_do_not_hide_the_due_one(h: StoreHarness) -> None:
    """A claim of a requested tick answers when the same schedule is due next."""
    await upsert(h, next_fire_at_ms=h.now_ms + 1_000)
    await request(h, h.now_ms)
    assert (await claim_ticks(h)).next_due_ms == h.now_ms + 1_000


@clause("SCHEDULE-10")
async def tick_behind_a_claimed_one_is_not_told(h: StoreHarness) -> None:
    """A tick that is due behind a claimed one makes no claim say that more is due: workers would ask without end."""
    await upsert(h, next_fire_at_ms=h.now_ms)
    await request(h, h.now_ms - 1)
    claims = await claim_ticks(h, lease_ms=5_000)
    assert [bucket.source for bucket in claims.buckets] == ["requested"]
    assert claims.next_due_ms is None
    end = h.now_ms + 5_000
    h.advance(1_000)
    assert (await claim_ticks(h)).next_due_ms == end, "another worker is told of the claim, not of the tick behind it"


@clause("SCHEDULE-11")
async def ticks_of_other_workflows_are_left_alone(h: StoreHarness) -> None:
    """A claim for some workflows takes their ticks only, whatever waits of others, and names those."""
    for number in range(12):
        await upsert(h, f"alien-{number:02}", workflow_id="alien", next_fire_at_ms=h.now_ms - 99)
    await upsert(h, "mine")
    await upsert(h, "asked", next_fire_at_ms=None, workflow_id="other")
    await request(h, h.now_ms - 1, schedule_id="asked")
    claims = await claim_ticks(h, workflow_ids=["report", "other", "unheard"], limit=2)
    assert [b.schedule.schedule_id for b in claims.buckets] == ["asked", "mine"]
    assert claims.next_due_ms is None, "ticks of other workflows, or of this answer, count"
    assert len(claims.unclaimable) == len(set(claims.unclaimable)) == 10
    assert set(claims.unclaimable) <= {f"alien-{number:02}" for number in range(12)}
    none = await claim_ticks(h, workflow_ids=[])
    assert (none.buckets, none.next_due_ms) == ((), None)
    aliens = await claim_ticks(h, workflow_ids=["alien"])
    assert (len(aliens.buckets), aliens.unclaimable) == (12, ())
    assert (await claim_ticks(h)).unclaimable == ()


@clause("SCHEDULE-11")
async def unclaimable_is_what_waits(h: StoreHarness) -> None:
    """A claim names schedules of other workflows that have a claimable tick: due, requested or buffered."""
    await upsert(h, "due")
    await upsert(h, "later", next_fire_at_ms=h.now_ms + 1)
    await upsert(h, "off", enabled=False)
    await upsert(h, "asked", enabled=False)
    await request(h, h.now_ms + HOUR, schedule_id="asked")
    await upsert(h, "held", workflow_id="held")
    await claim_ticks(h, workflow_ids=["held"])
    for name in ("buffered", "blocked"):
        await upsert(h, name, workflow_id=name, next_fire_at_ms=None)
        for action, run_id in (("start", name), ("buffer", None)):
            await request(h, h.now_ms, schedule_id=name)
            await settle(h, await claim_tick(h, workflow_ids=[name]), action, run_id)
    await end_run(h, "buffered")
    assert sorted((await claim_ticks(h, workflow_ids=["none"])).unclaimable) == ["asked", "buffered", "due"]


@clause("SCHEDULE-12")
async def fired_tick_never_fires_again(h: StoreHarness) -> None:
    """A tick at or before the high-water mark is not claimed again, though its run is gone and the timing reset."""
    first = h.now_ms
    await upsert(h)
    await start_tick(h, "tick-1")
    await h.store.delete_run(run_id="tick-1", now_ms=h.now_ms)
    for fire_at_ms in (first, first - HOUR):
        await upsert(h, next_fire_at_ms=fire_at_ms, spec=f"{fire_at_ms}")
        schedule = await get_schedule(h)
        assert (schedule.last_fire_at_ms, schedule.next_fire_at_ms) == (first, fire_at_ms)
        claims = await claim_ticks(h, now_ms=first + 100)
        assert (claims.buckets, claims.next_due_ms) == ((), None), "a tick fired a second time"
    await upsert(h, next_fire_at_ms=first + 1, spec="1")
    assert (await claim_tick(h, now_ms=first + 100)).fire_at_ms == first + 1


@clause("SCHEDULE-13", "RUN-1")
async def marking_starts_the_run_and_moves_on(h: StoreHarness) -> None:
    """The run, the mark, the previous run, the next fire time and the high-water mark are one unit."""
    await upsert(h, queue="slow", priority=7, input='{"b":2,"a":1}')
    h.advance(5)
    tick = await claim_tick(h)
    assert await settle(h, tick, "start", "tick-1") == BucketStarted(run_id="tick-1")
    run = await record(h, "tick-1")
    assert (run.workflow_id, run.workflow_version, run.input) == ("report", "3", '{"b":2,"a":1}')
    assert (run.queue, run.priority, run.status, run.due_at_ms) == ("slow", 7, "queued", h.now_ms)
    assert (run.created_at_ms, run.updated_at_ms, run.next_index, run.inbox_seq) == (h.now_ms, h.now_ms, 0, 0)
    assert (run.cancel_requested, run.crashes, run.lease_owner, run.awaited) == (False, 0, None, ())
    assert (run.output, run.error, run.reason, run.finished_at_ms) == (None, None, None, None)
    schedule = await get_schedule(h)
    assert (schedule.next_fire_at_ms, schedule.last_fire_at_ms) == (tick.fire_at_ms + HOUR, tick.fire_at_ms)
    assert (schedule.revision, schedule.previous_run_id) == (tick.schedule.revision, "tick-1")
    assert schedule.updated_at_ms == h.now_ms
    assert (await claim_ticks(h)).buckets == ()
    (taken,) = (await claim_pending(h)).claims
    assert (taken.run.run_id, taken.lease.number) == ("tick-1", 1)
    assert (taken.history, taken.inbox, taken.due_timers) == ((), (), ())


@clause("SCHEDULE-13")
async def run_may_be_available_later(h: StoreHarness) -> None:
    """A run that is to be claimed later is queued until then, and live from the start."""
    await upsert(h)
    await start_tick(h, "tick-1", available_at_ms=h.now_ms + 500, next_fire_at_ms=h.now_ms + 1)
    run = await record(h, "tick-1")
    assert (run.status, run.due_at_ms, run.created_at_ms) == ("queued", h.now_ms + 500, h.now_ms)
    assert (await claim_pending(h)).claims == ()
    h.advance(1)
    tick = await claim_tick(h)
    assert tick.overlapping_run_id == "tick-1"
    assert await settle(h, tick, "start", "tick-2") == BucketOverlapping(run_id="tick-1")


@clause("SCHEDULE-13")
async def existing_run_counts_as_started(h: StoreHarness) -> None:
    """A tick whose run id is there already is started, and the run stays as it is."""
    await upsert(h)
    await create(h, "tick-1", workflow_id="something-else")
    tick = await claim_tick(h)
    async with unchanged(h, "tick-1", after="a tick with an existing run id"):
        answer = await settle(h, tick, "start", "tick-1", now_ms=h.advance(1))
    assert isinstance(answer, BucketStarted)
    schedule = await get_schedule(h)
    assert (schedule.last_fire_at_ms, schedule.previous_run_id) == (tick.fire_at_ms, "tick-1")


@clause("SCHEDULE-13")
async def requested_tick_moves_nothing_on(h: StoreHarness) -> None:
    """Settling a requested or buffered tick leaves the next fire time and the high-water mark as they are."""
    await upsert(h)
    due = await start_tick(h, "tick-1")
    expected = (due.fire_at_ms + HOUR, due.fire_at_ms)
    await request(h, due.fire_at_ms + 5)
    for action, run_id in (("buffer", None), ("start", "tick-2"), ("skip", None)):
        await settle(h, await claim_tick(h), action, run_id, next_fire_at_ms=None)
        schedule = await get_schedule(h)
        assert (schedule.next_fire_at_ms, schedule.last_fire_at_ms) == expected, f"after {action}"
        await end_run(h, "tick-1")
        await request(h, due.fire_at_ms + 6)


@clause("SCHEDULE-14", each=_NOT_ALLOW)
async def no_run_starts_beside_a_live_one(h: StoreHarness, policy: str) -> None:
    """While the previous run is live a start is refused with its id, and the tick stays with its claimer."""
    await upsert(h, overlap_policy=policy)
    await start_tick(h, "tick-1", next_fire_at_ms=h.now_ms + 1)
    h.advance(1)
    tick = await claim_tick(h)
    before = await get_schedule(h)
    arguments = settle_arguments(h, tick, "start", "tick-2")
    for status in ("queued", "running", "paused"):
        if status == "running":
            await claim(h, "tick-1", lease_ms=1)
        elif status == "paused":
            await (await claim(h, "tick-1", now_ms=h.advance(1))).pause(signals=["go"])
        assert (await record(h, "tick-1")).status == status
        for handle in (h.store, h.second):
            answer = await handle.mark_schedule_bucket_started(**arguments)
            assert answer == BucketOverlapping(run_id="tick-1"), f"beside a {status} run: {answer}"
    assert await h.store.load_run(run_id="tick-2") is None, "two runs of one schedule are live"
    assert await get_schedule(h) == before, "a refused start moved the schedule"
    assert (await claim_ticks(h)).buckets == (), "a refused start freed the tick"
    await end_run(h, "tick-1")
    assert await h.store.mark_schedule_bucket_started(**arguments) == BucketStarted(run_id="tick-2")


@clause("SCHEDULE-14", each=("finished", "errored", "aborted", "dead", "deleted"))
async def ended_run_stands_in_no_way(h: StoreHarness, how: str) -> None:
    """A previous run that ended, is dead, or is gone is not live."""
    await upsert(h)
    await start_tick(h, "tick-1", next_fire_at_ms=h.now_ms + 1)
    h.advance(1)
    tick = await claim_tick(h)
    assert tick.overlapping_run_id == "tick-1"
    holder = await claim(h, "tick-1", lease_ms=1)
    if how == "finished":
        await holder.finish()
    elif how == "errored":
        await holder.fail()
    elif how == "dead":
        assert (await park(h, holder, now_ms=h.now_ms + 1)).dead == ("tick-1",)
    elif how == "deleted":
        await h.store.delete_run(run_id="tick-1", now_ms=h.now_ms, force=True)
    else:
        await end_run(h, "tick-1")
    assert isinstance(await settle(h, tick, "start", "tick-2"), BucketStarted)


@clause("SCHEDULE-14")
async def policy_allow_starts_beside_a_live_run(h: StoreHarness) -> None:
    """With `allow`, runs of one schedule may be live together; the last one started is the previous run."""
    await upsert(h, overlap_policy="allow")
    for number in range(3):
        await start_tick(h, f"tick-{number}", next_fire_at_ms=h.now_ms + 1)
        h.advance(1)
    assert {run.status for run in (await h.store.list_runs(limit=9)).runs} == {RunStatus.QUEUED}
    assert (await get_schedule(h)).previous_run_id == "tick-2"


@clause("SCHEDULE-14", "SCHEDULE-13")
async def run_does_not_overlap_with_itself(h: StoreHarness) -> None:
    """A tick whose run is the live previous one is started; any other existing run is refused beside it."""
    await upsert(h)
    await start_tick(h, "tick-1")
    await create(h, "stranger")
    await request(h, h.now_ms)
    tick = await claim_tick(h)
    assert await settle(h, tick, "start", "stranger") == BucketOverlapping(run_id="tick-1")
    assert await settle(h, tick, "start", "tick-1") == BucketStarted(run_id="tick-1")
    assert (await claim_ticks(h)).buckets == ()


@clause("SCHEDULE-15", each=("skip", "buffer"))
async def settling_without_a_run_moves_on(h: StoreHarness, action: str) -> None:
    """A due tick that is skipped or buffered moves the schedule on and starts nothing; without a time it rests."""
    await upsert(h)
    await start_tick(h, "tick-1", next_fire_at_ms=h.now_ms + 1)
    h.advance(1)
    tick = await claim_tick(h)
    answer = await settle(h, tick, action, next_fire_at_ms=None)
    assert isinstance(answer, BucketSkipped if action == "skip" else BucketBuffered)
    assert [run.run_id for run in (await h.store.list_runs(limit=9)).runs] == ["tick-1"]
    schedule = await get_schedule(h)
    assert (schedule.next_fire_at_ms, schedule.last_fire_at_ms) == (None, tick.fire_at_ms)
    assert schedule.buffered_fire_at_ms == (None if action == "skip" else tick.fire_at_ms)
    assert (schedule.previous_run_id, schedule.updated_at_ms) == ("tick-1", h.now_ms)
    assert (await claim_ticks(h, now_ms=h.now_ms + 100 * HOUR)).buckets == ()


@clause("SCHEDULE-15", each=(*_NOT_ALLOW, "allow"))
async def one_tick_is_buffered_at_most(h: StoreHarness, policy: str) -> None:
    """Of two ticks `buffer-one` keeps the one that was there, the other policies the later; nothing else fires."""
    await upsert(h, overlap_policy=policy)
    await start_tick(h, "tick-1", next_fire_at_ms=h.now_ms + 1)
    answers = []
    for _ in range(3):
        h.advance(1)
        tick = await claim_tick(h)
        answers.append(await settle(h, tick, "buffer", next_fire_at_ms=tick.fire_at_ms + 1))
    later = BucketSkipped() if policy == "buffer-one" else BucketBuffered()
    assert answers == [BucketBuffered(), later, later]
    kept = h.now_ms - 2 if policy == "buffer-one" else h.now_ms
    assert (await get_schedule(h)).buffered_fire_at_ms == kept
    await end_run(h, "tick-1")
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source) == (kept, "buffered")
    await settle(h, tick, "start", "tick-2")
    await end_run(h, "tick-2")
    assert (await claim_ticks(h)).buckets == ()


@clause("SCHEDULE-15")
async def buffered_tick_may_be_put_back_again(h: StoreHarness) -> None:
    """A buffered tick that is put back again stays buffered, also with `buffer-one`."""
    await upsert(h, overlap_policy="buffer-one")
    await start_tick(h, "tick-1")
    await request(h, h.now_ms + 5)
    for ended in (False, True):
        if ended:
            await end_run(h, "tick-1")
        assert isinstance(await settle(h, await claim_tick(h), "buffer"), BucketBuffered)
        assert (await get_schedule(h)).buffered_fire_at_ms == h.now_ms + 5
    assert isinstance(await settle(h, await claim_tick(h), "skip"), BucketSkipped)
    assert (await get_schedule(h)).buffered_fire_at_ms is None
    assert (await claim_ticks(h)).buckets == ()


@clause("SCHEDULE-16", "FENCE-1")
async def wrong_token_refuses_the_mark(h: StoreHarness) -> None:
    """A token that is not the tick's current one raises, and nothing is written."""
    before = (await upsert(h)).schedule
    tick = await claim_tick(h)
    for action, run_id in (("start", "tick-1"), ("skip", None), ("buffer", None)):
        with refused(LeaseLostError, f"{action} with an invented token"):
            await settle(h, tick, action, run_id, lease_token="invented")
        with refused(LeaseLostError, f"{action} of a tick that nobody claimed"):
            await settle(h, tick, action, run_id, fire_at_ms=tick.fire_at_ms + 1)
    assert await h.store.load_run(run_id="tick-1") is None
    assert await get_schedule(h) == before
    assert await settle(h, tick, "start", "tick-1") == BucketStarted(run_id="tick-1"), "a refused start left a trace"
    assert (await record(h, "tick-1")).scheduled_at_ms == tick.fire_at_ms


@clause("SCHEDULE-16", "FENCE-2")
async def expired_claim_may_still_mark(h: StoreHarness) -> None:
    """A claimer whose lease expired, but whom nobody replaced, may still mark its tick."""
    await upsert(h)
    tick = await claim_tick(h, lease_ms=1_000)
    h.advance(60_000)
    assert isinstance(await settle(h, tick, "start", "tick-1"), BucketStarted)


@clause("SCHEDULE-16", "OP-1", each=("start", "skip", "buffer", "buffer-second"))
async def repeated_mark_gives_the_first_answer(h: StoreHarness, how: str) -> None:
    """The call that settled the tick may be repeated after a lost answer, also when the schedule has changed since."""
    await upsert(h, overlap_policy="buffer-one")
    if how == "buffer-second":
        await start_tick(h, "before", next_fire_at_ms=h.now_ms)
        await request(h, h.now_ms + 1)
        await settle(h, await claim_tick(h), "buffer")
        await request(h, h.now_ms + 2)
    tick = await claim_tick(h)
    action, run_id = how.partition("-")[0], "tick-1" if how == "start" else None
    arguments = settle_arguments(h, tick, action, run_id)
    first = await h.store.mark_schedule_bucket_started(**arguments)
    settled = await get_schedule(h)
    assert await h.second.mark_schedule_bucket_started(**(arguments | {"now_ms": h.advance(9)})) == first
    assert await get_schedule(h) == settled, "the repeated mark moved the schedule again"
    await request(h, h.now_ms + 77)
    await claim_ticks(h)
    changed = (await upsert(h, overlap_policy="buffer-one", priority=3)).schedule
    if run_id is not None:
        await h.store.delete_run(run_id=run_id, now_ms=h.now_ms)
    assert await h.second.mark_schedule_bucket_started(**arguments) == first
    assert await get_schedule(h) == changed
    assert run_id is None or await h.store.load_run(run_id=run_id) is None, "the repeat started the run again"


@clause("SCHEDULE-16", "FENCE-1")
async def settled_tick_is_not_settled_by_another(h: StoreHarness) -> None:
    """After the mark, the same token under another operation id does nothing."""
    await upsert(h, overlap_policy="allow")
    tick = await claim_tick(h)
    await settle(h, tick, "start", "tick-1")
    before = await get_schedule(h)
    for action, run_id in (("start", "tick-2"), ("skip", None), ("buffer", None)):
        with refused(LeaseLostError, f"{action} of a settled tick"):
            await settle(h, tick, action, run_id)
    assert await h.store.load_run(run_id="tick-2") is None, "one tick started two runs"
    assert await get_schedule(h) == before


@clause("SCHEDULE-16")
async def revision_of_the_claim_is_checked(h: StoreHarness) -> None:
    """A mark with another revision than the stored one answers `schedule-changed` and writes nothing."""
    before = (await upsert(h)).schedule
    tick = await claim_tick(h)
    for action, run_id in (("start", "tick-1"), ("skip", None), ("buffer", None)):
        answer = await settle(h, tick, action, run_id, expected_revision=2)
        assert isinstance(answer, ScheduleChanged)
    assert await get_schedule(h) == before
    assert await h.store.load_run(run_id="tick-1") is None
    assert isinstance(await settle(h, tick, "start", "tick-1"), BucketStarted)


@clause("SCHEDULE-13", "ARG-1")
async def run_id_goes_with_start_only(h: StoreHarness) -> None:
    """A start without a run id, any other action with one, and an unknown action are refused by name."""
    before = (await upsert(h)).schedule
    tick = await claim_tick(h)
    bad = (("start", None, "run_id"), ("skip", "r", "run_id"), ("buffer", "r", "run_id"), ("cancel", None, "action"))
    for action, run_id, named in bad:
        with refused(InvalidArgumentError, f"the action {action} with the run id {run_id}") as refusal:
            await settle(h, tick, action, run_id)
        assert refusal.error.argument == named
    assert await get_schedule(h) == before


@clause("SCHEDULE-9", "SCHEDULE-14")
async def runs_of_others_stand_in_no_way(h: StoreHarness) -> None:
    """Live runs that no tick of the schedule started do not overlap with it."""
    await start(h)
    await start_waiting(h)
    await upsert(h, "first")
    await start_tick(h, "tick-of-first")
    await upsert(h, "second")
    assert (await start_tick(h, "tick-of-second")).overlapping_run_id is None
