"""TIME and ARG: moments are kept to the millisecond, far from now too, and clocks of two workers may disagree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from workflow_runtime.store import Awaited, NewEvent, Timer

from ..cases import clause
from ..harness import START_MS, StoreHarness
from ..samples import LEASE_MS, MANY
from ..scenarios import (
    claim_due,
    claim_pending,
    claim_stale,
    create,
    record,
    start,
    start_full,
    start_waiting,
)
from ..ticking import claim_tick, claim_ticks, get_schedule, request, settle, upsert
from ..verbs import (
    APPEND_EVENTS,
    LEASE_VERBS,
    MARK_RUN_ERRORED,
    MARK_RUN_FINISHED,
    MARK_RUN_PAUSED,
    RELEASE_RUN_LEASE,
    LeaseVerb,
)

_MOMENTS = {
    "off-the-second": START_MS + 86_400_644,
    "after-2038": 2**31 * 1_000 + 1,
    "after-2106": 2**32 * 1_000 + 999,
    "after-2262": 2**63 // 10**6 + 7,
    "odd-and-large": 2**52 + 2**51 + 1,
    "near-the-last": 2**53 - 1 - 10**7,
}
"""Moments that a store takes for others if it counts in seconds, in 32 bits, in nanoseconds or in floats."""


@clause("ARG-3", "TIMER-1", "RUN-1", "LOG-3", "LEASE-1", each=_MOMENTS)
async def moments_of_runs_come_back(h: StoreHarness, when: str) -> None:
    """Each time of a run comes back to the millisecond, and each of its waits ends then and not sooner."""
    moment = h.now_ms = _MOMENTS[when]
    queued = await create(h, "queued", available_at_ms=moment + 3)
    assert (queued.created_at_ms, queued.updated_at_ms, queued.due_at_ms) == (moment, moment, moment + 3)
    holder = await start(h, "timers")
    await holder.set_timer("by-itself", moment + 7)
    await holder.append("1", set_timers=[Timer(timer_id="by-append", fire_at_ms=moment + 8)])
    until = [Awaited(kind="signal", name="go", step_id="s", until_ms=moment + 9)]
    await holder.pause(timers={"by-pause": moment + 9}, awaited=until)
    await holder.signal("other", "s1")
    execution = await h.second.load_execution(run_id="timers")
    assert execution is not None
    assert [timer.fire_at_ms - moment for timer in execution.timers] == [7, 8, 9]
    assert (execution.run.due_at_ms, execution.run.awaited) == (moment + 7, tuple(until))
    assert (execution.history[0].created_at_ms, execution.inbox[0].received_at_ms) == (moment, moment)
    for verb, at_ms, run_id in ((claim_pending, moment + 3, "queued"), (claim_due, moment + 7, "timers")):
        early = await verb(h, now_ms=at_ms - 1)
        assert (early.claims, early.next_due_ms) == ((), at_ms)
        (taken,) = (await verb(h, now_ms=at_ms, lease_ms=1_001)).claims
        assert (taken.run.run_id, taken.lease.expires_at_ms) == (run_id, at_ms + 1_001)
        assert [timer.fire_at_ms for timer in taken.due_timers] == ([at_ms] if run_id == "timers" else [])


@clause("ARG-3", "LEASE-1", "LOG-3", "RUN-2", "DEAD-2", each=_MOMENTS)
async def leases_end_to_the_millisecond(h: StoreHarness, when: str) -> None:
    """A lease ends at the very millisecond that a creation, an append, a renewal or a claim said."""
    moment = h.now_ms = _MOMENTS[when]
    created = await start(h, "created", lease_ms=1_003)
    appended = await start(h, "appended", lease_ms=3)
    assert (await appended.append("1", lease_ms=1_005)).lease_expires_at_ms == moment + 1_005
    renewed = await start(h, "renewed", lease_ms=3)
    assert (await renewed.heartbeat(lease_ms=1_007)).lease_expires_at_ms == moment + 1_007
    for holder, end in ((created, moment + 1_003), (appended, moment + 1_005), (renewed, moment + 1_007)):
        assert (await record(h, holder.run_id)).lease_expires_at_ms == end
        early = await claim_stale(h, now_ms=end - 1)
        assert (early.claims, early.next_due_ms) == ((), end)
        (taken,) = (await claim_stale(h, now_ms=end, lease_ms=500_000)).claims
        assert taken.run.run_id == holder.run_id


@clause("ARG-3", "FINISH-1", "FINISH-3", "RETAIN-3", "LIST-1", each=_MOMENTS)
async def ends_and_creations_are_compared_to_the_millisecond(h: StoreHarness, when: str) -> None:
    """The end of a run comes back as it was; pruning and listing compare it, and the creation, exactly."""
    moment = h.now_ms = _MOMENTS[when]
    for run_id in ("finished", "errored", "terminated", "parked"):
        holder = await start(h, run_id)
        h.now_ms += 1
        match run_id:
            case "finished":
                await holder.finish()
            case "terminated":
                await h.store.terminate_run(run_id=run_id, now_ms=h.now_ms)
            case _:
                await holder.fail(parked=run_id == "parked")
        assert (await record(h, run_id)).finished_at_ms == h.now_ms
    listed = (await h.second.list_runs(limit=MANY, created_from_ms=moment + 1, created_before_ms=moment + 3)).runs
    assert [run.run_id for run in listed] == ["errored", "terminated"]
    for before, count in ((moment + 1, 0), (moment + 2, 1), (moment + 3, 1), (moment + 4, 1)):
        assert await h.second.prune_runs(finished_before_ms=before, limit=MANY) == count


@clause("ARG-3", "SCHEDULE-9", "SCHEDULE-10", "SCHEDULE-13", "SCHEDULE-8", "SCHEDULE-19", each=_MOMENTS, schedules=True)
async def ticks_are_due_to_the_millisecond(h: StoreHarness, when: str) -> None:
    """A tick is claimable at its millisecond: a new schedule's, the next one, a changed one, and its claim's end."""
    moment = h.now_ms = _MOMENTS[when]
    await upsert(h, next_fire_at_ms=moment + 3, overlap_policy="allow")
    await _due_at(h, moment + 3, next_fire_at_ms=moment + 1_004)
    await _due_at(h, moment + 1_004, next_fire_at_ms=moment + 9_000)
    await upsert(h, next_fire_at_ms=moment + 2_009, spec='"other"', overlap_policy="allow")
    await _due_at(h, moment + 2_009, next_fire_at_ms=None)
    schedule = await get_schedule(h)
    assert (schedule.last_fire_at_ms, schedule.next_fire_at_ms) == (moment + 2_009, None)
    assert (schedule.created_at_ms, schedule.updated_at_ms) == (moment, moment + 2_009)
    await request(h, moment + 1, moment + 2)
    asked = await h.second.list_requested_buckets(schedule_id="nightly", limit=MANY, from_ms=moment + 1)
    assert [(one.fire_at_ms, one.requested_at_ms) for one in asked] == [(moment + 1, h.now_ms), (moment + 2, h.now_ms)]
    assert len(await h.second.list_requested_buckets(schedule_id="nightly", limit=MANY, from_ms=moment + 2)) == 1
    run = await record(h, f"tick-{moment + 3}")
    assert (run.scheduled_at_ms, run.created_at_ms, run.due_at_ms) == (moment + 3, moment + 3, moment + 1_000_009)


async def _due_at(h: StoreHarness, at_ms: int, next_fire_at_ms: int | None) -> None:
    early = await claim_ticks(h, now_ms=at_ms - 1)
    assert (early.buckets, early.next_due_ms) == ((), at_ms)
    h.now_ms = at_ms
    lost = await claim_tick(h, lease_ms=11)
    assert (lost.fire_at_ms, lost.lease.expires_at_ms) == (at_ms, at_ms + 11)
    kept = await claim_ticks(h, now_ms=at_ms + 10)
    assert (kept.buckets, kept.next_due_ms) == ((), at_ms + 11)
    tick = await claim_tick(h, now_ms=at_ms + 11)
    times: dict[str, Any] = {"next_fire_at_ms": next_fire_at_ms, "available_at_ms": at_ms + 1_000_006}
    answer = await settle(h, tick, "start", f"tick-{at_ms}", **times)
    assert answer.kind == "started"


# Two workers whose clocks disagree.

_LATE_MS = 5_000
"""Milliseconds by which the other worker's clock is late."""


