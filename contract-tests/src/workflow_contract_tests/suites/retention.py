"""RETAIN: deleting and pruning leave no trace, and spare runs that are alive."""

from __future__ import annotations

from typing import Any

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError, RunNotFoundError
from workflow_runtime.store import Buffered, Deleted, NewEvent, NotDeletable, NotFound, RunStatus, Timer

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY, event
from ..scenarios import claim_pending, create, park, record, start, start_full, start_waiting, unchanged
from ..verbs import CLAIM_VERBS


async def _with_traces(h: StoreHarness, run_id: str) -> LeaseHolder:
    """Leave a run paused, with a log, inbox entries (taken and not), a timer and awaited names."""
    holder = await start(h, run_id)
    await holder.signal("go", "s1")
    await holder.append("1", taken_inbox=[1], set_timers=[Timer(timer_id="t", fire_at_ms=h.now_ms + 10)])
    await h.second.deliver_approval(run_id=run_id, approval_id="a1", approved=True, now_ms=h.now_ms)
    await holder.pause(signals=["go"], approvals=["a1"], seen_inbox_seq=2)
    return holder


async def _erase(h: StoreHarness, holder: LeaseHolder, how: str) -> None:
    if how == "delete":
        assert isinstance(await h.second.delete_run(run_id=holder.run_id, now_ms=h.now_ms), Deleted)
        return
    await h.second.terminate_run(run_id=holder.run_id, now_ms=h.now_ms)
    assert await h.second.prune_runs(finished_before_ms=h.now_ms + 1, limit=MANY) == 1


@clause("RETAIN-1", "SIGNAL-3", each=("delete", "prune"))
async def erased_run_is_unknown(h: StoreHarness, how: str) -> None:
    """Each verb answers for a deleted or pruned run as for an unknown id."""
    holder = await _with_traces(h, "gone")
    await _erase(h, holder, how)
    run_id, now_ms = "gone", h.advance(100)
    assert await h.store.load_run(run_id=run_id) is None
    assert await h.store.load_execution(run_id=run_id) is None
    assert await h.store.read_events(run_id=run_id, limit=9) == ()
    assert await h.store.read_inbox(run_id=run_id, limit=9) == ()
    with refused(RunNotFoundError, "a timeline of a deleted run"):
        await h.store.get_run_timeline(run_id=run_id)
    answers: list[Any] = [
        await holder.signal("go", "s1"),
        await h.store.deliver_approval(run_id=run_id, approval_id="a1", approved=True, now_ms=now_ms),
        await h.store.deliver_retry(run_id=run_id, retry_id="r", now_ms=now_ms),
        await h.store.cancel_run(run_id=run_id, now_ms=now_ms),
        await h.store.terminate_run(run_id=run_id, now_ms=now_ms),
        await h.store.requeue_run(run_id=run_id, now_ms=now_ms),
        await h.store.retry_run(run_id=run_id, now_ms=now_ms, event=NewEvent(kind="retried")),
        await h.store.delete_run(run_id=run_id, now_ms=now_ms),
        await h.store.fork_run(
            run_id=run_id, new_run_id="f", from_index=0, event=event(), operation_id="o", now_ms=now_ms
        ),
        await h.store.claim_run(run_id=run_id, owner="w", lease_ms=LEASE_MS, now_ms=now_ms, max_crashes=MANY),
    ]
    assert [type(answer) for answer in answers] == [NotFound] * len(answers), answers
    assert (await h.store.list_runs(limit=9)).runs == ()
    assert dict(await h.store.count_runs()) == {}
    for verb in CLAIM_VERBS:
        batch = await verb.call(h, now_ms=now_ms)
        assert (batch.claims, batch.next_due_ms) == ((), None), f"{verb} still sees the erased run"


@clause("RETAIN-1", "SIGNAL-2", each=("delete", "prune"))
async def namesake_inherits_nothing(h: StoreHarness, how: str) -> None:
    """A run created under the id of an erased one has no log, no inbox, no timers and no known signals."""
    holder = await _with_traces(h, "again")
    await _erase(h, holder, how)
    await create(h, "again")
    execution = await h.second.load_execution(run_id="again")
    assert execution is not None
    assert (execution.history, execution.inbox, execution.timers) == ((), (), ())
    assert (execution.run.next_index, execution.run.inbox_seq, execution.run.reason) == (0, 0, None)
    answer = await holder.signal("go", "s1")
    assert isinstance(answer, Buffered), f"a signal id of the erased run answered {answer.kind}"
    assert answer.inbox_seq == 1
    (taken,) = (await claim_pending(h, now_ms=h.advance(100))).claims
    again = LeaseHolder.of(h, taken)
    assert taken.due_timers == ()
    assert (await again.append('"new"')).next_index == 1
    await again.pause()
    assert (await record(h, "again")).due_at_ms is None, "a timer of the erased run came back"


