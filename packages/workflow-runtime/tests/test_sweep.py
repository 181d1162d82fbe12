"""One bounded pass: how much it takes, from where, how long, and what it reports."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import Context, CorruptRecordError, RunStatus, StoreUnavailableError, workflow
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Event

if TYPE_CHECKING:
    from conftest import Gate, Lab


async def echo(value: Any) -> Any:
    return value


@workflow()
async def quick(ctx: Context, _: Any) -> str:
    return "done"


@workflow()
async def sleeper(ctx: Context, _: Any) -> None:
    await ctx.sleep(timedelta(hours=1))


async def make_stale(lab: Lab, count: int) -> None:
    """Leave runs behind whose worker has died."""
    for number in range(count):
        await lab.runtime(quick).start_run(quick, run_id=f"stale-{number}")
        await lab.claim(f"stale-{number}", owner="dead")


async def make_sleepers(lab: Lab, count: int) -> None:
    runtime = lab.runtime(sleeper)
    for number in range(count):
        await runtime.start_run(sleeper, run_id=f"sleeper-{number}")
    await runtime.sweep(limit=count)


async def make_pending(lab: Lab, count: int) -> None:
    for number in range(count):
        await lab.runtime(quick).start_run(quick, run_id=f"pending-{number}")


async def test_limit_bounds_the_claims(lab: Lab) -> None:
    """Exactly so many; 0 takes none; the rest stays for the next pass, which the report announces."""
    await make_pending(lab, 7)
    runtime = lab.runtime(quick)
    assert (await runtime.sweep(limit=0)).total == 0
    report = await runtime.sweep(limit=5, concurrency=2)
    assert (report.total, report.outcomes) == (5, {"finished": 5})
    assert report.next_due_ms == lab.clock.now_ms()
    report = await runtime.sweep(limit=5)
    assert (report.total, report.next_due_ms) == (2, None)


async def test_concurrency_bounds_what_is_driven_at_once(lab: Lab) -> None:
    """Never more drivers than allowed."""
    running, most = 0, 0

    async def step() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(step)

    runtime = lab.runtime(works)
    for _ in range(20):
        await runtime.start_run(works)
    report = await runtime.sweep(concurrency=3)
    assert (report.total, most) == (20, 3)


async def test_every_source_gets_its_share(lab: Lab) -> None:
    """Of nine places each source gets three, however long the other queues are."""
    await make_sleepers(lab, 50)
    await make_stale(lab, 50)
    lab.advance(hours=2)
    await make_pending(lab, 50)
    report = await lab.sweep(quick, sleeper, limit=9)
    assert report.claimed == {"stale": 3, "timers": 3, "pending": 3}


@pytest.mark.parametrize("flood", ["stale", "timers", "pending"])
async def test_flood_from_one_source_does_not_starve_the_others(lab: Lab, flood: str) -> None:
    """Even when each pass takes a single run: the first phase rotates."""
    sizes = {"stale": 3, "timers": 3, "pending": 3} | {flood: 60}
    await make_sleepers(lab, sizes["timers"])
    await make_stale(lab, sizes["stale"])
    lab.advance(hours=2)
    await make_pending(lab, sizes["pending"])
    runtime = lab.runtime(quick, sleeper)
    claimed: Counter[str] = Counter()
    for _ in range(9):
        claimed += (await runtime.sweep(limit=1)).claimed
    assert claimed == {"stale": 3, "timers": 3, "pending": 3}


async def test_share_that_nobody_needs_goes_to_the_others(lab: Lab) -> None:
    """A pass is not smaller because two sources are empty."""
    await make_pending(lab, 20)
    assert (await lab.sweep(quick, limit=9)).claimed["pending"] == 9


async def test_report_tells_when_there_will_be_work_again(lab: Lab) -> None:
    """The earliest of timers, leases and starts that lie ahead."""
    await make_sleepers(lab, 1)
    now_ms = lab.clock.now_ms()
    assert (await lab.sweep(quick, sleeper)).next_due_ms == now_ms + 3_600_000
    await lab.runtime(quick).start_run(quick, start_at=lab.clock.now() + timedelta(minutes=20))
    assert (await lab.sweep(quick, sleeper)).next_due_ms == now_ms + 1_200_000
    await make_stale(lab, 1)
    assert (await lab.sweep(quick, sleeper)).next_due_ms == now_ms + 30_000


async def test_report_of_a_run_that_was_paused_last_tells_its_timer(lab: Lab) -> None:
    """What the pass itself has put to sleep counts; a pass that its limit ended says that there may be more at once."""
    runtime = lab.runtime(sleeper)
    await runtime.start_run(sleeper)
    assert (await runtime.sweep()).next_due_ms == lab.clock.now_ms() + 3_600_000
    await runtime.start_run(sleeper)
    assert (await runtime.sweep(limit=1)).next_due_ms == lab.clock.now_ms()


async def test_deadline_hands_over_what_is_still_running(lab: Lab, gate: Gate) -> None:
    """The step that runs may end and is recorded; the next one is for another worker, at once."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        first = await ctx.step(gate.pass_through)
        return [first, await ctx.step(echo, lab.ran["by"])]

    runtime = lab.runtime(works)
    handle = await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime, deadline=timedelta(milliseconds=300)) as sweep:
        await gate.reached.wait()
        await lab.until(lambda: runtime._drivers["run"].stopping)
        assert not sweep.done()
        gate.opened.set()
    assert (await sweep).outcomes == {"released": 1}
    assert await lab.log("run") == ["step-completed pass_through"]
    assert await lab.status("run") is RunStatus.QUEUED
    await lab.sweep(works)
    assert await handle.result() == ["passed", 0]
    assert (await lab.load("run")).crashes == 0


