"""SIGNAL, OP, LOG and others: a store's memory does not fade with time, with number, or with what comes after."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from workflow_runtime.store import Awaited, NewEvent, RunStatus, SupportsSubscribe, Timer

from ..cases import clause
from ..harness import StoreHarness
from ..samples import LEASE_MS, MANY, event, events
from ..scenarios import claim, claim_stale, create, record, show_life, start, start_full, start_waiting, unchanged
from ..ticking import claim_tick, claim_ticks, get_schedule, request, settle, settle_arguments, upsert
from ..verbs import (
    APPEND_EVENTS,
    MARK_RUN_ERRORED,
    MARK_RUN_PAUSED,
    RELEASE_RUN_LEASE,
    SCHEDULE_TIMER,
    LeaseVerb,
)

_YEARS_MS = 50 * 365 * 86_400_000
_SOME = 110
"""More than a store keeps that remembers the last hundred, or one page."""
_BYTES = 10**9
_SOON_S = 0.15
"""Long enough for a follower to look several times."""

Deliver = Callable[[StoreHarness, str, str], Awaitable[Any]]
_DELIVERIES: dict[str, Deliver] = {
    "signal": lambda h, run_id, name: h.store.deliver_signal(
        run_id=run_id, signal_id=name, name="go", payload=None, now_ms=h.now_ms
    ),
    "approval": lambda h, run_id, name: h.store.deliver_approval(
        run_id=run_id, approval_id=name, approved=True, now_ms=h.now_ms
    ),
    "retry": lambda h, run_id, name: h.store.deliver_retry(run_id=run_id, retry_id=name, now_ms=h.now_ms),
}


async def _check_known(h: StoreHarness, run_id: str, kind: str) -> None:
    known = "already-decided" if kind == "approval" else "duplicate"
    for place in (0, 29, 30, _SOME - 1):
        answer = await _DELIVERIES[kind](h, run_id, f"id-{place}")
        assert answer.kind == known, f"delivery {place + 1} of {_SOME} is forgotten: {answer}"


@clause("SIGNAL-2", "APPROVAL-2", "SIGNAL-7", each=("approval", "retry"))
async def deliveries_are_known_for_ever(h: StoreHarness, kind: str) -> None:
    """The first of many deliveries is known after years, after it was taken, and after the run's end."""
    holder = await start(h, "run")
    for place in range(_SOME):
        answer = await _DELIVERIES[kind](h, "run", f"id-{place}")
        assert (answer.kind, answer.inbox_seq) == ("buffered", place + 1)
    async with unchanged(h, "run", after=f"a repeated {kind}"):
        await _check_known(h, "run", kind)
        h.advance(_YEARS_MS)
        await _check_known(h, "run", kind)
    await holder.append("1", taken_inbox=list(range(1, _SOME + 1)))
    await _check_known(h, "run", kind)
    await holder.fail()
    h.advance(_YEARS_MS)
    async with unchanged(h, "run", after=f"a {kind} repeated after the end"):
        await _check_known(h, "run", kind)
    await h.store.retry_run(run_id="run", event=event(), now_ms=h.now_ms)
    await _check_known(h, "run", kind)


@clause("CANCEL-1", "BULK-1")
async def request_to_cancel_is_known_for_ever(h: StoreHarness) -> None:
    """A request stands after years, after many deliveries and claims, and after it was taken."""
    holder = await start(h, "run")
    await h.store.cancel_run(run_id="run", now_ms=h.now_ms)
    for place in range(20):
        await holder.signal("go", f"id-{place}")
    h.advance(_YEARS_MS)
    for handle in await h.handles(2):
        assert (await handle.cancel_run(run_id="run", now_ms=h.now_ms)).kind == "duplicate"
    await holder.append("1", taken_inbox=list(range(1, 22)))
    again = await claim(h, "run", now_ms=h.advance(LEASE_MS))
    assert again.claim.run.cancel_requested
    assert (await h.store.cancel_run(run_id="run", now_ms=h.now_ms)).kind == "duplicate"
    answers = await h.second.cancel_runs(run_ids=["run"], now_ms=h.now_ms)
    assert answers["run"].kind == "duplicate"


