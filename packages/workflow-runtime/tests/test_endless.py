"""Handlers that take long or never end: the event loop goes on, a bound ends the run, and what blocks is reported."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    Context,
    InvalidArgumentError,
    RunFailedError,
    WorkflowRuntime,
    workflow,
)
from workflow_store_memory import InMemoryWorkflowStore

if TYPE_CHECKING:
    from conftest import Lab

Body = Callable[[Context], Awaitable[Any]]


async def nothing() -> None: ...


async def polls(ctx: Context) -> None:
    task = asyncio.create_task(ctx.step(nothing))
    while not task.done():
        await asyncio.sleep(0)


async def polls_later(ctx: Context) -> None:
    await ctx.now()
    await polls(ctx)


async def polls_beside_a_wait(ctx: Context) -> None:
    event = asyncio.Event()

    async def poll() -> None:
        while not event.is_set():
            await asyncio.sleep(0)

    task = asyncio.create_task(poll())
    await ctx.wait_for_event("go")
    event.set()
    await task


async def plays_ping_pong(ctx: Context) -> None:
    there: asyncio.Queue[int] = asyncio.Queue()
    back: asyncio.Queue[int] = asyncio.Queue()

    async def play(from_: asyncio.Queue[int], to: asyncio.Queue[int]) -> None:
        while True:
            to.put_nowait(await from_.get())

    there.put_nowait(1)
    await asyncio.gather(play(there, back), play(back, there))


async def makes_tasks(ctx: Context) -> None:
    while True:
        await asyncio.create_task(nothing())


async def calls_back(ctx: Context) -> None:
    def again() -> None:
        asyncio.get_running_loop().call_soon(again)

    again()
    await ctx.wait_for_event("go")


@pytest.mark.parametrize(
    "body",
    [polls, polls_later, polls_beside_a_wait, plays_ping_pong, makes_tasks, calls_back],
    ids=lambda f: f.__name__,
)
@pytest.mark.timeout(60, method="thread")
async def test_handler_that_goes_round_in_circles_ends_with_an_error(
    lab: Lab, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which says what it did and where. The event loop goes on meanwhile, with other runs."""

    monkeypatch.setattr("workflow_runtime.engine.machine._MOST_TURNS", 50_000)

    @workflow(id="circles")
    async def circles(ctx: Context, _: Any) -> None:
        await body(ctx)

    @workflow(id="other")
    async def other(ctx: Context, _: Any) -> str:
        await ctx.step(nothing)
        return "done"

    runtime = lab.runtime(circles, other)
    bad, good = await runtime.start_run(circles), await runtime.start_run(other)
    async with gaps() as found:
        await runtime.sweep()
    assert await good.result() == "done"
    with pytest.raises(RunFailedError, match=r"goes round in circles: it took [5-9]\d{4} turns") as failure:
        await bad.result()
    assert failure.value.error_type == "ConfigurationError"
    if body is not calls_back:
        assert "test_endless.py:" in failure.value.message
    assert len(found) > 2
    assert lab.ran == {}


@asynccontextmanager
async def gaps() -> AsyncIterator[list[float]]:
    """Measure how long the event loop does not go on."""
    found: list[float] = []

    async def tick() -> None:
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            found.append(now - before)
            before = now

    ticking = asyncio.create_task(tick())
    try:
        yield found
    finally:
        ticking.cancel()


