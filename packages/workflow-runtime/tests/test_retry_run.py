"""Runs that ended wrongly go on from their logs: what was recorded stays, what had failed is tried anew."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    NO_RETRY,
    Context,
    JsonCodec,
    RetryPolicy,
    RunAbortedError,
    RunFailedError,
    RunStatus,
    StepFailedError,
    Workflow,
    WorkflowRuntime,
    fixed_backoff,
    step_info,
    workflow,
)
from workflow_runtime.payloads import JsonText, decode_json, encode_json
from workflow_runtime.store import Event
from workflow_runtime.testing import run_to_completion

if TYPE_CHECKING:
    from conftest import Gate, Lab

SECOND = timedelta(seconds=1)
ONCE = RetryPolicy(max_attempts=1)


class World:
    """What is outside: it counts what steps did to it, and refuses what it was told to refuse."""

    def __init__(self) -> None:
        self.did: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.attempts: list[int] = []

    async def do(self, what: str) -> str:
        self.attempts.append(step_info().attempt)
        if what in self.broken:
            raise ConnectionError(f"{what} is down")
        self.did[what] += 1
        return what


@pytest.fixture
def world() -> World:
    return World()


async def _begin(lab: Lab, declared: Workflow[Any, Any], input: Any = None) -> WorkflowRuntime:
    runtime = lab.runtime(declared)
    await runtime.start_run(declared, input, run_id="run")
    await runtime.sweep()
    return runtime


async def _ended_wrongly(lab: Lab, runtime: WorkflowRuntime) -> None:
    with pytest.raises(RunFailedError):
        await run_to_completion(runtime, runtime.attach("run"), lab.clock)


async def _retried(lab: Lab, runtime: WorkflowRuntime, **options: Any) -> Any:
    assert (await runtime.retry_run("run", **options)).kind == "retried"
    return await run_to_completion(runtime, runtime.attach("run"), lab.clock)


def _facts(event: Event) -> Any:
    assert event.payload is not None
    return decode_json(event.payload)


# The simplest kinds.


async def test_failed_step_gets_fresh_attempts(lab: Lab, world: World) -> None:
    @workflow(id="order", retry=RetryPolicy(max_attempts=2, backoff=fixed_backoff(SECOND)))
    async def order(ctx: Context, what: Any) -> list[str]:
        return [await ctx.step(world.do, "pay"), await ctx.step(world.do, "ship")]

    world.broken = {"ship"}
    runtime = await _begin(lab, order)
    await _ended_wrongly(lab, runtime)
    assert world.attempts == [1, 1, 2]
    assert await _retried_in_vain(lab, runtime) == [1, 1, 2, 1, 2]
    world.broken = set()
    assert await _retried(lab, runtime, reason="the carrier is back") == ["pay", "ship"]
    assert world.did == {"pay": 1, "ship": 1}
    run = await lab.load("run")
    assert (run.error, run.reason, run.crashes) == (None, None, 0)
    kinds = [event.kind for event in await lab.events("run")]
    life = ["step-retrying", "step-failed", "run-errored", "run-retried"]
    assert kinds == ["step-completed", *life, *life, "step-completed", "run-finished"]
    retried = (await lab.events("run"))[-3]
    assert _facts(retried) == {"reason": "the carrier is back"}


async def _retried_in_vain(lab: Lab, runtime: WorkflowRuntime) -> list[int]:
    world_attempts: list[int] = []
    assert (await runtime.retry_run("run")).kind == "retried"
    await _ended_wrongly(lab, runtime)
    ends = [event for event in await lab.events("run") if event.kind == "run-errored"]
    assert [_facts(end)["retry_repeats"] for end in ends] == [["do#2"]] * 2
    world_attempts += [1, 1, 2, 1, 2]
    return world_attempts


async def test_typo_in_the_handler_is_mended_by_a_deploy(lab: Lab, world: World) -> None:
    """The very case: a payment is recorded, then a NameError. The mended code does not pay twice."""

    @workflow(id="order")
    async def with_typo(ctx: Context, input: Any) -> str:
        paid = await ctx.step(world.do, "pay")
        return str(paid + shipped)  # type: ignore[name-defined]  # noqa: F821

    @workflow(id="order")
    async def mended(ctx: Context, input: Any) -> str:
        paid = await ctx.step(world.do, "pay")
        return paid + await ctx.step(world.do, "ship")

    await _ended_wrongly(lab, await _begin(lab, with_typo))
    assert await _retried(lab, lab.runtime(mended)) == "payship"
    assert world.did == {"pay": 1, "ship": 1}


async def test_typo_in_the_answer_to_a_failure(lab: Lab, world: World) -> None:
    """The handler's own bug struck while it answered: the step is tried anew, and never answered."""

    @workflow(id="order", retry=ONCE)
    async def order(ctx: Context, input: Any) -> str:
        try:
            return await ctx.step(world.do, "pay")
        except StepFailedError:
            return str(await ctx.step(undo_it))  # type: ignore[name-defined]  # noqa: F821

    world.broken = {"pay"}
    runtime = await _begin(lab, order)
    await _ended_wrongly(lab, runtime)
    world.broken = set()
    assert await _retried(lab, runtime) == "pay"


