"""CLAIM: the claimable runs, their order and filters, and the contents of a claim."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from workflow_runtime.payloads import encode_json
from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    SILENT_CLAIMS_PER_CRASH,
    ClaimedRun,
    Execution,
    NotClaimable,
    NotFound,
    Timer,
    WorkflowVersion,
)

from ..cases import clause
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY
from ..scenarios import claim, claim_due, claim_pending, claim_stale, create, record, start, start_waiting, unchanged
from ..verbs import CLAIM_DUE_TIMERS, CLAIM_PENDING_RUNS, CLAIM_STALE_RUNS, CLAIM_VERBS, ClaimVerb

_CROWD = 40
"""More runs than a store may have in mind beside those that it looks for."""


async def _not_claimable(h: StoreHarness, run_id: str) -> NotClaimable:
    async with unchanged(h, run_id, after="a claim that was refused"):
        answer = await h.second.claim_run(
            run_id=run_id, owner="thief", lease_ms=LEASE_MS, now_ms=h.now_ms, max_crashes=MANY
        )
    assert isinstance(answer, NotClaimable), f"claim_run answered {answer.kind}"
    return answer


@clause("CLAIM-1")
async def claim_waits_for_the_time(h: StoreHarness) -> None:
    """A run is claimable at its time and not a millisecond before, and the refusal says when."""
    later = h.now_ms + 5_000
    queued = (await create(h, available_at_ms=later)).run_id
    running = (await start(h, lease_ms=5_000)).run_id
    paused = (await start_waiting(h, timers={"t": later, "u": later + 1})).run_id
    h.advance(4_999)
    for run_id, status in ((queued, "queued"), (running, "running"), (paused, "paused")):
        answer = await _not_claimable(h, run_id)
        assert (answer.status, answer.claimable_at_ms) == (status, later)
    h.advance(1)
    for run_id in (queued, running, paused):
        await claim(h, run_id)


@clause("CLAIM-1")
async def claim_refuses_what_has_no_time(h: StoreHarness) -> None:
    """A run that waits for its inbox only, or has ended, is not claimable at any time; an unknown one is not found."""
    waiting = await start_waiting(h)
    finished = await start(h)
    await finished.finish()
    h.advance(10**9)
    for run_id, status in ((waiting.run_id, "paused"), (finished.run_id, "finished")):
        answer = await _not_claimable(h, run_id)
        assert (answer.status, answer.claimable_at_ms) == (status, None)
    unknown = await h.store.claim_run(run_id="nobody", owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms, max_crashes=MANY)
    assert isinstance(unknown, NotFound)


async def _queued(h: StoreHarness, **facts: Any) -> str:
    holder = await start(h, **facts)
    await _filled(holder)
    await holder.release()
    return holder.run_id


async def _expired(h: StoreHarness, **facts: Any) -> str:
    holder = await start(h, **facts)
    await _filled(holder)
    return holder.run_id


async def _due(h: StoreHarness, **facts: Any) -> str:
    holder = await start(h, **facts)
    await _filled(holder)
    await holder.pause(timers={"due": h.now_ms})
    return holder.run_id


async def _filled(holder: LeaseHolder) -> None:
    h = holder.harness
    await holder.append(
        '"a"',
        '"b"',
        set_timers=[Timer(timer_id="late", fire_at_ms=h.now_ms + 10**9), Timer(timer_id="soon", fire_at_ms=h.now_ms)],
    )
    await holder.signal("go", "s1", '"x"')
    await holder.signal("go", "s2", None)
    holder.seen = 2


_READY: dict[str, Callable[..., Awaitable[str]]] = {
    CLAIM_PENDING_RUNS.name: _queued,
    CLAIM_STALE_RUNS.name: _expired,
    CLAIM_DUE_TIMERS.name: _due,
    "claim_run": _queued,
}
"""Makes a run with log, inbox and timers. Each claim finds its own after the length of a lease."""


async def _ready(h: StoreHarness, verb: ClaimVerb, **facts: Any) -> str:
    return await _READY[verb.name](h, **facts)


_Take: TypeAlias = Callable[..., Awaitable[ClaimedRun]]


async def _take_by_id(h: StoreHarness, run_id: str, **bounds: Any) -> ClaimedRun:
    return (await claim(h, run_id, owner="worker-3", **bounds)).claim


def _take_by(verb: ClaimVerb) -> _Take:
    async def take(h: StoreHarness, run_id: str, **bounds: Any) -> ClaimedRun:
        (taken,) = (await verb.call(h, **bounds)).claims
        return taken

    return take


_TAKES: dict[str, _Take] = {"claim_run": _take_by_id, **{verb.name: _take_by(verb) for verb in CLAIM_VERBS}}
"""Claims a run by the verb of this name. Nothing else must be claimable."""


@clause("CLAIM-2", "LOG-7", each=_TAKES)
async def claim_brings_everything(h: StoreHarness, verb: str) -> None:
    """A claim carries the run, a new lease, the history, the untaken inbox and the due timers."""
    run_id = await _READY[verb](h)
    h.advance(LEASE_MS)
    taken = await _TAKES[verb](h, run_id)
    assert taken.run == await record(h, run_id)
    assert (taken.run.status, taken.run.due_at_ms) == ("running", None)
    assert (taken.lease.owner, taken.lease.number, taken.lease.expires_at_ms) == ("worker-3", 2, h.now_ms + LEASE_MS)
    assert (taken.run.lease_owner, taken.run.lease_expires_at_ms) == ("worker-3", h.now_ms + LEASE_MS)
    assert [(e.index, e.payload) for e in taken.history] == [(0, '"a"'), (1, '"b"')]
    assert [(e.inbox_seq, e.delivery_id, e.payload) for e in taken.inbox] == [(1, "s1", '"x"'), (2, "s2", None)]
    assert sorted(t.timer_id for t in taken.due_timers) == (
        ["due", "soon"] if verb == CLAIM_DUE_TIMERS.name else ["soon"]
    ), "a claim brings exactly the timers that are due"


async def _load(h: StoreHarness, run_id: str) -> Execution:
    execution = await h.second.load_execution(run_id=run_id)
    assert execution is not None
    return execution


_BRINGS: dict[str, Callable[[StoreHarness, str], Awaitable[ClaimedRun | Execution]]] = {
    "load_execution": _load,
    **_TAKES,
}
"""Brings the first page of a run's inbox by the verb of this name."""


