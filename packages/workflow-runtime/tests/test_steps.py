"""Steps: what runs, where, how often, under which name, and what comes back."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    NO_RETRY,
    ConfigurationError,
    Context,
    InvalidArgumentError,
    RetryPolicy,
    RunFailedError,
    RunStatus,
    StepFailedError,
    StepInfo,
    fixed_backoff,
    step_info,
    workflow,
)
from workflow_runtime.testing import run_to_completion, run_until_blocked

if TYPE_CHECKING:
    from conftest import Gate, Lab

AT_ONCE = RetryPolicy(max_attempts=3, backoff=fixed_backoff(timedelta(0)))


async def double(number: int) -> int:
    return number * 2


async def test_step_gets_its_arguments(lab: Lab) -> None:
    """Positional and keyword arguments arrive as given, also such as options are named."""

    async def collect(*args: Any, **kwargs: Any) -> list[Any]:
        return [args, kwargs]

    @workflow()
    async def calls(ctx: Context, input: Any) -> Any:
        return await ctx.step(collect, 1, input, id="not an option", retry=2, timeout=3)

    assert await lab.finish(calls, "x") == [[1, "x"], {"id": "not an option", "retry": 2, "timeout": 3}]


async def test_completed_step_never_runs_again(lab: Lab) -> None:
    """Each pause replays the handler, none of them its completed steps."""

    async def count(name: str) -> int:
        lab.ran[name] += 1
        return lab.ran[name]

    @workflow()
    async def paused_often(ctx: Context, _: Any) -> list[int]:
        results = []
        for name in ("a", "b", "c"):
            results.append(await ctx.step(count, name))
            await ctx.sleep(timedelta(hours=1))
        return results

    assert await lab.finish(paused_often) == [1, 1, 1]
    assert lab.ran == {"a": 1, "b": 1, "c": 1}


async def test_result_is_the_decoded_record_also_the_first_time(lab: Lab) -> None:
    """A tuple is a list already on the first execution, and what a step returns is not shared with its record."""
    shared: dict[str, Any] = {"items": (1, (2, 3))}
    seen = []

    async def give() -> Any:
        return shared

    @workflow()
    async def looks(ctx: Context, _: Any) -> Any:
        result = await ctx.step(give)
        seen.append(result)
        shared["items"] = ()
        result["items"].append("mine")
        await ctx.sleep(timedelta(days=1))
        return result

    assert await lab.finish(looks) == {"items": [1, [2, 3], "mine"]}
    assert seen == [{"items": [1, [2, 3], "mine"]}] * 2


async def test_repeated_explicit_id_is_refused_before_the_step_runs(lab: Lab) -> None:
    """The second use of an explicit id is an error at once; the first one is not harmed."""

    @workflow(retry=NO_RETRY)
    async def repeats(ctx: Context, _: Any) -> Any:
        first = await ctx.step.options(id="charge")(double, 1)
        with pytest.raises(InvalidArgumentError, match=r"id: step id 'charge' was used before"):
            await ctx.step.options(id="charge")(lab.ran.update, ["second"])
        return first

    assert await lab.finish(repeats, run_id="run") == 2
    assert lab.ran == {}
    assert await lab.log("run") == ["step-completed charge", "run-finished"]


async def test_repeated_explicit_id_is_refused_while_the_first_one_is_running(lab: Lab) -> None:
    """The check does not wait for a record."""

    @workflow()
    async def repeats(ctx: Context, _: Any) -> Any:
        one = ctx.step.options(id="same")(double, 1)
        two = ctx.step.options(id="same")(double, 2)
        return [str(item)[:20] for item in await asyncio.gather(one, two, return_exceptions=True)]

    assert await lab.finish(repeats) == ["2", "id: step id 'same' w"]


async def test_automatic_ids_count_each_name(lab: Lab) -> None:
    """The second call of a function gets `#2`; names count apart; an explicit id does not count."""

    @workflow()
    async def names(ctx: Context, _: Any) -> None:
        for number in range(3):
            await ctx.step(double, number)
        await ctx.step.options(id="mine")(double, 0)
        await ctx.step(lambda: None)
        await ctx.step(functools.partial(double, 1))
        await ctx.sleep(timedelta(0))
        await ctx.sleep(timedelta(0))

    await lab.finish(names, run_id="run")
    steps = [event.step_id for event in await lab.events("run") if event.kind == "step-completed"]
    assert steps == ["double", "double#2", "double#3", "mine", "<lambda>", "step"]
    assert "sleep-ended sleep#2" in await lab.log("run")


async def test_automatic_id_makes_way_for_an_explicit_one(lab: Lab) -> None:
    """An explicit id that looks like an automatic one is no accident waiting to happen."""

    @workflow()
    async def mixed(ctx: Context, _: Any) -> None:
        await ctx.step.options(id="double#2")(double, 0)
        await ctx.step.options(id="double")(double, 0)
        await ctx.step(double, 1)
        await ctx.step(double, 2)
        with pytest.raises(InvalidArgumentError, match="used before"):
            await ctx.step.options(id="double#3")(double, 0)

    await lab.finish(mixed, run_id="run")
    assert [event.step_id for event in await lab.events("run")][:4] == ["double#2", "double", "double#3", "double#4"]


async def test_plain_function_runs_on_a_thread(lab: Lab) -> None:
    """It may block: the event loop of the application goes on meanwhile."""
    released = threading.Event()

    def block() -> bool:
        released.wait(10)
        return threading.current_thread() is threading.main_thread()

    @workflow()
    async def blocks(ctx: Context, _: Any) -> Any:
        return await asyncio.gather(ctx.step(block), ctx.step(release))

    async def release() -> str:
        released.set()
        return "released"

    assert await lab.finish(blocks) == [False, "released"]


class Doubler:
    async def __call__(self, number: int) -> int:
        return number * 2

    async def method(self, number: int) -> int:
        return number * 3


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (double, 42),
        (functools.partial(double, 21), 42),
        (functools.partial(functools.partial(double), 21), 42),
        (lambda number: double(number), 42),  # noqa: PLW0108  # the point
        (Doubler(), 42),
        (Doubler().method, 63),
        (str, "21"),
        (lambda number: number, 21),
    ],
    ids=["async", "partial", "partial of partial", "lambda", "object", "method", "type", "plain lambda"],
)
async def test_anything_callable_is_a_step(lab: Lab, function: Any, expected: object) -> None:
    """Whatever wraps an `async def` is awaited, whatever does not is called."""
    arguments = [] if isinstance(function, functools.partial) else [21]

    @workflow()
    async def calls(ctx: Context, _: Any) -> Any:
        return await ctx.step(function, *arguments)

    assert await lab.finish(calls) == expected


@pytest.mark.parametrize("value", [None, 5, "name"])
async def test_step_of_something_that_cannot_be_called_is_refused(lab: Lab, value: Any) -> None:
    """The usual mistake is to call the function instead of naming it."""

    @workflow()
    async def mistaken(ctx: Context, _: Any) -> None:
        await ctx.step(value)

    with pytest.raises(RunFailedError, match="pass it without calling it"):
        await lab.finish(mistaken)


async def test_attempts_are_counted_and_share_one_idempotency_key(lab: Lab) -> None:
    """The body sees attempts 1, 2, 3 and the same key in all of them, also across workers."""
    seen: list[StepInfo] = []

    async def flaky() -> str:
        seen.append(step_info())
        if len(seen) < 3:
            raise ConnectionError("away")
        return "there"

    @workflow(retry=RetryPolicy(backoff=fixed_backoff(timedelta(minutes=5)), jitter=0))
    async def retries(ctx: Context, _: Any) -> Any:
        return await ctx.step(flaky)

    runtime = lab.runtime(retries)
    handle = await runtime.start_run(retries, run_id="run")
    for _ in range(3):
        await lab.sweep(retries)
        lab.advance(minutes=5)
    assert await handle.result() == "there"
    assert [(info.run_id, info.step_id, info.attempt) for info in seen] == [("run", "flaky", n) for n in (1, 2, 3)]
    assert len({info.idempotency_key for info in seen}) == 1


async def test_idempotency_keys_differ_between_steps_runs_and_lives_of_a_run(lab: Lab) -> None:
    """A run that was deleted and started again under its id does new work, under new keys."""
    keys = []

    def note() -> None:
        keys.append(step_info().idempotency_key)

    @workflow()
    async def two_steps(ctx: Context, _: Any) -> None:
        await ctx.step(note)
        await ctx.step(note)

    for run_id in ("one", "two", "one"):
        await lab.finish(two_steps, run_id=run_id)
        await lab.store().delete_run(run_id=run_id, now_ms=lab.clock.now_ms())
        lab.advance(milliseconds=1)
    assert len(set(keys)) == len(keys) == 6


async def test_attempt_in_flight_at_a_crash_is_made_again_under_its_number(lab: Lab, gate: Gate) -> None:
    """A crash is no failure of the step: number and key stay."""
    seen = []

    async def work() -> None:
        seen.append((step_info().attempt, step_info().idempotency_key))
        await gate.pass_through()

    @workflow()
    async def crashes(ctx: Context, _: Any) -> None:
        await ctx.step(work)

    runtime = lab.runtime(crashes)
    await runtime.start_run(crashes, run_id="run")
    dying = asyncio.create_task(runtime.sweep())
    await gate.reached.wait()
    dying.cancel()
    await asyncio.wait([dying])
    gate.opened.set()
    lab.advance(seconds=31)
    await lab.sweep(crashes)
    assert await lab.status("run") is RunStatus.FINISHED
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_step_info_is_for_steps() -> None:
    """Outside of a step there is nothing to tell."""
    with pytest.raises(ConfigurationError, match="inside a step"):
        step_info()


async def test_each_attempt_has_its_own_timeout(lab: Lab) -> None:
    """An attempt that takes too long is cancelled and counts as a failure; the next one has the whole time again."""
    cancelled = []

    async def slow_at_first() -> str:
        if step_info().attempt < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(step_info().attempt)
                raise
        return "done"

    @workflow(retry=AT_ONCE)
    async def hurries(ctx: Context, _: Any) -> Any:
        return await ctx.step.options(timeout=timedelta(milliseconds=10))(slow_at_first)

    assert await lab.finish(hurries, run_id="run") == "done"
    assert cancelled == [1, 2]
    first = (await lab.events("run"))[0]
    assert first.kind == "step-retrying"
    assert "StepTimeoutError" in str(first.payload)


async def test_timeout_of_a_plain_function_does_not_wait_for_its_thread(lab: Lab) -> None:
    """A thread cannot be interrupted; the step fails in time all the same."""
    released = threading.Event()

    @workflow(retry=NO_RETRY)
    async def hurries(ctx: Context, _: Any) -> Any:
        try:
            await ctx.step.options(timeout=timedelta(milliseconds=10))(released.wait, 10)
        except StepFailedError as error:
            return [error.error_type, error.message]

    assert await lab.finish(hurries) == ["StepTimeoutError", "step 'wait' took longer than its timeout of 0.01 s"]
    released.set()


async def test_timeout_error_of_the_body_is_the_bodys_own(lab: Lab) -> None:
    """Only the step's own timeout is told as such."""

    async def gives_up() -> None:
        raise TimeoutError("the service said so")

    @workflow(retry=NO_RETRY)
    async def fails(ctx: Context, _: Any) -> Any:
        try:
            await ctx.step.options(timeout=timedelta(hours=1))(gives_up)
        except StepFailedError as error:
            return [error.error_type, error.message]

    assert await lab.finish(fails) == ["TimeoutError", "the service said so"]


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ({"items": [1, {2, 3}]}, "InvalidPayloadError: result of step 'make': at $.items[1]: a set cannot be carried"),
        (float("nan"), "InvalidPayloadError: result of step 'make': at $: nan is not a JSON number"),
        (b"raw", "InvalidPayloadError: result of step 'make': at $: a bytes cannot be carried"),
        ("x" * 2_000_000, "PayloadTooLargeError: result of step 'make': the payload takes 2000002 bytes"),
    ],
    ids=["set", "nan", "bytes", "large"],
)
async def test_result_that_cannot_be_carried_fails_without_retry(lab: Lab, result: Any, problem: str) -> None:
    """What cannot be written the first time cannot be written the second time; the error says where it sits."""

    def make() -> Any:
        lab.ran["make"] += 1
        return result

    @workflow(retry=AT_ONCE)
    async def makes(ctx: Context, _: Any) -> None:
        await ctx.step(make)

    with pytest.raises(RunFailedError) as failure:
        await lab.finish(makes)
    assert failure.value.error_type == "StepFailedError"
    assert f"step 'make' failed after 1 attempt: {problem}" in failure.value.message
    assert lab.ran == {"make": 1}