async def test_answered_failure_stays(lab: Lab, world: World) -> None:
    """What was compensated for is not tried anew: the run ends as it did."""

    @workflow(id="order", retry=ONCE)
    async def order(ctx: Context, input: Any) -> str:
        try:
            return await ctx.step(world.do, "pay")
        except StepFailedError:
            await ctx.step(world.do, "compensate")
            raise

    world.broken = {"pay"}
    runtime = await _begin(lab, order)
    await _ended_wrongly(lab, runtime)
    world.broken = set()
    assert (await runtime.retry_run("run")).kind == "retried"
    await _ended_wrongly(lab, runtime)
    assert world.did == {"compensate": 1}


async def test_failure_of_the_compensation_is_tried_anew(lab: Lab, world: World) -> None:
    @workflow(id="order", retry=ONCE)
    async def order(ctx: Context, input: Any) -> str:
        try:
            return await ctx.step(world.do, "pay")
        except StepFailedError:
            await ctx.step(world.do, "compensate")
            return "compensated"

    world.broken = {"pay", "compensate"}
    runtime = await _begin(lab, order)
    await _ended_wrongly(lab, runtime)
    world.broken = set()
    assert await _retried(lab, runtime) == "compensated"
    assert world.did == {"compensate": 1}


async def test_output_that_could_not_be_encoded(lab: Lab, world: World) -> None:
    """A codec is code as well; what the handler swallowed before it returned stays swallowed."""

    @workflow(id="order", retry=ONCE)
    async def order(ctx: Context, input: Any) -> Any:
        try:
            await ctx.step(world.do, "pay")
        except StepFailedError:
            return {1, 2}
        return "paid"

    class Sets(JsonCodec):
        def encode(self, value: Any, argument: str) -> JsonText:
            return super().encode(sorted(value) if isinstance(value, set) else value, argument)

    world.broken = {"pay"}
    await _ended_wrongly(lab, await _begin(lab, order))
    world.broken = set()
    assert await _retried(lab, lab.runtime(order, codec=Sets())) == [1, 2]
    assert world.did == {}


async def test_timed_out_wait_waits_anew(lab: Lab) -> None:
    @workflow(id="order")
    async def order(ctx: Context, input: Any) -> Any:
        decision = await ctx.approve("go", timeout=10 * SECOND)
        return [decision.approved, await ctx.wait_for_event("paid", timeout=10 * SECOND)]

    runtime = await _begin(lab, order)
    for event in ("approval", "signal"):
        lab.advance(seconds=10)
        await runtime.sweep()
        assert await lab.status("run") is RunStatus.ERRORED
        lab.advance(hours=1)
        assert (await runtime.retry_run("run")).kind == "retried"
        await runtime.sweep()
        assert await lab.status("run") is RunStatus.PAUSED, f"the {event} is not waited for anew"
        (timer,) = await lab.timers("run")
        assert timer.fire_at_ms == lab.clock.now_ms() + 10_000
        if event == "approval":
            await runtime.deliver_approval("run", "go", approved=True)
        else:
            await runtime.deliver_signal("run", "paid", 5)
        await runtime.sweep()
    assert await runtime.attach("run").result() == [True, 5]


# Timers, inbox, attempts in flight.


