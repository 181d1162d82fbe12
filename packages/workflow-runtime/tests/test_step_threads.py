"""Plain functions run on threads of the runtime's own. Nobody can interrupt one: so nobody may begin it twice."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    Context,
    InvalidArgumentError,
    RetryPolicy,
    RunStatus,
    StepFailedError,
    StoreUnavailableError,
    fixed_backoff,
    step_info,
    workflow,
)

if TYPE_CHECKING:
    from conftest import Lab

NOW = timedelta(0)
AT_ONCE = RetryPolicy(max_attempts=3, backoff=fixed_backoff(NOW), jitter=0)


class Blocker:
    """A plain function that goes on until a test lets it go, and counts how many of it run at once."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.calls = 0
        self.now = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, result: Any = "blocked") -> Any:
        with self._lock:
            self.calls += 1
            self.now += 1
            self.most = max(self.most, self.now)
        self.begun.set()
        assert self.go_on.wait(30)
        with self._lock:
            self.now -= 1
        return result


@pytest.fixture
def block() -> Iterator[Blocker]:
    blocker = Blocker()
    yield blocker
    blocker.go_on.set()


async def echo(value: Any) -> Any:
    return value


def blocking(block: Blocker, **options: Any) -> Any:
    """A workflow that blocks a thread, and then goes on."""

    @workflow(id="blocks")
    async def blocks(ctx: Context, _: Any) -> Any:
        first = await ctx.step.options(id="block", **options)(block)
        return [first, await ctx.step(echo, "second")]

    return blocks


# A stop.


