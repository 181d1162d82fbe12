"""A story of ticks: a schedule of each overlap policy, ticks that are asked for, and a worker that drains on SIGTERM.

When ticks fire late, other ones are skipped or replaced than in time. So a disturbed telling need not end as the
undisturbed one: what counts is that its own history, which the database writes down, keeps every rule.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from workflow_runtime import (
    NO_RETRY,
    Context,
    Every,
    RunStatus,
    Schedule,
    TestClock,
    WorkflowExecutionStore,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.store import OverlapPolicy
from workflow_test_support.torture.crash import scenario
from workflow_test_support.torture.crash.scenario import note_step
from workflow_test_support.torture.journal import note
from workflow_test_support.torture.ledgers import SQLiteDatabase
from workflow_test_support.torture.tick_verdict import Evidence
from workflow_test_support.torture.tick_verdict import find_problems as find_problems_of_ticks

POLICIES: tuple[OverlapPolicy, ...] = get_args(OverlapPolicy)
DRAINED = "drained"
_BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
_LIFETIME = timedelta(days=10)
_INTERVAL = timedelta(minutes=10)
_OWN, _REQUESTED = 3, 2
_OFFSETS = dict(zip(POLICIES, (timedelta(minutes=number) for number in range(len(POLICIES))), strict=True))
_DATABASE: list[Path] = []
_AT_WORK: list[bool] = []


async def work() -> str:
    note_step()
    return "worked"


async def work_through_a_stop() -> str:
    """Be told to stop in the middle, if it is a worker that is at work."""
    note_step()
    if _AT_WORK:
        os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.01)
    return "worked"


@workflow(id="tick", retry=NO_RETRY)
async def tick(ctx: Context, _: None) -> None:
    await ctx.step(work)
    await ctx.sleep(_INTERVAL * 1.2)
    await ctx.step(work)


@workflow(id="drained", retry=NO_RETRY)
async def drained(ctx: Context, _: None) -> list[str]:
    return [await ctx.step(work_through_a_stop), await ctx.step(work)]


async def prepare(path: Path) -> None:
    _DATABASE[:] = [path]
    if not _rows("SELECT 1 FROM sqlite_master WHERE name = 'settled'"):
        await SQLiteDatabase(path).keep_ledger()


async def play(store: WorkflowExecutionStore, process: int) -> None:
    """Do what the application does, from the top.

    Args:
        store: Where the runs live; what kills this process is wrapped around it.
        process: Which process of this story this is, from 0.
    """
    clock = TestClock(_BEGIN + process * _LIFETIME)
    runtime = WorkflowRuntime(store=store, workflows=[tick, drained], schedules=_schedules(), clock=clock)
    await _materialize(store, runtime)
    await _ask(runtime)
    if await store.load_run(run_id=DRAINED) is None:
        await scenario.drive(runtime, clock, _INTERVAL * 0.5)
    await _drain(store, runtime, clock)
    await scenario.drive(runtime, clock, _INTERVAL * (_OWN + 6))
    note("played", process=process)


def _schedules() -> list[Schedule]:
    return [
        Schedule(
            id=policy, workflow=tick, when=Every(_INTERVAL, offset=_OFFSETS[policy]), overlap=policy,
            missed="all", ends_at=_BEGIN + _OWN * _INTERVAL,
        )
        for policy in POLICIES
    ]  # fmt: skip


async def _materialize(store: WorkflowExecutionStore, runtime: WorkflowRuntime) -> None:
    """Declare the schedules as of the beginning: one that died before it did so has missed nothing."""
    if len(_rows("SELECT 1 FROM workflow_schedules")) < len(POLICIES):
        deployer = WorkflowRuntime(
            store=store, workflows=[tick, drained], schedules=_schedules(), clock=TestClock(_BEGIN)
        )
        await deployer.materialize_schedules()
    assert await runtime.materialize_schedules() == {}


async def _ask(runtime: WorkflowRuntime) -> None:
    """Ask for ticks before the beginning, once: a tick that was settled and is asked for again is another wish."""
    for policy in POLICIES:
        first, *_, last = _requested(policy)
        known = _rows("SELECT fire_at FROM workflow_schedule_buckets WHERE schedule_id = ?", policy)
        known += _rows("SELECT fire_at FROM ledger WHERE subject = ? AND fire_at <= ?", policy, last)
        if not known:
            moment = datetime.fromtimestamp(first / 1_000, UTC)
            assert (await runtime.schedules.backfill(policy, moment, _BEGIN)).requested == _REQUESTED


def _requested(policy: str) -> list[int]:
    first = _BEGIN + _OFFSETS[policy] - _REQUESTED * _INTERVAL  # type: ignore[index]  # one of the keys
    return [round((first + number * _INTERVAL).timestamp() * 1_000) for number in range(_REQUESTED)]


def _expected(policy: str) -> set[int]:
    first = _BEGIN + _OFFSETS[policy]  # type: ignore[index]  # one of the keys
    own = {round((first + number * _INTERVAL).timestamp() * 1_000) for number in range(_OWN)}
    return own | set(_requested(policy))


async def _drain(store: WorkflowExecutionStore, runtime: WorkflowRuntime, clock: TestClock) -> None:
    """Work until the stop comes in the middle of a step. Another worker goes on at once: the clock stands still."""
    handle = await runtime.start_run(drained, run_id=DRAINED)
    if _has_ended():
        return
    stop = asyncio.Event()
    _AT_WORK.append(True)
    working = asyncio.create_task(runtime.work(concurrency=1, stop=stop))
    while not working.done() and not _has_ended():
        await asyncio.sleep(0.002)
    stop.set()
    await working
    _AT_WORK.clear()
    run = await handle.load()
    assert run.status.is_terminal or (run.status is RunStatus.QUEUED and run.lease_expires_at_ms is None), run
    other = WorkflowRuntime(store=store, workflows=[drained], clock=clock)
    await other.sweep()
    assert await handle.status() is RunStatus.FINISHED


def _has_ended() -> bool:
    """Look beside the store, whose calls are counted: how often this is asked differs from time to time."""
    ended = "SELECT 1 FROM workflow_event_locks WHERE run_id = ? AND finished_at IS NOT NULL"
    return bool(_rows(ended, DRAINED))


async def note_recorded_steps(store: WorkflowExecutionStore) -> None:
    """Write down which steps were recorded before this process did anything: none of them may run again."""
    for run_id, step_id in _rows(
        "SELECT run_id, step_id FROM workflow_events WHERE kind IN ('step-completed', 'step-failed')"
    ):
        note("recorded", run=run_id, step=step_id)


async def outcome(store: WorkflowExecutionStore, path: Path) -> dict[str, Any]:
    """Judge the telling by what the database wrote down."""
    database = SQLiteDatabase(path)
    heads = await database.fetch("SELECT run_id, status FROM workflow_event_locks")
    waiting = "coalesce(next_fire_at, buffered_fire_at, requested_fire_at, lease_expires_at) IS NOT NULL"
    leftovers = await database.fetch(f"SELECT schedule_id FROM workflow_schedules WHERE {waiting}")
    evidence = Evidence(
        policies={policy: policy for policy in POLICIES},
        expected={policy: _expected(policy) for policy in POLICIES},
        ledger=await database.fetch("SELECT what, subject, fire_at, outcome FROM ledger ORDER BY seq"),
        heads={head["run_id"]: head for head in heads if head["run_id"] != DRAINED},
        leftovers=[row["schedule_id"] for row in leftovers],
        journal=[],
        killed={},
    )
    problems = find_problems_of_ticks(evidence)
    logs = _rows("SELECT run_id, count(*), min(event_index), max(event_index) FROM workflow_events GROUP BY 1")
    problems += [f"{run_id}: the log has gaps" for run_id, count, low, high in logs if (low, high) != (0, count - 1)]
    output = _rows("SELECT output FROM workflow_run_states WHERE run_id = ?", DRAINED)
    return {"problems": problems, "drained": json.loads(output[0][0])}


def find_problems(ended: Any, expected: Any, journal: list[dict[str, Any]]) -> list[str]:
    """Every telling keeps all rules; also the undisturbed one."""
    assert expected == {"problems": [], "drained": ["worked", "worked"]}, expected
    return [] if ended == expected else [str(ended)]


def _rows(sql: str, *values: object) -> list[Any]:
    with closing(sqlite3.connect(_DATABASE[0], timeout=30, isolation_level=None)) as connection:
        return connection.execute(sql, values).fetchall()
