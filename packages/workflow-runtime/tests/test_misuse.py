"""The usual ways to hand over the wrong thing: each is one sentence that says what to write instead."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from workflow_runtime import (
    ConfigurationError,
    Context,
    Every,
    RetryPolicy,
    RunFailedError,
    Schedule,
    StepFailedError,
    TestClock,
    WorkflowError,
    WorkflowRuntime,
    exponential_backoff,
    fixed_backoff,
    workflow,
)
from workflow_runtime.errors import StoreNotOpenError
from workflow_runtime.hosting import sweep_handler
from workflow_runtime.testing import run_to_completion, run_until_blocked
from workflow_store_memory import InMemoryWorkflowStore

if TYPE_CHECKING:
    from conftest import Gate, Lab

ANY: Any = cast("Any", None)


async def undecorated(ctx: Context, _: Any) -> None: ...


async def pay(amount: int, *, currency: str = "EUR") -> int:
    return amount


@workflow()
async def child(ctx: Context, _: Any) -> None: ...


@workflow()
async def waits(ctx: Context, _: Any) -> Any:
    return await ctx.wait_for_event("go")


Fn = Callable[[Context], Awaitable[Any]]
IN_A_HANDLER: dict[str, tuple[Fn, str]] = {
    "a workflow as a step": (
        lambda ctx: ctx.step(cast("Any", child)),
        "is the workflow 'child' and no function: start it",
    ),
    "a workflow that is called": (
        lambda ctx: cast("Any", child)(ctx, 1),
        r"not called, it is started: await runtime.start_run\(child",
    ),
    "a coroutine": (
        lambda ctx: ctx.step(cast("Any", pay(1))),
        r"write ctx.step\(pay, ...\) instead of ctx.step\(pay\(...\)\)",
    ),
    "a task": (
        lambda ctx: ctx.step(cast("Any", asyncio.create_task(pay(1)))),
        "that runs already: pass an `async def`",
    ),
    "a future": (lambda ctx: ctx.step(cast("Any", asyncio.gather(pay(1)))), "that runs already: pass an `async def`"),
    "nothing": (lambda ctx: ctx.step(ANY), "must be a function, not NoneType"),
    "a number as a retry": (
        lambda ctx: ctx.step.options(retry=cast("Any", 3))(pay, 1),
        r"RetryPolicy\(max_attempts=3\)",
    ),
    "a number as a timeout": (
        lambda ctx: ctx.step.options(timeout=cast("Any", 5))(pay, 1),
        r"timeout: must be a timedelta, not int: write timedelta\(seconds=5\)",
    ),
    "a number as a sleep": (lambda ctx: ctx.sleep(cast("Any", 1.5)), r"duration: .*write timedelta\(seconds=1.5\)"),
    "a text as a sleep": (lambda ctx: ctx.sleep(cast("Any", "1h")), "duration: must be a timedelta, not str$"),
    "a number as a moment": (lambda ctx: ctx.sleep_until(cast("Any", 5)), "moment: must be a datetime .*, not int"),
    "a date as a moment": (
        lambda ctx: ctx.sleep_until(cast("Any", date(2030, 1, 1))),
        "must be a datetime .*, not date",
    ),
    "a moment without a zone": (
        lambda ctx: ctx.sleep_until(datetime(2030, 1, 1)),  # noqa: DTZ001  # that is the case
        "this one has none",
    ),
    "a number as a wait": (lambda ctx: ctx.wait_for_event("go", timeout=cast("Any", 5)), r"timedelta\(seconds=5\)"),
    "a number as an approval's wait": (lambda ctx: ctx.approve("a", timeout=cast("Any", 5)), r"timedelta\(seconds=5\)"),
}


@pytest.mark.parametrize("case", IN_A_HANDLER)
async def test_misuse_in_a_handler(lab: Lab, case: str) -> None:
    """The run ends with the sentence, and no warning is left behind."""
    call, told = IN_A_HANDLER[case]

    @workflow()
    async def wrong(ctx: Context, _: Any) -> None:
        await call(ctx)

    with pytest.raises(RunFailedError, match=told):
        await lab.finish(wrong)


Call = Callable[["Lab"], Any]
OUTSIDE: dict[str, tuple[Call, str]] = {
    "start_run of a function": (
        lambda lab: lab.runtime(child).start_run(cast("Any", undecorated)),
        "the function undecorated is none: decorate it with @workflow()",
    ),
    "run_here of a function": (lambda lab: lab.runtime(child).run_here(cast("Any", undecorated)), "decorate it with"),
    "start_run of nothing": (lambda lab: lab.runtime(child).start_run(ANY), "None is none: give one that @workflow"),
    "start_run of a class": (lambda lab: lab.runtime(child).start_run(cast("Any", dict)), "give one that @workflow"),
    "attach with a function": (
        lambda lab: lab.runtime(child).attach("r", cast("Any", undecorated)),
        "decorate it with",
    ),
    "a schedule of a function": (
        lambda lab: lab.runtime(
            child, schedules=[Schedule(id="s", workflow=cast("Any", undecorated), when=Every(timedelta(days=1)))]
        ),
        "decorate it with",
    ),
    "@workflow without parentheses": (
        lambda lab: workflow(cast("Any", undecorated)),
        r"write @workflow\(\) with parentheses",
    ),
    "one previous version": (
        lambda lab: workflow(id="child", version="2", previous_versions=cast("Any", child)),
        r"write previous_versions=\[old\]",
    ),
    "a number of retries": (lambda lab: workflow(retry=cast("Any", 3)), r"RetryPolicy\(max_attempts=3\)"),
    "one workflow": (
        lambda lab: WorkflowRuntime(store=lab.store(), workflows=cast("Any", child)),
        r"write workflows=\[...\]",
    ),
    "workflows of functions": (
        lambda lab: lab.runtime(cast("Any", undecorated)),
        r"decorate its handler with @workflow\(\)",
    ),
    "a class of stores": (
        lambda lab: WorkflowRuntime(store=cast("Any", InMemoryWorkflowStore), workflows=[]),
        "not the class InMemoryWorkflowStore",
    ),
    "a path": (
        lambda lab: WorkflowRuntime(store=cast("Any", "app.db"), workflows=[]),
        "must be a workflow store, not str",
    ),
    "no store": (lambda lab: WorkflowRuntime(store=ANY, workflows=[]), "must be a workflow store, not NoneType"),
    "a coroutine that opens a store": (
        lambda lab: WorkflowRuntime(store=cast("Any", pay(1)), workflows=[]),
        "not open yet: write `async with",
    ),
    "result(timeout=5)": (
        lambda lab: lab.runtime(child).attach("r").result(timeout=cast("Any", 5)),
        r"timeout: must be a timedelta, not int: write timedelta\(seconds=5\)",
    ),
    "lease=30": (lambda lab: lab.runtime(lease=30), r"lease: .*timedelta\(seconds=30\)"),
    "max_block=1": (lambda lab: lab.runtime(max_block=1), r"max_block: .*timedelta\(seconds=1\)"),
    "max_crashes": (lambda lab: lab.runtime(max_crashes="5"), "max_crashes: must be an int"),
    "sweep(deadline=1)": (lambda lab: lab.runtime().sweep(deadline=cast("Any", 1)), r"deadline: .*seconds=1\)"),
    "sweep(limit=1.5)": (lambda lab: lab.runtime().sweep(limit=cast("Any", 1.5)), "limit: must be an int"),
    "sweep(concurrency='2')": (
        lambda lab: lab.runtime().sweep(concurrency=cast("Any", "2")),
        "concurrency: must be an int",
    ),
    "work(drain_timeout=1)": (
        lambda lab: lab.runtime().work(drain_timeout=cast("Any", 1)),
        r"drain_timeout: .*seconds=1\)",
    ),
    "work(poll_interval=1)": (
        lambda lab: lab.runtime().work(poll_interval=cast("Any", 1)),
        r"poll_interval: .*seconds=1\)",
    ),
    "sweep_handler(budget=1)": (lambda lab: sweep_handler(lab.runtime(), cast("Any", 1)), r"budget: .*seconds=1\)"),
    "start_at": (lambda lab: lab.runtime(child).start_run(child, start_at=cast("Any", 5)), "start_at: .*, not int"),
    "advance(5)": (lambda lab: TestClock().advance(cast("Any", 5)), r"by: .*timedelta\(seconds=5\)"),
    "TestClock(5)": (lambda lab: TestClock(cast("Any", 5)), "start: must be a datetime .*, not int"),
    "Every(5)": (lambda lab: Every(cast("Any", 5)), r"interval: .*timedelta\(seconds=5\)"),
    "fixed_backoff(5)": (lambda lab: fixed_backoff(cast("Any", 5)), r"delay: .*timedelta\(seconds=5\)"),
    "exponential_backoff(5)": (lambda lab: exponential_backoff(cast("Any", 5)), r"initial: .*timedelta\(seconds=5\)"),
    "max_delay=5": (lambda lab: RetryPolicy(max_delay=cast("Any", 5)), r"max_delay: .*timedelta\(seconds=5\)"),
    "max_attempts=2.5": (lambda lab: RetryPolicy(max_attempts=cast("Any", 2.5)), "max_attempts: must be an int"),
    "jitter='a'": (lambda lab: RetryPolicy(jitter=cast("Any", "a")), "jitter: must be from 0 to 1"),
    "backoff=5": (lambda lab: RetryPolicy(backoff=cast("Any", 5)), r"backoff: must be a function .*fixed_backoff"),
    "retry_if=ValueError": (lambda lab: RetryPolicy(retry_if=cast("Any", True)), "retry_if: must be a function"),
    "non_retryable=ValueError": (
        lambda lab: RetryPolicy(non_retryable=cast("Any", ValueError)),
        "non_retryable: must be a tuple of classes of errors",
    ),
    "non_retryable=[…]": (lambda lab: RetryPolicy(non_retryable=cast("Any", [ValueError])), "must be a tuple"),
}


@pytest.mark.parametrize("case", OUTSIDE)
async def test_misuse_outside(lab: Lab, case: str) -> None:
    """One of our own errors, with the sentence."""
    call, told = OUTSIDE[case]

    async def make() -> None:
        answer = call(lab)
        if asyncio.iscoroutine(answer):
            await answer

    with pytest.raises(WorkflowError, match=told):
        await make()


def test_store_that_is_not_open_answers_both_kinds_of_callers() -> None:
    """Who looks whether it has an attribute, and who catches our errors."""
    error = StoreNotOpenError("Store.open(...)", "ensure_schema")
    assert isinstance(error, AttributeError)
    assert isinstance(error, ConfigurationError)
    assert "`async with Store.open(...) as store:`" in str(error)


async def gather_both() -> list[int]:
    return list(await asyncio.gather(pay(1), pay(2)))


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def with_one(*args: Any, **kwargs: Any) -> Any:
        return function(1, *args, **kwargs)

    return with_one


def raises_type_error(*_: Any) -> None:
    raise TypeError("of its own")


def calls_wrongly() -> None:
    cast("Any", pay)()


MADE: list[Coroutine[Any, Any, int]] = []


def payment(amount: int) -> Coroutine[Any, Any, int]:
    """Returns a coroutine that the test closes at its end: one that is dropped warns during any later test."""
    MADE.append(pay(amount))
    return MADE[-1]


NOT_RETRIED: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "too few arguments": (pay, (), "TypeError: pay() missing 1 required positional argument: 'amount'"),
    "too many arguments": (pay, (1, 2), "TypeError: pay() takes 1 positional argument but 2 were given"),
    "too few for a plain function": (lambda one: one, (), "TypeError"),
    "too few for a partial": (functools.partial(pay), (), "TypeError"),
    "too few for a class": (datetime, (), "TypeError"),
    "too few for a builtin": (len, (), "TypeError"),
    "our own ConfigurationError": (lambda: WorkflowRuntime(store=ANY, workflows=[]), (), "ConfigurationError"),
    "our own InvalidArgumentError": (lambda: RetryPolicy(max_attempts=0), (), "InvalidArgumentError"),
    "a gather in a lambda": (
        lambda: asyncio.gather(payment(1), payment(2)),
        (),
        "ConfigurationError: .* is no `async def`",
    ),
    "a task in a lambda": (lambda: asyncio.create_task(payment(1)), (), "ConfigurationError: .* is no `async def`"),
}
RETRIED: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "a TypeError of the body": (raises_type_error, (), "TypeError: of its own"),
    "a TypeError of a call in the body": (calls_wrongly, (), "TypeError: pay() missing"),
    "a TypeError behind a decorator": (wrapped(raises_type_error), (), "TypeError: of its own"),
    "a RuntimeError of the body": (lambda: asyncio.run(gather_both()) and 1 / 0, (), "ZeroDivisionError"),
}


@pytest.mark.parametrize(("retried", "case"), [*((False, c) for c in NOT_RETRIED), *((True, c) for c in RETRIED)])
async def test_programming_errors_in_a_step_are_not_retried(lab: Lab, retried: bool, case: str) -> None:
    """No attempt would go better; an error of the body itself may."""
    function, args, told = (RETRIED if retried else NOT_RETRIED)[case]

    @workflow(retry=RetryPolicy(max_attempts=3, backoff=fixed_backoff(timedelta(0)), retry_if=lambda _: True))
    async def wrong(ctx: Context, _: Any) -> list[Any]:
        try:
            return [await ctx.step(function, *args)]
        except StepFailedError as error:
            return [error.attempts, f"{error.error_type}: {error.message}"]

    attempts, message = await lab.finish(wrong)
    while MADE:
        MADE.pop().close()
    assert attempts == (3 if retried else 1)
    assert all(part in message for part in told.split(".*"))


async def test_backoff_that_gives_a_number(lab: Lab) -> None:
    """Says so, beside the step's own error."""

    @workflow(retry=RetryPolicy(backoff=cast("Any", lambda attempt: 5)))
    async def wrong(ctx: Context, _: Any) -> None:
        await ctx.step(raises_type_error)

    with pytest.raises(RunFailedError, match=r"about TypeError: backoff: .*write timedelta\(seconds=5\)"):
        await lab.finish(wrong)


