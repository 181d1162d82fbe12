"""ARG: ids that a database might take for one another are told apart wherever a verb compares them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from workflow_runtime.errors import LeaseLostError, LogConflictError, RunNotFoundError, ScheduleNotFoundError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Awaited, NewEvent, SignalToDeliver, Timer, WorkflowVersion

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY, event, events
from ..scenarios import claim, create, create_arguments, record, start, start_full, unchanged
from ..ticking import claim_tick, claim_ticks, get_schedule, request, settle, settle_arguments, start_tick, upsert
from ..verbs import (
    APPEND_EVENTS,
    CLAIM_PENDING_RUNS,
    CLAIM_VERBS,
    LEASE_VERBS,
    RELEASE_RUN_LEASE,
    ClaimVerb,
    LeaseVerb,
)

_PATTERNS = {
    "any-wildcard": ("a%c", "abbc"),
    "one-wildcard": ("a_c", "abc"),
    "glob": ("a*d", "abbd"),
}
_PAIRS = _PATTERNS | {
    "case": ("Run", "run"),
    "case-beyond-ascii": ("ÉTÉ", "été"),
    "trailing-space": ("end ", "end"),
    "leading-space": (" start", "start"),
    "composition": ("caf\u00e9", "cafe\u0301"),
    "accent": ("resume", "resumé"),
    "compatibility": ("\ufb01n", "fin"),
    "ignorable": ("in\u200bvisible", "invisible"),
    "number": ("07", "7"),
    "longest": ("x" * 511 + "a", "x" * 511 + "b"),
}
"""Pairs of ids that some collation, pattern, normalisation or column length takes for one. Patterns stand first."""
_TEXTS = tuple(text for pair in _PAIRS.values() for text in pair)


def _ways(pair: str) -> tuple[tuple[str, str], ...]:
    """Return what is stored and what is asked for. Of a pattern and what it matches each may be either."""
    one, other = _PAIRS[pair]
    return ((one, other), (other, one)) if pair in _PATTERNS else ((one, other),)


def _pairs() -> Iterator[tuple[str, str]]:
    for pair in _PAIRS:
        yield from _ways(pair)


# Run ids.

_Call = Callable[[StoreHarness, str, LeaseHolder], Awaitable[Any]]
_OF_RUNS: dict[str, _Call] = {
    "load_run": lambda h, run_id, holder: h.store.load_run(run_id=run_id),
    "load_execution": lambda h, run_id, holder: h.store.load_execution(run_id=run_id),
    "read_events": lambda h, run_id, holder: h.store.read_events(run_id=run_id, limit=9),
    "read_inbox": lambda h, run_id, holder: h.store.read_inbox(run_id=run_id, limit=9),
    "claim_run": lambda h, run_id, holder: h.store.claim_run(
        run_id=run_id, owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms + LEASE_MS, max_crashes=MANY
    ),
    "deliver_signal": lambda h, run_id, holder: h.store.deliver_signal(
        run_id=run_id, signal_id="s9", name="go", payload=None, now_ms=h.now_ms
    ),
    "deliver_approval": lambda h, run_id, holder: h.store.deliver_approval(
        run_id=run_id, approval_id="a", approved=True, now_ms=h.now_ms
    ),
    "deliver_retry": lambda h, run_id, holder: h.store.deliver_retry(run_id=run_id, retry_id="r", now_ms=h.now_ms),
    "cancel_run": lambda h, run_id, holder: h.store.cancel_run(run_id=run_id, now_ms=h.now_ms),
    "terminate_run": lambda h, run_id, holder: h.store.terminate_run(run_id=run_id, now_ms=h.now_ms),
    "requeue_run": lambda h, run_id, holder: h.store.requeue_run(run_id=run_id, now_ms=h.now_ms),
    "retry_run": lambda h, run_id, holder: h.store.retry_run(run_id=run_id, event=event(), now_ms=h.now_ms),
    "delete_run": lambda h, run_id, holder: h.store.delete_run(run_id=run_id, now_ms=h.now_ms, force=True),
    "fork_run": lambda h, run_id, holder: h.store.fork_run(
        run_id=run_id, new_run_id="fork", from_index=0, event=event(), operation_id="o", now_ms=h.now_ms
    ),
    "cancel_runs": lambda h, run_id, holder: _single(h.store.cancel_runs(run_ids=[run_id], now_ms=h.now_ms)),
    "terminate_runs": lambda h, run_id, holder: _single(h.store.terminate_runs(run_ids=[run_id], now_ms=h.now_ms)),
    "requeue_runs": lambda h, run_id, holder: _single(h.store.requeue_runs(run_ids=[run_id], now_ms=h.now_ms)),
    "retry_runs": lambda h, run_id, holder: _single(
        h.store.retry_runs(run_ids=[run_id], event=NewEvent(kind="retried"), now_ms=h.now_ms)
    ),
    "deliver_signals": lambda h, run_id, holder: _first(
        h.store.deliver_signals(signals=[SignalToDeliver(run_id=run_id, signal_id="s9", name="go")], now_ms=h.now_ms)
    ),
    "get_run_timeline": lambda h, run_id, holder: h.store.get_run_timeline(run_id=run_id),
}
_OF_RUNS |= {
    verb.name: lambda h, run_id, holder, verb=verb: verb.of(h.store)(**verb.everything(holder, run_id=run_id))  # type: ignore[misc]  # bound now
    for verb in LEASE_VERBS
}


async def _first(call: Awaitable[Any]) -> Any:
    (answer,) = await call
    return answer


async def _single(call: Awaitable[Any]) -> Any:
    (answer,) = (await call).values()
    return answer


async def _is_unknown(h: StoreHarness, verb: str, run_id: str, holder: LeaseHolder) -> bool:
    try:
        answer = await _OF_RUNS[verb](h, run_id, holder)
    except (LeaseLostError, RunNotFoundError):
        return True
    return answer is None or answer == () or getattr(answer, "kind", None) == "not-found"


@clause("ARG-1", "RUN-6", "FENCE-1", "SIGNAL-3", "BULK-1", each=_PAIRS)
async def run_ids_are_told_apart(h: StoreHarness, pair: str) -> None:
    """No verb finds a run by an id that only looks like its own, and each leaves it as it is."""
    for one, other in _ways(pair):
        holder = await start_full(h, one)
        async with unchanged(h, one, after=f"a verb with {other[:20]!r}"):
            for verb in _OF_RUNS:
                assert await _is_unknown(h, verb, other, holder), f"{verb} of {other!r} found {one!r}"
        await h.store.delete_run(run_id=one, now_ms=h.now_ms, force=True)


@clause("ARG-1", "RUN-3", "FORK-4")
async def lookalike_runs_live_side_by_side(h: StoreHarness) -> None:
    """Runs whose ids look alike are created, forked, listed page by page, and erased each for itself."""
    source = await start(h, "source")
    await source.append("1")
    for text in reversed(_TEXTS):  # a pattern is asked for when what it matches is stored
        await create(h, text)
    await _erase_each(h)
    for text in reversed(_TEXTS):
        answer = await h.store.fork_run(
            run_id="source", new_run_id=text, from_index=1, event=event(), operation_id="o", now_ms=h.now_ms
        )
        assert answer.kind == "forked", f"a fork {text!r} answered {answer.kind}"
    expected = sorted((*_TEXTS, "source"))
    for descending in (False, True):
        found: list[str] = []
        cursor = None
        while True:
            page = await h.second.list_runs(limit=1, cursor=cursor, descending=descending)
            found += [run.run_id for run in page.runs]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == (expected[::-1] if descending else expected)
    for text in _TEXTS:
        matching = [run_id for run_id in expected if run_id.startswith(text)]
        listed = (await h.store.list_runs(limit=MANY, run_id_prefix=text)).runs
        assert [run.run_id for run in listed] == matching, f"the prefix {text!r}"
        assert sum((await h.store.count_runs(run_id_prefix=text)).values()) == len(matching), f"the prefix {text!r}"
    await _erase_each(h)


async def _erase_each(h: StoreHarness) -> None:
    for place, text in enumerate(_TEXTS):
        assert (await h.store.delete_run(run_id=text, now_ms=h.now_ms)).kind == "deleted"
        assert len((await h.store.list_runs(limit=MANY)).runs) == len(_TEXTS) - place


# What filters compare.


def _partner(place: int) -> str:
    """Return the other text of a pair."""
    return _TEXTS[place + 1 if place % 2 == 0 else place - 1]


async def _check_filters(h: StoreHarness, verb: ClaimVerb, place: int, due_ms: int) -> None:
    text, other = _TEXTS[place], _partner(place)
    plan: tuple[tuple[dict[str, Any], int | None], ...] = (
        ({"queues": ["none", text]}, due_ms),
        ({"workflows": [WorkflowVersion(workflow_id=text, version=text)]}, due_ms),
        ({"workflows": [WorkflowVersion(workflow_id=text, version=other)]}, None),
        ({"workflows": [WorkflowVersion(workflow_id=other, version=text)]}, None),
    )
    for filters, expected in plan:
        nothing = await verb.call(h, limit=0, **filters)
        assert (nothing.claims, nothing.next_due_ms) == ((), expected), f"with {filters}: {nothing.next_due_ms}"
        if verb is CLAIM_PENDING_RUNS:
            shown = await h.second.list_pending_runs(now_ms=h.now_ms, limit=MANY, **filters)
            assert [run.run_id for run in shown] == ([f"run-{place}"] if expected else []), f"with {filters}"
    filters = plan[place // 2 % 2][0]
    taken = await verb.call(h, **filters)
    assert [c.run.run_id for c in taken.claims] == [f"run-{place}"], f"with {filters}"


@clause("CLAIM-6", "CLAIM-3", "CLAIM-7", "TIMER-2", "ARG-1", each=CLAIM_VERBS)
async def claims_tell_facts_apart(h: StoreHarness, verb: ClaimVerb) -> None:
    """A claim by a queue, a workflow or a version takes none that only looks like it."""
    due = {}
    for place, text in enumerate(_TEXTS):
        due[place] = h.now_ms + 1_000 + len(_TEXTS) - place
        facts = {"queue": text, "workflow_id": text, "workflow_version": text}
        await verb.make_ready(h, due[place], run_id=f"run-{place}", **facts)
    h.advance(2_000)
    for place in range(len(_TEXTS)):
        await _check_filters(h, verb, place, due[place])


@clause("LIST-1", "LIST-4", "ARG-1")
async def listings_tell_facts_apart(h: StoreHarness) -> None:
    """A listing or a count by a queue or a workflow shows none that only looks like it."""
    for place, text in enumerate(_TEXTS):
        await create(h, f"run-{place}", queue=text, workflow_id=text)
    for place, text in enumerate(_TEXTS):
        plan: tuple[dict[str, Any], ...] = ({"queues": [text]}, {"workflow_ids": [text]}, {"workflow_ids": ["-", text]})
        for filters in plan:
            page = await h.second.list_runs(limit=MANY, descending=place % 2 == 0, **filters)
            assert [run.run_id for run in page.runs] == [f"run-{place}"], f"with {filters}"
            assert sum((await h.second.count_runs(**filters)).values()) == 1, f"with {filters}"


@clause("RETAIN-3", "ARG-1")
async def pruning_tells_workflows_apart(h: StoreHarness) -> None:
    """Pruning the runs of a workflow spares those of one that only looks like it."""
    for place, text in enumerate(_TEXTS):
        await (await start(h, f"run-{place}", workflow_id=text)).finish()
    for place, text in enumerate(_TEXTS):
        pruned = await h.second.prune_runs(finished_before_ms=h.now_ms + 1, limit=MANY, workflow_ids=[text])
        assert pruned == 1, f"pruning {text!r} deleted {pruned} runs"
        assert await h.store.load_run(run_id=f"run-{place}") is None


# What a run compares.


_ORDER = _TEXTS[::-1]
"""A pattern comes when what it matches is known."""


@clause("SIGNAL-2", "APPROVAL-2", "SIGNAL-7", "ARG-1", each=("signal", "approval", "retry"))
async def delivered_ids_are_told_apart(h: StoreHarness, kind: str) -> None:
    """A delivery is no duplicate of one whose id only looks like its own; repeated, it has its own number."""
    holder = await start(h)
    for place, text in enumerate(_ORDER):
        answer = await _deliver(h, holder.run_id, kind, text)
        assert answer.kind == "buffered", f"{kind} {text!r} answered {answer}"
        assert answer.inbox_seq == place + 1
    async with unchanged(h, holder.run_id, after=f"a repeated {kind}"):
        for place, text in enumerate(_ORDER):
            again = await _deliver(h, holder.run_id, kind, text)
            assert again.kind == ("already-decided" if kind == "approval" else "duplicate")
            if kind == "approval":
                assert again.approved is (place % 2 == 0), f"the decision of {text!r} is another one's"
            else:
                assert again.inbox_seq == place + 1, f"{kind} {text!r} is taken for number {again.inbox_seq}"


async def _deliver(h: StoreHarness, run_id: str, kind: str, text: str) -> Any:
    common: dict[str, Any] = {"run_id": run_id, "now_ms": h.now_ms}
    if kind == "signal":
        return await h.store.deliver_signal(signal_id=text, name="go", payload=JsonText("1"), **common)
    if kind == "approval":
        return await h.store.deliver_approval(approval_id=text, approved=_ORDER.index(text) % 2 == 0, **common)
    return await h.store.deliver_retry(retry_id=text, **common)


async def _wake(h: StoreHarness, run_id: str, kind: str, name: str, *, only_if_waiting: bool) -> Any:
    common: dict[str, Any] = {"run_id": run_id, "now_ms": h.now_ms, "only_if_waiting": only_if_waiting}
    if kind == "signal":
        return await h.store.deliver_signal(signal_id=h.new_id("s"), name=name, payload=None, **common)
    return await h.store.deliver_approval(approval_id=name, approved=True, **common)


_AWAITED: dict[str, Callable[[str], Awaited]] = {
    "signal": lambda name: Awaited(kind="signal", name=name, step_id="s"),
    "approval": lambda name: Awaited(kind="approval", name=name, step_id="s"),
}


@clause("SIGNAL-1", "SIGNAL-5", "APPROVAL-1", "ARG-1", each=("signal", "approval"))
async def names_that_wake_are_told_apart(h: StoreHarness, kind: str) -> None:
    """A paused run is not woken by a name that only looks like the one it waits for."""
    for place, (one, other) in enumerate(_pairs()):
        run_id = f"run-{place}"
        await (await start(h, run_id)).pause(awaited=[_AWAITED[kind](one)])
        refusal = await _wake(h, run_id, kind, other, only_if_waiting=True)
        assert refusal.kind == "not-waiting", f"{other!r} to a run that waits for {one!r}: {refusal}"
        assert (await _wake(h, run_id, kind, other, only_if_waiting=False)).kind == "buffered"
        assert (await record(h, run_id)).status == "paused"
        assert (await _wake(h, run_id, kind, one, only_if_waiting=place % 2 == 0)).kind == "delivered"


@clause("TIMER-1", "LOG-3", "PAUSE-1", "ARG-1")
async def timer_ids_are_told_apart(h: StoreHarness) -> None:
    """A timer is set, moved and removed by its own id, and not by one that only looks like it."""
    holder = await start(h)
    at = {text: h.now_ms + 1_000 + place for place, text in enumerate(_TEXTS)}
    others = [Timer(timer_id=other, fire_at_ms=at[other]) for _, other in _PAIRS.values()]
    await holder.append(events=[], set_timers=others)
    for one, _ in _PAIRS.values():
        await holder.set_timer(one, at[one])
    await _check_timers(h, holder, at)
    for one, other in _PAIRS.values():
        at[one] += 5_000
        at[other] += 9_000
        await holder.append(events=[], set_timers=[Timer(timer_id=one, fire_at_ms=at[one])])
        await holder.set_timer(other, at[other])
    await _check_timers(h, holder, at)
    ones = [one for one, _ in _PAIRS.values()]
    for one in ones:
        del at[one]
        await holder.append(events=[], removed_timers=[one])
    await _check_timers(h, holder, at)
    await holder.append(events=[], removed_timers=ones)
    await holder.pause(removed_timers=ones)
    await _check_timers(h, holder, at)


async def _check_timers(h: StoreHarness, holder: LeaseHolder, expected: dict[str, int]) -> None:
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert {timer.timer_id: timer.fire_at_ms for timer in execution.timers} == expected


@clause("OP-1", "RUN-5", "FORK-4", "ARG-1")
async def operation_ids_are_told_apart(h: StoreHarness) -> None:
    """A write under an operation id that only looks like the last one's is no repetition of it."""
    for one, other in _pairs():
        holder = await start(h, "run", operation_id=one)
        again = await h.store.create_run(**create_arguments(h, run_id="run", operation_id=other))
        assert again.kind == "existing", f"a creation under {other!r} was taken for the one under {one!r}"
        await h.store.delete_run(run_id="run", now_ms=h.now_ms, force=True)
        holder = await start(h, "run")
        await holder.append("1", operation_id=one)
        with refused(LogConflictError, f"an append under {other!r}, taken for the one under {one!r}"):
            await h.store.append_events(
                **APPEND_EVENTS.arguments(holder, operation_id=other, expected_next_index=0, events=events("1"))
            )
        await h.store.delete_run(run_id="run", now_ms=h.now_ms, force=True)
        holder = await start(h, "run")
        await holder.release(operation_id=one)
        with refused(LeaseLostError, f"a release under {other!r}, taken for the one under {one!r}"):
            await h.store.release_run_lease(**RELEASE_RUN_LEASE.arguments(holder, operation_id=other))
        await h.store.delete_run(run_id="run", now_ms=h.now_ms)


