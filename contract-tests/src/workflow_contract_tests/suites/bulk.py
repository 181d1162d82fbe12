"""BULK: a call for many runs does to each what a call for that run alone does."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError
from workflow_runtime.store import MAX_BULK_RUNS, STATES, NewEvent, NotFound, Retried, RunStatus, WorkflowExecutionStore

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY
from ..scenarios import claim_pending, create, observe, park, record, start, start_full, unchanged
from ..settings import SEED, scaled
from ..tasks import all_of
from ..verbs import StoreMethod
from .status_table import in_state

_ANY_END = (RunStatus.ERRORED, RunStatus.DEAD, RunStatus.ABORTED)


@dataclass(frozen=True, slots=True)
class _BulkVerb:
    """A verb for many runs, with the verb for a single run that it must agree with."""

    name: str
    of: StoreMethod
    single: StoreMethod
    done: str
    """The kind of the answer for a run that it changed."""
    too_late: str
    """The kind of the answer for a run that another such call has just changed."""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    async def call(self, store: WorkflowExecutionStore, run_ids: Sequence[str], now_ms: int) -> Mapping[str, Any]:
        """Call it for these runs."""
        answers: Mapping[str, Any] = await self.of(store)(run_ids=run_ids, now_ms=now_ms, **self.arguments)
        return answers

    async def call_single(self, store: WorkflowExecutionStore, run_id: str, now_ms: int) -> Any:
        """Call the verb for one run."""
        return await self.single(store)(run_id=run_id, now_ms=now_ms, **self.arguments)


_CANCEL_RUNS = _BulkVerb(
    "cancel_runs",
    lambda store: store.cancel_runs,
    lambda store: store.cancel_run,
    done="requested",
    too_late="duplicate",
    arguments={"reason": "in bulk"},
)
_TERMINATE_RUNS = _BulkVerb(
    "terminate_runs",
    lambda store: store.terminate_runs,
    lambda store: store.terminate_run,
    done="terminated",
    too_late="finished",
    arguments={"reason": "in bulk"},
)
_REQUEUE_RUNS = _BulkVerb(
    "requeue_runs",
    lambda store: store.requeue_runs,
    lambda store: store.requeue_run,
    done="requeued",
    too_late="not-requeueable",
)
_RETRY_RUNS = _BulkVerb(
    "retry_runs",
    lambda store: store.retry_runs,
    lambda store: store.retry_run,
    done="retried",
    too_late="not-retryable",
    arguments={"event": NewEvent(kind="retried"), "statuses": _ANY_END},
)
_VERBS = (_CANCEL_RUNS, _TERMINATE_RUNS, _REQUEUE_RUNS, _RETRY_RUNS)


@clause("BULK-1", each=_VERBS)
async def answers_and_effects_are_those_of_one_by_one(h: StoreHarness, verb: _BulkVerb) -> None:
    """Two equal runs in each status: one is dealt with alone, the other among all; both then look the same."""
    alone = {state: await in_state(h, state, f"alone-{state}") for state in STATES}
    among = {state: await in_state(h, state, f"among-{state}") for state in STATES}
    h.advance(10)
    one_by_one = {state: await verb.call_single(h.store, holder.run_id, h.now_ms) for state, holder in alone.items()}
    ids = [holder.run_id for holder in among.values()]
    answers = await verb.call(h.second, [*ids, "nobody", ids[0]], h.now_ms)
    assert sorted(answers) == sorted([*ids, "nobody"]), "each id is answered once"
    assert isinstance(answers["nobody"], NotFound)
    for state in STATES:
        assert answers[among[state].run_id] == one_by_one[state], state
        assert await _looks(h, among[state]) == await _looks(h, alone[state]), f"{verb} of a run that was {state}"


async def _looks(h: StoreHarness, holder: LeaseHolder) -> str:
    """Return all that a store shows of a run, except its id."""
    return str(await observe(h, holder.run_id)).replace(holder.run_id, "THE-RUN")


@clause("BULK-1", each=_VERBS)
async def nobody_else_is_touched(h: StoreHarness, verb: _BulkVerb) -> None:
    """Runs that are not named stay as they are; without ids nothing happens."""
    bystanders = [await in_state(h, state, f"bystander-{state}") for state in STATES]
    named = await in_state(h, "dead", "named")
    async with unchanged(h, *(holder.run_id for holder in bystanders), after=verb.name):
        await verb.call(h.store, [named.run_id], h.now_ms)
        assert dict(await verb.call(h.store, [], h.now_ms)) == {}


@clause("BULK-1", "SIGNAL-4", "CANCEL-1")
async def many_requests_are_numbered_run_by_run(h: StoreHarness) -> None:
    """A request to each of many runs takes the next number of that run's inbox; a second call repeats nothing."""
    holders = []
    for number in range(20):
        holder = await start(h)
        for place in range(number % 3):
            await holder.signal("go", f"s{place}")
        holders.append(holder)
    ids = [holder.run_id for holder in holders]
    answers = await h.store.cancel_runs(run_ids=ids, now_ms=h.now_ms)
    assert [answers[run_id].inbox_seq for run_id in ids] == [number % 3 + 1 for number in range(20)]  # type: ignore[union-attr]
    again = await h.store.cancel_runs(run_ids=ids, now_ms=h.now_ms)
    assert {answer.kind for answer in again.values()} == {"duplicate"}
    assert [again[run_id].inbox_seq for run_id in ids] == [number % 3 + 1 for number in range(20)]  # type: ignore[union-attr]
    for holder, number in zip(holders, range(20), strict=True):
        assert (await holder.append("1")).cancel_requested
        assert (await record(h, holder.run_id)).inbox_seq == number % 3 + 1


