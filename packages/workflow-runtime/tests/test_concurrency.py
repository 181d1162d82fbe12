"""Branches of one handler: `gather`, `TaskGroup`, `asyncio.wait` and asyncio's own tools between them."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import NO_RETRY, Context, RunFailedError, RunStatus, StepFailedError, workflow
from workflow_runtime.testing import run_to_completion

if TYPE_CHECKING:
    from conftest import Gate, Lab

SECOND = timedelta(seconds=1)


async def echo(value: Any) -> Any:
    return value


async def test_gather_keeps_the_order_of_its_arguments(lab: Lab) -> None:
    """Whatever ends first."""

    @workflow()
    async def gathers(ctx: Context, _: Any) -> Any:
        async def branch(seconds: int) -> Any:
            await ctx.sleep(SECOND * seconds)
            return await ctx.step(echo, seconds)

        return await asyncio.gather(*(branch(seconds) for seconds in (3, 1, 2)))

    assert await lab.finish(gathers) == [3, 1, 2]


async def test_automatic_ids_of_branches_belong_to_the_same_branch_in_a_replay(lab: Lab) -> None:
    """Branches ask in an order that results decide; each finds its own record again."""

    @workflow()
    async def gathers(ctx: Context, _: Any) -> Any:
        async def branch(number: int) -> list[Any]:
            await ctx.sleep(SECOND * (7 * number % 5))
            first = await ctx.step(echo, [number, "first"])
            await ctx.sleep(SECOND * (3 * number % 5))
            return [first, await ctx.step(echo, [number, "second"])]

        return await asyncio.gather(*(branch(number) for number in range(10)))

    expected = [[[number, "first"], [number, "second"]] for number in range(10)]
    assert await lab.finish(gathers, run_id="run") == expected
    outcome = await lab.replayed(gathers, "run")
    assert outcome is not None
    assert outcome.output == expected  # type: ignore[union-attr]  # Finished


async def test_failing_group_cancels_its_tasks_in_the_same_order_every_time(lab: Lab) -> None:
    """asyncio keeps a group's tasks in a set; were it ordered by address, cleanups would swap their automatic ids."""
    orders = set()
    for trial in range(10):

        @workflow(id=f"group-{trial}", retry=NO_RETRY)
        async def group(ctx: Context, _: Any) -> list[Any]:
            cleaned: list[Any] = []

            async def child(number: int) -> None:
                try:
                    if number == 5:
                        await ctx.sleep(SECOND)
                        raise ValueError
                    await ctx.wait_for_event("never")
                finally:
                    cleaned.append(await ctx.step(echo, number))

            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as tasks:
                    for number in range(12):
                        tasks.create_task(child(number))
            await ctx.sleep(SECOND)
            return cleaned

        orders.add(str(await lab.finish(group, run_id=f"run-{trial}")))
        assert await lab.replayed(group, f"run-{trial}") is not None
    assert len(orders) == 1


async def test_set_that_asyncio_wait_gives_has_the_same_order_every_time(lab: Lab) -> None:
    """A handler may walk over `done` and over `pending`."""
    orders = set()
    for trial in range(10):

        @workflow(id=f"wait-{trial}")
        async def waits(ctx: Context, _: Any) -> list[Any]:
            tasks = {asyncio.create_task(ctx.step(echo, number), name=str(number)) for number in range(12)}
            done, _ = await asyncio.wait(tasks)
            return [task.result() for task in done]

        orders.add(str(await lab.finish(waits)))
    assert len(orders) == 1


async def test_as_completed_over_tasks(lab: Lab) -> None:
    """Tasks start in the order in which they were made, so their ids are the same in a replay."""

    @workflow()
    async def completes(ctx: Context, _: Any) -> list[Any]:
        async def branch(number: int) -> Any:
            await ctx.sleep(SECOND * (5 - number))
            return await ctx.step(echo, number)

        tasks = [asyncio.create_task(branch(number)) for number in range(5)]
        return [await task for task in asyncio.as_completed(tasks)]

    assert await lab.finish(completes, run_id="run") == [4, 3, 2, 1, 0]
    assert await lab.replayed(completes, "run") is not None