class Unnamed:
    """Is called like any function, and answers no question about its name."""

    def __init__(self, name: Any) -> None:
        self.name = name

    def __call__(self) -> str:
        return "called"

    def __getattr__(self, name: str) -> Any:
        if name == "__name__":
            return self.name()
        raise AttributeError(name)


def fails_to_answer() -> str:
    raise RuntimeError("no name for you")


NAMES: dict[str, tuple[Any, str]] = {
    "none": (fails_to_answer, "step"),
    "empty": (lambda: "", "step"),
    "a number": (lambda: 5, "step"),
    "NUL": (lambda: "a\0b", "a?b"),
    "a lone surrogate": (lambda: "a\udc80", "a?"),
    "endless": (lambda: "n" * 5_000, "n" * 479 + "~"),
    "Unicode": (lambda: "заказ", "заказ"),
}


@pytest.mark.parametrize("case", NAMES)
async def test_function_of_any_name_is_a_step(lab: Lab, case: str) -> None:
    """The name is the default id, as far as it can be one."""
    name, expected = NAMES[case]

    @workflow()
    async def calls(ctx: Context, _: Any) -> list[str]:
        return [await ctx.step(Unnamed(name)), await ctx.step(Unnamed(name))]

    assert await lab.finish(calls, run_id="run") == ["called", "called"]
    steps = [event.step_id or "" for event in await lab.events("run") if event.kind == "step-completed"]
    assert steps[0].startswith(expected)
    assert len(set(steps)) == 2


