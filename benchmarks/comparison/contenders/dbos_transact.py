"""DBOS Transact, on PostgreSQL or a SQLite file (its default), without telemetry and with errors in the log alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from dbos import DBOS

from comparison.contenders.stopwatch import PAYLOAD, STEPS, Task, read_task, repeat, repeat_async


async def work() -> dict[str, Any]:
    return PAYLOAD


def work_here() -> dict[str, Any]:
    return PAYLOAD


def launch(task: Task) -> None:
    url = task.dsn.replace("postgresql://", "postgresql+psycopg://")
    if task.options.get("store") == "sqlite":
        url = f"sqlite:///{Path(task.folder, 'app.db')}"
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "enable_otlp": False})


async def measure(task: Task, count: int) -> None:
    step: Any = DBOS.step()(work)

    async def steps(count: int) -> None:
        for _ in range(count):
            await step()

    run: Any = DBOS.workflow()(steps)
    DBOS.launch()
    await repeat_async(task, lambda: run(count), count or 1)


def measure_here(task: Task, count: int) -> None:
    """The same without an event loop, one run after the other."""
    step: Any = DBOS.step()(work_here)

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    run: Any = DBOS.workflow()(steps)
    DBOS.launch()
    repeat(task, lambda: run(count), count or 1)


def main() -> None:
    task = read_task()
    launch(task)
    count = STEPS if task.workload == "steps" else 0
    if task.options.get("sync"):
        measure_here(task, count)
    else:
        asyncio.run(measure(task, count))


if __name__ == "__main__":
    main()