@clause("BULK-1", "CANCEL-2")
async def runs_of_any_time_are_due_at_once(h: StoreHarness) -> None:
    """Runs queued for next week end now when they are cancelled together; those that are due keep their places."""
    later = [(await create(h, available_at_ms=h.now_ms + 7 * 86_400_000)).run_id for _ in range(3)]
    past = [(await create(h, available_at_ms=h.now_ms - 1_000)).run_id for _ in range(3)]
    await h.store.cancel_runs(run_ids=[*later, *past], now_ms=h.now_ms)
    assert {(await record(h, run_id)).due_at_ms for run_id in later} == {h.now_ms}
    assert {(await record(h, run_id)).due_at_ms for run_id in past} == {h.now_ms - 1_000}


@clause("BULK-2", "FENCE-1", each=_VERBS)
async def calls_that_meet_do_each_run_once(h: StoreHarness, verb: _BulkVerb) -> None:
    """Calls over the same runs, each in its own order, beside drivers: none is left out, none is done twice."""
    chosen = random.Random(SEED)
    handles = await h.handles(4)
    for _ in range(scaled(7)):
        holders = await _in_each_status(h, verb, 12)
        ids = [holder.run_id for holder in holders]
        calls = []
        for handle in handles:
            chosen.shuffle(ids)
            calls.append(verb.call(handle, list(ids), h.now_ms))
        results: list[Any] = await all_of(*calls, *(_append(holder) for holder in holders))
        for run_id in ids:
            _check_done_once(verb, [result[run_id] for result in results[: len(handles)]])
        for holder in holders:
            await _check_whole(h, holder)


@clause("BULK-1", "CANCEL-1", "CANCEL-4", "DEAD-1", "RETRY-2", each=_VERBS)
async def calls_for_one_run_that_meet_act_once(h: StoreHarness, verb: _BulkVerb) -> None:
    """Of calls at once for one run, alone or as one of many, one acts in each status, and the others are told so."""
    handles = await h.handles(4)
    for _ in range(scaled(15)):
        for holder in await _in_each_status(h, verb, 4):
            calls = [verb.call_single(handle, holder.run_id, h.now_ms) for handle in handles[1:]]
            *answers, among = await all_of(*calls, verb.call(handles[0], [holder.run_id], h.now_ms))
            _check_done_once(verb, [*answers, among[holder.run_id]])
            await _check_whole(h, holder)