@clause("CLAIM-2", "RUN-7", "LOG-6", each=_BRINGS)
async def first_page_of_an_inbox_begins_with_the_oldest(h: StoreHarness, verb: str) -> None:
    """Whatever cannot bring all of a large inbox brings its first entries, and the driver reads on from there."""
    largest = min(h.store.capabilities.max_payload_bytes, 2 * DEFAULT_HISTORY_BYTES)
    holder = await start(h, lease_ms=1)
    for size in (largest, 9, *[min(largest, 400_000)] * 3, 9):
        await holder.signal(payload=encode_json("x" * (size - 2)))
    if verb == CLAIM_PENDING_RUNS.name:
        await holder.release()
    elif verb == CLAIM_DUE_TIMERS.name:
        await holder.pause(timers={"due": h.now_ms}, seen_inbox_seq=6)
    h.advance(1)
    brought = [entry.inbox_seq for entry in (await _BRINGS[verb](h, holder.run_id)).inbox]
    assert brought, "one entry is brought if there is one"
    rest: list[int] = []
    while page := await h.second.read_inbox(run_id=holder.run_id, limit=9, after_seq=(brought + rest)[-1]):
        rest += [entry.inbox_seq for entry in page]
    assert brought + rest == [1, 2, 3, 4, 5, 6]


@clause("CLAIM-2", "TIMER-2", each=_TAKES)
async def claimed_timers_are_due_to_the_millisecond(h: StoreHarness, verb: str) -> None:
    """A claim brings the timer whose time is that of the claim, and not the one of a millisecond later."""
    for early in (0, 1):
        run_id = await _READY[verb](h)
        taken = await _TAKES[verb](h, run_id, now_ms=h.now_ms + 10**9 - early)
        assert ("late" in [timer.timer_id for timer in taken.due_timers]) == (early == 0)
        await h.store.delete_run(run_id=run_id, now_ms=h.now_ms, force=True)


