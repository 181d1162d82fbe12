"""Meters: blocks in blocks, tasks, limits that hold before anything is sent, and what is kept back."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any, cast

import pytest
from workflow_runtime import InvalidArgumentError, QueryLimitReachedError, meter_queries
from workflow_runtime.metering import note_rows, queries_left, spend_queries
from workflow_runtime.metering.drive_budget import DriveBudget, DriveProgress, LimitedDriveBudget
from workflow_runtime.metering.sweep_plan import SweepPlan
from workflow_runtime.store import QueryCosts, WorkflowExecutionStore

COSTS = QueryCosts(read=1, claim=6, tick=6, write=5, release=2, events_per_query=1, call=7)


def test_without_a_block_nothing_counts_and_nothing_is_refused() -> None:
    spend_queries(1_000)
    note_rows(rows_read=1, rows_written=1)


def test_blocks_in_blocks_all_count() -> None:
    with meter_queries() as outer:
        spend_queries(3)
        with meter_queries() as inner:
            spend_queries(2)
            note_rows(rows_read=7, rows_written=5)
        spend_queries()
    assert (outer.queries, outer.requests, outer.rows_read, outer.rows_written) == (6, 3, 7, 5)
    assert (inner.queries, inner.requests, inner.rows_read, inner.rows_written) == (2, 1, 7, 5)
    spend_queries()
    assert outer.queries == 6


async def test_tasks_count_where_they_were_started() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        spend_queries(2)

    with meter_queries() as first:
        started = asyncio.create_task(work())
    with meter_queries() as second:
        await asyncio.gather(work(), work())
    await started
    assert (first.queries, second.queries) == (2, 4)


def test_limit_is_reached_exactly_and_never_passed() -> None:
    with meter_queries(5) as meter:
        spend_queries(5)
        with pytest.raises(QueryLimitReachedError, match="1 more queries are too many: of 5 allowed, 5 are used"):
            spend_queries()
    assert (meter.queries, meter.remaining, meter.limit_reached) == (5, 0, True)


def test_what_is_too_much_counts_nowhere_and_less_may_still_be_sent() -> None:
    with meter_queries() as outer, meter_queries(4), meter_queries() as inner:
        spend_queries(2)
        with pytest.raises(QueryLimitReachedError):
            spend_queries(3)
        spend_queries(2)
    assert (outer.queries, inner.queries) == (4, 4)
    assert (outer.limit_reached, inner.limit_reached) == (False, True)


def test_tightest_limit_holds() -> None:
    with meter_queries(10) as outer, meter_queries(100) as inner:
        spend_queries(4)
        assert (outer.remaining, inner.remaining) == (6, 6)
        with pytest.raises(QueryLimitReachedError, match="of 10 allowed"):
            spend_queries(7)
    with meter_queries() as unlimited:
        assert unlimited.remaining is None
    with pytest.raises(InvalidArgumentError, match="max_queries"), meter_queries(-1):
        pass


async def test_what_is_kept_back_is_for_the_task_that_may_use_all() -> None:
    async def refused() -> None:
        with pytest.raises(QueryLimitReachedError):
            spend_queries(5)

    with meter_queries(10) as meter:
        other = asyncio.create_task(refused())
        meter.keep_back(6)
        with meter.use_all():
            await other
            spend_queries(5)
        with pytest.raises(QueryLimitReachedError):
            spend_queries()
        meter.keep_back(4)
        spend_queries()
    assert meter.queries == 6


def test_what_a_meter_around_keeps_back_is_not_left() -> None:
    with meter_queries(10) as outer:
        outer.keep_back(4)
        assert (outer.remaining, queries_left()) == (10, 6)
        with meter_queries() as inner:
            spend_queries(2)
            assert (outer.remaining, inner.remaining, queries_left()) == (8, 4, 4)
        outer.keep_back(20)
        with meter_queries(3) as inner:
            assert inner.remaining == 0
    assert queries_left() is None


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(QueryLimitReachedError(50, 48, 6)))
    assert (error.max_queries, error.queries, error.wanted, error.retryable) == (50, 48, 6, False)


@pytest.mark.parametrize(("events", "queries"), [(0, 5), (1, 6), (15, 6), (16, 7), (50, 9)])
def test_events_share_queries(events: int, queries: int) -> None:
    assert (
        QueryCosts(read=1, claim=6, tick=6, write=5, release=2, events_per_query=15, call=7).write_of(events) == queries
    )


class SpendingStore:
    """Two verbs that send what they are told to."""

    async def append_events(self, *, queries: int) -> str:
        spend_queries(queries)
        return "appended"

    release_run_lease = read_events = append_events


async def test_budget_always_leaves_enough_to_record_its_steps_and_to_hand_over() -> None:
    progress = DriveProgress()
    budget = LimitedDriveBudget(COSTS, 40, max_events=4)
    store: Any = budget.wrap(cast("WorkflowExecutionStore", SpendingStore()))
    with budget.opened(lambda: progress):
        assert budget.startable_steps() == (40 - 2) // 6
        progress = DriveProgress(unrecorded_steps=3)
        with pytest.raises(QueryLimitReachedError) as refused:
            spend_queries(40 - 3 * 6 - 2 + 1)
        spend_queries(40 - 3 * 6 - 2)
        budget.measure()
        assert budget.low
        assert budget.startable_steps() == 0
        with pytest.raises(QueryLimitReachedError):
            await store.read_events(queries=1)
        for _ in range(3):
            assert await store.append_events(queries=6) == "appended"
        await store.release_run_lease(queries=2)
    assert budget.refused(refused.value)
    assert budget.refusal is refused.value


async def test_budget_keeps_the_next_write_back_too() -> None:
    progress = DriveProgress(unrecorded_steps=1, draft_events=2)
    budget = LimitedDriveBudget(COSTS, 40, max_events=4)
    with budget.opened(lambda: progress):
        with pytest.raises(QueryLimitReachedError):
            spend_queries(40 - 6 - 2 - 7 + 1)
        spend_queries(40 - 6 - 2 - 7)
        assert budget.covers_end()
        budget.measure()
        assert budget.low, "a full write has four events"


@pytest.mark.parametrize(("next_index", "told"), [(5, True), (6, False)])
async def test_drive_that_wrote_nothing_for_want_of_queries_is_told_of(next_index: int, told: bool) -> None:
    progress = DriveProgress(next_index=5)
    budget = LimitedDriveBudget(COSTS, 12, max_events=4)
    store: Any = budget.wrap(cast("WorkflowExecutionStore", SpendingStore()))
    with budget.opened(lambda: progress):
        spend_queries(5)
        budget.measure()
        progress = DriveProgress(next_index=next_index)
        await store.release_run_lease(queries=2)
    assert (budget.refusal is not None) is told
    assert not told or str(budget.refusal) == "9 more queries are too many: of 12 allowed, 5 are used"


async def test_refusal_by_a_meter_of_the_steps_own_is_no_refusal_of_the_drive() -> None:
    budget = LimitedDriveBudget(COSTS, 40, max_events=4)
    with budget.opened(DriveProgress), pytest.raises(QueryLimitReachedError) as refused, meter_queries(1):
        spend_queries(2)
    assert not budget.refused(refused.value)
    assert budget.refusal is None


def test_drive_without_a_limit_does_as_it_likes() -> None:
    budget = DriveBudget()
    store = cast("WorkflowExecutionStore", SpendingStore())
    assert budget.wrap(store) is store
    with budget.opened(lambda: DriveProgress(unrecorded_steps=1_000, draft_events=50)):
        spend_queries(10_000)
        budget.measure()
        assert not budget.low
        assert budget.covers_end()
        assert budget.startable_steps() is None
    assert not budget.refused(QueryLimitReachedError(1, 1, 1))


@pytest.mark.parametrize("max_queries", [28, 50, 100, 1_000, 100_000])
def test_plan_never_gives_more_than_there_is(max_queries: int) -> None:
    """Whatever was learned, a claim and the least of each drive fit into what is left."""
    for spent in range(0, max_queries, max(1, max_queries // 50)):
        with meter_queries(max_queries) as meter:
            plan = SweepPlan(meter, COSTS)
            spend_queries(spent)
            for learned in (0, 1, 50):
                if runs := plan.runs(10):
                    spend_queries(COSTS.claim)
                    budget = plan.budget(runs)
                    with budget.opened(DriveProgress):
                        budget.measure()
                        assert not budget.low
                    meter.queries -= COSTS.claim
                ticks = plan.ticks(100)
                assert COSTS.claim * (ticks > 0) + ticks * 2 * COSTS.tick <= max_queries - spent
                plan.learn(1, learned, refused=False)