OVER = "this ctx is over. Its handler has ended, or was taken down"


@pytest.mark.parametrize("end", ["finished", "paused", "errored"])
async def test_context_is_over_with_its_handler(lab: Lab, end: str, gate: Gate) -> None:
    """From a task on the application's loop, a thread, or a later step: an error of ours, never a `BaseException`."""
    kept: list[Context] = []

    @workflow()
    async def leaks(ctx: Context, _: Any) -> Any:
        kept.append(ctx)
        if end == "paused":
            await ctx.wait_for_event("go")
        if end == "errored":
            raise ValueError("its own")
        return 1

    runtime = lab.runtime(leaks)
    handle = await runtime.start_run(leaks)
    await run_until_blocked(runtime)
    assert await handle.status() == end
    [ctx] = kept
    uses: list[Callable[[], Awaitable[Any]]] = [
        ctx.now,
        lambda: ctx.step(pay, 1),
        lambda: ctx.sleep(timedelta(0)),
        lambda: ctx.wait_for_event("go"),
        lambda: ctx.approve("a"),
        lambda: ctx.emit("a"),
        ctx.uuid,
        ctx.random,
    ]
    for use in uses:
        with pytest.raises(ConfigurationError, match=OVER):
            await asyncio.ensure_future(cast("Any", use()))
    failures: list[BaseException] = []

    def on_a_thread() -> None:
        try:
            asyncio.run(cast("Any", ctx.now()))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=on_a_thread)
    thread.start()
    thread.join()
    assert type(failures[0]) is ConfigurationError
    assert OVER in str(failures[0])


