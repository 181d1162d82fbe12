"""Leases: kept by heartbeats, lost for good when stolen; a store that is away for a while; runs that crash."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    Context,
    LogConflictError,
    RetryPolicy,
    RunAbortedError,
    RunStatus,
    StoreOperationError,
    StoreUnavailableError,
    fixed_backoff,
    store_retry,
    workflow,
)
from workflow_runtime.testing import run_to_completion

if TYPE_CHECKING:
    from conftest import Gate, Lab


async def echo(value: Any) -> Any:
    return value


async def test_heartbeats_keep_a_run_for_as_long_as_a_step_takes(lab: Lab, gate: Gate) -> None:
    """An hour of one step with a lease of 30 seconds: nobody else gets the run."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        return await ctx.step(gate.pass_through)

    runtime = lab.runtime(works)
    handle = await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        for _ in range(360):
            lab.advance(seconds=10)
            lease = lab.data.runs["run"].lease
            assert lease is not None
            await lab.until(lambda: lab.data.runs["run"].lease.expires_at_ms == lab.clock.now_ms() + 30_000)  # type: ignore[union-attr]  # it has one
            assert (await lab.sweep(works)).total == 0
        gate.opened.set()
    assert await handle.result() == "passed"
    assert lab.data.runs["run"].lease_number == 1


async def test_writes_renew_the_lease_so_that_no_heartbeat_is_needed(lab: Lab) -> None:
    """A run that writes often costs no statement beyond its appends."""
    store = lab.tapped()

    async def step(number: int) -> None:
        lab.advance(seconds=9)

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        for number in range(20):
            await ctx.step(step, number)

    runtime = lab.runtime(works, store=store)
    await runtime.start_run(works, run_id="run")
    await runtime.sweep()
    assert await lab.status("run") is RunStatus.FINISHED
    assert "heartbeat_run_leases" not in store.calls
    assert store.calls.count("append_events") == 19


async def test_driver_whose_lease_was_stolen_stops(lab: Lab, gate: Gate) -> None:
    """It hears so by its heartbeat: the step is cancelled, the handler taken down, and nothing is written."""
    left = []

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        try:
            return await ctx.step(gate.pass_through)
        finally:
            left.append("handler")
            await ctx.step(echo, lab.ran.update(["cleanup"]))

    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime) as sweep:
        await gate.reached.wait()
        await lab.steal("run")
        before = lab.picture()
        lab.advance(seconds=10)
    assert (await sweep).outcomes == {"lost": 1}
    assert gate.cancelled
    assert left == ["handler"]
    assert lab.picture() == before


@pytest.mark.parametrize("verb", ["append_events", "mark_run_paused", "mark_run_finished", "mark_run_errored"])
async def test_every_write_of_a_late_driver_is_refused(lab: Lab, verb: str) -> None:
    """Whatever it is about to write when the lease is stolen, it stops without a trace."""

    async def fail() -> None:
        raise ValueError

    @workflow(retry=RetryPolicy(max_attempts=1))
    async def works(ctx: Context, kind: str) -> None:
        if kind == "append_events":
            await ctx.step(echo, 1)
            await ctx.step(echo, lab.ran.update(["second"]))
        elif kind == "mark_run_paused":
            await ctx.wait_for_event("never")
        elif kind == "mark_run_errored":
            await ctx.step(fail)

    pictures = []

    async def steal(called: str, arguments: dict[str, Any]) -> None:
        if called == verb:
            await lab.steal("run")
            pictures.append(lab.picture())

    store = lab.tapped()
    store.before = steal
    runtime = lab.runtime(works, store=store)
    await runtime.start_run(works, verb, run_id="run")
    assert (await runtime.sweep()).outcomes == {"lost": 1}
    assert pictures == [lab.picture()]
    assert store.calls.count(verb) == 1