async def test_result_of_just_the_largest_size_is_carried(lab: Lab) -> None:
    """The limit is the store's, to the byte."""

    @workflow()
    async def makes(ctx: Context, _: Any) -> int:
        return len(await ctx.step(lambda: "x" * 1_999_998))

    assert await lab.finish(makes) == 1_999_998


async def test_context_variables_reach_steps(lab: Lab) -> None:
    """What the handler has set at the call is what the body sees, on the loop and on a thread."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")

    async def on_the_loop() -> str:
        seen = request.get()
        request.set("changed by the step")
        return seen

    def on_a_thread() -> str:
        return request.get()

    @workflow()
    async def traced(ctx: Context, _: Any) -> list[str]:
        request.set("first")
        first = ctx.step(on_the_loop)
        one = await first
        request.set("second")
        return [one, await ctx.step(on_a_thread), request.get()]

    assert await lab.finish(traced) == ["first", "second", "second"]
    assert request.get() == "none"


class OddError(BaseException):
    """No `Exception`, as some libraries have them for their own flow of control."""


async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def test_step_that_cancels_its_own_task_is_a_failed_attempt(lab: Lab) -> None:
    """Nobody else cancelled it: the run must not wait for it, and it must not be made again for ever."""

    @workflow(retry=AT_ONCE)
    async def unlucky(ctx: Context, _: Any) -> None:
        await ctx.step(cancel_itself)

    with pytest.raises(RunFailedError, match="failed after 3 attempts: CancelledError"):
        await lab.finish(unlucky)


@pytest.mark.parametrize("error", [OddError(), asyncio.CancelledError(), GeneratorExit()], ids=repr)
async def test_step_that_raises_no_exception_is_a_failed_attempt(lab: Lab, error: BaseException) -> None:
    """It must not take the other runs of the sweep down, nor look like a cancellation from outside."""

    async def odd() -> None:
        lab.ran["odd"] += 1
        raise error

    @workflow(retry=AT_ONCE)
    async def unlucky(ctx: Context, _: Any) -> None:
        await ctx.step(odd)

    @workflow()
    async def innocent(ctx: Context, _: Any) -> Any:
        return await ctx.step(double, 1)

    runtime = lab.runtime(unlucky, innocent)
    first = await runtime.start_run(unlucky)
    second = await runtime.start_run(innocent)
    await run_until_blocked(runtime)
    assert await second.result() == 2
    with pytest.raises(RunFailedError, match=type(error).__qualname__):
        await first.result()
    assert lab.ran == {"odd": 3}


async def test_durable_operation_inside_a_step_is_refused_and_leaves_no_trace(lab: Lab) -> None:
    """A step's body runs once and is not replayed: what it recorded would never be asked for again."""

    @workflow(retry=NO_RETRY)
    async def nests(ctx: Context, _: Any) -> str:
        async def outer() -> Any:
            return await ctx.step(double, 1)

        try:
            await ctx.step(outer)
        except StepFailedError as error:
            await ctx.step(double, 2)
            await ctx.sleep(timedelta(days=1))
            return error.error_type
        return "not refused"

    assert await lab.finish(nests, run_id="run") == "ConfigurationError"
    assert [line for line in await lab.log("run") if "step" in line] == ["step-failed outer", "step-completed double"]


