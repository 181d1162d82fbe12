"""Taking a handler down where it waits: what its own code sees of that, and that nothing durable comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import Context, RunStatus, StoreOperationError, workflow
from workflow_runtime.testing import run_to_completion

if TYPE_CHECKING:
    from conftest import Gate, Lab

HOUR = timedelta(hours=1)


async def pause_and_end(lab: Lab, declared: Any) -> Any:
    """Start a run, let it pause at its first wait, check that nothing else came of that, and bring it to its end."""
    runtime = lab.runtime(declared)
    handle = await runtime.start_run(declared, run_id="run")
    report = await lab.sweep(declared)
    assert report.outcomes == {"paused": 1}
    assert not report.failures
    assert all("started" in line or "requested" in line for line in await lab.log("run"))
    await runtime.deliver_signal("run", "go", "went")
    return await run_to_completion(runtime, handle, lab.clock)


async def note(lab: Lab, name: str) -> str:
    lab.ran[name] += 1
    return name


async def test_finally_runs_at_the_pause_but_its_step_only_at_the_end(lab: Lab) -> None:
    """The plain part of a `finally` is Python's; the durable part belongs to the true end."""
    plain = []

    @workflow()
    async def tidy(ctx: Context, _: Any) -> Any:
        try:
            return await ctx.wait_for_event("go")
        finally:
            plain.append("before")
            await ctx.step(note, lab, "cleanup")
            plain.append("after")

    assert await pause_and_end(lab, tidy) == "went"
    assert lab.ran == {"cleanup": 1}
    assert plain == ["before", "before", "after"]


@pytest.mark.parametrize("operation", ["step", "sleep", "wait", "approve", "now", "emit"])
async def test_every_durable_operation_is_refused_during_the_teardown(lab: Lab, operation: str) -> None:
    """None of them is written, none of them comes back."""
    reached = []

    @workflow()
    async def tidy(ctx: Context, _: Any) -> Any:
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "step": lambda: ctx.step(note, lab, "cleanup"),
            "sleep": lambda: ctx.sleep(timedelta(0)),
            "wait": lambda: ctx.wait_for_event("go", timeout=timedelta(0)),
            "approve": lambda: ctx.approve("cleanup", timeout=timedelta(0)),
            "now": ctx.now,
            "emit": lambda: ctx.emit("cleanup"),
        }
        try:
            return await ctx.wait_for_event("go")
        finally:
            with contextlib.suppress(TimeoutError):
                await calls[operation]()
            reached.append(operation)

    assert await pause_and_end(lab, tidy) == "went"
    assert reached == [operation]


async def test_async_with_leaves_at_the_pause_without_its_durable_part(lab: Lab) -> None:
    """A context manager that records something on its way out does so once."""
    entered = []

    @workflow()
    async def tidy(ctx: Context, _: Any) -> Any:
        @contextlib.asynccontextmanager
        async def reservation() -> AsyncIterator[str]:
            entered.append("in")
            try:
                yield "seat"
            finally:
                entered.append("out")
                await ctx.step(note, lab, "give back")

        async with reservation() as seat:
            return [seat, await ctx.wait_for_event("go")]

    assert await pause_and_end(lab, tidy) == ["seat", "went"]
    assert lab.ran == {"give back": 1}
    assert entered == ["in", "out"] * 2


async def test_except_exception_does_not_see_the_pause(lab: Lab) -> None:
    """The usual catch-all of application code lets it pass."""
    caught = []

    @workflow()
    async def catches(ctx: Context, _: Any) -> Any:
        try:
            return await ctx.wait_for_event("go")
        except Exception as error:  # noqa: BLE001  # what the test is about
            caught.append(error)
            return "caught"
        finally:
            await ctx.step(note, lab, "end")

    assert await pause_and_end(lab, catches) == "went"
    assert caught == []
    assert lab.ran == {"end": 1}


