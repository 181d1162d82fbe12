"""The runtime on the SQLite store: budgets, a week in no time, and rows that somebody damaged."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime import (
    Context,
    CorruptRecordError,
    SchemaMissingError,
    TestClock,
    WaitLimitError,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.testing import run_to_completion, run_until_blocked
from workflow_store_d1 import SQLiteWorkflowStore


async def add(number: int) -> int:
    return number + 1


@workflow(id="steps")
async def steps(ctx: Context, count: int) -> int:
    total = 0
    for _ in range(count):
        total = await ctx.step(add, total)
    return total


@workflow(id="week")
async def week(ctx: Context, _: None) -> float:
    began = await ctx.now()
    for _day in range(7):
        await ctx.sleep(timedelta(days=1))
    return (await ctx.now() - began).total_seconds()


@workflow(id="wait")
async def wait(ctx: Context, _: None) -> Any:
    return await ctx.wait_for_event("go")


class CountingStore:
    """Counts the calls of every verb that it passes on."""

    def __init__(self, inner: SQLiteWorkflowStore) -> None:
        self._inner = inner
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        return self._count(name, attribute) if callable(attribute) else attribute

    def _count(self, name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
        async def call(**arguments: Any) -> Any:
            self.calls[name] += 1
            return await verb(**arguments)

        return call


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteWorkflowStore]:
    async with SQLiteWorkflowStore.open(tmp_path / "app.db") as opened:
        await opened.ensure_schema()
        yield opened


def runtime_on(store: Any, clock: TestClock) -> WorkflowRuntime:
    return WorkflowRuntime(store=store, workflows=[steps, week, wait], clock=clock)


# A fresh file.


def tables_of(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


async def test_a_fresh_file_needs_nothing_but_a_first_call(tmp_path: Path) -> None:
    """A process that only starts runs needs no setup; another one drives them."""
    path = tmp_path / "app.db"
    async with SQLiteWorkflowStore.open(path) as store:
        handle = await WorkflowRuntime(store=store, workflows=[steps]).start_run(steps, 2)
    async with SQLiteWorkflowStore.open(path) as store:
        await store.check_schema(deep=True)
        await WorkflowRuntime(store=store, workflows=[steps]).sweep()
        run = await store.load_run(run_id=handle.run_id)
    assert run is not None
    assert run.output == "2"


async def test_tables_of_others_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO orders VALUES (7)")
    async with SQLiteWorkflowStore.open(path) as store:
        await WorkflowRuntime(store=store, workflows=[steps]).start_run(steps, 0)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT * FROM orders").fetchall() == [(7,)]
    assert {"orders", "workflow_runs"} < tables_of(path)


@pytest.mark.parametrize("call", ["work", "sweep"])
async def test_without_auto_schema_nothing_is_made(tmp_path: Path, call: str) -> None:
    path = tmp_path / "app.db"
    async with SQLiteWorkflowStore.open(path) as store:
        runtime = WorkflowRuntime(store=store, workflows=[steps], auto_schema=False)
        with pytest.raises(SchemaMissingError, match="ensure_schema"):
            await (runtime.work(handle_signals=False) if call == "work" else runtime.sweep())
        with pytest.raises(SchemaMissingError, match="ensure_schema"):
            await runtime.start_run(steps, 1)
    assert tables_of(path) == set()


FIRST_CALL = """
import asyncio, sys
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_d1 import SQLiteWorkflowStore

@workflow(id="greet")
async def greet(ctx: Context, name: str) -> str:
    return name

async def main():
    async with SQLiteWorkflowStore.open(sys.argv[1]) as store:
        runtime = WorkflowRuntime(store=store, workflows=[greet])
        print("open", flush=True)
        sys.stdin.readline()
        await asyncio.gather(runtime.start_run(greet, "a", run_id=sys.argv[2]), runtime.sweep())

asyncio.run(main())
"""


async def test_processes_that_begin_at_once_share_a_fresh_file(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_CALL, str(path), f"run-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "open\n"
        ends = await asyncio.gather(*(asyncio.to_thread(one.communicate, "go\n", 60) for one in processes))
    finally:
        for process in processes:
            process.kill()
    assert [(process.returncode, errors) for process, (_, errors) in zip(processes, ends, strict=True)] == [(0, "")] * 3
    async with SQLiteWorkflowStore.open(path) as store:
        assert {run.run_id for run in (await store.list_runs(limit=9)).runs} == {"run-0", "run-1", "run-2"}


# Budgets.


async def test_a_run_of_ten_steps_takes_eleven_calls(store: SQLiteWorkflowStore) -> None:
    """Create-and-claim is one, each step one, and the last step's record goes with the end of the run."""
    counting = CountingStore(store)
    handle = await runtime_on(counting, TestClock()).run_here(steps, 10)
    # The look at the tables is the first thing that a runtime does, once.
    assert counting.calls == {"check_schema": 1, "create_run": 1, "append_events": 9, "mark_run_finished": 1}
    assert await handle.result() == 10


