"""SCHEDULE: a claim of ticks, whatever they wait for: whom it tells of them, when a claim ends, what stands beside."""

from __future__ import annotations

from workflow_runtime.store import NewEvent

from ..cases import clause
from ..harness import StoreHarness
from ..samples import MANY
from ..scenarios import bring, claim, start
from ..ticking import HOUR, claim_tick, claim_ticks, end_run, request, settle, start_tick, upsert

_WAITS = ("due", "requested", "in-turn", "buffered")
_LIVE = ("queued", "running", "paused")


async def _let_wait(h: StoreHarness, name: str, how: str) -> None:
    """Create a schedule of a workflow of the same name, with one tick that can be claimed now."""
    await upsert(h, name, workflow_id=name, next_fire_at_ms=h.now_ms if how == "due" else None)
    if how == "buffered":
        for action, run_id in (("start", f"run-of-{name}"), ("buffer", None)):
            await request(h, 5, schedule_id=name)
            await settle(h, await claim_tick(h, workflow_ids=[name]), action, run_id)
        await end_run(h, f"run-of-{name}")
    elif how != "due":
        await request(h, 5, schedule_id=name, overlap="buffer-all" if how == "in-turn" else None)


@clause("SCHEDULE-10", "SCHEDULE-11", each=_WAITS)
async def tick_that_waits_is_told_to_its_workflow_only(h: StoreHarness, how: str) -> None:
    """A claim that leaves a tick of its workflows behind says so; one for other workflows names it instead."""
    names = ["first", "mine", "third"]
    for name in names:
        await _let_wait(h, name, how)
    for wanted in (None, ["mine"], ["none", "third"], ["first", "mine", "third"]):
        claims = await claim_ticks(h, limit=0, workflow_ids=wanted)
        assert claims.next_due_ms is not None, f"a claim for {wanted} leaves a tick behind and tells nobody"
        assert claims.next_due_ms <= h.now_ms, f"a claim for {wanted} leaves a tick behind"
        others = [] if wanted is None else [name for name in names if name not in wanted]
        assert sorted(claims.unclaimable) == others, f"a claim for {wanted}"
    for wanted in ([], ["none"]):
        claims = await claim_ticks(h, limit=0, workflow_ids=wanted)
        assert claims.next_due_ms is None, f"a claim for {wanted} tells of ticks of other workflows"
        assert sorted(claims.unclaimable) == names, f"a claim for {wanted}"
    tick = await claim_tick(h, limit=1, workflow_ids=["mine"])
    assert (tick.schedule.schedule_id, tick.source) == ("mine", "requested" if how == "in-turn" else how)


@clause("SCHEDULE-10", "SCHEDULE-11")
async def next_tick_is_told_to_its_workflow_only(h: StoreHarness) -> None:
    """Of ticks that lie ahead the earliest of the claim's workflows is told, whichever schedule it is of."""
    begin = h.now_ms
    await upsert(h, "other", workflow_id="another", next_fire_at_ms=begin + 1_000)
    for name, hours in (("a", 3), ("b", 1), ("c", 2)):
        await upsert(h, name, next_fire_at_ms=begin + hours * HOUR)
    moments = ((None, begin + 1_000), (["report"], begin + HOUR), (["another", "report"], begin + 1_000))
    for wanted, moment in (*moments, (["none"], None), ([], None)):
        claims = await claim_ticks(h, workflow_ids=wanted)
        assert (claims.buckets, claims.next_due_ms) == ((), moment), f"a claim for {wanted}"
        assert claims.unclaimable == (), "a tick that lies ahead waits for nobody yet"


@clause("SCHEDULE-9", "SCHEDULE-10", "SCHEDULE-11", each=_WAITS)
async def claim_of_a_tick_ends_on_time(h: StoreHarness, how: str) -> None:
    """At the very end of its lease a tick can be claimed again, and not a moment before, whatever it had waited for."""
    await _let_wait(h, "mine", how)
    first = await claim_tick(h, lease_ms=1_000)
    h.advance(999)
    assert (await claim_ticks(h, workflow_ids=["none"])).unclaimable == (), "a tick that is held waits for nobody"
    claims = await claim_ticks(h)
    assert (claims.buckets, claims.next_due_ms) == ((), h.now_ms + 1)
    h.advance(1)
    assert (await claim_ticks(h, workflow_ids=["none"])).unclaimable == ("mine",)
    assert (await claim_ticks(h, limit=0)).next_due_ms == h.now_ms
    second = await claim_tick(h)
    assert (second.fire_at_ms, second.source) == (first.fire_at_ms, first.source)
    assert second.lease.token != first.lease.token


