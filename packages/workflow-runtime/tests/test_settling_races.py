"""Nothing is lost that happens between the settling of a handler and the decision that follows."""

import asyncio
from typing import Any

import pytest
from workflow_runtime import Context, TestClock, WorkflowRuntime, workflow
from workflow_runtime.engine import drive_parts
from workflow_runtime.engine.step_tasks import StepTasks
from workflow_store_memory import InMemoryWorkflowStore


@pytest.mark.parametrize("turns", range(30))
async def test_a_step_that_ends_in_any_turn_of_the_loop_is_recorded(turns: int) -> None:
    """Two steps side by side, of which the second takes so many turns of the event loop: one sweep ends the run."""

    async def quick() -> int:
        return 1

    async def slow() -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return 2

    @workflow(id="two-steps")
    async def two_steps(ctx: Context, _: None) -> list[int]:
        return list(await asyncio.gather(ctx.step(quick), ctx.step(slow)))

    runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[two_steps], clock=TestClock())
    handle = await runtime.start_run(two_steps)
    await runtime.sweep(limit=1)
    assert await handle.status() == "finished"
    assert await handle.result() == [1, 2]


async def test_step_counts_once_from_its_start_to_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the moment when it has ended and its task is still there: the budget asks at every query."""
    made: list[StepTasks] = []
    counted: list[int] = []

    class Watched(StepTasks):
        def __init__(self, **parts: Any) -> None:
            super().__init__(**parts)
            made.append(self)

    async def count() -> None:
        while True:
            counted.extend(steps.unrecorded for steps in made)
            await asyncio.sleep(0)

    async def body() -> None:
        await asyncio.sleep(0)

    @workflow()
    async def two(ctx: Context, _: Any) -> None:
        await asyncio.gather(ctx.step(body), ctx.step(body))

    monkeypatch.setattr(drive_parts, "StepTasks", Watched)
    counting = asyncio.create_task(count())
    runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[two], clock=TestClock())
    await (await runtime.run_here(two, None)).result()
    counting.cancel()
    assert max(counted) == 2