async def test_timers_of_other_branches_are_set_again(lab: Lab, world: World) -> None:
    """The end removed them from the store: a run that counted on them would sleep for ever."""

    @workflow(id="order", retry=RetryPolicy(max_attempts=3, backoff=fixed_backoff(60 * SECOND)))
    async def order(ctx: Context, input: Any) -> Any:
        return await asyncio.gather(
            ctx.sleep(timedelta(hours=1)),
            ctx.step.options(retry=ONCE)(world.do, "pay"),
            ctx.step(world.do, "ship"),
            ctx.wait_for_event("go", timeout=timedelta(hours=2)),
        )

    world.broken = {"pay", "ship"}
    runtime = await _begin(lab, order)
    assert await lab.status("run") is RunStatus.ERRORED
    assert await lab.timers("run") == ()
    world.broken = {"ship"}
    assert (await runtime.retry_run("run")).kind == "retried"
    await runtime.sweep()
    assert await lab.status("run") is RunStatus.PAUSED
    assert {timer.timer_id for timer in await lab.timers("run")} == {"sleep", "do#2", "wait:go"}
    world.broken = set()
    lab.advance(seconds=70)
    await runtime.sweep()
    assert {timer.timer_id for timer in await lab.timers("run")} == {"sleep", "wait:go"}
    await runtime.deliver_signal("run", "go", "now")
    assert await run_to_completion(runtime, runtime.attach("run"), lab.clock) == [None, "pay", "ship", "now"]
    assert world.did == {"pay": 1, "ship": 1}


async def test_backoff_under_way_keeps_its_attempts(lab: Lab, world: World) -> None:
    """Only what had failed for good begins anew; a step between two attempts goes on counting."""
    attempts: dict[str, list[int]] = {"a": [], "b": []}

    async def fail(name: str) -> None:
        attempts[name].append(step_info().attempt)
        raise ConnectionError

    @workflow(id="order")
    async def order(ctx: Context, input: Any) -> Any:
        quick = RetryPolicy(max_attempts=1)
        slow = RetryPolicy(max_attempts=3, backoff=fixed_backoff(60 * SECOND))
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step.options(retry=slow)(fail, "b"))
            group.create_task(_later(ctx, quick))

    async def _later(ctx: Context, quick: RetryPolicy) -> None:
        await ctx.sleep(SECOND)
        await ctx.step.options(retry=quick)(fail, "a")

    runtime = await _begin(lab, order)
    lab.advance(seconds=1)
    await runtime.sweep()
    assert await lab.status("run") is RunStatus.ERRORED
    await runtime.retry_run("run")
    await runtime.sweep()
    assert attempts == {"a": [1, 1], "b": [1]}
    await runtime.retry_run("run")
    lab.advance(seconds=70)  # the jitter
    await runtime.sweep()
    assert attempts["b"] == [1, 2]


async def test_inbox_entry_of_a_former_life_is_taken(lab: Lab, world: World) -> None:
    @workflow(id="order", retry=ONCE)
    async def order(ctx: Context, input: Any) -> Any:
        await ctx.step(world.do, "pay")
        return await ctx.wait_for_event("go")

    world.broken = {"pay"}
    runtime = lab.runtime(order)
    await runtime.start_run(order, run_id="run")
    await runtime.deliver_signal("run", "go", "early")
    await _ended_wrongly(lab, runtime)
    world.broken = set()
    assert await _retried(lab, runtime) == "early"


# Branches.


@pytest.mark.parametrize("how", ["gather", "collected", "group"])
async def test_several_failed_branches(lab: Lab, world: World, how: str) -> None:
    @workflow(id="order", retry=ONCE)
    async def order(ctx: Context, input: Any) -> Any:
        calls = [ctx.step.options(id=name)(world.do, name) for name in "abcd"]
        if how == "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(call) for call in calls]
            return [task.result() for task in tasks]
        found = await asyncio.gather(*calls, return_exceptions=how == "collected")
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return found

    world.broken = {"b", "d"}
    runtime = await _begin(lab, order)
    await _ended_wrongly(lab, runtime)
    world.broken = set()
    assert await _retried(lab, runtime) == ["a", "b", "c", "d"]
    assert world.did["a"] == 1, "a step that was recorded ran again"


