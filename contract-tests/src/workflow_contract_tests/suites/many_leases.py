"""LEASE: many leases are renewed by one call, each as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError
from workflow_runtime.store import (
    MAX_HEARTBEAT_LEASES,
    STATES,
    LeaseBusy,
    LeaseLost,
    LeaseRenewal,
    LeaseResult,
    Timer,
    WorkflowExecutionStore,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS
from ..scenarios import claim, claim_stale, observe, record, start, unchanged
from ..settings import scaled
from ..tasks import all_of
from .status_table import in_state


async def _renew(
    h: StoreHarness, *holders: LeaseHolder, store: WorkflowExecutionStore | None = None, **overrides: Any
) -> tuple[LeaseResult, ...]:
    arguments: dict[str, Any] = {"lease_ms": LEASE_MS, "now_ms": h.now_ms} | overrides
    leases = [(holder.run_id, holder.token) for holder in holders]
    return await (store or h.store).heartbeat_run_leases(leases=leases, **arguments)


def _kinds(answers: Sequence[LeaseResult]) -> list[str]:
    return [answer.kind for answer in answers]


async def _renew_alone(h: StoreHarness, holder: LeaseHolder) -> LeaseResult:
    try:
        return await holder.heartbeat()
    except LeaseLostError:
        return LeaseLost()


def _without_clock(answer: LeaseResult) -> LeaseResult:
    return replace(answer, store_clock_ms=0) if isinstance(answer, LeaseRenewal) else answer


@clause("LEASE-4", "LEASE-1", "LEASE-2")
async def leases_are_renewed_as_one_by_one(h: StoreHarness) -> None:
    """Two equal runs in each status: one is renewed alone, the other among all; both then look the same."""
    alone = {state: await in_state(h, state, f"alone-{state}") for state in STATES}
    among = {state: await in_state(h, state, f"among-{state}") for state in STATES}
    for holders in (alone, among):
        await h.second.cancel_run(run_id=holders["running-live"].run_id, now_ms=h.now_ms)
    h.advance(10)
    one_by_one = [await _renew_alone(h, holder) for holder in alone.values()]
    answers = await _renew(h, *among.values())
    assert isinstance(answers, tuple)
    assert [*map(_without_clock, answers)] == [*map(_without_clock, one_by_one)]
    for state in STATES:
        looks = [str(await observe(h, run.run_id)).replace(run.run_id, "RUN") for run in (among[state], alone[state])]
        assert looks[0] == looks[1], f"a renewal among others of a run that was {state}"


@clause("LEASE-4", "LEASE-2")
async def renewals_among_many_tell_the_clock(h: StoreHarness) -> None:
    """Each of them has the store's own time."""
    holders = [await start(h) for _ in range(3)]
    before = await h.store.read_clock()
    answers = await _renew(h, *holders)
    after = await h.store.read_clock()
    clocks = [answer.store_clock_ms for answer in answers if isinstance(answer, LeaseRenewal)]
    assert len(clocks) == len(holders)
    assert all(before <= clock <= after for clock in clocks), "the answer's clock is not the store's clock"


@clause("LEASE-4")
async def answers_are_in_the_order_of_the_leases(h: StoreHarness) -> None:
    """Whatever the order of the ids: also of a run that is named with an old and with a new token, and of one twice."""
    first, second, third = [await start(h, run_id, lease_ms=1_000) for run_id in ("b", "c", "a")]
    await second.signal()
    third_anew = await claim(h, third.run_id, store=h.second, now_ms=h.advance(1_000))
    nobody = replace(first, run_id="nobody")
    swapped = replace(first, token=second.token)
    answers = await _renew(h, nobody, third, second, swapped, first, third_anew, second)
    assert _kinds(answers) == ["lost", "lost", "renewed", "lost", "renewed", "renewed", "renewed"]
    inboxes = [answer.inbox_seq for answer in answers if isinstance(answer, LeaseRenewal)]
    assert inboxes == [1, 0, 0, 1]
    ends = {answer.lease_expires_at_ms for answer in answers if isinstance(answer, LeaseRenewal)}
    assert ends == {h.now_ms + LEASE_MS}
    assert _kinds(await _renew(h, third_anew, first, nobody, second)) == ["renewed", "renewed", "lost", "renewed"]


@clause("LEASE-4", "FENCE-1")
async def lost_lease_among_many_is_renewed_for_nobody(h: StoreHarness) -> None:
    """The renewal of a replaced holder leaves the new one's lease as it is, also beside a lease of the same token."""
    old, other = await start(h, lease_ms=1_000), await start(h, lease_ms=9_000)
    new = await claim(h, old.run_id, store=h.second, now_ms=h.advance(1_000), lease_ms=1_000)
    swapped = replace(other, token=new.token)
    async with unchanged(h, old.run_id, other.run_id, after="a lost heartbeat among many"):
        assert _kinds(await _renew(h, old, swapped)) == ["lost", "lost"]
    assert _kinds(await _renew(h, old, new, swapped)) == ["lost", "renewed", "lost"]
    assert (await record(h, other.run_id)).lease_expires_at_ms == h.now_ms + 8_000


@clause("LEASE-4")
async def without_leases_nothing_happens(h: StoreHarness) -> None:
    """No lease, no answer; and a renewal of one run touches no other."""
    bystander, holder = await start(h), await start(h)
    async with unchanged(h, bystander.run_id, after="heartbeat_run_leases"):
        assert await _renew(h) == ()
        assert _kinds(await _renew(h, holder, now_ms=h.now_ms + 5)) == ["renewed"]


