"""Absurd: tasks in PostgreSQL functions, by its Python SDK. A run is spawned and then worked on by the same loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import psycopg
from absurd_sdk import Absurd, AsyncAbsurd
from absurdctl import BUNDLED_SCHEMA_SQL

from comparison.contenders.stopwatch import (
    CONNECTIONS,
    PAYLOAD,
    STEPS,
    Jobs,
    Task,
    read_task,
    repeat,
    repeat_async,
)


def prepare(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(BUNDLED_SCHEMA_SQL)
    client = Absurd(dsn)
    client.create_queue()
    client.close()


async def work() -> dict[str, Any]:
    return PAYLOAD


def steps_of(count: int, after_step: Callable[[], None] = lambda: None) -> Any:
    async def steps(_: Any, ctx: Any) -> None:
        for number in range(count):
            await ctx.step(f"work-{number}", work)
            after_step()

    return steps


def client_of(task: Task, count: int, after_step: Callable[[], None] = lambda: None) -> AsyncAbsurd:
    client = AsyncAbsurd(task.dsn)
    client.register_task("steps")(steps_of(count, after_step))
    return client


async def measure_runs(task: Task, count: int) -> None:
    """As many loops as runs at once; they share 16 connections, of which a client has one."""
    clients = itertools.cycle([client_of(task, count) for _ in range(min(task.at_once, CONNECTIONS))])

    async def run() -> None:
        client = next(clients)
        await client.spawn("steps", PAYLOAD)
        await client.work_batch()

    await repeat_async(task, run, count or 1)


def measure_runs_by_threads(task: Task, count: int) -> None:
    """The synchronous SDK, one run after the other."""
    client = Absurd(task.dsn)

    def steps(_: Any, ctx: Any) -> None:
        for number in range(count):
            ctx.step(f"work-{number}", lambda: PAYLOAD)

    client.register_task("steps")(steps)

    def run() -> None:
        client.spawn("steps", PAYLOAD)
        client.work_batch()

    repeat(task, run, count or 1)


async def measure_start(task: Task) -> None:
    client = client_of(task, 1)
    await repeat_async(task, lambda: client.spawn("steps", PAYLOAD))


async def measure_jobs(task: Task) -> None:
    jobs = Jobs(task)
    client = client_of(task, 1, jobs.handled)
    for _ in range(task.backlog):
        await client.spawn("steps", PAYLOAD)
    await jobs.drain(client.start_worker(concurrency=task.at_once), client.stop_worker)


def main() -> None:
    task = read_task()
    prepare(task.dsn)
    match task.workload:
        case "jobs":
            asyncio.run(measure_jobs(task))
        case "start":
            asyncio.run(measure_start(task))
        case workload if task.options.get("sync"):
            measure_runs_by_threads(task, STEPS if workload == "steps" else 0)
        case workload:
            asyncio.run(measure_runs(task, STEPS if workload == "steps" else 0))


if __name__ == "__main__":
    main()