async def test_branches_that_went_on_after_the_failure_of_another(lab: Lab, world: World) -> None:
    """Items of a batch, each in several steps: what other items did later does not depend on the one that failed."""

    @workflow(id="batch", retry=ONCE)
    async def batch(ctx: Context, input: Any) -> Any:
        async def item(name: str) -> str:
            for part in ("fetch", "check", "store"):
                await ctx.step.options(id=f"{part} {name}")(world.do, f"{part} {name}")
                await ctx.sleep(SECOND, id=f"pause {part} {name}")
            return name

        found = await asyncio.gather(*(item(name) for name in "abc"), return_exceptions=True)
        if failed := [error for error in found if isinstance(error, BaseException)]:
            raise ExceptionGroup("some items failed", [e for e in failed if isinstance(e, Exception)])
        return found

    world.broken = {"fetch a", "check b"}
    runtime = await _begin(lab, batch)
    await _ended_wrongly(lab, runtime)
    world.broken = set()
    assert await _retried(lab, runtime) == ["a", "b", "c"]
    assert set(world.did.values()) == {1}
    assert len(world.did) == 9


async def test_failure_that_another_branch_answered(lab: Lab, world: World) -> None:
    """It is told by a queue, and answered in a later turn: nothing may be taken back."""

    @workflow(id="batch", retry=ONCE)
    async def batch(ctx: Context, input: Any) -> Any:
        trouble: asyncio.Queue[str] = asyncio.Queue()

        async def work() -> None:
            try:
                await ctx.step.options(id="pay")(world.do, "pay")
            except StepFailedError:
                trouble.put_nowait("pay")

        async def watch() -> None:
            await ctx.sleep(SECOND)
            await ctx.step.options(id="report")(world.do, f"report {await trouble.get()}")

        await asyncio.gather(work(), watch())
        raise RuntimeError("some things did not work")

    world.broken = {"pay"}
    runtime = await _begin(lab, batch)
    await _ended_wrongly(lab, runtime)
    world.broken = set()
    await runtime.retry_run("run")
    await _ended_wrongly(lab, runtime)
    assert world.did == {"report pay": 1}


async def test_failure_that_was_looked_up_later_counts_again(lab: Lab, world: World) -> None:
    """A branch looks at another's result after its own step: the log shows that it did, so the failure stays."""

    @workflow(id="batch", retry=ONCE)
    async def batch(ctx: Context, input: Any) -> Any:
        first = asyncio.ensure_future(ctx.step.options(id="pay")(world.do, "pay"))

        async def second() -> None:
            await ctx.sleep(SECOND)
            try:
                await first
            except StepFailedError:
                await ctx.step.options(id="compensate")(world.do, "compensate")

        await asyncio.gather(second())
        raise RuntimeError("compensated")

    world.broken = {"pay"}
    runtime = await _begin(lab, batch)
    await _ended_wrongly(lab, runtime)
    world.broken = set()
    await runtime.retry_run("run")
    await _ended_wrongly(lab, runtime)
    assert world.did == {"compensate": 1}


@pytest.mark.parametrize("beside", [3, 60, 150])
async def test_step_that_ended_beside_the_failure_is_recorded(lab: Lab, world: World, beside: int) -> None:
    """It was done before the run's end was written, and the handler waits for it: the retry does not do it twice."""
    names = ["ship", *(f"pay {number}" for number in range(beside)), "bill"]

    @workflow(id="batch", retry=ONCE)
    async def batch(ctx: Context, input: Any) -> Any:
        return await asyncio.gather(*(ctx.step.options(id=name)(world.do, name) for name in names))

    world.broken = {"ship", "bill"}
    runtime = await _begin(lab, batch)
    await _ended_wrongly(lab, runtime)
    assert len(world.did) == beside
    world.broken = set()
    assert await _retried(lab, runtime) == names
    assert set(world.did.values()) == {1}


# Cancelled and terminated runs.


async def test_aborted_run_is_retried_only_when_asked_for(lab: Lab, world: World) -> None:
    @workflow(id="order")
    async def order(ctx: Context, input: Any) -> str:
        await ctx.step(world.do, "pay")
        await ctx.sleep(SECOND)
        return await ctx.step(world.do, "ship")

    for how in ("cancel", "terminate"):
        runtime = await _begin(lab, order)
        for _ in range(2):
            if how == "cancel":
                assert (await runtime.cancel_run("run", reason="by mistake")).kind == "requested"
            else:
                assert (await runtime.terminate_run("run", reason="by mistake")).kind == "terminated"
            await runtime.sweep()
            assert await lab.status("run") is RunStatus.ABORTED
            assert (await runtime.retry_run("run")).kind == "not-retryable"
            assert (await runtime.retry_run("run", even_aborted=True)).kind == "retried"
            await runtime.sweep()
            assert await lab.status("run") is RunStatus.PAUSED
        assert await run_to_completion(runtime, runtime.attach("run"), lab.clock) == "ship"
        await lab.store().delete_run(run_id="run", now_ms=lab.clock.now_ms())
    assert world.did == {"pay": 2, "ship": 2}


