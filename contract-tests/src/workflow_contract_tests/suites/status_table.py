"""STATUS: every verb in every status answers as the table of the contract says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from workflow_runtime.errors import LeaseLostError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import DRIVER_VERBS, STATES, STATUS_TABLE, TERMINAL_STATUSES, NewEvent

from ..cases import clause
from ..harness import StoreHarness
from ..scenarios import CLAIM_VERBS, LEASE_MS, MANY, Driver, claim_many, create_arguments, event, park, record, start


async def in_state(h: StoreHarness, state: str, run_id: str | None = None) -> Driver:
    """Bring a run into one of the table's states; its queue and workflow are named after it."""
    lease_ms = 1 if state in {"running-expired", "dead"} else LEASE_MS
    driver = await start(h, run_id or f"run-{state}", queue=state, workflow_id=state, lease_ms=lease_ms)
    timers = {"t": h.now_ms} if state == "paused-due" else {"t": h.now_ms + 10**9}
    match state:
        case "queued":
            await driver.release()
        case "paused" | "paused-due":
            await driver.pause(signals=["go"], approvals=["ok"], timers=timers)
        case "finished":
            await driver.finish()
        case "errored":
            await driver.fail()
        case "aborted":
            await driver.fail(aborted=True)
        case "dead":
            await park(h, driver, now_ms=h.now_ms + 1, queues=[state])
        case "running-live" | "running-expired":
            pass
        case _:
            raise AssertionError(f"the table has a state {state!r} that this suite cannot make")
    status = (await record(h, driver.run_id)).status
    assert status == state.partition("-")[0], f"the run should be {state}, it is {status}"
    return driver


async def _create(h: StoreHarness, driver: Driver) -> str:
    return (await h.store.create_run(**create_arguments(h, run_id=driver.run_id))).kind


async def _claim(h: StoreHarness, driver: Driver) -> str:
    answer = await h.store.claim_run(
        run_id=driver.run_id, owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms, max_crashes=MANY
    )
    return answer.kind


def _claim_by(verb: str) -> Callable[[StoreHarness, Driver], Awaitable[str]]:
    async def claim_many_by_verb(h: StoreHarness, driver: Driver) -> str:
        batch = await claim_many(h, verb, queues=[driver.claim.run.queue])
        return "claimed" if [c.run.run_id for c in batch.claims] == [driver.run_id] else "not-claimed"

    return claim_many_by_verb


async def _signal(h: StoreHarness, driver: Driver) -> str:
    answer = await h.store.deliver_signal(
        run_id=driver.run_id, signal_id="s", name="go", payload=JsonText("1"), now_ms=h.now_ms
    )
    return answer.kind


async def _approve(h: StoreHarness, driver: Driver) -> str:
    answer = await h.store.deliver_approval(run_id=driver.run_id, approval_id="ok", approved=True, now_ms=h.now_ms)
    return answer.kind


async def _hasten(h: StoreHarness, driver: Driver) -> str:
    return (await h.store.deliver_retry(run_id=driver.run_id, retry_id="r", now_ms=h.now_ms)).kind


def _plain(verb: str) -> Callable[[StoreHarness, Driver], Awaitable[str]]:
    async def call(h: StoreHarness, driver: Driver) -> str:
        kind: str = (await getattr(h.store, verb)(run_id=driver.run_id, now_ms=h.now_ms)).kind
        return kind

    return call


async def _retry(h: StoreHarness, driver: Driver) -> str:
    answer = await h.store.retry_run(run_id=driver.run_id, event=NewEvent(kind="retried"), now_ms=h.now_ms)
    return answer.kind


async def _fork(h: StoreHarness, driver: Driver) -> str:
    answer = await h.store.fork_run(
        run_id=driver.run_id,
        new_run_id=h.new_id("fork"),
        from_index=0,
        event=event(),
        operation_id=h.new_id("op"),
        now_ms=h.now_ms,
    )
    return answer.kind


async def _prune(h: StoreHarness, driver: Driver) -> str:
    pruned = await h.store.prune_runs(
        finished_before_ms=h.now_ms + 1,
        limit=MANY,
        statuses=sorted(TERMINAL_STATUSES),
        workflow_ids=[driver.claim.run.workflow_id],
    )
    return "pruned" if pruned == 1 else "kept"


def _drive(verb: str) -> Callable[[StoreHarness, Driver], Awaitable[str]]:
    async def call(h: StoreHarness, driver: Driver) -> str:
        try:
            await driver.call(verb)
        except LeaseLostError:
            return "lease-lost"
        return "ok"

    return call


_CALLS: dict[str, Callable[[StoreHarness, Driver], Awaitable[Any]]] = {
    "create_run": _create,
    "fork_run": _fork,
    "claim_run": _claim,
    **{verb: _claim_by(verb) for verb in CLAIM_VERBS},
    "deliver_signal": _signal,
    "deliver_approval": _approve,
    "deliver_retry": _hasten,
    **{verb: _plain(verb) for verb in ("cancel_run", "terminate_run", "requeue_run", "delete_run")},
    "retry_run": _retry,
    "prune_runs": _prune,
    **{verb: _drive(verb) for verb in DRIVER_VERBS},
}


@clause("STATUS-1", each=STATUS_TABLE)
async def verb_answers_as_the_table_says(h: StoreHarness, verb: str) -> None:
    """In each status the verb answers what its row of `STATUS_TABLE` says."""
    assert verb in _CALLS, f"the table has a verb {verb!r} that this suite cannot call"
    drivers = {state: await in_state(h, state) for state in STATES}
    h.advance(10)
    answers = {state: await _CALLS[verb](h, driver) for state, driver in drivers.items()}
    assert answers == dict(STATUS_TABLE[verb]), f"{verb} answered {answers}, the table says {STATUS_TABLE[verb]}"


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
        driver = await in_state(h, state)
        before = (await record(h, driver.run_id)).status
        h.now_ms += 10
        answer = await _CALLS[verb](h, driver)
        stored = await h.second.load_run(run_id=driver.run_id)
        expected = _AFTERWARDS.get(answer, "queued" if (answer, before) == ("requested", "paused") else before)
        assert (stored and stored.status) == expected, f"{state}: {verb} answered {answer}, the run is {stored}"