def _token_lookalikes(token: str) -> set[str]:
    looks_like = {token.swapcase(), f"{token} ", f" {token}", "%", f"{token[:3]}%", token[:-1], f"{token}0"}
    return (looks_like | {"_" * len(token), f"{token[:-1]}_", f"{token}\u200b"}) - {token}


@clause("FENCE-1", "ARG-1", each=LEASE_VERBS)
async def tokens_are_told_apart(h: StoreHarness, verb: LeaseVerb) -> None:
    """A driver's write with a token that only looks like the run's own is refused."""
    holder = await start_full(h)
    async with unchanged(h, holder.run_id, after=f"{verb} with another token"):
        for token in sorted(_token_lookalikes(holder.token)):
            with refused(LeaseLostError, f"{verb} with {token!r} for {holder.token!r}"):
                await verb.of(h.store)(**verb.everything(holder, lease_token=token))
    await verb.call(holder)


@clause("CLAIM-2", "RUN-2", "ARG-1")
async def owners_come_back(h: StoreHarness) -> None:
    """Every owner comes back as it is, up to its last character, from each verb that claims."""
    for place, text in enumerate(_TEXTS[-8:]):
        holder = await start(h, f"run-{place}", owner=text, queue=f"q{place}")
        assert (holder.claim.lease.owner, (await record(h, holder.run_id)).lease_owner) == (text, text)
        await holder.release()
        holder = await claim(h, holder.run_id, owner=text)
        assert holder.claim.lease.owner == text
        await holder.release()
        for verb in CLAIM_VERBS:
            (taken,) = (await verb.call(h, owner=text, queues=[f"q{place}"], lease_ms=1)).claims
            assert (taken.lease.owner, taken.run.lease_owner) == (text, text)
            h.advance(1)
            if verb is CLAIM_VERBS[1]:
                await LeaseHolder.of(h, taken).pause(timers={"t": h.now_ms})


