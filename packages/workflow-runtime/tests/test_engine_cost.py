"""The cost of a step in the engine, as counts that are the same on every machine."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_memory import InMemoryWorkflowStore

FEW, MANY = 20, 120


async def work() -> int:
    return 1


@workflow(id="steps")
async def steps(ctx: Context, count: int) -> None:
    for _ in range(count):
        await ctx.step(work)


async def run_of(count: int) -> None:
    runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[steps])
    await (await runtime.run_here(steps, count)).result()


async def per_step(counted: Callable[[], int], run: Callable[[int], Any]) -> float:
    """Count something in a short run and in a long one: what a step adds, without what a run adds."""
    await run(FEW)  # imports and caches
    counts = []
    for count in (FEW, MANY):
        before = counted()
        await run(count)
        counts.append(counted() - before)
    return (counts[1] - counts[0]) / (MANY - FEW)


async def test_a_step_takes_so_many_calls_of_functions() -> None:
    """Of functions in Python, coroutines that go on included: the engine's, asyncio's and the store's."""
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    async def run(count_of_steps: int) -> None:
        sys.setprofile(count)
        try:
            await run_of(count_of_steps)
        finally:
            sys.setprofile(None)

    assert await per_step(lambda: calls, run) <= 245


async def test_a_step_takes_so_many_turns_of_the_event_loop() -> None:
    """One lets others in where a database would; the step is a task, its end wakes the driver."""
    turns = 0
    loop = asyncio.get_running_loop()
    call_soon = loop.call_soon

    def count(*args: Any, **options: Any) -> asyncio.Handle:
        nonlocal turns
        turns += 1
        return call_soon(*args, **options)

    loop.call_soon = count  # type: ignore[method-assign,assignment]  # the only way into a turn
    try:
        assert await per_step(lambda: turns, run_of) <= 4
    finally:
        del loop.call_soon