async def test_first_of_two_wins_in_every_replay(lab: Lab) -> None:
    """The race is decided by the log; the loser is cancelled, and its timer is gone."""
    winners = []

    @workflow()
    async def races(ctx: Context, _: Any) -> Any:
        tasks = [asyncio.create_task(ctx.sleep(SECOND * seconds)) for seconds in (5, 2)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        winners.append([tasks.index(task) for task in done])
        await ctx.wait_for_event("end")
        return winners[-1]

    runtime = lab.runtime(races)
    handle = await runtime.start_run(races, run_id="run")
    await lab.sweep(races)
    lab.advance(seconds=60)  # both are due when the worker comes
    await lab.sweep(races)
    assert await lab.timers("run") == ()
    await runtime.deliver_signal("run", "end")
    assert await run_to_completion(runtime, handle, lab.clock) == [1]
    assert winners[1:] == [[1], [1]]  # the first one was the teardown


async def test_step_that_lost_a_race_is_cancelled(lab: Lab, gate: Gate) -> None:
    """Its body hears of it; no record of it is written; the run goes on."""

    @workflow()
    async def races(ctx: Context, _: Any) -> str:
        slow = asyncio.create_task(ctx.step(gate.pass_through))
        await ctx.sleep(SECOND)
        slow.cancel()
        await ctx.step(echo, "after")
        return "went on"

    runtime = lab.runtime(races)
    handle = await runtime.start_run(races, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        lab.advance(seconds=1)
    assert gate.cancelled
    assert await handle.result() == "went on"
    assert "pass_through" not in str(await lab.log("run"))


async def test_step_that_was_given_up_before_it_started_does_not_start(lab: Lab) -> None:
    """Something that is decided at once may cancel its branch."""

    @workflow()
    async def hasty(ctx: Context, _: Any) -> str:
        step = asyncio.create_task(ctx.step(lab.ran.update, ["started"]))
        await ctx.sleep(timedelta(0))
        step.cancel()
        return await ctx.step(echo, "done")

    assert await lab.finish(hasty) == "done"
    assert lab.ran == {}


async def test_cancelled_step_may_clean_up_in_peace(lab: Lab, gate: Gate) -> None:
    """It is cancelled once, however often the driver turns meanwhile."""
    cleaned = []
    resume = asyncio.Event()

    async def careful() -> None:
        try:
            await gate.pass_through()
        finally:
            await resume.wait()
            cleaned.append("cleaned")

    @workflow()
    async def races(ctx: Context, _: Any) -> str:
        slow = asyncio.create_task(ctx.step(careful))
        await ctx.sleep(SECOND)
        slow.cancel()
        for number in range(5):
            await ctx.step(echo, number)
        await ctx.step(resume.set)
        return "went on"

    runtime = lab.runtime(races)
    handle = await runtime.start_run(races, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        lab.advance(seconds=1)
    assert cleaned == ["cleaned"]
    assert await handle.result() == "went on"


async def test_error_of_one_branch_ends_the_run_and_cancels_the_other_step(lab: Lab, gate: Gate) -> None:
    """`gather` raises at once; the handler ends; what still runs is not left behind."""

    async def fail() -> None:
        await gate.reached.wait()
        raise ValueError("broken")

    @workflow(retry=NO_RETRY)
    async def fails(ctx: Context, _: Any) -> None:
        await asyncio.gather(ctx.step(gate.pass_through), ctx.step(fail))

    with pytest.raises(RunFailedError, match="broken"):
        await lab.finish(fails)
    assert gate.cancelled
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_task_group_raises_what_its_children_raised(lab: Lab) -> None:
    """And waits for the others to leave, durably."""

    async def fail() -> None:
        raise ValueError("broken")

    @workflow(retry=NO_RETRY)
    async def fails(ctx: Context, _: Any) -> list[str]:
        messages = []

        async def waits() -> None:
            try:
                await ctx.wait_for_event("never")
            finally:
                messages.append(await ctx.step(echo, "cleaned up"))

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(waits())
                tasks.create_task(ctx.step(fail))
        except* StepFailedError as group:
            messages += [str(error) for error in group.exceptions]
        return messages

    expected = ["cleaned up", "step 'fail' failed after 1 attempt: ValueError: broken"]
    assert await lab.finish(fails) == expected


async def test_branches_may_use_asyncios_own_tools(lab: Lab) -> None:
    """Queues, locks, semaphores, events, conditions: all of it is as deterministic as the log."""

    @workflow()
    async def tools(ctx: Context, _: Any) -> Any:
        queue: asyncio.Queue[int | None] = asyncio.Queue(maxsize=2)
        limit, lock, started = asyncio.Semaphore(2), asyncio.Lock(), asyncio.Event()
        found: list[Any] = []

        async def produce() -> None:
            await started.wait()
            for number in range(6):
                await ctx.sleep(SECOND)
                await queue.put(number)
            for _ in range(3):
                await queue.put(None)

        async def consume(name: str) -> None:
            while (number := await queue.get()) is not None:
                async with limit:
                    result = await ctx.step(echo, number)
                    await ctx.sleep(SECOND * 2)
                async with lock:
                    found.append([name, result])

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce())
            for name in "abc":
                tasks.create_task(consume(name))
            started.set()
            await asyncio.sleep(0)
        return found

    found = await lab.finish(tools, run_id="run")
    assert sorted(number for _, number in found) == list(range(6))
    outcome = await lab.replayed(tools, "run")
    assert outcome is not None
    assert outcome.output == found  # type: ignore[union-attr]  # Finished


async def test_wait_for_without_a_time_and_timeout_without_a_time(lab: Lab) -> None:
    """They need no clock and work; with a time they are refused (see the tests of the loop)."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        async with asyncio.timeout(None):
            return await asyncio.wait_for(ctx.step(echo, 1), None)

    assert await lab.finish(waits) == 1


async def test_what_is_decided_at_once_is_written_in_bounded_writes(lab: Lab) -> None:
    """Two hundred values make several appends, none of them large; the log is whole."""
    store = lab.tapped()

    @workflow()
    async def values(ctx: Context, _: Any) -> None:
        await asyncio.gather(*(ctx.random() for _ in range(120)))
        for _ in range(80):
            await ctx.emit("big", "x" * 20_000)

    runtime = lab.runtime(values, store=store)
    await runtime.start_run(values, run_id="run")
    await runtime.sweep()
    writes = [arguments["events"] for verb, arguments in store.arguments if "events" in arguments]
    assert sum(len(events) for events in writes) == 201
    assert max(len(events) for events in writes) <= 51
    assert max(sum(len(event.payload or "") for event in events) for events in writes) < 550_000
    assert await lab.status("run") is RunStatus.FINISHED


async def test_many_branches_cost_few_writes(lab: Lab) -> None:
    """What a hundred branches begin together is written together."""
    store = lab.tapped()

    @workflow()
    async def wide(ctx: Context, _: Any) -> int:
        await asyncio.gather(*(ctx.sleep(SECOND) for _ in range(40)))
        return sum(await asyncio.gather(*(ctx.step(echo, 1) for _ in range(40))))

    runtime = lab.runtime(wide, store=store)
    handle = await runtime.start_run(wide)
    assert await run_to_completion(runtime, handle, lab.clock) == 40
    writes = [verb for verb in store.calls if verb.startswith(("append", "mark"))]
    assert len(writes) <= 6
