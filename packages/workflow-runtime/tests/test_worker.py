"""The long-lived worker: how much it takes, when it wakes up, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    Context,
    RunStatus,
    SchemaMissingError,
    workflow,
)
from workflow_runtime.hosting import sweep_handler

if TYPE_CHECKING:
    from conftest import Gate, Lab

HOUR = timedelta(hours=1)


async def echo(value: Any) -> Any:
    return value


@workflow()
async def quick(ctx: Context, _: Any) -> Any:
    return await ctx.step(echo, "done")


def ended(lab: Lab, *run_ids: str) -> bool:
    return all(lab.data.runs[run_id].status.is_terminal for run_id in run_ids)


async def test_run_of_the_same_runtime_is_driven_at_once(lab: Lab) -> None:
    """The clock stands still, so neither a poll nor a timer can have woken the worker."""
    runtime = lab.runtime(quick)
    async with lab.working(runtime):
        for number in range(3):
            handle = await runtime.start_run(quick, run_id=f"run-{number}")
            await lab.until(ended, lab, f"run-{number}")
            assert await handle.result() == "done"
            await asyncio.sleep(0.005)  # the worker is idle again


async def test_signal_of_the_same_runtime_wakes_the_worker(lab: Lab) -> None:
    """So do an approval and a cancellation."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        await ctx.wait_for_event("go")
        await ctx.approve("yes")
        await ctx.wait_for_event("never")

    runtime = lab.runtime(waits)

    def awaits(name: str) -> Any:
        return lambda: any(item.name == name for item in lab.data.runs["run"].awaited)

    async with lab.working(runtime):
        await runtime.start_run(waits, run_id="run")
        await lab.until(awaits("go"))
        await runtime.deliver_signal("run", "go")
        await lab.until(awaits("yes"))
        await runtime.deliver_approval("run", "yes", approved=True)
        await lab.until(awaits("never"))
        await runtime.cancel_run("run")
        await lab.until(ended, lab, "run")
    assert await lab.status("run") is RunStatus.ABORTED


async def test_run_of_another_process_is_found_by_the_poll(lab: Lab) -> None:
    """Within the poll interval, by the worker's clock."""
    runtime = lab.runtime(quick, store=lab.silent())
    async with lab.working(runtime, poll_interval=timedelta(seconds=5)):
        await lab.until(lambda: runtime.health().ready)  # it has looked for the first time
        await lab.runtime(quick).start_run(quick, run_id="run")
        lab.advance(seconds=4.9)
        await asyncio.sleep(0.01)
        assert not ended(lab, "run")
        lab.advance(seconds=0.1)
        await lab.until(ended, lab, "run")


async def test_timers_are_kept_to_the_millisecond(lab: Lab) -> None:
    """However long the poll interval is: the worker knows when the next timer is due."""

    @workflow()
    async def sleeper(ctx: Context, hours: int) -> None:
        await ctx.sleep(HOUR * hours)

    runtime = lab.runtime(sleeper)
    async with lab.working(runtime, poll_interval=timedelta(days=365)):
        for hours in (3, 1, 2):
            await runtime.start_run(sleeper, hours, run_id=f"run-{hours}")
        await lab.until(lambda: all(run.status is RunStatus.PAUSED for run in lab.data.runs.values()))
        await asyncio.sleep(0.01)
        for hours in (1, 2, 3):
            lab.clock.advance(HOUR - timedelta(milliseconds=1))
            await asyncio.sleep(0.01)
            assert not ended(lab, f"run-{hours}")
            lab.clock.advance(timedelta(milliseconds=1))
            await lab.until(ended, lab, f"run-{hours}")


async def test_leases_of_dead_workers_are_taken_over_when_they_run_out(lab: Lab) -> None:
    """The worker knows when that will be."""
    await lab.runtime(quick).start_run(quick, run_id="run")
    await lab.claim("run", owner="dead")
    async with lab.working(lab.runtime(quick), poll_interval=timedelta(days=365)):
        await asyncio.sleep(0.01)
        lab.advance(seconds=29.999)
        await asyncio.sleep(0.01)
        assert not ended(lab, "run")
        lab.advance(milliseconds=1)
        await lab.until(ended, lab, "run")