@clause("SCHEDULE-9", "ARG-1")
async def owners_of_ticks_come_back(h: StoreHarness) -> None:
    """Every owner of a tick comes back as it is, up to its last character."""
    await upsert(h)
    for text in _TEXTS[-4:]:
        assert (await claim_tick(h, owner=text, lease_ms=1)).lease.owner == text
        h.advance(1)


# Schedule ids.


@clause("SCHEDULE-5", "SCHEDULE-7", "SCHEDULE-8", "SCHEDULE-19", "SCHEDULE-4", "SCHEDULE-16", "ARG-1")
async def schedule_ids_are_told_apart(h: StoreHarness) -> None:
    """A schedule is not found by an id that only looks like its own: read, changed, asked, settled or deleted."""
    for one, other in _pairs():
        await upsert(h, one)
        await request(h, h.now_ms - 1, schedule_id=one)
        tick = await claim_tick(h)
        before = await get_schedule(h, one)
        with refused(ScheduleNotFoundError, f"{other!r} found {one!r}"):
            await get_schedule(h, other)
        answers = [
            await upsert(h, other, expected_revision=1),
            await h.store.request_schedule_buckets(schedule_id=other, fire_times_ms=[5], now_ms=h.now_ms),
            await settle(h, tick, "start", "stolen", schedule_id=other),
            await h.store.delete_schedule(schedule_id=other),
        ]
        kinds = [answer.kind for answer in answers]
        assert kinds == ["conflict", "not-found", "schedule-changed", "not-found"], f"{other!r} for {one!r}: {kinds}"
        assert await h.store.list_requested_buckets(schedule_id=other, limit=9) == ()
        assert len(await h.store.list_requested_buckets(schedule_id=one, limit=9)) == 1
        assert await get_schedule(h, one) == before
        await h.store.delete_schedule(schedule_id=one)


