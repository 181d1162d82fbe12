"""Races between tasks over several handles: exactly one wins, nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from workflow_runtime.errors import LeaseLostError, LogConflictError
from workflow_runtime.payloads import decode_json, encode_json
from workflow_runtime.store import (
    AlreadyDecided,
    AlreadyFinished,
    CancelRequested,
    ClaimBatch,
    Claimed,
    ClaimedRun,
    Created,
    Deleted,
    Delivered,
    Duplicate,
    Existing,
    NewEvent,
    RunStatus,
    Timer,
    WorkflowExecutionStore,
)

from ..cases import clause
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..races.run_calls import RunSubject
from ..races.run_states import make_run
from ..samples import LEASE_MS, MANY, events
from ..scenarios import (
    claim,
    claim_due,
    claim_pending,
    create_arguments,
    record,
    start,
    start_waiting,
)
from ..settings import RACE_CLAIMERS, RACE_ROUNDS, RACE_RUNS, SEED, scaled
from ..tasks import all_of
from ..verbs import (
    APPEND_EVENTS,
    CLAIM_DUE_TIMERS,
    CLAIM_PENDING_RUNS,
    CLAIM_VERBS,
    MARK_RUN_FINISHED,
    MARK_RUN_PAUSED,
    ClaimVerb,
    LeaseVerb,
    StoreMethod,
)

_PATIENCE = 50
"""Claims in a row that may bring nothing although more is due, because others are at it."""


_SWEEPS = {verb.name: verb for verb in CLAIM_VERBS}


async def _together(chosen: random.Random, *calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run calls at once, each after a short random delay. Return the answers; a lost lease or a conflict is one."""

    async def after_a_while(call: Coroutine[Any, Any, Any]) -> Any:
        await asyncio.sleep(chosen.choice([0, 0, 0, chosen.random() * 0.002]))
        for _ in range(chosen.randrange(4)):
            await asyncio.sleep(0)
        try:
            return await call
        except (LeaseLostError, LogConflictError) as error:
            return error

    try:
        return await all_of(*(after_a_while(call) for call in calls))
    finally:
        for call in calls:
            call.close()  # Python warns of one that has not begun when another fails


@clause("RUN-4", each=("queued", "claimed"))
async def one_id_is_created_once(h: StoreHarness, how: str) -> None:
    """Of many simultaneous creations of one id exactly one answers `created`, the others bring the stored run."""
    handles = await h.handles(4)
    chosen = random.Random(SEED)
    lease = {"owner": "w", "lease_ms": LEASE_MS} if how == "claimed" else {}
    for round_number in range(scaled(30)):
        run_id = f"run-{round_number}"
        answers = await _together(
            chosen,
            *(
                handle.create_run(**create_arguments(h, run_id=run_id, input=encode_json(number), **lease))
                for number, handle in enumerate(handles * 2)
            ),
        )
        created = [answer for answer in answers if isinstance(answer, Created)]
        assert len(created) == 1, f"{len(created)} of {len(answers)} callers created {run_id}"
        stored = await record(h, run_id)
        for number, answer in enumerate(answers):
            assert answer.run == stored
            if isinstance(answer, Existing):
                assert answer.differs == (() if encode_json(number) == stored.input else ("input",))


@clause("RUN-2", "CLAIM-4")
async def creation_with_a_claim_is_not_stolen(h: StoreHarness) -> None:
    """A run created with a lease is never seen queued: no claimer that sweeps at that moment gets it."""
    chosen = random.Random(SEED)
    for _ in range(RACE_ROUNDS):
        created, *batches = await _together(
            chosen,
            h.store.create_run(**create_arguments(h, owner="w", lease_ms=LEASE_MS)),
            *(claim_pending(h, store=handle) for handle in await h.handles(3)),
        )
        assert [batch.claims for batch in batches] == [()] * 3, "a run was claimed between its creation and its claim"
        assert isinstance(created, Created)
        assert created.claim is not None
        assert (await record(h, created.run.run_id)).lease_owner == "w"


