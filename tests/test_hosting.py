"""Hosts that are woken by cron: the handler that they call, and the command."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from workflow_runtime import ConfigurationError, Context, Every, Schedule, TestClock, WorkflowRuntime, workflow
from workflow_runtime.hosting import sweep_handler
from workflow_store_d1 import SQLiteWorkflowStore

APP = """
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_d1 import SQLiteWorkflowStore

@workflow(id="greet")
async def greet(ctx: Context, name: str) -> str:
    return await ctx.step(make_greeting, name)

async def make_greeting(name: str) -> str:
    Path("loop.txt").write_text(type(asyncio.get_running_loop()).__module__.partition(".")[0])
    return f"hello {name}"

@asynccontextmanager
async def open_runtime():
    async with SQLiteWorkflowStore.open("app.db") as store:
        await store.ensure_schema()
        yield WorkflowRuntime(store=store, workflows=[greet])

async def start(*names: str) -> None:
    async with open_runtime() as runtime:
        for name in names:
            await runtime.start_run(greet, name, run_id=name)

async def statuses() -> dict[str, int]:
    async with open_runtime() as runtime:
        return {status.value: count for status, count in (await runtime.store.count_runs()).items()}

nothing = 5
"""


@workflow(id="greet")
async def greet(ctx: Context, name: str) -> str:
    return f"hello {name}"


def test_handler_sweeps_once_in_each_event_loop(tmp_path: Path) -> None:
    """A serverless host calls it with its own arguments, each time under another event loop."""

    @asynccontextmanager
    async def open_runtime() -> AsyncIterator[WorkflowRuntime]:
        async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
            await store.ensure_schema()
            yield WorkflowRuntime(store=store, workflows=[greet])

    async def start() -> None:
        async with open_runtime() as runtime:
            for name in ("Ada", "Alan", "Grace"):
                await runtime.start_run(greet, name)

    handler = sweep_handler(open_runtime, timedelta(seconds=20), limit=2)
    asyncio.run(start())
    first, second, third = [asyncio.run(handler({"event": "tick"}, object())) for _ in range(3)]
    assert first["claimed"] == {"stale": 0, "timers": 0, "pending": 2}
    assert second["outcomes"] == {"finished": 1}
    assert third["outcomes"] == {}
    assert json.loads(json.dumps(first)) == first


async def test_summary_tells_of_ticks(tmp_path: Path) -> None:
    @workflow(id="unknown")
    async def unknown(ctx: Context, _: None) -> None:
        """Known to the deployment, and not to the one that sweeps."""

    clock = TestClock(datetime(2030, 1, 1, 0, 30, tzinfo=UTC))
    schedules = [
        Schedule(id=workflow.id, workflow=workflow, when=Every(timedelta(hours=1))) for workflow in (greet, unknown)
    ]
    async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
        await store.ensure_schema()
        deployed = WorkflowRuntime(store=store, workflows=[greet, unknown], schedules=schedules, clock=clock)
        await deployed.materialize_schedules()
        clock.advance(timedelta(minutes=30))
        runtime = WorkflowRuntime(store=store, workflows=[greet], clock=clock)
        summary = await sweep_handler(runtime, timedelta(seconds=20))()
    assert summary["ticks"] == {"started": 1}
    assert summary["unclaimable"] == ["unknown"]
    assert summary["tick_failures"] == {}


async def test_handler_takes_a_runtime_that_is_open(tmp_path: Path) -> None:
    async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
        await store.ensure_schema()
        runtime = WorkflowRuntime(store=store, workflows=[greet])
        await runtime.start_run(greet, "Ada")
        assert (await sweep_handler(runtime, timedelta(seconds=20))())["outcomes"] == {"finished": 1}


async def test_handler_refuses_what_is_no_runtime() -> None:
    for wrong in (5, lambda: 5):
        with pytest.raises(ConfigurationError, match="WorkflowRuntime"):
            await sweep_handler(wrong, timedelta(seconds=1))()  # type: ignore[arg-type]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def in_app(app: Path, code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=app, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def command(app: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workflow_runtime", *arguments],
        cwd=app, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_command_sweeps_once_and_exits(app: Path) -> None:
    in_app(app, "import asyncio, app; asyncio.run(app.start('Ada', 'Alan'))")
    done = command(app, "sweep", "app:open_runtime", "--budget", "20")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcomes"] == {"finished": 2}


@pytest.mark.parametrize("wrong", ["app", "app:missing", "missing:app", "app:nothing"])
def test_command_says_what_is_wrong_with_the_name(app: Path, wrong: str) -> None:
    done = command(app, "sweep", wrong)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert wrong.partition(":")[0] in done.stderr or "5" in done.stderr


def test_command_sends_no_more_queries_than_it_may(app: Path) -> None:
    in_app(app, "import asyncio, app; asyncio.run(app.start('Ada', 'Alan', 'Grace', 'Edsger'))")
    outcomes, sweeps = 0, 0
    while outcomes < 4:
        done = command(app, "sweep", "app:open_runtime", "--max-queries", "50")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert 0 < summary["queries"] <= 50
        outcomes += summary["outcomes"].get("finished", 0)
        sweeps += 1
        assert sweeps < 20
    assert sweeps > 1
    done = command(app, "sweep", "app:open_runtime", "--max-queries", "5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "at least 28 queries" in done.stderr


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_worker_command_drains_on_sigterm(app: Path, loop: str) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "workflow_runtime", "work", "app:open_runtime", "--loop", loop],
        cwd=app, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        in_app(app, "import asyncio, app; asyncio.run(app.start('Ada'))")
        deadline = time.monotonic() + 30
        while "finished" not in in_app(app, "import asyncio, app; print(asyncio.run(app.statuses()))"):
            assert time.monotonic() < deadline
        os.kill(worker.pid, signal.SIGTERM)
        output, _ = worker.communicate(timeout=30)
        assert worker.returncode == 0
        assert json.loads(output)["outcomes"] == {"finished": 1}
        assert (app / "loop.txt").read_text() == loop
    finally:
        worker.kill()
        worker.wait()


def test_worker_command_says_what_to_install_for_a_loop(app: Path) -> None:
    (app / "uvloop.py").write_text("raise ImportError('there is none')\n")
    done = command(app, "work", "app:open_runtime", "--loop", "uvloop")
    assert done.returncode == 2
    assert done.stderr == "--loop uvloop: there is none; pip install 'workflow-runtime[uvloop]'\n"