@pytest.mark.parametrize("how", ["drain", "cancel"])
@pytest.mark.parametrize("call", ["work", "sweep", "run_here"])
async def test_run_whose_function_outlives_the_stop_is_not_handed_over(
    lab: Lab, block: Blocker, call: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on. Its lease runs out, if the process lives as long; a process that ends takes it along."""
    monkeypatch.setattr("workflow_runtime.drives._HAND_OVER_S", 0.5)
    blocks = blocking(block)
    runtime = lab.runtime(blocks)
    stop = asyncio.Event()
    if call == "run_here":
        if how == "drain":
            return  # nobody but a cancellation stops it
        task: asyncio.Task[Any] = asyncio.create_task(runtime.run_here(blocks, run_id="run"))
    else:
        await runtime.start_run(blocks, run_id="run")
        options: dict[str, Any] = {"stop": stop, "drain_timeout": timedelta(milliseconds=50)}
        options |= {"handle_signals": False}
        task = asyncio.create_task(getattr(runtime, call)(**options))
    await lab.until(block.begun.is_set)
    stop.set() if how == "drain" else task.cancel()
    await asyncio.wait({task}, timeout=10)
    assert task.done()
    assert (await lab.status("run"), block.calls) == (RunStatus.RUNNING, 1)
    assert (await lab.sweep(blocks)).total == 0, "nobody gets it while the lease lasts"
    lab.advance(seconds=31)
    block.go_on.set()
    await lab.until(lambda: block.now == 0)  # as when the process has ended
    assert (await lab.sweep(blocks)).outcomes == {"finished": 1}
    assert (block.calls, block.most) == (2, 1)


async def test_function_that_ends_within_the_stop_is_recorded(lab: Lab, block: Blocker) -> None:
    """Though it was to be cancelled: what it has done is not done again elsewhere."""
    blocks = blocking(block)
    runtime = lab.runtime(blocks)
    handle = await runtime.start_run(blocks, run_id="run")
    async with lab.working(runtime, drain_timeout=timedelta(seconds=2)) as stop:
        await lab.until(block.begun.is_set)
        runtime._drivers["run"].stop(cancel_steps=True)
        stop.set()
        await asyncio.sleep(0.05)
        assert await lab.status("run") is RunStatus.RUNNING
        block.go_on.set()
    assert await lab.log("run") == ["step-completed block"]
    assert await lab.status("run") is RunStatus.QUEUED
    await lab.sweep(blocks)
    assert await handle.result() == ["blocked", "second"]
    assert block.calls == 1


async def test_function_that_has_no_thread_yet_does_not_begin_after_the_stop(lab: Lab, block: Blocker) -> None:
    """Its run is handed over at once."""
    blocks = blocking(block)
    runtime = lab.runtime(blocks, step_threads=1)
    for number in range(3):
        await runtime.start_run(blocks, run_id=f"run-{number}", priority=-number)

    def statuses() -> list[RunStatus]:
        return sorted(run.status for run in lab.data.runs.values())

    async with lab.working(runtime) as stop:
        await lab.until(lambda: block.begun.is_set() and len(runtime._drivers) == 3)
        await asyncio.sleep(0.01)
        stop.set()
        await lab.until(lambda: statuses() == [RunStatus.QUEUED, RunStatus.QUEUED, RunStatus.RUNNING])
        block.go_on.set()
    assert block.calls == 1
    assert [await lab.log(f"run-{number}") for number in range(3)] == [["step-completed block"], [], []]


# A timeout.


@pytest.mark.real_time
async def test_next_attempt_waits_for_the_function_of_the_one_before(
    lab: Lab, block: Blocker, caplog: pytest.LogCaptureFixture
) -> None:
    blocks = blocking(
        block, timeout=timedelta(seconds=0.5), retry=RetryPolicy(max_attempts=50, backoff=AT_ONCE.backoff)
    )
    runtime = lab.runtime(blocks)
    task = asyncio.create_task(runtime.run_here(blocks, run_id="run"))
    await lab.until(lambda: "attempt 1 is over" in caplog.text)
    assert "run 'run', step 'block': its plain function cannot be interrupted and goes on" in caplog.text
    await asyncio.sleep(0.05)
    assert block.calls == 1
    block.go_on.set()
    assert await (await task).result() == ["blocked", "second"]
    assert (block.calls, block.most) == (2, 1)


@pytest.mark.real_time
async def test_function_that_never_returns_uses_up_the_attempts(lab: Lab, block: Blocker) -> None:
    """The attempts that wait for it end by their timeouts: the step fails in time, and the handler hears of it."""

    @workflow(id="blocks")
    async def blocks(ctx: Context, _: Any) -> Any:
        try:
            await ctx.step.options(id="block", timeout=timedelta(seconds=0.5), retry=AT_ONCE)(block)
        except StepFailedError as error:
            return [error.error_type, error.attempts]

    handle = await asyncio.wait_for(lab.runtime(blocks).run_here(blocks), 10)
    assert await handle.result() == ["StepTimeoutError", 3]
    assert block.calls == 1


@pytest.mark.real_time
@pytest.mark.parametrize("end", ["returns", "stop"])
async def test_run_is_kept_between_attempts_while_the_function_runs(lab: Lab, block: Blocker, end: str) -> None:
    """Paused, it would be anybody's when the next attempt is due."""
    hour = RetryPolicy(max_attempts=3, backoff=fixed_backoff(timedelta(hours=1)), jitter=0)
    blocks = blocking(block, timeout=timedelta(seconds=0.5), retry=hour)
    runtime = lab.runtime(blocks)
    await runtime.start_run(blocks, run_id="run")

    async def retrying() -> bool:
        return await lab.log("run") == ["step-retrying block"]

    async with lab.working(runtime, drain_timeout=timedelta(milliseconds=50)) as stop:
        async with asyncio.timeout(10):
            while not await retrying():
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        assert await lab.status("run") is RunStatus.RUNNING
        for _ in range(4):  # its lease is renewed
            lab.advance(seconds=20)
            await asyncio.sleep(0.02)
        assert await lab.sweep(blocks, limit=1) is not None
        assert await lab.status("run") is RunStatus.RUNNING
        if end == "returns":
            block.go_on.set()
            await lab.until(lambda: lab.data.runs["run"].status is RunStatus.PAUSED)
        else:
            stop.set()
    assert await lab.status("run") is (RunStatus.PAUSED if end == "returns" else RunStatus.RUNNING)
    assert block.calls == 1


@pytest.mark.real_time
async def test_function_whose_step_is_settled_keeps_nobody(lab: Lab, block: Blocker) -> None:
    """A failed step is not made again: its run goes on, ends, and is let go beside the thread."""

    @workflow(id="blocks")
    async def blocks(ctx: Context, _: Any) -> Any:
        try:
            await ctx.step.options(id="block", timeout=timedelta(seconds=0.5), retry=RetryPolicy(max_attempts=1))(block)
        except StepFailedError:
            await ctx.sleep(timedelta(days=1))
        return "on"

    handle = await asyncio.wait_for(lab.runtime(blocks).run_here(blocks, run_id="run"), 10)
    assert await lab.status("run") is RunStatus.PAUSED
    lab.advance(days=1)
    await lab.sweep(blocks)
    assert await handle.result() == "on"
    assert block.now == 1


async def test_run_that_comes_back_waits_for_its_function(lab: Lab, block: Blocker) -> None:
    """The lease was lost, and the same runtime has the run again while the thread of the first drive still runs."""
    blocks = blocking(block)
    runtime = lab.runtime(blocks)
    first = asyncio.create_task(runtime.run_here(blocks, run_id="run"))
    await lab.until(block.begun.is_set)
    stolen = await lab.steal("run")
    lab.advance(seconds=11)
    await first
    await lab.store().release_run_lease(
        run_id="run", lease_token=stolen.lease.token, operation_id="back", now_ms=lab.clock.now_ms()
    )
    again = asyncio.create_task(runtime.sweep())
    await asyncio.sleep(0.05)
    assert block.calls == 1
    block.go_on.set()
    assert (await again).outcomes == {"finished": 1}
    assert (block.calls, block.most) == (2, 1)


async def test_lease_is_kept_while_a_function_runs_though_the_drive_has_failed(lab: Lab, block: Blocker) -> None:
    away = False

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if away and verb == "append_events":
            raise StoreUnavailableError("gone")

    async def wait_for_the_block() -> None:
        await lab.until(block.begun.is_set)

    @workflow(id="blocks")
    async def blocks(ctx: Context, _: Any) -> None:
        await asyncio.gather(ctx.step(block), ctx.step(wait_for_the_block))

    store = lab.tapped()
    store.before = fail
    runtime = lab.runtime(blocks, store=store)
    away = True
    task = asyncio.create_task(runtime.run_here(blocks, run_id="run"))
    async with asyncio.timeout(30):
        while store.calls.count("append_events") < 2:
            await asyncio.sleep(0.01)
        for _ in range(50):
            lab.advance(seconds=10)
            await asyncio.sleep(0.1)
    assert "heartbeat_run_leases" in store.calls
    assert (await lab.sweep(blocks)).total == 0
    away = False
    block.go_on.set()
    await asyncio.wait_for(task, 30)
    assert block.calls == 1


# The threads.


async def test_steps_leave_the_threads_of_the_event_loop_alone(lab: Lab, block: Blocker) -> None:
    """Name resolution needs them."""

    @workflow(id="blocks")
    async def blocks(ctx: Context, _: Any) -> Any:
        return await asyncio.gather(*(ctx.step(block, number) for number in range(64)))

    runtime = lab.runtime(blocks, step_threads=64)
    task = asyncio.create_task(runtime.run_here(blocks))
    await lab.until(lambda: block.now == 64, seconds=20)
    loop = asyncio.get_running_loop()
    assert await asyncio.wait_for(loop.getaddrinfo("127.0.0.1", 80), 5)
    block.go_on.set()
    assert await (await task).result() == list(range(64))


@pytest.mark.parametrize("size", [1, 3])
async def test_no_more_functions_run_at_once_than_there_are_threads(lab: Lab, block: Blocker, size: int) -> None:
    @workflow(id="blocks")
    async def blocks(ctx: Context, _: Any) -> Any:
        return await asyncio.gather(*(ctx.step(block, number) for number in range(10)))

    task = asyncio.create_task(lab.runtime(blocks, step_threads=size).run_here(blocks))
    await lab.until(lambda: block.now == size)
    await asyncio.sleep(0.05)
    assert block.calls == size
    block.go_on.set()
    assert await (await task).result() == list(range(10))
    assert block.most == size


def test_size_must_be_positive(lab: Lab) -> None:
    with pytest.raises(InvalidArgumentError, match="step_threads"):
        lab.runtime(step_threads=0)


def step_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "workflow step"]