async def _in_each_status(h: StoreHarness, verb: _BulkVerb, count: int) -> list[LeaseHolder]:
    """Start runs, and leave them in statuses in which the verb acts."""
    holders = [await start_full(h, lease_ms=1) for _ in range(count)]
    if verb in (_REQUEUE_RUNS, _RETRY_RUNS):
        await park(h, *holders, now_ms=h.advance(LEASE_MS))
    else:
        await _scatter(h, holders, with_dead=verb is _TERMINATE_RUNS)
    return holders


def _check_done_once(verb: _BulkVerb, answers: Sequence[Any]) -> None:
    kinds = sorted(answer.kind for answer in answers)
    assert kinds == sorted([verb.done, *[verb.too_late] * (len(answers) - 1)]), f"{verb} of one run: {kinds}"
    assert len({getattr(answer, "inbox_seq", None) for answer in answers}) == 1, f"the answers: {answers}"


async def _scatter(h: StoreHarness, holders: Sequence[LeaseHolder], *, with_dead: bool) -> None:
    """Leave runs in each status in which a call acts: running, queued, paused, and dead if it does so then too."""
    for holder in holders[1::4]:
        await holder.release()
    for holder in holders[2::4]:
        await holder.pause(taken_inbox=[1], seen_inbox_seq=1)
    if with_dead:
        for holder in holders[3::4]:
            await holder.heartbeat(lease_ms=3 * LEASE_MS)
        await park(h, *holders[::4], now_ms=h.advance(LEASE_MS))
    statuses = [(await record(h, holder.run_id)).status for holder in holders[:4]]
    assert statuses == ["dead" if with_dead else "running", "queued", "paused", "running"]


async def _append(holder: LeaseHolder) -> None:
    try:
        await holder.append("2", "3")
    except LeaseLostError:
        return


async def _check_whole(h: StoreHarness, holder: LeaseHolder) -> None:
    run = await record(h, holder.run_id)
    log = await h.second.read_events(run_id=holder.run_id, limit=MANY)
    assert len(log) == run.next_index, f"the head says {run.next_index}, the log has {len(log)}"
    await h.store.delete_run(run_id=holder.run_id, now_ms=h.now_ms, force=True)


@clause("BULK-3", each=_VERBS)
async def too_many_and_bad_ids_are_refused(h: StoreHarness, verb: _BulkVerb) -> None:
    """Nothing is written when one id among them is bad, or there are too many; the greatest number is fine."""
    holder = await in_state(h, "dead", "subject")
    async with unchanged(h, holder.run_id, after="a refused call"):
        for ids in (["subject", ""], ["subject", "a" * 513], ["subject"] + ["x"] * MAX_BULK_RUNS, "subject"):
            with refused(InvalidArgumentError, f"{verb} of {str(ids)[:60]}") as refusal:
                await verb.call(h.store, ids, h.now_ms)
            assert refusal.error.argument == "run_ids"
    others = [f"{number}-{'é' * 200}" for number in range(MAX_BULK_RUNS - 1)]
    answers = await verb.call(h.store, ["subject", *others], h.now_ms)
    assert len(answers) == MAX_BULK_RUNS


@clause("BULK-1", "NOTIFY-1", capability="notify")
async def retried_runs_are_claimable(h: StoreHarness) -> None:
    """All runs that a call retried can be claimed at once."""
    ids = []
    for _ in range(30):
        holder = await start(h)
        await holder.fail()
        ids.append(holder.run_id)
    await create(h)
    answers = await h.store.retry_runs(run_ids=ids, event=NewEvent(kind="retried"), now_ms=h.now_ms)
    assert all(isinstance(answer, Retried) for answer in answers.values())
    assert len((await claim_pending(h, store=h.second)).claims) == 31
