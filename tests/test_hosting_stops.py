"""Hosts that end a call: by a signal, by the time that is left, or not at all. And what the command says about it."""

import asyncio
import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
from workflow_runtime import (
    Context,
    CorruptRecordError,
    RunFailure,
    StoreUnavailableError,
    SweepReport,
    TickFailure,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.hosting import sweep_handler, sweep_problems, sweep_summary
from workflow_store_d1 import SQLiteWorkflowStore

pytestmark = pytest.mark.real_time

RUNS = 40
APP = """
import asyncio, json, sys, threading, time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from workflow_runtime import Context, Every, Schedule, TestClock, WorkflowRuntime, workflow
from workflow_runtime.hosting import sweep_handler
from workflow_store_d1 import SQLiteWorkflowStore

def note(what):
    with open("journal", "a") as journal:
        journal.write(what + "\\n")

async def work(seconds):
    note("begin")
    await asyncio.sleep(seconds)
    note("end")

async def stubborn(seconds):
    note("begin")
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(seconds)

def plain(seconds):
    note("begin")
    time.sleep(seconds)
    note("end")

KINDS = {"work": work, "stubborn": stubborn, "plain": plain}

@workflow(id="ship")
async def ship(ctx: Context, order):
    kind, seconds = order
    await ctx.step(KINDS[kind], seconds)
    await ctx.step(work, 0)

@workflow(id="fails")
async def fails(ctx: Context, _: None):
    raise ValueError("of the handler's own")

@workflow(id="unknown")
async def unknown(ctx: Context, _: None):
    pass

def runtime_on(store, **options):
    return WorkflowRuntime(store=store, workflows=[ship, fails], **options)

@asynccontextmanager
async def open_runtime():
    async with SQLiteWorkflowStore.open("app.db") as store:
        await store.ensure_schema()
        yield runtime_on(store, max_crashes=1)

@asynccontextmanager
async def open_and_never_close():
    async with open_runtime() as runtime:
        yield runtime
    await asyncio.Event().wait()

async def start(count, kind, seconds):
    async with open_runtime() as runtime:
        for number in range(count):
            await runtime.start_run(ship, [kind, seconds], run_id=f"run-{number}")

async def start_failing():
    async with open_runtime() as runtime:
        await runtime.start_run(fails)

async def leave_a_dead_one():
    async with open_runtime() as runtime:
        await runtime.start_run(ship, ["work", 0], run_id="crashes")
        run = await runtime.store.load_run(run_id="crashes")
        now_ms = run.due_at_ms  # the runtime's clock may be some milliseconds ahead of the store's
        for later_ms in (0, 200):
            claim = await runtime.store.claim_run(
                run_id="crashes", owner="dead", lease_ms=100, now_ms=now_ms + later_ms, max_crashes=5)
            assert claim.kind == "claimed", claim
            token = claim.claim.lease.token  # a claim of which nothing was heard would be no crash
            await runtime.store.heartbeat_run_lease(
                run_id="crashes", lease_token=token, lease_ms=100, now_ms=now_ms + later_ms)
        await asyncio.sleep(0.4)  # until the last lease is over

async def schedule(what):
    past = TestClock(datetime.now(UTC) - timedelta(hours=3))
    handler = {"missed": ship, "unknown": unknown}[what]
    every = Every(timedelta(hours=1))
    async with SQLiteWorkflowStore.open("app.db") as store:
        await store.ensure_schema()
        declared = [Schedule(id=what, workflow=handler, when=every, input=["work", 0])]
        runtime = WorkflowRuntime(store=store, workflows=[ship, unknown], schedules=declared, clock=past)
        await runtime.materialize_schedules()

async def statuses():
    async with open_runtime() as runtime:
        return {status.value: count for status, count in (await runtime.store.count_runs()).items() if count}

def call_handler():
    print(json.dumps(asyncio.run(sweep_handler(open_runtime, timedelta(seconds=600), limit=100)())))
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


def in_app(app: Path, function: str, *arguments: object) -> Any:
    """Call a function of the application here: a process is for what is to be stopped."""
    module = ModuleType("app")
    exec(APP, module.__dict__)
    with contextlib.chdir(app):
        return asyncio.run(getattr(module, function)(*arguments))


def start(app: Path, count: int, kind: str, seconds: float) -> None:
    in_app(app, "start", count, kind, seconds)


def statuses(app: Path) -> Any:
    return in_app(app, "statuses")


@contextlib.contextmanager
def process(app: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(command, cwd=app, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def until_begun(app: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not (app / "journal").exists() or (app / "journal").read_text().count("begin") < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


COMMAND = (sys.executable, "-m", "workflow_runtime")
SWEEP = (*COMMAND, "sweep", "app:open_runtime", "--limit", "1000", "--concurrency", "10")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["command", "handler"])
def test_signal_is_the_deadline_of_a_sweep(app: Path, how: str, number: signal.Signals) -> None:
    """Steps end and are recorded, nothing stays with the sweep that has ended, and there is a summary."""
    start(app, RUNS, "work", 1.0)
    command = SWEEP if how == "command" else (sys.executable, "-c", "import app; app.call_handler()")
    with process(app, *command) as child:
        until_begun(app, 10)
        child.send_signal(number)
        output, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    summary = json.loads(output)
    assert summary["outcomes"] == {"released": 10}
    assert summary["next_due"] is not None
    assert statuses(app) == {"queued": RUNS}
    assert (app / "journal").read_text().split() == ["begin"] * 10 + ["end"] * 10


def test_second_signal_cancels_the_steps_of_a_sweep(app: Path) -> None:
    start(app, 10, "work", 600)
    with process(app, *SWEEP) as child:
        until_begun(app, 10)
        child.send_signal(signal.SIGTERM)
        assert child.stderr is not None
        assert "draining" in child.stderr.readline()
        child.send_signal(signal.SIGTERM)
        output, _ = child.communicate(timeout=60)
    assert (child.returncode, json.loads(output)["outcomes"]) == (0, {"released": 10})
    assert statuses(app) == {"queued": 10}


@pytest.mark.parametrize("kind", ["work", "stubborn", "plain"])
@pytest.mark.parametrize("command", ["work", "sweep"])
def test_command_ends_in_time_whatever_a_step_does(app: Path, command: str, kind: str) -> None:
    """Kubernetes would kill it. What could not be handed over is said."""
    start(app, 3, kind, 600)
    with process(app, *COMMAND, command, "app:open_runtime", "--drain-timeout", "2") as child:
        until_begun(app, 3)
        started = time.monotonic()
        child.send_signal(signal.SIGTERM)
        output, errors = child.communicate(timeout=60)
        assert time.monotonic() - started < 2 + 4 + 6
    assert child.returncode == 0, errors
    assert json.loads(output)["outcomes"] == ({"released": 3} if kind == "work" else {})
    assert statuses(app) == ({"queued": 3} if kind == "work" else {"running": 3})
    assert ("not handed over in time" in errors) is (kind != "work")


def test_command_ends_in_time_though_the_application_does_not_close(app: Path) -> None:
    with process(app, *COMMAND, "work", "app:open_and_never_close", "--drain-timeout", "1") as child:
        assert child.stderr is not None
        while "lease" not in (line := child.stderr.readline()):
            assert line, "the worker has ended"
        child.send_signal(signal.SIGTERM)
        output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert json.loads(output)["outcomes"] == {}


def test_drain_of_the_command_is_shorter_than_kubernetes_waits(app: Path) -> None:
    done = subprocess.run([*COMMAND, "work", "--help"], cwd=app, capture_output=True, text=True, check=True, timeout=60)
    assert "default: 25.0" in " ".join(done.stdout.split())


# The time that is left.


async def slow() -> None:
    await asyncio.sleep(600)


@workflow(id="slow")
async def waits(ctx: Context, _: None) -> None:
    await ctx.step(slow)


class LambdaContext:
    """Like AWS Lambda's."""

    function_name = "sweep"

    def __init__(self, left_ms: int) -> None:
        self._ends_at = time.monotonic() + left_ms / 1000

    def get_remaining_time_in_millis(self) -> int:
        return max(0, round((self._ends_at - time.monotonic()) * 1000))


class HuaweiContext(LambdaContext):
    """Like FunctionGraph's."""

    def getRemainingTimeInMilliSeconds(self) -> int:  # noqa: N802
        return super().get_remaining_time_in_millis()

    get_remaining_time_in_millis = None  # type: ignore[assignment]


def opener(tmp_path: Path) -> Any:
    @asynccontextmanager
    async def open_runtime() -> AsyncIterator[WorkflowRuntime]:
        async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
            await store.ensure_schema()
            yield WorkflowRuntime(store=store, workflows=[waits])

    return open_runtime


@pytest.mark.parametrize("context", [LambdaContext, HuaweiContext])
@pytest.mark.parametrize("by_name", [False, True])
async def test_handler_ends_before_its_host_kills_it(
    tmp_path: Path, context: type[LambdaContext], by_name: bool
) -> None:
    open_runtime = opener(tmp_path)
    async with open_runtime() as runtime:
        await runtime.start_run(waits, run_id="run")
    handler = sweep_handler(open_runtime, timedelta(hours=1))
    host = context(3_000)
    started = time.monotonic()
    summary = await (handler({}, context=host) if by_name else handler({"event": "tick"}, host))
    assert 2.0 < time.monotonic() - started < 3.0 + 2.0
    assert summary["outcomes"] == {"released": 1}
    async with open_runtime() as runtime:
        run = await runtime.attach("run").load()
    assert (run.status, run.crashes) == ("queued", 0)


async def test_budget_holds_where_it_is_shorter_than_what_the_host_leaves(tmp_path: Path) -> None:
    open_runtime = opener(tmp_path)
    async with open_runtime() as runtime:
        await runtime.start_run(waits)
    summary = await sweep_handler(open_runtime, timedelta(0))({}, LambdaContext(900_000))
    assert summary["claimed"] == {}


@pytest.mark.parametrize("host", [None, object(), MagicMock(), {"deadline": 5}])
async def test_host_that_tells_nothing_has_the_budget(tmp_path: Path, host: Any) -> None:
    open_runtime = opener(tmp_path)
    async with open_runtime() as runtime:
        await runtime.store.read_clock()
    assert (await sweep_handler(open_runtime, timedelta(seconds=5))({}, host))["outcomes"] == {}


async def test_host_may_be_asked_in_another_way(tmp_path: Path) -> None:
    open_runtime = opener(tmp_path)
    async with open_runtime() as runtime:
        await runtime.start_run(waits)
    seen = []

    def time_left(request: dict[str, int]) -> timedelta:
        seen.append(request)
        return timedelta(seconds=request["left"])

    handler = sweep_handler(open_runtime, timedelta(hours=1), time_left=time_left)
    assert (await handler({"left": 2}))["outcomes"] == {"released": 1}
    assert seen == [{"left": 2}]


# What the command says.


PROBLEMS: dict[str, tuple[Any, str]] = {
    "failures": ([RunFailure(run_id="a\nb", error=ValueError())], r"'a\nb'"),
    "corrupt": ([CorruptRecordError("runs", "r", "torn")], "torn"),
    "dead": (["r-1", "r-2"], "'r-1', 'r-2'"),
    "tick_failures": ([TickFailure(schedule_id="nightly", fire_at_ms=0, error=ValueError())], "'nightly'"),
    "missed": ({"nightly"}, "'nightly'"),
    "unclaimable": ({"nightly"}, "'nightly'"),
    "claim_failures": ([StoreUnavailableError("away")], "away"),
}
QUIET = {
    "claimed",  # what it was given
    "outcomes",  # `errored` and `aborted` are what handlers decided, `lost` is another worker's now
    "unserved",  # another deployment may serve it; the log says it
    "not_materialized",  # the program declares it, and the log says that the store does not hold it
    "ticks",  # `missed` and `failed` are named above, the rest is what schedules ask for
    "failed",  # the number of `failures`
    "retried",
    "next_due_ms",
    "oldest_due_ms",
    "next_lease_end_ms",
    "queries",
    "rows_read",
    "rows_written",
}


def test_every_part_of_a_report_is_a_problem_or_none() -> None:
    """Who adds something to reports decides it here."""
    assert {field.name for field in dataclasses.fields(SweepReport)} == PROBLEMS.keys() | QUIET
    report = SweepReport()
    report.outcomes.update(["errored", "aborted", "lost", "released", "queued", "paused", "finished"])
    report.ticks.update(["started", "skipped", "buffered", "changed", "lost"])
    assert sweep_problems(report) == []


@pytest.mark.parametrize("name", PROBLEMS)
def test_problem_of_a_sweep_is_one_line_that_names_it(name: str) -> None:
    value, named = PROBLEMS[name]
    report = SweepReport(**{name: value})
    [line] = sweep_problems(report)
    assert named in line
    assert "\n" not in line
    summary = sweep_summary(report)
    assert summary["problems"] == [line]
    assert json.loads(json.dumps(summary)) == summary


def sweep(app: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SWEEP], cwd=app, capture_output=True, text=True, check=False, timeout=60)