async def test_steps_of_one_handler_run_side_by_side(lab: Lab) -> None:
    """Neither waits for the other to end."""
    barrier = asyncio.Barrier(3)

    async def meet() -> None:
        await barrier.wait()

    @workflow()
    async def meeting(ctx: Context, _: Any) -> str:
        await asyncio.gather(*(ctx.step(meet) for _ in range(3)))
        return "met"

    assert await lab.finish(meeting) == "met"


async def test_nothing_runs_before_its_cause_is_durable(lab: Lab) -> None:
    """When a step starts, every event that led to it is in the store."""
    lengths = []

    async def look() -> None:
        lengths.append(len(lab.data.runs["run"].events))

    @workflow()
    async def careful(ctx: Context, _: Any) -> None:
        await ctx.now()
        await ctx.emit("about to look")
        await ctx.step(look)
        await ctx.uuid()
        await ctx.step(look)

    await lab.finish(careful, run_id="run")
    assert lengths == [2, 4]


async def test_recorded_values_are_the_same_in_a_replay(lab: Lab) -> None:
    """`now`, `uuid` and `random` give the first execution's values again; emitted events are written once."""
    seen: list[Any] = []

    @workflow()
    async def values(ctx: Context, _: Any) -> None:
        found = [await ctx.now(), await ctx.uuid(), await ctx.uuid(), await ctx.random()]
        await ctx.emit("found", {"count": len(found)})
        seen.append(found)
        await ctx.sleep(timedelta(days=1))

    start = lab.clock.now()
    await lab.finish(values, run_id="run")
    assert seen[0] == seen[1]
    assert seen[0][0] == start
    assert seen[0][1] != seen[0][2]
    assert 0 <= seen[0][3] < 1
    emitted = [event.payload for event in await lab.events("run") if event.kind == "emitted"]
    assert emitted == ['{"name":"found","value":{"count":4}}']


