"""Whoever is told to stop, or is cancelled, hands over what it can, in time, whatever does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    ConfigurationError,
    Context,
    InvalidArgumentError,
    RunStatus,
    StoreUnavailableError,
    SweepReport,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.heartbeats import HeartbeatThread

if TYPE_CHECKING:
    from conftest import Gate, Lab, TappedStore

DRAIN = timedelta(seconds=1)
SLACK_S = 3.0
"""For a machine under load: what does not end would take for ever."""


async def echo(value: Any) -> Any:
    return value


@workflow()
async def quick(ctx: Context, _: Any) -> Any:
    return await ctx.step(echo, "done")


@contextlib.contextmanager
def in_time(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds + SLACK_S


def hanging(lab: Lab, verb: str, *, when: Callable[[dict[str, Any]], bool] = lambda arguments: True) -> TappedStore:
    """A store that does not answer one kind of call."""

    async def hang(called: str, arguments: dict[str, Any]) -> None:
        if called == verb and when(arguments):
            hung.set()
            await asyncio.Event().wait()

    hung = asyncio.Event()
    store = lab.tapped()
    store.before = hang
    store.hung = hung  # type: ignore[attr-defined]
    return store


# The whole stop has a bound.


@pytest.mark.real_time
@pytest.mark.parametrize(
    "verb", ["check_schema", "claim_pending_runs", "append_events", "release_run_lease", "mark_run_finished"]
)
async def test_stop_ends_in_time_though_the_store_does_not_answer(lab: Lab, verb: str) -> None:
    store, stop = hanging(lab, verb), asyncio.Event()

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(between)
        if verb != "mark_run_finished":
            await ctx.step(echo, "not here")

    async def between() -> None:
        if verb == "release_run_lease":
            stop.set()

    runtime = lab.runtime(works, store=store)
    await lab.runtime(works).start_run(works)
    working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False, drain_timeout=DRAIN))
    await asyncio.wait_for(store.hung.wait(), 5)
    with in_time(DRAIN.total_seconds()):
        stop.set()
        assert isinstance(await working, SweepReport)
    await lab.until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, seconds=10)


@pytest.mark.real_time
@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_stop_ends_in_time_though_a_step_swallows_its_cancellation(
    lab: Lab, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is not handed over: the step still runs."""
    monkeypatch.setattr("workflow_runtime.drives._HAND_OVER_S", 1.0)
    begun, over = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        begun.set()
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(stubborn)

    stop = asyncio.Event()
    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False, drain_timeout=DRAIN))
    await begun.wait()
    with in_time(DRAIN.total_seconds()), contextlib.suppress(asyncio.CancelledError):
        stop.set() if how == "stop" else working.cancel()
        await working
    assert await lab.status("run") is RunStatus.RUNNING
    assert "not handed over in time, their leases run out: 'run'" in caplog.text
    over.set()
    await lab.until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, seconds=10)


@pytest.mark.real_time
@pytest.mark.parametrize("swallows", [False, True], ids=["hangs", "swallows"])
async def test_stop_ends_in_time_though_the_listener_does_not(lab: Lab, swallows: bool) -> None:
    over = asyncio.Event()
    store = lab.store()
    listen = store.listen

    @asynccontextmanager
    async def listen_for_ever(hear: Any) -> AsyncIterator[Any]:
        async with listen(hear) as listening:
            yield listening
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError) if swallows else contextlib.nullcontext():
                await over.wait()

    store.listen = listen_for_ever  # type: ignore[assignment,method-assign]
    stop = asyncio.Event()
    working = asyncio.create_task(
        lab.runtime(quick, store=store).work(stop=stop, handle_signals=False, drain_timeout=DRAIN)
    )
    await asyncio.sleep(0.01)
    with in_time(DRAIN.total_seconds()):
        stop.set()
        await working
    over.set()
    await lab.until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