async def test_threads_are_made_when_needed_and_go_when_not(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflow_runtime.engine.step_threads._IDLE_S", 0.05)

    def name() -> str:
        return threading.current_thread().name

    @workflow(id="names")
    async def names(ctx: Context, _: Any) -> Any:
        return [await ctx.step(name) for _ in range(10)]

    of_other_tests = set(step_threads())  # they end in their own time

    def made() -> set[threading.Thread]:
        return set(step_threads()) - of_other_tests

    runtime = lab.runtime(names)
    assert not made()
    handle = await runtime.run_here(names)
    assert len(made()) == 1, "one thread is used again and again"
    assert await handle.result() == ["workflow step"] * 10
    await lab.until(lambda: not made())
    assert await (await runtime.run_here(names)).result() == ["workflow step"] * 10


async def test_function_has_the_context_of_its_step(lab: Lab) -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request")

    def look() -> list[Any]:
        return [request.get(), step_info().step_id, step_info().attempt]

    @workflow(id="looks")
    async def looks(ctx: Context, _: Any) -> Any:
        request.set("r-1")
        return await ctx.step.options(id="look")(look)

    assert await lab.finish(looks) == ["r-1", "look", 1]


async def test_function_may_make_a_coroutine(lab: Lab) -> None:
    @workflow(id="makes")
    async def makes(ctx: Context, _: Any) -> Any:
        return await ctx.step(lambda: echo("made"))

    assert await lab.finish(makes) == "made"


async def test_coroutine_that_a_function_makes_is_cancelled_by_a_stop(lab: Lab) -> None:
    reached = asyncio.Event()

    async def wait() -> None:
        reached.set()
        await asyncio.Event().wait()

    @workflow(id="makes")
    async def makes(ctx: Context, _: Any) -> Any:
        return await ctx.step(lambda _: wait(), None)

    runtime = lab.runtime(makes)
    await runtime.start_run(makes, run_id="run")
    async with lab.working(runtime, drain_timeout=NOW) as stop:
        await reached.wait()
        stop.set()
    assert await lab.status("run") is RunStatus.QUEUED


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="needs Python 3.12")
async def test_application_may_start_its_tasks_eagerly(lab: Lab) -> None:
    @workflow(id="both")
    async def both(ctx: Context, _: Any) -> Any:
        return [await ctx.step(lambda: "plain"), await ctx.step(echo, "async")]

    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]  # new in 3.12
    try:
        assert await lab.finish(both) == ["plain", "async"]
    finally:
        loop.set_task_factory(None)


