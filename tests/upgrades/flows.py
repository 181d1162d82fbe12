"""The program of the rolling deploy: the same text runs on each release."""

import asyncio
import os
import sys
from datetime import timedelta
from typing import Any

from workflow_runtime import Context, WorkflowRuntime, workflow

PAUSE = timedelta(milliseconds=20)


async def note(number: int) -> int:
    await asyncio.sleep(0.002)
    return number


@workflow(id="three-steps")
async def three_steps(ctx: Context, number: int) -> int:
    total = 0
    for step in range(3):
        total += await ctx.step.options(id=f"note-{step}")(note, number)
        await ctx.sleep(PAUSE)
    return total


def open_store(where: str) -> Any:
    if where.startswith("postgresql"):
        from workflow_store_postgres import PostgresWorkflowStore  # noqa: PLC0415

        return PostgresWorkflowStore.connect(where)
    from workflow_store_d1 import SQLiteWorkflowStore  # noqa: PLC0415

    return SQLiteWorkflowStore.open(where)


async def work(where: str) -> None:
    """Work until SIGTERM, or end with the error that says why not."""
    async with open_store(where) as store:
        runtime = WorkflowRuntime(store=store, workflows=[three_steps], lease=timedelta(seconds=2))
        await runtime.work()


async def start(where: str, first: int, count: int) -> None:
    """Start runs, one after the other, as an application does all day."""
    async with open_store(where) as store:
        runtime = WorkflowRuntime(store=store, workflows=[three_steps])
        for number in range(first, first + count):
            await runtime.start_run(three_steps, number, run_id=f"run-{number}")
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    import workflow_store_sql

    release = os.environ["EXPECTED_RELEASE"]
    assert workflow_store_sql.__version__ == release, f"this is {workflow_store_sql.__version__}, not {release}"
    match sys.argv[1:]:
        case ["work", where]:
            asyncio.run(work(where))
        case ["start", where, first, count]:
            asyncio.run(start(where, int(first), int(count)))