@clause("SCHEDULE-6", "SCHEDULE-9", "SCHEDULE-11", "ARG-1")
async def lookalike_schedules_live_side_by_side(h: StoreHarness) -> None:
    """Schedules whose ids and workflows look alike are listed page by page, claimed and settled each for itself."""
    for text in _TEXTS:
        assert (await upsert(h, text, workflow_id=text)).kind == "created"
        await request(h, 5, schedule_id=text)
    found: list[str] = []
    cursor = None
    while True:
        page = await h.second.list_schedules(limit=1, cursor=cursor)
        found += [schedule.schedule_id for schedule in page.schedules]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == sorted(_TEXTS)
    for place, text in enumerate(_TEXTS):
        (tick,) = (await claim_ticks(h, workflow_ids=[text])).buckets
        assert (tick.schedule.schedule_id, tick.fire_at_ms) == (text, 5)
        assert (await settle(h, tick, "start", f"run-{place}", next_fire_at_ms=None)).kind == "started"
        assert await h.store.list_requested_buckets(schedule_id=text, limit=9) == ()
        assert (await record(h, f"run-{place}")).schedule_id == text
    assert [len(await h.store.list_requested_buckets(schedule_id=text, limit=9)) for text in _TEXTS] == [0] * len(
        _TEXTS
    )