@clause("RETAIN-2", "FENCE-1")
async def live_lease_protects(h: StoreHarness) -> None:
    """A live lease keeps its run from deletion, unless forced, which fences the holder off; an expired one does not."""
    await create(h, "another")  # it could be deleted
    holder = await start_full(h, lease_ms=1_000)
    async with unchanged(h, holder.run_id, after="a refused deletion"):
        answer = await h.second.delete_run(run_id=holder.run_id, now_ms=h.advance(999))
    assert isinstance(answer, NotDeletable)
    assert answer.status == "running"
    await holder.append("1", lease_ms=1)
    assert isinstance(await h.second.delete_run(run_id=holder.run_id, now_ms=h.now_ms, force=True), Deleted)
    with refused(LeaseLostError, "a write to a run that was deleted by force"):
        await holder.append("2")
    assert await h.store.load_run(run_id=holder.run_id) is None, "the late writer brought the run back"
    expired = await start(h, lease_ms=1_000)
    assert isinstance(await h.second.delete_run(run_id=expired.run_id, now_ms=h.advance(1_000)), Deleted)


@clause("RETAIN-1")
async def deletion_spares_the_others(h: StoreHarness) -> None:
    """Runs whose ids look alike keep every trace."""
    ids = ["a", "A", "a%", "a_", "ab", "a ", "b"]
    for run_id in ids:
        await _with_traces(h, run_id)
    async with unchanged(h, *ids[1:], after="the deletion of another run"):
        await h.store.delete_run(run_id="a", now_ms=h.now_ms)
    assert await h.store.load_run(run_id="a") is None


async def _ended(h: StoreHarness, run_id: str, status: str, at: int, workflow_id: str = "orders") -> None:
    h.now_ms = at - 1
    holder = await start(h, run_id, workflow_id=workflow_id, lease_ms=1, queue=run_id)
    h.now_ms = at
    if status == "finished":
        await holder.finish()
    elif status == "errored":
        await holder.fail()
    elif status == "aborted":
        await holder.fail(aborted=True)
    else:
        await park(h, holder, queues=[run_id])


@clause("RETAIN-3")
async def prune_takes_the_oldest_ended_runs(h: StoreHarness) -> None:
    """Only runs that ended before the time go, oldest first, at most `limit`; dead ones only when named."""
    begin = h.now_ms
    await create(h, "queued")
    await start_waiting(h, run_id="paused")
    for run_id, status, at in (
        ("f30", "finished", 30),
        ("e10", "errored", 10),
        ("a20", "aborted", 20),
        ("d15", "dead", 15),
        ("f40", "finished", 40),
    ):
        await _ended(h, run_id, status, begin + at)
    assert await h.second.prune_runs(finished_before_ms=begin + 10, limit=MANY) == 0, "ended before means before"
    assert await h.second.prune_runs(finished_before_ms=begin + 40, limit=2) == 2
    assert await _ids(h) == {"queued", "paused", "f30", "d15", "f40"}
    assert await h.second.prune_runs(finished_before_ms=begin + 40, limit=0) == 0
    assert await h.second.prune_runs(finished_before_ms=begin + 40, limit=MANY) == 1
    assert await _ids(h) == {"queued", "paused", "d15", "f40"}
    assert await h.second.prune_runs(finished_before_ms=begin + 40, limit=MANY, statuses=[RunStatus.DEAD]) == 1
    assert await h.second.prune_runs(finished_before_ms=begin + 40, limit=MANY, statuses=[]) == 0
    assert await h.second.prune_runs(finished_before_ms=begin + 10**9, limit=MANY) == 1
    assert await _ids(h) == {"queued", "paused"}


async def _ids(h: StoreHarness) -> set[str]:
    return {run.run_id for run in (await h.store.list_runs(limit=MANY)).runs}


@clause("RETAIN-3")
async def prune_filters_by_workflow_and_status(h: StoreHarness) -> None:
    """Only the named workflows and statuses are pruned."""
    begin = h.now_ms
    for run_id, status, workflow_id in (("1", "finished", "a"), ("2", "errored", "a"), ("3", "finished", "b")):
        await _ended(h, run_id, status, begin + 1, workflow_id)
    prune = h.second.prune_runs
    assert await prune(finished_before_ms=begin + 2, limit=MANY, workflow_ids=[]) == 0
    assert await prune(finished_before_ms=begin + 2, limit=MANY, workflow_ids=["c", "A"]) == 0
    finished = [RunStatus.FINISHED]
    assert await prune(finished_before_ms=begin + 2, limit=MANY, workflow_ids=["a"], statuses=finished) == 1
    assert await _ids(h) == {"2", "3"}


@clause("RETAIN-3")
async def living_statuses_are_not_prunable(h: StoreHarness) -> None:
    """A status that is not terminal is refused, and nothing is deleted."""
    begin = h.now_ms
    await _ended(h, "ended", "finished", begin + 1)
    await create(h, "alive")
    for status in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.PAUSED):
        with refused(InvalidArgumentError, f"pruning {status} runs"):
            await h.second.prune_runs(
                finished_before_ms=begin + 10**9, limit=MANY, statuses=[RunStatus.FINISHED, status]
            )
    assert await _ids(h) == {"ended", "alive"}


@clause("RETAIN-3", "DEAD-1")
async def requeued_run_is_not_pruned(h: StoreHarness) -> None:
    """A dead run that was given back to the workers is alive: pruning dead runs does not take it."""
    await _ended(h, "revived", "dead", h.now_ms + 5)
    await h.store.requeue_run(run_id="revived", now_ms=h.now_ms)
    pruned = await h.second.prune_runs(
        finished_before_ms=h.now_ms + 10**9,
        limit=MANY,
        statuses=[RunStatus.DEAD, RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED],
    )
    assert pruned == 0
    assert await _ids(h) == {"revived"}
