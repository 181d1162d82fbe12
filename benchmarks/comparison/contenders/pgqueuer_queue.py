"""PgQueuer on asyncpg: one at a time with batches of 1, else with its default of 10."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
from pgqueuer import AsyncpgDriver, QueueManager
from pgqueuer.queries import Queries

from comparison.contenders.stopwatch import BULK, PAYLOAD, Jobs, Task, read_task, repeat_async

BODY = json.dumps(PAYLOAD).encode()


async def queue_many(queries: Queries, count: int) -> None:
    await queries.enqueue(["job"] * count, [BODY] * count, [0] * count)


async def measure_jobs(task: Task, queries: Queries) -> None:
    jobs, manager = Jobs(task), QueueManager(queries)

    async def work(_: Any) -> None:
        jobs.handled()

    manager.entrypoint("job")(work)
    for begin in range(0, task.backlog, BULK):
        await queue_many(queries, min(BULK, task.backlog - begin))
    await jobs.drain(manager.run(batch_size=min(task.at_once, 10)), manager.shutdown.set)


async def main(task: Task) -> None:
    queries = Queries(AsyncpgDriver(await asyncpg.connect(task.dsn)))
    await queries.install()
    match task.workload:
        case "jobs":
            await measure_jobs(task, queries)
        case "start":
            await repeat_async(task, lambda: queries.enqueue("job", BODY))
        case _:
            await repeat_async(task, lambda: queue_many(queries, BULK), BULK)


if __name__ == "__main__":
    asyncio.run(main(read_task()))