@clause("RUN-7", "LOG-2")
async def execution_is_of_one_moment(h: StoreHarness) -> None:
    """While a driver writes, run, history, inbox and timers of `load_execution` fit together at every look."""
    holder = await start(h)
    await all_of(_keep_writing(holder), _keep_looking(h, holder.run_id))


async def _keep_looking(h: StoreHarness, run_id: str) -> None:
    length = 0
    while length < 2 * RACE_ROUNDS:
        execution = await h.second.load_execution(run_id=run_id, history_limit=10_000)
        assert execution is not None
        length = execution.run.next_index
        assert len(execution.history) == length, f"the run has {length} events, {len(execution.history)} are shown"
        assert length % 2 == 0, "half of an append is shown"
        assert len(execution.timers) == length // 2
        assert [entry.inbox_seq for entry in execution.inbox] == list(range(1, execution.run.inbox_seq + 1))
        # A store need not be fair: without a break it might serve this reader only, and never the writer.
        await asyncio.sleep(0.001)


async def _keep_writing(holder: LeaseHolder) -> None:
    for number in range(RACE_ROUNDS):
        timer = Timer(timer_id=str(number), fire_at_ms=holder.harness.now_ms + 10**6)
        await holder.append("1", "2", set_timers=[timer])
        await holder.store.deliver_signal(
            run_id=holder.run_id, signal_id=str(number), name="go", payload=None, now_ms=holder.harness.now_ms
        )


@clause("LOG-5", "LOG-2")
async def one_index_is_written_once(h: StoreHarness) -> None:
    """Of many simultaneous appends at one index exactly one succeeds, whole; the others learn the new length."""
    handles = await h.handles(4)
    chosen = random.Random(SEED)
    holder = await start(h)
    expected: list[str | None] = []
    for _ in range(RACE_ROUNDS):
        tries = [
            (holder.append_arguments(events=events(f"[{number},0]", f"[{number},1]")), handle)
            for number, handle in enumerate(handles)
        ]
        answers = await _together(chosen, *(handle.append_events(**arguments) for arguments, handle in tries))
        winners = [n for n, answer in enumerate(answers) if not isinstance(answer, Exception)]
        assert len(winners) == 1, f"{len(winners)} of {len(answers)} appends at one index succeeded"
        assert all(isinstance(answers[n], LogConflictError) for n in range(4) if n not in winners), answers
        holder.next_index += 2
        expected += [f"[{winners[0]},0]", f"[{winners[0]},1]"]
    log = await h.second.read_events(run_id=holder.run_id, limit=len(expected) + 1)
    assert [(e.index, e.payload) for e in log] == list(enumerate(expected))


async def _creation(h: StoreHarness) -> tuple[StoreMethod, dict[str, Any]]:
    return lambda store: store.create_run, create_arguments(h, owner="w", lease_ms=LEASE_MS)


def _write(verb: LeaseVerb) -> Callable[[StoreHarness], Awaitable[tuple[StoreMethod, dict[str, Any]]]]:
    async def write(h: StoreHarness) -> tuple[StoreMethod, dict[str, Any]]:
        return verb.of, verb.arguments(await start(h), events=events("1", "2"))

    return write


_TWINS = {
    "create_run": _creation,
    **{verb.name: _write(verb) for verb in (APPEND_EVENTS, MARK_RUN_PAUSED, MARK_RUN_FINISHED)},
}
"""Returns the verb of this name, and arguments with which it works."""


@clause("OP-1", "LOG-5", each=_TWINS)
async def twins_of_one_operation(h: StoreHarness, verb: str) -> None:
    """One operation sent twice at the same time is done once, and both senders get the answer."""
    handles = await h.handles(3)
    chosen = random.Random(SEED)
    for _ in range(scaled(30)):
        method, arguments = await _TWINS[verb](h)
        answers = await _together(chosen, *(method(handle)(**arguments) for handle in handles))
        assert all(answer == answers[0] for answer in answers), f"the twins got different answers: {answers}"
        assert (await record(h, arguments["run_id"])).next_index == (0 if verb == "create_run" else 2)