async def test_a_wait_costs_one_pause_one_delivery_and_one_claim(store: SQLiteWorkflowStore) -> None:
    """The pause writes its events itself, the claim brings the history and the signal."""
    counting = CountingStore(store)
    runtime = runtime_on(counting, TestClock())
    handle = await runtime.run_here(wait)
    assert counting.calls == {"check_schema": 1, "create_run": 1, "mark_run_paused": 1}
    counting.calls.clear()
    await runtime.deliver_signal(handle.run_id, "go", 1)
    await runtime.sweep(limit=1)
    claims = {"claim_due_schedule_buckets", "claim_stale_runs", "claim_due_timers", "claim_pending_runs"}
    claims.add("list_pending_runs")  # what nobody serves
    assert {verb: n for verb, n in counting.calls.items() if verb not in claims} == {
        "deliver_signal": 1,
        "mark_run_finished": 1,
    }


async def test_a_week_passes_in_no_time(store: SQLiteWorkflowStore) -> None:
    """A test clock rules a SQL store too: its times come from the arguments."""
    clock = TestClock()
    runtime = runtime_on(store, clock)
    started = time.perf_counter()
    assert await run_to_completion(runtime, await runtime.start_run(week), clock) == 7 * 86_400
    assert time.perf_counter() - started < 5


@workflow(id="many")
async def many(ctx: Context, count: int) -> str:
    tasks = [
        asyncio.create_task(ctx.wait_for_event("é" * 250 + str(n), timeout=timedelta(days=1))) for n in range(count)
    ]
    done, pending = await asyncio.wait(
        [*tasks, asyncio.create_task(ctx.wait_for_event("stop"))], return_when="FIRST_COMPLETED"
    )
    for task in pending:
        task.cancel()
    if any([isinstance(task.exception(), WaitLimitError) for task in done]):  # noqa: C419  # each is looked at
        return "heard of the limit"
    await ctx.sleep(timedelta(days=2))
    return "stopped"


async def test_handler_hears_of_too_many_waits(store: SQLiteWorkflowStore) -> None:
    """Before SQLite is asked to keep what it could not."""
    runtime = WorkflowRuntime(store=store, workflows=[many], clock=TestClock())
    handle = await runtime.run_here(many, 11_000)
    assert await handle.result() == "heard of the limit"


async def test_as_many_waits_as_there_may_be(store: SQLiteWorkflowStore) -> None:
    """They are kept, given up all at once with their timers, and the run goes on."""
    clock = TestClock()
    runtime = WorkflowRuntime(store=store, workflows=[many], clock=clock)
    handle = await runtime.run_here(many, 320)
    assert len((await handle.load()).awaited) == 321
    await runtime.deliver_signal(handle.run_id, "stop")
    assert await run_to_completion(runtime, handle, clock) == "stopped"


@pytest.mark.parametrize(
    ("damage", "table"),
    [
        ("UPDATE workflow_run_states SET input = '{broken' WHERE run_id = 'bad'", "workflow_run_states"),
        ("UPDATE workflow_events SET payload = '{broken' WHERE run_id = 'bad'", "workflow_events"),
        (
            "UPDATE workflow_signal_deliveries SET payload = '{broken' WHERE run_id = 'bad'",
            "workflow_signal_deliveries",
        ),
    ],
)
async def test_a_damaged_run_does_not_stop_the_sweep(
    store: SQLiteWorkflowStore, tmp_path: Path, damage: str, table: str
) -> None:
    """The error names table and key; the other runs of the same sweep are driven."""
    runtime = runtime_on(store, TestClock())
    for run_id in ("a", "bad", "c"):
        await runtime.start_run(wait, run_id=run_id)
    await run_until_blocked(runtime)
    for run_id in ("a", "bad", "c"):
        await runtime.deliver_signal(run_id, "go", {"to": run_id})
    with sqlite3.connect(tmp_path / "app.db") as connection:
        assert connection.execute(damage).rowcount == 1
    connection.close()

    report = await runtime.sweep()

    assert [(error.table, "bad" in error.key) for error in report.corrupt] == [(table, True)]
    assert isinstance(report.corrupt[0], CorruptRecordError)
    assert [await runtime.attach(run_id).status() for run_id in ("a", "c")] == ["finished", "finished"]
