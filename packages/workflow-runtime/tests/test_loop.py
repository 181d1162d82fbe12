"""The handler's own event loop: what runs on it, in which order, and what it refuses."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import ConfigurationError, Context, RunFailedError, workflow
from workflow_runtime.engine.loop import HandlerTask, WorkflowLoop
from workflow_runtime.isolation import Fence

if TYPE_CHECKING:
    from conftest import Lab


@pytest.fixture
def loop() -> WorkflowLoop:
    return WorkflowLoop("run")  # type: ignore[abstract]  # the rest is set below its class


def test_runs_what_is_ready_and_stops(loop: WorkflowLoop) -> None:
    """Also what becomes ready by that; it never waits."""
    order = []

    async def branch(name: str) -> str:
        for turn in range(2):
            order.append((name, turn))
            await asyncio.sleep(0)
        return name

    async def main() -> Any:
        return await asyncio.gather(branch("a"), branch("b"), blocked)

    blocked = loop.create_future()
    task = loop.create_task(main())
    assert loop.run_until_blocked()
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert not task.done()
    blocked.set_result("c")
    assert loop.run_until_blocked()
    assert task.result() == ["a", "b", "c"]


def test_callbacks_can_be_bounded(loop: WorkflowLoop) -> None:
    """A task that goes round for ever is left after so many."""

    async def for_ever() -> None:
        while True:
            await asyncio.sleep(0)

    task = loop.create_task(for_ever())
    assert not loop.run_until_blocked(max_callbacks=10)
    task.cancel()
    assert loop.run_until_blocked(max_callbacks=10)
    assert task.cancelled()


def test_loop_of_the_application_is_there_again_afterwards(loop: WorkflowLoop) -> None:
    """And so are its hooks for asynchronous generators, also after an error."""

    async def application() -> None:
        outer, hooks = asyncio.get_running_loop(), sys.get_asyncgen_hooks()
        seen = []

        def handler() -> None:
            seen.append(asyncio.get_running_loop())
            raise KeyboardInterrupt

        def callback() -> None:
            loop.call_soon(handler)
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_blocked()
            done.set_result(None)

        done = outer.create_future()
        outer.call_soon(callback)
        await done
        assert seen == [loop]
        assert asyncio.get_running_loop() is outer
        assert sys.get_asyncgen_hooks() == hooks

    asyncio.run(application())


def test_order_of_a_set_of_tasks_is_their_order(loop: WorkflowLoop) -> None:
    """Their hashes are their numbers; they are still different tasks."""

    async def nothing() -> None: ...

    tasks = [loop.create_task(nothing()) for _ in range(50)]
    backwards = tasks[::-1]
    assert list(set(backwards)) == tasks
    assert len(set(tasks)) == 50
    loop.run_until_blocked()


async def test_drives_share_the_fence_around_their_loop() -> None:
    """While somebody has covered a method of the loop (a test that holds its timers, say), that one is asked."""
    loop = asyncio.get_running_loop()
    first = Fence.around(loop)
    assert Fence.around(loop) is first
    asked: list[float] = []
    loop.call_later = lambda delay, *_: asked.append(delay)  # type: ignore[method-assign,assignment]  # the point
    covered = Fence.around(loop)
    assert covered is not first
    with covered:
        loop.call_later(1, print)
    loop.call_later(2, print)
    del loop.call_later
    assert asked == [1, 2]
    assert Fence.around(loop) is Fence.around(loop)
    with Fence.around(loop):
        loop.call_later(3600, print).cancel()
    assert asked == [1, 2]


def test_tasks_of_many_handlers_are_told_apart_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tasks of all runs have one number, and asyncio keeps all tasks in one set."""
    comparisons = 0

    def count(self: object, other: object) -> bool:
        nonlocal comparisons
        comparisons += 1
        return self is other

    monkeypatch.setattr(HandlerTask, "__eq__", count)

    async def nothing() -> None: ...

    loops = [WorkflowLoop(f"run-{number}") for number in range(200)]  # type: ignore[abstract]  # as in the fixture
    tasks = [loop.create_task(nothing()) for loop in loops]
    assert comparisons < 20
    assert {hash(task) for task in tasks} == {1}
    for loop in loops:
        loop.run_until_blocked()


def test_ended_tasks_leave_nothing_behind(loop: WorkflowLoop) -> None:
    """A handler may make a task for each of a million things; those that live are known, in their order."""

    async def nothing() -> None: ...

    async def waits() -> None:
        await asyncio.Event().wait()

    living = []
    for number in range(1_000):
        task = loop.create_task(waits() if number % 100 == 0 else nothing())
        if number % 100 == 0:
            living.append(task)
        del task
        loop.run_until_blocked()
    assert loop.living_tasks() == living
    assert len(loop._tasks) < 100  # nothing else shows what is kept
    loop.cancel_tasks()
    loop.run_until_blocked()
    assert loop.living_tasks() == []


def test_closed_loop_runs_nothing_more(loop: WorkflowLoop) -> None:
    """What is still called is dropped in silence: the handler was taken down."""
    calls: list[int] = []
    loop.call_soon(calls.append, 1)
    loop.close()
    loop.call_soon(calls.append, 2)
    assert loop.run_until_blocked()
    assert (calls, loop.is_closed()) == ([], True)


