"""STATUS: each verb answers in each status as the table of the contract says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from workflow_runtime.errors import LeaseLostError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import DRIVER_VERBS, STATES, STATUS_TABLE, TERMINAL_STATUSES, NewEvent

from ..cases import clause
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY, event
from ..scenarios import create_arguments, observe, park, record, start
from ..verbs import CLAIM_VERBS, HEARTBEAT_RUN_LEASE, LEASE_VERBS, ClaimVerb, LeaseVerb

__all__ = ["CALLS", "in_state"]

_Call: TypeAlias = Callable[[StoreHarness, LeaseHolder], Awaitable[str]]
"""Calls a verb for a run and returns the answer in the words of the table."""


async def in_state(h: StoreHarness, state: str, run_id: str | None = None) -> LeaseHolder:
    """Create a run in one of the states of the table. Its queue and workflow have the name of the state."""
    lease_ms = 1 if state in {"running-expired", "dead"} else LEASE_MS
    holder = await start(h, run_id or f"run-{state}", queue=state, workflow_id=state, lease_ms=lease_ms)
    timers = {"t": h.now_ms} if state == "paused-due" else {"t": h.now_ms + 10**9}
    match state:
        case "queued":
            await holder.release()
        case "paused" | "paused-due":
            await holder.pause(signals=["go"], approvals=["ok"], timers=timers)
        case "finished":
            await holder.finish()
        case "errored":
            await holder.fail()
        case "aborted":
            await holder.fail(aborted=True)
        case "dead":
            await park(h, holder, now_ms=h.now_ms + 1, queues=[state])
        case "running-live" | "running-expired":
            pass
        case _:
            raise AssertionError(f"the table has a state {state!r} that this suite cannot make")
    status = (await record(h, holder.run_id)).status
    assert status == state.partition("-")[0], f"the run should be {state}, it is {status}"
    return holder


async def _create(h: StoreHarness, holder: LeaseHolder) -> str:
    return (await h.store.create_run(**create_arguments(h, run_id=holder.run_id))).kind


async def _claim(h: StoreHarness, holder: LeaseHolder) -> str:
    answer = await h.store.claim_run(
        run_id=holder.run_id, owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms, max_crashes=MANY
    )
    return answer.kind


def _claim_by(verb: ClaimVerb) -> _Call:
    async def call(h: StoreHarness, holder: LeaseHolder) -> str:
        batch = await verb.call(h, queues=[holder.claim.run.queue])
        return "claimed" if [c.run.run_id for c in batch.claims] == [holder.run_id] else "not-claimed"

    return call


async def _signal(h: StoreHarness, holder: LeaseHolder) -> str:
    answer = await h.store.deliver_signal(
        run_id=holder.run_id, signal_id="s", name="go", payload=JsonText("1"), now_ms=h.now_ms
    )
    return answer.kind


async def _approve(h: StoreHarness, holder: LeaseHolder) -> str:
    answer = await h.store.deliver_approval(run_id=holder.run_id, approval_id="ok", approved=True, now_ms=h.now_ms)
    return answer.kind


async def _hasten(h: StoreHarness, holder: LeaseHolder) -> str:
    return (await h.store.deliver_retry(run_id=holder.run_id, retry_id="r", now_ms=h.now_ms)).kind


async def _cancel(h: StoreHarness, holder: LeaseHolder) -> str:
    return (await h.store.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)).kind


async def _terminate(h: StoreHarness, holder: LeaseHolder) -> str:
    return (await h.store.terminate_run(run_id=holder.run_id, now_ms=h.now_ms)).kind


async def _requeue(h: StoreHarness, holder: LeaseHolder) -> str:
    return (await h.store.requeue_run(run_id=holder.run_id, now_ms=h.now_ms)).kind


async def _delete(h: StoreHarness, holder: LeaseHolder) -> str:
    return (await h.store.delete_run(run_id=holder.run_id, now_ms=h.now_ms)).kind


async def _retry(h: StoreHarness, holder: LeaseHolder) -> str:
    answer = await h.store.retry_run(run_id=holder.run_id, event=NewEvent(kind="retried"), now_ms=h.now_ms)
    return answer.kind


async def _fork(h: StoreHarness, holder: LeaseHolder) -> str:
    answer = await h.store.fork_run(
        run_id=holder.run_id,
        new_run_id=h.new_id("fork"),
        from_index=0,
        event=event(),
        operation_id=h.new_id("op"),
        now_ms=h.now_ms,
    )
    return answer.kind


async def _prune(h: StoreHarness, holder: LeaseHolder) -> str:
    pruned = await h.store.prune_runs(
        finished_before_ms=h.now_ms + 1,
        limit=MANY,
        statuses=sorted(TERMINAL_STATUSES),
        workflow_ids=[holder.claim.run.workflow_id],
    )
    return "pruned" if pruned == 1 else "kept"


def _call_as_holder(verb: LeaseVerb) -> _Call:
    async def call(h: StoreHarness, holder: LeaseHolder) -> str:
        try:
            await verb.call(holder)
        except LeaseLostError:
            return "lease-lost"
        return "ok"

    return call


CALLS: dict[str, _Call] = {
    "create_run": _create,
    "fork_run": _fork,
    "claim_run": _claim,
    **{verb.name: _claim_by(verb) for verb in CLAIM_VERBS},
    "deliver_signal": _signal,
    "deliver_approval": _approve,
    "deliver_retry": _hasten,
    "cancel_run": _cancel,
    "terminate_run": _terminate,
    "requeue_run": _requeue,
    "delete_run": _delete,
    "retry_run": _retry,
    "prune_runs": _prune,
    **{verb.name: _call_as_holder(verb) for verb in LEASE_VERBS},
}


@clause("STATUS-1", each=STATUS_TABLE)
async def verb_answers_as_the_table_says(h: StoreHarness, verb: str) -> None:
    """In each status the verb answers what its row of `STATUS_TABLE` says."""
    assert verb in CALLS, f"the table has a verb {verb!r} that this suite cannot call"
    holders = {state: await in_state(h, state) for state in STATES}
    h.advance(10)
    answers = {state: await CALLS[verb](h, holder) for state, holder in holders.items()}
    assert answers == dict(STATUS_TABLE[verb]), f"{verb} answered {answers}, the table says {STATUS_TABLE[verb]}"


@clause("RUN-6", each=[verb for verb in STATUS_TABLE if verb != HEARTBEAT_RUN_LEASE.name])
async def record_says_when_it_changed_last(h: StoreHarness, verb: str) -> None:
    """`updated_at_ms` is the time of the verb in a run that it changes, and what it was in one that it does not."""
    holders = {state: await in_state(h, state) for state in STATES}
    h.advance(10)
    for state, holder in holders.items():
        before = await observe(h, holder.run_id)
        answer = await CALLS[verb](h, holder)
        now = await observe(h, holder.run_id)
        (was, _), (became, _) = before[holder.run_id], now[holder.run_id]
        if became is not None:  # it was not erased
            expected = was.run.updated_at_ms if now == before else h.now_ms
            found = became.run.updated_at_ms
            assert found == expected, f"{state}: {verb} answered {answer}, and the run says it changed at {found}"


_AFTERWARDS = {
    "claimed": "running",
    "delivered": "queued",
    "terminated": "aborted",
    "requeued": "queued",
    "retried": "queued",
    "deleted": None,
    "pruned": None,
}


@clause("STATUS-1", "RUN-6", each=[verb for verb in STATUS_TABLE if verb not in DRIVER_VERBS])
async def answer_agrees_with_what_is_stored(h: StoreHarness, verb: str) -> None:
    """After each answer the run is in the status that the answer speaks of, and in no other."""
    for state in STATES:
        holder = await in_state(h, state)
        before = (await record(h, holder.run_id)).status
        h.now_ms += 10
        answer = await CALLS[verb](h, holder)
        stored = await h.second.load_run(run_id=holder.run_id)
        expected = _AFTERWARDS.get(answer, "queued" if (answer, before) == ("requested", "paused") else before)
        assert (stored and stored.status) == expected, f"{state}: {verb} answered {answer}, the run is {stored}"
