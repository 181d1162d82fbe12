"""Cancelling and terminating runs in every status, and what their handlers make of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import Context, RunAbortedError, RunFailedError, RunStatus, workflow
from workflow_runtime.testing import run_to_completion

if TYPE_CHECKING:
    from conftest import Gate, Lab

HOUR = timedelta(hours=1)


async def echo(value: Any) -> Any:
    return value


async def ended_as(lab: Lab, status: RunStatus, reason: str | None = None) -> None:
    run = await lab.load("run")
    assert (run.status, run.reason, run.lease_owner, run.due_at_ms) == (status, reason, None, None)
    assert await lab.timers("run") == ()


async def test_queued_run_ends_at_its_first_durable_operation(lab: Lab) -> None:
    """It is claimed at once, though it was to start tomorrow, and its first step does not run."""

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        lab.ran["handler"] += 1
        await ctx.step(echo, lab.ran.update(["argument"]))
        lab.ran["after"] += 1

    runtime = lab.runtime(works)
    handle = await runtime.start_run(works, run_id="run", start_at=lab.clock.now() + timedelta(days=1))
    assert (await runtime.cancel_run("run", reason="not needed")).kind == "requested"
    assert (await lab.sweep(works)).outcomes == {"aborted": 1}
    await ended_as(lab, RunStatus.ABORTED, "not needed")
    assert lab.ran == {"handler": 1, "argument": 1}
    assert await lab.log("run") == ["cancel-requested", "run-aborted"]
    with pytest.raises(RunAbortedError, match="run 'run' ended as aborted: not needed"):
        await handle.result()


async def test_paused_run_ends_by_being_claimed(lab: Lab) -> None:
    """A sleep of a year does not hold it up; its timer goes."""

    @workflow()
    async def sleeps(ctx: Context, _: Any) -> None:
        await asyncio.gather(ctx.sleep(timedelta(days=365)), ctx.wait_for_event("never"))

    runtime = lab.runtime(sleeps)
    await runtime.start_run(sleeps, run_id="run")
    await lab.sweep(sleeps)
    await runtime.cancel_run("run")
    assert (await lab.sweep(sleeps)).outcomes == {"aborted": 1}
    await ended_as(lab, RunStatus.ABORTED)


async def test_cancellation_during_a_long_step_within_the_process(lab: Lab, gate: Gate) -> None:
    """The step gets `CancelledError` at once; no record of it is written."""

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(gate.pass_through)

    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        await runtime.cancel_run("run", reason="enough")
    assert gate.cancelled
    await ended_as(lab, RunStatus.ABORTED, "enough")
    assert await lab.log("run") == ["cancel-requested", "run-aborted"]


async def test_cancellation_from_another_process_comes_with_the_heartbeat(lab: Lab, gate: Gate) -> None:
    """Within a third of the lease."""

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(gate.pass_through)

    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        await lab.runtime(works).cancel_run("run")
        await asyncio.sleep(0.01)
        at_once = gate.cancelled
        lab.advance(seconds=10)
    assert not at_once
    assert gate.cancelled
    await ended_as(lab, RunStatus.ABORTED)


async def test_cancellation_reaches_a_handler_that_never_blocks(lab: Lab) -> None:
    """Operations that end at once are durable operations too: it does not have to run to its end first."""
    store = lab.tapped()

    @workflow()
    async def counts(ctx: Context, _: Any) -> None:
        for number in range(10_000):
            lab.ran["rounds"] = number
            await ctx.now()

    async def cancel(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "append_events":
            await lab.runtime().cancel_run("run")

    store.before = cancel
    runtime = lab.runtime(counts, store=store)
    await runtime.start_run(counts, run_id="run")
    await runtime.sweep()
    await ended_as(lab, RunStatus.ABORTED)
    assert lab.ran["rounds"] < 200


async def test_cleanup_steps_run_after_the_cancellation(lab: Lab) -> None:
    """In `except` and in `finally`, with pauses in between, each once."""

    @workflow()
    async def tidy(ctx: Context, _: Any) -> None:
        try:
            await ctx.wait_for_event("never")
        except asyncio.CancelledError:
            await ctx.step(echo, lab.ran.update(["except"]))
            await ctx.sleep(HOUR)
            raise
        finally:
            await ctx.step.options(id="last")(echo, "last")

    runtime = lab.runtime(tidy)
    handle = await runtime.start_run(tidy, run_id="run")
    await lab.sweep(tidy)
    await runtime.cancel_run("run", reason="stop")
    await lab.sweep(tidy)
    assert await lab.status("run") is RunStatus.PAUSED
    with pytest.raises(RunAbortedError):
        await run_to_completion(runtime, handle, lab.clock)
    await ended_as(lab, RunStatus.ABORTED, "stop")
    assert await lab.log("run") == [
        "wait-started wait:never",
        "cancel-requested",
        "step-completed echo",
        "sleep-started sleep",
        "sleep-ended sleep",
        "step-completed last",
        "run-aborted",
    ]


async def test_handler_may_refuse_to_be_cancelled(lab: Lab) -> None:
    """One that swallows the cancellation goes on, and finishes; the request stays on record."""

    @workflow()
    async def refuses(ctx: Context, _: Any) -> Any:
        try:
            await ctx.wait_for_event("never")
        except asyncio.CancelledError:
            await ctx.sleep(HOUR)
        return await ctx.step(echo, "finished all the same")

    runtime = lab.runtime(refuses)
    handle = await runtime.start_run(refuses, run_id="run")
    await lab.sweep(refuses)
    await runtime.cancel_run("run")
    assert await run_to_completion(runtime, handle, lab.clock) == "finished all the same"
    await ended_as(lab, RunStatus.FINISHED)
    assert (await lab.load("run")).cancel_requested


async def test_error_while_cleaning_up_is_an_error(lab: Lab) -> None:
    """The run did not end the way the cancellation asked for."""

    @workflow()
    async def fails(ctx: Context, _: Any) -> None:
        try:
            await ctx.wait_for_event("never")
        finally:
            raise ValueError("cannot clean up")

    runtime = lab.runtime(fails)
    handle = await runtime.start_run(fails, run_id="run")
    await lab.sweep(fails)
    await runtime.cancel_run("run")
    with pytest.raises(RunFailedError, match="cannot clean up"):
        await run_to_completion(runtime, handle, lab.clock)
    await ended_as(lab, RunStatus.ERRORED)


async def test_cancellation_without_a_request_is_an_error(lab: Lab) -> None:
    """A handler that cancels itself was not cancelled by anybody."""

    @workflow()
    async def cancels_itself(ctx: Context, _: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await ctx.sleep(HOUR)

    with pytest.raises(RunFailedError, match="the handler cancelled itself"):
        await lab.finish(cancels_itself)


async def test_cancellation_goes_through_groups_and_gather(lab: Lab) -> None:
    """Every branch is cancelled, and each may clean up."""

    @workflow()
    async def branches(ctx: Context, _: Any) -> None:
        async def branch(name: str) -> None:
            try:
                await ctx.wait_for_event(name)
            finally:
                await ctx.step.options(id=f"clean {name}")(echo, name)

        async with asyncio.TaskGroup() as group:
            group.create_task(branch("a"))
            await asyncio.gather(branch("b"), branch("c"))

    runtime = lab.runtime(branches)
    await runtime.start_run(branches, run_id="run")
    await lab.sweep(branches)
    await runtime.cancel_run("run")
    await lab.sweep(branches)
    await ended_as(lab, RunStatus.ABORTED)
    steps = {event.step_id for event in await lab.events("run") if event.kind == "step-completed"}
    assert steps == {"clean a", "clean b", "clean c"}


async def test_cancellation_is_replayed_where_it_was_recorded(lab: Lab) -> None:
    """Not at the operation that happens to come first in the replay."""
    seen = []

    @workflow()
    async def notes(ctx: Context, _: Any) -> None:
        for number in range(3):
            try:
                await ctx.wait_for_event(f"signal {number}")
            except asyncio.CancelledError:
                seen.append(number)

    runtime = lab.runtime(notes)
    handle = await runtime.start_run(notes, run_id="run")
    await runtime.deliver_signal("run", "signal 0")
    await lab.sweep(notes)
    await runtime.cancel_run("run")
    await lab.sweep(notes)
    await runtime.deliver_signal("run", "signal 2")
    await run_to_completion(runtime, handle, lab.clock)
    assert seen == [1, 1]


async def test_answers_to_cancel(lab: Lab) -> None:
    """Honest, in every status, never an exception."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> None:
        await ctx.wait_for_event("never")

    runtime = lab.runtime(waits)
    await runtime.start_run(waits, run_id="run")
    answers = [await runtime.cancel_run("nowhere"), await runtime.cancel_run("run"), await runtime.cancel_run("run")]
    await lab.sweep(waits)
    answers.append(await runtime.cancel_run("run"))
    assert [answer.kind for answer in answers] == ["not-found", "requested", "duplicate", "finished"]


