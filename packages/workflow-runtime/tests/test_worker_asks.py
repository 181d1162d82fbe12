"""A worker asks only those sources that may have something, and in time. Calls are counted, nothing is timed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    Context,
    Every,
    RunStatus,
    Schedule,
    StoreUnavailableError,
    WorkflowRuntime,
    places,
    workflow,
)

if TYPE_CHECKING:
    from conftest import Gate, Lab, TappedStore

NEVER = timedelta(days=365)
SECOND = timedelta(seconds=1)


async def echo(value: Any) -> Any:
    return value


@workflow()
async def quick(ctx: Context, _: Any) -> Any:
    return await ctx.step(echo, "done")


@workflow()
async def naps(ctx: Context, seconds: float) -> None:
    await ctx.sleep(timedelta(seconds=seconds))


def ended(lab: Lab, *run_ids: str) -> bool:
    return all(lab.data.runs[run_id].status.is_terminal for run_id in run_ids)


def paused(lab: Lab, *run_ids: str) -> bool:
    return all(lab.data.runs[run_id].status is RunStatus.PAUSED for run_id in run_ids)


def asked(store: TappedStore) -> list[str]:
    return [verb for verb in store.calls if verb.startswith("claim")]


@contextmanager
def unheard(lab: Lab) -> Iterator[None]:
    """Lose the notices of what happens in the block; workers believe that they hear."""
    lab.data.notify, notify = lambda run_id: None, lab.data.notify  # type: ignore[method-assign]  # until the end of the block
    try:
        yield
    finally:
        lab.data.notify = notify  # type: ignore[method-assign]  # as it was


async def answer_out_of_step(verb: str, arguments: dict[str, Any]) -> None:
    """Answer runs that ended together one after the other."""
    if verb == "mark_run_finished":
        for _ in range(3 * (int(arguments["run_id"].removeprefix("run-")) % 16)):
            await asyncio.sleep(0)


# How much.


@pytest.mark.parametrize("notifies", [True, False])
@pytest.mark.parametrize(("concurrency", "budget"), [(1, 2.1), (16, 1.2), (64, 1.1), (200, 1.1)])
async def test_busy_worker_sends_little_more_than_the_ends_of_its_runs(
    lab: Lab, concurrency: int, budget: float, notifies: bool
) -> None:
    """The end of a run of one step is one statement. The others are claims, where there is room of many runs each."""
    count = 400
    for number in range(count):
        await lab.runtime(quick).start_run(quick, run_id=f"run-{number}")
    store = lab.tapped(None if notifies else lab.silent())
    store.after = answer_out_of_step
    async with lab.working(lab.runtime(quick, store=store), concurrency=concurrency):
        await lab.until(ended, lab, *lab.data.runs, seconds=20)
    print(f"{len(store.calls) / count:.2f} statements a job: {Counter(store.calls)}")
    assert len(store.calls) / count <= budget


async def test_runs_that_come_one_by_one_are_two_statements_each(lab: Lab) -> None:
    """The claim says that nothing more is due, and nothing is asked when the run has ended."""
    store = lab.tapped()
    async with lab.working(lab.runtime(quick, store=store)):
        await store.until_idle()
        for number in range(10):
            await lab.runtime(quick).start_run(quick, run_id=f"run-{number}")
            await lab.until(ended, lab, f"run-{number}")
            await asyncio.sleep(0.002)
    assert Counter(store.calls) == {"claim_pending_runs": 10, "mark_run_finished": 10}


async def test_sleep_that_the_worker_itself_began_costs_no_question(lab: Lab) -> None:
    """The worker knows when it ends: it asks for timers then, to the millisecond, and not before."""
    store = lab.tapped()
    async with lab.working(lab.runtime(naps, store=store, lease=timedelta(hours=1)), poll_interval=NEVER):
        await store.until_idle()
        await lab.runtime(naps).start_run(naps, 100, run_id="run")
        await lab.until(lambda: "run" in lab.data.runs and paused(lab, "run"))
        await asyncio.sleep(0.02)
        lab.advance(seconds=99.999)
        await asyncio.sleep(0.02)
        assert asked(store) == ["claim_pending_runs"]
        lab.advance(milliseconds=1)
        await lab.until(ended, lab, "run")
        assert asked(store)[:2] == ["claim_pending_runs", "claim_due_timers"]


async def test_worker_without_room_asks_for_nothing_but_ticks(lab: Lab, gate: Gate) -> None:
    """And for those at their time: what waits for a tick may be the end of the very run that takes the room."""

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(gate.pass_through)

    store = lab.tapped()
    runtime = lab.runtime(works, quick, store=store, lease=timedelta(days=1))
    async with lab.working(runtime, concurrency=1):
        await runtime.schedules.create(Schedule(id="each second", workflow=quick, when=Every(SECOND), overlap="allow"))
        await runtime.start_run(works, run_id="run")
        await gate.reached.wait()
        await store.until_idle()
        for number in range(1, 4):
            await runtime.start_run(quick)
            lab.advance(seconds=1)
            await lab.until(lambda number=number: sum("each second" in run for run in lab.data.runs) >= number)
        assert set(asked(store)) == {"claim_due_schedule_buckets"}
        gate.opened.set()
        await lab.until(ended, lab, "run")


async def test_place_is_filled_at_once_while_the_others_are_at_their_steps(
    lab: Lab, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing ends soon that its claim could be shared with. No timer helps."""
    monkeypatch.setattr(places, "_LONGEST_GATHERING_S", 3_600)

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(gate.pass_through)

    for number in range(7):
        await lab.runtime(works).start_run(works, run_id=f"long-{number}", priority=1)
    for number in range(20):
        await lab.runtime(quick).start_run(quick, run_id=f"run-{number}")
    async with lab.working(lab.runtime(works, quick), concurrency=8):
        await lab.until(ended, lab, *(f"run-{number}" for number in range(20)))
        gate.opened.set()