@clause("CLAIM-2", "LOG-7", each=_TAKES)
async def claimed_history_is_bounded(h: StoreHarness, verb: str) -> None:
    """The first page of history of a claim is bounded in events and in bytes, but has one event at least."""
    plan: list[tuple[dict[str, Any], list[int]]] = [
        ({"history_limit": 1}, [0]),
        ({"history_limit": 0}, []),
        ({"history_bytes": 6}, [0, 1]),
        ({"history_bytes": 5}, [0]),
        ({"history_bytes": 1}, [0]),
    ]
    for bounds, indexes in plan:
        run_id = await (_expired(h) if verb == "claim_run" else _READY[verb](h))
        h.advance(LEASE_MS)
        taken = await _TAKES[verb](h, run_id, **bounds)
        assert [e.index for e in taken.history] == indexes, f"with {bounds}"
        assert taken.run.next_index == 2
        await h.store.delete_run(run_id=run_id, now_ms=h.now_ms, force=True)


@clause("CLAIM-2", "LOG-7", each=CLAIM_VERBS)
async def each_run_of_a_claim_has_a_page_of_its_own(h: StoreHarness, verb: ClaimVerb) -> None:
    """The bounds of a claim hold for the history of each run, not for all of them together."""
    ids = [await _ready(h, verb) for _ in range(3)]
    h.advance(LEASE_MS)
    batch = await verb.call(h, history_bytes=6)
    assert {c.run.run_id: [e.index for e in c.history] for c in batch.claims} == {key: [0, 1] for key in ids}
    assert {c.run.run_id: [e.inbox_seq for e in c.inbox] for c in batch.claims} == {key: [1, 2] for key in ids}


@clause("CLAIM-3")
async def list_pending_shows_what_a_claim_would_take(h: StoreHarness) -> None:
    """`list_pending_runs` gives the same runs in the same order as a claim at that moment, and claims nothing."""
    for priority, delay in ((0, 30), (5, 20), (5, 10), (-1, 0), (0, 5), (0, 10_000)):
        await create(h, priority=priority, available_at_ms=h.now_ms + delay, queue=f"q{priority}")
    await start_waiting(h)
    now = h.advance(100)
    plan: list[dict[str, Any]] = [{}, {"queues": ["q0", "q-1"]}, {"workflows": []}, {"limit": 2}, {"limit": 0}]
    for filters in plan:
        shown = await h.second.list_pending_runs(**({"now_ms": now, "limit": MANY} | filters))
        again = await h.second.list_pending_runs(**({"now_ms": now, "limit": MANY} | filters))
        assert shown == again
        taken = (await claim_pending(h, **filters)).claims
        assert [run.run_id for run in shown] == [c.run.run_id for c in taken], f"with {filters}"
        for claimed in taken:
            await LeaseHolder.of(h, claimed).release(now_ms=claimed.run.created_at_ms)


@clause("CLAIM-4", each=CLAIM_VERBS)
async def claimed_runs_are_not_claimed_again(h: StoreHarness, verb: ClaimVerb) -> None:
    """A run that one claimer holds is found by no other claim before the lease has expired."""
    ids = {await _ready(h, verb) for _ in range(5)}
    h.advance(LEASE_MS)
    first = await verb.call(h, limit=3)
    second = await verb.call(h, store=h.second)
    taken = [c.run.run_id for c in (*first.claims, *second.claims)]
    assert len(first.claims) == 3
    assert sorted(taken) == sorted(ids)
    for again in CLAIM_VERBS:
        assert (await again.call(h, now_ms=h.now_ms + LEASE_MS - 1)).claims == ()


async def _ordered(h: StoreHarness, verb: ClaimVerb) -> list[str]:
    """Make runs ready and return their ids in the order of claims: by priority, time, id (code points)."""
    plan = [
        (9, 30, "z"),
        (9, 40, "y"),
        (0, 10, "Z"),
        (0, 10, "a"),
        (0, 10, "é"),
        (0, 10, "￿"),
        (0, 10, "😀"),
        (0, 20, "b"),
    ]
    plan += [(-3, 0, "first-in-time")]
    for priority, delay, run_id in reversed(plan):
        await verb.make_ready(h, h.now_ms + 1_000 + delay, run_id=run_id, priority=priority)
    h.advance(2_000)
    return [run_id for _, _, run_id in plan]


