"""Retries: when a failed step is tried again, when it is not, and where the waiting happens."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    NO_RETRY,
    Context,
    InvalidArgumentError,
    InvalidPayloadError,
    PayloadTooLargeError,
    RetryPolicy,
    RunFailedError,
    RunStatus,
    StepFailedError,
    exponential_backoff,
    fixed_backoff,
    step_info,
    workflow,
)
from workflow_runtime.payloads import decode_json

if TYPE_CHECKING:
    from conftest import Gate, Lab

SECOND = timedelta(seconds=1)
AT_ONCE = RetryPolicy(max_attempts=3, backoff=fixed_backoff(timedelta(0)))


def delays(policy: RetryPolicy, *attempts: int, error: Exception | None = None) -> list[timedelta | None]:
    rng = random.Random(1)
    return [policy.delay_after(attempt, error or ValueError(), rng) for attempt in attempts]


def test_attempts_are_bounded() -> None:
    """After the last attempt there is no delay to wait for."""
    policy = RetryPolicy(max_attempts=3, backoff=fixed_backoff(SECOND), jitter=0)
    assert delays(policy, 1, 2, 3, 4) == [SECOND, SECOND, None, None]
    assert delays(NO_RETRY, 1) == [None]


def test_default_is_three_attempts_with_exponential_backoff() -> None:
    """1 s, then 2 s, each give or take a tenth."""
    first, second, third = delays(RetryPolicy(), 1, 2, 3)
    assert first is not None
    assert second is not None
    assert third is None
    assert 0.9 * SECOND <= first <= 1.1 * SECOND
    assert 1.8 * SECOND <= second <= 2.2 * SECOND


def test_exponential_backoff_grows_and_never_overflows() -> None:
    """Attempt 5,000 is no OverflowError, and the cap holds."""
    policy = RetryPolicy(max_attempts=10_000, backoff=exponential_backoff(SECOND, 3), jitter=0, max_delay=60 * SECOND)
    assert delays(policy, 1, 2, 3, 4) == [SECOND, 3 * SECOND, 9 * SECOND, 27 * SECOND]
    assert delays(policy, 5, 5_000) == [60 * SECOND, 60 * SECOND]


def test_custom_backoff_gets_the_number_of_the_attempt() -> None:
    """Any function of it will do; less than nothing is nothing."""
    policy = RetryPolicy(max_attempts=9, backoff=lambda attempt: SECOND * (attempt - 2), jitter=0)
    assert delays(policy, 1, 2, 3, 4) == [timedelta(0), timedelta(0), SECOND, 2 * SECOND]


def test_jitter_stays_in_its_bounds_and_uses_them() -> None:
    """Up to the given part more or less, and spread over all of it."""
    policy = RetryPolicy(max_attempts=2, backoff=fixed_backoff(10 * SECOND), jitter=0.5)
    rng = random.Random(7)
    found = [delay for _ in range(500) if (delay := policy.delay_after(1, ValueError(), rng))]
    assert len(found) == 500
    assert 5 * SECOND <= min(found) < 5.5 * SECOND
    assert 14.5 * SECOND < max(found) <= 15 * SECOND


def test_jitter_never_exceeds_the_cap() -> None:
    """`max_delay` says that no wait is longer, and that is what happens."""
    policy = RetryPolicy(max_attempts=2, backoff=fixed_backoff(10 * SECOND), jitter=1, max_delay=10 * SECOND)
    rng = random.Random(7)
    found = [delay for _ in range(200) if (delay := policy.delay_after(1, ValueError(), rng))]
    assert max(found) == 10 * SECOND
    assert len(set(found)) > 50


@pytest.mark.parametrize(
    ("error", "retried"),
    [(ConnectionError(), True), (ConnectionResetError(), True), (ValueError(), False), (KeyError(), False)],
    ids=repr,
)
def test_predicate_decides(error: Exception, retried: bool) -> None:
    """Only errors for which `retry_if` is true are tried again."""
    policy = RetryPolicy(retry_if=lambda error: isinstance(error, ConnectionError))
    assert (delays(policy, 1, error=error) != [None]) is retried


@pytest.mark.parametrize(("error", "retried"), [(ValueError(), True), (KeyError(), False), (LookupError(), False)])
def test_errors_that_are_not_retryable(error: Exception, retried: bool) -> None:
    """Subclasses are included; the predicate is not even asked."""
    policy = RetryPolicy(non_retryable=(LookupError,), retry_if=lambda error: True)
    assert (delays(policy, 1, error=error) != [None]) is retried


@pytest.mark.parametrize("error", [InvalidPayloadError("x", "$", "a set"), PayloadTooLargeError("x", 2, 1)], ids=repr)
def test_results_that_cannot_be_written_are_never_retried(error: Exception) -> None:
    """Not even when the predicate would."""
    assert delays(RetryPolicy(retry_if=lambda error: True), 1, error=error) == [None]


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": -1}, "max_attempts"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": float("nan")}, "jitter"),
        ({"max_delay": -SECOND}, "max_delay"),
        ({"max_delay": timedelta.max}, "max_delay"),
    ],
)
def test_policy_that_cannot_work_is_refused(options: dict[str, Any], argument: str) -> None:
    """When it is made, not when it is first needed."""
    with pytest.raises(InvalidArgumentError) as refusal:
        RetryPolicy(**options)
    assert refusal.value.argument == argument


async def test_long_backoff_is_a_durable_timer(lab: Lab) -> None:
    """Between attempts the run is paused; another worker makes the next one; then the timer is gone."""
    attempts = []

    async def flaky() -> str:
        attempts.append(step_info().attempt)
        if len(attempts) == 1:
            raise ConnectionError("down")
        return "up"

    policy = RetryPolicy(backoff=fixed_backoff(timedelta(days=1)), max_delay=timedelta(days=2), jitter=0)

    @workflow(retry=policy)
    async def patient(ctx: Context, _: Any) -> Any:
        result = await ctx.step(flaky)
        await ctx.wait_for_event("end")
        return result

    handle = await lab.runtime(patient).start_run(patient, run_id="run")
    await lab.sweep(patient)
    run = await lab.load("run")
    assert run.status is RunStatus.PAUSED
    assert run.due_at_ms == lab.clock.now_ms() + 86_400_000
    lab.advance(hours=23)
    assert (await lab.sweep(patient)).total == 0
    lab.advance(hours=1)
    await lab.sweep(patient)
    assert attempts == [1, 2]
    assert await lab.timers("run") == ()
    await lab.runtime(patient).deliver_signal("run", "end")
    await lab.sweep(patient)
    assert await handle.result() == "up"


async def test_backoff_without_delay_needs_no_pause(lab: Lab) -> None:
    """The attempts follow each other in one drive."""

    async def flaky() -> int:
        if step_info().attempt < 3:
            raise ConnectionError
        return step_info().attempt

    @workflow(retry=AT_ONCE)
    async def quick(ctx: Context, _: Any) -> Any:
        return await ctx.step(flaky)

    handle = await lab.runtime(quick).start_run(quick, run_id="run")
    report = await lab.sweep(quick)
    assert report.outcomes == {"finished": 1}
    assert await handle.result() == 3
    assert await lab.log("run") == ["step-retrying flaky"] * 2 + ["step-completed flaky", "run-finished"]


async def test_step_overrides_the_workflows_policy(lab: Lab) -> None:
    """The policy of the call counts, then the workflow's, then the default."""

    async def fail() -> None:
        lab.ran[step_info().step_id] += 1
        raise ValueError

    @workflow(retry=AT_ONCE)
    async def both(ctx: Context, _: Any) -> None:
        for step in (ctx.step, ctx.step.options(retry=NO_RETRY)):
            with pytest.raises(StepFailedError):
                await step(fail)

    await lab.finish(both)
    assert lab.ran == {"fail": 3, "fail#2": 1}