async def test_source_that_there_is_no_room_for_has_its_turn_next(lab: Lab) -> None:
    """With one place the sources take turns, and nobody is asked for nothing."""
    for number in range(6):
        await lab.runtime(quick).start_run(quick, run_id=f"stale-{number}")
        await lab.claim(f"stale-{number}", owner="dead")
        await lab.runtime(naps).start_run(naps, 1, run_id=f"timed-{number}")
    await lab.sweep(naps)
    lab.advance(minutes=1)
    for number in range(6):
        await lab.runtime(quick).start_run(quick, run_id=f"queued-{number}")
    store = lab.tapped()
    order: list[str] = []
    limits: set[int] = set()

    async def note(verb: str, arguments: dict[str, Any]) -> None:
        if verb in {"claim_stale_runs", "claim_due_timers", "claim_pending_runs"}:
            limits.add(arguments["limit"])
        if verb == "mark_run_finished":
            order.append(arguments["run_id"].split("-")[0])

    store.before = note
    async with lab.working(lab.runtime(quick, naps, store=store), concurrency=1):
        await lab.until(ended, lab, *lab.data.runs)
    assert [len(set(order[first : first + 3])) for first in range(0, 18, 3)] == [3] * 6
    assert limits == {1}


# In time.


async def test_lost_notice_is_found_by_a_busy_worker_within_its_poll(lab: Lab) -> None:
    """Others come all the time, and none of their claims is asked for that one: it has a later turn."""
    async with lab.working(lab.runtime(quick), poll_interval=30 * SECOND):
        await asyncio.sleep(0.02)
        with unheard(lab):
            start_at = lab.clock.now() + SECOND
            await lab.runtime(quick).start_run(quick, run_id="silent", start_at=start_at)
        for number in range(10):
            await lab.runtime(naps).start_run(naps, 1, run_id=f"other-{number}")
            lab.advance(seconds=3)
            await asyncio.sleep(0.005)
        await lab.until(ended, lab, "silent")


