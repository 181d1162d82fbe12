"""RETRY: runs that failed go on from their logs."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError, PayloadTooLargeError
from workflow_runtime.payloads import JsonText, decode_json
from workflow_runtime.store import (
    AlreadyFinished,
    Buffered,
    CancelRequested,
    Delivered,
    Duplicate,
    NewEvent,
    NotFound,
    NotRetryable,
    Retried,
    RunStatus,
    Timer,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY
from ..scenarios import claim, claim_due, claim_pending, create, park, record, start, start_full, unchanged
from ..settings import SEED, scaled
from ..tasks import all_of
from ..verbs import APPEND_EVENTS, HEARTBEAT_RUN_LEASE, MARK_RUN_FINISHED, RELEASE_RUN_LEASE

_EVENT = NewEvent(kind="retried", payload=JsonText('{"why":"mended"}'))
_ANY_END = (RunStatus.ERRORED, RunStatus.DEAD, RunStatus.ABORTED)


async def _retry(h: StoreHarness, run_id: str, **overrides: Any) -> Any:
    arguments: dict[str, Any] = {"run_id": run_id, "event": _EVENT, "now_ms": h.now_ms}
    return await h.second.retry_run(**(arguments | overrides))


async def _end(h: StoreHarness, holder: LeaseHolder, status: str) -> None:
    match status:
        case "errored":
            await holder.fail()
        case "aborted":
            await holder.fail(aborted=True, reason="asked to")
        case "dead":
            await park(h, holder, now_ms=h.advance(LEASE_MS))
    assert (await record(h, holder.run_id)).status == status


@clause("RETRY-1", "CLAIM-9", each=("errored", "dead", "aborted"))
async def ended_run_goes_on(h: StoreHarness, status: str) -> None:
    """A retry appends its event to the log, and the run is queued, due now, as if it had never ended."""
    holder = await start_full(h, priority=3, queue="special")
    await _end(h, holder, status)
    h.advance(1_000)
    answer = await _retry(h, holder.run_id, statuses=_ANY_END)
    assert isinstance(answer, Retried)
    assert answer.index == 1
    run = await record(h, holder.run_id)
    assert (run.status, run.due_at_ms, run.updated_at_ms, run.next_index) == ("queued", h.now_ms, h.now_ms, 2)
    assert (run.crashes, run.finished_at_ms, run.error, run.reason, run.output) == (0, None, None, None, None)
    assert (run.lease_owner, run.lease_expires_at_ms, run.awaited) == (None, None, ())
    (taken,) = (await claim_pending(h, queues=["special"])).claims
    assert [(e.index, e.payload) for e in taken.history] == [(0, '"e0"'), (1, _EVENT.payload)]
    assert taken.history[1].kind == "retried"
    assert taken.history[1].created_at_ms == h.now_ms
    again = LeaseHolder.of(h, taken)
    await again.append("2")
    await again.finish()
    assert (await record(h, holder.run_id)).status == "finished"


@clause("RETRY-1", "RETRY-3")
async def several_lives_make_one_log(h: StoreHarness) -> None:
    """A run that ends wrongly again is retried again; its log has no gaps and holds each retry."""
    holder = await start(h)
    for life in range(3):
        await holder.append(events=[NewEvent(kind="step")])
        await holder.fail(f'"{life}"', events=[NewEvent(kind="end")])
        answer = await _retry(h, holder.run_id)
        assert isinstance(answer, Retried)
        assert answer.index == 3 * life + 2
        holder = await claim(h, holder.run_id)
    log = await h.store.read_events(run_id=holder.run_id, limit=MANY)
    assert [(e.index, e.kind) for e in log] == list(enumerate(["step", "end", "retried"] * 3))


@clause("RETRY-1", "SIGNAL-1")
async def retried_run_lives(h: StoreHarness) -> None:
    """A retried run takes signals, pauses, and is woken by timers like any other."""
    holder = await start(h)
    await holder.fail()
    await _retry(h, holder.run_id)
    assert (await holder.signal("go")).kind == "buffered"
    holder = await claim(h, holder.run_id)
    await holder.pause(signals=["stop"], timers={"t": h.now_ms + 50})
    assert (await record(h, holder.run_id)).due_at_ms == h.now_ms + 50
    assert len((await claim_due(h, now_ms=h.advance(50))).claims) == 1


@clause("RETRY-1", each=("statuses", "event"))
async def bad_arguments_are_refused(h: StoreHarness, argument: str) -> None:
    """A retry with a status that cannot be retried, or with too large an event, is refused; nothing is written."""
    holder = await start(h)
    await holder.finish()
    if argument == "statuses":
        for status in set(RunStatus) - set(_ANY_END):
            async with unchanged(h, holder.run_id, after="a refused retry"):
                with refused(InvalidArgumentError, f"a retry of {status} runs") as refusal:
                    await _retry(h, holder.run_id, statuses=[RunStatus.ERRORED, status])
            assert refusal.error.argument == "statuses"
        assert isinstance(await _retry(h, holder.run_id, statuses=[]), NotRetryable)
        return
    large = JsonText('"' + "x" * h.store.capabilities.max_payload_bytes + '"')
    with refused(PayloadTooLargeError, "an event beyond the store's limit"):
        await _retry(h, holder.run_id, event=NewEvent(kind="retried", payload=large))
    with refused(InvalidArgumentError, "an event that is none"):
        await _retry(h, holder.run_id, event="retried")


@clause("RETRY-2", each=("queued", "running", "paused", "finished", "aborted", "dead"))
async def other_runs_are_left_alone(h: StoreHarness, status: str) -> None:
    """A run that is not in one of the statuses stays as it is, log included."""
    holder = await start_full(h)
    match status:
        case "queued":
            await holder.release()
        case "paused":
            await holder.pause(signals=["go"], seen_inbox_seq=1)
        case "finished":
            await holder.finish()
        case "aborted" | "dead":
            await _end(h, holder, status)
        case _:
            pass
    async with unchanged(h, holder.run_id, after="a refused retry"):
        answer = await _retry(h, holder.run_id, now_ms=h.now_ms + 5, statuses=[RunStatus.ERRORED])
    assert isinstance(answer, NotRetryable)
    assert answer.status == status
    assert isinstance(await _retry(h, "nobody"), NotFound)


@clause("RETRY-3", "FENCE-1", "FENCE-3")
async def tokens_of_a_former_life_are_worthless(h: StoreHarness) -> None:
    """The holder from before the end can write nothing after a retry, also when nobody has claimed the run yet."""
    holder = await start(h)
    await holder.fail()
    await _retry(h, holder.run_id)
    holder.next_index = 1  # the retry has added its event: nothing but the token is wrong
    for _ in range(2):
        async with unchanged(h, holder.run_id, after="a write of the former driver"):
            for verb in (APPEND_EVENTS, MARK_RUN_FINISHED, RELEASE_RUN_LEASE, HEARTBEAT_RUN_LEASE):
                with refused(LeaseLostError, f"{verb} of the former driver"):
                    await verb.call(holder)
        again = await claim(h, holder.run_id)
        assert again.token != holder.token
        await again.release()


@clause("RETRY-3", "LOG-6", "DEAD-1")
async def inbox_and_timers_stay(h: StoreHarness) -> None:
    """A claim after a retry brings the inbox entries that no write has taken; a dead run keeps its timers."""
    for status in ("errored", "dead"):
        holder = await start(h)
        for number in range(3):
            await holder.signal("go", f"s{number}")
        timer = Timer(timer_id="t", fire_at_ms=h.now_ms + 10**9)
        await holder.append("1", taken_inbox=[2], set_timers=[timer])
        await _end(h, holder, status)
        await _retry(h, holder.run_id)
        again = await claim(h, holder.run_id)
        assert [e.inbox_seq for e in again.claim.inbox] == [1, 3]
        execution = await h.second.load_execution(run_id=holder.run_id)
        assert execution is not None
        assert execution.timers == ((timer,) if status == "dead" else ())
        assert (await holder.signal("go", "s1")).kind == "duplicate"


@clause("RETRY-4", "CANCEL-1", "SIGNAL-4", each=("taken", "not-taken"))
async def aborted_run_is_no_longer_asked_to_end(h: StoreHarness, request: str) -> None:
    """Retrying an aborted run clears the cancel flag and the old request; a new request answers `requested`."""
    holder = await start(h)
    for life in range(2):
        asked = await h.store.cancel_run(run_id=holder.run_id, now_ms=h.now_ms, reason=str(life))
        assert isinstance(asked, CancelRequested), f"in life {life} a request to end answers {asked.kind}"
        assert asked.inbox_seq == life + 1
        if request == "taken":
            await holder.fail(aborted=True, taken_inbox=[life + 1])
        else:
            await h.store.terminate_run(run_id=holder.run_id, now_ms=h.now_ms)
        await _retry(h, holder.run_id, statuses=_ANY_END)
        holder = await claim(h, holder.run_id)
        assert not holder.claim.run.cancel_requested
        assert holder.claim.inbox == ()
        assert await h.store.read_inbox(run_id=holder.run_id, limit=9) == ()
    timeline = await h.store.get_run_timeline(run_id=holder.run_id)
    reasons = [decode_json(e.detail)["reason"] for e in timeline.entries if e.source == "inbox" and e.detail]
    assert reasons == ["0", "1"], "the former requests are part of the run's story"


@clause("RETRY-3", "RETRY-4")
async def request_is_told_from_deliveries_of_its_name(h: StoreHarness) -> None:
    """Retrying an aborted run takes its request only, not what else has the id or the name `cancel`."""
    holder = await start(h)
    await holder.signal("cancel", "cancel")
    await h.store.deliver_approval(run_id=holder.run_id, approval_id="cancel", approved=True, now_ms=h.now_ms)
    await h.store.deliver_retry(run_id=holder.run_id, retry_id="cancel", now_ms=h.now_ms)
    await h.store.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    await h.store.terminate_run(run_id=holder.run_id, now_ms=h.now_ms)
    await _retry(h, holder.run_id, statuses=_ANY_END)
    left = await h.second.read_inbox(run_id=holder.run_id, limit=9)
    assert [(entry.kind, entry.delivery_id) for entry in left] == [
        ("signal", "cancel"),
        ("approval", "cancel"),
        ("retry", "cancel"),
    ]
    assert await holder.signal("cancel", "cancel") == Duplicate(inbox_seq=1)


@clause("RETRY-4", each=("errored", "dead"))
async def request_outlives_other_ends(h: StoreHarness, status: str) -> None:
    """A run that ended otherwise is still asked to end: what was acknowledged is not lost."""
    holder = await start(h)
    await h.store.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    await _end(h, holder, status)
    await _retry(h, holder.run_id, statuses=_ANY_END)
    holder = await claim(h, holder.run_id)
    assert holder.claim.run.cancel_requested
    assert [e.kind for e in holder.claim.inbox] == ["cancel"]
    assert (await h.store.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)).kind == "duplicate"


@clause("SIGNAL-7", "SIGNAL-1", "CLAIM-9")
async def wish_to_retry_queues_a_paused_run(h: StoreHarness) -> None:
    """A wish to retry queues a paused run, due now, whatever it waits for; its timers stay as they are."""
    waits: list[dict[str, Any]] = [{"signals": ["go"]}, {"timers": {"t": h.now_ms + 10**9}}, {}]
    for each in waits:
        holder = await start(h)
        await holder.pause(**each)
        h.advance(3)
        answer = await h.second.deliver_retry(run_id=holder.run_id, retry_id="r1", now_ms=h.now_ms)
        assert isinstance(answer, Delivered)
        run = await record(h, holder.run_id)
        assert (run.status, run.due_at_ms, run.inbox_seq, run.awaited) == ("queued", h.now_ms, 1, ())
        again = await claim(h, holder.run_id)
        (entry,) = again.claim.inbox
        assert (entry.kind, entry.name, entry.delivery_id, entry.payload) == ("retry", "retry", "r1", None)
        execution = await h.store.load_execution(run_id=holder.run_id)
        assert execution is not None
        assert len(execution.timers) == len(each.get("timers", ()))


@clause("SIGNAL-7", "SIGNAL-2", "SIGNAL-3", "SIGNAL-4")
async def wish_to_retry_is_kept_like_a_signal(h: StoreHarness) -> None:
    """A wish to retry is buffered unless the run is paused, known by its own id, and refused after the end."""
    holder = await start(h)
    await holder.signal("retry", "r1")
    answer = await h.store.deliver_retry(run_id=holder.run_id, retry_id="r1", now_ms=h.now_ms)
    assert isinstance(answer, Buffered), "a signal of the same id and name has nothing to do with it"
    assert answer.inbox_seq == 2
    async with unchanged(h, holder.run_id, after="a second wish"):
        again = await h.second.deliver_retry(run_id=holder.run_id, retry_id="r1", now_ms=h.now_ms)
    assert isinstance(again, Duplicate)
    assert again.inbox_seq == 2
    assert (await h.store.deliver_retry(run_id=holder.run_id, retry_id="r2", now_ms=h.now_ms)).kind == "buffered"
    assert (await holder.append("1", taken_inbox=[2])).inbox_seq == 3
    await holder.finish()
    assert (await h.store.deliver_retry(run_id=holder.run_id, retry_id="r2", now_ms=h.now_ms)).kind == "duplicate"
    async with unchanged(h, holder.run_id, after="a wish after the end"):
        late = await h.store.deliver_retry(run_id=holder.run_id, retry_id="r3", now_ms=h.now_ms)
    assert isinstance(late, AlreadyFinished)
    assert isinstance(await h.store.deliver_retry(run_id="nobody", retry_id="r1", now_ms=h.now_ms), NotFound)


_RIVALS: dict[str, Callable[[StoreHarness, str], Coroutine[Any, Any, Any]]] = {
    "retry": lambda h, run_id: h.store.retry_run(run_id=run_id, event=_EVENT, now_ms=h.now_ms),
    "terminate": lambda h, run_id: h.store.terminate_run(run_id=run_id, now_ms=h.now_ms),
    "requeue": lambda h, run_id: h.store.requeue_run(run_id=run_id, now_ms=h.now_ms),
    "delete": lambda h, run_id: h.store.delete_run(run_id=run_id, now_ms=h.now_ms),
    "prune": lambda h, run_id: h.store.prune_runs(
        finished_before_ms=h.now_ms + 1, limit=MANY, statuses=sorted(_ANY_END)
    ),
}


@clause("RETRY-2", "RETRY-1", each=_RIVALS)
async def retry_and_others_at_once(h: StoreHarness, other: str) -> None:
    """Of a retry and another call at the same time each acts as if it had come first or last, never both in part."""
    chosen = random.Random(SEED)
    for _ in range(scaled(30)):
        holder = await start(h)
        await holder.append("1")
        await _end(h, holder, "dead")
        calls = [_retry(h, holder.run_id), _RIVALS[other](h, holder.run_id)]
        turned = chosen.choice([1, -1])
        mine, theirs = (await all_of(*calls[::turned]))[::turned]
        await _check_race(h, holder.run_id, other, mine, theirs)


async def _check_race(h: StoreHarness, run_id: str, other: str, mine: Any, theirs: Any) -> None:
    kinds = (mine.kind, theirs if other == "prune" else theirs.kind)
    run = await h.store.load_run(run_id=run_id)
    log = [e.kind for e in await h.store.read_events(run_id=run_id, limit=MANY)]
    stands = None if run is None else (run.status.value, run.next_index)
    assert len(log) == (0 if run is None else run.next_index), f"{other}: the head and the log differ"
    by_other: dict[str, dict[Any, Any]] = {
        "retry": {("retried", "not-retryable"): ("queued", 2), ("not-retryable", "retried"): ("queued", 2)},
        "terminate": {("retried", "terminated"): ("aborted", 2), ("not-retryable", "terminated"): ("aborted", 1)},
        "requeue": {("retried", "not-requeueable"): ("queued", 2), ("not-retryable", "requeued"): ("queued", 1)},
        "delete": {("retried", "deleted"): None, ("not-found", "deleted"): None},
        "prune": {("retried", 0): ("queued", 2), ("not-found", 1): None},
    }
    allowed = by_other[other]
    assert kinds in allowed, f"{other}: {kinds}"
    assert stands == allowed[kinds], f"{other}: {kinds}, and then the run is {stands}"


@clause("RETRY-1", "RETRY-2", "LOG-5")
async def end_and_retries_at_once(h: StoreHarness) -> None:
    """Retries that meet the very end of a run take it up once, or come too early and change nothing."""
    handles = await h.handles(3)
    for _ in range(scaled(30)):
        holder = await start(h)
        _, *answers = await all_of(
            holder.fail(events=[NewEvent(kind="end")]),
            *(handle.retry_run(run_id=holder.run_id, event=_EVENT, now_ms=h.now_ms) for handle in handles),
        )
        retried = [answer for answer in answers if isinstance(answer, Retried)]
        assert len(retried) <= 1, f"{len(retried)} retries of one end"
        run = await record(h, holder.run_id)
        log = [e.kind for e in await h.store.read_events(run_id=holder.run_id, limit=MANY)]
        assert log == ["end", "retried"][: 1 + len(retried)]
        assert (run.status, run.error is None) == (("queued", True) if retried else ("errored", False))
        await create(h)  # nobody else is touched
