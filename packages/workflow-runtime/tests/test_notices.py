"""Workers that are told of work: what a notice makes them do, and how seldom they look without one."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    Context,
    RunStatus,
    StoreUnavailableError,
    TestClock,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.agenda import NotListening, Polling
from workflow_runtime.store import StoreCapabilities
from workflow_runtime.wake_up import Patience
from workflow_store_memory import InMemoryWorkflowStore

if TYPE_CHECKING:
    from conftest import Gate, Lab

NEVER = timedelta(days=365)


async def echo(value: Any) -> Any:
    return value


@workflow()
async def quick(ctx: Context, _: Any) -> Any:
    return await ctx.step(echo, "done")


@workflow()
async def waits(ctx: Context, _: Any) -> Any:
    return await ctx.wait_for_event("go")


class Live:
    live = True


def ended(lab: Lab, *run_ids: str) -> bool:
    return all(lab.data.runs[run_id].status.is_terminal for run_id in run_ids)


async def test_notice_wakes_the_worker_of_another_runtime(lab: Lab) -> None:
    """The clock stands still: no poll can have found the run."""
    async with lab.working(lab.runtime(quick)):
        for number in range(3):
            await asyncio.sleep(0.01)
            await lab.runtime(quick).start_run(quick, run_id=f"run-{number}")
            await lab.until(ended, lab, f"run-{number}")


async def test_signal_through_another_runtime_wakes_a_paused_run(lab: Lab) -> None:
    async with lab.working(lab.runtime(waits)):
        await lab.runtime(waits).start_run(waits, run_id="run")
        await lab.until(lambda: lab.data.runs["run"].awaited)
        await asyncio.sleep(0.01)
        await lab.runtime(waits).deliver_signal("run", "go")
        await lab.until(ended, lab, "run")


async def test_notice_of_a_pause_that_comes_before_its_answer_wakes_the_worker(lab: Lab) -> None:
    """A run that was driven outside the worker's loop: only the notice tells the worker of its timer."""

    @workflow()
    async def naps(ctx: Context, _: Any) -> None:
        await ctx.sleep(timedelta(seconds=1))

    store = lab.tapped()

    async def answer_late(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "mark_run_paused":
            await asyncio.sleep(0.01)

    store.after = answer_late
    runtime = lab.runtime(naps, store=store)
    async with lab.working(runtime):
        await runtime.run_here(naps, run_id="run")
        await asyncio.sleep(0.01)
        lab.advance(seconds=1)
        await lab.until(ended, lab, "run")


async def test_notice_while_the_store_is_away_costs_no_step(lab: Lab, gate: Gate) -> None:
    """As when a server restarts: the lost connection nudges every driver, and none can read its inbox."""

    @workflow()
    async def both(ctx: Context, _: Any) -> Any:
        return await asyncio.gather(ctx.step(gate.pass_through), ctx.wait_for_event("go"))

    store = lab.tapped()

    async def be_away(verb: str, arguments: dict[str, Any]) -> None:
        raise StoreUnavailableError("restarting")

    runtime = lab.runtime(both, store=store)
    async with lab.working(runtime):
        await runtime.start_run(both, run_id="run")
        await gate.reached.wait()
        store.calls.clear()
        there, store.before = store.before, be_away
        for listener in lab.data.listeners:
            listener.notify(None)
        await asyncio.sleep(0.3)
        assert 0 < store.calls.count("read_inbox") < 10
        store.before = there
        await lab.runtime(both).deliver_signal("run", "go", "now")
        gate.opened.set()
        assert await runtime.attach("run").result(timeout=timedelta(seconds=10)) == ["passed", "now"]
    assert not gate.cancelled


async def test_signal_through_another_runtime_reaches_the_driver(lab: Lab, gate: Gate) -> None:
    """A run that is being driven takes it without a heartbeat, and without another claim."""

    @workflow()
    async def both(ctx: Context, _: Any) -> Any:
        async def wait() -> None:
            await ctx.step.options(id="signal")(echo, await ctx.wait_for_event("go"))

        await asyncio.gather(ctx.step(gate.pass_through), wait())

    store = lab.tapped()
    async with lab.working(lab.runtime(both, store=store)):
        await lab.runtime(both).start_run(both, run_id="run")
        await gate.reached.wait()
        await asyncio.sleep(0.01)
        store.calls.clear()
        await lab.runtime(both).deliver_signal("run", "go", "now")
        await lab.until(lambda: any(event.step_id == "signal" for event in lab.data.runs["run"].events))
        assert not [verb for verb in store.calls if verb.startswith("claim")]
        gate.opened.set()
        await lab.until(ended, lab, "run")


async def test_gap_makes_drivers_and_worker_look(lab: Lab, gate: Gate) -> None:
    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)

    store = lab.tapped()
    async with lab.working(lab.runtime(works, store=store)):
        await lab.runtime(works).start_run(works, run_id="run")
        await gate.reached.wait()
        await asyncio.sleep(0.01)
        store.calls.clear()
        for listener in lab.data.listeners:
            listener.notify(None)
        await lab.until(lambda: {"read_inbox", "claim_pending_runs"} <= set(store.calls))
        gate.opened.set()