@clause("CLAIM-5", "TIMER-2", each=CLAIM_VERBS)
async def greater_priority_first_then_earliest(h: StoreHarness, verb: ClaimVerb) -> None:
    """One claim takes and gives the runs by priority, then by time, then by id in order of code points."""
    expected = await _ordered(h, verb)
    first = await verb.call(h, limit=4)
    assert [c.run.run_id for c in first.claims] == expected[:4]
    rest = await verb.call(h, store=h.second)
    assert [c.run.run_id for c in rest.claims] == expected[4:]


@clause("CLAIM-5", "CLAIM-10", "TIMER-2", each=CLAIM_VERBS)
async def first_of_a_crowd_is_claimed_first(h: StoreHarness, verb: ClaimVerb) -> None:
    """A claim of one takes the first of a crowd by priority, time and id; a claim of many takes as many as it may."""
    firsts = {"urgent": (3, 1), "early": (2, 0), "a": (3, 0)}
    of_its_own: tuple[dict[str, str], ...] = ({"queue": "q"}, {"workflow_id": "w"}, {"workflow_version": "v"})
    for number in range(_CROWD):
        facts = of_its_own[number] if number < len(of_its_own) else {}
        await verb.make_ready(h, h.now_ms + 3, run_id=f"b-{_CROWD - number:02}", **facts)
        if number == _CROWD - 3:
            for run_id, (delay, priority) in firsts.items():
                await verb.make_ready(h, h.now_ms + delay, run_id=run_id, priority=priority)
    h.advance(3)
    for run_id in firsts:
        assert [c.run.run_id for c in (await verb.call(h, limit=1)).claims] == [run_id]
    rest = [f"b-{number:02}" for number in range(1, _CROWD + 1)]
    assert [c.run.run_id for c in (await verb.call(h, limit=_CROWD - 1)).claims] == rest[:-1]
    assert [c.run.run_id for c in (await verb.call(h)).claims] == rest[-1:]


@clause("CLAIM-6", "TIMER-2", each=CLAIM_VERBS)
async def filters_by_workflow_and_queue(h: StoreHarness, verb: ClaimVerb) -> None:
    """A claim takes only runs of the named workflow versions and queues; an empty filter matches nothing."""
    kinds = [("a", "1", "fast"), ("a", "2", "fast"), ("a", "1", "slow"), ("b", "1", "fast")]
    for workflow_id, version, queue in kinds:
        name = f"{workflow_id}{version}-{queue}"
        await _ready(h, verb, run_id=name, workflow_id=workflow_id, workflow_version=version, queue=queue)
    h.advance(LEASE_MS)
    a1, b2 = WorkflowVersion(workflow_id="a", version="1"), WorkflowVersion(workflow_id="b", version="2")
    plan: list[tuple[dict[str, Any], set[str]]] = [
        ({"workflows": []}, set()),
        ({"queues": []}, set()),
        ({"workflows": [b2]}, set()),
        ({"queues": ["fas", "FAST", "fast "]}, set()),
        ({"workflows": [a1], "queues": ["slow"]}, {"a1-slow"}),
        ({"workflows": [a1, b2]}, {"a1-fast"}),
        ({"queues": ["slow", "fast"], "workflows": None}, {"a2-fast", "b1-fast"}),
    ]
    for filters, expected in plan:
        if verb is CLAIM_PENDING_RUNS:
            shown = await h.second.list_pending_runs(now_ms=h.now_ms, limit=MANY, **filters)
            assert {run.run_id for run in shown} == expected
        batch = await verb.call(h, **filters)
        assert {c.run.run_id for c in batch.claims} == expected, f"with {filters}"