@clause("CLAIM-4", "CLAIM-10", "TIMER-2", each=CLAIM_VERBS)
async def each_run_is_claimed_once(h: StoreHarness, verb: ClaimVerb) -> None:
    """Many claimers at once get every run, each exactly once, and each batch in order."""
    handles = await h.handles(RACE_CLAIMERS)
    chosen = random.Random(SEED)
    for number in range(RACE_RUNS):
        await verb.make_ready(h, h.now_ms + 1 + number, priority=number % 3)
    h.advance(1_000)
    results = await all_of(*(_claim_all(h, handle, verb, chosen) for handle in handles))
    claimed = [run_id for result in results for run_id in result]
    assert len(claimed) == RACE_RUNS, f"{RACE_RUNS} runs were claimed {len(claimed)} times"
    assert len(set(claimed)) == RACE_RUNS


@clause("CLAIM-10", "CLAIM-7", "TIMER-2", each=CLAIM_VERBS)
async def contended_claim_says_that_more_is_due(h: StoreHarness, verb: ClaimVerb) -> None:
    """While claimers get in each other's way and something is left all the time, each answer says that more is due."""

    async def take_one(handle: WorkflowExecutionStore) -> ClaimBatch:
        return await verb.call(h, store=handle, limit=1)

    handles = await h.handles(RACE_CLAIMERS)
    chosen = random.Random(SEED)
    for _ in range(scaled(5)):
        ids = [await verb.make_ready(h, h.now_ms + 1) for _ in range(RACE_CLAIMERS + 1)]
        h.advance(1)
        batches = await _together(chosen, *map(take_one, handles))
        for batch in batches:
            assert batch.next_due_ms is not None, f"{len(batch.claims)} runs brought, more are due: not said"
            assert batch.next_due_ms <= h.now_ms, f"{len(batch.claims)} runs brought, more are due: not said"
        for run_id in ids:
            await h.store.delete_run(run_id=run_id, now_ms=h.now_ms, force=True)


@clause("CLAIM-2", "SIGNAL-1", "LOG-2", each=("claim_run", *_SWEEPS))
async def claim_is_of_one_moment(h: StoreHarness, verb: str) -> None:
    """While others deliver and the former driver still writes, all that a claim brings is of one moment."""
    handles = await h.handles(5)
    chosen = random.Random(SEED)
    for number in range(2 * RACE_ROUNDS):
        holder = await start(h, lease_ms=1)
        if verb == CLAIM_PENDING_RUNS.name:
            await holder.release()
        elif verb == CLAIM_DUE_TIMERS.name:
            await holder.pause(timers={"t": h.now_ms})
        h.advance(1)
        write, shown = _LATE_WRITES[number % len(_LATE_WRITES)]
        deliveries = [
            handle.deliver_signal(run_id=holder.run_id, signal_id=str(place), name="go", payload=None, now_ms=h.now_ms)
            for place, handle in enumerate(handles[1:4])
        ]
        batch, *_, written = await _together(
            chosen, _bring_one(h, verb, handles[0], holder.run_id), *deliveries, write(holder)
        )
        for brought in batch:
            run = brought.run
            assert [entry.inbox_seq for entry in brought.inbox] == list(range(1, run.inbox_seq + 1)), "news are missing"
            assert len(brought.history) == run.next_index, "an event is missing"
            assert isinstance(written, Exception) or shown(brought), f"the former driver was answered {written}"
        await h.store.delete_run(run_id=holder.run_id, now_ms=h.now_ms, force=True)


_LATE_WRITES: tuple[tuple[Callable[[LeaseHolder], Coroutine[Any, Any, Any]], Callable[[ClaimedRun], bool]], ...] = (
    (lambda holder: holder.append("1"), lambda brought: False),
    (lambda holder: holder.heartbeat(), lambda brought: False),
    (
        lambda holder: holder.set_timer("news", holder.harness.now_ms),
        lambda brought: "news" in [timer.timer_id for timer in brought.due_timers],
    ),
)
"""Calls that a former driver may still make, each with whether a claim can come after it, and shows it."""