async def test_cancellation_that_was_answered_stays(lab: Lab, world: World) -> None:
    @workflow(id="order")
    async def order(ctx: Context, input: Any) -> None:
        try:
            await ctx.sleep(SECOND)
        finally:
            await ctx.step(world.do, "clean up")

    runtime = await _begin(lab, order)
    await runtime.cancel_run("run")
    await runtime.sweep()
    for _ in range(2):
        await runtime.retry_run("run", even_aborted=True)
        await runtime.sweep()
        assert await lab.status("run") is RunStatus.ABORTED
    assert world.did == {"clean up": 1}


async def test_failed_clean_up_is_tried_anew_and_the_run_still_ends(lab: Lab, world: World) -> None:
    """The request to end was acknowledged: a retry of the clean-up does not make the run go on."""

    @workflow(id="order", retry=ONCE)
    async def order(ctx: Context, input: Any) -> None:
        try:
            await ctx.sleep(SECOND)
        finally:
            await ctx.step(world.do, "clean up")

    world.broken = {"clean up"}
    runtime = await _begin(lab, order)
    await runtime.cancel_run("run")
    await runtime.sweep()
    assert await lab.status("run") is RunStatus.ERRORED
    world.broken = set()
    await runtime.retry_run("run")
    await runtime.sweep()
    assert await lab.status("run") is RunStatus.ABORTED
    assert world.did == {"clean up": 1}


async def test_dead_run_is_retried_like_a_requeued_one(lab: Lab, gate: Gate) -> None:
    @workflow(id="order")
    async def order(ctx: Context, input: Any) -> Any:
        return await ctx.step(gate.pass_through)

    runtime = lab.runtime(order, max_crashes=1)
    await runtime.start_run(order, run_id="run")
    claim = await lab.claim("run")
    assert claim is not None
    await lab.store().heartbeat_run_lease(run_id="run", lease_token=claim.lease.token, lease_ms=1, now_ms=0)
    lab.advance(seconds=31)
    assert list((await runtime.sweep()).dead) == ["run"]
    gate.opened.set()
    assert await _retried(lab, runtime) == "passed"


async def test_runs_that_did_not_end_wrongly_are_left_alone(lab: Lab, world: World) -> None:
    @workflow(id="order")
    async def order(ctx: Context, input: Any) -> Any:
        return await ctx.step(world.do, "pay")

    runtime = lab.runtime(order)
    await runtime.start_run(order, run_id="run")
    assert (await runtime.retry_run("run")).kind == "not-retryable"
    await runtime.sweep()
    assert (await runtime.retry_run("run", even_aborted=True)).kind == "not-retryable"
    assert (await runtime.retry_run("nobody")).kind == "not-found"


# Steps that wait for their next attempts.


async def test_backoff_ends_now_and_nothing_else_is_hurried(lab: Lab, world: World) -> None:
    slow = RetryPolicy(max_attempts=4, backoff=fixed_backoff(timedelta(hours=1)))

    @workflow(id="order", retry=slow)
    async def order(ctx: Context, input: Any) -> Any:
        return await asyncio.gather(
            ctx.step(world.do, "pay"),
            ctx.step(world.do, "ship"),
            ctx.sleep(timedelta(days=1)),
            ctx.wait_for_event("go", timeout=timedelta(days=2)),
        )

    world.broken = {"pay", "ship"}
    runtime = await _begin(lab, order)
    before = {timer.timer_id: timer.fire_at_ms for timer in await lab.timers("run")}
    assert set(before) == {"do", "do#2", "sleep", "wait:go"}
    lab.advance(minutes=1)
    world.broken = {"ship"}
    assert (await runtime.retry_now("run")).kind == "delivered"
    await runtime.sweep()
    after = {timer.timer_id: timer.fire_at_ms for timer in await lab.timers("run")}
    assert world.did == {"pay": 1}
    assert set(after) == {"do#2", "sleep", "wait:go"}
    assert (after["sleep"], after["wait:go"]) == (before["sleep"], before["wait:go"])
    assert after["do#2"] >= lab.clock.now_ms() + 500_000, "the attempt that failed again waits its whole time"
    assert world.attempts == [1, 1, 2, 2]
    world.broken = set()
    assert (await runtime.retry_now("run", retry_id="again")).kind == "delivered"
    assert (await runtime.retry_now("run", retry_id="again")).kind == "duplicate"
    await runtime.sweep()
    assert world.did == {"pay": 1, "ship": 1}
    await runtime.deliver_signal("run", "go", 1)
    assert await run_to_completion(runtime, runtime.attach("run"), lab.clock) == ["pay", "ship", None, 1]
    assert (await lab.log("run")).count("retry-requested") == 2
    assert (await runtime.retry_now("run")).kind == "finished"
    assert (await runtime.retry_now("nobody")).kind == "not-found"


