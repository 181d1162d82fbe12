"""Errors as they are recorded and logged: no part of the diagnosis is lost, whatever the error's class."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workflow_runtime import (
    NO_RETRY,
    Context,
    Failure,
    RetryPolicy,
    RunFailedError,
    StepFailedError,
    decode_json,
    fixed_backoff,
    workflow,
)
from workflow_runtime.failure import render_failure
from workflow_runtime.failures import MAX_FAILURE_BYTES, failure_of, read_failure, write_failure

if TYPE_CHECKING:
    from conftest import Lab


def raised(error: BaseException) -> BaseException:
    """Give the error a traceback."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return caught


def recorded(error: BaseException) -> Failure:
    """Write an error down and read it back, within the bound."""
    text = write_failure(failure_of(error), attempts=3)
    assert text.isascii()
    assert len(text) <= MAX_FAILURE_BYTES + 20
    facts = decode_json(text)
    assert facts["attempts"] == 3
    return read_failure(facts)


def chain_of(failure: Failure) -> list[str]:
    """Name the types from an error to its first cause."""
    return [failure.error_type, *(chain_of(failure.cause) if failure.cause else [])]


def test_causes_members_notes_and_tracebacks_are_kept() -> None:
    """Explicit causes, contexts, groups in groups."""

    def fails() -> None:
        try:
            {"other": 1}["key"]
        except KeyError as missing:
            error = ValueError("no such order")
            error.add_note("order 42")
            raise error from missing

    def cleans_up() -> None:
        try:
            fails()
        finally:
            raise ExceptionGroup("several", [OSError("disk"), ExceptionGroup("more", [TypeError("inner")])])

    with pytest.raises(ExceptionGroup) as group:
        cleans_up()
    failure = recorded(group.value)
    assert chain_of(failure) == ["ExceptionGroup", "ValueError", "KeyError"]
    assert [member.error_type for member in failure.members] == ["OSError", "ExceptionGroup"]
    assert failure.members[1].members[0].message == "inner"
    assert failure.cause is not None
    assert failure.cause.notes == ("order 42",)
    assert "in fails" in failure.cause.traceback
    assert "raise error from missing" in failure.cause.traceback
    assert "in cleans_up" in failure.traceback
    text = render_failure(failure)
    assert all(part in text for part in ("KeyError: 'key'", "order 42", "which led to", "TypeError: inner", "disk"))


def test_context_that_was_suppressed_is_left_out() -> None:
    """As Python leaves it out."""

    def hides() -> None:
        try:
            raise KeyError(1)
        except KeyError:
            raise ValueError("plain") from None

    with pytest.raises(ValueError, match="plain") as error:
        hides()
    assert recorded(error.value).cause is None


def circle() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def own_cause() -> BaseException:
    error = ValueError("mine")
    error.__cause__ = error
    return error


def long_chain() -> BaseException:
    error: BaseException = ValueError("the first")
    for number in range(10_000):
        following = ValueError(f"number {number}")
        following.__cause__ = error
        error = following
    return error


def deep_group() -> BaseException:
    error: Exception = ValueError("innermost")
    for number in range(500):
        error = ExceptionGroup(f"level {number}", [error])
    return error


def deep_recursion() -> BaseException:
    def again(number: int) -> None:
        again(number + 1)

    try:
        again(0)
    except RecursionError as error:
        return error
    raise AssertionError


class Text(str):
    """A string that is none of the usual ones."""

    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError("not sliced")


class OddTextError(Exception):
    def __str__(self) -> str:
        return Text("odd text")


class NotesOfItsOwnError(Exception):
    @property
    def __notes__(self) -> Iterator[str]:  # type: ignore[override]
        while True:
            yield "and on"


def with_notes(notes: Any) -> BaseException:
    error = ValueError("noted")
    error.__notes__ = notes
    return error


class NoTextError(Exception):
    def __str__(self) -> Any:
        return 5  # noqa: PLE0307


class ExitingTextError(Exception):
    def __str__(self) -> str:  # noqa: PLE0307
        sys.exit(1)


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in {"__qualname__", "__name__", "__module__"}:
            raise RuntimeError(f"no {name} for you")
        return super().__getattribute__(name)


class NamedOddlyError(Exception, metaclass=Meta):
    pass


ODD: dict[str, Any] = {
    "circle": circle,
    "own cause": own_cause,
    "long chain": long_chain,
    "deep group": deep_group,
    "wide group": lambda: ExceptionGroup("wide", [ValueError(str(number)) for number in range(10_000)]),
    "wide group of long texts": lambda: ExceptionGroup("wide", [ValueError("☃" * 9_999) for _ in range(50)]),
    "recursion": deep_recursion,
    "long text": lambda: ValueError("x" * 5_000_000),
    "long text that needs escapes": lambda: ValueError("\udc80\0" * 500_000),
    "emoji": lambda: ValueError("\U0001f600" * 100_000),
    "odd text": OddTextError,
    "no text": NoTextError,
    "text that exits": ExitingTextError,
    "notes of its own": NotesOfItsOwnError,
    "no list of notes": lambda: with_notes(7),
    "notes of numbers": lambda: with_notes([1, None, b"x", Text("t")]),
    "many long notes": lambda: with_notes(["n" * 100_000] * 1_000),
    "odd name": NamedOddlyError,
    "endless name": lambda: type("N" * 100_000, (Exception,), {})("named"),
    "everything at once": lambda: with_notes(["n" * 9_000] * 20).with_traceback(deep_recursion().__traceback__),
}