async def test_except_base_exception_that_raises_again(lab: Lab) -> None:
    """It sees the pause, and no harm is done."""
    caught = []

    @workflow()
    async def catches(ctx: Context, _: Any) -> Any:
        try:
            return await ctx.wait_for_event("go")
        except BaseException as error:
            caught.append(type(error).__name__)
            raise

    assert await pause_and_end(lab, catches) == "went"
    assert caught == ["Suspended"]


async def test_except_base_exception_that_swallows(lab: Lab) -> None:
    """What the handler does then counts for nothing: no step runs, no output is written."""
    reached = []

    @workflow()
    async def swallows(ctx: Context, _: Any) -> Any:
        try:
            answer = await ctx.wait_for_event("go")
        except BaseException:  # noqa: BLE001  # what the test is about
            answer = "swallowed"
        reached.append(answer)
        try:
            await ctx.step(note, lab, "after")
        except BaseException:  # noqa: BLE001
            reached.append("swallowed again")
        return answer

    assert await pause_and_end(lab, swallows) == "went"
    assert lab.ran == {"after": 1}
    assert reached == ["swallowed", "swallowed again", "went"]


async def test_bare_return_in_finally(lab: Lab) -> None:
    """A `return` in `finally` hides the pause from the task; the run is paused all the same."""

    @workflow()
    async def returns(ctx: Context, _: Any) -> Any:
        answer = "none"
        try:
            answer = await ctx.wait_for_event("go")
        finally:
            return answer  # noqa: B012  # what the test is about

    assert await pause_and_end(lab, returns) == "went"


async def test_error_during_the_teardown_is_no_error_of_the_run(lab: Lab) -> None:
    """A `finally` that fails because it was interrupted does not end the run."""

    @workflow()
    async def clumsy(ctx: Context, _: Any) -> Any:
        result = None
        try:
            result = await ctx.wait_for_event("go")
        finally:
            result.upper()  # type: ignore[union-attr]  # None, when the wait is interrupted
        return result

    assert await pause_and_end(lab, clumsy) == "went"


async def test_task_group_is_taken_down_as_a_whole(lab: Lab) -> None:
    """Every child leaves its blocks; none of the cleanups is durable; `except*` sees nothing."""
    left = []

    @workflow()
    async def group(ctx: Context, _: Any) -> Any:
        async def child(name: str) -> Any:
            try:
                return await ctx.wait_for_event(name)
            finally:
                left.append(name)
                await ctx.step(note, lab, name)

        children: list[asyncio.Task[Any]] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                children += [tasks.create_task(child(name)) for name in ("go", "also")]
        except* Exception:  # noqa: BLE001  # what the test is about
            left.append("caught")
        return [task.result() for task in children]

    runtime = lab.runtime(group)
    handle = await runtime.start_run(group, run_id="run")
    await lab.sweep(group)
    assert (left, dict(lab.ran)) == (["go", "also"], {})
    await runtime.deliver_signal("run", "go", 1)
    await lab.sweep(group)
    assert await lab.status("run") is RunStatus.PAUSED
    assert lab.ran == {"go": 1}
    await runtime.deliver_signal("run", "also", 2)
    assert await run_to_completion(runtime, handle, lab.clock) == [1, 2]
    assert lab.ran == {"go": 1, "also": 1}


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_gather_is_taken_down(lab: Lab, return_exceptions: bool) -> None:
    """Also when it would hand the interruption over as a result: the handler goes on then, but not durably."""

    @workflow()
    async def gathers(ctx: Context, _: Any) -> Any:
        results = await asyncio.gather(ctx.wait_for_event("go"), ctx.sleep(HOUR), return_exceptions=return_exceptions)
        await ctx.step(note, lab, "after")
        return results

    assert await pause_and_end(lab, gathers) == ["went", None]
    assert lab.ran == {"after": 1}


async def test_asyncio_wait_is_taken_down(lab: Lab) -> None:
    """`FIRST_COMPLETED` returns at the teardown, with tasks that were interrupted; nothing comes of it."""

    @workflow()
    async def first(ctx: Context, _: Any) -> Any:
        tasks = [asyncio.create_task(ctx.wait_for_event("go")), asyncio.create_task(ctx.sleep(HOUR))]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await ctx.step(note, lab, "after")
        for task in pending:
            task.cancel()
        return [task.result() for task in tasks if task in done]

    assert await pause_and_end(lab, first) == ["went"]
    assert lab.ran == {"after": 1}
    assert await lab.timers("run") == ()


