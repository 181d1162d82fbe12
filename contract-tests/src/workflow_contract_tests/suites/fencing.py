"""FENCE: a driver's write is refused unless its token is the current one, however the token became old."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from workflow_runtime.errors import LeaseLostError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import ClaimBatch, Created

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, event
from ..scenarios import (
    claim,
    claim_due,
    claim_pending,
    claim_stale,
    create_arguments,
    park,
    record,
    start,
    start_full,
    unchanged,
)
from ..ticking import start_tick, upsert
from ..verbs import (
    LEASE_VERBS,
    MARK_RUN_ERRORED,
    MARK_RUN_FINISHED,
    MARK_RUN_PAUSED,
    RELEASE_RUN_LEASE,
    WRITES_WITH_EVENTS,
    LeaseVerb,
)

Ending = Callable[[StoreHarness, LeaseHolder], Awaitable[None]]


async def _stolen(h: StoreHarness, holder: LeaseHolder) -> None:
    await claim(h, holder.run_id, store=h.second, now_ms=h.advance(LEASE_MS))


async def _swept(h: StoreHarness, holder: LeaseHolder) -> None:
    h.advance(LEASE_MS)
    batch = await claim_stale(h, store=h.second)
    assert [c.run.run_id for c in batch.claims] == [holder.run_id]


async def _paused(h: StoreHarness, holder: LeaseHolder) -> None:
    await holder.pause(signals=["go"])


async def _released(h: StoreHarness, holder: LeaseHolder) -> None:
    await holder.release()


async def _claimed_again(h: StoreHarness, holder: LeaseHolder) -> None:
    await holder.release()
    await claim(h, holder.run_id, owner="worker-1")


async def _finished(h: StoreHarness, holder: LeaseHolder) -> None:
    await holder.finish()


async def _errored(h: StoreHarness, holder: LeaseHolder) -> None:
    await holder.fail()


async def _terminated(h: StoreHarness, holder: LeaseHolder) -> None:
    await h.second.terminate_run(run_id=holder.run_id, now_ms=h.now_ms)


async def _dead(h: StoreHarness, holder: LeaseHolder) -> None:
    batch = await park(h, holder, now_ms=h.advance(LEASE_MS))
    assert batch.dead == (holder.run_id,)


async def _deleted(h: StoreHarness, holder: LeaseHolder) -> None:
    await h.second.delete_run(run_id=holder.run_id, now_ms=h.now_ms, force=True)


async def _recreated(h: StoreHarness, holder: LeaseHolder) -> None:
    await _deleted(h, holder)
    await start(h, holder.run_id, owner="worker-1")


ENDINGS: dict[str, Ending] = {
    "steal": _stolen,
    "sweep": _swept,
    "pause": _paused,
    "release": _released,
    "new-claim-by-the-same-owner": _claimed_again,
    "finish": _finished,
    "error": _errored,
    "terminate": _terminated,
    "death": _dead,
    "delete": _deleted,
    "delete-and-new-creation": _recreated,
}


@clause("FENCE-1", each=ENDINGS)
async def stale_token_is_refused_after(h: StoreHarness, ending: str) -> None:
    """Every write verb with a token that is no longer the current one is refused and changes nothing."""
    holder = await start_full(h)
    await ENDINGS[ending](h, holder)
    for verb in LEASE_VERBS:
        async with unchanged(h, holder.run_id, after=f"a late {verb}"):
            with refused(LeaseLostError, f"{verb} with the token from before the {ending}"):
                await verb.of(h.store)(**verb.everything(holder))


@clause("FENCE-1")
async def invented_token_is_refused(h: StoreHarness) -> None:
    """A token that no claim gave is refused, for a running run, a queued one and one that is not there."""
    running, queued = await start_full(h), await start_full(h)
    await queued.release()
    nobody = LeaseHolder(h, h.store, "nobody", running.token, 0, 0, running.claim)
    for holder, token in ((running, queued.token), (running, "invented"), (queued, "invented"), (nobody, nobody.token)):
        for verb in LEASE_VERBS:
            async with unchanged(h, holder.run_id, after=f"{verb} with an invented token"):
                with refused(LeaseLostError, f"{verb} with an invented token"):
                    await verb.of(h.store)(**verb.everything(holder, lease_token=token))


@clause("FENCE-1", "LOG-1")
async def the_fence_comes_before_the_log(h: StoreHarness) -> None:
    """A late writer with a wrong index learns that it lost the lease, not where the log is."""
    holder = await start(h)
    await holder.append("1")
    await _stolen(h, holder)
    for verb in WRITES_WITH_EVENTS:
        with refused(LeaseLostError, f"a late {verb}"):
            await verb.call(holder, expected_next_index=0)


@clause("FENCE-1", "LOG-1")
async def the_thief_is_not_disturbed(h: StoreHarness) -> None:
    """After a late writer was refused, the new holder goes on as if nothing had been."""
    old = await start(h)
    await old.append("1")
    new = await claim(h, old.run_id, store=h.second, now_ms=h.advance(LEASE_MS))
    for verb in LEASE_VERBS:
        with refused(LeaseLostError, f"a late {verb}"):
            await verb.call(old)
    await new.append("2")
    await new.finish('"by the thief"')
    assert (await record(h, old.run_id)).output == '"by the thief"'


@clause("FENCE-2", each=LEASE_VERBS)
async def expired_holder_may_still_write(h: StoreHarness, verb: LeaseVerb) -> None:
    """A holder whose lease has expired, but whom nobody replaced, may still write."""
    holder = await start(h, lease_ms=1_000)
    h.advance(60_000)
    await verb.call(holder)
    status = (await record(h, holder.run_id)).status
    ended = {
        RELEASE_RUN_LEASE: "queued",
        MARK_RUN_PAUSED: "paused",
        MARK_RUN_FINISHED: "finished",
        MARK_RUN_ERRORED: "errored",
    }
    assert status == ended.get(verb, "running")


@clause("FENCE-2", "LEASE-1")
async def expired_holder_may_renew(h: StoreHarness) -> None:
    """A renewal after the lease ran out keeps others from claiming the run."""
    holder = await start(h, lease_ms=1_000)
    h.advance(5_000)
    assert (await holder.heartbeat()).lease_expires_at_ms == h.now_ms + LEASE_MS
    assert (await claim_stale(h, store=h.second)).claims == ()


@clause("FENCE-3")
async def tokens_are_never_reused(h: StoreHarness) -> None:
    """No two claims of one run id give one token: by any claim verb, after delete, after prune."""
    tokens: list[str] = []
    run_id = h.new_id("run")
    operation_id = h.new_id("op")
    for prune in (False, True, False):
        arguments = create_arguments(h, run_id=run_id, operation_id=operation_id, owner="w", lease_ms=LEASE_MS)
        created = await h.store.create_run(**arguments)
        assert isinstance(created, Created)
        assert created.claim is not None
        tokens += [created.claim.lease.token, *await _claim_every_way(h, LeaseHolder.of(h, created.claim))]
        if prune:
            assert await h.store.prune_runs(finished_before_ms=h.now_ms + 1, limit=1) == 1
        else:
            await h.store.delete_run(run_id=run_id, now_ms=h.now_ms)
    assert len(set(tokens)) == len(tokens) == 18, f"a token was given twice: {tokens}"


async def _claim_every_way(h: StoreHarness, holder: LeaseHolder) -> list[str]:
    """Claim the run by each verb, finish it and return the tokens."""
    await holder.release()
    first = _holder_of(h, await claim_pending(h, owner="w"))
    await first.release()
    second = await claim(h, first.run_id, owner="w")
    h.advance(LEASE_MS)
    third = _holder_of(h, await claim_stale(h, owner="w"))
    await third.pause(timers={"t": h.now_ms})
    fourth = _holder_of(h, await claim_due(h, owner="w"))
    await fourth.release()
    fifth = _holder_of(h, await claim_pending(h, owner="w"))
    await fifth.finish()
    return [one.token for one in (first, second, third, fourth, fifth)]


def _holder_of(h: StoreHarness, batch: ClaimBatch) -> LeaseHolder:
    (taken,) = batch.claims
    return LeaseHolder.of(h, taken)


@clause("FENCE-3")
async def token_of_a_deleted_run_does_not_fit_its_namesake(h: StoreHarness) -> None:
    """The first token of a deleted run is worth nothing for the run created under its id, claimed as often."""
    old = await start(h, "the-id", operation_id="one")
    await h.second.delete_run(run_id="the-id", now_ms=h.now_ms, force=True)
    new = await start(h, "the-id", operation_id="one")
    assert new.token != old.token
    assert new.claim.lease.number == old.claim.lease.number == 1
    with refused(LeaseLostError, "a write with the deleted run's token"):
        await old.append("1")
    assert (await new.append("1")).next_index == 1


async def _fork(h: StoreHarness) -> None:
    source = await h.store.load_run(run_id="source")
    if source is None:
        await start(h, "source")
    answer = await h.store.fork_run(
        run_id="source", new_run_id="the-id", from_index=0, event=event(), operation_id="one", now_ms=h.now_ms
    )
    assert answer.kind == "forked"


async def _start_by_tick(h: StoreHarness) -> None:
    await upsert(h, overlap_policy="allow", next_fire_at_ms=h.now_ms, spec=f'"{h.now_ms}"')
    await start_tick(h, "the-id")


async def _drive_twice(h: StoreHarness, make: Callable[[StoreHarness], Awaitable[None]]) -> None:
    """Assert that a run that is made, claimed, deleted and made again is no business of its first holder."""
    await make(h)
    old = await claim(h, "the-id")
    await h.second.delete_run(run_id="the-id", now_ms=h.now_ms, force=True)
    h.advance(1)
    await make(h)
    new = await claim(h, "the-id")
    assert new.token != old.token
    with refused(LeaseLostError, "a write with the deleted run's token"):
        await old.append("1")
    assert (await new.append("1")).next_index == new.next_index


@clause("FENCE-3", "FORK-1")
async def token_of_a_deleted_fork_does_not_fit_its_namesake(h: StoreHarness) -> None:
    """The first token of a deleted fork is worth nothing for the next fork of its id."""
    await _drive_twice(h, _fork)


@clause("FENCE-3", schedules=True)
async def token_of_a_deleted_ticks_run_does_not_fit_its_namesake(h: StoreHarness) -> None:
    """The first token of a deleted run that a tick had started is worth nothing for another tick's run of its id."""
    await _drive_twice(h, _start_by_tick)


@clause("FENCE-3", "CLAIM-2")
async def lease_numbers_count_the_claims(h: StoreHarness) -> None:
    """A run's first lease is number 1, the next is 2, for any claimer."""
    holder = await start(h)
    numbers = [holder.claim.lease.number]
    for _ in range(3):
        await holder.release()
        holder = await claim(h, holder.run_id)
        numbers.append(holder.claim.lease.number)
    assert numbers == [1, 2, 3, 4]


@clause("FENCE-1", "SIGNAL-1")
async def outside_calls_need_no_token(h: StoreHarness) -> None:
    """Deliveries and requests work under anybody's lease, and take it from nobody."""
    holder = await start(h)
    await h.second.deliver_signal(
        run_id=holder.run_id, signal_id="s", name="go", payload=JsonText("1"), now_ms=h.now_ms
    )
    await h.second.deliver_approval(run_id=holder.run_id, approval_id="a", approved=True, now_ms=h.now_ms)
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    assert (await holder.append("1")).inbox_seq == 3
