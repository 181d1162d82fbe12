"""`check_replay=True`: what differs between a handler's first execution and its replay is found, and named."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import NO_RETRY, Context, NonDeterminismError, RunFailedError, StepFailedError, workflow
from workflow_runtime.testing import run_to_completion, run_until_blocked

if TYPE_CHECKING:
    from conftest import Lab

Body = Callable[[Context], Awaitable[Any]]
SECOND = timedelta(seconds=1)


async def echo(*values: Any, **named: Any) -> Any:
    return [values, named]


async def check(lab: Lab, body: Body) -> Any:
    @workflow(id="checked")
    async def checked(ctx: Context, _: Any) -> Any:
        return await body(ctx)

    runtime = lab.runtime(checked)
    handle = await runtime.start_run(checked, run_id="run")
    return await run_to_completion(runtime, handle, lab.clock, limit=timedelta(days=9_999), check_replay=True)


def differing() -> dict[str, Callable[[], Body]]:
    """Handlers that do something else each time, by the operation in which that shows."""
    numbers = count()

    def body(make: Callable[[Context], Awaitable[Any]]) -> Callable[[], Body]:
        return lambda: make

    async def counted_id(ctx: Context) -> Any:
        return await ctx.step.options(id=f"pay-{next(numbers)}")(echo)

    async def grows(ctx: Context) -> None:
        for _ in range(next(numbers) % 7 + 1):
            await ctx.now()

    async def order(ctx: Context) -> None:
        steps = [ctx.step.options(id=name)(echo) for name in "ab"]
        await asyncio.gather(*(steps if next(numbers) % 2 == 0 else steps[::-1]))

    async def kind(ctx: Context) -> None:
        if next(numbers) % 2 == 0:
            await ctx.sleep(SECOND, id="x")
        else:
            await ctx.wait_for_event("x", id="x")

    async def raises(ctx: Context) -> None:
        await ctx.now()
        raise ValueError(str(next(numbers)))

    async def returns(ctx: Context) -> Any:
        await ctx.now()
        return str(uuid.uuid4())

    return {
        "argument": body(lambda ctx: ctx.step(echo, datetime.now(UTC).isoformat() + str(next(numbers)))),
        "named argument": body(lambda ctx: ctx.step(echo, key=str(uuid.uuid4()))),
        "id": body(counted_id),
        "emitted value": body(lambda ctx: ctx.emit("news", random.random())),
        "emitted name": body(lambda ctx: ctx.emit(f"news-{next(numbers)}")),
        "duration": body(lambda ctx: ctx.sleep(SECOND * (1 + next(numbers)))),
        "moment": body(lambda ctx: ctx.sleep_until(datetime.now(UTC) + timedelta(microseconds=next(numbers) * 1_000))),
        "awaited name": body(lambda ctx: ctx.wait_for_event(f"go-{next(numbers)}", timeout=SECOND)),
        "timeout": body(lambda ctx: ctx.approve("go", timeout=SECOND * (1 + next(numbers)))),
        "number of calls": body(grows),
        "order": body(order),
        "kind": body(kind),
        "error": body(raises),
        "output": body(returns),
    }


@pytest.mark.parametrize("where", differing())
async def test_difference_is_found(lab: Lab, where: str) -> None:
    with pytest.raises(NonDeterminismError, match="run 'run' diverges"):
        await check(lab, differing()[where]())


async def test_difference_is_named(lab: Lab) -> None:
    """The operation, what was asked for the first time, and what in the replay."""
    clock = count(1)

    async def body(ctx: Context) -> None:
        await ctx.step.options(id="first")(echo, 1)
        await ctx.step.options(id="second")(echo, next(clock))

    with pytest.raises(NonDeterminismError) as difference:
        await check(lab, body)
    assert difference.value.step_id == "second"
    assert difference.value.recorded == "step 'second' calling echo(1)"
    assert difference.value.called == "step 'second' calling echo(2)"


async def test_what_a_handler_may_do_is_no_difference(lab: Lab) -> None:
    """Everything durable, branches, failures, arguments that a step changes, objects of the program, odd outputs."""
    client = object()

    async def changes(items: list[int], _: object) -> int:
        items.append(4)
        return len(items)

    async def fails() -> None:
        raise ConnectionError("no")

    async def body(ctx: Context) -> Any:
        drawn = [str(await ctx.uuid()), await ctx.random(), (await ctx.now()).isoformat()]
        await ctx.step(echo, *drawn)
        items = [1, 2, 3]
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step(changes, items, client))
            group.create_task(ctx.sleep(SECOND))
        try:
            await ctx.step.options(retry=NO_RETRY)(fails)
        except StepFailedError as error:
            await ctx.emit("failed", str(error))
        tasks = [
            asyncio.create_task(ctx.wait_for_event("go")),
            asyncio.create_task(ctx.sleep_until(datetime(2040, 1, 1, tzinfo=UTC))),
        ]
        _, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in losers:
            task.cancel()
        return drawn

    assert len(await check(lab, body)) == 3


async def test_many_writes_are_checked_one_by_one(lab: Lab) -> None:
    """Found at the write in which it happens, though a run would end as if nothing were wrong."""
    runs: list[int] = []
    numbers = count()

    async def body(ctx: Context) -> str:
        for number in range(5):
            await ctx.sleep(SECOND)
            runs.append(number)
            if number == 2:
                await ctx.emit("odd", next(numbers))
        return "done"

    with pytest.raises(NonDeterminismError, match="emit:odd"):
        await check(lab, body)
    assert max(runs) == 2


async def test_steps_do_not_run_again(lab: Lab) -> None:
    async def act() -> None:
        lab.ran["act"] += 1

    async def body(ctx: Context) -> None:
        for number in range(10):
            await ctx.step.options(id=f"s{number}")(act)
            await ctx.sleep(SECOND)

    await check(lab, body)
    assert lab.ran == {"act": 10}


async def test_failed_run_fails_as_ever(lab: Lab) -> None:
    async def body(ctx: Context) -> None:
        await ctx.now()
        raise ValueError("always the same")

    with pytest.raises(RunFailedError, match="always the same"):
        await check(lab, body)


async def test_nothing_is_checked_unless_asked_for(lab: Lab) -> None:
    """Also not afterwards."""

    @workflow(id="odd")
    async def odd(ctx: Context, _: Any) -> None:
        await ctx.emit("time", time.perf_counter())

    runtime = lab.runtime(odd)
    await runtime.start_run(odd)
    with pytest.raises(NonDeterminismError):
        await run_until_blocked(runtime, check_replay=True)
    other = lab.runtime(odd)
    handle = await other.start_run(odd)
    await run_to_completion(other, handle, lab.clock)