async def test_hand_over_of_a_late_driver_is_refused(lab: Lab, gate: Gate) -> None:
    """A worker that drains does not give away a run that is not its own any more."""

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(gate.pass_through)
        await ctx.step(echo, 2)

    async def steal(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "release_run_lease":
            await lab.steal("run")

    store = lab.tapped()
    store.before = steal
    runtime = lab.runtime(works, store=store)
    await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime, deadline=timedelta(milliseconds=300)) as sweep:
        await gate.reached.wait()
        await lab.until(lambda: runtime._drivers["run"].stopping)
        gate.opened.set()
    assert (await sweep).outcomes == {"lost": 1}
    assert (await lab.load("run")).lease_owner == "thief"


async def test_log_that_is_not_where_the_driver_left_it_stops_the_driver(lab: Lab) -> None:
    """A conflict is not repeated, and not papered over."""

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.sleep(timedelta(hours=1))

    async def conflict(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "mark_run_paused":
            raise LogConflictError("run", 0, 5)

    store = lab.tapped()
    store.before = conflict
    runtime = lab.runtime(works, store=store)
    await runtime.start_run(works, run_id="run")
    report = await runtime.sweep()
    assert [type(failure.error) for failure in report.failures] == [LogConflictError]
    assert store.calls.count("mark_run_paused") == 1


async def test_heartbeat_that_fails_is_not_a_lost_lease(lab: Lab, gate: Gate) -> None:
    """The next one tells; meanwhile nobody has replaced the holder."""
    failures = 0

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        return await ctx.step(gate.pass_through)

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        nonlocal failures
        if verb == "heartbeat_run_leases" and failures < 2:
            failures += 1
            raise StoreUnavailableError("busy")

    store = lab.tapped()
    store.before = fail
    runtime = lab.runtime(works, store=store)
    handle = await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        for count in range(1, 5):
            lab.advance(seconds=10)
            await lab.until(lambda beats: store.calls.count("heartbeat_run_leases") == beats, count)
        gate.opened.set()
    assert failures == 2
    assert await handle.result() == "passed"


@pytest.mark.parametrize("lost", ["call", "answer"])
async def test_store_that_is_away_is_asked_again_with_the_same_operation_id(
    lab: Lab, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the call was lost or its answer: every write happens exactly once, and the run does not notice."""
    monkeypatch.setattr(store_retry, "_RETRY_DELAYS_S", (0.0,) * 6)
    failures: dict[str, int] = {}

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        operation_id = arguments.get("operation_id")
        if operation_id is not None and "lease_token" in arguments and failures.setdefault(operation_id, 0) < 3:
            failures[operation_id] += 1
            raise StoreUnavailableError("the connection broke")

    store = lab.tapped()
    if lost == "call":
        store.before = fail
    else:
        store.after = fail

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        first = await ctx.step(echo, lab.ran.update(["first"]))
        await ctx.sleep(timedelta(hours=1))
        signal = await ctx.wait_for_event("go")
        return [first, signal, await ctx.step(echo, 2), await ctx.step(echo, 3)]

    runtime = lab.runtime(works, store=store)
    handle = await runtime.start_run(works, run_id="run")
    await runtime.deliver_signal("run", "go", "went")
    assert await run_to_completion(runtime, handle, lab.clock) == [None, "went", 2, 3]
    assert await lab.log("run") == [
        "step-completed echo",
        "sleep-started sleep",
        "sleep-ended sleep",
        "wait-started wait:go",
        "signal-received wait:go",
        "step-completed echo#2",
        "step-completed echo#3",
        "run-finished",
    ]
    assert set(failures.values()) == {3}
    repeats = [a["operation_id"] for _, a in store.arguments if "lease_token" in a and "operation_id" in a]
    assert len(repeats) == 4 * len(failures)
    assert lab.data.runs["run"].crashes == 0


async def test_store_that_stays_away_is_given_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is reported, and goes on elsewhere when its lease has run out; its step is made again."""
    monkeypatch.setattr(store_retry, "_RETRY_DELAYS_S", (0.0,) * 6)

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "append_events":
            raise StoreUnavailableError("gone")

    store = lab.tapped()
    store.before = fail

    async def step() -> None:
        lab.ran["step"] += 1

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(step)
        return await ctx.step(echo, 1)

    runtime = lab.runtime(works, store=store)
    handle = await runtime.start_run(works, run_id="run")
    report = await runtime.sweep()
    assert [str(failure.error) for failure in report.failures] == ["the store is unavailable: gone"]
    assert store.calls.count("append_events") == 7
    lab.advance(seconds=31)
    await lab.sweep(works)
    assert await handle.result() == 1
    assert lab.ran == {"step": 2}


async def test_lease_that_was_lost_while_the_store_was_away(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repeat of the write is refused, and that is the end of it."""
    monkeypatch.setattr(store_retry, "_RETRY_DELAYS_S", (0.0,) * 6)

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "mark_run_finished":
            store.before = nothing
            await lab.steal("run")
            raise StoreUnavailableError("gone")

    store = lab.tapped()
    nothing, store.before = store.before, fail

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.now()

    runtime = lab.runtime(works, store=store)
    await runtime.start_run(works, run_id="run")
    assert (await runtime.sweep()).outcomes == {"lost": 1}
    assert await lab.log("run") == []


async def test_run_that_crashes_its_workers_is_parked_and_can_be_requeued(lab: Lab) -> None:
    """After `max_crashes` claims without progress it is `dead`, and reported; `requeue_run` brings it back."""
    broken = True

    async def refuse(verb: str, arguments: dict[str, Any]) -> None:
        if broken and verb.startswith("mark"):
            token = arguments["lease_token"]
            await lab.store().heartbeat_run_lease(run_id="run", lease_token=token, lease_ms=1, now_ms=0)
            raise StoreOperationError("the worker dies here")

    @workflow()
    async def poison(ctx: Context, _: Any) -> str:
        await ctx.sleep(timedelta(0))
        return "cured"

    store = lab.tapped()
    store.before = refuse
    runtime = lab.runtime(poison, store=store, max_crashes=3)
    handle = await runtime.start_run(poison, run_id="run")
    reports = []
    for _ in range(4):
        reports.append(await runtime.sweep())
        lab.advance(seconds=31)
    assert [list(report.dead) for report in reports] == [[], [], [], ["run"]]
    with pytest.raises(RunAbortedError, match="3 workers in a row crashed while driving it"):
        await handle.result()
    assert (await runtime.sweep()).total == 0

    broken = False
    assert (await runtime.requeue_run("run")).kind == "requeued"
    assert await run_to_completion(runtime, handle, lab.clock) == "cured"


async def test_crashes_with_progress_do_not_count(lab: Lab) -> None:
    """Ten crashes, each after another step, and the run is as alive as ever."""

    @workflow(retry=RetryPolicy(max_attempts=1, backoff=fixed_backoff(timedelta(0))))
    async def works(ctx: Context, _: Any) -> int:
        return sum([await ctx.step(echo, 1) for _ in range(10)])

    async def die(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "append_events":
            raise StoreOperationError("the worker dies here")

    handle = await lab.runtime(works).start_run(works, run_id="run")
    for _ in range(9):
        store = lab.tapped()
        store.after = die
        await lab.runtime(works, store=store, max_crashes=2).sweep()
        lab.advance(seconds=31)
    await lab.runtime(works, max_crashes=2).sweep()
    assert await handle.result() == 10


async def test_driver_leaves_no_task_behind(lab: Lab, gate: Gate) -> None:
    """Whatever way a drive ends: no heartbeat, no step, no branch goes on."""

    @workflow()
    async def works(ctx: Context, end: str) -> None:
        step = asyncio.create_task(ctx.step(gate.pass_through))
        await ctx.step(gate.reached.wait)
        if end == "errors":
            raise ValueError
        if end == "waits":
            step.cancel()
            await ctx.wait_for_event("never")

    for end in ("finishes", "errors", "waits"):
        await lab.runtime(works).start_run(works, end)
        gate.reached.clear()
        await lab.sweep(works)
        assert asyncio.all_tasks() == {asyncio.current_task()}
