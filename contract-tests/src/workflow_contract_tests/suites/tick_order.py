"""SCHEDULE: a buffered tick goes first, and requested ticks may have a policy of their own."""

from __future__ import annotations

import itertools
from typing import Any

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError
from workflow_runtime.store import (
    BucketBehind,
    BucketBuffered,
    BucketOverlapping,
    BucketSkipped,
    BucketStarted,
    ClaimedBucket,
    RequestedBucket,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..samples import MANY
from ..scenarios import bring, claim, record
from ..ticking import HOUR, claim_tick, claim_ticks, end_run, get_schedule, request, settle, start_tick, upsert

_FIRST_WAITS = ("skip", "buffer-one")
_NEWEST_WAITS = ("cancel-previous", "terminate-previous")
_OVERTAKING = tuple(f"{whose}-{policy}" for whose in ("own", "schedules") for policy in ("allow", *_NEWEST_WAITS))


async def _one_buffered(h: StoreHarness, policy: str) -> ClaimedBucket:
    """Start a run, buffer the next tick, and return the claim of the one after that."""
    await upsert(h, overlap_policy=policy)
    await start_tick(h, "tick-1", next_fire_at_ms=h.now_ms + 1)
    h.advance(1)
    tick = await claim_tick(h)
    assert await settle(h, tick, "buffer", next_fire_at_ms=h.now_ms + 1) == BucketBuffered()
    h.advance(1)
    return await claim_tick(h)


async def _check_started(h: StoreHarness, run_id: str, fire_at_ms: int) -> None:
    """Assert that a tick's run is whole: it is read with what the schedule gave it, and can be driven."""
    run = await record(h, run_id)
    assert (run.status, run.workflow_id, run.input) == ("queued", "report", '{"a":1}')
    assert (run.schedule_id, run.scheduled_at_ms) == ("nightly", fire_at_ms)
    assert run_id in [run.run_id for run in (await h.second.list_runs(limit=MANY)).runs], "the run is in no listing"
    await (await claim(h, run_id)).append('"1"')


@clause("SCHEDULE-17", each=_FIRST_WAITS)
async def buffered_tick_goes_first(h: StoreHarness, policy: str) -> None:
    """A later tick that was claimed while the run was live does not overtake the buffered one after its end."""
    late = await _one_buffered(h, policy)
    buffered = late.fire_at_ms - 1
    await end_run(h, "tick-1")
    before = await get_schedule(h)
    for handle in (h.store, h.second):
        answer = await settle(h, late, "start", "tick-3")
        assert answer == BucketBehind(fire_at_ms=buffered), f"over {handle}: {answer}"
    assert await h.store.load_run(run_id="tick-3") is None, "a later tick overtook the one that waits"
    assert await get_schedule(h) == before, "a refused start moved the schedule"
    assert (await claim_ticks(h)).buckets == (), "a refused start freed the tick"
    assert await settle(h, late, "skip") == BucketSkipped()
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source) == (buffered, "buffered")
    assert await settle(h, tick, "start", "tick-3") == BucketStarted(run_id="tick-3"), "the refused start left a trace"
    await _check_started(h, "tick-3", buffered)


@clause("SCHEDULE-17", "SCHEDULE-14")
async def live_run_is_named_before_the_buffered_tick(h: StoreHarness) -> None:
    """A start is refused for the live run first, then for the buffered tick; an expired claim overtakes nothing."""
    late = await _one_buffered(h, "buffer-one")
    assert await settle(h, late, "start", "tick-3") == BucketOverlapping(run_id="tick-1")
    h.advance(60_000)
    await end_run(h, "tick-1")
    assert await settle(h, late, "start", "tick-3") == BucketBehind(fire_at_ms=late.fire_at_ms - 1)
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source) == (late.fire_at_ms - 1, "buffered")


@clause("SCHEDULE-17", "SCHEDULE-15")
async def behind_the_buffered_tick_another_is_left_out(h: StoreHarness) -> None:
    """With `buffer-one` a tick that may not start is not put back either: the first one waits."""
    late = await _one_buffered(h, "buffer-one")
    await end_run(h, "tick-1")
    assert await settle(h, late, "start", "tick-3") == BucketBehind(fire_at_ms=late.fire_at_ms - 1)
    assert await settle(h, late, "buffer") == BucketSkipped()
    assert (await get_schedule(h)).buffered_fire_at_ms == late.fire_at_ms - 1