async def test_concurrency_is_never_exceeded_and_always_used(lab: Lab) -> None:
    """At most so many drives at once; a place that becomes free is taken at once."""
    running, most = 0, 0
    gates = [asyncio.Event() for _ in range(12)]

    async def step(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gates[number].wait()
        running -= 1

    @workflow()
    async def works(ctx: Context, number: int) -> None:
        await ctx.step(step, number)

    runtime = lab.runtime(works)
    for number in range(12):
        await runtime.start_run(works, number, run_id=f"run-{number}", priority=-number)
    async with lab.working(runtime, concurrency=4):
        for number in range(12):
            await lab.until(lambda expected: running == expected, min(4, 12 - number))
            gates[number].set()
            await lab.until(ended, lab, f"run-{number}")
    assert most == 4


async def test_paused_runs_take_no_place(lab: Lab) -> None:
    """A hundred sleepers do not keep a worker with one place from working."""

    @workflow()
    async def sleeper(ctx: Context, _: Any) -> None:
        await ctx.sleep(HOUR)

    runtime = lab.runtime(sleeper, quick)
    async with lab.working(runtime, concurrency=1):
        for _ in range(100):
            await runtime.start_run(sleeper)
        await runtime.start_run(quick, run_id="run")
        await lab.until(ended, lab, "run")


async def fail_to_check(verb: str, arguments: dict[str, Any]) -> None:
    if verb == "check_schema":
        raise SchemaMissingError("run the migrations")


@pytest.mark.parametrize("call", ["work", "sweep", "sweep_handler"])
async def test_schema_is_checked_before_the_first_claim(lab: Lab, call: str) -> None:
    """A worker in front of the wrong tables says what to do and does nothing; so do a sweep and a host's function."""
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store, auto_schema=False)
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "work": lambda: runtime.work(handle_signals=False),
        "sweep": runtime.sweep,
        "sweep_handler": sweep_handler(runtime, timedelta(seconds=1)),
    }
    store.before = fail_to_check
    for _ in range(2):
        with pytest.raises(SchemaMissingError, match="run the migrations"):
            await calls[call]()
    assert store.calls == ["check_schema"] * 2


async def test_sweeps_look_at_the_tables_until_they_fit(lab: Lab) -> None:
    """A host that sweeps each minute does not pay for it each time; a worker that starts looks anew."""
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store, auto_schema=False)
    for _ in range(3):
        await runtime.sweep()
    assert store.calls.count("check_schema") == 1
    store.before = fail_to_check
    await runtime.sweep()
    with pytest.raises(SchemaMissingError):
        await runtime.work(handle_signals=False)


async def test_stop_lets_the_running_step_end_and_hands_the_run_over(lab: Lab, gate: Gate) -> None:
    """The step is recorded, the next one does not start here, and another worker gets the run at once."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        first = await ctx.step(gate.pass_through)
        return [first, await ctx.step(echo, lab.ran.update(["second"]))]

    runtime = lab.runtime(works)
    handle = await runtime.start_run(works, run_id="run")
    async with lab.working(runtime) as stop:
        await gate.reached.wait()
        stop.set()
        await asyncio.sleep(0.01)
        assert not gate.cancelled
        gate.opened.set()
        await lab.until(lambda: lab.data.runs["run"].status is RunStatus.QUEUED)
    assert await lab.log("run") == ["step-completed pass_through"]
    await lab.sweep(works)
    assert await handle.result() == ["passed", None]
    assert (await lab.load("run")).crashes == 0


async def test_no_step_starts_after_the_stop_though_a_claim_is_under_way(lab: Lab, gate: Gate) -> None:
    """The worker looks for more while the store is slow; the runs that it drives hear of the stop all the same."""
    claiming, answering = asyncio.Event(), asyncio.Event()

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        first = await ctx.step(gate.pass_through)
        return [first, await ctx.step(echo, lab.ran.update(["second"]))]

    async def be_slow(verb: str, arguments: dict[str, Any]) -> None:
        if verb.startswith("claim_") and gate.reached.is_set():
            claiming.set()
            await answering.wait()

    store = lab.tapped()
    store.before = be_slow
    runtime = lab.runtime(works, store=store)
    await runtime.start_run(works, run_id="run")
    async with lab.working(runtime) as stop:
        await gate.reached.wait()
        runtime._wake_workers()
        await claiming.wait()
        stop.set()
        await asyncio.sleep(0.01)
        gate.opened.set()
        await lab.until(lambda: lab.data.runs["run"].status is RunStatus.QUEUED)
        answering.set()
    assert await lab.log("run") == ["step-completed pass_through"]


async def test_stopping_worker_claims_nothing_more(lab: Lab, gate: Gate) -> None:
    """Neither while it drains nor afterwards."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        return await ctx.step(gate.pass_through)

    runtime = lab.runtime(works, quick)
    await runtime.start_run(works)
    async with lab.working(runtime) as stop:
        await gate.reached.wait()
        stop.set()
        await asyncio.sleep(0)
        await runtime.start_run(quick, run_id="late")
        await asyncio.sleep(0.01)
        gate.opened.set()
    assert await lab.status("late") is RunStatus.QUEUED