async def test_task_of_a_step_that_goes_on_with_the_context(lab: Lab) -> None:
    """It hears of it, whenever it asks."""
    heard: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    go_on = asyncio.Event()
    tasks = set()

    async def background(ctx: Context) -> None:
        await go_on.wait()
        try:
            await ctx.now()
        except BaseException as error:  # noqa: BLE001
            heard.set_result(error)

    async def spawns(ctx: Context) -> None:
        tasks.add(asyncio.create_task(background(ctx)))

    @workflow()
    async def leaks(ctx: Context, _: Any) -> None:
        await ctx.step(spawns, ctx)

    await lab.finish(leaks)
    go_on.set()
    error = await heard
    assert type(error) is ConfigurationError
    assert OVER in str(error)


async def test_who_asks_for_ever_is_not_answered_for_ever(lab: Lab) -> None:
    """A coroutine that is thrown away, and swallows everything, ends."""
    kept: list[Context] = []

    @workflow()
    async def leaks(ctx: Context, _: Any) -> None:
        kept.append(ctx)

    await lab.finish(leaks)

    async def for_ever() -> None:
        for _ in range(5_000):
            try:
                await kept[0].now()
            except ConfigurationError:
                continue

    with pytest.raises(RuntimeError, match="attached to a different loop"):
        await asyncio.ensure_future(for_ever())


