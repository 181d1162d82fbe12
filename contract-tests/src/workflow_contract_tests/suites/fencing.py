"""FENCE: a driver's write is refused unless its token is the current one, in every way that it can be old."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from workflow_runtime.errors import LeaseLostError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import DRIVER_VERBS, Created

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..scenarios import (
    LEASE_MS,
    Driver,
    claim,
    claim_many,
    create_arguments,
    park,
    record,
    start,
    start_full,
    unchanged,
)

Ending = Callable[[StoreHarness, Driver], Awaitable[None]]


async def _stolen(h: StoreHarness, driver: Driver) -> None:
    await claim(h, driver.run_id, store=h.second, now_ms=h.advance(LEASE_MS))


async def _swept(h: StoreHarness, driver: Driver) -> None:
    h.advance(LEASE_MS)
    batch = await claim_many(h, "claim_stale_runs", store=h.second)
    assert [c.run.run_id for c in batch.claims] == [driver.run_id]


async def _paused(h: StoreHarness, driver: Driver) -> None:
    await driver.pause(signals=["go"])


async def _released(h: StoreHarness, driver: Driver) -> None:
    await driver.release()


async def _claimed_again(h: StoreHarness, driver: Driver) -> None:
    await driver.release()
    await claim(h, driver.run_id, owner="worker-1")


async def _finished(h: StoreHarness, driver: Driver) -> None:
    await driver.finish()


async def _errored(h: StoreHarness, driver: Driver) -> None:
    await driver.fail()


async def _terminated(h: StoreHarness, driver: Driver) -> None:
    await h.second.terminate_run(run_id=driver.run_id, now_ms=h.now_ms)


async def _dead(h: StoreHarness, driver: Driver) -> None:
    batch = await park(h, driver, now_ms=h.advance(LEASE_MS))
    assert batch.dead == (driver.run_id,)


async def _deleted(h: StoreHarness, driver: Driver) -> None:
    await h.second.delete_run(run_id=driver.run_id, now_ms=h.now_ms, force=True)


async def _recreated(h: StoreHarness, driver: Driver) -> None:
    await _deleted(h, driver)
    await start(h, driver.run_id, owner="worker-1")


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
    driver = await start_full(h)
    await ENDINGS[ending](h, driver)
    for verb in DRIVER_VERBS:
        async with unchanged(h, driver.run_id, after=f"a late {verb}"):
            with refused(LeaseLostError, f"{verb} with the token from before the {ending}"):
                await getattr(h.store, verb)(**driver.everything(verb))


@clause("FENCE-1")
async def invented_token_is_refused(h: StoreHarness) -> None:
    """A token that no claim gave is refused, for a running run, a queued one and one that is not there."""
    running, queued = await start_full(h), await start_full(h)
    await queued.release()
    nobody = Driver(h, h.store, "nobody", running.token, 0, 0, running.claim)
    for driver, token in ((running, queued.token), (running, "invented"), (queued, "invented"), (nobody, nobody.token)):
        for verb in DRIVER_VERBS:
            async with unchanged(h, driver.run_id, after=f"{verb} with an invented token"):
                with refused(LeaseLostError, f"{verb} with an invented token"):
                    await getattr(h.store, verb)(**driver.everything(verb, lease_token=token))


@clause("FENCE-1", "LOG-1")
async def the_fence_comes_before_the_log(h: StoreHarness) -> None:
    """A late writer with a wrong index learns that it lost the lease, not where the log is."""
    driver = await start(h)
    await driver.append("1")
    await _stolen(h, driver)
    for verb in ("append_events", "mark_run_paused", "mark_run_finished", "mark_run_errored"):
        with refused(LeaseLostError, f"a late {verb}"):
            await driver.call(verb, expected_next_index=0)


@clause("FENCE-1", "LOG-1")
async def the_thief_is_not_disturbed(h: StoreHarness) -> None:
    """After a late writer was refused, the new holder goes on as if nothing had been."""
    old = await start(h)
    await old.append("1")
    new = await claim(h, old.run_id, store=h.second, now_ms=h.advance(LEASE_MS))
    for verb in DRIVER_VERBS:
        with refused(LeaseLostError, f"a late {verb}"):
            await old.call(verb)
    await new.append("2")
    await new.finish('"by the thief"')
    assert (await record(h, old.run_id)).output == '"by the thief"'


@clause("FENCE-2", each=DRIVER_VERBS)
async def expired_holder_may_still_write(h: StoreHarness, verb: str) -> None:
    """A holder whose lease has expired, but whom nobody replaced, may still write."""
    driver = await start(h, lease_ms=1_000)
    h.advance(60_000)
    await driver.call(verb)
    status = (await record(h, driver.run_id)).status
    ended = {
        "release_run_lease": "queued",
        "mark_run_paused": "paused",
        "mark_run_finished": "finished",
        "mark_run_errored": "errored",
    }
    assert status == ended.get(verb, "running")


@clause("FENCE-2", "LEASE-1")
async def expired_holder_may_renew(h: StoreHarness) -> None:
    """A renewal after the lease ran out keeps others from claiming the run."""
    driver = await start(h, lease_ms=1_000)
    h.advance(5_000)
    assert (await driver.heartbeat()).lease_expires_at_ms == h.now_ms + LEASE_MS
    assert (await claim_many(h, "claim_stale_runs", store=h.second)).claims == ()


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
        tokens += [created.claim.lease.token, *await _claim_every_way(h, Driver.of(h, created.claim))]
        if prune:
            assert await h.store.prune_runs(finished_before_ms=h.now_ms + 1, limit=1) == 1
        else:
            await h.store.delete_run(run_id=run_id, now_ms=h.now_ms)
    assert len(set(tokens)) == len(tokens) == 18, f"a token was given twice: {tokens}"


async def _claim_every_way(h: StoreHarness, driver: Driver) -> list[str]:
    """Claim the run by each verb, then let it end."""
    tokens = []
    for verb in ("claim_pending_runs", "claim_run", "claim_stale_runs", "claim_due_timers", "claim_pending_runs"):
        if verb == "claim_due_timers":
            await driver.pause(timers={"t": h.now_ms})
        elif verb == "claim_stale_runs":
            h.advance(LEASE_MS)
        else:
            await driver.release()
        if verb == "claim_run":
            driver = await claim(h, driver.run_id, owner="w")
        else:
            driver = Driver.of(h, (await claim_many(h, verb, owner="w")).claims[0])
        tokens.append(driver.token)
    await driver.finish()
    return tokens


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


@clause("FENCE-3", "CLAIM-2")
async def lease_numbers_count_the_claims(h: StoreHarness) -> None:
    """A run's first lease is number 1, the next is 2, whoever claims."""
    driver = await start(h)
    numbers = [driver.claim.lease.number]
    for _ in range(3):
        await driver.release()
        driver = await claim(h, driver.run_id)
        numbers.append(driver.claim.lease.number)
    assert numbers == [1, 2, 3, 4]


@clause("FENCE-1", "SIGNAL-1")
async def outside_calls_need_no_token(h: StoreHarness) -> None:
    """Deliveries and requests work whoever holds the lease, and take it from nobody."""
    driver = await start(h)
    await h.second.deliver_signal(
        run_id=driver.run_id, signal_id="s", name="go", payload=JsonText("1"), now_ms=h.now_ms
    )
    await h.second.deliver_approval(run_id=driver.run_id, approval_id="a", approved=True, now_ms=h.now_ms)
    await h.second.cancel_run(run_id=driver.run_id, now_ms=h.now_ms)
    assert (await driver.append("1")).inbox_seq == 3