@clause("CLAIM-6", each=CLAIM_VERBS)
async def many_filters(h: StoreHarness, verb: ClaimVerb) -> None:
    """Filters may be long: more workflows and queues than a database takes bound values."""
    wanted = await _ready(h, verb, workflow_id="w150", queue="q150")
    await _ready(h, verb, workflow_id="other", queue="q150")
    h.advance(LEASE_MS)
    batch = await verb.call(
        h,
        workflows=[WorkflowVersion(workflow_id=f"w{n}", version="1") for n in range(200)],
        queues=[f"q{n}" for n in range(200)],
    )
    assert [c.run.run_id for c in batch.claims] == [wanted]


@clause("CLAIM-6", "CLAIM-10", "TIMER-2", each=CLAIM_VERBS)
async def runs_in_front_keep_none_back(h: StoreHarness, verb: ClaimVerb) -> None:
    """Many runs of a greater priority, some not due and some of another queue, do not hide one that can be claimed."""
    for _ in range(_CROWD):
        await verb.make_ready(h, h.now_ms + 10**6, priority=9, queue="mine")
        await verb.make_ready(h, h.now_ms + 1, priority=9, queue="other")
    wanted = await verb.make_ready(h, h.now_ms + 2, queue="mine")
    batch = await verb.call(h, now_ms=h.now_ms + 2, limit=1, queues=["mine"])
    assert [c.run.run_id for c in batch.claims] == [wanted]


@clause("CLAIM-7", "TIMER-2", each=CLAIM_VERBS)
async def answer_says_when_the_next_is_due(h: StoreHarness, verb: ClaimVerb) -> None:
    """`next_due_ms` is the time of the next matching run, not after now when more wait, `None` when none is known."""
    assert (await verb.call(h)).next_due_ms is None
    later = h.now_ms + 50_000
    for delay in (70_000, 50_000):
        await verb.make_ready(h, h.now_ms + delay)
    assert (await verb.call(h)).next_due_ms == later
    assert (await verb.call(h, queues=["other"])).next_due_ms is None
    h.advance(60_000)
    assert (await verb.call(h)).next_due_ms == later + 20_000
    h.advance(60_000)
    nothing = await verb.call(h, limit=0)
    assert nothing.claims == ()
    if verb is not CLAIM_STALE_RUNS:
        assert len((await verb.call(h, limit=1)).claims) == 1


@clause("CLAIM-7")
async def runs_of_the_answer_do_not_count(h: StoreHarness) -> None:
    """`next_due_ms` is about other runs: the new leases of those that the claim brings do not count."""
    await start(h, lease_ms=5)
    await start(h, lease_ms=LEASE_MS * 3)
    other_end = h.now_ms + LEASE_MS * 3
    batch = await claim_stale(h, now_ms=h.advance(5))
    assert (len(batch.claims), batch.next_due_ms) == (1, other_end)
    assert (await claim_stale(h)).next_due_ms == h.now_ms + LEASE_MS, "now it is another claim's lease"


@clause("CLAIM-10", "TIMER-2", each=CLAIM_VERBS)
async def claim_passes_over_nothing(h: StoreHarness, verb: ClaimVerb) -> None:
    """While nobody else is at work a claim brings whatever is due, up to its limit, each time."""
    for count in range(1, 6):
        ids = [await verb.make_ready(h, h.now_ms + 1) for _ in range(count)]
        h.advance(1)
        part = await verb.call(h, limit=count - 1)
        rest = await verb.call(h, store=h.second, limit=count)
        assert (len(part.claims), len(rest.claims)) == (count - 1, 1)
        assert sorted(c.run.run_id for c in (*part.claims, *rest.claims)) == sorted(ids)
        for run_id in ids:
            await h.store.delete_run(run_id=run_id, now_ms=h.now_ms, force=True)


@clause("CLAIM-7", each=CLAIM_VERBS)
async def answer_says_when_more_are_waiting(h: StoreHarness, verb: ClaimVerb) -> None:
    """`next_due_ms` is not after now if the limit of a claim leaves due runs behind."""
    for _ in range(3):
        await _ready(h, verb)
    h.advance(LEASE_MS)
    batch = await verb.call(h, limit=2)
    assert len(batch.claims) == 2
    assert batch.next_due_ms is not None
    assert batch.next_due_ms <= h.now_ms, "a run is waiting, but the answer says that none is due"
    assert len((await verb.call(h, limit=2)).claims) == 1