async def _bring_one(h: StoreHarness, verb: str, handle: WorkflowExecutionStore, run_id: str) -> Sequence[ClaimedRun]:
    if verb in _SWEEPS:
        return (await _SWEEPS[verb].call(h, store=handle)).claims
    answer = await handle.claim_run(run_id=run_id, owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms, max_crashes=MANY)
    return [answer.claim] if isinstance(answer, Claimed) else []


async def _claim_all(
    h: StoreHarness, handle: WorkflowExecutionStore, verb: ClaimVerb, chosen: random.Random
) -> list[str]:
    claimed: list[str] = []
    passed_over = 0
    while passed_over < _PATIENCE:
        batch = await verb.call(h, store=handle, limit=chosen.randint(1, 5))
        if not batch.claims:
            if batch.next_due_ms is None or batch.next_due_ms > h.now_ms:
                return claimed
            passed_over += 1  # others are at all that is due
            await asyncio.sleep(0.001 * passed_over)
            continue
        priorities = [taken.run.priority for taken in batch.claims]
        assert priorities == sorted(priorities, reverse=True)
        claimed += [taken.run.run_id for taken in batch.claims]
        passed_over = 0
    raise AssertionError(f"{_PATIENCE} claims in a row brought nothing, and each said that more is due")


@clause("PAUSE-3", "SIGNAL-1", "CANCEL-2", each=("signal", "approval", "cancel"))
async def delivery_and_pause_at_once(h: StoreHarness, what: str) -> None:
    """A delivery and a pause at the same time leave the run queued, in whichever order they come."""
    chosen = random.Random(SEED)
    for number in range(scaled(120)):
        holder = await start(h)
        delivery: Coroutine[Any, Any, Any]
        if what == "signal":
            delivery = holder.signal("go", payload=str(number))
        elif what == "approval":
            delivery = h.second.deliver_approval(run_id=holder.run_id, approval_id="ok", approved=True, now_ms=h.now_ms)
        else:
            delivery = h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
        pause = holder.pause(signals=["go"], approvals=["ok"], timers={"t": h.now_ms + 10**6}, events=events("1"))
        answer, _ = await _together(chosen, delivery, pause)
        run = await record(h, holder.run_id)
        assert run.status == "queued", f"round {number}: the run is {run.status} although {answer} was acknowledged"
        taken = await claim(h, holder.run_id)
        assert [entry.inbox_seq for entry in taken.claim.inbox] == [1]
        assert taken.claim.run.next_index == 1


@clause("SIGNAL-2", "SIGNAL-4", "CLAIM-9")
async def deliveries_at_once(h: StoreHarness) -> None:
    """Equal signals at once act once; different ones get numbers without gaps; one of them wakes the run."""
    handles = await h.handles(4)
    chosen = random.Random(SEED)
    for _ in range(scaled(15)):
        holder = await start_waiting(h)
        ids = [f"s{number}" for number in range(6)] * 2
        answers = await _together(
            chosen,
            *(
                handles[place % 4].deliver_signal(
                    run_id=holder.run_id, signal_id=signal_id, name="go", payload=None, now_ms=h.now_ms
                )
                for place, signal_id in enumerate(ids)
            ),
        )
        assert len([a for a in answers if isinstance(a, Duplicate)]) == 6
        assert len([a for a in answers if isinstance(a, Delivered)]) == 1, "a run is woken by exactly one delivery"
        numbers = {
            signal_id: {a.inbox_seq for a, s in zip(answers, ids, strict=True) if s == signal_id} for signal_id in ids
        }
        assert sorted(number for found in numbers.values() for number in found) == [1, 2, 3, 4, 5, 6]


_REQUESTS: dict[str, Callable[[WorkflowExecutionStore, RunSubject], Coroutine[Any, Any, Any]]] = {
    "signal": lambda store, run: store.deliver_signal(**run.named(), signal_id="s", name="go", payload=None),
    "approval": lambda store, run: store.deliver_approval(**run.named(), approval_id="ok", approved=True),
    "retry": lambda store, run: store.deliver_retry(**run.named(), retry_id="r"),
    "cancel": lambda store, run: store.cancel_run(**run.named()),
}
_ACCEPTED = {"delivered", "buffered", "requested"}