async def test_many_notices_are_one_claim_more(lab: Lab) -> None:
    """What comes while a claim is under way makes the worker look once more, not once for each."""
    store = lab.tapped()
    async with lab.working(lab.runtime(quick, store=store)):
        await asyncio.sleep(0.01)
        store.calls.clear()
        for _ in range(100):
            lab.data.notify("nobody")
        await asyncio.sleep(0.05)
        assert store.calls.count("claim_pending_runs") <= 2


async def test_notice_of_a_run_makes_workers_look_for_runs_only(lab: Lab) -> None:
    """All of them hear of it, and one gets it: what the others spend on it counts."""
    store = lab.tapped()
    async with lab.working(lab.runtime(quick, store=store)):
        await store.until_idle()
        lab.data.notify("nobody")
        await lab.until(lambda: len(store.calls) >= 2)
        await asyncio.sleep(0.05)
        assert store.calls == ["claim_pending_runs", "claim_due_timers"]


async def test_worker_looks_once_for_the_run_that_a_notice_told_of(lab: Lab, gate: Gate) -> None:
    """The claim says that nothing more is due, so there is no second one."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)

    store = lab.tapped()
    async with lab.working(lab.runtime(works, store=store)):
        await store.until_idle()
        await lab.runtime(works).start_run(works, run_id="run")
        await gate.reached.wait()
        await asyncio.sleep(0.05)
        assert store.calls == ["claim_pending_runs"]
        gate.opened.set()
        await lab.until(ended, lab, "run")


async def test_what_a_notice_does_not_tell_of_is_found_however_many_come(lab: Lab) -> None:
    """An expired lease is told by nobody: it is looked for at its time, between all the notices."""

    @workflow()
    async def crashes(ctx: Context, _: Any) -> Any:
        return "done"

    await lab.runtime(crashes).start_run(crashes, run_id="run")
    await lab.claim("run")
    async with lab.working(lab.runtime(crashes)):
        for _ in range(40):
            lab.data.notify("nobody")
            await asyncio.sleep(0.002)
            lab.advance(seconds=1)
        await lab.until(ended, lab, "run")


async def test_short_sleep_that_a_notice_told_of_is_kept_to(lab: Lab) -> None:
    """Whoever paused the run may be gone when it is due."""

    @workflow()
    async def sleeps(ctx: Context, _: Any) -> Any:
        await ctx.sleep(timedelta(seconds=3))

    async with lab.working(lab.runtime(sleeps)):
        await asyncio.sleep(0.01)
        await lab.runtime(sleeps).run_here(sleeps, run_id="run")
        await asyncio.sleep(0.05)
        lab.advance(seconds=2.9)
        await asyncio.sleep(0.02)
        assert not ended(lab, "run")
        lab.advance(seconds=0.1)
        await lab.until(ended, lab, "run")


async def test_whoever_gets_less_than_is_due_claims_again_at_once(lab: Lab, gate: Gate) -> None:
    """As when others hold some of it. No run ends, no notice comes, and the clock stands still."""
    store = lab.tapped()

    async def give_one(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "claim_pending_runs":
            arguments["limit"] = min(1, arguments["limit"])

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)

    for number in range(9):
        await lab.runtime(works).start_run(works, run_id=f"run-{number}")
    store.before = give_one
    async with lab.working(lab.runtime(works, store=store)):
        await lab.until(lambda: all(run.status is RunStatus.RUNNING for run in lab.data.runs.values()))
        gate.opened.set()


async def test_who_found_nothing_lets_others_go_first(lab: Lab) -> None:
    """The wait grows to its limit, and whoever finds something waits no more, unless it is at work."""
    waits: list[float] = []

    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            waits.append(b)
            return 0.0

    patience = Patience(Longest())
    for found in (False, False, False, False, False, True):
        await patience.wait(busy=False)
        patience.looked(found=found)
    assert waits == [0.001, 0.002, 0.004, 0.008, 0.01]
    await patience.wait(busy=False)
    assert len(waits) == 5
    await patience.wait(busy=True)
    assert waits[5:] == [0.001]


async def test_nobody_listens_once_the_worker_has_ended(lab: Lab) -> None:
    async with lab.working(lab.runtime(quick)):
        await lab.until(lambda: len(lab.data.listeners) == 1)
    assert not lab.data.listeners


async def test_worker_that_hears_looks_seldom(lab: Lab) -> None:
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store)
    async with lab.working(runtime):
        await lab.until(lambda: runtime.health().ready)
        await asyncio.sleep(0.01)  # it hears that it hears, and looks once more
        await lab.until(lambda: not runtime._drivers)
        store.calls.clear()
        for seconds in (29, 2):
            await asyncio.sleep(0.01)
            assert store.calls == []
            lab.advance(seconds=seconds)
        await lab.until(lambda: len(store.calls) == 3)


@pytest.mark.parametrize(
    ("interval", "listening", "idle_ms", "again_ms"),
    [
        (None, NotListening(), 1_000, 1_000),
        (None, Live(), 30_000, 1_000),
        (timedelta(seconds=7), Live(), 7_000, 1_000),
        (timedelta(seconds=7), NotListening(), 7_000, 1_000),
        (timedelta(milliseconds=50), Live(), 50, 50),
        (timedelta(0), NotListening(), 1, 1),
    ],
)
def test_poll_interval(interval: timedelta | None, listening: Any, idle_ms: int, again_ms: int) -> None:
    polling = Polling(interval, listening)
    assert (polling.idle_ms(), polling.again_ms()) == (idle_ms, again_ms)


async def test_run_that_another_worker_took_is_looked_after_within_a_lease(lab: Lab) -> None:
    """Both were told of it. Should the other one die, its lease is over by the next look at everything."""
    runtime = lab.runtime(quick, lease=timedelta(seconds=10))
    async with lab.working(runtime):
        await lab.until(lambda: runtime.health().ready)
        await lab.runtime(quick).start_run(quick, run_id="run", start_at=lab.clock.now() + timedelta(days=1))
        run = lab.data.runs["run"]
        run.available_at_ms = lab.clock.now_ms()
        lease = run.begin_lease(owner="dead", expires_at_ms=lab.clock.now_ms() + 10_000, now_ms=lab.clock.now_ms())
        assert lease.owner == "dead"
        await asyncio.sleep(0.01)
        lab.advance(seconds=10)
        await lab.until(lambda: run.status.is_terminal)


class Beating(InMemoryWorkflowStore):
    """Says that a thread can renew its leases."""

    @property
    def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(max_payload_bytes=9, durable=False, heartbeats=True)


@pytest.mark.parametrize(
    ("store", "options", "lease_ms"),
    [
        (Beating, {}, 10_000),
        (Beating, {"max_block": timedelta(0)}, 30_000),
        (Beating, {"clock": TestClock()}, 30_000),
        (InMemoryWorkflowStore, {}, 30_000),
        (Beating, {"lease": timedelta(seconds=7)}, 7_000),
    ],
)
def test_default_lease_is_as_short_as_its_heartbeats_are_safe(
    store: type[InMemoryWorkflowStore], options: dict[str, Any], lease_ms: int
) -> None:
    """A thread, a blocked event loop does not hold up; without one, a step may block for some time."""
    assert WorkflowRuntime(store=store(), workflows=[], **options)._lease_ms == lease_ms