@clause("SCHEDULE-17", each=_NEWEST_WAITS)
async def newer_tick_takes_the_place_of_the_buffered_one(h: StoreHarness, policy: str) -> None:
    """With a policy that keeps the newest tick, a later tick that starts replaces the buffered one for good."""
    late = await _one_buffered(h, policy)
    await end_run(h, "tick-1")
    assert await settle(h, late, "start", "tick-3", next_fire_at_ms=None) == BucketStarted(run_id="tick-3")
    await _check_started(h, "tick-3", late.fire_at_ms)
    assert (await get_schedule(h)).buffered_fire_at_ms is None
    await end_run(h, "tick-3")
    assert (await claim_ticks(h)).buckets == (), "a tick started after a later one"


@clause("SCHEDULE-17", "SCHEDULE-15", each=_NEWEST_WAITS)
async def older_tick_gives_way_to_the_buffered_one(h: StoreHarness, policy: str) -> None:
    """With a policy that keeps the newest tick, an older one does not start before it and does not replace it."""
    late = await _one_buffered(h, policy)
    buffered = late.fire_at_ms - 1
    await settle(h, late, "skip", next_fire_at_ms=None)
    await request(h, buffered - HOUR)
    old = await claim_tick(h)
    await end_run(h, "tick-1")
    assert await settle(h, old, "start", "tick-0") == BucketBehind(fire_at_ms=buffered)
    assert await settle(h, old, "buffer") == BucketSkipped()
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source) == (buffered, "buffered")
    assert await settle(h, tick, "start", "tick-0") == BucketStarted(run_id="tick-0"), "the refused start left a trace"
    await _check_started(h, "tick-0", buffered)


@clause("SCHEDULE-17")
async def nothing_goes_first_with_allow(h: StoreHarness) -> None:
    """With `allow` a tick that was buffered under another policy holds nobody up, and starts in its own time."""
    late = await _one_buffered(h, "buffer-one")
    await upsert(h, overlap_policy="allow")
    late = await claim_tick(h)
    assert isinstance(await settle(h, late, "start", "tick-3", next_fire_at_ms=None), BucketStarted)
    await _check_started(h, "tick-3", late.fire_at_ms)
    assert (await get_schedule(h)).buffered_fire_at_ms == late.fire_at_ms - 1
    await end_run(h, "tick-1", "tick-3")
    assert (await claim_tick(h)).source == "buffered"


@clause("SCHEDULE-17")
async def buffered_tick_that_is_requested_is_not_behind_itself(h: StoreHarness) -> None:
    """A request for the very moment that is buffered starts it, and it waits no more."""
    late = await _one_buffered(h, "buffer-one")
    await settle(h, late, "skip", next_fire_at_ms=None)
    await request(h, late.fire_at_ms - 1)
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source) == (late.fire_at_ms - 1, "requested")
    await end_run(h, "tick-1")
    answer = await settle(h, tick, "start", "tick-2")
    assert answer == BucketStarted(run_id="tick-2"), f"the buffered tick, requested besides, is behind itself: {answer}"
    await _check_started(h, "tick-2", late.fire_at_ms - 1)
    assert (await get_schedule(h)).buffered_fire_at_ms is None, "the tick has started and is still buffered"
    await end_run(h, "tick-2")
    assert (await claim_ticks(h)).buckets == (), "the buffered tick starts again after its request has started it"


# The previous run, whatever it does.


@clause("SCHEDULE-9", "SCHEDULE-10", "SCHEDULE-11", "SCHEDULE-15", "SCHEDULE-18", each=("queued", "running", "paused"))
async def live_run_holds_up_what_waits_for_it(h: StoreHarness, status: str) -> None:
    """A live run keeps buffered ticks and those with `buffer-all` back, wakes nobody for them, and others name it."""
    for name in ("buffered", "asked", "due"):
        await upsert(h, name, workflow_id=name, next_fire_at_ms=None if name == "asked" else h.now_ms)
    for name in ("buffered", "due"):
        await settle(h, await claim_tick(h, workflow_ids=[name]), "start", name, next_fire_at_ms=None)
    await request(h, h.now_ms, schedule_id="buffered")
    await settle(h, await claim_tick(h, workflow_ids=["buffered"]), "buffer")
    await request(h, 5, 6, schedule_id="asked", overlap="buffer-all")
    await settle(h, await claim_tick(h, workflow_ids=["asked"]), "start", "asked")
    for run_id in ("buffered", "asked", "due"):
        await bring(h, run_id, status)
    claims = await claim_ticks(h)
    assert (claims.buckets, claims.next_due_ms) == ((), None), f"beside a {status} run"
    assert (await claim_ticks(h, workflow_ids=["none"])).unclaimable == ()
    await request(h, 7, schedule_id="due")
    tick = await claim_tick(h)
    assert (tick.schedule.schedule_id, tick.overlapping_run_id) == ("due", "due")
    assert await settle(h, tick, "start", "next") == BucketOverlapping(run_id="due")
    await settle(h, tick, "skip")
    await end_run(h, "buffered", "asked", "due")
    assert sorted((await claim_ticks(h, workflow_ids=["none"])).unclaimable) == ["asked", "buffered"]
    assert sorted(tick.source for tick in (await claim_ticks(h)).buckets) == ["buffered", "requested"]