@clause("SCHEDULE-10")
async def first_claim_that_runs_out_is_told(h: StoreHarness) -> None:
    """Of claims that run out at several times the first one of the caller's workflows is told, until it has run out."""
    begin = h.now_ms
    for name, lease_ms in (("b", 2_000), ("a", 3_000), ("c", 1_000), ("d", 4_000)):
        await upsert(h, name, workflow_id=name)
        await claim_tick(h, workflow_ids=[name], lease_ms=lease_ms)
    for wanted, end in ((None, 1_000), (["a", "b", "d"], 2_000), (["d"], 4_000), (["d", "a"], 3_000)):
        claims = await claim_ticks(h, workflow_ids=wanted)
        assert (claims.buckets, claims.next_due_ms) == ((), begin + end), f"a claim for {wanted}"
    h.advance(1_000)
    assert (await claim_tick(h)).schedule.schedule_id == "c"
    assert (await claim_ticks(h)).next_due_ms == begin + 2_000


@clause("SCHEDULE-10", each=("in-turn", "buffered"))
async def claim_that_ran_out_wakes_nobody(h: StoreHarness, how: str) -> None:
    """A tick whose claim ran out waits for the schedule's run to end, if that became live again, and not for a time."""
    await upsert(h, next_fire_at_ms=None)
    await request(h, 5)
    await start_tick(h, "tick-1")
    await request(h, 6, overlap="buffer-all" if how == "in-turn" else None)
    holder = await claim(h, "tick-1")
    if how == "buffered":
        await settle(h, await claim_tick(h), "buffer")
    await holder.fail()
    await claim_tick(h, lease_ms=1_000)
    retried = await h.store.retry_run(run_id="tick-1", event=NewEvent(kind="retried"), now_ms=h.now_ms)
    assert retried.kind == "retried"
    h.advance(1_001)
    claims = await claim_ticks(h)
    assert (claims.buckets, claims.next_due_ms) == ((), None)


@clause("SCHEDULE-12", "SCHEDULE-10", "SCHEDULE-11")
async def fired_moment_stays_fired_beside_another_schedule(h: StoreHarness) -> None:
    """A moment that has fired is not claimed along with a due tick of the same workflow, and none is told of it."""
    fired = h.now_ms
    await upsert(h, "a")
    await settle(h, await claim_tick(h), "start", "run-of-a")
    await upsert(h, "a", next_fire_at_ms=fired, spec='"again"')
    assert (await claim_ticks(h, now_ms=fired - 1)).next_due_ms is None, "a moment that has fired wakes workers"
    await upsert(h, "b", next_fire_at_ms=fired + 5)
    assert (await claim_ticks(h, now_ms=fired - 1)).next_due_ms == fired + 5, "a moment that has fired wakes workers"
    h.advance(10)
    assert (await claim_ticks(h, workflow_ids=["none"])).unclaimable == ("b",)
    (tick,) = (await claim_ticks(h)).buckets
    assert tick.schedule.schedule_id == "b", "a moment fired a second time"
    await settle(h, tick, "skip", next_fire_at_ms=h.now_ms + HOUR)
    claims = await claim_ticks(h)
    assert (claims.buckets, claims.next_due_ms) == ((), h.now_ms + HOUR)
    await request(h, fired + 6, schedule_id="a")
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source) == (fired + 6, "requested"), "a moment that has fired stood before a request"


@clause("SCHEDULE-8", "SCHEDULE-9")
async def request_does_not_bring_the_next_tick_forward(h: StoreHarness) -> None:
    """A tick is claimed that was requested for after the schedule's next one, which is due in its own time."""
    begin = h.now_ms
    await upsert(h, next_fire_at_ms=begin + HOUR)
    await request(h, begin + 2 * HOUR)
    claims = await claim_ticks(h)
    assert [(tick.fire_at_ms, tick.source) for tick in claims.buckets] == [(begin + 2 * HOUR, "requested")]
    assert claims.next_due_ms == begin + HOUR


@clause("SCHEDULE-8", "SCHEDULE-18")
async def requests_of_two_schedules_are_apart(h: StoreHarness) -> None:
    """Requests of one schedule change nothing about which tick of another one comes first."""
    for name in ("nightly", "other"):
        await upsert(h, name, next_fire_at_ms=None)
    await request(h, 100, schedule_id="other")
    await request(h, 100, overlap="buffer-all")
    await request(h, 150)
    claimed = {tick.schedule.schedule_id: tick.fire_at_ms for tick in (await claim_ticks(h)).buckets}
    assert claimed == {"nightly": 150, "other": 100}


@clause("SCHEDULE-9", "SCHEDULE-10", "SCHEDULE-18", each=_LIVE)
async def due_tick_comes_before_what_waits_for_a_live_run(h: StoreHarness, status: str) -> None:
    """Beside a live run a due tick is claimed before an earlier one that waits for the run's end."""
    await upsert(h, overlap_policy="buffer-one")
    await start_tick(h, "tick-1", next_fire_at_ms=h.now_ms + 1)
    await bring(h, "tick-1", status)
    h.advance(1)
    buffered = await claim_tick(h)
    await settle(h, buffered, "buffer", next_fire_at_ms=h.now_ms + 1)
    await request(h, 7, overlap="buffer-all")
    h.advance(1)
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source, tick.overlapping_run_id) == (h.now_ms, "due", "tick-1")
    await settle(h, tick, "skip", next_fire_at_ms=None)
    assert (await claim_ticks(h)).buckets == ()
    await end_run(h, "tick-1")
    assert (await claim_tick(h)).source == "buffered"