class OddDuration(timedelta):
    """Has operators and properties of its own, as the durations of some libraries do."""

    def odd(self, *_: Any) -> Any:
        raise RuntimeError("ask me otherwise")

    __floordiv__ = __truediv__ = __mul__ = __rmul__ = __lt__ = __le__ = __gt__ = __ge__ = total_seconds = odd
    days = seconds = microseconds = property(odd)


class OddMoment(datetime):
    """Subtracts to something that is no `timedelta`."""

    def __sub__(self, other: Any) -> Any:
        return "a while"


async def test_durations_and_moments_of_other_libraries(lab: Lab) -> None:
    """They are taken for the `timedelta` and the `datetime` that they are."""
    minute = OddDuration(minutes=1)
    retry = RetryPolicy(max_attempts=2, backoff=lambda _: minute, max_delay=OddDuration(hours=1), jitter=0)

    @workflow(retry=retry)
    async def waits(ctx: Context, _: Any) -> list[Any]:
        began = await ctx.now()
        with pytest.raises(StepFailedError):
            await ctx.step.options(timeout=minute)(raises_type_error)
        await ctx.sleep(minute)
        with pytest.raises(TimeoutError):
            await ctx.wait_for_event("go", timeout=minute)
        later = await ctx.now() + timedelta(minutes=1)
        await ctx.sleep_until(OddMoment(*later.timetuple()[:6], tzinfo=later.tzinfo))
        return [(await ctx.now() - began).total_seconds()]

    runtime = lab.runtime(waits, lease=OddDuration(seconds=30), max_block=minute)
    handle = await runtime.start_run(waits, start_at=OddMoment(2030, 1, 1, tzinfo=UTC))
    assert await run_to_completion(runtime, handle, lab.clock, limit=OddDuration(days=1)) == [240.0]
    assert await handle.result(timeout=minute) == [240.0]
    await runtime.sweep(deadline=minute)
    assert Every(OddDuration(minutes=1)) == Every(timedelta(minutes=1))
    assert exponential_backoff(minute)(1) == fixed_backoff(minute)(1) == timedelta(minutes=1)