async def test_run_here_drives_in_this_task(lab: Lab) -> None:
    """Start, claim and first drive without a worker; a run that exists is left alone."""

    @workflow()
    async def quick(ctx: Context, number: int) -> int:
        return await ctx.step(double, number)

    runtime = lab.runtime(quick)
    handle = await runtime.run_here(quick, 4, run_id="run")
    assert handle.created
    assert await handle.result() == 8
    again = await runtime.run_here(quick, 4, run_id="run")
    assert not again.created
    assert await again.result() == 8


async def test_run_here_hears_of_signals_while_a_step_runs(lab: Lab, gate: Gate) -> None:
    """A delivery of the same process reaches the driver at once, as it reaches a worker's."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        step = asyncio.create_task(ctx.step(gate.pass_through))
        answer = await ctx.wait_for_event("go")
        await ctx.emit("heard")
        await step
        return answer

    runtime = lab.runtime(waits)
    driving = asyncio.create_task(runtime.run_here(waits, run_id="run"))
    await gate.reached.wait()
    await runtime.deliver_signal("run", "go", 5)
    await lab.until(lambda: any(event.kind == "emitted" for event in lab.data.runs["run"].events))
    gate.opened.set()
    handle = await driving
    assert await run_to_completion(runtime, handle, lab.clock) == 5


async def test_step_whose_task_is_cancelled_before_it_begins_runs_again(lab: Lab) -> None:
    """Whoever cancels it: it never entered its function, so nobody else notes its end."""
    loop, cancelled = asyncio.get_running_loop(), list[str]()

    def make(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        if coro.__qualname__.startswith("StepTasks") and not cancelled:
            cancelled.append(coro.__qualname__)
            task.cancel()
        return task

    @workflow()
    async def doubles(ctx: Context, number: int) -> int:
        return await ctx.step(double, number)

    loop.set_task_factory(make)
    try:
        assert await asyncio.wait_for(lab.finish(doubles, 2), 10) == 4
    finally:
        loop.set_task_factory(None)
    assert cancelled


async def test_arguments_of_a_step_are_let_go_when_it_is_recorded(lab: Lab) -> None:
    """A long run must not hold everything that it ever gave to a step."""

    class Large:
        pass

    held: list[weakref.ref[Large]] = []

    async def take(large: Large) -> None:
        held.append(weakref.ref(large))

    async def count() -> int:
        gc.collect()
        return sum(reference() is not None for reference in held)

    @workflow()
    async def hands_over(ctx: Context, _: Any) -> int:
        for _ in range(3):
            await ctx.step(take, Large())
        return await ctx.step(count)

    assert await lab.finish(hands_over) == 0