@clause("LEASE-4", "LEASE-1")
async def no_renewal_among_many_shortens(h: StoreHarness) -> None:
    """Of leases that end at different times each one keeps its end, or gets the later one."""
    short, long = await start(h, lease_ms=1_000), await start(h, lease_ms=9_000)
    end_ms = h.now_ms + 5_000
    answers = await _renew(h, long, short, lease_ms=5_000)
    ends = [answer.lease_expires_at_ms for answer in answers if isinstance(answer, LeaseRenewal)]
    assert ends == [h.now_ms + 9_000, end_ms]
    assert [(await record(h, holder.run_id)).lease_expires_at_ms for holder in (long, short)] == ends
    late = await _renew(h, short, long, now_ms=h.now_ms - 60_000)
    assert [answer.lease_expires_at_ms for answer in late if isinstance(answer, LeaseRenewal)] == ends[::-1]


@clause("LEASE-4", "LEASE-2")
async def renewal_among_many_changes_nothing_else(h: StoreHarness) -> None:
    """It moves the ends of the leases and leaves everything else as it was, `updated_at_ms` too."""
    holders = [await start(h, lease_ms=1_000) for _ in range(3)]
    for holder in holders:
        await holder.append("1", set_timers=[Timer(timer_id="t", fire_at_ms=h.now_ms + 7)], lease_ms=1_000)
        await holder.signal()
    before = [await h.second.load_execution(run_id=holder.run_id) for holder in holders]
    await _renew(h, *holders, now_ms=h.advance(500))
    for holder, execution in zip(holders, before, strict=True):
        assert execution is not None
        run = replace(execution.run, lease_expires_at_ms=h.now_ms + LEASE_MS)
        assert await h.second.load_execution(run_id=holder.run_id) == replace(execution, run=run)


@clause("LEASE-4", "DEAD-2")
async def renewal_among_many_is_a_sign_of_life(h: StoreHarness) -> None:
    """A crash after one counts, like one after a heartbeat alone."""
    holders = [await start(h, lease_ms=1_000) for _ in range(2)]
    assert _kinds(await _renew(h, *holders, lease_ms=1_000)) == ["renewed"] * 2
    batch = await claim_stale(h, now_ms=h.advance(1_000), max_crashes=1)
    assert sorted(batch.dead) == sorted(holder.run_id for holder in holders)


@clause("LEASE-5", "LEASE-4")
async def run_that_is_written_to_is_renewed_or_busy(h: StoreHarness) -> None:
    """Renewals from two handles beside the drivers' writes: no lease is lost, and what is busy is renewed soon."""
    holders = [await start(h, lease_ms=1_000) for _ in range(scaled(8))]
    beats = scaled(10)

    async def write() -> None:
        for _ in range(beats):
            await all_of(*(holder.append("1", lease_ms=1_000) for holder in holders))

    async def beat(store: WorkflowExecutionStore, order: Sequence[LeaseHolder]) -> None:
        for number in range(beats):
            answers = await _renew(h, *order, store=store, now_ms=h.now_ms + number)
            for holder, answer in zip(order, answers, strict=True):
                assert not isinstance(answer, LeaseLost), f"{holder.run_id} was lost, though nobody claimed it"

    await all_of(write(), beat(h.store, holders), beat(h.second, holders[::-1]))
    now_ms = h.advance(100_000)
    answers = await _renew(h, *holders)
    assert _kinds(answers) == ["renewed"] * len(holders), "busy, though nobody writes"
    assert {(await record(h, holder.run_id)).lease_expires_at_ms for holder in holders} == {now_ms + LEASE_MS}


@clause("LEASE-5")
async def nobody_is_busy_by_himself(h: StoreHarness) -> None:
    """One call after the other, also after what was refused, finds every run free."""
    live, lost = await start(h), await start(h, lease_ms=1)
    await claim(h, lost.run_id, store=h.second, now_ms=h.advance(1))
    for _ in range(5):
        await live.signal()
        await live.append("1")
        assert _kinds(await _renew(h, live, lost, store=h.second)) == ["renewed", "lost"]
        assert not any(isinstance(answer, LeaseBusy) for answer in await _renew(h, lost, live, live))


@clause("LEASE-6")
async def too_many_leases_and_bad_ones_are_refused(h: StoreHarness) -> None:
    """A bad lease behind a good one is refused before that is renewed; the most that are allowed fit, however long."""
    holder = await start(h, lease_ms=1_000)
    good = (holder.run_id, holder.token)
    bad: list[Any] = [
        [good, ("", "token")],
        [good, ("run", "")],
        [good, ("a" * 513, "token")],
        [good, ("run", "nul\0")],
        [good, ("run",)],
        [good, ("run", "token", "more")],
        [good, "ab"],
        [good] * (MAX_HEARTBEAT_LEASES + 1),
    ]
    async with unchanged(h, holder.run_id, after="a refused heartbeat_run_leases"):
        for leases in bad:
            with refused(InvalidArgumentError, f"{leases!r}"[:120]) as refusal:
                await h.store.heartbeat_run_leases(leases=leases, lease_ms=LEASE_MS, now_ms=h.now_ms)
            assert refusal.error.argument == "leases"
    others = [(f"{number:03}" + "\x01" * 509, "\x02" * 512) for number in range(MAX_HEARTBEAT_LEASES - 1)]
    answers = await h.store.heartbeat_run_leases(leases=[*others, good], lease_ms=LEASE_MS, now_ms=h.now_ms)
    assert _kinds(answers) == ["lost"] * len(others) + ["renewed"]