def test_sweep_that_parks_a_run_exits_with_1(app: Path) -> None:
    in_app(app, "leave_a_dead_one")
    done = sweep(app)
    assert done.returncode == 1, done.stderr
    assert "runs are parked as dead: 'crashes'" in done.stderr
    assert json.loads(done.stdout)["dead"] == ["crashes"]


@pytest.mark.parametrize(("what", "line"), [("missed", "ticks were missed"), ("unknown", "not known here")])
def test_sweep_that_leaves_ticks_out_exits_with_1(app: Path, what: str, line: str) -> None:
    in_app(app, "schedule", what)
    done = sweep(app)
    assert done.returncode == 1, done.stderr
    assert any(line in each and repr(what) in each for each in done.stderr.splitlines())
    assert sum("WARNING" in each and what in each for each in done.stderr.splitlines()) == 1, "the log has it once"


def test_run_that_errs_by_itself_is_no_problem_of_the_sweep(app: Path) -> None:
    in_app(app, "start_failing")
    done = sweep(app)
    assert done.returncode == 0
    assert json.loads(done.stdout)["outcomes"] == {"errored": 1}
    assert "of the handler's own" in done.stderr


def test_sweep_without_work_says_nothing(app: Path) -> None:
    start(app, 1, "work", 0)
    assert sweep(app).returncode == 0
    done = sweep(app)
    assert (done.returncode, done.stderr) == (0, "")