async def test_sleeping_run_sleeps_on(lab: Lab) -> None:
    @workflow(id="order")
    async def order(ctx: Context, input: Any) -> str:
        await ctx.sleep(timedelta(days=1))
        return "slept"

    runtime = await _begin(lab, order)
    timers = await lab.timers("run")
    await runtime.retry_now("run")
    await runtime.sweep()
    assert await lab.status("run") is RunStatus.PAUSED
    assert await lab.timers("run") == timers
    assert await run_to_completion(runtime, runtime.attach("run"), lab.clock) == "slept"


async def test_worker_that_drives_the_run_hears_of_the_wish(lab: Lab, world: World, gate: Gate) -> None:
    """Another step keeps the run with its worker; the backoff beside it ends at once all the same."""

    @workflow(id="order", retry=RetryPolicy(max_attempts=2, backoff=fixed_backoff(timedelta(hours=1))))
    async def order(ctx: Context, input: Any) -> Any:
        return await asyncio.gather(ctx.step(gate.pass_through), ctx.step(world.do, "pay"))

    world.broken = {"pay"}
    runtime = lab.runtime(order)
    await runtime.start_run(order, run_id="run")
    async with lab.driving(runtime):
        await lab.until(lambda: world.attempts == [1])
        await lab.until(lambda: len(lab.data.runs["run"].timers) == 1)
        world.broken = set()
        assert (await runtime.retry_now("run")).kind == "buffered"
        await lab.until(lambda: world.did["pay"] == 1)
        gate.opened.set()
    assert await runtime.attach("run").result() == ["passed", "pay"]


# Runs that cannot be driven.


async def test_diverging_run_is_parked_and_says_why(lab: Lab, world: World, caplog: pytest.LogCaptureFixture) -> None:
    @workflow(id="order")
    async def order(ctx: Context, input: Any) -> Any:
        await ctx.step(world.do, "pay")
        await ctx.sleep(timedelta(hours=1))
        return await ctx.step(world.do, "ship")

    @workflow(id="order")
    async def edited(ctx: Context, input: Any) -> Any:
        await ctx.sleep(timedelta(hours=1))
        return await ctx.step(world.do, "ship")

    await _begin(lab, order)
    (timer,) = await lab.timers("run")
    lab.advance(hours=1)
    careless = lab.runtime(edited)
    waiting = asyncio.create_task(careless.attach("run").result(timeout=timedelta(seconds=5)))
    await careless.sweep()
    with pytest.raises(RunAbortedError, match="diverges from its history at 'do'") as failure:
        await waiting
    assert (failure.value.status, failure.value.run_id) == ("dead", "run")
    assert "is parked as dead" in caplog.text
    run = await lab.load("run")
    assert run.error is not None
    assert decode_json(run.error)["error_type"] == "NonDeterminismError"
    line = (await lab.store().get_run_timeline(run_id="run")).entries[-2]  # behind it comes the timer
    assert (line.source, line.what) == ("log", "run-parked")
    assert line.detail is not None
    facts = decode_json(line.detail)
    assert facts["step_id"] == "do"
    assert (facts["recorded"], facts["called"]) == (
        "step 'do' (step-completed)",
        "nothing of that id, but sleep 'sleep'",
    )
    assert await lab.timers("run") == (timer,)
    assert await _retried(lab, lab.runtime(order)) == "ship"
    assert world.did == {"pay": 1, "ship": 1}