@clause("SIGNAL-2", "APPROVAL-2", "SIGNAL-7", "CANCEL-1", each=_REQUESTS)
async def equal_requests_at_once(h: StoreHarness, what: str) -> None:
    """Of equal requests at once, in each state that takes them, one is written; the others learn that it is known."""
    handles = await h.handles(4)
    chosen = random.Random(SEED)
    states = ("queued", "running-live", "paused") if what == "cancel" else ("queued", "running-live", "paused", "dead")
    for state in states:
        for _ in range(scaled(12)):
            run = await make_run(h, state)
            answers = await _together(chosen, *(_REQUESTS[what](handle, run) for handle in handles * 2))
            others = {answer.kind for answer in answers} - _ACCEPTED
            assert len([answer for answer in answers if answer.kind in _ACCEPTED]) == 1, f"{state}: {answers}"
            assert others == {"already-decided" if what == "approval" else "duplicate"}, f"{state}: {answers}"
            assert {getattr(answer, "inbox_seq", 1) for answer in answers} == {1}, f"{state}: {answers}"
            assert [entry.inbox_seq for entry in await h.store.read_inbox(run_id=run.id, limit=9)] == [1]


async def _deliver(handle: WorkflowExecutionStore, what: str, name: str, **arguments: Any) -> Any:
    if what == "signal":
        return await handle.deliver_signal(signal_id=name, name=name, payload=None, **arguments)
    return await handle.deliver_approval(approval_id=name, approved=True, **arguments)


@clause("SIGNAL-5", "APPROVAL-1", each=("signal", "approval"))
async def conditional_deliveries_at_once(h: StoreHarness, what: str) -> None:
    """Of deliveries for whoever waits, all of which the run waits for, one wakes it; the others see it queued."""
    handles = await h.handles(4)
    chosen = random.Random(SEED)
    names = [f"n{number}" for number in range(8)]
    for _ in range(scaled(15)):
        signals, approvals = (names, ()) if what == "signal" else ((), names)
        holder = await start_waiting(h, signals=signals, approvals=approvals)
        common = {"run_id": holder.run_id, "now_ms": h.now_ms, "only_if_waiting": True}
        coming = [_deliver(handles[place % 4], what, name, **common) for place, name in enumerate(names)]
        answers = await _together(chosen, *coming)
        assert len([answer for answer in answers if isinstance(answer, Delivered)]) == 1, f"{answers}"
        others = [answer for answer in answers if not isinstance(answer, Delivered)]
        assert {(answer.kind, answer.status) for answer in others} == {("not-waiting", "queued")}, f"{answers}"


@clause("APPROVAL-2")
async def decisions_at_once(h: StoreHarness) -> None:
    """Of contrary decisions at once one stands, and everybody else learns which."""
    handles = await h.handles(4)
    chosen = random.Random(SEED)
    for _ in range(scaled(15)):
        holder = await start_waiting(h, signals=(), approvals=["ok"])
        answers = await _together(
            chosen,
            *(
                handle.deliver_approval(
                    run_id=holder.run_id, approval_id="ok", approved=place % 2 == 0, now_ms=h.now_ms
                )
                for place, handle in enumerate(handles)
            ),
        )
        accepted = [place for place, answer in enumerate(answers) if isinstance(answer, Delivered)]
        assert len(accepted) == 1, f"{len(accepted)} decisions were accepted"
        stands = accepted[0] % 2 == 0
        assert all(
            isinstance(a, AlreadyDecided) and a.approved is stands for a in answers if a is not answers[accepted[0]]
        )
        (entry,) = await h.store.read_inbox(run_id=holder.run_id, limit=9)
        assert entry.payload is not None
        assert decode_json(entry.payload)["approved"] is stands


