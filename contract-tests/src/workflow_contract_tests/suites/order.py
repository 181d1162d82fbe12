"""CLAIM, LIST and others: what is first, when the facts that a store might sort by contradict each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from workflow_runtime.store import Event, InboxEntry, RunStatus, SupportsSubscribe, Timer

from ..cases import clause
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY, event
from ..scenarios import claim, claim_pending, create, record, start, start_waiting
from ..ticking import claim_tick, claim_ticks, end_run, request, settle, upsert
from ..verbs import CLAIM_DUE_TIMERS, CLAIM_PENDING_RUNS, CLAIM_STALE_RUNS, CLAIM_VERBS, ClaimVerb

_PRIORITIES = (
    *(-32_768, -32_767, -1_000, -256, -129, -128, -127, -2, -1),
    *(0, 1, 2, 9, 10, 19, 99, 100, 127, 128, 200, 255, 256, 257, 1_000, 9_999, 32_766, 32_767),
)
"""Priorities that are in another order as texts, as bytes and as absolute values."""


async def _contradicting(h: StoreHarness, verb: ClaimVerb) -> list[str]:
    """Make runs claimable whose creation, last change and ids say the opposite of their due times; return their order.

    `a` is created first and `e` last. `e` is due first.
    """
    begin = h.now_ms
    for number, run_id in enumerate("abcde"):
        h.now_ms = begin + number
        due_ms = begin + 1_000 - 10 * number
        if verb is CLAIM_PENDING_RUNS:
            await create(h, run_id, available_at_ms=due_ms)
        elif verb is CLAIM_STALE_RUNS:
            await start(h, run_id, lease_ms=due_ms - h.now_ms)
        else:
            timers = {"z": due_ms, "y": begin + 1_000 + 10 * number, "x": begin + 10**9 + number}
            await start_waiting(h, run_id=run_id, timers=timers)
    h.now_ms = begin + 1_200
    for run_id in "ec":
        # The last change of a run says nothing of its place.
        await h.second.deliver_signal(run_id=run_id, signal_id="s", name="other", payload=None, now_ms=h.advance(1))
    return list("edcba")


@clause("CLAIM-5", "CLAIM-3", "TIMER-2", "CLAIM-7", each=CLAIM_VERBS)
async def earliest_due_is_first_whatever_was_created_first(h: StoreHarness, verb: ClaimVerb) -> None:
    """A claim takes the runs by due time, not by creation, last change, id, or another one of their timers."""
    expected = await _contradicting(h, verb)
    if verb is CLAIM_PENDING_RUNS:
        shown = await h.second.list_pending_runs(now_ms=h.now_ms, limit=3)
        assert [run.run_id for run in shown] == expected[:3]
    first = await verb.call(h, limit=2)
    assert [c.run.run_id for c in first.claims] == expected[:2]
    rest = await verb.call(h, store=h.second)
    assert [c.run.run_id for c in rest.claims] == expected[2:]


@clause("CLAIM-5", "CLAIM-3", "TIMER-2", "RUN-1", each=CLAIM_VERBS)
async def priorities_are_numbers(h: StoreHarness, verb: ClaimVerb) -> None:
    """Priorities from -32768 to 32767 come back, and the greater number is claimed first, whatever is due first."""
    order = sorted(_PRIORITIES, key=str)
    ids = {f"p{priority}": priority for priority in order}
    for number, (run_id, priority) in enumerate(ids.items()):
        due_ms = h.now_ms + 1_000 + priority // 7 + 5_000
        await verb.make_ready(h, due_ms, run_id=run_id, priority=priority)
        assert (await record(h, run_id)).priority == priority
        h.advance(number % 2)
    h.advance(20_000)
    expected = sorted(ids.values(), reverse=True)
    if verb is CLAIM_PENDING_RUNS:
        shown = await h.second.list_pending_runs(now_ms=h.now_ms, limit=9)
        assert [run.priority for run in shown] == expected[:9]
    first = await verb.call(h, limit=9)
    assert [c.run.priority for c in first.claims] == expected[:9]
    rest = await verb.call(h, store=h.second)
    assert [c.run.priority for c in rest.claims] == expected[9:]


@clause("SCHEDULE-13", "SCHEDULE-1", "FORK-1")
async def priorities_are_handed_on(h: StoreHarness) -> None:
    """The runs of ticks and forks have the very priority of their schedule and of their source."""
    for priority in (-32_768, -129, 256, 32_767):
        name = f"s{priority}"
        upserted = await upsert(h, name, priority=priority)
        assert upserted.schedule is not None
        assert upserted.schedule.priority == priority
        (tick,) = (await claim_ticks(h)).buckets
        assert tick.schedule.priority == priority
        await settle(h, tick, "start", f"run-of-{name}", next_fire_at_ms=None)
        await h.store.fork_run(
            run_id=f"run-of-{name}", new_run_id=f"fork-{name}", from_index=0, event=event(),
            operation_id=h.new_id("op"), now_ms=h.now_ms,
        )  # fmt: skip
        for run_id in (f"run-of-{name}", f"fork-{name}"):
            assert (await record(h, run_id)).priority == priority


async def _check_ties(h: StoreHarness, verb: ClaimVerb, facts: Callable[[int], dict[str, Any]]) -> None:
    """Make runs that are due at once, with facts by their number, and assert that they are claimed by their ids."""
    due_ms = h.now_ms + 1_000
    for number, run_id in enumerate(("c", "10", "9", "b", "a")):
        h.advance(1)
        await verb.make_ready(h, due_ms, run_id=run_id, **facts(number))
    h.now_ms = due_ms
    if verb is CLAIM_PENDING_RUNS:
        shown = await h.second.list_pending_runs(now_ms=h.now_ms, limit=2)
        assert [run.run_id for run in shown] == ["10", "9"]
    taken = [(await verb.call(h, limit=1)).claims[0].run.run_id for _ in range(5)]
    assert taken == ["10", "9", "a", "b", "c"]


@clause("CLAIM-5", "CLAIM-3", "TIMER-2", each=CLAIM_VERBS)
async def ties_go_by_run_id(h: StoreHarness, verb: ClaimVerb) -> None:
    """Of runs of one priority and one due time the least id is first, whichever was created or changed first."""
    await _check_ties(h, verb, lambda number: {"workflow_id": f"w{number}", "queue": f"q{number % 2}"})


@clause("CLAIM-5", "CLAIM-3", "TIMER-2", each=CLAIM_VERBS)
async def ties_of_one_workflow_go_by_run_id(h: StoreHarness, verb: ClaimVerb) -> None:
    """Of runs of one workflow and queue, too, the least id is first where they are due at once."""
    await _check_ties(h, verb, lambda _: {})


@clause("CLAIM-5", "CLAIM-3", "TIMER-2", each=CLAIM_VERBS)
async def earliest_due_is_first_among_all_workflows(h: StoreHarness, verb: ClaimVerb) -> None:
    """A claim of few takes those that are due first, whatever workflows and queues they are of."""
    begin = h.now_ms
    for number, run_id in enumerate("abcde"):
        due_ms = begin + 1_000 - 10 * number
        await verb.make_ready(h, due_ms, run_id=run_id, workflow_id=f"w{number}", queue=f"q{number % 2}")
    h.now_ms = begin + 1_200
    if verb is CLAIM_PENDING_RUNS:
        shown = await h.second.list_pending_runs(now_ms=h.now_ms, limit=2)
        assert [run.run_id for run in shown] == ["e", "d"]
    taken = [c.run.run_id for limit in (1, 2, 1, 1) for c in (await verb.call(h, limit=limit)).claims]
    assert taken == list("edcba")


@clause("CLAIM-5", "LEASE-3", "SIGNAL-1", "DEAD-1", "RETRY-1")
async def requeued_runs_take_the_place_of_their_new_time(h: StoreHarness) -> None:
    """A run that is queued anew is due at that moment: behind those that were due before, before those of later."""
    old = await start(h, "z-released")
    await create(h, "y-due-before", available_at_ms=h.now_ms + 5)
    dead = await start(h, "x-dead")
    await dead.fail(parked=True)
    ended = await start(h, "w-ended")
    await ended.fail()
    waiting = await start_waiting(h, run_id="v-waiting")
    h.advance(10)
    await old.release()
    h.advance(1)
    await waiting.signal("go")
    h.advance(1)
    await h.store.requeue_run(run_id="x-dead", now_ms=h.now_ms)
    h.advance(1)
    await h.store.retry_run(run_id="w-ended", event=event(), now_ms=h.now_ms)
    await create(h, "a-last", available_at_ms=h.now_ms + 1)
    h.advance(1)
    batch = await claim_pending(h)
    expected = ["y-due-before", "z-released", "v-waiting", "x-dead", "w-ended", "a-last"]
    assert [c.run.run_id for c in batch.claims] == expected


# Within one run.


async def _disagreeing(h: StoreHarness) -> LeaseHolder:
    """Start a run whose log and inbox were written by clocks that disagree: later entries have earlier times."""
    holder = await start(h, "run")
    begin = h.now_ms
    for number in range(6):
        at_ms = begin + 1_000 - 100 * number
        await holder.append(str(number), now_ms=at_ms)
        await h.store.deliver_signal(
            run_id="run", signal_id=f"{9 - number}", name=f"n{9 - number}", payload=None, now_ms=at_ms
        )
    timers = [Timer(timer_id=name, fire_at_ms=begin + at) for name, at in (("a", 30), ("c", 20), ("b", 10), ("d", 9))]
    await holder.append(events=[], set_timers=timers)
    holder.seen = 6
    return holder


_Read = Callable[[StoreHarness, LeaseHolder], Awaitable[Any]]


async def _loaded(h: StoreHarness, holder: LeaseHolder) -> Any:
    return await h.second.load_execution(run_id="run")


async def _claimed(h: StoreHarness, holder: LeaseHolder) -> Any:
    await holder.release()
    return (await claim(h, "run", now_ms=h.advance(10**6))).claim


async def _claimed_pending(h: StoreHarness, holder: LeaseHolder) -> Any:
    await holder.release()
    return (await CLAIM_PENDING_RUNS.call(h, now_ms=h.advance(10**6))).claims[0]


async def _claimed_stale(h: StoreHarness, holder: LeaseHolder) -> Any:
    return (await CLAIM_STALE_RUNS.call(h, now_ms=h.advance(10**6))).claims[0]


async def _claimed_due(h: StoreHarness, holder: LeaseHolder) -> Any:
    await holder.pause()
    return (await CLAIM_DUE_TIMERS.call(h, now_ms=h.advance(10**6))).claims[0]


_READS: dict[str, _Read] = {
    "load_execution": _loaded,
    "claim_run": _claimed,
    "claim_pending_runs": _claimed_pending,
    "claim_stale_runs": _claimed_stale,
    "claim_due_timers": _claimed_due,
}


def _check_order(history: tuple[Event, ...], inbox: tuple[InboxEntry, ...]) -> None:
    assert [one.index for one in history] == list(range(6)), "the log is not in the order of its indexes"
    assert [one.payload for one in history] == [str(number) for number in range(6)]
    assert [one.inbox_seq for one in inbox] == [1, 2, 3, 4, 5, 6], "the inbox is not in the order of its numbers"
    assert [one.delivery_id for one in inbox] == ["9", "8", "7", "6", "5", "4"]


@clause("SIGNAL-4", "LOG-7", "TIMER-2", "CLAIM-2", "RUN-7", each=_READS)
async def numbers_order_log_and_inbox(h: StoreHarness, verb: str) -> None:
    """Events come by index and entries by number, though their times and ids say the opposite; timers by time."""
    found = await _READS[verb](h, await _disagreeing(h))
    _check_order(found.history, found.inbox)
    timers = found.timers if verb == "load_execution" else found.due_timers
    assert [timer.timer_id for timer in timers] == ["d", "b", "c", "a"]


@clause("SIGNAL-6", "SIGNAL-4", "LOG-7")
async def pages_are_in_the_order_of_numbers(h: StoreHarness) -> None:
    """Pages of the log and of the inbox go by their numbers, though the times say the opposite."""
    await _disagreeing(h)
    log: list[Event] = []
    inbox: list[InboxEntry] = []
    for place in (0, 2, 4):
        log += await h.second.read_events(run_id="run", limit=2, from_index=place)
        inbox += await h.second.read_inbox(run_id="run", limit=2, after_seq=place)
    _check_order(tuple(log), tuple(inbox))


@clause("FORK-1", "LOG-7")
async def fork_takes_the_first_by_number(h: StoreHarness) -> None:
    """A fork begins with the first events by index, and each keeps its time."""
    await _disagreeing(h)
    await h.store.fork_run(
        run_id="run", new_run_id="fork", from_index=3, event=event(), operation_id="o", now_ms=h.now_ms
    )
    log = await h.second.read_events(run_id="run", limit=3)
    copied = await h.second.read_events(run_id="fork", limit=3)
    assert copied == log
    assert [one.payload for one in copied] == ["0", "1", "2"]


@clause("SUBSCRIBE-1", capability="subscribe")
async def followed_events_are_in_order(h: StoreHarness) -> None:
    """A follower gets the events by index, though their times say the opposite."""
    holder = await _disagreeing(h)
    await holder.finish()
    store: Any = h.second
    following: SupportsSubscribe = store
    given = [one.payload async for one in following.subscribe_events(run_id="run")]
    assert given == [str(number) for number in range(6)]


@clause("LIST-5")
async def timeline_is_in_order_of_time(h: StoreHarness) -> None:
    """A timeline is ordered by time, whatever the indexes and numbers say."""
    await _disagreeing(h)
    entries = (await h.second.get_run_timeline(run_id="run")).entries
    times = [entry.at_ms for entry in entries]
    assert times == sorted(times)
    assert [entry.detail for entry in entries if entry.source == "log"] == [str(number) for number in range(6)][::-1]


# Several runs and schedules.


@clause("RETAIN-3")
async def oldest_end_is_pruned_first(h: StoreHarness) -> None:
    """Pruning begins with the run that ended first, not with the one created, changed or named first."""
    begin = h.now_ms
    holders = []
    for run_id in "abcd":
        holders.append(await start(h, run_id, lease_ms=10**6, queue=run_id))
        h.advance(1)
    for number, holder in enumerate(reversed(holders)):
        await holder.fail(parked=True, now_ms=begin + 100 + number)
    for run_id in "dc":
        await h.second.deliver_signal(run_id=run_id, signal_id="s", name="go", payload=None, now_ms=begin + 10**6)
    for left in ("abc", "ab", "a", ""):
        pruned = await h.second.prune_runs(finished_before_ms=begin + 10**6, limit=1, statuses=[RunStatus.DEAD])
        assert pruned == 1
        assert [run.run_id for run in (await h.store.list_runs(limit=MANY)).runs] == list(left)


@clause("LIST-1", "LIST-2", each=("ascending", "descending"))
async def listing_goes_by_creation_alone(h: StoreHarness, order: str) -> None:
    """Runs are listed by creation, then id, whatever is due, changed or more urgent first; clocks may step back."""
    begin = h.now_ms
    for number, run_id in enumerate(("a", "z", "m", "10", "9")):
        h.now_ms = begin - (number // 2)
        await create(h, run_id, priority=number, available_at_ms=begin + 100 - number)
    h.now_ms = begin
    await claim(h, "m", now_ms=begin + 1_000)
    expected = ["9", "10", "m", "a", "z"]
    found: list[str] = []
    cursor = None
    while True:
        page = await h.second.list_runs(limit=2, cursor=cursor, descending=order == "descending")
        found += [run.run_id for run in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == (expected if order == "ascending" else expected[::-1])


@clause("SCHEDULE-9")
async def earliest_tick_is_first_whatever_the_schedule(h: StoreHarness) -> None:
    """Ticks of several schedules come by their moments as numbers, not by schedule, source, creation or request."""
    moments = {"d": 9, "c": 10, "b": 100, "a": 1_000, "e": h.now_ms - 1}
    for schedule_id, moment in reversed(moments.items()):
        await upsert(h, schedule_id, next_fire_at_ms=moment if schedule_id in "db" else None)
        h.advance(1)
    for schedule_id in "eac":
        await request(h, moments[schedule_id], schedule_id=schedule_id)
    for expected in (["d", "c"], ["b", "a"], ["e"]):
        taken = (await claim_ticks(h, limit=2)).buckets
        assert [tick.schedule.schedule_id for tick in taken] == expected


@clause("SCHEDULE-9", "SCHEDULE-19")
async def earliest_request_is_first(h: StoreHarness) -> None:
    """Requested ticks of one schedule are listed and claimed by their moments as numbers, whenever requested."""
    await upsert(h, next_fire_at_ms=None, overlap_policy="allow")
    moments = [2**53 - 1, 100, 9, 10**12, 10, 1_000, 0]
    for moment in moments:
        h.advance(1)
        await request(h, moment)
    for limit in (3, MANY):
        asked = await h.second.list_requested_buckets(schedule_id="nightly", limit=limit)
        assert [one.fire_at_ms for one in asked] == sorted(moments)[:limit]
    for moment in sorted(moments):
        tick = await claim_tick(h)
        assert tick.fire_at_ms == moment
        await settle(h, tick, "skip", next_fire_at_ms=None)


@clause("SCHEDULE-18", "SCHEDULE-9")
async def those_that_wait_for_their_turn_come_by_moment(h: StoreHarness) -> None:
    """Ticks requested with `buffer-all` start by their moments as numbers, whenever they were put back."""
    await upsert(h, next_fire_at_ms=None)
    for moment in (100, 9, 10):
        h.advance(1)
        await request(h, moment, overlap="buffer-all")
    for moment in (9, 10, 100):
        tick = await claim_tick(h)
        assert tick.fire_at_ms == moment
        await settle(h, tick, "start", f"tick-{moment}")
        assert (await claim_ticks(h, now_ms=h.now_ms + LEASE_MS)).buckets == ()
        await end_run(h, f"tick-{moment}")