@clause("SIGNAL-4", "SIGNAL-6", "LOG-6", "SIGNAL-2", "LIST-5", "CLAIM-2")
async def inbox_of_more_than_a_thousand(h: StoreHarness) -> None:
    """An inbox of more entries than a page is numbered, read, known and taken to its end."""
    holder = await start(h, "run")
    count = 1_010
    for place in range(count):
        assert (await holder.signal("go", f"id-{place}", str(place))).inbox_seq == place + 1
    assert await _whole_inbox(h) == list(range(1, count + 1))
    timeline = await h.second.get_run_timeline(run_id="run", limit=2_000)
    assert len([entry for entry in timeline.entries if entry.source == "inbox"]) == count
    async with unchanged(h, "run", after="a repeated signal"):
        await _check_signals(h, count)
        h.advance(_YEARS_MS)
        await _check_signals(h, count)
    holder = await claim(h, "run")
    assert [entry.inbox_seq for entry in holder.claim.inbox] == list(range(1, 1_001)), "a claim brings one page"
    await holder.append("1", taken_inbox=[1, 500, 1_000, 1_001, count])
    assert await _whole_inbox(h) == [n for n in range(1, count + 1) if n not in {1, 500, 1_000, 1_001, count}]
    await holder.append("2", taken_inbox=list(range(1, 1_004)))
    again = await claim(h, "run", now_ms=h.advance(LEASE_MS))
    assert [entry.inbox_seq for entry in again.claim.inbox] == list(range(1_004, count))
    await again.pause(taken_inbox=list(range(1_004, count)), signals=["go"])
    assert await _whole_inbox(h) == []
    await _check_signals(h, count)
    assert (await holder.signal("go", "one-more")).inbox_seq == count + 1
    await h.store.terminate_run(run_id="run", now_ms=h.advance(_YEARS_MS))
    await _check_signals(h, count)


async def _check_signals(h: StoreHarness, count: int) -> None:
    for place in (0, 1, 99, 100, 499, 999, 1_000, count - 101, count - 1):
        answer = await _DELIVERIES["signal"](h, "run", f"id-{place}")
        assert answer.kind == "duplicate", f"signal {place + 1} of {count} is forgotten: {answer}"
        assert answer.inbox_seq == place + 1


async def _whole_inbox(h: StoreHarness) -> list[int]:
    found: list[int] = []
    while True:
        after = found[-1] if found else 0
        page = await h.second.read_inbox(run_id="run", limit=400, after_seq=after, max_bytes=_BYTES)
        if not page:
            return found
        found += [entry.inbox_seq for entry in page]


@clause("LOG-7", "LOG-1", "RUN-7", "FORK-1", "LIST-5", "LOG-5")
async def log_of_several_thousand(h: StoreHarness) -> None:
    """A log of several thousand events is appended to, read, forked and shown to its end."""
    holder = await start(h, "run")
    count = 2_600
    for place in range(0, count, 650):
        await holder.append(*(str(number) for number in range(place, place + 650)))
    assert (await holder.append("-1")).next_index == count + 1
    for begin in (0, 999, 1_000, 1_999, 2_000, 2_599):
        page = await h.second.read_events(run_id="run", limit=2, from_index=begin)
        assert [(one.index, one.payload) for one in page] == [(begin, str(begin)), (begin + 1, _payload(begin + 1))]
    log: list[int] = []
    while True:
        page = await h.second.read_events(run_id="run", limit=1_500, from_index=len(log), max_bytes=_BYTES)
        if not page:
            break
        log += [one.index for one in page]
    assert log == list(range(count + 1))
    timeline = await h.second.get_run_timeline(run_id="run", limit=3_000)
    assert len([entry for entry in timeline.entries if entry.source == "log"]) == count + 1
    await h.store.fork_run(
        run_id="run", new_run_id="fork", from_index=2_500, event=event('"f"'), operation_id="o", now_ms=h.now_ms
    )
    copied = await h.second.read_events(run_id="fork", limit=9, from_index=2_497)
    assert [one.payload for one in copied] == ["2497", "2498", "2499", '"f"']
    await holder.release()
    again = await claim(h, "run")
    assert (again.next_index, len(again.claim.history)) == (count + 1, 1_000)
    await again.append("0")


def _payload(index: int) -> str:
    return "-1" if index == 2_600 else str(index)