@clause("SCHEDULE-10", "SCHEDULE-11", "SCHEDULE-18", each=_LIVE)
async def live_runs_hide_no_tick_that_does_not_wait_for_them(h: StoreHarness, status: str) -> None:
    """A request is told of beside its schedule's live run; one in turn, beside the live runs of others."""
    await upsert(h)
    await start_tick(h, "tick-1", next_fire_at_ms=None)
    await bring(h, "tick-1", status)
    await request(h, 5)
    await start(h)
    await upsert(h, "turn", workflow_id="turn", next_fire_at_ms=None)
    await request(h, 5, schedule_id="turn", overlap="buffer-all")
    for workflow_id, name in (("report", "nightly"), ("turn", "turn")):
        claims = await claim_ticks(h, limit=0, workflow_ids=[workflow_id])
        assert claims.next_due_ms is not None, f"the tick of {name} is left behind and nobody is told"
        assert claims.next_due_ms <= h.now_ms
    assert sorted((await claim_ticks(h, workflow_ids=["none"])).unclaimable) == ["nightly", "turn"]
    assert {tick.schedule.schedule_id for tick in (await claim_ticks(h)).buckets} == {"nightly", "turn"}


@clause("SCHEDULE-8", "SCHEDULE-18", "SCHEDULE-9", each=("first", "last"))
async def request_in_turn_holds_up_no_other_request(h: StoreHarness, place: str) -> None:
    """Beside a live run a plain request is claimed, whether it was made before or after an earlier one in turn."""
    await upsert(h, next_fire_at_ms=None)
    await request(h, 5)
    await start_tick(h, "tick-1")
    if place == "last":
        await request(h, 30)
    await request(h, 10, overlap="buffer-all")
    if place == "first":
        await request(h, 30)
    tick = await claim_tick(h)
    assert (tick.fire_at_ms, tick.source, tick.overlapping_run_id) == (30, "requested", "tick-1")
    await settle(h, tick, "skip")
    claims = await claim_ticks(h)
    assert (claims.buckets, claims.next_due_ms) == ((), None)
    await end_run(h, "tick-1")
    assert (await claim_tick(h)).fire_at_ms == 10


# Crowds.

_CROWD = 40
"""More schedules than a store may look at beyond the limit of a claim."""


@clause("SCHEDULE-9", "SCHEDULE-10", "SCHEDULE-11", each=("held", "fired", "disabled", "buffered", "others"))
async def crowd_that_cannot_be_claimed_hides_no_tick(h: StoreHarness, how: str) -> None:
    """Behind many earlier ticks that cannot be claimed, those that can are told, and claimed in their order."""
    wanted = ["report"] if how == "others" else None
    for number in range(_CROWD):
        await _hold_up(h, f"held-{number}", how)
    if how == "held":
        assert len((await claim_ticks(h)).buckets) == _CROWD
    for name, delay in (("b", 3), ("a", 4), ("c", 2)):
        await upsert(h, name, next_fire_at_ms=h.now_ms + delay)
    h.advance(10)
    assert (await claim_ticks(h, limit=0, workflow_ids=wanted)).next_due_ms == h.now_ms
    ticks = [await claim_tick(h, limit=1, workflow_ids=wanted) for _ in range(3)]
    assert [tick.schedule.schedule_id for tick in ticks] == ["c", "b", "a"]
    assert (await claim_ticks(h, limit=MANY, workflow_ids=wanted)).buckets == ()


async def _hold_up(h: StoreHarness, name: str, how: str) -> None:
    """Create a schedule with a tick that is due at once and that no claim may take, if `held`, once it is claimed."""
    await upsert(h, name, enabled=how != "disabled", workflow_id="another" if how == "others" else "report")
    if how == "fired":
        await settle(h, await claim_tick(h), "skip", next_fire_at_ms=None)
        await upsert(h, name, next_fire_at_ms=h.now_ms, spec='"again"')
    elif how == "buffered":
        await settle(h, await claim_tick(h), "start", f"run-of-{name}", next_fire_at_ms=None)
        await request(h, 5, schedule_id=name)
        await settle(h, await claim_tick(h), "buffer")


@clause("SCHEDULE-9")
async def earliest_of_a_crowd_are_claimed_first(h: StoreHarness) -> None:
    """Of many due ticks, nearly all of one workflow, a claim takes the earliest, and leaves the others to the next."""
    begin = h.now_ms
    moments = [begin + number * 7 % _CROWD for number in range(_CROWD)]
    for number, moment in enumerate(moments):
        await upsert(h, f"s-{number}", next_fire_at_ms=moment, workflow_id="z" if number % 20 == 1 else "w")
    h.advance(_CROWD)
    claimed: list[int] = []
    for limit in (1, 2, 5, MANY):
        batch = [tick.fire_at_ms for tick in (await claim_ticks(h, limit=limit)).buckets]
        assert len(batch) == min(limit, _CROWD - len(claimed))
        claimed += batch
    assert claimed == sorted(moments)
