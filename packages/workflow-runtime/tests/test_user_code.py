"""Whatever the code of a step, a handler, a codec or a policy raises ends as an outcome of its run, and of no other."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    Context,
    JsonCodec,
    JsonText,
    RetryPolicy,
    RunFailedError,
    StepFailedError,
    fixed_backoff,
    workflow,
)
from workflow_runtime.testing import run_until_blocked

if TYPE_CHECKING:
    from conftest import Lab
    from workflow_runtime import Workflow

AT_ONCE = RetryPolicy(max_attempts=2, backoff=fixed_backoff(timedelta(0)))


class OddError(BaseException):
    """No `Exception`, as some libraries have them for their own flow of control."""


class HostileError(Exception):
    """Answers nothing that it is asked."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} for you")

    def __str__(self) -> str:
        raise SystemExit("not even its text")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise RuntimeError("no copy")


RAISED: dict[str, Callable[[], BaseException]] = {
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(2),
    "CancelledError": asyncio.CancelledError,
    "TimeoutError": TimeoutError,
    "InvalidStateError": asyncio.InvalidStateError,
    "OddError": OddError,
    "HostileError": HostileError,
    "RecursionError": RecursionError,
    "MemoryError": MemoryError,
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [SystemExit(1), ValueError("a")]),
}


@workflow()
async def innocent(ctx: Context, _: Any) -> str:
    return await ctx.step(lambda: "fine")


async def outcome(lab: Lab, guilty: Workflow[Any, Any], **options: Any) -> Any:
    """Drive a run that misbehaves, with another one beside it, which must not notice."""
    runtime = lab.runtime(guilty, innocent, **options)
    run = await runtime.start_run(guilty)
    other = await runtime.start_run(innocent)
    report = await asyncio.wait_for(runtime.sweep(), 10)
    assert not report.failures
    await run_until_blocked(runtime)
    assert await other.result() == "fine"
    try:
        return await run.result()
    except RunFailedError as failure:
        return failure


@pytest.mark.parametrize("where", ["async", "plain", "lambda around async", "in a group"])
@pytest.mark.parametrize("name", RAISED)
async def test_step_that_raises_anything_is_a_failed_attempt(lab: Lab, name: str, where: str) -> None:
    """On the loop or on a thread; it is tried again, and the record names the error's own type."""

    def plain() -> None:
        lab.ran["body"] += 1
        raise RAISED[name]()

    async def on_the_loop() -> None:
        plain()

    async def in_a_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            plain()

    functions: dict[str, Callable[..., Any]] = {
        "async": on_the_loop,
        "plain": plain,
        "lambda around async": lambda: on_the_loop(),  # noqa: PLW0108  # that is the case
        "in a group": in_a_group,
    }

    @workflow(retry=AT_ONCE)
    async def guilty(ctx: Context, _: Any) -> list[Any]:
        try:
            return await ctx.step(functions[where])
        except StepFailedError as error:
            return [error.error_type, error.attempts]

    error_type, attempts = await outcome(lab, guilty)
    assert attempts == lab.ran["body"] == 2
    if where == "in a group":
        assert error_type in {name, "ExceptionGroup", "BaseExceptionGroup", "RuntimeError"}
    elif name == "StopIteration" and where != "plain":
        assert error_type == "RuntimeError"  # what Python makes of it in a coroutine
    else:
        assert error_type == name


async def test_first_of_an_empty_search_on_a_thread(lab: Lab) -> None:
    """`next()` without a default, as it is written every day."""

    @workflow(retry=AT_ONCE)
    async def guilty(ctx: Context, _: Any) -> None:
        await ctx.step(lambda: next(row for row in [{"free": False}] if row["free"]))

    failure = await outcome(lab, guilty)
    assert "failed after 2 attempts: StopIteration" in str(failure)