@clause("CLAIM-9", "SIGNAL-1", "CANCEL-2")
async def every_living_run_is_reachable(h: StoreHarness) -> None:
    """Every run that is alive is found by one of the claims: queued, expired, due, delivered to, cancelled."""
    never_claimed = (await create(h)).run_id
    released = await start(h)
    await released.release()
    signalled = await start_waiting(h)
    await signalled.signal("go")
    approved = await start_waiting(h, signals=(), approvals=["ok"])
    await h.second.deliver_approval(run_id=approved.run_id, approval_id="ok", approved=False, now_ms=h.now_ms)
    cancelled = await start_waiting(h)
    await h.second.cancel_run(run_id=cancelled.run_id, now_ms=h.now_ms)
    pending = {c.run.run_id for c in (await claim_pending(h)).claims}
    assert pending == {never_claimed, released.run_id, signalled.run_id, approved.run_id, cancelled.run_id}
    sleeping = await start_waiting(h, timers={"t": h.now_ms + LEASE_MS})
    h.advance(LEASE_MS)
    due = {c.run.run_id for c in (await claim_due(h)).claims}
    assert due == {sleeping.run_id}
    stale = {c.run.run_id for c in (await claim_stale(h)).claims}
    assert stale == pending, "runs whose workers vanished were not found again"


@clause("CLAIM-8", "ERROR-1", needs=("corrupt",), each=CLAIM_VERBS)
async def corrupt_run_does_not_keep_others_back(h: StoreHarness, verb: ClaimVerb) -> None:
    """A run that cannot be read is reported in `corrupt`, and the others are claimed."""
    ids = [await _ready(h, verb, run_id=f"run-{letter}") for letter in "abc"]
    await h.corrupt("run-b")
    h.advance(LEASE_MS)
    batch = await verb.call(h)
    assert [c.run.run_id for c in batch.claims] == [ids[0], ids[2]]
    assert len(batch.corrupt) == 1
    assert "run-b" in batch.corrupt[0].key, f"the report does not name the run: {batch.corrupt[0]}"
    later = await verb.call(h)
    assert (later.claims, later.corrupt) == ((), ()), "a corrupt run is found again and again"


@clause("CLAIM-7", "ARG-2", each=CLAIM_VERBS)
async def limit_of_nothing_tells_when_the_first_is_due(h: StoreHarness, verb: ClaimVerb) -> None:
    """A claim with a limit of 0 answers since when the first matching run waits, with a filter and without one."""
    early = await verb.make_ready(h, h.now_ms + 5, workflow_id="a")
    late = await verb.make_ready(h, h.now_ms + 9, workflow_id="b")
    only_b = [WorkflowVersion(workflow_id="b", version=(await record(h, late)).workflow_version)]
    async with unchanged(h, early, late, after="a claim of nothing"):
        batch = await verb.call(h, now_ms=h.now_ms + 100, limit=0)
        filtered = await verb.call(h, now_ms=h.now_ms + 100, limit=0, workflows=only_b)
    assert (batch.claims, batch.next_due_ms) == ((), h.now_ms + 5)
    assert (filtered.claims, filtered.next_due_ms) == ((), h.now_ms + 9)


@clause("CLAIM-8", "DEAD-4", needs=("corrupt",))
async def corrupt_run_becomes_dead(h: StoreHarness) -> None:
    """The lease of a corrupt run runs out like any other, and in the end the run is parked."""
    await create(h, "bad")
    await h.corrupt("bad")
    assert len((await claim_pending(h)).corrupt) == 1
    for _ in range(SILENT_CLAIMS_PER_CRASH - 1):
        batch = await claim_stale(h, max_crashes=1, now_ms=h.advance(LEASE_MS))
        assert (len(batch.corrupt), batch.dead) == (1, ())
    batch = await claim_stale(h, max_crashes=1, now_ms=h.advance(LEASE_MS))
    assert batch.dead == ("bad",)
