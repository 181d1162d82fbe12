"""Runs inside Pyodide: the runtime as a Worker uses it, on the binding, with real D1 behind."""

import asyncio
import types
from datetime import UTC, datetime, timedelta
from typing import Any

import blocked_imports
from workflow_runtime import (
    NO_RETRY,
    Approval,
    Context,
    Cron,
    Every,
    RetryPolicy,
    Schedule,
    StepFailedError,
    TestClock,
    WorkflowRuntime,
    fixed_backoff,
    workflow,
)
from workflow_runtime.hosting import sweep_handler
from workflow_runtime.testing import run_until_blocked
from workflow_store_d1 import D1Transaction, D1WorkflowStore

DAY = timedelta(days=1)
START = datetime(2030, 3, 30, tzinfo=UTC)
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 1) <> '_'"

tries: list[int] = []


def add(first: int, second: int) -> int:
    return first + second


async def slowly(number: int) -> int:
    await asyncio.sleep(0.001)
    return number


def in_the_second_try() -> str:
    tries.append(1)
    if len(tries) < 2:
        raise ConnectionError("not yet")
    return f"try {len(tries)}"


async def for_ever() -> None:
    await asyncio.sleep(3_600)


async def book(tx: D1Transaction, run_id: str) -> int:
    tx.add("INSERT INTO bookings VALUES (?1)", run_id)
    return 1


@workflow(id="trip")
async def trip(ctx: Context, start: int) -> dict[str, Any]:
    total = await ctx.step(add, start, 1)
    parts = await asyncio.gather(*(ctx.step.options(id=f"part-{n}")(slowly, n) for n in range(3)))
    retried = await ctx.step.options(retry=RetryPolicy(max_attempts=3, backoff=fixed_backoff(DAY)))(in_the_second_try)
    try:
        await ctx.step.options(timeout=timedelta(milliseconds=50), retry=NO_RETRY)(for_ever)
    except StepFailedError:
        total += 100
    await ctx.sleep(DAY)
    ordered = await ctx.wait_for_event("ordered")
    approval: Approval = await ctx.approve("manager")
    booked = await ctx.transaction("book", book, "trip")
    drawn = [str(await ctx.uuid()), await ctx.random(), (await ctx.now()).isoformat()]
    await ctx.sleep(DAY)
    assert len(drawn) == 3
    return {
        "total": total,
        "parts": parts,
        "retried": retried,
        "ordered": ordered,
        "approved": approval.approved,
        "booked": booked,
    }


@workflow(id="report")
async def report(ctx: Context, _: None) -> str:
    return (await ctx.now()).isoformat()


async def open_store(env: Any) -> D1WorkflowStore:
    """Give a store on an empty database."""
    store = D1WorkflowStore(env.DB)
    database = store.database
    found = (await database.prepare(TABLES).all()).results
    drops = [database.prepare(f'DROP TABLE "{row["name"]}"') for row in found]
    await database.batch([*drops, database.prepare("CREATE TABLE bookings (run_id TEXT)")])
    await store.ensure_schema()
    await store.check_schema()
    return store


async def test_a_run_with_every_kind_of_wait_is_swept_to_its_end(env: Any) -> None:
    """Each sweep has a runtime and a store of its own, as each invocation of a Worker has."""
    tries.clear()
    store, clock = await open_store(env), TestClock(START)

    def invocation() -> WorkflowRuntime:
        return WorkflowRuntime(store=D1WorkflowStore(env.DB), workflows=[trip], clock=clock)

    handle = await invocation().start_run(trip, 1, run_id="trip")
    for _ in range(2):
        await run_until_blocked(invocation())
        clock.advance(DAY)
    await run_until_blocked(invocation())
    waiting = await handle.load()
    assert (waiting.status, [wait.name for wait in waiting.awaited]) == ("paused", ["ordered"]), waiting
    delivered = await invocation().deliver_signal("trip", "ordered", {"pieces": [1, None, 2**60]})
    assert delivered.kind == "delivered"
    await run_until_blocked(invocation())
    assert (await invocation().deliver_approval("trip", "manager", approved=True)).kind == "delivered"
    await run_until_blocked(invocation())
    clock.advance(DAY)
    await run_until_blocked(invocation())
    assert await handle.result() == {
        "total": 102,
        "parts": [0, 1, 2],
        "retried": "try 2",
        "ordered": {"pieces": [1, None, 2**60]},
        "approved": True,
        "booked": 1,
    }
    assert (await store.database.prepare("SELECT count(*) AS n FROM bookings").all()).results == [{"n": 1}]