async def test_terminated_run_is_fenced_off_from_its_driver(lab: Lab, gate: Gate) -> None:
    """It is `aborted` at once; the driver stops, its step is cancelled, and nothing more is written."""
    left = []

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        try:
            await ctx.step(gate.pass_through)
        finally:
            left.append("handler")
            await ctx.step(echo, "cleanup")

    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime) as sweep:
        await gate.reached.wait()
        answer = await runtime.store.terminate_run(run_id="run", now_ms=lab.clock.now_ms(), reason="hard")
        assert answer.kind == "terminated"
        await ended_as(lab, RunStatus.ABORTED, "hard")
        lab.advance(seconds=10)
    assert (await sweep).outcomes == {"lost": 1}
    assert gate.cancelled
    assert left == ["handler"]
    assert await lab.log("run") == []
    await ended_as(lab, RunStatus.ABORTED, "hard")


async def test_terminated_run_is_fenced_off_at_the_next_write(lab: Lab, gate: Gate) -> None:
    """Without a heartbeat in between, the append is refused."""

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(gate.pass_through)
        await ctx.step(echo, lab.ran.update(["second"]))

    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime) as sweep:
        await gate.reached.wait()
        await runtime.store.terminate_run(run_id="run", now_ms=lab.clock.now_ms())
        gate.opened.set()
    assert (await sweep).outcomes == {"lost": 1}
    assert await lab.log("run") == []


async def test_terminated_run_gets_no_chance_to_clean_up(lab: Lab) -> None:
    async def clean_up() -> None:
        lab.ran["cleanup"] += 1

    @workflow()
    async def stubborn(ctx: Context, _: Any) -> None:
        try:
            await ctx.sleep(timedelta(days=1))
        finally:
            await ctx.step(clean_up)

    runtime = lab.runtime(stubborn)
    handle = await runtime.start_run(stubborn, run_id="run")
    await runtime.sweep()
    assert (await runtime.terminate_run("run", reason="enough")).kind == "terminated"
    with pytest.raises(RunAbortedError, match="enough"):
        await handle.result()
    lab.advance(days=2)
    assert (await runtime.sweep()).total == 0
    assert (await runtime.terminate_run("run")).kind == "finished"
    assert lab.ran == {}
