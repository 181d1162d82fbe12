"""A worker process whose step takes its time.

Its arguments are LOCATION STEP_S MAX_BLOCK_S block|await [LEASE_S].
It says when the step has begun, and how the drive ended.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from datetime import timedelta
from typing import Any

from workflow_runtime import Context, WorkflowRuntime, workflow

LEASE = timedelta(milliseconds=600)


def open_store(location: str) -> Any:
    """Open a Postgres database or a SQLite file."""
    if "://" in location:
        from workflow_store_postgres import PostgresWorkflowStore  # noqa: PLC0415

        return PostgresWorkflowStore.connect(location)
    from workflow_store_d1 import SQLiteWorkflowStore  # noqa: PLC0415

    return SQLiteWorkflowStore.open(location)


async def work(
    location: str, step_s: float, max_block_s: float, how: str, lease_s: float = LEASE.total_seconds()
) -> None:
    """Sweep one run."""

    async def step() -> str:
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        if how == "block":
            time.sleep(step_s)  # noqa: ASYNC251  # the subject
        else:
            await asyncio.sleep(step_s)
        return "child"

    @workflow(id="slow")
    async def slow(ctx: Context, _: None) -> str:
        return await ctx.step.options(id="step")(step)

    async with open_store(location) as store:
        runtime = WorkflowRuntime(
            store=store,
            workflows=[slow],
            lease=timedelta(seconds=lease_s),
            max_block=timedelta(seconds=max_block_s),
            owner="child",
        )
        report = await runtime.sweep(limit=1)
        sys.stdout.write(" ".join(report.outcomes) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(work(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4], *map(float, sys.argv[5:])))