async def test_failure_is_the_same_the_first_time_and_in_a_replay(lab: Lab) -> None:
    """`StepFailedError` is built from the record, with the type, the message and the number of attempts."""
    seen = []

    class ShopError(Exception):
        pass

    async def fail() -> None:
        raise ShopError("no such article: \udc80 ☃")

    @workflow(retry=AT_ONCE)
    async def catches(ctx: Context, _: Any) -> None:
        try:
            await ctx.step(fail)
        except StepFailedError as error:
            seen.append((str(error), error.step_id, error.error_type, error.message, error.attempts, error.__cause__))
        await ctx.sleep(SECOND)

    await lab.finish(catches)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0][1:] == ("fail", f"{ShopError.__qualname__}", "no such article: \udc80 ☃", 3, None)


async def test_uncaught_failure_ends_the_run(lab: Lab) -> None:
    """The run is `errored` and its starter is told why."""

    async def fail() -> None:
        raise ValueError("wrong")

    @workflow(retry=NO_RETRY)
    async def fails(ctx: Context, _: Any) -> None:
        await ctx.step(fail)

    with pytest.raises(RunFailedError) as failure:
        await lab.finish(fails, run_id="run")
    assert failure.value.error_type == "StepFailedError"
    assert failure.value.message == "step 'fail' failed after 1 attempt: ValueError: wrong"
    assert await lab.status("run") is RunStatus.ERRORED


@pytest.mark.parametrize("part", ["retry_if", "backoff", "kind"])
async def test_policy_that_raises_fails_the_step_and_not_the_worker(lab: Lab, part: str) -> None:
    """A policy's functions are the user's code: their errors must not make the run crash for ever."""

    def broken(_: Any) -> Any:
        raise RuntimeError("bug in the policy")

    policies = {
        "retry_if": RetryPolicy(retry_if=broken),
        "backoff": RetryPolicy(backoff=broken),
        "kind": RetryPolicy(backoff=lambda attempt: 5),  # type: ignore[arg-type,return-value]  # what the test is about
    }

    async def fail() -> None:
        lab.ran["fail"] += 1
        raise ValueError("wrong")

    @workflow(retry=policies[part])
    async def fails(ctx: Context, _: Any) -> None:
        await ctx.step(fail)

    with pytest.raises(RunFailedError, match=r"the retry policy raised \w+ about ValueError"):
        await lab.finish(fails)
    assert lab.ran == {"fail": 1}


