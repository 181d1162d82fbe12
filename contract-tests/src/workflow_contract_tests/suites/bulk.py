"""BULK: many runs in one call are dealt with as one by one."""

from __future__ import annotations

import random
from typing import Any

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError
from workflow_runtime.store import MAX_BULK_RUNS, STATES, NewEvent, NotFound, Retried, RunStatus

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..scenarios import LEASE_MS, MANY, Driver, claim_many, create, observe, park, record, start, start_full, unchanged
from ..settings import RACE_ROUNDS, SEED
from ..tasks import all_of
from .status_table import in_state

VERBS = ("cancel_runs", "terminate_runs", "requeue_runs", "retry_runs")
_ANY_END = (RunStatus.ERRORED, RunStatus.DEAD, RunStatus.ABORTED)


def _arguments(h: StoreHarness, verb: str) -> dict[str, Any]:
    own: dict[str, dict[str, Any]] = {
        "cancel_runs": {"reason": "in bulk"},
        "terminate_runs": {"reason": "in bulk"},
        "requeue_runs": {},
        "retry_runs": {"event": NewEvent(kind="retried"), "statuses": _ANY_END},
    }
    return {"now_ms": h.now_ms} | own[verb]


@clause("BULK-1", each=VERBS)
async def answers_and_effects_are_those_of_one_by_one(h: StoreHarness, verb: str) -> None:
    """Two equal runs in each status: one is dealt with alone, the other among all; both then look the same."""
    alone = {state: await in_state(h, state, f"alone-{state}") for state in STATES}
    among = {state: await in_state(h, state, f"among-{state}") for state in STATES}
    h.advance(10)
    arguments = _arguments(h, verb)
    single = getattr(h.store, verb.removesuffix("s"))
    one_by_one = {state: await single(run_id=driver.run_id, **arguments) for state, driver in alone.items()}
    ids = [driver.run_id for driver in among.values()]
    answers = await getattr(h.second, verb)(run_ids=[*ids, "nobody", ids[0]], **arguments)
    assert sorted(answers) == sorted([*ids, "nobody"]), "each id is answered once"
    assert isinstance(answers["nobody"], NotFound)
    for state in STATES:
        assert answers[among[state].run_id] == one_by_one[state], state
        assert await _looks(h, among[state]) == await _looks(h, alone[state]), f"{verb} of a run that was {state}"


async def _looks(h: StoreHarness, driver: Driver) -> str:
    """All that a store shows of a run, but for its name."""
    return str(await observe(h, driver.run_id)).replace(driver.run_id, "THE-RUN")


@clause("BULK-1", each=VERBS)
async def nobody_else_is_touched(h: StoreHarness, verb: str) -> None:
    """Runs that are not named stay as they are; without ids nothing happens."""
    bystanders = [await in_state(h, state, f"bystander-{state}") for state in STATES]
    named = await in_state(h, "dead", "named")
    async with unchanged(h, *(driver.run_id for driver in bystanders), after=verb):
        await getattr(h.store, verb)(run_ids=[named.run_id], **_arguments(h, verb))
        assert dict(await getattr(h.store, verb)(run_ids=[], **_arguments(h, verb))) == {}


@clause("BULK-1", "SIGNAL-4", "CANCEL-1")
async def many_requests_are_numbered_run_by_run(h: StoreHarness) -> None:
    """A request to each of many runs takes the next number of that run's inbox; a second call repeats nothing."""
    drivers = []
    for number in range(20):
        driver = await start(h)
        for place in range(number % 3):
            await driver.signal("go", f"s{place}")
        drivers.append(driver)
    ids = [driver.run_id for driver in drivers]
    answers = await h.store.cancel_runs(run_ids=ids, now_ms=h.now_ms)
    assert [answers[run_id].inbox_seq for run_id in ids] == [number % 3 + 1 for number in range(20)]  # type: ignore[union-attr]
    again = await h.store.cancel_runs(run_ids=ids, now_ms=h.now_ms)
    assert {answer.kind for answer in again.values()} == {"duplicate"}
    for driver, number in zip(drivers, range(20), strict=True):
        assert (await driver.append("1")).cancel_requested
        assert (await record(h, driver.run_id)).inbox_seq == number % 3 + 1


