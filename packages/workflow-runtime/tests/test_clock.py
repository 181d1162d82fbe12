"""Time: the store's, carried on by the monotonic clock, never backwards; or a test's own."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

import pytest
from workflow_runtime import (
    Context,
    InvalidArgumentError,
    StoreClock,
    TestClock,
    WorkflowExecutionStore,
    WorkflowRuntime,
    clock,
    workflow,
)
from workflow_runtime.clock import from_ms, to_ms
from workflow_runtime.testing import run_to_completion, run_until_blocked
from workflow_store_memory import InMemoryWorkflowStore

if TYPE_CHECKING:
    from conftest import Gate, Lab


class Monotonic:
    """A monotonic clock under control."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 5_000_000
        monkeypatch.setattr(clock, "_monotonic_ms", lambda: self.now_ms)


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    return Monotonic(monkeypatch)


def test_store_clock_carries_the_stores_time_on(monotonic: Monotonic) -> None:
    """By the monotonic clock, whatever the wall clock of this machine says."""
    store_clock = StoreClock(1_000)
    assert store_clock.now_ms() == 1_000
    monotonic.now_ms += 250
    assert store_clock.now_ms() == 1_250


def test_store_clock_follows_corrections_but_never_runs_backwards(monotonic: Monotonic) -> None:
    """Forward at once; backward by standing still until the store has caught up."""
    store_clock = StoreClock(1_000)
    store_clock.correct(1_500)
    assert store_clock.now_ms() == 1_500
    monotonic.now_ms += 10
    store_clock.correct(1_300)
    assert store_clock.now_ms() == 1_500
    monotonic.now_ms += 150
    assert store_clock.now_ms() == 1_500
    monotonic.now_ms += 60
    assert store_clock.now_ms() == 1_510


async def test_store_clock_waits_for_the_event_or_the_time() -> None:
    """Whichever comes first; a time that has passed is no wait; without a time only the event counts."""
    store_clock, event = StoreClock(1_000), asyncio.Event()
    await store_clock.wait(event, 0)
    await store_clock.wait(event, store_clock.now_ms() + 10)
    assert store_clock.now_ms() >= 1_010
    asyncio.get_running_loop().call_soon(event.set)
    await asyncio.wait_for(store_clock.wait(event, store_clock.now_ms() + 3_600_000), 5)
    event.clear()
    asyncio.get_running_loop().call_soon(event.set)
    await asyncio.wait_for(store_clock.wait(event, None), 5)


async def test_test_clock_moves_only_when_it_is_moved() -> None:
    """Forward, never backwards; who waits for a time wakes when it has come."""
    test_clock = TestClock(datetime(2031, 5, 1, tzinfo=UTC))
    start_ms = test_clock.now_ms()
    woken = []

    async def wait(name: str, until_ms: int | None, event: asyncio.Event) -> None:
        await test_clock.wait(event, until_ms)
        woken.append(name)

    event = asyncio.Event()
    tasks = [
        asyncio.create_task(wait("second", start_ms + 2_000, asyncio.Event())),
        asyncio.create_task(wait("first", start_ms + 1_000, asyncio.Event())),
        asyncio.create_task(wait("event", None, event)),
    ]
    for advance in (timedelta(seconds=0.999), timedelta(seconds=-5), timedelta(milliseconds=1)):
        await asyncio.sleep(0.005)
        assert woken == []
        test_clock.advance(advance)
    await asyncio.sleep(0.005)
    assert woken == ["first"]
    event.set()
    await asyncio.sleep(0.005)
    test_clock.advance_to_ms(start_ms + 5_000)
    test_clock.advance_to_ms(start_ms)
    await asyncio.wait(tasks)
    assert woken == ["first", "event", "second"]
    assert test_clock.now() == datetime(2031, 5, 1, 0, 0, 5, tzinfo=UTC)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_moments_become_milliseconds_and_come_back() -> None:
    """Exactly, in any zone, also before 1970."""
    berlin = timezone(timedelta(hours=2))
    assert to_ms("x", datetime(1970, 1, 1, 2, 0, 1, 500_000, tzinfo=berlin)) == 1_500
    assert to_ms("x", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)) == -1_000
    moment = datetime(2999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    assert from_ms(to_ms("x", moment)) == moment


@pytest.mark.parametrize("moment", [datetime(2030, 1, 1), None, 5])  # noqa: DTZ001  # the point
def test_naive_moment_is_refused(moment: Any) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidArgumentError, match="deadline: must be a datetime with a time zone"):
        to_ms("deadline", moment)


def test_test_clock_refuses_a_naive_start() -> None:
    """The same."""
    with pytest.raises(InvalidArgumentError, match="start"):
        TestClock(datetime(2030, 1, 1))  # noqa: DTZ001


@workflow()
async def tells_the_time(ctx: Context, _: Any) -> str:
    return (await ctx.now()).isoformat()


async def test_runtime_takes_the_stores_time_and_not_the_machines() -> None:
    """The store lives in another century; so do its runs, also for a runtime that only starts them."""
    century_ms, started = to_ms("x", datetime(2130, 1, 1, tzinfo=UTC)), time.monotonic()
    store = InMemoryWorkflowStore(clock=lambda: century_ms + round((time.monotonic() - started) * 1000))
    starter = WorkflowRuntime(store=store, workflows=[tells_the_time])
    handle = await starter.start_run(tells_the_time, run_id="run")
    assert 0 <= (await handle.load()).created_at_ms - century_ms < 60_000
    worker = WorkflowRuntime(store=store, workflows=[tells_the_time])
    while not (await worker.sweep()).total:
        await asyncio.sleep(0.001)  # the two runtimes may differ by a millisecond
    assert (await handle.result()).startswith("2130-01-01T00:0")