# A policy of the request's own.


@clause("SCHEDULE-18", each=("allow", "skip", "buffer-one", "cancel-previous", "terminate-previous", "buffer-all"))
async def claim_says_what_was_requested(h: StoreHarness, overlap: Any) -> None:
    """A requested tick is claimed with what was asked for; those of others with what the schedule says."""
    policy = "skip" if overlap != "skip" else "allow"
    await upsert(h, overlap_policy=policy)
    await request(h, h.now_ms - 2, overlap=overlap)
    await request(h, h.now_ms - 1)
    claimed = {}
    for _ in range(3):
        tick = await claim_tick(h)
        claimed[tick.fire_at_ms - h.now_ms] = tick.overlap_policy
        await settle(h, tick, "skip", next_fire_at_ms=None)
    assert claimed == {-2: overlap, -1: policy, 0: policy}


@clause("SCHEDULE-18", "SCHEDULE-14")
async def request_may_allow_what_the_schedule_does_not(h: StoreHarness) -> None:
    """Requested with `allow`, ticks start beside a live run; requested with less, they do not."""
    await upsert(h, overlap_policy="skip")
    await start_tick(h, "tick-1", next_fire_at_ms=None)
    await request(h, 1, 2, overlap="allow")
    for number in (1, 2):
        assert isinstance(await settle(h, await claim_tick(h), "start", f"asked-{number}"), BucketStarted)
    await upsert(h, overlap_policy="allow")
    await request(h, 3, overlap="skip")
    tick = await claim_tick(h)
    assert await settle(h, tick, "start", "asked-3") == BucketOverlapping(run_id="asked-2")


@clause("SCHEDULE-18", "SCHEDULE-15")
async def none_of_those_that_wait_for_their_turn_is_dropped(h: StoreHarness) -> None:
    """With `buffer-all` each tick waits for the end of the run before, in order."""
    await upsert(h, overlap_policy="skip", next_fire_at_ms=None)
    await request(h, 30, 10, 20, overlap="buffer-all")
    started = []
    for moment in (10, 20, 30):
        tick = await claim_tick(h)
        assert (tick.fire_at_ms, tick.source) == (moment, "requested")
        await settle(h, tick, "start", f"tick-{moment}")
        started.append(f"tick-{moment}")
        claims = await claim_ticks(h)
        assert (claims.buckets, claims.next_due_ms) == ((), None), "a tick that waits for its turn wakes workers"
        await end_run(h, f"tick-{moment}")
    assert (await claim_ticks(h)).buckets == ()


@clause("SCHEDULE-18")
async def tick_that_is_put_back_for_its_turn_stays_requested(h: StoreHarness) -> None:
    """A run that comes between the claim and the start: the tick is refused, put back, and claimed again afterwards."""
    await upsert(h, next_fire_at_ms=h.now_ms + 1)
    await request(h, 10, 20, overlap="buffer-all")
    await settle(h, await claim_tick(h), "start", "tick-10")
    await end_run(h, "tick-10")
    tick = await claim_tick(h)
    h.advance(1)
    assert (await claim_ticks(h)).buckets == ()
    answer = await settle(h, tick, "buffer")
    assert answer == BucketBuffered()
    schedule = await get_schedule(h)
    assert (schedule.buffered_fire_at_ms, schedule.last_fire_at_ms) == (None, None)
    assert [one.fire_at_ms for one in await _requested(h)] == [20]
    assert (await claim_tick(h)).fire_at_ms == 20