async def test_news_during_the_very_claim_that_missed_them_are_heeded(lab: Lab) -> None:
    """The claim's answer says that nothing is due, and a run was queued after it was made."""
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store)

    async def start_one_more(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "claim_pending_runs" and "late" not in lab.data.runs:
            with unheard(lab):
                await runtime.start_run(quick, run_id="late")

    async with lab.working(runtime, poll_interval=NEVER):
        await store.until_idle()
        store.after = start_one_more
        await runtime.start_run(quick, run_id="first")
        await lab.until(lambda: "late" in lab.data.runs and ended(lab, "first", "late"))


@pytest.mark.parametrize("seconds", [0.5, 40])
async def test_run_that_sleeps_elsewhere_is_woken_by_a_busy_worker(lab: Lab, seconds: float) -> None:
    """Its notice comes together with those of runs that this worker finds."""
    store = lab.tapped()
    async with lab.working(lab.runtime(quick, naps, store=store), poll_interval=NEVER):
        await store.until_idle()
        await asyncio.gather(
            lab.runtime(naps).run_here(naps, seconds, run_id="asleep"),
            *(lab.runtime(quick).start_run(quick, run_id=f"run-{number}") for number in range(5)),
        )
        await asyncio.sleep(0.02)
        lab.advance(seconds=seconds)
        await lab.until(ended, lab, "asleep", *(f"run-{number}" for number in range(5)))


async def test_run_that_another_worker_took_unheard_is_looked_after_by_a_busy_worker(lab: Lab) -> None:
    """No notice told of it. Where this worker finds work others have some too, and may die."""
    store = lab.tapped()
    async with lab.working(lab.runtime(quick, store=store, lease=10 * SECOND), poll_interval=NEVER):
        await store.until_idle()
        await lab.runtime(quick).start_run(quick, run_id="mine")
        with unheard(lab):
            await lab.runtime(quick).start_run(quick, run_id="taken", start_at=lab.clock.now() + NEVER)
        run = lab.data.runs["taken"]
        now_ms = lab.clock.now_ms()
        run.available_at_ms = now_ms
        run.begin_lease(owner="dead", expires_at_ms=now_ms + 10_000, now_ms=now_ms)
        await lab.until(ended, lab, "mine")
        lab.advance(seconds=10)
        await lab.until(ended, lab, "taken")


async def test_queue_of_a_store_that_tells_nothing_is_asked_whenever_there_is_room(lab: Lab, gate: Gate) -> None:
    """Time stands still: the end of one run is when the next one is found."""

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(gate.pass_through)

    async with lab.working(lab.runtime(works, quick, store=lab.silent()), concurrency=1):
        await lab.runtime(works).start_run(works, run_id="run")
        lab.advance(seconds=1)
        await gate.reached.wait()
        await lab.runtime(quick).start_run(quick, run_id="next")
        gate.opened.set()
        await lab.until(ended, lab, "run", "next")


@pytest.mark.parametrize("end", ["finish", "terminate", "terminate many"])
async def test_tick_that_waits_for_the_end_of_a_run_is_fired_at_that_end(lab: Lab, gate: Gate, end: str) -> None:
    """No time passes: the end that happened here is what it is known from."""

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(gate.pass_through)

    runtime = lab.runtime(works)
    async with lab.working(runtime, poll_interval=NEVER):
        when = Every(timedelta(hours=1))
        await runtime.schedules.create(Schedule(id="hourly", workflow=works, when=when, overlap="buffer-one"))
        lab.advance(hours=1)
        await gate.reached.wait()
        lab.advance(hours=1)
        await asyncio.sleep(0.05)
        (first,) = lab.data.runs
        if end == "finish":
            gate.opened.set()
        elif end == "terminate":
            await runtime.terminate_run(first)
        else:
            await runtime.terminate_runs(workflow_ids=[works.id])
        await lab.until(lambda: len(lab.data.runs) == 2)
        gate.opened.set()
        await lab.until(ended, lab, *lab.data.runs)


async def test_ticks_that_cannot_be_asked_for_show_that_the_store_is_away(lab: Lab) -> None:
    """An idle worker asks for ticks only, and the runs' claims fail with them: it is not ready."""
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store)

    async def be_away(verb: str, arguments: dict[str, Any]) -> None:
        raise StoreUnavailableError("restarting")

    async with lab.working(runtime, poll_interval=NEVER):
        when = Every(60 * SECOND, offset=30 * SECOND)
        await runtime.schedules.create(Schedule(id="each minute", workflow=quick, when=when))
        await store.until_idle()
        there, store.before = store.before, be_away
        lab.advance(seconds=30)
        await lab.until(lambda: not runtime.health().ready)
        store.before = there
        lab.advance(seconds=5)
        await lab.until(lambda: runtime.health().ready)
        await lab.until(lambda: lab.data.runs and ended(lab, *lab.data.runs))