def test_context_variables_are_kept_apart(loop: WorkflowLoop) -> None:
    """Each task has its own copy, as on any loop."""
    import contextvars  # noqa: PLC0415  # used here only

    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="none")

    async def branch(value: str) -> str:
        name.set(value)
        await asyncio.sleep(0)
        return name.get()

    tasks = [loop.create_task(branch(value)) for value in "ab"]
    loop.run_until_blocked()
    assert [task.result() for task in tasks] == ["a", "b"]
    assert name.get() == "none"


def test_error_that_nobody_handles_is_logged_with_the_run(loop: WorkflowLoop, caplog: pytest.LogCaptureFixture) -> None:
    """Until the handler is taken down."""

    def fail() -> None:
        raise ValueError("forgotten")

    loop.call_soon(fail)
    with caplog.at_level(logging.ERROR, "workflow_runtime"):
        loop.run_until_blocked()
    assert "run 'run': Exception in callback" in caplog.text
    caplog.clear()
    loop.close()
    loop.call_exception_handler({"message": "too late"})
    assert caplog.text == ""


async def sleeps() -> None:
    await asyncio.sleep(1)


async def times_out() -> None:
    async with asyncio.timeout(1):
        pass


async def waits_for() -> None:
    await asyncio.wait_for(asyncio.get_running_loop().create_future(), 1)


async def waits_with_a_timeout() -> None:
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=1)


async def asks_the_loop() -> None:
    asyncio.get_running_loop().time()


async def uses_a_thread() -> None:
    await asyncio.to_thread(print)


async def is_called_from_a_thread() -> None:
    asyncio.get_running_loop().call_soon_threadsafe(print)


async def connects() -> None:
    await asyncio.open_connection("localhost", 1)


async def serves() -> None:
    await asyncio.start_server(lambda reader, writer: None, "localhost", 0)


async def starts_a_process() -> None:
    await asyncio.create_subprocess_exec("true")


async def resolves() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 1)


async def handles_a_signal() -> None:
    asyncio.get_running_loop().add_signal_handler(2, print)


@pytest.mark.parametrize(
    ("body", "advice"),
    [
        (sleeps, "ctx.sleep()"),
        (times_out, "ctx.sleep()"),
        (waits_for, "ctx.sleep()"),
        (waits_with_a_timeout, "ctx.sleep()"),
        (asks_the_loop, "ctx.now()"),
        (uses_a_thread, "ctx.step(function)"),
        (is_called_from_a_thread, "ctx.step(function)"),
        (connects, "ctx.step(function)"),
        (serves, "ctx.step(function)"),
        (starts_a_process, "ctx.step(function)"),
        (resolves, "ctx.step(function)"),
        (handles_a_signal, "ctx.step(function)"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_what_would_differ_in_a_replay_is_refused(lab: Lab, body: Callable[[], Any], advice: str) -> None:
    """With an error that says what to use instead; inside a step all of it is allowed."""

    @workflow()
    async def forbidden(ctx: Context, _: Any) -> None:
        await body()

    with pytest.raises(RunFailedError) as failure:
        await lab.finish(forbidden)
    assert failure.value.error_type == "ConfigurationError"
    assert advice in failure.value.message


async def test_steps_run_on_the_loop_of_the_application(lab: Lab) -> None:
    """Where its pools and clients live, with real time."""
    application = asyncio.get_running_loop()

    async def look() -> bool:
        await asyncio.sleep(0.001)
        return asyncio.get_running_loop() is application

    @workflow()
    async def looks(ctx: Context, _: Any) -> list[bool]:
        return [await ctx.step(look), asyncio.get_running_loop() is application]

    assert await lab.finish(looks) == [True, False]


async def test_handlers_of_many_runs_do_not_meet(lab: Lab) -> None:
    """Each has its loop; their tasks interleave on the application's."""

    async def echo(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    @workflow()
    async def counts(ctx: Context, number: int) -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.step(echo, number + offset)) for offset in range(3)]
        return [task.result() for task in tasks]

    runtime = lab.runtime(counts)
    handles = [await runtime.start_run(counts, number) for number in range(0, 100, 10)]
    await runtime.sweep(concurrency=10)
    assert [await handle.result() for handle in handles] == [[n, n + 1, n + 2] for n in range(0, 100, 10)]


async def test_durable_operation_outside_of_any_handler_is_refused(lab: Lab) -> None:
    """A context that was carried out of its handler is of no use."""
    stolen: list[Context] = []

    @workflow()
    async def leaks(ctx: Context, _: Any) -> None:
        stolen.append(ctx)
        await ctx.step(use_it)
        await ctx.wait_for_event("go")

    async def use_it() -> str:
        with pytest.raises(ConfigurationError, match="for the handler itself"):
            await stolen[0].now()
        return "refused"

    await lab.runtime(leaks).start_run(leaks, run_id="run")
    await lab.sweep(leaks)
    assert await lab.log("run") == ["step-completed use_it", "wait-started wait:go"]


async def test_generator_that_is_dropped_ends_on_the_handlers_loop(lab: Lab) -> None:
    """Its `finally` sees the handler's loop, not the application's."""
    seen = []

    @workflow()
    async def drops(ctx: Context, _: Any) -> bool:
        async def generate() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                seen.append(asyncio.get_running_loop())

        async for _number in generate():
            break
        await ctx.sleep(timedelta(0))
        return seen == [asyncio.get_running_loop()]

    assert await lab.finish(drops) is True