@clause("SCHEDULE-18", "SCHEDULE-9")
async def those_that_wait_hold_up_no_others(h: StoreHarness) -> None:
    """Ticks that wait with `buffer-all` hold up no due ticks and no other requests, and no claim names them."""
    await upsert(h, overlap_policy="allow", next_fire_at_ms=h.now_ms + 1)
    await request(h, 10, 20, overlap="buffer-all")
    await request(h, 30, 40)
    for moment in (30, 40):
        tick = await claim_tick(h)
        assert tick.fire_at_ms == moment
        await settle(h, tick, "start", f"tick-{moment}")
    assert (await claim_ticks(h, workflow_ids=["other"])).unclaimable == ()
    h.advance(1)
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source) == (h.now_ms, "due")
    await settle(h, tick, "start", "due", next_fire_at_ms=None)
    assert (await claim_ticks(h)).buckets == ()
    await end_run(h, "due")
    assert (await claim_ticks(h, workflow_ids=["other"])).unclaimable == ("nightly",)
    assert (await claim_tick(h)).fire_at_ms == 10


@clause("SCHEDULE-18", "SCHEDULE-9")
async def due_moment_keeps_what_was_requested_with_it(h: StoreHarness) -> None:
    """A due tick that was requested with `buffer-all` moves the schedule on when it is put back, and still waits."""
    await upsert(h, overlap_policy="skip")
    await start_tick(h, "tick-1", next_fire_at_ms=h.now_ms + 1)
    await request(h, h.now_ms + 1, overlap="buffer-all")
    h.advance(1)
    tick = await claim_tick(h)
    assert (tick.source, tick.overlap_policy) == ("due", "buffer-all")
    assert await settle(h, tick, "buffer", next_fire_at_ms=None) == BucketBuffered()
    schedule = await get_schedule(h)
    assert (schedule.last_fire_at_ms, schedule.next_fire_at_ms) == (h.now_ms, None)
    assert (await claim_ticks(h)).buckets == ()
    await end_run(h, "tick-1")
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source) == (h.now_ms, "requested")


@clause("SCHEDULE-18", "SCHEDULE-15")
async def buffered_tick_forgets_what_was_requested_with_it(h: StoreHarness) -> None:
    """A tick that was requested with a policy and put back is claimed by the schedule's own, and is not requested."""
    await upsert(h, overlap_policy="skip")
    await start_tick(h, "tick-1", next_fire_at_ms=None)
    await request(h, 5, overlap="buffer-one")
    assert await settle(h, await claim_tick(h), "buffer") == BucketBuffered()
    assert await _requested(h) == (), "the buffered tick is still requested"
    await end_run(h, "tick-1")
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source, tick.overlap_policy) == (5, "buffered", "skip")


@clause("SCHEDULE-14", "SCHEDULE-16", "SCHEDULE-17", each=("queued", "running", "paused", "behind", "other-moment"))
async def refused_start_leaves_the_request(h: StoreHarness, why: str) -> None:
    """A request whose start is refused stays: beside a live run, behind a buffered tick, or with another's token."""
    asked = h.now_ms + HOUR
    await upsert(h, overlap_policy="buffer-one")
    await start_tick(h, "tick-1", next_fire_at_ms=None)
    if why == "behind":
        await request(h, asked - 1)
        await settle(h, await claim_tick(h), "buffer")
    await request(h, asked, asked + 1)
    tick = await claim_tick(h)
    if why in ("behind", "other-moment"):
        await end_run(h, "tick-1")
    else:
        await bring(h, "tick-1", why)
    if why == "other-moment":
        with refused(LeaseLostError, "a start of a tick that is not the claimed one"):
            await settle(h, tick, "start", "tick-2", fire_at_ms=asked + 1)
    else:
        answer = await settle(h, tick, "start", "tick-2")
        assert isinstance(answer, BucketBehind if why == "behind" else BucketOverlapping), f"{why}: {answer}"
    assert [one.fire_at_ms for one in await _requested(h)] == [asked, asked + 1], "a refused start took a request"
    assert await h.store.load_run(run_id="tick-2") is None


@clause("SCHEDULE-17", "SCHEDULE-8", each=_OVERTAKING)
async def request_that_overtakes_a_buffered_tick_is_settled(h: StoreHarness, whose: str) -> None:
    """A request that starts before a buffered tick, by its policy, is requested no more, and its run is whole."""
    owner, _, policy = whose.partition("-")
    asked, overlap = h.now_ms + HOUR, policy if owner == "own" else None
    await upsert(h, overlap_policy="buffer-one" if owner == "own" else policy)
    await start_tick(h, "tick-1", next_fire_at_ms=None)
    await request(h, asked - 1)
    await settle(h, await claim_tick(h), "buffer")
    await request(h, asked, overlap=overlap)  # type: ignore[arg-type]  # one of the policies
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.overlap_policy) == (asked, policy)
    await end_run(h, "tick-1")
    assert await settle(h, tick, "start", "tick-2") == BucketStarted(run_id="tick-2")
    assert await _requested(h) == (), "the tick has started and is still requested"
    await _check_started(h, "tick-2", asked)
    assert (await get_schedule(h)).buffered_fire_at_ms == (asked - 1 if policy == "allow" else None)


