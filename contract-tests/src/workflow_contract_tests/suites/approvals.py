"""APPROVAL: a person's decision is taken once and stands."""

from __future__ import annotations

from workflow_runtime.payloads import decode_json
from workflow_runtime.store import AlreadyDecided, AlreadyFinished, Buffered, Delivered, NotFound, NotWaiting

from ..cases import clause
from ..harness import StoreHarness
from ..scenarios import claim, create, record, start, start_waiting, unchanged


async def _decide(
    h: StoreHarness, run_id: str, approval_id: str = "ok", approved: bool = True, **extra: object
) -> object:
    arguments = {"run_id": run_id, "approval_id": approval_id, "approved": approved, "now_ms": h.now_ms} | extra
    return await h.second.deliver_approval(**arguments)  # type: ignore[arg-type]  # extra holds the verb's own arguments


@clause("APPROVAL-1")
async def approval_wakes_who_waits(h: StoreHarness) -> None:
    """A decision for a run that waits for it queues the run and answers `delivered`."""
    holder = await start_waiting(h, signals=(), approvals=["ok"])
    h.advance(3)
    answer = await _decide(h, holder.run_id, approved=False, decided_by="Łucja", comment='no "way"\n')
    assert isinstance(answer, Delivered), f"a decision for a waiting run answered {answer}"
    run = await record(h, holder.run_id)
    assert (run.status, run.due_at_ms, run.inbox_seq) == ("queued", h.now_ms, 1)
    (entry,) = (await claim(h, holder.run_id)).claim.inbox
    assert (entry.kind, entry.name, entry.delivery_id, entry.received_at_ms) == ("approval", "ok", "ok", h.now_ms)
    assert entry.payload is not None
    assert decode_json(entry.payload) == {"approved": False, "decided_by": "Łucja", "comment": 'no "way"\n'}


@clause("APPROVAL-1", "PAYLOAD-2")
async def approval_without_a_person(h: StoreHarness) -> None:
    """`decided_by` and `comment` may be absent, and come back as absent."""
    holder = await start(h)
    answer = await _decide(h, holder.run_id)
    assert isinstance(answer, Buffered)
    (entry,) = await h.store.read_inbox(run_id=holder.run_id, limit=5)
    assert entry.payload is not None
    assert decode_json(entry.payload) == {"approved": True, "decided_by": None, "comment": None}


@clause("APPROVAL-1")
async def other_approvals_do_not_wake(h: StoreHarness) -> None:
    """A decision that the paused run does not wait for is buffered."""
    holder = await start_waiting(h, signals=["go"], approvals=["ok"])
    for other in ("OK", "go", "o"):
        assert isinstance(await _decide(h, holder.run_id, other), Buffered)
    assert (await record(h, holder.run_id)).status == "paused"


@clause("APPROVAL-2")
async def approval_is_decided_once(h: StoreHarness) -> None:
    """Another decision answers `already-decided` with the one that stands, and changes nothing."""
    holder = await start_waiting(h, signals=(), approvals=["ok"])
    await _decide(h, holder.run_id, approved=False)
    async with unchanged(h, holder.run_id, after="a second decision"):
        for approved in (True, False):
            answer = await _decide(h, holder.run_id, approved=approved, decided_by="another")
            assert isinstance(answer, AlreadyDecided), f"a second decision answered {answer}"
            assert answer.approved is False


@clause("APPROVAL-2")
async def decision_stands_after_it_was_taken(h: StoreHarness) -> None:
    """A decision that the driver has taken into the log still stands."""
    holder = await start_waiting(h, signals=(), approvals=["ok"])
    await _decide(h, holder.run_id, approved=True)
    again = await claim(h, holder.run_id)
    await again.pause(taken_inbox=[1], approvals=["ok"])
    answer = await _decide(h, holder.run_id, approved=False)
    assert isinstance(answer, AlreadyDecided)
    assert answer.approved is True
    assert (await record(h, holder.run_id)).status == "paused"


@clause("APPROVAL-2")
async def decision_stands_after_the_end(h: StoreHarness) -> None:
    """The decision that stands is returned also when the run has ended."""
    holder = await start(h)
    await _decide(h, holder.run_id, approved=False)
    await holder.finish()
    async with unchanged(h, holder.run_id, after="a decision on an ended run"):
        answer = await _decide(h, holder.run_id, approved=True)
        assert answer == AlreadyDecided(approved=False), f"a decided approval of an ended run answered {answer}"


@clause("APPROVAL-2", "SIGNAL-2")
async def signals_and_approvals_do_not_meet(h: StoreHarness) -> None:
    """A signal and an approval with equal ids are two things, and so is a request to cancel."""
    holder = await start(h)
    for shared in ("x", "cancel"):
        assert isinstance(await holder.signal(shared, shared), Buffered)
        assert isinstance(await _decide(h, holder.run_id, shared), Buffered)
    assert (await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)).kind == "requested"
    entries = await h.store.read_inbox(run_id=holder.run_id, limit=9)
    assert [e.kind for e in entries] == ["signal", "approval", "signal", "approval", "cancel"]


@clause("APPROVAL-2", "SIGNAL-1")
async def signal_does_not_answer_an_approval(h: StoreHarness) -> None:
    """A run that waits for an approval is not woken by a signal of that name, nor the other way round."""
    asks = await start_waiting(h, signals=(), approvals=["x"])
    listens = await start_waiting(h, signals=["x"])
    assert isinstance(await asks.signal("x"), Buffered)
    assert isinstance(await _decide(h, listens.run_id, "x"), Buffered)


@clause("APPROVAL-1", "SIGNAL-3", "SIGNAL-5")
async def approval_of_ended_unknown_and_busy_runs(h: StoreHarness) -> None:
    """Late and misplaced decisions get an honest answer and change nothing."""
    ended = await start(h)
    await ended.finish()
    assert isinstance(await _decide(h, ended.run_id), AlreadyFinished)
    assert isinstance(await _decide(h, "nobody"), NotFound)
    queued = await create(h)
    async with unchanged(h, queued.run_id, ended.run_id, after="a refused decision"):
        answer = await _decide(h, queued.run_id, only_if_waiting=True)
        assert isinstance(answer, NotWaiting)
        assert isinstance(await _decide(h, ended.run_id, only_if_waiting=True), AlreadyFinished)
    waiting = await start_waiting(h, signals=(), approvals=["ok"])
    assert isinstance(await _decide(h, waiting.run_id, only_if_waiting=True), Delivered)