async def test_run_that_was_claimed_while_the_worker_was_stopped_is_handed_over(lab: Lab) -> None:
    """The stop comes between the claim's commit and its answer: no step of that run starts here."""
    stop = asyncio.Event()

    async def stop_now(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "claim_pending_runs" and arguments["limit"]:
            stop.set()

    store = lab.tapped()
    store.after = stop_now
    runtime = lab.runtime(quick, store=store)
    await runtime.start_run(quick, run_id="run")
    report = await runtime.work(stop=stop, handle_signals=False)
    assert report.outcomes == {"released": 1}
    assert await lab.status("run") is RunStatus.QUEUED
    assert await lab.log("run") == []


async def test_no_step_starts_when_the_stop_comes_during_the_write_before_it(lab: Lab) -> None:
    """The cause of the step is durable; the step is for the next worker."""

    async def stop(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "append_events":
            runtime._drivers["run"].stop()

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.now()
        await ctx.step(lab.ran.update, ["started"])

    store = lab.tapped()
    store.before = stop
    runtime = lab.runtime(works, store=store)
    await runtime.start_run(works, run_id="run")
    report = await runtime.sweep(limit=1)
    assert (report.outcomes, lab.ran) == ({"released": 1}, {})
    assert await lab.log("run") == ["value-recorded now"]


async def test_step_that_outlasts_the_drain_is_cancelled_and_runs_again_elsewhere(lab: Lab, gate: Gate) -> None:
    """The run is handed over without waiting for its lease, and no attempt is counted as failed."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        return await ctx.step(gate.pass_through)

    runtime = lab.runtime(works)
    handle = await runtime.start_run(works, run_id="run")
    async with lab.working(runtime, drain_timeout=timedelta(milliseconds=10)) as stop:
        await gate.reached.wait()
        stop.set()
    assert gate.cancelled
    assert await lab.status("run") is RunStatus.QUEUED
    assert await lab.log("run") == []
    gate.opened.set()
    await lab.sweep(works)
    assert await handle.result() == "passed"


@pytest.mark.parametrize("turns", range(8))
async def test_step_that_is_cancelled_in_any_turn_of_the_loop_is_handed_over(lab: Lab, turns: int) -> None:
    """A drain without patience may come before the step was made, or before its first line."""
    outside = asyncio.get_running_loop()

    def stop_in(turns: int) -> None:
        if turns > 0:
            outside.call_soon(stop_in, turns - 1)
        else:
            runtime._drivers["run"].stop(cancel_steps=True)

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        stop_in(turns)
        await ctx.step(asyncio.Event().wait)

    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    report = await asyncio.wait_for(runtime.sweep(limit=1), 2)
    assert report.outcomes == {"released": 1}
    assert await lab.status("run") is RunStatus.QUEUED


async def test_worker_stops_only_its_own_runs(lab: Lab, gate: Gate) -> None:
    """A sweep of the same runtime goes on."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)
        return await ctx.step(echo, "second")

    runtime = lab.runtime(works)
    handle = await runtime.start_run(works)
    async with lab.driving(runtime):
        await gate.reached.wait()
        async with lab.working(runtime) as stop:
            stop.set()
        gate.opened.set()
    assert await handle.result() == "second"


async def test_two_workers_of_one_runtime_both_hear_the_stop(lab: Lab) -> None:
    """Neither takes the other's wake-up; no clock is moved."""
    runtime = lab.runtime(quick)
    async with lab.working(runtime), lab.working(runtime):
        handles = [await runtime.start_run(quick) for _ in range(10)]
        await lab.until(lambda: ended(lab, *lab.data.runs))
    assert [await handle.result() for handle in handles] == ["done"] * 10


async def test_cancelled_worker_leaves_nothing_behind(lab: Lab, gate: Gate) -> None:
    """When `work` has returned, no task of it touches the store any more."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        return await ctx.step(gate.pass_through)

    runtime = lab.runtime(works)
    await runtime.start_run(works)
    working = asyncio.create_task(runtime.work(handle_signals=False))
    await gate.reached.wait()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    assert gate.cancelled
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_runtime_may_be_used_by_one_event_loop_after_another(lab: Lab) -> None:
    """A module-level runtime outlives the `asyncio.run` of a script or a test."""
    runtime = lab.runtime(quick)

    async def session(run_id: str) -> None:
        async with lab.working(runtime, poll_interval=timedelta(seconds=1)):
            await asyncio.sleep(0.01)
            await runtime.start_run(quick, run_id=run_id)
            await lab.until(lambda: ended(lab, run_id))
        lab.advance(seconds=1)

    for run_id in ("one", "two"):
        asyncio.run(session(run_id))


async def test_report_of_a_worker_sums_up(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Everything that it did until it was stopped."""

    @workflow()
    async def fails(ctx: Context, _: Any) -> None:
        raise ValueError

    runtime = lab.runtime(quick, fails)
    stop = asyncio.Event()
    with caplog.at_level(logging.CRITICAL, "workflow_runtime"):
        working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False))
        for number in range(5):
            await runtime.start_run(quick, run_id=f"quick-{number}")
            await runtime.start_run(fails, run_id=f"fails-{number}")
        await lab.until(lambda: len(lab.data.runs) == 10 and ended(lab, *lab.data.runs))
        stop.set()
        report = await working
    assert report.outcomes == {"finished": 5, "errored": 5}
    assert report.claimed["pending"] == 10


