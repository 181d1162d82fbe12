"""CANCEL: asking a run to end, and ending it without asking."""

from __future__ import annotations

from typing import Any

from workflow_runtime.errors import LeaseLostError
from workflow_runtime.payloads import decode_json
from workflow_runtime.store import (
    AlreadyFinished,
    CancelRequested,
    CancelResult,
    Duplicate,
    NotFound,
    Terminated,
    Timer,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS
from ..scenarios import claim, claim_due, claim_pending, create, park, record, start, start_waiting, unchanged
from ..verbs import CLAIM_VERBS


@clause("CANCEL-1")
async def request_is_an_inbox_entry_and_a_flag(h: StoreHarness) -> None:
    """A request to cancel writes an inbox entry and the flag of the head, in one unit."""
    holder = await start(h)
    h.advance(5)
    answer = await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms, reason="no longer wanted")
    assert isinstance(answer, CancelRequested)
    assert answer.inbox_seq == 1
    run = await record(h, holder.run_id)
    assert (run.cancel_requested, run.inbox_seq, run.status, run.updated_at_ms) == (True, 1, "running", h.now_ms)
    (entry,) = await h.store.read_inbox(run_id=holder.run_id, limit=5)
    assert (entry.kind, entry.name, entry.delivery_id, entry.received_at_ms) == ("cancel", "cancel", "cancel", h.now_ms)
    assert entry.payload is not None
    assert decode_json(entry.payload) == {"reason": "no longer wanted"}


@clause("CANCEL-1")
async def second_request_is_a_duplicate(h: StoreHarness) -> None:
    """A second request answers `duplicate` and changes nothing, also after the first was taken."""
    holder = await start(h)
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    async with unchanged(h, holder.run_id, after="a second request"):
        again = await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms, reason="again")
    assert isinstance(again, Duplicate)
    assert again.inbox_seq == 1
    await holder.append("1", taken_inbox=[1])
    assert isinstance(await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms), Duplicate)
    assert (await record(h, holder.run_id)).cancel_requested


async def _ask_one(h: StoreHarness, run_id: str) -> CancelResult:
    return await h.second.cancel_run(run_id=run_id, now_ms=h.now_ms)


async def _ask_some(h: StoreHarness, run_id: str) -> CancelResult:
    return (await h.second.cancel_runs(run_ids=[run_id, "nobody"], now_ms=h.now_ms))[run_id]


_ASKS = {"cancel_run": _ask_one, "cancel_runs": _ask_some}


@clause("CANCEL-1", "BULK-1", each=_ASKS)
async def duplicate_names_the_request_of_its_run(h: StoreHarness, verb: str) -> None:
    """A second request names the entry of the first, not that of another run, nor a delivery with the id `cancel`."""
    plain, busy = await start(h), await start(h)
    common: dict[str, Any] = {"run_id": busy.run_id, "now_ms": h.now_ms}
    await h.store.deliver_approval(**common, approval_id="cancel", approved=True)
    await busy.signal("cancel", "cancel")
    await h.store.deliver_retry(**common, retry_id="cancel")
    for expected in (CancelRequested, Duplicate):
        for holder, inbox_seq in ((busy, 4), (plain, 1)):
            assert await _ASKS[verb](h, holder.run_id) == expected(inbox_seq=inbox_seq)


async def _end(holder: LeaseHolder, status: str) -> None:
    match status:
        case "finished":
            await holder.finish()
        case "errored":
            await holder.fail()
        case "aborted":
            await holder.fail(aborted=True, reason="asked to")
        case "dead":
            await holder.fail(parked=True, reason="diverges")


@clause("CANCEL-1", each=("finished", "errored", "aborted", "dead"))
async def request_after_the_end(h: StoreHarness, status: str) -> None:
    """A run that has ended answers `finished`, whether or not it was asked before; an unknown one is not found."""
    for asked in (False, True):
        holder = await start(h)
        if asked:
            await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
        await _end(holder, status)
        async with unchanged(h, holder.run_id, after="a late request"):
            answer = await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
        assert isinstance(answer, AlreadyFinished), f"asked before: {asked}; a late request answered {answer.kind}"
        assert answer.status == status
    assert isinstance(await h.store.cancel_run(run_id="nobody", now_ms=h.now_ms), NotFound)


@clause("CANCEL-2", "CLAIM-9")
async def paused_run_is_queued(h: StoreHarness) -> None:
    """A paused run is queued, due now, whatever it waits for."""
    for waits in ({"signals": ["go"]}, {"signals": (), "timers": {"t": h.now_ms + 10**9}}, {"signals": ()}):
        holder = await start_waiting(h, **waits)
        await h.second.cancel_run(run_id=holder.run_id, now_ms=h.advance(1))
        run = await record(h, holder.run_id)
        assert (run.status, run.due_at_ms) == ("queued", h.now_ms)
        taken = await claim(h, holder.run_id)
        assert taken.claim.run.cancel_requested
        assert [e.kind for e in taken.claim.inbox] == ["cancel"]


