"""Schedules on the stores that outlive a process: several workers at once, each policy, each request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from workflow_runtime import (
    ConfigurationError,
    Context,
    Cron,
    Every,
    QueryLimitReachedError,
    RunStatus,
    Schedule,
    TestClock,
    WorkflowRuntime,
    meter_queries,
    workflow,
)
from workflow_runtime.store import OverlapPolicy, RunSummary, WorkflowExecutionStore
from workflow_runtime.testing import run_until_blocked
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore

START = datetime(2030, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WorkflowExecutionStore]:
    if request.param == "sqlite":
        async with SQLiteWorkflowStore.open(tmp_path / "app.db") as opened:
            await opened.ensure_schema()
            yield opened
        return
    async with (
        request.getfixturevalue("databases").database() as dsn,
        PostgresWorkflowStore.connect(dsn) as connected,
    ):
        yield connected


@workflow()
async def works(ctx: Context, minutes: float) -> None:
    await ctx.sleep(timedelta(minutes=minutes))


def runtime_on(store: WorkflowExecutionStore, clock: TestClock, *schedules: Schedule) -> WorkflowRuntime:
    return WorkflowRuntime(store=store, workflows=[works], clock=clock, schedules=schedules)


async def all_runs(store: WorkflowExecutionStore) -> list[RunSummary]:
    page = await store.list_runs(limit=1_000)
    assert page.next_cursor is None
    return list(page.runs)


@pytest.mark.parametrize("policy", get_args(OverlapPolicy))
async def test_overlap_with_several_workers(store: WorkflowExecutionStore, policy: OverlapPolicy) -> None:
    """Four workers, a tick a minute, runs of two and a half minutes: the times of the runs tell whether two met."""
    clock = TestClock(START + MINUTE / 2)
    declared = Schedule(id="s", workflow=works, when=Every(MINUTE), input=2.4, overlap=policy)
    workers = [runtime_on(store, clock, declared) for _ in range(4)]
    changes = await asyncio.gather(*(worker.materialize_schedules() for worker in workers))
    assert sum((Counter(change.values()) for change in changes), Counter()) == {"created": 1}
    ticks: Counter[str] = Counter()
    for _ in range(60):
        clock.advance(MINUTE / 5)
        for report in await asyncio.gather(*(worker.sweep() for worker in workers)):
            ticks += report.ticks
    runs = await all_runs(store)
    assert len({run.run_id for run in runs}) == len(runs) == ticks["started"]
    assert ticks["started"] + ticks["skipped"] + ticks["missed"] <= 12 + ticks["buffered"]
    assert not ticks["failed"]
    lives = sorted((run.created_at_ms, run.finished_at_ms or 2**53) for run in runs)
    meetings = sum(before[1] > after[0] for before, after in itertools.pairwise(lives))
    expected = {"skip": 4, "buffer-one": 5, "allow": 12, "cancel-previous": 12, "terminate-previous": 12}
    assert (meetings > 0) == (policy == "allow")
    assert abs(len(runs) - expected[policy]) <= 1


async def test_missed_requested_and_paused_ticks(store: WorkflowExecutionStore) -> None:
    """The whole life of a schedule, through the runtime."""
    clock = TestClock(START + timedelta(hours=3, minutes=30))
    declared = Schedule(
        id="s", workflow=works, when=Cron("0 * * * *", "Europe/Warsaw"), input=0, missed="all", missed_limit=2
    )
    runtime = runtime_on(store, clock, declared)
    assert await runtime.materialize_schedules() == {"s": "created"}
    assert await runtime.materialize_schedules() == {}
    clock.advance(timedelta(hours=5))
    report = await runtime.sweep()
    assert (report.ticks, report.outcomes["finished"]) == ({"missed": 1, "started": 2}, 2)

    await runtime.schedules.pause("s")
    clock.advance(timedelta(hours=5))
    assert await run_until_blocked(runtime) is None
    handle = await runtime.schedules.trigger("s")
    assert (await runtime.schedules.backfill("s", START, START + timedelta(hours=3))).requested == 3
    await run_until_blocked(runtime)
    assert await handle.status() == RunStatus.FINISHED
    record = await runtime.schedules.resume("s")
    assert record.next_fire_at == START + timedelta(hours=14)
    assert record.definition() == Schedule(
        **{name: getattr(declared, name) for name in declared.__slots__} | {"workflow": "works"}
    )
    assert len(await all_runs(store)) == 6
    assert [listed.id async for listed in runtime.schedules.list()] == ["s"]
    assert (await runtime.schedules.delete("s")).kind == "deleted"
    clock.advance(timedelta(hours=5))
    assert await run_until_blocked(runtime) is None


async def test_many_schedules_leave_a_host_of_few_queries_enough_to_sweep(tmp_path: Path) -> None:
    """A host that declares its schedules in each call pays one query for each; a deployment may take several calls."""
    clock = TestClock(START)
    declared = [Schedule(id=f"s{number}", workflow=works, when=Every(MINUTE), input=0) for number in range(20)]
    async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
        await store.ensure_schema()

        async def call() -> Counter[str]:
            with meter_queries(50):
                runtime = runtime_on(store, clock, *declared)
                await runtime.materialize_schedules()
                return (await runtime.sweep(max_queries=50)).ticks

        for _ in range(5):
            with contextlib.suppress(QueryLimitReachedError, ConfigurationError):  # these calls are spent on deploying
                await call()
        clock.advance(MINUTE)
        started = 0
        for _ in range(400):  # chance says which source of work a call looks into first
            started += (await call())["started"]
            if started == 20:
                break
        assert started == 20