async def test_interrupt_that_a_step_raises_on_its_thread_is_a_failed_attempt(lab: Lab) -> None:
    """Python raises a real one on the main thread only."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    @workflow(retry=AT_ONCE)
    async def guilty(ctx: Context, _: Any) -> None:
        await ctx.step(interrupt)

    assert "KeyboardInterrupt" in str(await outcome(lab, guilty))


@pytest.mark.parametrize("place", ["handler", "task", "group", "gather", "callback of a task"])
@pytest.mark.parametrize("name", RAISED)
async def test_handler_that_raises_anything_ends_its_run(lab: Lab, name: str, place: str) -> None:
    """In the handler itself, or in a branch of it."""

    async def branch() -> None:
        raise RAISED[name]()

    @workflow()
    async def guilty(ctx: Context, _: Any) -> Any:
        await ctx.now()
        if place == "handler":
            await branch()
        elif place == "task":
            await asyncio.create_task(branch())
        elif place == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(branch())
        elif place == "gather":
            await asyncio.gather(branch(), ctx.sleep(timedelta(days=1)))
        else:
            task = asyncio.create_task(ctx.now())
            task.add_done_callback(lambda _: sys.exit(3))
            await task
        return "got on"

    ended = await outcome(lab, guilty)
    if place == "callback of a task":
        assert ended == "got on"  # as asyncio does with errors of callbacks: logged
    elif not (place == "group" and name == "CancelledError"):  # there it is the task's own end
        assert isinstance(ended, RunFailedError)


class CodecOf(JsonCodec):
    """Raises where it is told to."""

    def __init__(self, name: str, when: str) -> None:
        self.name = name
        self.when = when

    def encode(self, value: Any, argument: str) -> JsonText:
        if value == "marked" and self.when == "encode":
            raise RAISED[self.name]()
        return super().encode(value, argument)

    def decode(self, text: JsonText) -> Any:
        if "marked" in text and self.when == "decode":
            raise RAISED[self.name]()
        return super().decode(text)


@pytest.mark.parametrize("value", ["result", "signal", "emitted", "output"])
@pytest.mark.parametrize("when", ["encode", "decode"])
@pytest.mark.parametrize("name", RAISED)
async def test_codec_that_raises_anything(lab: Lab, name: str, when: str, value: str) -> None:
    """Of a step's result it is that step's failure; anywhere else in a run it is the run's."""

    @workflow(retry=AT_ONCE)
    async def guilty(ctx: Context, _: Any) -> Any:
        if value == "result":
            await ctx.step(lambda: "marked")
        elif value == "signal":
            await ctx.wait_for_event("go")
        elif value == "emitted":
            await ctx.emit("out", "marked")
        return "marked" if value == "output" else "plain"

    runtime = lab.runtime(guilty, innocent, codec=CodecOf(name, when))
    run = await runtime.start_run(guilty)
    if value == "signal":
        await lab.runtime(guilty).deliver_signal(run.run_id, "go", "marked")
    other = await runtime.start_run(innocent)
    report = await asyncio.wait_for(runtime.sweep(), 10)
    assert not report.failures
    assert await other.result() == "fine"
    never_decoded = when == "decode" and value in {"emitted", "output"}
    expected = "finished" if never_decoded or (value, when) == ("signal", "encode") else "errored"
    assert await run.status() == expected


@pytest.mark.parametrize("name", RAISED)
async def test_input_that_cannot_be_decoded_ends_its_run(lab: Lab, name: str) -> None:
    """The handler never begins."""

    @workflow()
    async def guilty(ctx: Context, input: Any) -> Any:
        return input

    run = await lab.runtime(guilty).start_run(guilty, "marked")
    report = await asyncio.wait_for(lab.runtime(guilty, codec=CodecOf(name, "decode")).sweep(), 10)
    assert not report.failures
    assert await run.status() == "errored"


@pytest.mark.parametrize("part", ["retry_if", "backoff"])
@pytest.mark.parametrize("name", RAISED)
async def test_policy_that_raises_anything(lab: Lab, name: str, part: str) -> None:
    """The step fails, and the record says what the policy did."""

    def broken(_: Any) -> Any:
        raise RAISED[name]()

    def body() -> None:
        raise ValueError("the body's own")

    options: dict[str, Any] = {part: broken}

    @workflow(retry=RetryPolicy(**options))
    async def guilty(ctx: Context, _: Any) -> None:
        await ctx.step(body)

    failure = await outcome(lab, guilty)
    assert f"the retry policy raised {name} about ValueError" in str(failure)