@clause("SCHEDULE-18", "SCHEDULE-15")
async def tick_in_turn_is_put_back_beside_a_later_buffered_one(h: StoreHarness) -> None:
    """With `buffer-all` a tick is put back though a later one is buffered: neither is dropped for the other."""
    await upsert(h, overlap_policy="skip")
    await start_tick(h, "tick-1", next_fire_at_ms=h.now_ms + 1)
    await request(h, h.now_ms + HOUR)
    await settle(h, await claim_tick(h), "buffer")
    await request(h, h.now_ms + 1, overlap="buffer-all")
    h.advance(1)
    tick = await claim_tick(h)
    assert (tick.source, tick.overlap_policy) == ("due", "buffer-all")
    assert await settle(h, tick, "buffer", next_fire_at_ms=None) == BucketBuffered()
    assert [one.fire_at_ms for one in await _requested(h)] == [h.now_ms]
    assert (await get_schedule(h)).buffered_fire_at_ms == h.now_ms - 1 + HOUR


@clause("SCHEDULE-8", "SCHEDULE-18")
async def request_that_waits_keeps_its_policy(h: StoreHarness) -> None:
    """A tick that is requested again while it waits keeps its first policy; unknown policies are refused."""
    await upsert(h, next_fire_at_ms=None)
    assert await request(h, 5, overlap="allow") == 1
    assert await request(h, 5, 6, overlap="buffer-all") == 1
    assert [(one.fire_at_ms, one.overlap) for one in await _requested(h)] == [(5, "allow"), (6, "buffer-all")]
    for wrong in ("buffer", "", 1):
        with refused(InvalidArgumentError, f"the overlap {wrong!r}") as refusal:
            await request(h, 7, overlap=wrong)  # type: ignore[arg-type]  # that is the point
        assert refusal.error.argument == "overlap"


@clause("SCHEDULE-8", "SCHEDULE-18")
async def request_for_nothing_new_changes_nothing(h: StoreHarness) -> None:
    """A request for moments that wait already, or for none, leaves the tick as it was: with any policy before any."""
    policies: tuple[Any, ...] = (None, "allow", "buffer-all")
    for first, again in itertools.product(policies, policies):
        name = f"{first}-{again}"
        await upsert(h, name, next_fire_at_ms=None)
        assert await request(h, 5, 6, schedule_id=name, overlap=first) == 2
        for moments in ((5,), (6, 5), ()):
            assert await request(h, *moments, schedule_id=name, overlap=again) == 0
        for moment in (5, 6):
            tick = await claim_tick(h)
            assert (tick.schedule.schedule_id, tick.fire_at_ms) == (name, moment)
            assert tick.overlap_policy == (first or "skip")
            await settle(h, tick, "skip")


@clause("SCHEDULE-19", "ARG-2")
async def requested_ticks_are_listed(h: StoreHarness) -> None:
    """Requested ticks are listed in the order of their moments, claimed or not; settled ones are not."""
    assert await _requested(h) == ()
    await upsert(h, next_fire_at_ms=None)
    await upsert(h, "other", next_fire_at_ms=None)
    begin = h.now_ms
    await request(h, 30, 10)
    await request(h, 15, schedule_id="other")
    h.advance(5)
    await request(h, 20, 10, overlap="allow")
    expected = (
        RequestedBucket(fire_at_ms=10, overlap=None, requested_at_ms=begin),
        RequestedBucket(fire_at_ms=20, overlap="allow", requested_at_ms=begin + 5),
        RequestedBucket(fire_at_ms=30, overlap=None, requested_at_ms=begin),
    )
    assert await _requested(h) == expected
    assert await _requested(h, limit=2) == expected[:2]
    assert await _requested(h, limit=0) == ()
    assert await _requested(h, from_ms=11) == expected[1:]
    tick = (await claim_ticks(h, limit=1)).buckets[0]
    assert await _requested(h) == expected
    await settle(h, tick, "skip")
    assert await _requested(h) == expected[1:]
    await h.store.delete_schedule(schedule_id="nightly")
    assert await _requested(h) == ()


async def _requested(h: StoreHarness, **options: Any) -> tuple[RequestedBucket, ...]:
    return await h.second.list_requested_buckets(schedule_id="nightly", **({"limit": 100} | options))
