"""A process with one worker, for the tests of signals; when the worker has stopped, a second one takes over."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore


async def step(name: str) -> str:
    """Tell what happens; the first one goes on when a line is written to the process."""
    print(f"{name}: started")
    try:
        if name == "first":
            await asyncio.shield(told)
    except asyncio.CancelledError:
        print(f"{name}: cancelled")
        raise
    print(f"{name}: ended")
    return name


@workflow()
async def two_steps(ctx: Context, _: Any) -> list[str]:
    return [await ctx.step(step, "first"), await ctx.step(step, "second")]


def go_on() -> None:
    """Somebody has written a line."""
    line = sys.stdin.readline()
    if not told.done():
        told.set_result(line)


async def main() -> None:
    global told  # noqa: PLW0603  # belongs to the loop
    told = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(sys.stdin, go_on)
    data = InMemoryData()
    first, second = (WorkflowRuntime(store=InMemoryWorkflowStore(data=data), workflows=[two_steps]) for _ in range(2))
    handle = await first.start_run(two_steps)
    report = await first.work()
    outcomes = {str(outcome): count for outcome, count in report.outcomes.items()}
    print(f"worker: {outcomes}")
    await second.sweep()
    print(f"result: {await handle.result()}")


told: asyncio.Future[str]
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
asyncio.run(main())