async def test_retried_run_that_diverges_is_parked_and_goes_on_after_a_rollback(lab: Lab, world: World) -> None:
    """An error, a retry on wrong code, a retry on right code: three lives, and what was recorded stays."""

    @workflow(id="order", retry=ONCE)
    async def order(ctx: Context, input: Any) -> Any:
        await ctx.step(world.do, "pay")
        return await ctx.step(world.do, "ship")

    @workflow(id="order", retry=ONCE)
    async def edited(ctx: Context, input: Any) -> Any:
        return await ctx.step.options(id="do#2")(world.do, "ship")

    world.broken = {"ship"}
    await _ended_wrongly(lab, await _begin(lab, order))
    world.broken = set()
    careless = lab.runtime(edited)
    await careless.retry_run("run")
    assert list((await careless.sweep()).dead) == ["run"]
    assert await _retried(lab, lab.runtime(order)) == "ship"
    assert world.did == {"pay": 1, "ship": 1}


async def test_run_whose_log_cannot_be_read_is_parked(lab: Lab, world: World) -> None:
    """A damaged event is damaged for every worker; when the row is mended the run goes on."""

    @workflow(id="order")
    async def order(ctx: Context, input: Any) -> Any:
        await ctx.sleep(SECOND)
        return await ctx.step(world.do, "ship")

    runtime = await _begin(lab, order)
    log = lab.data.runs["run"].events
    intact = log[0]
    log[0] = dataclasses.replace(intact, payload=JsonText('{"unt'))
    lab.advance(seconds=1)
    assert list((await runtime.sweep()).dead) == ["run"]
    run = await lab.load("run")
    assert run.reason is not None
    assert "run/0" in run.reason
    log[0] = intact
    assert await _retried(lab, runtime) == "ship"


async def test_run_with_events_of_a_newer_engine_is_left_to_others(lab: Lab, world: World) -> None:
    @workflow(id="order")
    async def order(ctx: Context, input: Any) -> Any:
        await ctx.sleep(SECOND)
        return "done"

    runtime = await _begin(lab, order)
    log = lab.data.runs["run"].events
    log.append(dataclasses.replace(log[0], index=1, kind="of-next-year", payload=None))
    lab.advance(seconds=1)
    report = await runtime.sweep()
    assert [failure.run_id for failure in report.failures] == ["run"]
    assert await lab.status("run") is RunStatus.RUNNING, "the lease runs out, and a newer worker may have it"


# Logs of other versions, long logs.


async def test_log_that_does_not_name_what_failed(lab: Lab, world: World) -> None:
    """Older engines did not: what nothing depends on is then found in the replay."""

    @workflow(id="order", retry=ONCE)
    async def order(ctx: Context, input: Any) -> Any:
        await ctx.step(world.do, "pay")
        return await ctx.step(world.do, "ship")

    runtime = lab.runtime(order)
    for broken in ("ship", "pay"):
        world.broken = {broken}
        await runtime.start_run(order, run_id="run")
        await runtime.sweep()
        assert await lab.status("run") is RunStatus.ERRORED
        log = lab.data.runs["run"].events
        facts = _facts(log[-1])
        assert facts.pop("retry_repeats")
        log[-1] = dataclasses.replace(log[-1], payload=encode_json(facts))
        world.broken = set()
        assert await _retried(lab, runtime) == "ship"
        await lab.store().delete_run(run_id="run", now_ms=lab.clock.now_ms())
    assert world.did == {"pay": 2, "ship": 2}


async def test_very_many_failures_are_not_named(lab: Lab, world: World) -> None:
    """An event stays small; the replay finds them."""
    names = [f"{number}-{'x' * 200}" for number in range(400)]

    @workflow(id="batch", retry=NO_RETRY)
    async def batch(ctx: Context, input: Any) -> Any:
        found = await asyncio.gather(
            *(ctx.step.options(id=name)(world.do, name) for name in names), return_exceptions=True
        )
        if any(isinstance(result, BaseException) for result in found):
            raise RuntimeError("some failed")
        return len(found)

    world.broken = set(names[1:])
    runtime = await _begin(lab, batch)
    await _ended_wrongly(lab, runtime)
    end = (await lab.events("run"))[-1]
    assert len(end.payload or "") < 1_000
    world.broken = set()
    assert await _retried(lab, runtime) == 400
    assert set(world.did.values()) == {1}