async def test_error_whose_message_cannot_be_read_is_recorded_all_the_same(lab: Lab) -> None:
    """A broken `__str__` must not keep the run from going on."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def fail() -> None:
        raise MuteError

    @workflow(retry=AT_ONCE)
    async def fails(ctx: Context, _: Any) -> str:
        with pytest.raises(StepFailedError, match="its message cannot be read"):
            await ctx.step(fail)
        return "went on"

    assert await lab.finish(fails) == "went on"


async def test_endless_message_is_cut(lab: Lab) -> None:
    """An error that carries a whole page does not fill the log."""

    async def fail() -> None:
        raise ValueError("x" * 5_000_000)

    @workflow(retry=NO_RETRY)
    async def fails(ctx: Context, _: Any) -> None:
        await ctx.step(fail)

    with pytest.raises(RunFailedError):
        await lab.finish(fails, run_id="run")
    failed = (await lab.events("run"))[0]
    assert failed.payload is not None
    assert len(failed.payload) < 16_384
    assert decode_json(failed.payload)["message"].startswith("x" * 3_000)


async def test_backoff_ends_while_another_step_is_running(lab: Lab, gate: Gate) -> None:
    """A run that is being driven makes the next attempt on time, without a pause."""

    async def flaky() -> int:
        if step_info().attempt == 1:
            raise ConnectionError
        return step_info().attempt

    @workflow(retry=RetryPolicy(backoff=fixed_backoff(timedelta(minutes=1)), jitter=0))
    async def beside(ctx: Context, _: Any) -> Any:
        return await asyncio.gather(ctx.step(flaky), ctx.step(gate.pass_through))

    runtime = lab.runtime(beside)
    handle = await runtime.start_run(beside, run_id="run")
    async with lab.driving(runtime):
        await lab.until(lambda: lab.data.runs["run"].timers)
        lab.advance(seconds=59)
        await asyncio.sleep(0.01)
        assert "step-completed flaky" not in await lab.log("run")
        lab.advance(seconds=1)
        await lab.until(lambda: len(lab.data.runs["run"].events) == 2)
        assert await lab.log("run") == ["step-retrying flaky", "step-completed flaky"]
        assert await lab.status("run") is RunStatus.RUNNING
        gate.opened.set()
    assert await handle.result() == [2, "passed"]


async def test_time_goes_on_for_others_while_a_later_attempt_is_running(lab: Lab, gate: Gate) -> None:
    """The backoff that is over does not stand in the way of the timers behind it."""

    async def flaky() -> None:
        if step_info().attempt == 1:
            raise ConnectionError
        await gate.pass_through()

    @workflow(retry=RetryPolicy(backoff=fixed_backoff(timedelta(minutes=1)), jitter=0))
    async def beside(ctx: Context, _: Any) -> None:
        async def sleeps() -> None:
            await ctx.sleep(timedelta(minutes=2))
            await ctx.emit("two minutes")

        await asyncio.gather(ctx.step(flaky), sleeps(), ctx.step(lab.until, gate.opened.is_set))

    runtime = lab.runtime(beside)
    await runtime.start_run(beside, run_id="run")
    async with lab.driving(runtime):
        await lab.until(lambda: len(lab.data.runs["run"].timers) == 2)
        lab.advance(minutes=1)
        await gate.reached.wait()
        lab.advance(minutes=1)
        await lab.until(lambda: any(event.kind == "emitted" for event in lab.data.runs["run"].events))
        gate.opened.set()
    assert await lab.status("run") is RunStatus.FINISHED


async def test_step_is_not_attempted_before_its_time_by_a_run_that_wakes_earlier(lab: Lab) -> None:
    """A signal wakes the run during the backoff; the attempt still waits for its hour."""
    attempts = []

    async def flaky() -> str:
        attempts.append(lab.clock.now())
        if len(attempts) == 1:
            raise ConnectionError
        return "up"

    @workflow(retry=RetryPolicy(backoff=fixed_backoff(timedelta(minutes=5)), jitter=0))
    async def two_branches(ctx: Context, _: Any) -> Any:
        return await asyncio.gather(ctx.step(flaky), ctx.wait_for_event("hello"))

    runtime = lab.runtime(two_branches)
    handle = await runtime.start_run(two_branches, run_id="run")
    await runtime.sweep()
    lab.advance(minutes=2)
    await runtime.deliver_signal("run", "hello", "hi")
    await lab.sweep(two_branches)
    assert len(attempts) == 1
    lab.advance(minutes=3)
    await lab.sweep(two_branches)
    assert await handle.result() == ["up", "hi"]
    assert attempts[1] - attempts[0] == timedelta(minutes=5)
