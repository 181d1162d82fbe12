"""The cost of a step in the engine, as counts that are the same on every machine."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


class Calls:
    """A count of the calls of functions in Python, coroutines that go on included."""

    def __init__(self) -> None:
        self.made = 0

    def _count(self, frame: Any, event: str, arg: Any) -> None:
        self.made += event == "call"

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is called in the block."""
        sys.setprofile(self._count)
        try:
            yield
        finally:
            sys.setprofile(None)


async def test_a_step_takes_so_many_calls_of_functions() -> None:
    """The engine's, asyncio's and the store's."""
    calls = Calls()

    async def run(count_of_steps: int) -> None:
        with calls.counted():
            await run_of(count_of_steps)

    assert await per_step(lambda: calls.made, run) <= 245


async def test_a_run_takes_so_many_calls_of_functions() -> None:
    """From its start to its result, without a step; and as many when others are there."""
    calls = Calls()
    runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[steps])
    made = []
    for at_once in (20, 20, 60):
        before = calls.made
        with calls.counted():
            await asyncio.gather(*(runtime.run_here(steps, 0) for _ in range(at_once)))
        made.append(calls.made - before)
    assert (made[2] - made[1]) / 40 <= 485


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