@clause("CANCEL-1", "FINISH-1")
async def cancel_and_finish_at_once(h: StoreHarness) -> None:
    """A request to cancel either came before the end, and is in the inbox, or answers `finished`."""
    chosen = random.Random(SEED)
    for _ in range(RACE_ROUNDS):
        holder = await start(h)
        again, answer, _ = await _together(
            chosen,
            h.store.cancel_run(run_id=holder.run_id, now_ms=h.now_ms),
            h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms),
            holder.finish(),
        )
        requests = [a for a in (again, answer) if isinstance(a, CancelRequested)]
        run = await record(h, holder.run_id)
        assert (run.status, run.inbox_seq, run.cancel_requested) == ("finished", len(requests), bool(requests))
        assert len(requests) <= 1
        assert requests or all(isinstance(a, AlreadyFinished) for a in (again, answer))


_WRITES: dict[str, Callable[[LeaseHolder], Coroutine[Any, Any, Any]]] = {
    "append_events": lambda holder: holder.append("1", "2"),
    "mark_run_paused": lambda holder: holder.pause(events=events("1", "2")),
    "deliver_signal": lambda holder: holder.signal("go", "s1"),
    "schedule_timer": lambda holder: holder.set_timer("t", holder.harness.now_ms),
    "deliver_retry": lambda holder: holder.harness.second.deliver_retry(
        run_id=holder.run_id, retry_id="r1", now_ms=holder.harness.now_ms
    ),
}
_UNFORCED = ("schedule_timer", "deliver_retry")
"""These write to a run that may be deleted: its lease has just expired, or it is paused."""


@clause("RETAIN-1", "RETAIN-2", "FENCE-1", each=_WRITES)
async def deletion_and_write_at_once(h: StoreHarness, verb: str) -> None:
    """A deletion is done, and leaves no trace, whatever was being written to the run at that moment."""
    chosen = random.Random(SEED)
    for number in range(RACE_ROUNDS):
        holder = await start(h, f"run-{number}", lease_ms=1)
        if verb == "deliver_retry":
            await holder.pause()
        h.advance(verb in _UNFORCED)
        forced = verb not in _UNFORCED
        deletion = h.second.delete_run(run_id=holder.run_id, now_ms=h.now_ms, force=forced)
        _, answer = await _together(chosen, _WRITES[verb](holder), deletion)
        assert isinstance(answer, Deleted), f"a deletion{' by force' * forced} answered {answer}"
        assert await h.store.load_run(run_id=holder.run_id) is None
        assert await h.store.read_events(run_id=holder.run_id, limit=9) == (), "events of a deleted run are left"
        again = await start(h, holder.run_id)
        execution = await h.second.load_execution(run_id=again.run_id)
        assert execution is not None
        traces = (execution.history, execution.inbox, execution.timers)
        assert traces == ((), (), ()), "a namesake inherits traces of the deleted run"
        assert (await again.signal("go", "s1")).kind == "buffered"


_AFTER_THE_END: dict[str, Callable[[WorkflowExecutionStore, str, int], Coroutine[Any, Any, Any]]] = {
    "deliver_signal": lambda store, run_id, now_ms: store.deliver_signal(
        run_id=run_id, signal_id="s1", name="go", payload=None, now_ms=now_ms
    ),
    "requeue_run": lambda store, run_id, now_ms: store.requeue_run(run_id=run_id, now_ms=now_ms),
    "retry_run": lambda store, run_id, now_ms: store.retry_run(
        run_id=run_id, now_ms=now_ms, event=NewEvent(kind="retried")
    ),
}
"""Calls that do something to a run that has ended or is dead."""