@pytest.mark.real_time
async def test_stop_ends_in_time_though_the_thread_of_heartbeats_does_not(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(HeartbeatThread, "ended", never)
    runtime = lab.runtime(quick)
    runtime._heartbeats = HeartbeatThread(lambda: None, clock=lab.clock, lease_ms=1, max_block_s=1)  # type: ignore[arg-type,return-value]
    stop = asyncio.Event()
    stop.set()
    with in_time(DRAIN.total_seconds()):
        await runtime.work(stop=stop, handle_signals=False, drain_timeout=DRAIN)


async def test_steps_may_run_for_most_of_the_drain(lab: Lab, gate: Gate) -> None:
    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)
        await ctx.step(echo, "not here")

    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    async with lab.working(runtime, drain_timeout=timedelta(seconds=60)) as stop:
        await gate.reached.wait()
        stop.set()
        await asyncio.sleep(0.05)
        assert not gate.cancelled
        gate.opened.set()
    assert await lab.log("run") == ["step-completed pass_through"]
    assert await lab.status("run") is RunStatus.QUEUED


async def test_drain_without_any_time_still_hands_over(lab: Lab, gate: Gate) -> None:
    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)

    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    async with lab.working(runtime, drain_timeout=timedelta(0)) as stop:
        await gate.reached.wait()
        stop.set()
    assert gate.cancelled
    assert await lab.status("run") is RunStatus.QUEUED
    with pytest.raises(InvalidArgumentError, match="drain_timeout"):
        await runtime.work(drain_timeout=timedelta(seconds=-1))


