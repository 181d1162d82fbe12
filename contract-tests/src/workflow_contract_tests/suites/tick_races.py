"""SCHEDULE: workers race for the ticks of one schedule, and none is lost, doubled, or overlaps."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any

from workflow_runtime.errors import LeaseLostError
from workflow_runtime.store import (
    TERMINAL_STATUSES,
    BucketAction,
    BucketBehind,
    BucketOverlapping,
    BucketResult,
    BucketStarted,
    ClaimedBucket,
    RunStatus,
    WorkflowExecutionStore,
)

from ..cases import clause
from ..harness import StoreHarness
from ..samples import LEASE_MS, MANY
from ..settings import RACE_CLAIMERS, SEED, scaled
from ..tasks import all_of
from ..ticking import claim_ticks, get_schedule, request, settle_arguments, upsert

_LIVE = [status for status in RunStatus if status not in TERMINAL_STATUSES]
_POLICIES = ("skip", "allow", "buffer-one", "cancel-previous", "terminate-previous")


class _Rivals:
    """Workers that settle the ticks of one schedule by its policy, with the answers that they got."""

    def __init__(self, h: StoreHarness, policy: str, due: range) -> None:
        self.h = h
        self.policy = policy
        self.due = due
        self.left = 0
        self.told: dict[int, list[BucketResult]] = defaultdict(list)
        self.moments: dict[str, int] = {}
        """The moments of the runs that a worker tried to start, by the ids of the runs."""
        self.ended: list[int] = []
        """The moments of the runs that were ended here. When no two are live together, they started in this order."""

    async def work(self, store: WorkflowExecutionStore, chosen: random.Random) -> None:
        """Claim and settle ticks until none is left. Sometimes be late, sometimes repeat a call."""
        idle = 0
        while idle < 20:
            lease_ms = chosen.choice([1, LEASE_MS, LEASE_MS])
            claims = await claim_ticks(self.h, store=store, lease_ms=lease_ms, limit=chosen.randint(1, 3))
            idle = 0 if claims.buckets else idle + 1
            await asyncio.sleep(chosen.random() * 0.004 if lease_ms == 1 or idle else 0)
            for tick in claims.buckets:
                await self.settle_tick(store, tick, chosen)
        self.left += 1

    async def settle_tick(self, store: WorkflowExecutionStore, tick: ClaimedBucket, chosen: random.Random) -> None:
        """Settle a claimed tick by the policy."""
        previous = tick.overlapping_run_id
        if previous is not None and self.policy in {"cancel-previous", "terminate-previous"}:
            await store.terminate_run(run_id=previous, now_ms=self.h.now_ms)
        # Sometimes try it although the claim named a live run: the store must refuse.
        tries = previous is None or self.policy == "allow" or chosen.random() < 0.5
        answer = await self._mark(store, tick, "start", chosen) if tries else None
        if answer is None or isinstance(answer, BucketOverlapping | BucketBehind):
            answer = await self._mark(store, tick, "skip" if self.policy == "skip" else "buffer", chosen)
        if not isinstance(answer, LeaseLostError):
            self.told[tick.fire_at_ms].append(answer)

    async def _mark(
        self, store: WorkflowExecutionStore, tick: ClaimedBucket, action: BucketAction, chosen: random.Random
    ) -> Any:
        moment = tick.fire_at_ms
        run_id = self.h.new_id(f"tick-{moment}") if action == "start" else None
        self.moments |= {} if run_id is None else {run_id: moment}
        arguments = settle_arguments(
            self.h,
            tick,
            action,
            run_id,
            next_fire_at_ms=moment + 1 if moment + 1 in self.due else None,
        )
        twins = chosen.choice([1, 1, 2])
        answers = await all_of(*(_answer(store, arguments) for _ in range(twins)))
        # The previous run may end between the twins. Then one is refused, and the other settles the tick.
        refusals = LeaseLostError | BucketOverlapping | BucketBehind
        settled = [answer for answer in answers if not isinstance(answer, refusals)]
        return settled[0] if settled else answers[0]

    async def end_runs(self, chosen: random.Random) -> None:
        """End live runs, one at a time. No one else ends any, so two runs that are live together are noticed."""
        while self.left < RACE_CLAIMERS:
            await self.look(self.h.store)
            if self.policy in {"skip", "buffer-one"}:
                await self.end_one()
            self.h.advance(1)
            await asyncio.sleep(chosen.random() * 0.004)

    async def look(self, store: WorkflowExecutionStore) -> list[str]:
        """Return the live runs. Assert that they do not overlap, unless the policy is `allow`."""
        live = [run.run_id for run in (await store.list_runs(limit=MANY, statuses=_LIVE)).runs]
        assert self.policy == "allow" or len(live) <= 1, f"live together: {live}"
        return live

    async def end_one(self) -> bool:
        """End the live run. Return False if there is none."""
        live = await self.look(self.h.store)
        for run_id in live[:1]:
            await self.h.store.terminate_run(run_id=run_id, now_ms=self.h.now_ms)
            self.ended.append(self.moments[run_id])
        return bool(live)


async def _answer(store: WorkflowExecutionStore, arguments: dict[str, Any]) -> Any:
    try:
        return await store.mark_schedule_bucket_started(**arguments)
    except LeaseLostError as error:
        return error


@clause("SCHEDULE-14", "SCHEDULE-13", "SCHEDULE-9", "SCHEDULE-17", each=_POLICIES)
async def rivals_settle_each_tick_once(h: StoreHarness, policy: str) -> None:
    """Rivals start each tick at most once, in their order, no run beside a live one, and leave no tick behind."""
    due = range(h.now_ms - scaled(25), h.now_ms)
    asked = [due[0] - 1 - number for number in range(scaled(10))] + [h.now_ms + 10**6]
    await upsert(h, overlap_policy=policy, next_fire_at_ms=due[0])
    await request(h, *asked)
    rivals = _Rivals(h, policy, due)
    handles = await h.handles(RACE_CLAIMERS)
    await all_of(
        rivals.end_runs(random.Random(SEED)),
        *(rivals.work(handle, random.Random(SEED + number)) for number, handle in enumerate(handles)),
    )
    await _finish(rivals, random.Random(SEED))
    starts = [run.run_id for run in (await h.store.list_runs(limit=MANY)).runs]
    told = [answer.run_id for answers in rivals.told.values() for answer in answers if answer.kind == "started"]
    assert sorted(starts) == sorted(told), "a run was started that nobody was told of, or the other way round"
    assert rivals.ended == sorted(rivals.ended), "a tick overtook an earlier one"
    _check_ticks(rivals, sorted([*due, *asked]))
    schedule = await get_schedule(h)
    assert (schedule.last_fire_at_ms, schedule.next_fire_at_ms) == (due[-1], None)
    assert schedule.buffered_fire_at_ms is None


async def _finish(rivals: _Rivals, chosen: random.Random) -> None:
    """Settle the ticks that still wait for the end of a run, and those whose claimer was late."""
    handle = rivals.h.store
    for _ in range(20):
        rivals.h.advance(LEASE_MS)
        await rivals.end_one()
        rivals.left = 0
        for tick in (await claim_ticks(rivals.h, store=handle)).buckets:
            await rivals.settle_tick(handle, tick, chosen)
    assert (await claim_ticks(rivals.h, store=handle)).buckets == (), "ticks are left"


def _check_ticks(rivals: _Rivals, moments: list[int]) -> None:
    assert sorted(rivals.told) == moments, "a tick was settled that was not there, or one never was"
    kinds = {moment: [answer.kind for answer in rivals.told[moment]] for moment in moments}
    for moment, told in kinds.items():
        final = [kind for kind in told if kind != "buffered"]
        assert len(final) <= 1, f"the tick {moment} was settled twice: {told}"
        # With these policies a buffered tick may give way to a later one.
        assert final or rivals.policy in {"cancel-previous", "terminate-previous"}, f"the tick {moment} is lost: {told}"
    if rivals.policy == "allow":
        assert set(map(tuple, kinds.values())) == {("started",)}


@clause("SCHEDULE-9", "SCHEDULE-13", "SCHEDULE-16")
async def ticks_are_claimed_and_marked_once(h: StoreHarness) -> None:
    """Many claimers at once get every due tick exactly once, and twins of one mark start one run."""
    handles = await h.handles(RACE_CLAIMERS)
    names = [f"s{number:03}" for number in range(scaled(45))]
    for name in names:
        await upsert(h, name)
    batches = await all_of(*(claim_ticks(h, store=handle) for handle in handles))
    ticks = [tick for batch in batches for tick in batch.buckets]
    assert sorted(tick.schedule.schedule_id for tick in ticks) == names
    marked = ticks[:10]
    for tick in marked:
        mark = settle_arguments(h, tick, "start", h.new_id("tick"), next_fire_at_ms=None)
        answers = await all_of(*(_answer(handle, mark) for handle in handles[:3]))
        assert all(isinstance(answer, BucketStarted) for answer in answers), answers
    assert len((await h.store.list_runs(limit=MANY)).runs) == len(marked)


@clause("SCHEDULE-9", "SCHEDULE-16", "FENCE-2")
async def late_settlements_and_claims_at_once(h: StoreHarness) -> None:
    """Of ticks whose claims have expired each is settled by its late claimer, or claimed by another, and never both."""
    handles = await h.handles(8)
    for number in range(scaled(8)):
        names = [f"s-{number}-{place:02}" for place in range(40)]
        for name in names:
            await upsert(h, name)
        ticks = (await claim_ticks(h, lease_ms=1)).buckets
        h.advance(1)
        marks = [
            _answer(handles[place % 8], settle_arguments(h, tick, "skip", next_fire_at_ms=None))
            for place, tick in enumerate(ticks)
        ]
        claims = [claim_ticks(h, store=h.store), claim_ticks(h, store=h.second)]
        answers: list[Any] = await all_of(*marks[:15], claims[0], *marks[15:30], claims[1], *marks[30:])
        claimed = [tick.schedule.schedule_id for batch in (answers.pop(31), answers.pop(15)) for tick in batch.buckets]
        settled = [
            tick.schedule.schedule_id
            for tick, answer in zip(ticks, answers, strict=True)
            if not isinstance(answer, LeaseLostError)
        ]
        assert sorted([*claimed, *settled]) == names, "a tick was settled and claimed, or neither"
        for name in names:
            await h.store.delete_schedule(schedule_id=name)


@clause("SCHEDULE-8", "SCHEDULE-16")
async def requests_during_settlements_are_kept(h: StoreHarness) -> None:
    """A tick requested while another is settled is never lost, and each is counted as new once."""
    await upsert(h, overlap_policy="allow", next_fire_at_ms=None)
    handles = await h.handles(RACE_CLAIMERS)
    count = scaled(40)
    counts: list[int] = []
    settled: list[int] = []

    async def ask(store: WorkflowExecutionStore) -> None:
        for moment in range(count):
            answer = await store.request_schedule_buckets(
                schedule_id="nightly", fire_times_ms=[moment, moment + 1], now_ms=h.now_ms
            )
            counts.append(answer.count)  # type: ignore[union-attr]  # the schedule is there

    async def serve(store: WorkflowExecutionStore) -> None:
        idle = 0
        while idle < 20:
            ticks = (await claim_ticks(h, store=store)).buckets
            idle = 0 if ticks else idle + 1
            await asyncio.sleep(0.001 if idle else 0)
            for tick in ticks:
                await store.mark_schedule_bucket_started(**settle_arguments(h, tick, "skip"))
                settled.append(tick.fire_at_ms)

    await all_of(*(ask(handle) for handle in handles[:3]), *(serve(handle) for handle in handles[3:]))
    await serve(h.store)
    assert len(settled) == sum(counts), f"{sum(counts)} ticks were requested, {len(settled)} were claimed"
    assert set(settled) == set(range(count + 1))