async def test_pause_that_ends_as_queued_is_claimed_again(lab: Lab) -> None:
    """A signal came while the pause was under way, and neither a notice nor time tells of it."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        return await ctx.wait_for_event("go")

    store = lab.tapped()
    runtime = lab.runtime(waits, store=store)

    async def deliver(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "mark_run_paused":
            await lab.store().deliver_signal(
                run_id="run", signal_id="s", name="go", payload=None, now_ms=lab.clock.now_ms()
            )

    store.before = deliver
    async with lab.working(runtime, poll_interval=NEVER):
        await store.until_idle()
        with unheard(lab):
            await runtime.start_run(waits, run_id="run")
            await lab.until(ended, lab, "run")


async def test_run_that_was_handed_over_by_a_worker_that_goes_on_is_looked_for(lab: Lab) -> None:
    """As when its writes fail for a while. Neither a notice nor time tells of it."""

    async def stop_once() -> None:
        if not lab.ran["stopped"]:
            lab.ran["stopped"] += 1
            runtime._drivers["run"].stop()

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(stop_once)
        await ctx.step(echo, 2)

    store = lab.tapped()
    runtime = lab.runtime(works, store=store)
    async with lab.working(runtime, poll_interval=NEVER):
        await store.until_idle()
        with unheard(lab):
            await runtime.start_run(works, run_id="run")
            await lab.until(ended, lab, "run")
    assert "release_run_lease" in store.calls


async def test_what_happens_in_the_workers_own_process_needs_no_notice(lab: Lab) -> None:
    """A store that tells nothing, and no time passes but that of the tick: starts, deliveries, schedules are known."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        return await ctx.wait_for_event("go")

    store = lab.tapped(lab.silent())
    runtime = lab.runtime(waits, quick, store=store)
    async with lab.working(runtime, poll_interval=NEVER):
        await store.until_idle()
        await runtime.start_run(waits, run_id="run")
        await lab.until(lambda: lab.data.runs["run"].awaited)
        await store.until_idle()
        await runtime.deliver_signal("run", "go")
        await lab.until(ended, lab, "run")
        await store.until_idle()
        await runtime.schedules.create(Schedule(id="hourly", workflow=quick, when=Every(timedelta(hours=1))))
        await asyncio.sleep(0.02)
        lab.advance(hours=1)
        await lab.until(lambda: len(lab.data.runs) == 2 and ended(lab, *lab.data.runs))


async def test_idle_polls_make_no_worker_patient(lab: Lab) -> None:
    """Only who was told of a run and did not get it lets others go first the next time."""
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store)
    async with lab.working(runtime):
        (worker,) = await _workers(lab, runtime)
        for _ in range(3):
            await store.until_idle()
            lab.advance(seconds=30)
            await lab.until(lambda: "claim_pending_runs" in store.calls)
        assert worker._patience._longest_s == 0
        await store.until_idle()
        lab.data.notify("nobody")
        await lab.until(lambda: "claim_due_timers" in store.calls)
        assert worker._patience._longest_s > 0


async def _workers(lab: Lab, runtime: WorkflowRuntime) -> set[Any]:
    await lab.until(lambda: runtime.health().ready)
    return runtime._workers