async def test_stop_waits_once_for_all_drives(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits anew each time that one ends waits for all of them again."""
    count, waited_for = 100, 0
    wait = asyncio.wait

    def counted(awaited: Any, **options: Any) -> Any:
        nonlocal waited_for
        awaited = set(awaited)
        waited_for += len(awaited)
        return wait(awaited, **options)

    gates = [asyncio.Event() for _ in range(count)]
    begun = 0

    async def pass_through(number: int) -> None:
        nonlocal begun
        begun += 1
        await gates[number].wait()

    @workflow()
    async def works(ctx: Context, number: int) -> None:
        await ctx.step(pass_through, number)
        await ctx.step(echo, "not here")

    runtime = lab.runtime(works)
    for number in range(count):
        await runtime.start_run(works, number)
    async with lab.working(runtime, concurrency=count) as stop:
        await lab.until(lambda: begun == count)
        monkeypatch.setattr(asyncio, "wait", counted)
        stop.set()
        for done, each in enumerate(gates, start=1):
            each.set()
            await lab.until(lambda done=done: sum(r.status is RunStatus.QUEUED for r in lab.data.runs.values()) == done)
    # Each drive waits for its own heartbeat, and the test clock for two things at a time; none for all of the others.
    assert waited_for < 12 * count


# Whoever is cancelled hands over.


Start = Callable[[WorkflowRuntime], Coroutine[Any, Any, Any]]


def starts(works: Any) -> dict[str, Start]:
    async def here(runtime: WorkflowRuntime) -> None:
        await runtime.run_here(works, run_id="run")

    async def sweep(runtime: WorkflowRuntime) -> None:
        await runtime.start_run(works, run_id="run")
        await runtime.sweep()

    async def work(runtime: WorkflowRuntime) -> None:
        await runtime.start_run(works, run_id="run")
        await runtime.work(handle_signals=False)

    return {"run_here": here, "sweep": sweep, "work": work}


CALLS = ["run_here", "sweep", "work"]


@pytest.mark.parametrize("call", CALLS)
async def test_cancelled_call_hands_its_run_over_at_once(lab: Lab, gate: Gate, call: str) -> None:
    """The step is cancelled; what had been done before is recorded; no crash is counted."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        return [await ctx.step(echo, "first"), await ctx.step(gate.pass_through)]

    task = asyncio.create_task(starts(works)[call](lab.runtime(works)))
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.cancelled
    assert await lab.status("run") is RunStatus.QUEUED
    assert await lab.log("run") == ["step-completed echo"]
    gate.opened.set()
    await lab.sweep(works)
    assert (await lab.load("run")).crashes == 0
    assert await lab.status("run") is RunStatus.FINISHED
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("call", CALLS)
async def test_step_that_ends_while_its_call_is_cancelled_is_recorded(lab: Lab, call: str) -> None:
    """It cleans up, and what it returns then is its result."""
    begun = asyncio.Event()

    async def finishes() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "finished all the same"
        raise AssertionError

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(finishes)
        await ctx.step(echo, "not here")

    task = asyncio.create_task(starts(works)[call](lab.runtime(works)))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await lab.log("run") == ["step-completed finishes"]
    assert await lab.status("run") is RunStatus.QUEUED


@pytest.mark.parametrize("call", CALLS)
async def test_impatient_cancellations_do_not_cut_the_hand_over_short(lab: Lab, gate: Gate, call: str) -> None:
    """A cancel scope of anyio cancels again in each turn of the loop."""

    async def be_slow(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "release_run_lease":
            await asyncio.sleep(0.01)

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)

    store = lab.tapped()
    store.before = be_slow
    task = asyncio.create_task(starts(works)[call](lab.runtime(works, store=store)))
    await gate.reached.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert await lab.status("run") is RunStatus.QUEUED


@pytest.mark.parametrize("call", CALLS)
async def test_run_that_was_claimed_while_its_call_was_cancelled_is_handed_over(lab: Lab, call: str) -> None:
    """The cancellation comes between the claim's commit and its answer."""
    claimed, answered = asyncio.Event(), asyncio.Event()

    async def answer_late(verb: str, arguments: dict[str, Any]) -> None:
        if verb == ("create_run" if call == "run_here" else "claim_pending_runs"):
            claimed.set()
            await answered.wait()

    store = lab.tapped()
    store.after = answer_late
    task = asyncio.create_task(starts(quick)[call](lab.runtime(quick, store=store)))
    await claimed.wait()
    await _cancel_and_let_it_be_heard(task)
    answered.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await lab.status("run") is RunStatus.QUEUED
    assert await lab.log("run") == []


async def _cancel_and_let_it_be_heard(task: asyncio.Task[Any]) -> None:
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("verb", ["append_events", "mark_run_finished", "mark_run_paused"])
@pytest.mark.parametrize("call", CALLS)
async def test_write_that_is_under_way_is_let_end(lab: Lab, call: str, verb: str) -> None:
    """Cut off, it would leave open whether it was done."""
    writing, answered = asyncio.Event(), asyncio.Event()

    async def answer_late(called: str, arguments: dict[str, Any]) -> None:
        if called == verb:
            writing.set()
            await answered.wait()

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(echo, "first")
        if verb != "mark_run_finished":
            await ctx.step(echo, "second")
            await ctx.sleep(timedelta(hours=1))

    store = lab.tapped()
    store.before = answer_late
    task = asyncio.create_task(starts(works)[call](lab.runtime(works, store=store)))
    await writing.wait()
    await _cancel_and_let_it_be_heard(task)
    answered.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    ends = {"append_events": RunStatus.QUEUED, "mark_run_finished": RunStatus.FINISHED}
    assert await lab.status("run") is ends.get(verb, RunStatus.PAUSED)
    assert (await lab.log("run"))[0] == "step-completed echo"


@pytest.mark.real_time
@pytest.mark.parametrize("call", CALLS)
async def test_cancelled_call_ends_in_time_though_the_store_does_not_answer(
    lab: Lab, gate: Gate, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflow_runtime.drives._HAND_OVER_S", 1.0)

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)

    store = hanging(lab, "release_run_lease")
    task = asyncio.create_task(starts(works)[call](lab.runtime(works, store=store)))
    await gate.reached.wait()
    task.cancel()
    with in_time(1.0), pytest.raises(asyncio.CancelledError):
        await task
    await lab.until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, seconds=10)