@clause("CANCEL-2", "CLAIM-9")
async def queued_run_is_due_at_once(h: StoreHarness) -> None:
    """A run queued for next week is due at once when it is cancelled; one that is due already stays so."""
    future = await create(h, available_at_ms=h.now_ms + 7 * 86_400_000)
    past = await create(h, available_at_ms=h.now_ms - 1_000)
    for run in (future, past):
        await h.second.cancel_run(run_id=run.run_id, now_ms=h.now_ms)
        after = await record(h, run.run_id)
        assert after.status == "queued"
        assert run.due_at_ms is not None
        assert after.due_at_ms == min(h.now_ms, run.due_at_ms), "it waits for a time that no longer matters, or anew"
    batch = await claim_pending(h)
    assert {c.run.run_id for c in batch.claims} == {future.run_id, past.run_id}
    assert all(c.run.cancel_requested for c in batch.claims)


@clause("CANCEL-3")
async def holder_keeps_its_lease(h: StoreHarness) -> None:
    """A running run stays with its holder, who may write on and ends it itself."""
    holder = await start(h)
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    run = await record(h, holder.run_id)
    assert (run.status, run.lease_owner, run.lease_expires_at_ms) == ("running", "worker-1", h.now_ms + LEASE_MS)
    assert (await holder.append("1")).cancel_requested
    assert (await holder.heartbeat()).cancel_requested
    await holder.finish('"finished all the same"')
    assert (await record(h, holder.run_id)).status == "finished"


@clause("CANCEL-1", "CLAIM-2")
async def flag_stays_until_the_end(h: StoreHarness) -> None:
    """The cancel flag is in every claim after the request, also when the entry was taken."""
    holder = await start_waiting(h)
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    holder = await claim(h, holder.run_id)
    await holder.append("1", taken_inbox=[1])
    await holder.pause(timers={"cleanup": h.now_ms + 10})
    (taken,) = (await claim_due(h, now_ms=h.advance(10))).claims
    assert taken.run.cancel_requested
    assert taken.inbox == ()


@clause("CANCEL-2", each=("overdue", "pending"))
async def cancelled_pause_is_due_at_once(h: StoreHarness, timer: str) -> None:
    """A paused run that is asked to end is due since the request, whether its timer is overdue or still pending."""
    holder = await start_waiting(h, timers={"t": h.now_ms + {"overdue": 1, "pending": 9}[timer]})
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.advance(5))
    run = await record(h, holder.run_id)
    assert (run.status, run.due_at_ms) == ("queued", h.now_ms)


@clause("CANCEL-4", "FENCE-1")
async def terminate_ends_at_once(h: StoreHarness) -> None:
    """A terminated run is aborted with its reason; its holder is fenced off and its timers are gone."""
    holder = await start(h)
    await holder.append("1", set_timers=[Timer(timer_id="t", fire_at_ms=h.now_ms)])
    answer = await h.second.terminate_run(run_id=holder.run_id, now_ms=h.advance(5), reason="runaway")
    assert isinstance(answer, Terminated)
    run = await record(h, holder.run_id)
    assert (run.status, run.reason, run.finished_at_ms, run.due_at_ms) == ("aborted", "runaway", h.now_ms, None)
    assert (run.lease_owner, run.lease_expires_at_ms, run.awaited) == (None, None, ())
    with refused(LeaseLostError, "a write of the terminated run's driver"):
        await holder.append("2")
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert execution.timers == ()
    for verb in CLAIM_VERBS:
        assert (await verb.call(h, now_ms=h.now_ms + 10**9)).claims == ()


@clause("CANCEL-4", "FINISH-4")
async def terminated_run_keeps_the_error_of_its_parking(h: StoreHarness) -> None:
    """A parked run that is terminated gets the new reason, and still shows the error that it was parked for."""
    holder = await start(h)
    await holder.fail('{"type":"D"}', parked=True, reason="diverges")
    await h.second.terminate_run(run_id=holder.run_id, now_ms=h.now_ms, reason="given up")
    run = await record(h, holder.run_id)
    assert (run.status, run.error, run.reason) == ("aborted", '{"type":"D"}', "given up")


@clause("CANCEL-4")
async def terminate_from_every_status(h: StoreHarness) -> None:
    """Queued, paused, running and dead runs are terminated; ended ones answer `finished` and stay as they are."""
    dead = await start(h, lease_ms=1)
    await park(h, dead, now_ms=h.advance(1))
    queued, paused = await create(h), await start_waiting(h, timers={"t": h.now_ms})
    for run_id in (dead.run_id, queued.run_id, paused.run_id):
        assert isinstance(await h.store.terminate_run(run_id=run_id, now_ms=h.now_ms), Terminated)
        run = await record(h, run_id)
        assert (run.status, run.reason, run.finished_at_ms, run.due_at_ms) == ("aborted", None, h.now_ms, None)
    finished, errored = await start(h), await start(h)
    await finished.finish()
    await errored.fail()
    for run_id in (finished.run_id, errored.run_id, dead.run_id):
        async with unchanged(h, run_id, after="a termination after the end"):
            answer = await h.second.terminate_run(run_id=run_id, now_ms=h.advance(1), reason="late")
        assert isinstance(answer, AlreadyFinished)
    assert isinstance(await h.store.terminate_run(run_id="nobody", now_ms=h.now_ms), NotFound)