async def test_schedules_follow_the_clocks_of_their_zone(env: Any) -> None:
    """Over the night in which Warsaw goes from +01:00 to +02:00; the zones come from the package tzdata."""
    store, clock = await open_store(env), TestClock(START)
    daily = Schedule(id="daily", workflow=report, when=Cron("30 7 * * *", "Europe/Warsaw"), input=None, missed="all")
    runtime = WorkflowRuntime(store=store, workflows=[report], clock=clock, schedules=[daily])
    assert await runtime.materialize_schedules() == {"daily": "created"}
    fired = []
    for _ in range(3):
        clock.advance(DAY)
        await run_until_blocked(runtime)
        fired.append((await runtime.schedules.get("daily")).last_fire_at)
    assert fired == [
        datetime(2030, 3, 30, 6, 30, tzinfo=UTC),
        datetime(2030, 3, 31, 5, 30, tzinfo=UTC),
        datetime(2030, 4, 1, 5, 30, tzinfo=UTC),
    ]
    assert [run.status for run in (await store.list_runs(limit=10)).runs] == ["finished"] * 3


async def test_a_host_that_is_woken_by_cron(env: Any) -> None:
    """In real time, by the handler for such hosts: the ticks of a schedule, and what they start."""
    store = await open_store(env)
    often = Schedule(id="often", workflow=report, when=Every(timedelta(seconds=1)), input=None)
    runtime = WorkflowRuntime(store=store, workflows=[report], schedules=[often])
    await runtime.materialize_schedules()
    handler = sweep_handler(runtime, timedelta(seconds=5))
    summary: dict[str, Any] = {"outcomes": {}}
    for _ in range(100):
        if summary["outcomes"]:
            break
        await asyncio.sleep(0.05)  # real time: until the first tick
        summary = await handler(object())
    assert summary["outcomes"] == {"finished": 1}


async def test_a_worker_drains_when_it_is_told_to(env: Any) -> None:
    """There are no signals of the operating system there; an event does."""
    store, stop = await open_store(env), asyncio.Event()
    runtime = WorkflowRuntime(store=store, workflows=[report])
    working = asyncio.ensure_future(runtime.work(stop=stop, poll_interval=timedelta(milliseconds=20)))
    handle = await runtime.start_run(report)
    assert isinstance(await handle.result(timeout=timedelta(seconds=20)), str)
    stop.set()
    done = await working
    assert done.outcomes == {"finished": 1}


async def test_the_blocker_blocks(env: Any) -> None:
    problem = ""
    try:
        exec("import sqlite3", {"__name__": "workflow_runtime.anything"})
    except ImportError as error:
        problem = str(error)
    assert problem == "workflow_runtime.anything imports sqlite3"
    assert blocked_imports.LACKING


async def worker_greets(env: Any, source: str) -> None:
    """The Worker of the README starts a run, and its cron trigger drives it."""
    store = await open_store(env)
    entry = types.ModuleType("entry")
    exec(source, entry.__dict__)
    context = None
    run_id = await entry.Default(context, env).start("Ada")
    await entry.Default(context, env).scheduled(None, env, context)
    run = await store.load_run(run_id=run_id)
    assert run is not None
    assert (run.status, run.output) == ("finished", '"hello Ada"')