async def test_many_first_calls_at_once_read_one_clock(lab: Lab) -> None:
    """Readings that differ would let time run backwards within one runtime."""
    times = iter(range(1_000_000, 0, -100_000))

    async def take_a_turn(verb: str, arguments: dict[str, Any]) -> None:
        await asyncio.sleep(0)

    store = lab.tapped(clock=lambda: next(times))
    store.before = take_a_turn
    runtime = WorkflowRuntime(store=cast("WorkflowExecutionStore", store), workflows=[tells_the_time])
    handles = await asyncio.gather(*(runtime.start_run(tells_the_time) for _ in range(5)))
    created = [(await handle.load()).created_at_ms for handle in handles]
    assert store.calls.count("read_clock") == 5
    assert max(created) - min(created) < 10_000
    assert (await runtime.start_run(tells_the_time)).created


async def test_heartbeats_correct_the_clock(lab: Lab, gate: Gate, monotonic: Monotonic) -> None:
    """A worker whose machine is slow follows the store."""
    store_ms = 1_000_000
    store = InMemoryWorkflowStore(clock=lambda: store_ms)

    @workflow()
    async def works(ctx: Context, _: Any) -> list[str]:
        before = await ctx.now()
        await ctx.step(gate.pass_through)
        return [before.isoformat(), (await ctx.now()).isoformat()]

    runtime = WorkflowRuntime(store=store, workflows=[works], lease=timedelta(milliseconds=100))
    handle = await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        store_ms += 60_000
        monotonic.now_ms += 40
        clock = runtime._clock
        assert clock is not None
        await lab.until(lambda: clock.now_ms() >= store_ms)
        gate.opened.set()
    first, second = map(datetime.fromisoformat, await handle.result())
    assert second - first >= timedelta(seconds=59)


async def test_idle_worker_asks_for_the_time_now_and_then(lab: Lab, monotonic: Monotonic) -> None:
    """It sends no heartbeats, and its machine may have slept: what is due by the store's clock is due."""
    store_ms = 1_000_000
    store = lab.tapped(clock=lambda: store_ms)

    @workflow()
    async def works(ctx: Context, _: Any) -> str:
        return "done"

    runtime = WorkflowRuntime(store=cast("WorkflowExecutionStore", store), workflows=[works])
    handle = await runtime.start_run(works, start_at=datetime.fromtimestamp(1_000 + 3_600, UTC))
    stop = asyncio.Event()
    worker = asyncio.create_task(runtime.work(stop=stop, handle_signals=False, poll_interval=timedelta(milliseconds=5)))
    await lab.until(lambda: store.calls.count("claim_pending_runs") >= 3)
    assert store.calls.count("read_clock") == 1
    store_ms += 3_600_000
    monotonic.now_ms += 90_000
    assert await handle.result(timeout=timedelta(seconds=5)) == "done"
    assert store.calls.count("read_clock") == 2
    stop.set()
    await worker


async def test_week_of_sleep_takes_milliseconds(lab: Lab) -> None:
    """The helper moves the clock from one due time to the next, and no further than allowed."""

    @workflow()
    async def sleeper(ctx: Context, days: int) -> str:
        for _ in range(days):
            await ctx.sleep(timedelta(days=1))
        return "awake"

    start = lab.clock.now()
    assert await lab.finish(sleeper, 7) == "awake"
    assert lab.clock.now() - start == timedelta(days=7)
    runtime = lab.runtime(sleeper)
    handle = await runtime.start_run(sleeper, 7, run_id="run")
    with pytest.raises(AssertionError, match="run 'run' is paused and waits for nothing"):
        await run_to_completion(runtime, handle, lab.clock, limit=timedelta(days=3))


async def test_helpers_say_what_a_run_waits_for(lab: Lab) -> None:
    """Instead of hanging."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> None:
        await asyncio.gather(ctx.wait_for_event("payment"), ctx.approve("refund"))

    with pytest.raises(AssertionError, match="waits for signal 'payment', approval 'refund'"):
        await lab.finish(waits)


async def test_helper_notices_a_workflow_that_goes_round_in_circles(lab: Lab) -> None:
    """Work that never ends at one moment is a mistake."""

    @workflow()
    async def circles(ctx: Context, _: Any) -> None:
        await ctx.step(start_another)

    async def start_another() -> None:
        await lab.runtime(circles).start_run(circles)

    runtime = lab.runtime(circles)
    await runtime.start_run(circles)
    with pytest.raises(AssertionError, match="there was still work after 2 sweeps"):
        await run_until_blocked(runtime, max_sweeps=2)


async def test_run_to_completion_moves_the_clock_for_other_runs_too(lab: Lab) -> None:
    """A run may wait for a signal from one that sleeps."""

    @workflow(id="waiter")
    async def waiter(ctx: Context, _: Any) -> Any:
        return await ctx.wait_for_event("go")

    @workflow(id="sleeper")
    async def sleeper(ctx: Context, _: Any) -> Any:
        async def send() -> str:
            return (await runtime.deliver_signal("waiter", "go", "at last", signal_id="s")).kind

        await ctx.sleep(timedelta(days=2))
        return await ctx.step(send)

    runtime = lab.runtime(waiter, sleeper)
    handle = await runtime.start_run(waiter, run_id="waiter")
    await runtime.start_run(sleeper, run_id="sleeper")
    assert await run_to_completion(runtime, handle, lab.clock) == "at last"