@clause("TIME-1", "FENCE-2", each=LEASE_VERBS)
async def holder_with_a_late_clock_is_heard(h: StoreHarness, verb: LeaseVerb) -> None:
    """A holder whose present is before the run's last change writes all that it writes otherwise."""
    holder = await start_full(h)
    await holder.append("1", now_ms=h.advance(10))
    late = h.now_ms - _LATE_MS
    await verb.of(h.store)(**verb.everything(holder, now_ms=late))
    run = await record(h, holder.run_id)
    ended = {
        RELEASE_RUN_LEASE: "queued",
        MARK_RUN_PAUSED: "paused",
        MARK_RUN_FINISHED: "finished",
        MARK_RUN_ERRORED: "errored",
    }
    assert run.status == ended.get(verb, "running")
    writes = verb in (APPEND_EVENTS, MARK_RUN_PAUSED, MARK_RUN_FINISHED, MARK_RUN_ERRORED)
    assert run.next_index == (4 if writes else 2)
    log = await h.second.read_events(run_id=holder.run_id, limit=MANY)
    assert [event.created_at_ms - h.now_ms for event in log[2:]] == [-_LATE_MS] * (run.next_index - 2)
    assert await h.second.read_inbox(run_id=holder.run_id, limit=MANY) == () or not writes
    if run.status == "running":
        assert run.lease_expires_at_ms == h.now_ms + LEASE_MS, "a late clock shortened the lease"
    if verb is RELEASE_RUN_LEASE:
        assert [c.run.run_id for c in (await claim_pending(h, now_ms=late)).claims] == [holder.run_id]