@pytest.mark.parametrize("shape", ODD)
async def test_error_of_any_shape_becomes_a_record_and_a_log_line(
    lab: Lab, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is readable, bounded, and both the step and its starter hear of it."""
    assert recorded(raised(ODD[shape]())).error_type

    async def body() -> None:
        raise ODD[shape]()

    @workflow(retry=NO_RETRY)
    async def fails(ctx: Context, _: Any) -> None:
        await ctx.step(body)

    with pytest.raises(RunFailedError) as failed:
        await lab.finish(fails, run_id="run")
    assert failed.value.error_type == "StepFailedError"
    events = await lab.events("run")
    assert all(len(event.payload or "") <= 16_384 for event in events)
    lines = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1
    assert len(caplog.handler.format(lines[0])) < 400_000


@st.composite
def errors(draw: st.DrawFn, depth: int = 4) -> BaseException:
    """Trees of errors with texts of any kind."""
    text = draw(st.text(max_size=30)) * draw(st.sampled_from([1, 1, 100, 1_000]))
    error: Exception = ValueError(text)
    if depth:
        members = draw(st.lists(errors(depth - 1), max_size=3))
        if members:
            error = ExceptionGroup(text, [m for m in members if isinstance(m, Exception)])
        if draw(st.booleans()):
            error.__cause__ = draw(errors(depth - 1))
    for note in draw(st.lists(st.text(max_size=50), max_size=3)):
        error.add_note(note * draw(st.sampled_from([1, 1_000])))
    return error


@given(errors())
@settings(deadline=None, max_examples=30)
def test_record_is_bounded_whatever_is_in_it(error: BaseException) -> None:
    """And reading it back gives at least the type, and the beginning of the message."""
    failure = recorded(raised(error))
    assert failure.error_type == type(error).__qualname__
    assert str(error).startswith(failure.message.removesuffix("…"))
    assert (failure.message == "") == (str(error) == "")


def test_small_tree_is_kept_whole() -> None:
    """Nothing is cut that need not be."""
    error: Exception = ValueError("0")
    for number in range(1, 12):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    assert len(chain_of(recorded(error))) == 12
    group = recorded(ExceptionGroup("g", [raised(ValueError(str(number))) for number in range(12)]))  # type: ignore[type-var]
    assert [member.message for member in group.members] == [str(number) for number in range(12)]
    assert group.omitted == 0


def test_what_was_left_out_is_counted() -> None:
    """So that nobody believes to have seen everything."""
    failure = recorded(ExceptionGroup("wide", [ValueError(str(number)) for number in range(10_000)]))
    assert len(failure.members) + failure.omitted == 10_000
    assert f"({failure.omitted} more left out)" in render_failure(failure)


def test_innermost_calls_are_kept_of_a_long_traceback() -> None:
    """They are where to look."""

    def innermost() -> None:
        raise ValueError("x" * 20_000)

    def again(number: int) -> None:
        if number:
            again(number - 1)
        innermost()

    with pytest.raises(ValueError, match="xxx") as error:
        again(200)
    failure = recorded(error.value)
    assert "calls left out" in failure.traceback
    assert "in innermost" in failure.traceback
    assert "in again" in failure.traceback


def test_record_of_an_older_version_is_read() -> None:
    """It has the type and the message only."""
    assert read_failure({"error_type": "ValueError", "message": "boom", "attempts": 3}) == Failure(
        error_type="ValueError", message="boom"
    )


async def test_failure_is_shown_where_it_arrives(lab: Lab) -> None:
    """In the handler the first time as in a replay, and at the starter's."""
    seen: list[StepFailedError] = []

    async def pay() -> None:
        error = ValueError("declined")
        error.add_note("card 1234")
        raise error from OSError("connection reset")

    @workflow(retry=NO_RETRY)
    async def shop(ctx: Context, _: Any) -> None:
        try:
            await ctx.step(pay)
        except StepFailedError as error:
            seen.append(error)
            await ctx.sleep(timedelta(hours=1))
            raise

    with pytest.raises(RunFailedError) as failed:
        await lab.finish(shop)
    first, again = seen
    assert first.failure == again.failure
    assert (first.failure.error_type, first.failure.message, first.failure.notes) == (
        "ValueError",
        "declined",
        ("card 1234",),
    )
    assert first.failure.cause is not None
    assert first.failure.cause.message == "connection reset"
    assert "in pay" in first.failure.traceback
    assert "step_attempts.py" not in first.failure.traceback
    assert any("in pay" in note and "connection reset" in note for note in first.__notes__)
    # The run's own record: where the handler was, and the step's as its cause.
    run = failed.value.failure
    assert run.error_type == "StepFailedError"
    assert "in shop" in run.traceback
    assert run.cause == first.failure
    assert any("in pay" in note and "in shop" in note for note in failed.value.__notes__)


async def test_each_failed_attempt_is_logged_with_its_traceback(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """At WARNING, with run and step quoted, and what follows."""

    def pay() -> None:
        raise ValueError("declined")

    @workflow(retry=RetryPolicy(max_attempts=2, backoff=fixed_backoff(timedelta(seconds=7)), jitter=0))
    async def shop(ctx: Context, _: Any) -> None:
        await ctx.step.options(id="pay\nERROR forged")(pay)

    with pytest.raises(RunFailedError):
        await lab.finish(shop, run_id="order\nERROR forged")
    lines = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in lines] == [
        r"run 'order\nERROR forged', step 'pay\nERROR forged': attempt 1 failed, the next one follows after 0:00:07",
        r"run 'order\nERROR forged', step 'pay\nERROR forged': attempt 2 failed, and with it the step",
    ]
    assert all(record.exc_info and "in pay" in caplog.handler.format(record) for record in lines)


@pytest.mark.parametrize("beside", [1, 60, 150])
async def test_attempt_that_fails_beside_the_runs_end_is_logged(
    lab: Lab, caplog: pytest.LogCaptureFixture, beside: int
) -> None:
    """The first failure ends the run; those of the same turn are in no record, so they must be in the log."""

    async def pay(number: int) -> None:
        raise ValueError(f"{number} declined")

    @workflow(retry=NO_RETRY)
    async def shop(ctx: Context, _: Any) -> None:
        await asyncio.gather(*(ctx.step.options(id=f"pay {number}")(pay, number) for number in range(beside + 1)))

    with pytest.raises(RunFailedError):
        await lab.finish(shop, run_id="order")
    lines = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert lines[0].getMessage() == "run 'order', step 'pay 0': attempt 1 failed, and with it the step"
    assert [record.getMessage() for record in lines[1:]] == [
        f"run 'order', step 'pay {number}': attempt 1 failed, and is not recorded: the run has ended"
        for number in range(1, beside + 1)
    ]
    assert all("in pay" in caplog.handler.format(record) for record in lines)


@pytest.mark.parametrize("how", ["group", "cancel", "end"])
async def test_error_of_a_step_that_was_given_up_is_logged(
    lab: Lab, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """The handler waits for it no more, the step cleans up, and the clean-up fails: nothing else would tell."""

    async def pay() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("cannot void the payment")

    async def decline() -> None:
        raise KeyError("no such order")

    @workflow(retry=NO_RETRY)
    async def shop(ctx: Context, _: Any) -> None:
        if how == "group":
            with contextlib.suppress(BaseExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(ctx.step(pay))
                    group.create_task(ctx.step(decline))
        elif how == "cancel":
            paying = asyncio.ensure_future(ctx.step(pay))
            await ctx.step.options(id="meanwhile")(asyncio.sleep, 0)
            paying.cancel()
            await ctx.step.options(id="afterwards")(asyncio.sleep, 0)
        else:
            await asyncio.gather(ctx.step(pay), ctx.step(decline))

    with contextlib.suppress(RunFailedError):
        await lab.finish(shop, run_id="order")
    lines = [
        record for record in caplog.records if record.levelno == logging.WARNING and "'pay'" in record.getMessage()
    ]
    assert len(lines) == 1, caplog.text
    assert lines[0].getMessage().startswith("run 'order', step 'pay': attempt 1 failed, and is not recorded: ")
    assert "cannot void the payment" in caplog.handler.format(lines[0])


@pytest.mark.parametrize("place", ["step", "handler", "retry_if"])
def test_real_interrupt_still_ends_the_program(lab: Lab, place: str) -> None:
    """Python raises it in whatever runs on the main thread, also in user code."""

    def interrupt(*_: Any) -> bool:
        signal.raise_signal(signal.SIGINT)
        return True

    async def body() -> None:
        if place == "step":
            interrupt()
        raise ValueError

    @workflow(retry=RetryPolicy(retry_if=interrupt) if place == "retry_if" else NO_RETRY)
    async def interrupted(ctx: Context, _: Any) -> None:
        if place == "handler":
            interrupt()
        await ctx.step(body)

    loop = asyncio.new_event_loop()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(lab.finish(interrupted, run_id="run"))
    finally:
        signal.signal(signal.SIGINT, before)
        end(loop)
    # It has not ended; when it was the step, the drive was cancelled with the loop and has handed it over.
    assert asyncio.run(lab.status("run")) == ("queued" if place == "step" else "running")


def end(loop: asyncio.AbstractEventLoop) -> None:
    """Let what is left on the loop end, as `asyncio.run` does."""
    while left := asyncio.all_tasks(loop):
        for task in left:
            task.cancel()
        with contextlib.suppress(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait(left, timeout=1))
    loop.close()
