"""The time of a replay, by the number of recorded steps. Needs no database.

python benchmarks/replay.py
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from workflow_runtime import Context, TestClock, WorkflowRuntime, workflow
from workflow_runtime.testing import run_until_blocked
from workflow_store_memory import InMemoryWorkflowStore

SIZES = (1_000, 10_000)


async def work(number: int) -> dict[str, Any]:
    return {"number": number, "text": "x" * 250}


@workflow(id="many-steps")
async def many_steps(ctx: Context, count: int) -> int:
    for number in range(count):
        await ctx.step(work, number)
    await ctx.wait_for_event("go")
    return count


async def replay_seconds(count: int, rounds: int = 3) -> float:
    """Record that many steps, then take the CPU time of the replay that a signal causes; the best of several runs."""
    return min([await _one(count) for _ in range(rounds)])


async def _one(count: int) -> float:
    runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[many_steps], clock=TestClock())
    handle = await runtime.start_run(many_steps, count)
    await run_until_blocked(runtime)
    await runtime.deliver_signal(handle.run_id, "go")
    started = time.process_time()  # of this process alone: a busy machine must not count
    await run_until_blocked(runtime)
    took = time.process_time() - started
    assert await handle.result() == count
    return took


async def main() -> None:
    times = {count: await replay_seconds(count) for count in SIZES}
    print(f"{'steps':>8} {'replay ms':>10} {'us a step':>10}")
    for count, seconds in times.items():
        print(f"{count:>8} {seconds * 1e3:>10.1f} {seconds / count * 1e6:>10.1f}")
    small, large = SIZES
    print(f"{large // small} times the steps take {times[large] / times[small]:.1f} times as long")


if __name__ == "__main__":
    asyncio.run(main())