async def _paused(h: StoreHarness) -> str:
    return (await start_waiting(h, approvals=["ok"])).run_id


async def _queued_for_later(h: StoreHarness) -> str:
    return (await create(h, available_at_ms=h.now_ms + 10**9)).run_id


async def _dead(h: StoreHarness) -> str:
    holder = await start(h)
    await holder.fail(parked=True)
    return holder.run_id


_Start = Callable[[StoreHarness], Awaitable[str]]
_Call = Callable[[StoreHarness, str, int], Awaitable[Any]]
_OUTSIDE: dict[str, tuple[_Start, _Call, str]] = {
    "deliver_signal": (
        _paused,
        lambda h, run_id, at: h.store.deliver_signal(run_id=run_id, signal_id="s", name="go", payload=None, now_ms=at),
        "delivered",
    ),
    "deliver_approval": (
        _paused,
        lambda h, run_id, at: h.store.deliver_approval(run_id=run_id, approval_id="ok", approved=True, now_ms=at),
        "delivered",
    ),
    "deliver_retry": (
        _paused,
        lambda h, run_id, at: h.store.deliver_retry(run_id=run_id, retry_id="r", now_ms=at),
        "delivered",
    ),
    "cancel_run": (_queued_for_later, lambda h, run_id, at: h.store.cancel_run(run_id=run_id, now_ms=at), "requested"),
    "cancel_run-paused": (_paused, lambda h, run_id, at: h.store.cancel_run(run_id=run_id, now_ms=at), "requested"),
    "requeue_run": (_dead, lambda h, run_id, at: h.store.requeue_run(run_id=run_id, now_ms=at), "requeued"),
    "retry_run": (
        _dead,
        lambda h, run_id, at: h.store.retry_run(run_id=run_id, event=NewEvent(kind="retried"), now_ms=at),
        "retried",
    ),
}


@clause("TIME-1", "SIGNAL-1", "CANCEL-2", "DEAD-1", "RETRY-1", each=_OUTSIDE)
async def sender_with_a_late_clock_queues_the_run(h: StoreHarness, verb: str) -> None:
    """A run that a caller with a late clock queues is due at that caller's present."""
    make, call, kind = _OUTSIDE[verb]
    run_id = await make(h)
    late = h.now_ms - _LATE_MS
    assert (await call(h, run_id, late)).kind == kind
    run = await record(h, run_id)
    assert run.status == "queued"
    (taken,) = (await claim_pending(h, now_ms=late)).claims
    assert [entry.received_at_ms for entry in taken.inbox] == [late] * taken.run.inbox_seq


@clause("TIME-1", "CANCEL-4", "LEASE-1", "CLAIM-1")
async def late_clock_neither_ends_nor_takes_what_lives(h: StoreHarness) -> None:
    """By a late clock a lease lives on, a timer is not due, and a termination ends the run all the same."""
    held = await start(h, lease_ms=1_000)
    sleeping = await start_waiting(h, timers={"t": h.now_ms + 1_000})
    h.advance(1_000)
    late = h.now_ms - 1
    for run_id in (held.run_id, sleeping.run_id):
        answer = await h.store.claim_run(run_id=run_id, owner="w", lease_ms=LEASE_MS, now_ms=late, max_crashes=MANY)
        assert answer.kind == "not-claimable"
        assert (await h.store.terminate_run(run_id=run_id, now_ms=late - _LATE_MS)).kind == "terminated"
        assert (await record(h, run_id)).finished_at_ms == late - _LATE_MS
    assert await h.store.prune_runs(finished_before_ms=late, limit=MANY) == 2


@clause("TIME-1", "SCHEDULE-2", "SCHEDULE-13", "SCHEDULE-8", schedules=True)
async def schedule_is_changed_and_settled_by_a_late_clock(h: StoreHarness) -> None:
    """A caller with a late clock changes a schedule, requests its ticks and settles one that others claimed."""
    await upsert(h, overlap_policy="allow")
    late = h.now_ms - _LATE_MS
    changed = await upsert(h, overlap_policy="allow", priority=5, now_ms=late)
    assert (changed.kind, changed.schedule and changed.schedule.revision) == ("updated", 2)
    tick = await claim_tick(h)
    answer = await settle(h, tick, "start", "tick-1", now_ms=late)
    assert answer.kind == "started"
    schedule = await get_schedule(h)
    assert (schedule.last_fire_at_ms, schedule.previous_run_id) == (tick.fire_at_ms, "tick-1")
    assert [c.run.run_id for c in (await claim_pending(h, now_ms=late)).claims] == ["tick-1"]
    h.now_ms = late
    assert await request(h, h.now_ms + 10**6) == 1
    assert (await claim_tick(h)).source == "requested"
