"""A handler that returns before what it began is done: the run fails, and names what was left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import NO_RETRY, Context, RunFailedError, RunStatus, StepFailedError, WaitTimeoutError, workflow

if TYPE_CHECKING:
    from conftest import Lab

SECOND = timedelta(seconds=1)
Body = Callable[[Context], Awaitable[Any]]


async def pay(amount: int = 0) -> str:
    return "paid"


async def fail() -> None:
    raise ConnectionError("no route")


async def finish(lab: Lab, body: Body) -> Any:
    @workflow(id="careless")
    async def careless(ctx: Context, _: Any) -> Any:
        return await body(ctx)

    return await lab.finish(careless, run_id="run")


async def complaint(lab: Lab, body: Body) -> str:
    """Run it to its end and give what it ends with."""
    with pytest.raises(RunFailedError, match="before all that it began was done") as failure:
        await finish(lab, body)
    assert failure.value.error_type == "ConfigurationError"
    return failure.value.message


CALLS: dict[str, Callable[[Context], Awaitable[Any]]] = {
    "step 'pay'": lambda ctx: ctx.step(pay),
    "step 'charge'": lambda ctx: ctx.step.options(id="charge")(pay, 3),
    "approve('go')": lambda ctx: ctx.approve("go"),
    "wait_for_event('go')": lambda ctx: ctx.wait_for_event("go"),
    "sleep()": lambda ctx: ctx.sleep(SECOND),
    "sleep_until()": lambda ctx: ctx.sleep_until(datetime(2040, 1, 1, tzinfo=UTC)),
    "now()": lambda ctx: ctx.now(),
    "uuid()": lambda ctx: ctx.uuid(),
    "random()": lambda ctx: ctx.random(),
    "emit('news')": lambda ctx: ctx.emit("news", 1),
}


@pytest.mark.parametrize("name", CALLS)
async def test_call_that_nobody_awaits(lab: Lab, name: str) -> None:
    """Python itself only warns when the coroutine is collected; the run fails, and Python has nothing to add."""

    async def body(ctx: Context) -> str:
        CALLS[name](ctx)
        return "done"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f"{name} was never awaited" in await complaint(lab, body)
        gc.collect()
    assert await lab.log("run") == ["run-errored"]


async def test_call_that_is_returned_instead_of_awaited(lab: Lab) -> None:
    async def body(ctx: Context) -> Any:
        return ctx.step(pay)

    assert "step 'pay' was never awaited" in await complaint(lab, body)


async def test_call_among_many_that_were_awaited(lab: Lab) -> None:
    """It is found wherever it was made."""

    async def body(ctx: Context) -> None:
        kept = []
        for number in range(500):
            await ctx.now()
            if number in (3, 333):
                kept.append(ctx.step.options(id=f"lost-{number}")(pay))
        for _ in range(100):
            await ctx.random()

    message = await complaint(lab, body)
    assert "step 'lost-3' was never awaited; step 'lost-333' was never awaited. " in message


async def test_calls_that_are_made_first_and_awaited_later(lab: Lab) -> None:
    """In any order; nothing is wrong with that."""

    async def body(ctx: Context) -> list[Any]:
        calls = [ctx.step(pay, number) for number in range(200)]
        await ctx.sleep(SECOND)
        return [await call for call in reversed(calls)]

    assert await finish(lab, body) == ["paid"] * 200


async def test_call_that_is_closed_was_not_forgotten(lab: Lab) -> None:
    async def body(ctx: Context) -> str:
        ctx.step(pay).close()
        return "closed"

    assert await finish(lab, body) == "closed"


async def test_calls_are_what_asyncio_takes(lab: Lab) -> None:
    """Real coroutines, for everything that takes them."""

    async def body(ctx: Context) -> list[Any]:
        results: list[Any] = [await asyncio.gather(ctx.step(pay), ctx.now())]
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ctx.step(pay))
        single = asyncio.create_task(ctx.step(pay))
        await asyncio.wait([single])
        call = ctx.step(pay)
        assert asyncio.iscoroutine(call)
        return [results[0][0], task.result(), single.result(), await asyncio.shield(call)]

    assert await finish(lab, body) == ["paid"] * 4


async def test_task_that_nobody_awaits(lab: Lab) -> None:
    """Whether it had a turn before the handler returned or not; nothing of it is recorded afterwards."""

    async def never_began(ctx: Context) -> None:
        asyncio.create_task(ctx.step(pay))  # noqa: RUF006  # what the test is about

    async def began(ctx: Context) -> None:
        asyncio.create_task(ctx.wait_for_event("go"))  # noqa: RUF006
        await ctx.now()

    async def gathered(ctx: Context) -> None:
        asyncio.gather(ctx.step(pay), ctx.sleep(SECOND))

    async def ensured(ctx: Context) -> None:
        asyncio.ensure_future(own(ctx))  # noqa: RUF006

    async def own(ctx: Context) -> None:
        await ctx.sleep(SECOND)
        await ctx.step(pay)

    assert "step 'pay' was still going on" in await complaint(lab, never_began)
    assert await lab.log("run") == ["run-errored"]
    for body, words in (
        (began, "wait_for_event('go') was still going on"),
        (gathered, "step 'pay' was still going on; sleep() was still going on"),
        (ensured, "own() was still going on (waiting for sleep 'sleep')"),
    ):
        assert words in await complaint(type(lab)(), body)


async def test_task_that_waits_for_nothing_durable(lab: Lab) -> None:
    """It would never get on, and what comes after its wait would never happen."""

    async def body(ctx: Context) -> str:
        async def consume() -> None:
            item = await queue.get()
            await ctx.step(pay, item)

        queue: asyncio.Queue[int] = asyncio.Queue()
        consumer = asyncio.create_task(consume())
        await ctx.sleep(SECOND)
        return str(consumer.done())

    assert "consume() was still going on" in await complaint(lab, body)


async def test_branches_of_a_gather_that_failed(lab: Lab) -> None:
    """`gather` leaves the others going on when one fails; whoever catches that has to end them."""

    async def left(ctx: Context) -> str:
        try:
            await asyncio.gather(ctx.step.options(retry=NO_RETRY)(fail), ctx.sleep(SECOND))
        except StepFailedError:
            return "caught"
        return "not caught"

    async def grouped(ctx: Context) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.step.options(retry=NO_RETRY)(fail))
                group.create_task(ctx.sleep(SECOND))
        except* StepFailedError:
            pass
        return "caught"

    assert "sleep() was still going on" in await complaint(lab, left)
    assert await finish(type(lab)(), grouped) == "caught"


async def test_task_that_was_cancelled_and_not_awaited(lab: Lab) -> None:  # noqa: C901  # one small handler after another
    """It gets its turn to end: losers of a race, a helper that a `finally` ends, one that was cancelled at once."""

    async def race(ctx: Context) -> Any:
        tasks = [asyncio.create_task(ctx.sleep(SECOND * number, id=f"s{number}")) for number in (1, 2, 3)]
        _, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in losers:
            task.cancel()
        return len(losers)

    async def helper(ctx: Context) -> str:
        ticking = asyncio.create_task(tick(ctx))
        try:
            await ctx.sleep(SECOND * 3)
            return "slept"
        finally:
            ticking.cancel()

    async def tick(ctx: Context) -> None:
        while True:
            await ctx.sleep(SECOND)

    async def at_once(ctx: Context) -> str:
        asyncio.create_task(ctx.step(pay)).cancel()
        return "at once"

    async def stubborn(ctx: Context) -> str:
        async def takes_its_time() -> None:
            try:
                await ctx.sleep(SECOND)
            finally:
                for _ in range(10):
                    await asyncio.sleep(0)

        task = asyncio.create_task(takes_its_time())
        await ctx.now()
        task.cancel()
        return "stubborn"

    for body, result in ((race, 2), (helper, "slept"), (at_once, "at once"), (stubborn, "stubborn")):
        assert await finish(type(lab)(), body) == result


async def test_task_that_was_cancelled_and_still_does_something_durable(lab: Lab) -> None:
    """Its cleanup would be lost."""

    async def body(ctx: Context) -> str:
        async def careful() -> None:
            try:
                await ctx.sleep(SECOND)
            finally:
                await ctx.step(pay)

        task = asyncio.create_task(careful())
        await ctx.now()
        task.cancel()
        return "returned"

    assert "careful() was still going on (waiting for step 'pay')" in await complaint(lab, body)


async def test_wait_that_timed_out_leaves_nothing(lab: Lab) -> None:
    async def body(ctx: Context) -> str:
        try:
            await ctx.wait_for_event("go", timeout=SECOND)
        except WaitTimeoutError:
            return "late"
        return "in time"

    assert await finish(lab, body) == "late"


async def test_task_that_did_its_work_need_not_be_awaited(lab: Lab) -> None:
    async def body(ctx: Context) -> str:
        asyncio.create_task(ctx.step(pay))  # noqa: RUF006
        await ctx.sleep(SECOND)
        return "done"

    assert await finish(lab, body) == "done"
    assert "step-completed pay" in await lab.log("run")


@pytest.mark.parametrize("is_kept", [False, True])
async def test_task_that_failed_and_nobody_looked(lab: Lab, is_kept: bool) -> None:
    """Whether the task is still there when the handler returns or collected long before, the failure is told."""
    kept: list[asyncio.Task[None]] = []

    async def body(ctx: Context) -> str:
        task = asyncio.create_task(ctx.step.options(retry=NO_RETRY)(fail))
        if is_kept:
            kept.append(task)
        del task
        await ctx.sleep(SECOND)
        gc.collect()
        return "done"

    message = await complaint(lab, body)
    assert "a task failed and nobody awaited it (StepFailedError: step 'fail' failed" in message
    assert "no route" in message


async def test_failure_that_was_looked_at(lab: Lab) -> None:
    async def body(ctx: Context) -> list[str]:
        tasks = [asyncio.create_task(ctx.step.options(retry=NO_RETRY)(fail)) for _ in range(2)]
        await asyncio.wait(tasks)
        return [type(task.exception()).__name__ for task in tasks]

    assert await finish(lab, body) == ["StepFailedError"] * 2


async def test_task_that_failed_when_it_was_cancelled(lab: Lab) -> None:
    """Whoever cancels a task does not care for what comes of it."""

    async def body(ctx: Context) -> str:
        async def breaks() -> None:
            try:
                await ctx.sleep(SECOND)
            finally:
                raise ValueError("on the way out")

        task = asyncio.create_task(breaks())
        await ctx.now()
        task.cancel()
        return "done"

    assert await finish(lab, body) == "done"


async def test_own_error_of_the_handler_wins(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """The rest is a note of it."""

    async def body(ctx: Context) -> None:
        ctx.step(pay)  # type: ignore[unused-coroutine]  # what the test is about
        asyncio.create_task(ctx.sleep(SECOND))  # noqa: RUF006
        raise LookupError("the handler's own")

    with pytest.raises(RunFailedError, match="the handler's own") as failure:
        await finish(lab, body)
    assert failure.value.error_type == "LookupError"
    assert "step 'pay' was never awaited; sleep() was still going on" in caplog.text


async def test_cancelled_run_is_aborted(lab: Lab) -> None:
    """Whatever it leaves behind."""

    @workflow()
    async def leaves(ctx: Context, _: Any) -> None:
        asyncio.create_task(ctx.sleep(SECOND))  # noqa: RUF006
        await ctx.wait_for_event("go")

    runtime = lab.runtime(leaves)
    await runtime.start_run(leaves, run_id="run")
    await runtime.sweep()
    await runtime.cancel_run("run")
    await runtime.sweep()
    assert await lab.status("run") is RunStatus.ABORTED


async def test_generator_whose_end_is_durable(lab: Lab) -> None:
    """One that is still open when the handler returns would not end; `aclosing` sees to that."""

    async def pages(ctx: Context) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await ctx.step(pay)

    async def left(ctx: Context) -> None:
        async for _ in pages(ctx):
            break

    async def closed(ctx: Context) -> str:
        async with contextlib.aclosing(pages(ctx)) as numbers:  # type: ignore[type-var]  # as typed
            async for _ in numbers:
                break
        return "closed"

    assert "the end of an asynchronous generator was still going on" in await complaint(lab, left)
    assert await finish(type(lab)(), closed) == "closed"


async def test_calls_of_a_handler_that_pauses_are_not_complained_about(lab: Lab) -> None:
    """What it was to await later is dropped in silence at each pause."""

    async def body(ctx: Context) -> Any:
        later = ctx.step(pay)
        await ctx.sleep(SECOND)
        return await later

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert await finish(lab, body) == "paid"
        gc.collect()


async def test_long_list_is_cut(lab: Lab) -> None:
    async def body(ctx: Context) -> None:
        for number in range(30):
            ctx.emit(f"e{number}")  # type: ignore[unused-coroutine]  # what the test is about

    message = await complaint(lab, body)
    assert "emit('e9') was never awaited; and 20 more. " in message
    assert "e10" not in message
