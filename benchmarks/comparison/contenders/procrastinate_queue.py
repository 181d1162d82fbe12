"""Procrastinate on psycopg with its C library, with its defaults."""

from __future__ import annotations

import asyncio
from typing import Any

from procrastinate import App, PsycopgConnector

from comparison.contenders.stopwatch import BULK, CONNECTIONS, PAYLOAD, Jobs, Task, read_task, repeat_async


async def measure_jobs(task: Task, app: App) -> None:
    jobs = Jobs(task)

    async def work(**_: Any) -> None:
        jobs.handled()

    job: Any = app.task(name="job")(work)
    for begin in range(0, task.backlog, BULK):
        await job.batch_defer_async(*[PAYLOAD] * min(BULK, task.backlog - begin))
    # Without `wait` it ends by itself when nothing is left; who asks it earlier is the end of the process.
    worker = app.run_worker_async(concurrency=task.at_once, wait=False, install_signal_handlers=False)
    await jobs.drain(worker, lambda: None)


async def main(task: Task) -> None:
    app = App(connector=PsycopgConnector(conninfo=task.dsn, min_size=4, max_size=CONNECTIONS))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        if task.workload == "jobs":
            await measure_jobs(task, app)

        async def nothing(**_: Any) -> None: ...

        job: Any = app.task(name="job")(nothing)
        if task.workload == "start":
            await repeat_async(task, lambda: job.defer_async(**PAYLOAD))
        await repeat_async(task, lambda: job.batch_defer_async(*[PAYLOAD] * BULK), BULK)


if __name__ == "__main__":
    asyncio.run(main(read_task()))