async def test_worker_on_a_thread_of_the_application(lab: Lab) -> None:
    """There the process's signals are not its business; everything else works."""
    runtime = lab.runtime(quick)
    await runtime.start_run(quick, run_id="run")

    async def work() -> None:
        stop = asyncio.Event()
        working = asyncio.create_task(runtime.work(stop=stop))
        await lab.until(ended, lab, "run")
        stop.set()
        await working

    before = signal.getsignal(signal.SIGTERM)
    await asyncio.to_thread(asyncio.run, work())
    assert signal.getsignal(signal.SIGTERM) is before


# Real signals, in a real process.


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("draining_process.py")
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        yield child
        child.kill()


def read_until(child: subprocess.Popen[str], last: str) -> list[str]:
    """Read the process's lines up to one; the test's timeout is the deadline."""
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line.strip())
        if lines[-1] == last:
            return lines
    raise AssertionError(f"the process ended without {last!r}: {lines}")


@pytest.mark.real_time
@pytest.mark.timeout(30)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_a_worker(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """The running step ends and is recorded; the run goes to another worker at once, its lease notwithstanding."""
    read_until(process, "first: started")
    process.send_signal(number)
    read_until(process, "draining")
    assert process.stdin is not None
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert read_until(process, "result: ['first', 'second']") == [
        "first: ended",
        "worker: {'released': 1}",
        "second: started",
        "second: ended",
        "result: ['first', 'second']",
    ]
    assert process.wait(10) == 0


@pytest.mark.real_time
@pytest.mark.timeout(30)
def test_second_signal_cuts_the_drain_short(process: subprocess.Popen[str]) -> None:
    """The step is cancelled and runs again elsewhere, at once."""
    read_until(process, "first: started")
    process.send_signal(signal.SIGTERM)
    read_until(process, "draining")
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert read_until(process, "first: started") == ["first: cancelled", "worker: {'released': 1}", "first: started"]
    assert time.monotonic() - started < 10
    assert process.stdin is not None
    process.stdin.write("go on\n")
    process.stdin.flush()
    read_until(process, "result: ['first', 'second']")
    assert process.wait(10) == 0
