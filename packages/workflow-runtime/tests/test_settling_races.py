"""Nothing is lost that happens between the settling of a handler and the decision that follows."""

import asyncio

import pytest
from workflow_runtime import Context, TestClock, WorkflowRuntime, workflow
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
