"""This project's own runtime, on its three stores. Also runs the code of earlier releases."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from workflow_runtime import Context, RunStatus, WorkflowRuntime, workflow

from comparison.contenders import notices
from comparison.contenders.stopwatch import (
    BULK,
    CONNECTIONS,
    PAYLOAD,
    STEPS,
    Jobs,
    Task,
    absent,
    answer,
    read_task,
    repeat_async,
    wait_for_go,
)

SIGNALS = 60
PAUSE_S = 0.03
AT_ONCE = 64
"""Starts at once, where runs are queued before anything is measured."""

handled: Callable[[], None] = lambda: None  # noqa: E731


async def work() -> dict[str, Any]:
    return PAYLOAD


async def work_on_job() -> dict[str, Any]:
    handled()
    return PAYLOAD


@workflow(id="steps")
async def steps(ctx: Context, count: int) -> None:
    for _ in range(count):
        await ctx.step(work)


@workflow(id="job")
async def job(ctx: Context, _: dict[str, Any]) -> None:
    await ctx.step(work_on_job)


@workflow(id="signalled")
async def signalled(ctx: Context, _: None) -> float:
    await ctx.wait_for_event("go")
    return time.monotonic()


async def measure_steps(task: Task, runtime: WorkflowRuntime) -> None:
    async def run() -> None:
        await (await runtime.run_here(steps, STEPS)).result()

    await repeat_async(task, run, STEPS)


async def measure_empty(task: Task, runtime: WorkflowRuntime) -> None:
    async def run() -> None:
        await (await runtime.run_here(steps, 0)).result()

    await repeat_async(task, run)


async def measure_start(task: Task, runtime: WorkflowRuntime) -> None:
    await repeat_async(task, lambda: runtime.start_run(job, PAYLOAD))


async def measure_start_many(task: Task, runtime: WorkflowRuntime) -> None:
    if not hasattr(runtime, "start_runs"):
        absent("no call that starts many runs")
    from workflow_runtime import StartRun  # noqa: PLC0415  # the release before has none

    runs = [StartRun(input=PAYLOAD)] * BULK
    await repeat_async(task, lambda: runtime.start_runs(job, runs), BULK)


async def measure_jobs(task: Task, runtime: WorkflowRuntime) -> None:
    global handled  # noqa: PLW0603  # a step is a function without arguments here
    jobs, stop, numbers = Jobs(task), asyncio.Event(), iter(range(task.backlog))
    handled = jobs.handled

    async def queue_some() -> None:
        for _ in numbers:
            await runtime.start_run(job, PAYLOAD)

    await asyncio.gather(*(queue_some() for _ in range(AT_ONCE)))
    await jobs.drain(runtime.work(concurrency=task.at_once, stop=stop, handle_signals=False), stop.set)


async def measure_signal(task: Task, runtime: WorkflowRuntime) -> None:
    """Two processes beside this one: a worker that drives the runs, and a listener for the raw limit."""
    for role in ("ours", "notices"):
        subprocess.Popen([sys.executable, "-m", f"comparison.contenders.{role}", "serve", task.dsn])  # noqa: ASYNC220
    handles = [await runtime.start_run(signalled) for _ in range(SIGNALS)]
    while not all([await handle.status() is RunStatus.PAUSED for handle in handles]):  # noqa: ASYNC110  # another process
        await asyncio.sleep(0.05)
    wait_for_go()
    raw_s = await notices.round_trips(task.dsn, SIGNALS, PAUSE_S)
    sent = []
    for handle in handles:
        await asyncio.sleep(PAUSE_S)
        sent.append(time.monotonic())
        await runtime.deliver_signal(handle.run_id, "go")
    took_s = [await handle.result() - at for handle, at in zip(handles, sent, strict=True)]
    answer(value=statistics.median(took_s) * 1e3, floor=statistics.median(raw_s) * 1e3)


WORKLOADS: dict[str, Callable[[Task, WorkflowRuntime], Coroutine[Any, Any, None]]] = {
    "steps": measure_steps,
    "empty": measure_empty,
    "start": measure_start,
    "start-many": measure_start_many,
    "jobs": measure_jobs,
    "signal": measure_signal,
}


@asynccontextmanager
async def open_store(task: Task) -> AsyncIterator[Any]:
    options = {name: value for name, value in task.options.items() if name == "combine"}
    match task.options.get("store", "postgres"):
        case "memory":
            from workflow_store_memory import InMemoryWorkflowStore  # noqa: PLC0415  # the others are not loaded

            yield InMemoryWorkflowStore()
        case "sqlite":
            from workflow_store_d1 import SQLiteWorkflowStore  # noqa: PLC0415

            async with SQLiteWorkflowStore.open(Path(task.folder, "app.db"), **options) as file:
                await file.ensure_schema()
                yield file
        case _:
            from workflow_store_postgres import PostgresWorkflowStore  # noqa: PLC0415

            async with PostgresWorkflowStore.connect(task.dsn, max_size=CONNECTIONS, **options) as store:
                await store.ensure_schema()
                yield store


async def main(task: Task) -> None:
    async with open_store(task) as store:
        await WORKLOADS[task.workload](task, WorkflowRuntime(store=store, workflows=[steps, job, signalled]))


async def serve(dsn: str) -> None:
    async with open_store(Task("signal", dsn=dsn)) as store:
        await WorkflowRuntime(store=store, workflows=[signalled]).work()


def loop_factory_of(task: Task) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not task.options.get("uvloop"):
        return None
    import uvloop  # noqa: PLC0415  # not everywhere

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def run() -> None:
    if sys.argv[1] == "serve":
        asyncio.run(serve(sys.argv[2]))
        return
    task = read_task()
    with asyncio.Runner(loop_factory=loop_factory_of(task)) as runner:
        runner.run(main(task))


if __name__ == "__main__":
    run()