async def test_who_asks_for_much_at_once_gets_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound grows with what is asked for."""
    monkeypatch.setattr("workflow_runtime.engine.machine._MOST_TURNS", 100)

    @workflow()
    async def much(ctx: Context, _: Any) -> int:
        return len(await asyncio.gather(*(ctx.sleep(timedelta(0)) for _ in range(1_000))))

    assert await lab.finish(much) == 1_000


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.real_time
async def test_long_replay_lets_the_event_loop_go_on(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """By time and not by number of events; when it takes long in all, that is reported."""

    @workflow(id="heavy")
    async def heavy(ctx: Context, _: Any) -> str:
        for _ in range(200):
            await ctx.random()
            burn(0.002)
        await ctx.wait_for_event("go")
        return "done"

    runtime = lab.runtime(heavy, warn_blocked_after=timedelta(milliseconds=300))
    await runtime.start_run(heavy, run_id="run")
    await runtime.sweep()
    await runtime.deliver_signal("run", "go")
    async with gaps() as found:
        await lab.runtime(heavy, warn_blocked_after=timedelta(milliseconds=300)).sweep()
    assert len([gap for gap in found if gap > 0.005]) >= 10, "the event loop got no turns"
    assert "run 'run' of 'heavy': the replay of its 201 events took " in caplog.text


@pytest.mark.real_time
async def test_one_long_settling_lets_the_event_loop_go_on(lab: Lab) -> None:
    """Branches that all go on at once are one event for the log, and many turns for the event loop."""

    @workflow()
    async def wide(ctx: Context, _: Any) -> int:
        async def branch() -> None:
            burn(0.002)

        await asyncio.gather(*(branch() for _ in range(200)))
        return 1

    runtime = lab.runtime(wide)
    await runtime.start_run(wide)
    async with gaps() as found:
        await runtime.sweep()
    assert len([gap for gap in found if gap > 0.005]) >= 10


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.real_time
async def test_handler_that_blocks_is_reported(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """While it lasts, with the place; and afterwards, with how long it took."""

    @workflow(id="sleepy")
    async def sleepy(ctx: Context, _: Any) -> None:
        time.sleep(0.5)

    runtime = lab.runtime(sleepy, warn_blocked_after=timedelta(milliseconds=100))
    await runtime.start_run(sleepy, run_id="run")
    await runtime.sweep()
    during, after = warnings_of(caplog)
    assert during.startswith("run 'run' of 'sleepy': its handler blocks the event loop, for 0.")
    assert "time.sleep(0.5)" in during
    assert after.startswith("run 'run' of 'sleepy': its handler has blocked the event loop for 0.")


@pytest.mark.real_time
async def test_step_that_blocks_is_reported(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """An `async def`; one on a thread blocks nobody."""

    async def blocks() -> None:
        await asyncio.sleep(0.01)
        time.sleep(0.6)

    @workflow(id="steps")
    async def steps(ctx: Context, _: Any) -> None:
        await ctx.step(time.sleep, 0.3)
        await ctx.step(blocks)

    runtime = lab.runtime(steps, warn_blocked_after=timedelta(milliseconds=100))
    await runtime.start_run(steps, run_id="run")
    await runtime.sweep()
    during, after = warnings_of(caplog)
    assert during.startswith("run 'run' of 'steps': its step 'blocks' blocks the event loop, for 0.")
    assert "time.sleep(0.6)" in during
    assert after.startswith("run 'run' of 'steps': its step 'blocks' has blocked the event loop for 0.")


@pytest.mark.real_time
@pytest.mark.parametrize("where", ["handler", "step"])
async def test_garbage_collection_is_nobodys_fault(lab: Lab, caplog: pytest.LogCaptureFixture, where: str) -> None:
    """It has a warning of its own. This one is played: a real one of that length takes millions of objects."""

    def collect() -> None:
        gc.disable()  # a real one in between would end it
        for phase in ("start", "stop"):
            for note in gc.callbacks:
                note(phase, {})
            time.sleep(0.5 if phase == "start" else 0)
        gc.enable()

    async def blocks() -> None:
        await asyncio.sleep(0.05)
        collect()

    @workflow(id="stopped")
    async def stopped(ctx: Context, _: Any) -> None:
        await ctx.step(blocks) if where == "step" else collect()
        await ctx.step(asyncio.sleep, 0.1)

    before = list(gc.callbacks)
    runtime = lab.runtime(stopped, warn_blocked_after=timedelta(milliseconds=250))
    await runtime.start_run(stopped)
    await runtime.sweep()
    (warning,) = warnings_of(caplog)
    assert re.match(r"Python's garbage collector has stopped the process for \d\.\d s", warning)
    assert gc.callbacks == before


async def test_program_that_clears_the_callbacks_of_the_collector_ends_no_run(lab: Lab) -> None:
    """They are the whole process's, so anybody may."""

    @workflow(id="clears")
    async def clears(ctx: Context, _: Any) -> None:
        gc.callbacks.clear()

    before = list(gc.callbacks)
    runtime = lab.runtime(clears)
    await runtime.start_run(clears)
    try:
        assert (await runtime.sweep()).failed == 0
    finally:
        gc.callbacks[:] = before


@pytest.mark.real_time
async def test_nobody_is_warned_of_what_does_not_block(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Steps that take long and wait, and a threshold that is off."""

    @workflow(id="waits")
    async def waits(ctx: Context, _: Any) -> None:
        await asyncio.gather(ctx.step(asyncio.sleep, 0.3), ctx.step(time.sleep, 0.3))

    @workflow(id="sleepy")
    async def sleepy(ctx: Context, _: Any) -> None:
        time.sleep(0.15)

    for declared, after in ((waits, timedelta(milliseconds=100)), (sleepy, None), (sleepy, timedelta(seconds=100))):
        runtime = lab.runtime(declared, warn_blocked_after=after)
        await runtime.start_run(declared)
        await runtime.sweep()
    assert warnings_of(caplog) == []


@pytest.mark.real_time
async def test_the_thread_that_looks_on_ends(lab: Lab) -> None:
    """When nothing is driven any more; it comes again with the next run."""

    @workflow()
    async def quick(ctx: Context, _: Any) -> None: ...

    runtime = lab.runtime(quick, warn_blocked_after=timedelta(milliseconds=40))
    for _ in range(2):
        await runtime.start_run(quick)
        await runtime.sweep()
        watch = runtime._watch
        deadline = time.monotonic() + 10
        while watch._thread is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        assert watch._loops == {}


def test_the_threshold_is_more_than_nothing() -> None:
    with pytest.raises(InvalidArgumentError, match="warn_blocked_after"):
        WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[], warn_blocked_after=timedelta(0))