async def test_system_without_another_thread_fails_the_attempt(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one may find one."""
    refusals = 0
    start = threading.Thread.start

    def refuse_once(thread: threading.Thread) -> None:
        nonlocal refusals
        if thread.name == "workflow step" and not refusals:
            refusals += 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)

    @workflow(id="plain")
    async def plain(ctx: Context, _: Any) -> Any:
        return await ctx.step.options(id="plain", retry=AT_ONCE)(lambda: "done")

    assert await lab.finish(plain, run_id="run") == "done"
    assert (await lab.log("run"))[0] == "step-retrying plain"


def python(code: str, *, seconds: float = 30) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, check=False, timeout=seconds, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.real_time
def test_function_that_never_returns_does_not_keep_the_interpreter() -> None:
    started = time.monotonic()
    output = python(
        """
        import asyncio, threading, time
        from datetime import timedelta
        from workflow_runtime import Context, RetryPolicy, WorkflowRuntime, workflow
        from workflow_store_memory import InMemoryWorkflowStore

        def hang():
            threading.Event().wait()

        @workflow(id="hangs")
        async def hangs(ctx: Context, _: None) -> str:
            try:
                await ctx.step.options(timeout=timedelta(seconds=0.1), retry=RetryPolicy(max_attempts=1))(hang)
            except Exception as error:
                return type(error).__name__

        async def main():
            runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[hangs])
            handle = await runtime.run_here(hangs)
            print(await handle.result())

        asyncio.run(main())
        """
    )
    assert output == "StepFailedError\n"
    assert time.monotonic() - started < 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_child_of_a_fork_has_threads_of_its_own() -> None:
    output = python(
        """
        import asyncio, os, sys
        from workflow_runtime import Context, WorkflowRuntime, workflow
        from workflow_store_memory import InMemoryWorkflowStore

        @workflow(id="plain")
        async def plain(ctx: Context, _: None) -> str:
            return await ctx.step(lambda: "done")

        runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[plain])

        async def main():
            return await (await asyncio.wait_for(runtime.run_here(plain), 20)).result()

        print("parent", asyncio.run(main()), flush=True)
        pid = os.fork()
        if pid == 0:
            # The parent's store is refused here; its threads are what this is about.
            fresh = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[plain])
            runtime._tables, runtime._store = fresh._tables, fresh._store
            print("child", asyncio.run(main()), flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        """
    )
    assert output == "parent done\nchild done\n"


def test_import_makes_no_thread() -> None:
    assert python("import workflow_runtime, threading; print(threading.active_count())") == "1\n"


def test_python_without_threads_calls_plain_functions_at_once() -> None:
    """As in Pyodide, whose event loop does so; nothing of ours may even import `threading` there."""
    output = python(
        """
        import asyncio, builtins, sys

        known = builtins.__import__

        def refuse(name, globals=None, *others, **options):
            importer = (globals or {}).get("__name__") or ""
            if importer.startswith("workflow_runtime") and name in ("threading", "concurrent.futures"):
                raise ImportError(f"{importer} imports {name}")
            return known(name, globals, *others, **options)

        builtins.__import__ = refuse
        sys.platform = "emscripten"
        from workflow_runtime import Context, WorkflowRuntime, workflow
        builtins.__import__ = known
        from workflow_store_memory import InMemoryWorkflowStore
        builtins.__import__ = refuse

        @workflow(id="plain")
        async def plain(ctx: Context, _: None) -> str:
            return await ctx.step(lambda: "done")

        async def main():
            async def at_once(function, *args):
                return function(*args)
            asyncio.to_thread = at_once
            runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[plain])
            handle = await runtime.start_run(plain)
            stop = asyncio.Event()
            working = asyncio.create_task(runtime.work(stop=stop))
            print(await handle.result())
            stop.set()
            await working

        asyncio.run(main())
        """
    )
    assert output == "done\n"