@pytest.mark.parametrize("call", CALLS)
def test_calls_that_outlive_main_hand_over(lab: Lab, call: str) -> None:
    """`asyncio.run` cancels every task when it ends: the call's, the drive's, the step's."""

    async def main() -> None:
        reached = asyncio.Event()

        async def wait() -> None:
            reached.set()
            await asyncio.Event().wait()

        @workflow(id="works")
        async def works(ctx: Context, _: Any) -> Any:
            await ctx.step(wait)

        _left_behind.append(asyncio.create_task(starts(works)[call](lab.runtime(works))))
        await reached.wait()

    asyncio.run(main())
    assert lab.data.runs["run"].status is RunStatus.QUEUED


_left_behind: list[Any] = []


async def test_cancelled_drive_whose_lease_was_lost_just_ends(lab: Lab, gate: Gate) -> None:
    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)

    runtime = lab.runtime(works)
    task = asyncio.create_task(runtime.run_here(works, run_id="run"))
    await gate.reached.wait()
    await lab.steal("run")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    lease = lab.data.runs["run"].lease
    assert lease is not None
    assert lease.owner == "thief"


async def test_failure_of_a_worker_hands_the_other_runs_over(lab: Lab, gate: Gate) -> None:
    broken = False

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if broken and verb.startswith("claim"):
            raise ConfigurationError("the store was closed")

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)

    store = lab.tapped()
    store.before = fail
    runtime = lab.runtime(works, store=store)
    await runtime.start_run(works, run_id="run")
    working = asyncio.create_task(runtime.work(handle_signals=False, poll_interval=timedelta(seconds=1)))
    await gate.reached.wait()
    broken = True
    lab.advance(seconds=1)
    with pytest.raises(ConfigurationError):
        await working
    assert await lab.status("run") is RunStatus.QUEUED


# A sweep can be told that its deadline is now.


async def test_stop_is_the_deadline_of_a_sweep(lab: Lab, gate: Gate) -> None:
    """The step ends and is recorded, the run is handed over, nothing more is claimed, and there is a report."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)
        await ctx.step(echo, "not here")

    runtime = lab.runtime(works)
    for number in range(5):
        await runtime.start_run(works, run_id=f"run-{number}")
    stop = asyncio.Event()
    sweeping = asyncio.create_task(runtime.sweep(stop=stop, concurrency=2))
    await gate.reached.wait()
    stop.set()
    await asyncio.sleep(0.01)
    assert not sweeping.done()
    gate.opened.set()
    report = await sweeping
    assert report.outcomes == {"released": 2}
    assert report.total == 2
    assert report.next_due_ms == lab.clock.now_ms()
    assert await lab.status("run-0") is RunStatus.QUEUED
    assert await lab.log("run-0") == ["step-completed pass_through"]


async def test_sweep_that_is_stopped_before_it_begins_claims_nothing(lab: Lab) -> None:
    runtime = lab.runtime(quick)
    await runtime.start_run(quick, run_id="run")
    stop = asyncio.Event()
    stop.set()
    assert (await runtime.sweep(stop=stop)).total == 0
    assert await lab.status("run") is RunStatus.QUEUED


async def test_stopped_sweep_cancels_what_outlasts_its_drain(lab: Lab, gate: Gate) -> None:
    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)

    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    stop = asyncio.Event()
    sweeping = asyncio.create_task(runtime.sweep(stop=stop, drain_timeout=timedelta(milliseconds=10)))
    await gate.reached.wait()
    stop.set()
    assert (await sweeping).outcomes == {"released": 1}
    assert gate.cancelled


async def test_error_of_a_cancelled_call_is_logged(lab: Lab, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if verb.startswith("claim") and gate.reached.is_set():
            raise ValueError("broken claim")

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)
        raise StoreUnavailableError("never raised")

    store = lab.tapped()
    store.before = fail
    runtime = lab.runtime(works, store=store)
    await runtime.start_run(works, run_id="run")
    working = asyncio.create_task(runtime.work(handle_signals=False, poll_interval=timedelta(seconds=1)))
    await gate.reached.wait()
    runtime._wake_workers()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert await lab.status("run") is RunStatus.QUEUED