async def test_long_log_is_read_page_by_page(lab: Lab, world: World) -> None:
    """The failure and the retry lie in different pages of the log."""

    @workflow(id="batch", retry=NO_RETRY)
    async def batch(ctx: Context, input: Any) -> Any:
        async def waves() -> None:
            for number in range(1_200):
                await ctx.step.options(id=f"wave {number}")(world.do, f"wave {number}")

        failing = asyncio.ensure_future(ctx.step.options(id="pay")(world.do, "pay"))
        await asyncio.gather(waves())
        return await failing

    world.broken = {"pay"}
    runtime = await _begin(lab, batch)
    await _ended_wrongly(lab, runtime)
    await runtime.retry_run("run")
    await _ended_wrongly(lab, runtime)
    world.broken = set()
    assert await _retried(lab, runtime) == "pay"
    assert set(world.did.values()) == {1}
    assert len(world.did) == 1_201


# Anything at all.


class Chaos:
    """Steps that fail by chance while `trouble` lasts, and a journal outside the store."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.trouble = 0.4
        self.did: Counter[str] = Counter()

    async def act(self, name: str) -> str:
        if self.rng.random() < self.trouble:
            raise ConnectionError(name)
        self.did[name] += 1
        return name


def _program(rng: random.Random, depth: int, path: str = "p") -> list[Any]:
    kind = rng.choice(["step", "step", "sleep", "value"] + ["seq", "gather", "collect", "group", "guard"] * (depth > 0))
    if kind in ("step", "sleep", "value"):
        return [kind, path, rng.randrange(5)]
    return [kind, *(_program(rng, depth - 1, f"{path}.{n}") for n in range(rng.randint(2, 4)))]


async def _run(ctx: Context, chaos: Chaos, node: list[Any]) -> Any:  # noqa: C901  # a case for each word
    kind, *rest = node
    match kind:
        case "step":
            return await ctx.step.options(id=rest[0])(chaos.act, rest[0])
        case "sleep":
            return await ctx.sleep(rest[1] * SECOND, id=rest[0])
        case "value":
            return str(await ctx.uuid())
        case "seq":
            return [await _run(ctx, chaos, child) for child in rest]
        case "gather":
            branches = [asyncio.create_task(_run(ctx, chaos, child)) for child in rest]
            try:
                return list(await asyncio.gather(*branches))
            finally:
                for branch in branches:
                    branch.cancel()  # a guard that catches the failure of one must not leave others behind
        case "collect":
            found = await asyncio.gather(*(_run(ctx, chaos, child) for child in rest), return_exceptions=True)
            for result in found:
                if isinstance(result, BaseException):
                    raise result
            return found
        case "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_run(ctx, chaos, child)) for child in rest]
            return [task.result() for task in tasks]
        case "guard":
            done = []
            for child in rest:
                try:
                    done.append(await _run(ctx, chaos, child))
                except (StepFailedError, BaseExceptionGroup):
                    done.append("failed")  # the next child is the answer to it
            return done
    raise AssertionError(kind)


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_fails_is_retried_until_it_is_done(lab: Lab, seed: int) -> None:
    """What is in the log as done is never done again, whatever its program, and every run gets to its end."""
    chaos = Chaos(seed)
    program = ["seq", *(_program(random.Random(seed * 7 + part), 3, f"p{part}") for part in range(3))]
    policy = RetryPolicy(max_attempts=2, backoff=fixed_backoff(SECOND))

    @workflow(id="any", retry=policy)
    async def any_handler(ctx: Context, input: Any) -> Any:
        return await _run(ctx, chaos, input)

    jitter = random.Random(seed)
    runtime = lab.runtime(any_handler, rng=jitter)
    await runtime.start_run(any_handler, program, run_id="run")
    output = None
    for life in range(100):
        before = {step_id: chaos.did[str(step_id)] for step_id in await _recorded(lab)}
        chaos.trouble = 0.4 if life < 20 else 0.1
        with contextlib.suppress(RunFailedError):
            output = await run_to_completion(runtime, runtime.attach("run"), lab.clock)
        again = [step_id for step_id, times in before.items() if chaos.did[str(step_id)] != times]
        assert again == [], "recorded steps ran again:\n" + "\n".join(await lab.log("run"))
        if output is not None:
            break
        assert (await runtime.retry_run("run")).kind == "retried", await lab.load("run")
        runtime = lab.runtime(any_handler, rng=jitter)
    recorded = await _recorded(lab)
    # A guard's answer to one failure gives up the branches beside it: what those have done, nobody records.
    assert recorded.keys() <= chaos.did.keys()
    assert set(recorded.values()) <= {1}
    assert output is not None
    assert await lab.timers("run") == ()


async def _recorded(lab: Lab) -> Counter[str | None]:
    return Counter(event.step_id for event in await lab.events("run") if event.kind == "step-completed")