async def test_shielded_branch_is_taken_down(lab: Lab) -> None:
    """`shield` keeps a cancellation away, not the pause."""
    left = []

    @workflow()
    async def shielded(ctx: Context, _: Any) -> Any:
        async def inner() -> Any:
            try:
                return await ctx.wait_for_event("go")
            finally:
                left.append("inner")

        return await asyncio.shield(inner())

    assert await pause_and_end(lab, shielded) == "went"
    assert left == ["inner"] * 2


async def test_branch_that_waits_for_another_branch_is_taken_down_too(lab: Lab) -> None:
    """A consumer at a queue has no durable operation of its own; its blocks are left now, not when it is collected."""
    left = []

    @workflow()
    async def pipeline(ctx: Context, _: Any) -> Any:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def produce() -> None:
            await queue.put(await ctx.wait_for_event("go"))

        producer = asyncio.create_task(produce())
        try:
            item = await queue.get()
        finally:
            left.append("consumer")
            await ctx.step(note, lab, "cleanup")
        await producer
        return item

    runtime = lab.runtime(pipeline)
    handle = await runtime.start_run(pipeline, run_id="run")
    gc.disable()
    try:
        await lab.sweep(pipeline)
        assert left == ["consumer"]
    finally:
        gc.enable()
    assert lab.ran == {}
    await runtime.deliver_signal("run", "go", "item")
    assert await run_to_completion(runtime, handle, lab.clock) == "item"
    assert lab.ran == {"cleanup": 1}


async def test_async_generator_is_closed_within_the_handler(lab: Lab) -> None:
    """One that was left early ends on the handler's loop, where its `finally` may be durable; at a pause it is not."""

    @workflow()
    async def pages(ctx: Context, _: Any) -> list[str]:
        async def generate() -> AsyncIterator[str]:
            try:
                for number in range(5):
                    yield await ctx.step(note, lab, f"page {number}")
                    await ctx.sleep(HOUR)
            finally:
                await ctx.step(note, lab, "close")

        found = []
        async for page in generate():
            found.append(page)
            if len(found) == 3:
                break
        await ctx.sleep(HOUR)
        return found

    assert await lab.finish(pages) == ["page 0", "page 1", "page 2"]
    assert lab.ran == {"page 0": 1, "page 1": 1, "page 2": 1, "close": 1}


async def test_run_is_paused_only_when_every_branch_is_blocked(lab: Lab, gate: Gate) -> None:
    """A step beside a wait keeps the run with its worker; the handler is not touched meanwhile."""
    left = []

    @workflow()
    async def beside(ctx: Context, _: Any) -> Any:
        async def waits() -> Any:
            try:
                return await ctx.wait_for_event("go")
            finally:
                left.append("wait")

        return await asyncio.gather(waits(), ctx.step(gate.pass_through), ctx.sleep(HOUR))

    runtime = lab.runtime(beside)
    handle = await runtime.start_run(beside, run_id="run")
    async with lab.driving(runtime) as sweep:
        await gate.reached.wait()
        await asyncio.sleep(0.01)
        assert (await lab.status("run"), left, sweep.done()) == (RunStatus.RUNNING, [], False)
        gate.opened.set()
    assert (await lab.status("run"), left) == (RunStatus.PAUSED, ["wait"])
    await runtime.deliver_signal("run", "go", 1)
    assert await run_to_completion(runtime, handle, lab.clock) == [1, "passed", None]


async def test_teardown_comes_after_the_commit(lab: Lab) -> None:
    """When the handler's blocks are left, the pause is already in the store."""
    seen = []

    @workflow()
    async def looks(ctx: Context, _: Any) -> Any:
        try:
            return await ctx.wait_for_event("go")
        finally:
            run = lab.data.runs["run"]
            seen.append((run.status, run.next_index))

    assert await pause_and_end(lab, looks) == "went"
    assert seen[0] == (RunStatus.PAUSED, 1)