@clause("RETAIN-3", "RETAIN-1", each=_AFTER_THE_END)
async def pruning_and_calls_at_once(h: StoreHarness, verb: str) -> None:
    """Pruning takes no run that lives again, and leaves no trace of the others, whatever is called at that moment."""
    handles = await h.handles(8)
    chosen = random.Random(SEED)
    status = RunStatus.ERRORED if verb == "retry_run" else RunStatus.DEAD
    for number in range(scaled(8)):
        names = [f"run-{number}-{place:02}" for place in range(40)]
        for run_id in names:
            await (await start(h, run_id)).fail(parked=status is RunStatus.DEAD)
        calls = [_AFTER_THE_END[verb](handles[n % 8], run_id, h.now_ms) for n, run_id in enumerate(names)]
        pruning = h.store.prune_runs(finished_before_ms=h.now_ms + 1, limit=MANY, statuses=[status])
        answers = await _together(chosen, *calls[:20], pruning, *calls[20:])
        count = answers.pop(20)
        there = {run_id: await h.store.load_run(run_id=run_id) for run_id in names}
        for run_id, answer in zip(names, answers, strict=True):
            assert answer.kind in {"buffered", "requeued", "retried", "not-found"}
            assert there[run_id] or answer.kind in {"buffered", "not-found"}, f"{answer.kind}, and then it was pruned"
        gone = [run_id for run_id, run in there.items() if run is None]
        assert len(gone) == count
        for run_id in gone:
            again = await start(h, run_id)
            assert await h.second.read_inbox(run_id=run_id, limit=9) == (), "a namesake inherits what was delivered"
            assert await h.second.read_events(run_id=run_id, limit=9) == (), "a namesake inherits an event"
            assert (await again.signal("go", "s1")).kind == "buffered"
        for run_id in names:
            await h.store.delete_run(run_id=run_id, now_ms=h.now_ms, force=True)


_ENDINGS: dict[str, Callable[[LeaseHolder], Coroutine[Any, Any, Any]]] = {
    "mark_run_paused": lambda holder: holder.pause(timers={"late": holder.harness.now_ms + 9}),
    "mark_run_finished": lambda holder: holder.finish(),
    "mark_run_errored": lambda holder: holder.fail(),
    "terminate_run": lambda holder: holder.store.terminate_run(run_id=holder.run_id, now_ms=holder.harness.now_ms),
    "terminate_runs": lambda holder: holder.store.terminate_runs(run_ids=[holder.run_id], now_ms=holder.harness.now_ms),
}
"""Ends a lease by the verb of this name."""


@clause("TIMER-1", "PAUSE-1", "FINISH-1", "FINISH-3", "CANCEL-4", "BULK-2", each=_ENDINGS)
async def end_of_a_lease_and_timer_at_once(h: StoreHarness, verb: str) -> None:
    """Timers that are set while the lease ends count in the pause, go with the other timers, or are refused."""
    handles = await h.handles(4)
    chosen = random.Random(SEED)
    for _ in range(RACE_ROUNDS):
        holder = await start(h)
        twins = [replace(holder, store=handle) for handle in handles[1:]]
        timers = [twin.set_timer(f"t{place}", h.now_ms + 5 - place) for place, twin in enumerate(twins)]
        *answers, _ = await _together(chosen, *timers, _ENDINGS[verb](holder))
        execution = await h.second.load_execution(run_id=holder.run_id)
        assert execution is not None
        if verb == "mark_run_paused":
            accepted = {f"t{place}" for place, answer in enumerate(answers) if answer is None}
            assert {timer.timer_id for timer in execution.timers} == {"late", *accepted}
            earliest = min(timer.fire_at_ms for timer in execution.timers)
            assert execution.run.due_at_ms == earliest, "the run sleeps past a timer"
        else:
            assert execution.timers == (), f"a run that is {execution.run.status} has a timer"


@clause("TIMER-2", "SIGNAL-1", "CLAIM-9")
async def delivery_and_timer_at_once(h: StoreHarness) -> None:
    """A run that a signal and its timer reach at the same time is woken, and brings or finds the signal."""
    chosen = random.Random(SEED)
    for _ in range(RACE_ROUNDS):
        holder = await start_waiting(h, timers={"t": h.now_ms})
        delivery, batch = await _together(chosen, holder.signal("go"), claim_due(h, store=h.second))
        run = await record(h, holder.run_id)
        expected = ("running", "buffered") if batch.claims else ("queued", "delivered")
        assert (run.status, delivery.kind) == expected
        assert [e.inbox_seq for e in await h.store.read_inbox(run_id=holder.run_id, limit=9)] == [1]
        await h.store.terminate_run(run_id=holder.run_id, now_ms=h.now_ms)