@clause("TIMER-1", "TIMER-2", "PAUSE-1", "RUN-7")
async def many_timers_and_awaited_things(h: StoreHarness) -> None:
    """A run with more timers and awaited things than a page keeps, shows and is woken by each of them."""
    holder = await start(h, "run")
    count = 1_200
    timers = [Timer(timer_id=f"t{number}", fire_at_ms=h.now_ms + 10_000 - number) for number in range(count)]
    for place in range(0, count, 400):
        await holder.append(events=[], set_timers=timers[place : place + 400])
    awaited = [Awaited(kind="signal", name=f"n{number}", step_id=f"s{number}") for number in range(count)]
    await holder.pause(awaited=awaited)
    run = await record(h, "run")
    assert (run.due_at_ms, run.awaited) == (h.now_ms + 10_000 - count + 1, tuple(awaited))
    execution = await h.second.load_execution(run_id="run")
    assert execution is not None
    assert execution.timers == tuple(timers[::-1])
    assert (await holder.signal(f"n{count - 1}", "last")).kind == "delivered"
    taken = await claim(h, "run", now_ms=h.now_ms + 10_000)
    assert taken.claim.due_timers == tuple(timers[::-1])


# Ticks.


@clause("SCHEDULE-8", "SCHEDULE-19", "SCHEDULE-9")
async def all_requested_ticks_are_kept(h: StoreHarness) -> None:
    """Each of many requested ticks is listed, known and claimed, also after years."""
    await upsert(h, next_fire_at_ms=None, overlap_policy="allow")
    moments = list(range(1_000, 1_000 + 150))
    assert await request(h, *moments) == 150
    for _ in range(2):
        asked = await h.second.list_requested_buckets(schedule_id="nightly", limit=MANY)
        assert [one.fire_at_ms for one in asked] == moments
        assert await request(h, *moments, 1) == (1 if moments[0] == 1_000 else 0)
        moments = sorted({1, *moments})
        h.advance(_YEARS_MS)
    for moment in moments[:12]:
        tick = await claim_tick(h)
        assert tick.fire_at_ms == moment
        await settle(h, tick, "skip", next_fire_at_ms=None)
    asked = await h.second.list_requested_buckets(schedule_id="nightly", limit=MANY)
    assert [one.fire_at_ms for one in asked] == moments[12:]


@clause("SCHEDULE-16", "SCHEDULE-12")
async def last_settlement_is_known_for_ever(h: StoreHarness) -> None:
    """The last settlement is repeated after years, after other schedules' ticks and after the next claim."""
    await upsert(h, overlap_policy="allow")
    tick = await claim_tick(h)
    settled = settle_arguments(h, tick, "start", "tick-1", next_fire_at_ms=h.now_ms + 9)
    answer = await h.store.mark_schedule_bucket_started(**settled)
    await upsert(h, "other", overlap_policy="allow", next_fire_at_ms=None, workflow_id="other")
    await request(h, *range(12), schedule_id="other")
    for number in range(12):
        other = await claim_tick(h, workflow_ids=["other"])
        await settle(h, other, "start", f"other-{number}", next_fire_at_ms=None)
    h.advance(_YEARS_MS)
    await h.store.terminate_run(run_id="tick-1", now_ms=h.now_ms)
    before = await get_schedule(h)
    for handle in await h.handles(2):
        assert await handle.mark_schedule_bucket_started(**settled) == answer
    assert await get_schedule(h) == before
    following = await claim_tick(h, workflow_ids=["report"])
    assert await h.store.mark_schedule_bucket_started(**settled) == answer
    assert (await settle(h, following, "skip", next_fire_at_ms=None)).kind == "skipped"
    assert (await claim_ticks(h, now_ms=h.advance(_YEARS_MS))).buckets == (), "a tick that was settled fired again"


# The last operation of a run.