@clause("BULK-1", "CANCEL-2")
async def runs_of_any_time_are_due_at_once(h: StoreHarness) -> None:
    """Runs queued for next week end now when they are cancelled together; those that are due keep their places."""
    later = [(await create(h, available_at_ms=h.now_ms + 7 * 86_400_000)).run_id for _ in range(3)]
    past = [(await create(h, available_at_ms=h.now_ms - 1_000)).run_id for _ in range(3)]
    await h.store.cancel_runs(run_ids=[*later, *past], now_ms=h.now_ms)
    assert {(await record(h, run_id)).due_at_ms for run_id in later} == {h.now_ms}
    assert {(await record(h, run_id)).due_at_ms for run_id in past} == {h.now_ms - 1_000}


@clause("BULK-2", "FENCE-1", each=VERBS)
async def calls_that_meet_do_each_run_once(h: StoreHarness, verb: str) -> None:
    """Calls over the same runs, each in its own order, beside drivers: none is left out, none is done twice."""
    chosen = random.Random(SEED)
    handles = await h.handles(4)
    done = {"cancel_runs": "requested", "terminate_runs": "terminated", "requeue_runs": "requeued"}.get(verb, "retried")
    for _ in range(max(2, RACE_ROUNDS // 8)):
        drivers = [await start_full(h, lease_ms=1) for _ in range(12)]
        if verb in {"requeue_runs", "retry_runs"}:
            await park(h, *drivers, now_ms=h.advance(LEASE_MS))
        ids = [driver.run_id for driver in drivers]
        calls = []
        for handle in handles:
            chosen.shuffle(ids)
            calls.append(getattr(handle, verb)(run_ids=list(ids), **_arguments(h, verb)))
        results = await all_of(*calls, *(_append(driver) for driver in drivers))
        for run_id in ids:
            kinds = [answers[run_id].kind for answers in results[: len(handles)]]
            assert kinds.count(done) == 1, f"{verb} of one run was answered {kinds}"
        for driver in drivers:
            await _check_whole(h, driver)


async def _append(driver: Driver) -> None:
    try:
        await driver.append("2", "3")
    except LeaseLostError:
        return


async def _check_whole(h: StoreHarness, driver: Driver) -> None:
    run = await record(h, driver.run_id)
    log = await h.second.read_events(run_id=driver.run_id, limit=MANY)
    assert len(log) == run.next_index, f"the head says {run.next_index}, the log has {len(log)}"
    await h.store.delete_run(run_id=driver.run_id, now_ms=h.now_ms, force=True)


@clause("BULK-3", each=VERBS)
async def too_many_and_bad_ids_are_refused(h: StoreHarness, verb: str) -> None:
    """Nothing is written when one id among them is bad, or there are too many; the greatest number is fine."""
    driver = await in_state(h, "dead", "subject")
    call = getattr(h.store, verb)
    async with unchanged(h, driver.run_id, after="a refused call"):
        for ids in (["subject", ""], ["subject", "a" * 513], ["subject"] + ["x"] * MAX_BULK_RUNS, "subject"):
            with refused(InvalidArgumentError, f"{verb} of {str(ids)[:60]}") as refusal:
                await call(run_ids=ids, **_arguments(h, verb))
            assert refusal.error.argument == "run_ids"
    others = [f"{number}-{'é' * 200}" for number in range(MAX_BULK_RUNS - 1)]
    answers = await call(run_ids=["subject", *others], **_arguments(h, verb))
    assert len(answers) == MAX_BULK_RUNS


@clause("BULK-1", "NOTIFY-1", capability="notify")
async def retried_runs_are_claimable(h: StoreHarness) -> None:
    """All runs that a call retried can be claimed at once."""
    ids = []
    for _ in range(30):
        driver = await start(h)
        await driver.fail()
        ids.append(driver.run_id)
    await create(h)
    answers = await h.store.retry_runs(run_ids=ids, event=NewEvent(kind="retried"), now_ms=h.now_ms)
    assert all(isinstance(answer, Retried) for answer in answers.values())
    assert len((await claim_many(h, "claim_pending_runs", store=h.second)).claims) == 31
