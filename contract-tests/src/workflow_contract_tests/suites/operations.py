"""OP: the last write of a driver may be repeated after a lost answer, whatever happened since."""

from __future__ import annotations

from typing import Any

from workflow_runtime.errors import LeaseLostError, LogConflictError
from workflow_runtime.store import Timer

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..scenarios import LEASE_MS, Driver, claim, claim_many, record, start, start_full, unchanged

_WRITES = (
    "append_events",
    "schedule_timer",
    "release_run_lease",
    "mark_run_paused",
    "mark_run_finished",
    "mark_run_errored",
)
_ENDING = _WRITES[2:]


async def _written(h: StoreHarness, verb: str) -> tuple[Driver, dict[str, Any], Any]:
    driver = await start_full(h)
    arguments = driver.everything(verb)
    return driver, arguments, await getattr(h.store, verb)(**arguments)


def _same_answer(verb: str, first: Any, repeat: Any) -> None:
    if verb == "append_events":
        # What the answer tells about the outside may be of today; what the driver decided by may not.
        first, repeat = first.next_index, repeat.next_index
    assert repeat == first, f"the repeated {verb} answered {repeat}, the first time {first}"


@clause("OP-1", each=_WRITES)
async def repeat_gives_the_first_answer(h: StoreHarness, verb: str) -> None:
    """Repeating the last write gives its answer again and changes nothing, also when it ended the lease."""
    driver, arguments, first = await _written(h, verb)
    async with unchanged(h, driver.run_id, after=f"the repeated {verb}"):
        for handle in await h.handles(3):
            repeat = await getattr(handle, verb)(**(arguments | {"now_ms": h.advance(1_000)}))
            _same_answer(verb, first, repeat)


@clause("OP-2", "OP-1", each=_WRITES)
async def repeat_after_outside_calls(h: StoreHarness, verb: str) -> None:
    """Deliveries, requests and heartbeats in between do not make a store forget the last write."""
    driver, arguments, first = await _written(h, verb)
    if verb not in _ENDING:
        await driver.heartbeat()
    await driver.signal("go", "s2")
    await h.second.deliver_approval(run_id=driver.run_id, approval_id="a", approved=True, now_ms=h.now_ms)
    await h.second.cancel_run(run_id=driver.run_id, now_ms=h.now_ms)
    async with unchanged(h, driver.run_id, after=f"the repeated {verb}"):
        _same_answer(verb, first, await getattr(h.store, verb)(**arguments))


@clause("OP-2", "OP-1", each=("append_events", "schedule_timer", "release_run_lease", "mark_run_paused"))
async def repeat_after_a_claim_by_another(h: StoreHarness, verb: str) -> None:
    """When somebody else has claimed the run since, the repeat still gives the first answer, before the fence."""
    driver, arguments, first = await _written(h, verb)
    if verb == "mark_run_paused":
        await driver.signal("go", "s2")
        await h.second.cancel_run(run_id=driver.run_id, now_ms=h.now_ms)
    thief = await claim(h, driver.run_id, store=h.second, now_ms=h.advance(LEASE_MS))
    async with unchanged(h, driver.run_id, after=f"the repeated {verb}"):
        _same_answer(verb, first, await getattr(h.store, verb)(**arguments))
    await thief.append('"still mine"')
    with refused(LeaseLostError, f"{verb} repeated after the next holder's write"):
        await getattr(h.store, verb)(**arguments)


@clause("OP-2", "OP-1", each=("claim_stale_runs", "claim_pending_runs", "claim_due_timers"))
async def repeat_after_a_sweep(h: StoreHarness, verb: str) -> None:
    """Also when a sweep of another worker claimed the run, by whichever verb."""
    driver = await start(h)
    ends = {
        "claim_stale_runs": ("append_events", {}),
        "claim_pending_runs": ("release_run_lease", {}),
        "claim_due_timers": ("mark_run_paused", {"set_timers": [Timer(timer_id="t", fire_at_ms=h.now_ms)]}),
    }
    write, extra = ends[verb]
    arguments = driver.arguments(write, **extra)
    first = await getattr(h.store, write)(**arguments)
    batch = await claim_many(h, verb, store=h.second, now_ms=h.advance(LEASE_MS))
    assert [c.run.run_id for c in batch.claims] == [driver.run_id]
    async with unchanged(h, driver.run_id, after=f"the repeated {write}"):
        _same_answer(write, first, await getattr(h.store, write)(**arguments))


@clause("OP-1", "FENCE-1", each=_ENDING)
async def another_operation_is_not_the_last_one(h: StoreHarness, verb: str) -> None:
    """The same write under another operation id is a late write."""
    driver, arguments, _ = await _written(h, verb)
    async with unchanged(h, driver.run_id, after=f"a second {verb}"):
        with refused(LeaseLostError, f"a second {verb} under another operation id"):
            await getattr(h.store, verb)(**(arguments | {"operation_id": h.new_id("op")}))


@clause("OP-1", "LOG-1")
async def older_operation_is_a_conflict(h: StoreHarness) -> None:
    """An append that is not the last one does not happen again: the log has moved on."""
    driver = await start(h)
    arguments = driver.arguments("append_events")
    driver.next_index = (await h.store.append_events(**arguments)).next_index
    await driver.append("2")
    async with unchanged(h, driver.run_id, after="an older append"):
        with refused(LogConflictError, "an append from before the last one"):
            await h.store.append_events(**arguments)


@clause("OP-1", "PAUSE-1")
async def repeated_pause_does_not_pause_again(h: StoreHarness) -> None:
    """A pause repeated after the run was queued by a delivery leaves it queued."""
    driver = await start(h)
    arguments = driver.arguments("mark_run_paused")
    await h.store.mark_run_paused(**arguments)
    await h.second.cancel_run(run_id=driver.run_id, now_ms=h.now_ms)
    await h.store.mark_run_paused(**arguments)
    assert (await record(h, driver.run_id)).status == "queued", "the repeated pause parked a run that had been woken"


@clause("OP-1", "FENCE-1")
async def operation_of_a_deleted_run_is_forgotten(h: StoreHarness) -> None:
    """The last write of a deleted run is no write of the run created under its id."""
    driver = await start(h)
    arguments = driver.arguments("mark_run_finished")
    await h.store.mark_run_finished(**arguments)
    await h.second.delete_run(run_id=driver.run_id, now_ms=h.now_ms)
    await start(h, driver.run_id)
    async with unchanged(h, driver.run_id, after="a write of the deleted run"):
        with refused(LeaseLostError, "the last write of a deleted run"):
            await h.store.mark_run_finished(**arguments)


@clause("OP-1", each=("append_events", "mark_run_finished"))
async def refused_write_is_not_remembered(h: StoreHarness, verb: str) -> None:
    """A write that was refused did not happen: corrected, it may come again under its operation id."""
    driver = await start(h)
    await driver.append("0")
    arguments = driver.arguments(verb, expected_next_index=7)
    with refused(LogConflictError, f"{verb} at a wrong index"):
        await getattr(h.store, verb)(**arguments)
    await getattr(h.store, verb)(**(arguments | {"expected_next_index": 1}))
    run = await record(h, driver.run_id)
    assert (run.status, run.next_index) == (("finished", 1) if verb == "mark_run_finished" else ("running", 2))