async def _terminated(h: StoreHarness, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        assert (await h.second.terminate_run(run_id=run_id, now_ms=h.now_ms)).kind == "terminated"


async def _terminated_in_bulk(h: StoreHarness, run_ids: Sequence[str]) -> None:
    await h.second.terminate_runs(run_ids=run_ids, now_ms=h.now_ms)


async def _cancelled(h: StoreHarness, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        assert (await h.second.cancel_run(run_id=run_id, now_ms=h.now_ms)).kind == "requested"


async def _cancelled_in_bulk(h: StoreHarness, run_ids: Sequence[str]) -> None:
    await h.second.cancel_runs(run_ids=run_ids, now_ms=h.now_ms)


async def _delivered(h: StoreHarness, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        for kind, deliver in _DELIVERIES.items():
            assert (await deliver(h, run_id, f"late-{kind}")).kind in {"buffered", "delivered"}


async def _forked(h: StoreHarness, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        answer = await h.second.fork_run(
            run_id=run_id, new_run_id=f"fork-{run_id}", from_index=1, event=event(), operation_id="o", now_ms=h.now_ms
        )
        assert answer.kind == "forked"


async def _aged(h: StoreHarness, run_ids: Sequence[str]) -> None:
    for _ in range(_SOME):
        await create(h, operation_id=h.new_id("other"))
    h.advance(_YEARS_MS)


_WRITES = (APPEND_EVENTS, SCHEDULE_TIMER, RELEASE_RUN_LEASE, MARK_RUN_PAUSED)
_INTERVALS: dict[str, Callable[[StoreHarness, Sequence[str]], Awaitable[None]]] = {
    "terminate_run": _terminated,
    "terminate_runs": _terminated_in_bulk,
    "cancel_run": _cancelled,
    "cancel_runs": _cancelled_in_bulk,
    "deliveries": _delivered,
    "fork_run": _forked,
    "years-and-other-runs": _aged,
}


async def _check_repeat(h: StoreHarness, verb: LeaseVerb, arguments: dict[str, Any], first: Any) -> None:
    repeat = await verb.of(h.store)(**(arguments | {"now_ms": h.now_ms}))
    if verb is APPEND_EVENTS:
        first, repeat = first.next_index, repeat.next_index
    assert repeat == first, f"{verb} repeated answered {repeat}, the first time {first}"


@clause("OP-2", "OP-1", each=_INTERVALS)
async def last_operation_outlives(h: StoreHarness, what: str) -> None:
    """Calls from outside, other runs and years do not make a store forget the last write of a run, whichever it was."""
    written = []
    for verb in _WRITES:
        holder = await start_full(h, verb.name)
        arguments = verb.everything(holder)
        written.append((verb, arguments, await verb.of(h.store)(**arguments)))
    await _INTERVALS[what](h, [verb.name for verb in _WRITES])
    async with unchanged(h, *(verb.name for verb in _WRITES), after=f"a write repeated after {what}"):
        for verb, arguments, first in written:
            await _check_repeat(h, verb, arguments, first)


async def _requeue(h: StoreHarness, run_id: str) -> str:
    return (await h.second.requeue_run(run_id=run_id, now_ms=h.now_ms)).kind


async def _requeue_in_bulk(h: StoreHarness, run_id: str) -> str:
    return (await h.second.requeue_runs(run_ids=[run_id], now_ms=h.now_ms))[run_id].kind


async def _retry(h: StoreHarness, run_id: str) -> str:
    return (await h.second.retry_run(run_id=run_id, event=NewEvent(kind="retried"), now_ms=h.now_ms)).kind


async def _retry_in_bulk(h: StoreHarness, run_id: str) -> str:
    answers = await h.second.retry_runs(run_ids=[run_id], event=NewEvent(kind="retried"), now_ms=h.now_ms)
    return answers[run_id].kind


_REVIVALS = {
    "requeue_run": _requeue,
    "requeue_runs": _requeue_in_bulk,
    "retry_run": _retry,
    "retry_runs": _retry_in_bulk,
}


@clause("OP-2", "OP-1", "DEAD-1", "RETRY-1", each=_REVIVALS)
async def last_operation_outlives_death_and_revival(h: StoreHarness, verb: str) -> None:
    """A write is known when the run has died of a crash since, and when it was brought back."""
    holder = await start_full(h)
    arguments = APPEND_EVENTS.everything(holder)
    first = await h.store.append_events(**arguments)
    await show_life(holder)
    assert (await claim_stale(h, max_crashes=1, now_ms=h.advance(LEASE_MS))).dead == (holder.run_id,)
    async with unchanged(h, holder.run_id, after="an append repeated after death"):
        await _check_repeat(h, APPEND_EVENTS, arguments, first)
    assert await _REVIVALS[verb](h, holder.run_id) in {"requeued", "retried"}
    async with unchanged(h, holder.run_id, after=f"an append repeated after {verb}"):
        await _check_repeat(h, APPEND_EVENTS, arguments, first)
    parked = await start_full(h)
    arguments = MARK_RUN_ERRORED.everything(parked, parked=True)
    await h.store.mark_run_errored(**arguments)
    assert await _REVIVALS[verb](h, parked.run_id) in {"requeued", "retried"}
    async with unchanged(h, parked.run_id, after=f"a parking repeated after {verb}"):
        await h.store.mark_run_errored(**arguments)
    assert (await record(h, parked.run_id)).status is RunStatus.QUEUED


@clause("RUN-5", "FORK-4", "OP-2")
async def creation_is_known_until_a_driver_writes(h: StoreHarness) -> None:
    """A creation and a fork are repeated after years, claims, deliveries and a request, with their first answers."""
    source = await start(h, "source")
    await source.append("1")
    created = {
        "run_id": "new", "workflow_id": "w", "workflow_version": "1", "input": "null", "operation_id": "create",
        "now_ms": h.now_ms,
    }  # fmt: skip
    forked = {
        "run_id": "source", "new_run_id": "fork", "from_index": 1, "event": event(), "operation_id": "fork",
        "now_ms": h.now_ms,
    }  # fmt: skip
    calls: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("new", h.store.create_run, created),
        ("fork", h.store.fork_run, forked),
    )
    for run_id, verb, arguments in calls:
        kind = (await verb(**arguments)).kind
        await _delivered(h, [run_id])
        await h.second.cancel_run(run_id=run_id, now_ms=h.now_ms)
        h.advance(_YEARS_MS)
        await claim(h, run_id, owner="other", store=h.second)
        async with unchanged(h, run_id, after=f"a repeated {kind}"):
            assert (await verb(**arguments)).kind == kind, f"the repeated call for {run_id} answered otherwise"


# What follows a pause.


@clause("SUBSCRIBE-1", capability="subscribe", each=("pause", "release", "requeue", "retry"))
async def following_goes_on_after(h: StoreHarness, what: str) -> None:
    """A run that waits, was handed over or was brought back has not ended: its followers get what comes after."""
    holder = await start(h, "run")
    await holder.append('"a"')
    if what == "pause":
        await holder.pause(signals=["go"])
    elif what == "release":
        await holder.release()
    else:
        await holder.fail(parked=True, events=events('"b"'))
        await _REVIVALS[f"{what}_run"](h, "run")
    store: Any = h.second
    following: SupportsSubscribe = store
    follower = following.subscribe_events(run_id="run")
    try:
        assert (await anext(follower)).payload == '"a"'
        if what == "pause":
            await holder.signal("go")
        again = await claim(h, "run")
        await again.append('"c"')
        await again.finish(events=events('"d"'))
        rest = [one.payload async for one in follower]
    finally:
        await follower.aclose()
    assert rest == {"requeue": ['"b"', '"c"', '"d"'], "retry": ['"b"', None, '"c"', '"d"']}.get(what, ['"c"', '"d"'])


@clause("SUBSCRIBE-1", "SUBSCRIBE-2", capability="subscribe")
async def following_outlives_pauses(h: StoreHarness) -> None:
    """One follower waits while a run is paused and while it is queued, and sees it until its end."""
    holder = await start_waiting(h, run_id="run")
    store: Any = h.second
    following: SupportsSubscribe = store
    follower = following.subscribe_events(run_id="run")
    try:
        for number in range(2):
            coming = asyncio.ensure_future(anext(follower))
            done, _ = await asyncio.wait([coming], timeout=_SOON_S)
            assert not done, f"the following ended while the run was {(await record(h, 'run')).status}"
            if number == 0:
                await holder.signal("go")
            again = await claim(h, "run")
            await again.append(str(number))
            assert (await coming).payload == str(number)
            await again.release()
        await h.store.terminate_run(run_id="run", now_ms=h.now_ms)
        assert [one async for one in follower] == []
    finally:
        await follower.aclose()
