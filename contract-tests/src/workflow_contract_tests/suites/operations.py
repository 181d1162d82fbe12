"""OP: a driver may repeat its last write after a lost answer, even when others have changed the run since."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from workflow_runtime.errors import LeaseLostError, LogConflictError
from workflow_runtime.store import RunStatus, Timer

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, event
from ..scenarios import claim, observe, record, start, start_full, unchanged
from ..verbs import (
    APPEND_EVENTS,
    CLAIM_DUE_TIMERS,
    CLAIM_PENDING_RUNS,
    CLAIM_STALE_RUNS,
    CLAIM_VERBS,
    MARK_RUN_ERRORED,
    MARK_RUN_FINISHED,
    MARK_RUN_PAUSED,
    RELEASE_RUN_LEASE,
    SCHEDULE_TIMER,
    ClaimVerb,
    LeaseVerb,
)

_ENDING = (RELEASE_RUN_LEASE, MARK_RUN_PAUSED, MARK_RUN_FINISHED, MARK_RUN_ERRORED)
_WRITES = (APPEND_EVENTS, SCHEDULE_TIMER, *_ENDING)


async def _written(h: StoreHarness, verb: LeaseVerb) -> tuple[LeaseHolder, dict[str, Any], Any]:
    holder = await start_full(h)
    arguments = verb.everything(holder)
    return holder, arguments, await verb.of(h.store)(**arguments)


async def _check_repeat(h: StoreHarness, verb: LeaseVerb, arguments: dict[str, Any], first: Any) -> None:
    """Repeat a write, and assert that it answers as the first time, but for what others can change."""
    repeat = await verb.of(h.store)(**arguments)
    if verb is APPEND_EVENTS:
        run = await record(h, arguments["run_id"])
        others = {
            "lease_expires_at_ms": run.lease_expires_at_ms,
            "inbox_seq": run.inbox_seq,
            "cancel_requested": run.cancel_requested,
        }
        for name, now in others.items():
            then, said = getattr(first, name), getattr(repeat, name)
            assert said in (then, now), f"{name} of the repeat is {said}; it was {then}, and it is {now}"
        first, repeat = first.next_index, repeat.next_index
    assert repeat == first, f"the repeated {verb} answered {repeat}, the first time {first}"


@clause("OP-1", each=_WRITES)
async def repeat_gives_the_first_answer(h: StoreHarness, verb: LeaseVerb) -> None:
    """Repeating the last write gives its answer again and changes nothing, also when it ended the lease."""
    holder, arguments, first = await _written(h, verb)
    async with unchanged(h, holder.run_id, after=f"the repeated {verb}"):
        for _ in range(3):
            await _check_repeat(h, verb, arguments | {"now_ms": h.advance(1_000)}, first)
        assert isinstance(await verb.of(h.second)(**arguments), type(first)), "another handle does not know the write"


@clause("OP-2", "OP-1", each=_WRITES)
async def repeat_after_outside_calls(h: StoreHarness, verb: LeaseVerb) -> None:
    """Deliveries, requests and heartbeats in between do not make a store forget the last write."""
    holder, arguments, first = await _written(h, verb)
    if verb not in _ENDING:
        await holder.heartbeat()
    await holder.signal("go", "s2")
    await h.second.deliver_approval(run_id=holder.run_id, approval_id="a", approved=True, now_ms=h.now_ms)
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    async with unchanged(h, holder.run_id, after=f"the repeated {verb}"):
        await _check_repeat(h, verb, arguments, first)


@clause("OP-2", "OP-1", each=(APPEND_EVENTS, SCHEDULE_TIMER, RELEASE_RUN_LEASE, MARK_RUN_PAUSED))
async def repeat_after_a_claim_by_another(h: StoreHarness, verb: LeaseVerb) -> None:
    """A repeat gives the first answer also when another worker has claimed the run since: it comes before the fence."""
    holder, arguments, first = await _written(h, verb)
    if verb is MARK_RUN_PAUSED:
        await holder.signal("go", "s2")
        await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    thief = await claim(h, holder.run_id, store=h.second, now_ms=h.advance(LEASE_MS))
    async with unchanged(h, holder.run_id, after=f"the repeated {verb}"):
        await _check_repeat(h, verb, arguments, first)
    await thief.append('"still mine"')
    with refused(LeaseLostError, f"{verb} repeated after the next holder's write"):
        await verb.of(h.store)(**arguments)


@clause("OP-2", "OP-1", each=CLAIM_VERBS)
async def repeat_after_a_sweep(h: StoreHarness, verb: ClaimVerb) -> None:
    """A repeat gives the first answer also when a sweep of another worker has claimed the run, by any verb."""
    holder = await start(h)
    alarm = Timer(timer_id="t", fire_at_ms=h.now_ms)
    last_writes: dict[ClaimVerb, tuple[LeaseVerb, dict[str, Any]]] = {
        CLAIM_STALE_RUNS: (APPEND_EVENTS, {}),
        CLAIM_PENDING_RUNS: (RELEASE_RUN_LEASE, {}),
        CLAIM_DUE_TIMERS: (MARK_RUN_PAUSED, {"set_timers": [alarm]}),
    }
    write, extra = last_writes[verb]
    arguments = write.arguments(holder, **extra)
    first = await write.of(h.store)(**arguments)
    batch = await verb.call(h, store=h.second, now_ms=h.advance(LEASE_MS))
    assert [c.run.run_id for c in batch.claims] == [holder.run_id]
    async with unchanged(h, holder.run_id, after=f"the repeated {write}"):
        await _check_repeat(h, write, arguments, first)


@clause("OP-1", "FENCE-1", each=_ENDING)
async def another_operation_is_not_the_last_one(h: StoreHarness, verb: LeaseVerb) -> None:
    """The same write under another operation id is a late write."""
    holder, arguments, _ = await _written(h, verb)
    async with unchanged(h, holder.run_id, after=f"a second {verb}"):
        with refused(LeaseLostError, f"a second {verb} under another operation id"):
            await verb.of(h.store)(**(arguments | {"operation_id": h.new_id("op")}))


@clause("OP-1", "LOG-1")
async def older_operation_is_a_conflict(h: StoreHarness) -> None:
    """An append that is not the last one does not happen again: the log has moved on."""
    holder = await start(h)
    arguments = holder.append_arguments()
    holder.next_index = (await h.store.append_events(**arguments)).next_index
    await holder.append("2")
    async with unchanged(h, holder.run_id, after="an older append"):
        with refused(LogConflictError, "an append from before the last one"):
            await h.store.append_events(**arguments)


@clause("OP-1", "PAUSE-1")
async def repeated_pause_does_not_pause_again(h: StoreHarness) -> None:
    """A pause repeated after the run was queued by a delivery leaves it queued."""
    holder = await start(h)
    arguments = holder.pause_arguments()
    await h.store.mark_run_paused(**arguments)
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    await h.store.mark_run_paused(**arguments)
    assert (await record(h, holder.run_id)).status == "queued", "the repeated pause parked a run that had been woken"


@clause("OP-1", "LOG-3")
async def repeated_append_without_events_changes_nothing(h: StoreHarness) -> None:
    """An append that only renews the lease, or takes entries as well, is recognised too: later, it renews nothing."""
    holder = await start_full(h)
    changes: tuple[dict[str, Any], ...] = ({"taken_inbox": [1], "removed_timers": ["old"]}, {})
    for more in changes:
        h.advance(10)
        arguments = holder.append_arguments(events=[], **more)
        first = await h.store.append_events(**arguments)
        async with unchanged(h, holder.run_id, after="the repeated append"):
            for store in (h.store, h.second):
                assert await store.append_events(**arguments | {"now_ms": h.advance(10)}) == first


@clause("OP-1", "PAUSE-1")
async def repeated_pause_that_found_news_says_so_again(h: StoreHarness) -> None:
    """A pause that ended as `queued`, because an entry had come, answers a repeat alike."""
    holder = await start(h)
    await holder.signal("go", "s1")
    arguments = holder.pause_arguments(seen_inbox_seq=0, events=[event('"1"')])
    first = await h.store.mark_run_paused(**arguments)
    assert first.status == RunStatus.QUEUED
    async with unchanged(h, holder.run_id, after="the repeated pause"):
        for store in (h.store, h.second):
            assert await store.mark_run_paused(**arguments | {"now_ms": h.advance(10)}) == first


@clause("OP-1", "FENCE-1")
async def operation_of_a_deleted_run_is_forgotten(h: StoreHarness) -> None:
    """The last write of a deleted run is no write of the run created under its id."""
    holder = await start(h)
    arguments = holder.finish_arguments()
    await h.store.mark_run_finished(**arguments)
    await h.second.delete_run(run_id=holder.run_id, now_ms=h.now_ms)
    await start(h, holder.run_id)
    async with unchanged(h, holder.run_id, after="a write of the deleted run"):
        with refused(LeaseLostError, "the last write of a deleted run"):
            await h.store.mark_run_finished(**arguments)


@clause("OP-1", each=(APPEND_EVENTS, MARK_RUN_FINISHED))
async def refused_write_is_not_remembered(h: StoreHarness, verb: LeaseVerb) -> None:
    """A write that was refused did not happen: corrected, it may come again under its operation id."""
    holder = await start(h)
    await holder.append("0")
    arguments = verb.arguments(holder, expected_next_index=7)
    with refused(LogConflictError, f"{verb} at a wrong index"):
        await verb.of(h.store)(**arguments)
    await verb.of(h.store)(**(arguments | {"expected_next_index": 1}))
    run = await record(h, holder.run_id)
    assert (run.status, run.next_index) == (("finished", 1) if verb is MARK_RUN_FINISHED else ("running", 2))


@clause("OP-1", each=_WRITES)
async def operation_of_another_run_is_not_the_last_one(h: StoreHarness, verb: LeaseVerb) -> None:
    """Drivers of two runs may number their operations alike: each write happens, and each repeat is known."""
    first, second = await start_full(h), await start_full(h)
    for holder in (first, second):
        arguments = verb.everything(holder, operation_id="same")
        before = await observe(h, holder.run_id)
        answer = await verb.of(h.store)(**arguments)
        assert await observe(h, holder.run_id) != before, f"{verb} was taken for a repeat of that of another run"
        async with unchanged(h, first.run_id, second.run_id, after=f"the repeated {verb}"):
            await _check_repeat(h, verb, arguments, answer)


async def _claim_by_id(h: StoreHarness, run_id: str) -> None:
    await claim(h, run_id)


async def _terminate(h: StoreHarness, run_id: str) -> None:
    await h.store.terminate_run(run_id=run_id, now_ms=h.now_ms)


async def _terminate_many(h: StoreHarness, run_id: str) -> None:
    await h.store.terminate_runs(run_ids=[run_id], now_ms=h.now_ms)


async def _retry(h: StoreHarness, run_id: str) -> None:
    await h.store.retry_run(run_id=run_id, event=event(), now_ms=h.now_ms)


async def _retry_many(h: StoreHarness, run_id: str) -> None:
    await h.store.retry_runs(run_ids=[run_id], event=event(), now_ms=h.now_ms)


async def _requeue(h: StoreHarness, run_id: str) -> None:
    await h.store.requeue_run(run_id=run_id, now_ms=h.now_ms)


async def _requeue_many(h: StoreHarness, run_id: str) -> None:
    await h.store.requeue_runs(run_ids=[run_id], now_ms=h.now_ms)


async def _cancel(h: StoreHarness, run_id: str) -> None:
    await h.store.cancel_run(run_id=run_id, now_ms=h.now_ms)


async def _cancel_many(h: StoreHarness, run_id: str) -> None:
    await h.store.cancel_runs(run_ids=[run_id], now_ms=h.now_ms)


async def _delete(h: StoreHarness, run_id: str) -> None:
    await h.store.delete_run(run_id=run_id, now_ms=h.now_ms)


_NAMES_A_RUN: dict[str, Callable[[StoreHarness, str], Awaitable[None]]] = {
    "claim_run": _claim_by_id,
    "cancel_run": _cancel,
    "cancel_runs": _cancel_many,
    "terminate_run": _terminate,
    "terminate_runs": _terminate_many,
    "requeue_run": _requeue,
    "requeue_runs": _requeue_many,
    "retry_run": _retry,
    "retry_runs": _retry_many,
    "delete_run": _delete,
}


@clause(
    *("OP-1", "CLAIM-1", "CANCEL-1", "CANCEL-4", "DEAD-1", "RETRY-1", "RETAIN-1", "BULK-1"),
    each=_NAMES_A_RUN,
)
async def operations_of_one_name_keep_runs_apart(h: StoreHarness, verb: str) -> None:
    """Of full runs whose drivers numbered their operations alike only the one that is named changes."""
    holders = [await start_full(h, operation_id="first") for _ in range(3)]
    for holder in holders:
        if verb.startswith("retry"):
            await holder.fail(operation_id="last")
        elif verb.startswith(("terminate", "requeue")):
            await holder.fail(parked=True, reason="why", operation_id="last")
        else:
            await holder.release(operation_id="last")
    others = [holder.run_id for holder in holders[::2]]
    named = holders[1].run_id
    before = await observe(h, named)
    async with unchanged(h, *others, after=f"{verb} of another run"):
        await _NAMES_A_RUN[verb](h, named)
    assert await observe(h, named) != before
