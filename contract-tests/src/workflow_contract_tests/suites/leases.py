"""LEASE and DEAD: renewing a lease, handing it over, and the end of runs that crash their workers."""

from __future__ import annotations

from dataclasses import replace

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError, LogConflictError
from workflow_runtime.store import (
    SILENT_CLAIMS_PER_CRASH,
    NewEvent,
    NotClaimable,
    NotFound,
    NotRequeueable,
    Requeued,
    Retried,
    Timer,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY, event, events
from ..scenarios import (
    claim,
    claim_due,
    claim_pending,
    claim_stale,
    park,
    record,
    show_life,
    start,
    start_full,
    unchanged,
)
from ..verbs import CLAIM_VERBS, MARK_RUN_ERRORED, MARK_RUN_FINISHED, LeaseVerb


@clause("LEASE-1")
async def heartbeat_renews(h: StoreHarness) -> None:
    """A heartbeat moves the end of the lease to `now_ms` + `lease_ms`, exactly."""
    holder = await start(h, lease_ms=1_000)
    answer = await holder.heartbeat(now_ms=h.advance(600), lease_ms=1_000)
    assert answer.lease_expires_at_ms == h.now_ms + 1_000
    assert (await record(h, holder.run_id)).lease_expires_at_ms == h.now_ms + 1_000
    before = await claim_stale(h, store=h.second, now_ms=h.now_ms + 999)
    assert before.claims == (), "a lease was taken before its end"
    after = await claim_stale(h, store=h.second, now_ms=h.now_ms + 1_000)
    assert [c.run.run_id for c in after.claims] == [holder.run_id]


@clause("LEASE-1")
async def heartbeat_never_shortens(h: StoreHarness) -> None:
    """A shorter renewal, or one that arrives late, leaves the end of the lease where it was."""
    holder = await start(h, lease_ms=LEASE_MS)
    end = h.now_ms + LEASE_MS
    assert (await holder.heartbeat(lease_ms=1)).lease_expires_at_ms == end
    assert (await holder.heartbeat(now_ms=h.now_ms - 60_000, lease_ms=LEASE_MS)).lease_expires_at_ms == end
    assert (await record(h, holder.run_id)).lease_expires_at_ms == end


@clause("LEASE-1")
async def heartbeat_tells_a_lost_lease(h: StoreHarness) -> None:
    """The holder that was replaced learns it by its next heartbeat; the new holder renews."""
    old = await start(h, lease_ms=1_000)
    new = await claim(h, old.run_id, store=h.second, now_ms=h.advance(1_000))
    with refused(LeaseLostError, "a heartbeat of the replaced holder"):
        await old.heartbeat()
    assert (await new.heartbeat()).lease_expires_at_ms == h.now_ms + LEASE_MS


@clause("LEASE-2", "CANCEL-3")
async def heartbeat_tells_inbox_cancel_and_clock(h: StoreHarness) -> None:
    """The answer to a heartbeat has the inbox number, the cancel flag and the store's time."""
    holder = await start(h)
    first = await holder.heartbeat()
    assert (first.inbox_seq, first.cancel_requested) == (0, False)
    await holder.signal()
    second = await holder.heartbeat()
    assert (second.inbox_seq, second.cancel_requested) == (1, False)
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    before = await h.store.read_clock()
    third = await holder.heartbeat()
    after = await h.store.read_clock()
    assert (third.inbox_seq, third.cancel_requested) == (2, True)
    assert before <= third.store_clock_ms <= after, "the answer's clock is not the store's clock"


@clause("LEASE-2")
async def heartbeat_changes_nothing_else(h: StoreHarness) -> None:
    """A heartbeat moves the end of the lease and leaves everything else as it was, `updated_at_ms` too."""
    holder = await start(h, lease_ms=1_000)
    await holder.append("1", set_timers=[Timer(timer_id="t", fire_at_ms=h.now_ms + 7)], lease_ms=1_000)
    await holder.signal()
    before = await h.second.load_execution(run_id=holder.run_id)
    await holder.heartbeat(now_ms=h.advance(500))
    after = await h.second.load_execution(run_id=holder.run_id)
    assert before is not None
    assert after is not None
    end = after.run.lease_expires_at_ms
    assert end == h.now_ms + LEASE_MS
    assert after == replace(before, run=replace(before.run, lease_expires_at_ms=end))


@clause("LEASE-3", "CLAIM-9")
async def release_hands_over(h: StoreHarness) -> None:
    """A released run is queued and due at once, no crash is counted, and its token is worth nothing."""
    holder = await start(h)
    await holder.append("1")
    await holder.release(now_ms=h.advance(10))
    run = await record(h, holder.run_id)
    assert (run.status, run.due_at_ms, run.crashes, run.lease_owner) == ("queued", h.now_ms, 0, None)
    with refused(LeaseLostError, "a write after the release"):
        await holder.append("2")
    batch = await claim_pending(h, store=h.second)
    assert [(c.run.run_id, c.run.crashes) for c in batch.claims] == [(holder.run_id, 0)]


@clause("LEASE-3", "DEAD-2")
async def releases_never_kill(h: StoreHarness) -> None:
    """However often a run is handed over, it does not become dead."""
    holder = await start(h)
    for _ in range(5):
        await holder.release()
        holder = await claim(h, holder.run_id, max_crashes=1)
    assert (await record(h, holder.run_id)).status == "running"


async def _crash(h: StoreHarness, times: int) -> str:
    """Start a run whose worker crashes so many times without progress. Return its id."""
    holder = await start(h)
    for _ in range(times - 1):
        await show_life(holder)
        holder = await claim(h, holder.run_id, now_ms=h.advance(LEASE_MS))
    await show_life(holder)
    h.advance(LEASE_MS)
    return holder.run_id


@clause("DEAD-2", each=("claim_stale_runs", "claim_run"))
async def repeated_crashes_kill(h: StoreHarness, verb: str) -> None:
    """Each claim from the expired lease of a driver that lived counts a crash; the last one parks the run as dead."""
    run_id = await _crash(h, 3)
    assert (await record(h, run_id)).crashes == 2
    if verb == "claim_stale_runs":
        batch = await claim_stale(h, max_crashes=3)
        assert (batch.claims, batch.dead) == ((), (run_id,))
    else:
        answer = await h.store.claim_run(run_id=run_id, owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms, max_crashes=3)
        assert isinstance(answer, NotClaimable), f"the third crash of three answered {answer.kind}"
        assert (answer.status, answer.claimable_at_ms) == ("dead", None)
    run = await record(h, run_id)
    assert (run.status, run.crashes, run.lease_owner, run.finished_at_ms) == ("dead", 3, None, h.now_ms)
    for claims in CLAIM_VERBS:
        batch = await claims.call(h, now_ms=h.now_ms + 10**9)
        assert (batch.claims, batch.dead) == ((), ()), f"{claims} still finds a dead run"


@clause("DEAD-2", "RETRY-3")
async def dead_run_keeps_what_it_has(h: StoreHarness) -> None:
    """A run that became dead by its crashes keeps its log, its inbox and its timers; nobody gave a reason."""
    holder = await start_full(h)
    before = await h.second.load_execution(run_id=holder.run_id)
    assert before is not None
    assert (await park(h, holder, now_ms=h.advance(LEASE_MS))).dead == (holder.run_id,)
    after = await h.second.load_execution(run_id=holder.run_id)
    assert after is not None
    assert (after.run.status, after.run.lease_owner, after.run.due_at_ms) == ("dead", None, None)
    assert (after.run.reason, after.run.error) == (None, None), "a run that died by its crashes has no reason"
    assert [timer.timer_id for timer in after.timers] == ["old"]
    assert (after.history, after.inbox, after.timers) == (before.history, before.inbox, before.timers)


@clause("DEAD-2")
async def fewer_crashes_do_not_kill(h: StoreHarness) -> None:
    """One crash fewer than `max_crashes` and the run is claimed, with the count in the claim."""
    run_id = await _crash(h, 2)
    batch = await claim_stale(h, max_crashes=3)
    assert [(c.run.run_id, c.run.crashes) for c in batch.claims] == [(run_id, 2)]
    assert batch.dead == ()


@clause("DEAD-2")
async def only_expired_leases_count_as_crashes(h: StoreHarness) -> None:
    """Claims of queued and due paused runs count no crash."""
    holder = await start(h)
    await holder.release()
    holder = LeaseHolder.of(h, (await claim_pending(h)).claims[0])
    assert holder.claim.run.crashes == 0
    await holder.pause(timers={"t": h.now_ms})
    holder = LeaseHolder.of(h, (await claim_due(h)).claims[0])
    assert holder.claim.run.crashes == 0
    await holder.pause(timers={"t": h.now_ms})
    assert (await claim(h, holder.run_id, max_crashes=1)).claim.run.crashes == 0


async def _give_a_sign(holder: LeaseHolder, sign: str) -> None:
    match sign:
        case "heartbeat":
            await holder.heartbeat(now_ms=0, lease_ms=1)
        case "append":
            await holder.append(events=[], lease_ms=1, now_ms=0)
        case "timer":
            await holder.set_timer("t", fire_at_ms=1, operation_id="timer")


@clause("DEAD-2", "DEAD-4", each=("heartbeat", "append", "timer"))
async def driver_that_was_heard_of_counts(h: StoreHarness, sign: str) -> None:
    """One sign of life under a lease, of whatever kind, makes its end a crash; and the sign is for that lease only."""
    holder = await start(h)
    await _give_a_sign(holder, sign)
    holder = await claim(h, holder.run_id, now_ms=h.advance(LEASE_MS))
    assert holder.claim.run.crashes == 1
    holder = await claim(h, holder.run_id, now_ms=h.advance(LEASE_MS))
    assert holder.claim.run.crashes == 1, "a sign of life under an earlier lease counted again"


@clause("DEAD-4", each=("create_run", "claim_pending_runs", "claim_due_timers", "claim_run"))
async def claims_of_which_nothing_is_heard(h: StoreHarness, first: str) -> None:
    """Of claims without a sign of life only each fourth in a row counts a crash: their answers may have been lost."""
    holder = await start(h)
    if first != "create_run":
        await show_life(holder)  # under this first lease, not under the one that the case is about
    match first:
        case "claim_due_timers":
            await holder.pause(timers={"t": h.now_ms})
            await claim_due(h)
        case "claim_pending_runs":
            await holder.release()
            await claim_pending(h)
        case "claim_run":
            await holder.release()
            await claim(h, holder.run_id)
    counts = []
    for turn in range(3 * SILENT_CLAIMS_PER_CRASH):
        h.advance(LEASE_MS)
        if turn % 3 == 0:  # so that each of the two verbs makes a fourth claim
            holder = await claim(h, holder.run_id)
        else:
            holder = LeaseHolder.of(h, (await claim_stale(h)).claims[0])
        counts.append(holder.claim.run.crashes)
    assert counts == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


@clause("DEAD-4", each=("claim_stale_runs", "claim_run"))
async def run_that_kills_at_once_becomes_dead(h: StoreHarness, verb: str) -> None:
    """A run whose drivers never show a sign of life is parked as dead in the end."""
    holder = await start(h)
    for _ in range(2 * SILENT_CLAIMS_PER_CRASH - 1):
        await claim(h, holder.run_id, now_ms=h.advance(LEASE_MS), max_crashes=2)
    h.advance(LEASE_MS)
    if verb == "claim_stale_runs":
        assert (await claim_stale(h, max_crashes=2)).dead == (holder.run_id,)
    else:
        answer = await h.store.claim_run(
            run_id=holder.run_id, owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms, max_crashes=2
        )
        assert answer.kind == "not-claimable"
    run = await record(h, holder.run_id)
    assert (run.status, run.crashes, run.lease_owner, run.finished_at_ms) == ("dead", 2, None, h.now_ms)


@clause("DEAD-4", each=("heartbeat", "release"))
async def row_of_silent_claims_begins_anew(h: StoreHarness, end: str) -> None:
    """After a sign of life, and after a claim that is not from an expired lease, the count of four begins again."""
    holder = await start(h)
    for _ in range(SILENT_CLAIMS_PER_CRASH - 1):
        holder = await claim(h, holder.run_id, now_ms=h.advance(LEASE_MS))
    assert holder.claim.run.crashes == 0
    if end == "heartbeat":
        await show_life(holder)
        holder = await claim(h, holder.run_id, now_ms=h.advance(LEASE_MS))
    else:
        await holder.release()
        holder = await claim(h, holder.run_id)
    before = holder.claim.run.crashes
    for _ in range(SILENT_CLAIMS_PER_CRASH - 1):
        holder = await claim(h, holder.run_id, now_ms=h.advance(LEASE_MS))
        assert holder.claim.run.crashes == before
    holder = await claim(h, holder.run_id, now_ms=h.advance(LEASE_MS))
    assert holder.claim.run.crashes == before + 1


@clause("DEAD-3", each=("append", "pause"))
async def progress_clears_the_count(h: StoreHarness, progress: str) -> None:
    """A run that gets on a little between its crashes never becomes dead."""
    holder = await start(h)
    for _ in range(5):
        await show_life(holder)
        h.advance(LEASE_MS)
        batch = await claim_stale(h, max_crashes=2)
        assert batch.dead == (), "a run that made progress between crashes was parked as dead"
        holder = LeaseHolder.of(h, batch.claims[0])
        assert holder.claim.run.crashes == 1
        if progress == "append":
            await holder.append("1")
        else:
            await holder.pause(timers={"t": h.now_ms})
            holder = LeaseHolder.of(h, (await claim_due(h)).claims[0])
        assert (await record(h, holder.run_id)).crashes == 0


@clause("DEAD-3", "FINISH-1", "FINISH-3", each=(MARK_RUN_FINISHED, MARK_RUN_ERRORED))
async def last_event_clears_the_count(h: StoreHarness, verb: LeaseVerb) -> None:
    """The write that ends a run sets the crash count to zero when it has an event, and leaves it when it has none."""
    for payloads, crashes in (((), 1), (("1",), 0)):
        holder = await start(h, lease_ms=1)
        await show_life(holder)
        holder = await claim(h, holder.run_id, now_ms=h.advance(1))
        await verb.call(holder, events=events(*payloads))
        assert (await record(h, holder.run_id)).crashes == crashes, f"with {len(payloads)} events"


@clause("DEAD-3")
async def heartbeats_are_no_progress(h: StoreHarness) -> None:
    """A run whose workers only renew their leases before they crash becomes dead."""
    holder = await start(h)
    await show_life(holder)
    h.advance(LEASE_MS)
    holder = LeaseHolder.of(h, (await claim_stale(h, max_crashes=2)).claims[0])
    await holder.heartbeat()
    batch = await claim_stale(h, max_crashes=2, now_ms=h.advance(LEASE_MS))
    assert batch.dead == (holder.run_id,)


@clause("DEAD-1", "SIGNAL-3")
async def requeue_revives(h: StoreHarness) -> None:
    """A dead run that is requeued is queued, due now, without crashes, with its log and its inbox."""
    holder = await start(h)
    await holder.append('"kept"')
    await holder.signal("go", "before")
    await park(h, holder, now_ms=h.advance(LEASE_MS))
    await holder.signal("go", "while-dead")
    answer = await h.second.requeue_run(run_id=holder.run_id, now_ms=h.advance(5))
    assert isinstance(answer, Requeued)
    run = await record(h, holder.run_id)
    assert (run.status, run.due_at_ms, run.crashes, run.finished_at_ms) == ("queued", h.now_ms, 0, None)
    taken = (await claim_pending(h, store=h.second)).claims[0]
    assert [e.payload for e in taken.history] == ['"kept"']
    assert [e.delivery_id for e in taken.inbox] == ["before", "while-dead"]


@clause("FINISH-4", "DEAD-1", each=("requeue", "retry"))
async def parked_run_waits_for_somebody(h: StoreHarness, how: str) -> None:
    """A driver parks its run: dead, with error and reason, with its timers; both ways of bringing it back work."""
    holder = await start_full(h)
    await holder.fail(
        '{"type":"D"}', parked=True, reason="diverges", events=[event('"last"')], taken_inbox=[1], now_ms=h.advance(5)
    )
    run = await record(h, holder.run_id)
    assert (run.status, run.error, run.reason, run.output) == ("dead", '{"type":"D"}', "diverges", None)
    assert (run.next_index, run.finished_at_ms, run.due_at_ms, run.lease_owner) == (2, h.now_ms, None, None)
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert [timer.timer_id for timer in execution.timers] == ["old"]
    assert execution.inbox == ()
    for verb in CLAIM_VERBS:
        assert (await verb.call(h, now_ms=h.now_ms + 10**9)).claims == (), f"{verb} gives a parked run away"
    with refused(LeaseLostError, "a write of the driver after parking"):
        await holder.append("2", expected_next_index=2)
    assert (await holder.signal("go", "while-parked")).kind == "buffered"
    if how == "requeue":
        assert isinstance(await h.second.requeue_run(run_id=holder.run_id, now_ms=h.now_ms), Requeued)
    else:
        back = await h.second.retry_run(run_id=holder.run_id, now_ms=h.now_ms, event=NewEvent(kind="retried"))
        assert isinstance(back, Retried)
    run = await record(h, holder.run_id)
    assert (run.status, run.error, run.reason, run.finished_at_ms) == ("queued", None, None, None)
    again = await claim(h, holder.run_id)
    assert [entry.delivery_id for entry in again.claim.inbox] == ["while-parked"]
    await again.pause()
    assert (await record(h, holder.run_id)).due_at_ms is not None, "the timers of a parked run are lost"


@clause("FINISH-4", "OP-1", "FENCE-1")
async def parking_is_a_drivers_write(h: StoreHarness) -> None:
    """Parking is fenced, checks the log's length, is not done twice, and cannot be combined with `aborted`."""
    holder = await start(h)
    async with unchanged(h, holder.run_id, after="a refused parking"):
        with refused(LeaseLostError, "parking by somebody else"):
            await holder.fail(parked=True, reason="r", lease_token="stale")
        with refused(LogConflictError, "parking at another index"):
            await holder.fail(parked=True, reason="r", expected_next_index=1)
        with refused(InvalidArgumentError, "parking and aborting at once"):
            await holder.fail(parked=True, aborted=True, reason="r")
    arguments = holder.fail_arguments(parked=True, reason="diverges", events=[event('"last"')])
    for _ in range(2):
        await h.store.mark_run_errored(**arguments)
    run = await record(h, holder.run_id)
    assert (run.status, run.next_index, run.reason) == ("dead", 1, "diverges")


@clause("FINISH-3", "FINISH-4")
async def reason_is_for_two_ends(h: StoreHarness) -> None:
    """A run that is just errored has no reason."""
    holder = await start(h)
    await holder.fail(reason="none of these")
    run = await record(h, holder.run_id)
    assert (run.status, run.reason) == ("errored", None)


@clause("DEAD-1")
async def only_dead_runs_are_requeued(h: StoreHarness) -> None:
    """A requeue of a run that is not dead answers `not-requeueable` or `not-found`, and changes nothing."""
    holder = await start(h)
    async with unchanged(h, holder.run_id, after="a refused requeue"):
        answer = await h.second.requeue_run(run_id=holder.run_id, now_ms=h.now_ms)
    assert isinstance(answer, NotRequeueable)
    assert answer.status == "running"
    assert isinstance(await h.store.requeue_run(run_id="nobody", now_ms=h.now_ms), NotFound)


@clause("DEAD-2", "ARG-2")
async def parking_respects_the_limit(h: StoreHarness) -> None:
    """A sweep of runs that all become dead touches at most `limit` of them."""
    holders = [await start(h) for _ in range(4)]
    ids = {holder.run_id for holder in holders}
    h.advance(LEASE_MS)
    assert (await park(h, *holders, limit=0)).dead == ()
    first = await claim_stale(h, max_crashes=1, limit=3)
    assert len(first.dead) <= 3
    rest = await claim_stale(h, max_crashes=1, limit=MANY)
    assert {*first.dead, *rest.dead} == ids
    assert len(first.dead) + len(rest.dead) == 4