async def test_handler_is_taken_down_when_the_pause_cannot_be_written(lab: Lab) -> None:
    """The store refuses: no harm but the lease, which runs out."""
    left = []

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        try:
            return await ctx.wait_for_event("go")
        finally:
            left.append("left")
            await ctx.step(note, lab, "cleanup")

    async def refuse(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "mark_run_paused":
            raise StoreOperationError("disk full")

    store = lab.tapped()
    store.before = refuse
    runtime = lab.runtime(waits, store=store)
    await runtime.start_run(waits, run_id="run")
    report = await runtime.sweep()
    assert [failure.run_id for failure in report.failures] == ["run"]
    assert (left, dict(lab.ran)) == (["left"], {})
    assert await lab.log("run") == []


async def test_delivery_between_the_last_look_and_the_pause_is_not_missed(lab: Lab) -> None:
    """The store answers `queued`, and the next pass goes on at once."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        return await ctx.wait_for_event("go")

    async def deliver(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "mark_run_paused":
            store.before = nothing
            await lab.runtime(waits).deliver_signal("run", "go", "in between")

    store = lab.tapped()
    nothing, store.before = store.before, deliver
    runtime = lab.runtime(waits, store=store)
    handle = await runtime.start_run(waits, run_id="run")
    report = await runtime.sweep()
    assert report.outcomes == {"queued": 1, "finished": 1}
    assert await handle.result() == "in between"


async def endless_waits(ctx: Context) -> None:
    while True:
        with contextlib.suppress(BaseException):
            await ctx.wait_for_event("go")


async def endless_approvals(ctx: Context) -> None:
    while True:
        with contextlib.suppress(BaseException):
            await ctx.approve("the same every time")


async def endless_steps(ctx: Context) -> None:
    while True:
        with contextlib.suppress(BaseException):
            await ctx.sleep(HOUR)
        with contextlib.suppress(BaseException):
            await ctx.step.options(id="once")(print, "never")


async def endless_turns(ctx: Context) -> None:
    with contextlib.suppress(BaseException):
        await ctx.wait_for_event("go")
    while True:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(0)


async def endless_events(ctx: Context) -> None:
    with contextlib.suppress(BaseException):
        await ctx.wait_for_event("go")
    while True:
        with contextlib.suppress(BaseException):
            await asyncio.Event().wait()


# Python itself complains about such a coroutine when it is collected, and is right.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "body", [endless_waits, endless_approvals, endless_steps, endless_turns, endless_events], ids=lambda f: f.__name__
)
@pytest.mark.timeout(20, method="thread")  # the other method raises, and that would be swallowed too
async def test_handler_that_never_lets_go_does_not_hang_the_worker(lab: Lab, body: Any) -> None:
    """It swallows everything and goes on for ever; the run pauses, and other runs are driven."""

    @workflow()
    async def stubborn(ctx: Context, _: Any) -> None:
        await body(ctx)

    @workflow()
    async def innocent(ctx: Context, _: Any) -> str:
        return "done"

    runtime = lab.runtime(stubborn, innocent)
    await runtime.start_run(stubborn, run_id="run")
    other = await runtime.start_run(innocent)
    await runtime.sweep()
    assert await lab.status("run") is RunStatus.PAUSED
    assert await other.result() == "done"
    assert lab.ran == {}
    gc.collect()


async def test_a_handler_that_nothing_could_wake_ends_with_an_error(lab: Lab) -> None:
    """Paused without a wait and without a timer it would be out of everybody's reach."""

    @workflow()
    async def stuck(ctx: Context, _: Any) -> Any:
        await ctx.step(note, lab, "before")
        await asyncio.Event().wait()

    runtime = lab.runtime(stuck)
    handle = await runtime.start_run(stuck, run_id="run")
    await lab.sweep(stuck)
    run = await handle.load()
    assert run.status is RunStatus.ERRORED
    assert run.error is not None
    assert "not durable" in run.error