@clause("SCHEDULE-14", "SCHEDULE-10", "ARG-1")
async def previous_runs_are_told_apart(h: StoreHarness) -> None:
    """A live run whose id only looks like the previous run's is not in a tick's way."""
    for place, (one, other) in enumerate(_pairs()):
        name = f"s{place}"
        await upsert(h, name, next_fire_at_ms=h.now_ms)
        await start_tick(h, one, next_fire_at_ms=h.now_ms + 1)
        await h.store.delete_run(run_id=one, now_ms=h.now_ms)
        await create(h, other)
        h.advance(1)
        tick = await claim_tick(h)
        assert tick.overlapping_run_id is None, f"{other!r} was taken for the previous run {one!r}"
        assert (await settle(h, tick, "start", "next", next_fire_at_ms=None)).kind == "started"
        for run_id in (other, "next"):
            await h.store.delete_run(run_id=run_id, now_ms=h.now_ms)


@clause("SCHEDULE-16", "ARG-1")
async def tick_tokens_and_operations_are_told_apart(h: StoreHarness) -> None:
    """A tick is settled with its own token, and a settlement is repeated by its own operation id."""
    await upsert(h)
    tick = await claim_tick(h)
    for token in sorted(_token_lookalikes(tick.lease.token)):
        with refused(LeaseLostError, f"a tick settled with {token!r} for {tick.lease.token!r}"):
            await settle(h, tick, "skip", lease_token=token)
    for one, other in _pairs():
        settled = settle_arguments(h, tick, "skip", operation_id=one, next_fire_at_ms=h.advance(1))
        await h.store.mark_schedule_bucket_started(**settled)
        with refused(LeaseLostError, f"a settlement under {other!r}, taken for the one under {one!r}"):
            await h.store.mark_schedule_bucket_started(**(settled | {"operation_id": other}))
        tick = await claim_tick(h)