async def test_deadline_pauses_what_only_waits(lab: Lab, gate: Gate) -> None:
    """A run with nothing left to do now needs no other worker: it is paused as ever."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        await ctx.step(gate.pass_through)
        await ctx.sleep(timedelta(hours=1))

    runtime = lab.runtime(works)
    await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime, deadline=timedelta(milliseconds=300)) as sweep:
        await gate.reached.wait()
        await lab.until(lambda: runtime._drivers["run"].stopping)
        gate.opened.set()
    assert (await sweep).outcomes == {"paused": 1}


async def test_deadline_that_has_passed_claims_nothing(lab: Lab) -> None:
    """Not even one."""
    await make_pending(lab, 1)
    assert (await lab.sweep(quick, deadline=timedelta(0))).total == 0


async def test_run_that_cannot_be_driven_does_not_stop_the_others(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """An unknown event, a payload that is no JSON, one that lacks a field: reported with table and key."""
    broken = {
        "unknown": Event(index=0, kind="from-the-future", step_id=None, payload=None, created_at_ms=0),
        "garbled": Event(index=0, kind="sleep-started", step_id="sleep", payload=JsonText("{"), created_at_ms=0),
        "lacking": Event(index=0, kind="step-failed", step_id="echo", payload=JsonText("{}"), created_at_ms=0),
        "list": Event(index=0, kind="sleep-started", step_id="sleep", payload=JsonText("[1]"), created_at_ms=0),
        "short": Event(index=5, kind="emitted", step_id="emit:x", payload=None, created_at_ms=0),
    }

    @workflow()
    async def both(ctx: Context, kind: str) -> Any:
        await (ctx.sleep(timedelta(hours=1)) if "sleep" in kind else ctx.step(echo, 1))
        return "done"

    runtime = lab.runtime(both)
    for name, event in broken.items():
        await runtime.start_run(both, str(event.step_id), run_id=name)
        lab.data.runs[name].events.append(event)
    healthy = await runtime.start_run(both, "step", run_id="healthy")
    with caplog.at_level(logging.CRITICAL, "workflow_runtime"):
        report = await runtime.sweep()
    assert await healthy.result() == "done"
    errors = {failure.run_id: failure.error for failure in report.failures}
    assert isinstance(errors["unknown"], CorruptRecordError)
    assert (errors["unknown"].table, errors["unknown"].key) == ("events", "unknown/0")
    assert await lab.status("unknown") is RunStatus.RUNNING, "a newer worker may know the event"
    assert {"garbled", "lacking", "list"} <= set(report.dead)
    for name in ("garbled", "lacking", "list"):
        run = await lab.load(name)
        assert run.status is RunStatus.DEAD
        assert f"corrupt row in events, key {name}/0" in (run.reason or "")


async def test_log_that_is_shorter_than_its_head_says_is_corrupt(lab: Lab) -> None:
    """The driver does not go on from half a history."""

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(echo, 1)

    async def cut(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "read_events":
            lab.data.runs["run"].events.clear()

    store = lab.tapped()
    store.before = cut
    runtime = lab.runtime(works, store=store)
    await runtime.start_run(works, run_id="run")
    event = Event(
        index=0, kind="step-completed", step_id="echo", payload=JsonText('"' + "x" * 999_999 + '"'), created_at_ms=0
    )
    lab.data.runs["run"].events.extend([event, event])
    report = await runtime.sweep()
    assert [str(failure.error) for failure in report.failures] == [
        "corrupt row in events, key run: the log ends at 1, the head says 2"
    ]


async def test_claims_are_driven_although_a_later_phase_fails(lab: Lab) -> None:
    """What was claimed is leased: left alone it would wait for its lease to run out, and count as a crash."""
    await make_stale(lab, 2)
    lab.advance(minutes=1)
    await make_pending(lab, 2)

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "claim_pending_runs":
            raise StoreUnavailableError("gone in the middle")

    store = lab.tapped()
    store.before = fail
    runtime = lab.runtime(quick, store=store)
    with pytest.raises(StoreUnavailableError):
        await runtime.sweep()  # the second round has claimed nothing and says so
    assert [await lab.status(f"stale-{number}") for number in range(2)] == [RunStatus.FINISHED] * 2
    assert [await lab.status(f"pending-{number}") for number in range(2)] == [RunStatus.QUEUED] * 2


async def test_store_that_is_away_is_told_to_the_caller(lab: Lab) -> None:
    """A sweep that could claim nothing is no empty sweep."""

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        raise StoreUnavailableError("gone")

    store = lab.tapped()
    store.before = fail
    with pytest.raises(StoreUnavailableError):
        await lab.runtime(quick, store=store).sweep()


async def test_only_runs_of_the_own_queues_are_taken(lab: Lab) -> None:
    """All queues by default; with a choice, exactly those."""
    runtime = lab.runtime(quick)
    for queue in ("mail", "video", "default"):
        await runtime.start_run(quick, run_id=queue, queue=queue)
    assert (await lab.runtime(quick, queues=["mail", "print"]).sweep()).total == 1
    assert await lab.status("mail") is RunStatus.FINISHED
    assert (await lab.runtime(quick, queues=[]).sweep()).total == 0
    assert (await lab.runtime(quick).sweep()).total == 2


async def test_greater_priority_is_driven_first(lab: Lab) -> None:
    """Then the earlier start."""
    order = []

    @workflow()
    async def notes(ctx: Context, name: str) -> None:
        order.append(name)

    runtime = lab.runtime(notes)
    for name, priority in (("low", -5), ("first", 0), ("high", 7), ("second", 0)):
        await runtime.start_run(notes, name, priority=priority)
        lab.advance(milliseconds=1)
    await runtime.sweep(concurrency=1)
    assert order == ["high", "first", "second", "low"]


async def test_run_that_is_to_start_later_is_left_alone(lab: Lab) -> None:
    """Until the moment has come."""
    runtime = lab.runtime(quick)
    handle = await runtime.start_run(quick, start_at=lab.clock.now() + timedelta(days=3))
    assert (await runtime.sweep()).total == 0
    lab.advance(days=3)
    assert (await runtime.sweep()).total == 1
    assert await handle.result() == "done"


async def test_many_sweeps_at_once_share_the_work(lab: Lab) -> None:
    """No run is driven twice, none is forgotten."""

    @workflow()
    async def counts(ctx: Context, name: str) -> None:
        await ctx.step(lab.ran.update, [name])
        await ctx.sleep(timedelta(minutes=1))
        await ctx.step(lab.ran.update, [name])

    starter = lab.runtime(counts)
    for number in range(40):
        await starter.start_run(counts, f"run-{number}", run_id=f"run-{number}")
    for _ in range(2):
        reports = await asyncio.gather(*(lab.runtime(counts).sweep(concurrency=3) for _ in range(6)))
        assert sum(report.total for report in reports) == 40
        lab.advance(minutes=1)
    assert set(lab.ran.values()) == {2}
    assert len(lab.ran) == 40
