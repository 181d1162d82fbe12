"""The engine's own cost of a durable step: runs of ten steps on the memory store, one after another and 64 at once.

    python benchmarks/engine_steps.py

The floor beside it awaits the same functions as plain tasks and writes their results as JSON: what any engine in
Python must do. CPU time is that of the process, so that a busy machine matters less.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_memory import InMemoryWorkflowStore

STEPS = 10
RUNS = 640
ROUNDS = 5
PAYLOAD = {"text": "x" * 286}
AT_ONCE = (1, 64)


async def work() -> dict[str, Any]:
    return PAYLOAD


@workflow(id="steps")
async def steps(ctx: Context, count: int) -> None:
    for _ in range(count):
        await ctx.step(work)


async def run_durably(at_once: int) -> None:
    runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[steps])

    async def some() -> None:
        for _ in range(RUNS // at_once):
            handle = await runtime.run_here(steps, STEPS)
            await handle.result()

    await asyncio.gather(*(some() for _ in range(at_once)))


async def run_plainly(at_once: int) -> None:
    async def some() -> None:
        for _ in range(RUNS // at_once * STEPS):
            json.loads(json.dumps(await asyncio.create_task(work())))

    await asyncio.gather(*(some() for _ in range(at_once)))


async def measure(run: Callable[[int], Awaitable[None]], at_once: int) -> tuple[float, float]:
    """Return steps a second, and microseconds of CPU a step."""
    began, cpu = time.perf_counter(), time.process_time()
    await run(at_once)
    done = RUNS * STEPS
    return done / (time.perf_counter() - began), (time.process_time() - cpu) / done * 1e6


async def main() -> None:
    measured: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for at_once in AT_ONCE:
            for name, run in (("durable", run_durably), ("plain tasks", run_plainly)):
                measured.setdefault((name, at_once), []).append(await measure(run, at_once))
    for (name, at_once), figures in measured.items():
        rates, cpu = zip(*figures, strict=True)
        print(
            f"{name}, {at_once} at once: "
            f"{statistics.median(rates):,.0f} steps/s [{min(rates):,.0f}-{max(rates):,.0f}], "
            f"{statistics.median(cpu):.1f} us CPU a step [{min(cpu):.1f}-{max(cpu):.1f}]"
        )


if __name__ == "__main__":
    asyncio.run(main())
