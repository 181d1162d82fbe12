"""Schedules end to end: firing, overlap, missed ticks, what an application says to them, crashes in between."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from workflow_runtime import (
    CapabilityNotSupportedError,
    ConfigurationError,
    Context,
    CorruptRecordError,
    Cron,
    Every,
    InvalidArgumentError,
    RunNotFoundError,
    RunStatus,
    Schedule,
    ScheduleConflictError,
    ScheduleNotFoundError,
    StoreNotOpenError,
    StoreUnavailableError,
    TestClock,
    UnknownWorkflowError,
    WorkflowRuntime,
    store_retry,
    workflow,
)
from workflow_runtime.clock import from_ms
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import OverlapPolicy
from workflow_runtime.testing import run_to_completion, run_until_blocked

if TYPE_CHECKING:
    from conftest import Gate, Lab, TappedStore

HOUR = timedelta(hours=1)
HOURLY = Every(HOUR)
START = datetime(2030, 1, 1, tzinfo=UTC)


@workflow()
async def quick(ctx: Context, input: Any) -> Any:
    return input


@workflow()
async def waits(ctx: Context, _: Any) -> None:
    await ctx.wait_for_event("go")


def schedule(id: str = "s", workflow: Any = quick, when: Cron | Every = HOURLY, **options: Any) -> Schedule:
    return Schedule(id=id, workflow=workflow, when=when, **options)


def run_id(hours: float, id: str = "s") -> str:
    moment = START + timedelta(hours=hours)
    return f"{id}@{moment:%Y-%m-%dT%H:%M:%SZ}"


async def with_schedule(lab: Lab, *schedules: Schedule, **options: Any) -> WorkflowRuntime:
    """Bring schedules into the store at a time at which none of them is due, and give a worker for them."""
    lab.clock.advance_to_ms(int(START.timestamp() * 1000) + 1)
    runtime = lab.runtime(quick, waits, schedules=schedules, **options)
    await runtime.materialize_schedules()
    return runtime


def runs(lab: Lab) -> dict[str, str]:
    return {run.run_id: str(run.status) for run in lab.data.runs.values()}


def at_hour(lab: Lab, hours: float) -> None:
    """Move the clock to so many hours after the start."""
    lab.clock.advance_to_ms(int((START + timedelta(hours=hours)).timestamp() * 1000))


# Firing.


async def test_a_sweep_starts_the_run_of_a_tick_and_drives_it(lab: Lab) -> None:
    """In one go; nothing happens before the tick or twice; the report tells, and says when the next one comes."""
    runtime = await with_schedule(lab, schedule(input={"a": 1}))
    report = await runtime.sweep()
    assert (report.ticks, report.total, report.next_due_ms) == (Counter(), 0, START.timestamp() * 1000 + 3_600_000)
    at_hour(lab, 1)
    report = await runtime.sweep()
    assert (report.ticks, report.outcomes) == ({"started": 1}, {"finished": 1})
    assert report.next_due_ms == (START + 2 * HOUR).timestamp() * 1000
    assert await runtime.attach(run_id(1)).result() == {"a": 1}
    assert (await runtime.sweep()).handled == 0
    assert runs(lab) == {run_id(1): "finished"}


async def test_a_tick_at_the_very_moment_of_the_creation_fires(lab: Lab) -> None:
    runtime = lab.runtime(quick, schedules=[schedule()])
    await runtime.materialize_schedules()
    await runtime.sweep()
    assert runs(lab) == {run_id(0): "finished"}


async def test_queue_priority_and_jitter_go_to_the_run(lab: Lab) -> None:
    """Jitter is a time before which the run is not claimable."""
    runtime = await with_schedule(lab, schedule(queue="slow", priority=7, jitter=timedelta(minutes=30)))
    at_hour(lab, 1)
    report = await runtime.sweep()
    run = await lab.load(run_id(1))
    assert (run.queue, run.priority, run.status) == ("slow", 7, RunStatus.QUEUED)
    assert run.due_at_ms is not None
    assert 0 < run.due_at_ms - lab.clock.now_ms() <= 30 * 60_000
    assert report.next_due_ms == run.due_at_ms


async def test_two_workers_start_each_tick_once(lab: Lab) -> None:
    """Whatever the policy: many workers, many ticks."""
    schedules = [schedule(f"s{n}", when=Every(timedelta(minutes=10)), overlap="allow") for n in range(5)]
    await with_schedule(lab, *schedules)
    workers = [lab.runtime(quick) for _ in range(4)]
    ticks: Counter[str] = Counter()
    for _ in range(12):
        lab.advance(minutes=10)
        for report in await asyncio.gather(*(worker.sweep() for worker in workers)):
            ticks += report.ticks
    assert ticks == {"started": 60}
    assert len(runs(lab)) == 60


async def test_unknown_workflow_is_reported_and_holds_nothing_up(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Once in the log, each time in the report; a worker that knows the workflow fires it later."""
    await with_schedule(lab, schedule("a", waits), schedule("b", quick))
    at_hour(lab, 1)
    stranger = lab.runtime(quick)
    with caplog.at_level(logging.WARNING):
        reports = [await stranger.sweep() for _ in range(3)]
    assert [report.unclaimable for report in reports] == [{"a"}] * 3
    assert reports[0].ticks == {"started": 1}
    assert sum("schedule 'a'" in record.getMessage() for record in caplog.records) == 1
    assert (await lab.sweep(waits)).ticks == {"started": 1}


async def test_undecidable_tick_is_reported_and_not_tried_in_circles(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged definition: the others fire, this one is left alone until its claim has run out, then mended."""
    runtime = await with_schedule(lab, schedule("bad"), schedule("good"))
    row = lab.data.schedules["bad"]
    object.__setattr__(row.value, "spec", JsonText('{"version":99}'))
    at_hour(lab, 1)
    with caplog.at_level(logging.ERROR):
        report = await runtime.sweep()
    assert report.ticks == {"started": 1, "failed": 1}
    [failure] = report.tick_failures
    assert (failure.schedule_id, from_ms(failure.fire_at_ms)) == ("bad", START + HOUR)
    assert isinstance(failure.error, CorruptRecordError)
    assert "newer workflow-runtime" in caplog.text
    assert (await runtime.sweep()).handled == 0
    lab.advance(seconds=30)
    assert (await runtime.sweep()).ticks == {"failed": 1}
    with pytest.raises(CorruptRecordError):
        await runtime.schedules.resume((await runtime.schedules.pause("bad")).id)
    assert await runtime.materialize_schedules() == {"bad": "updated"}


async def test_a_corrupt_row_that_stops_the_claim_of_ticks_stops_no_run(lab: Lab) -> None:
    store = lab.tapped()

    async def break_claims(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "claim_due_schedule_buckets":
            raise CorruptRecordError("workflow_schedules", "s", "no JSON")

    store.before = break_claims
    runtime = lab.runtime(quick, store=store)
    await runtime.start_run(quick)
    report = await runtime.sweep()
    assert report.outcomes == {"finished": 1}
    assert {error.key for error in report.corrupt} == {"s"}


async def test_the_end_of_a_schedule(lab: Lab) -> None:
    """After its last tick it is over, and stays to be looked at."""
    runtime = await with_schedule(lab, schedule(ends_at=START + 3 * HOUR))
    for hour in range(1, 6):
        at_hour(lab, hour)
        await runtime.sweep()
    assert set(runs(lab)) == {run_id(1), run_id(2)}
    assert (await runtime.schedules.get("s")).next_fire_at is None


async def test_a_night_on_which_the_clocks_go_back(lab: Lab) -> None:
    """Fixed times once, every half hour on through the repeated hour; driven by the clock of the test."""
    clock = TestClock(datetime(2030, 10, 26, 22, 45, tzinfo=UTC))
    lab.clock = clock
    runtime = lab.runtime(
        quick,
        schedules=[
            schedule("fixed", when=Cron("30 2 * * *", "Europe/Warsaw")),
            schedule("often", when=Cron("*/30 * * * *", "Europe/Warsaw")),
        ],
    )
    await runtime.materialize_schedules()
    end_ms = int(datetime(2030, 10, 27, 2, 15, tzinfo=UTC).timestamp() * 1000)
    while (due_ms := await run_until_blocked(runtime)) is not None and due_ms <= end_ms:
        clock.advance_to_ms(due_ms)
    fired = sorted(run_id for run_id in runs(lab) if run_id.startswith("fixed"))
    assert fired == ["fixed@2030-10-27T00:30:00Z"]
    assert sum(run_id.startswith("often") for run_id in runs(lab)) == 7
    zone = ZoneInfo("Europe/Warsaw")
    next_at = (await runtime.schedules.get("fixed")).next_fire_at
    assert next_at == datetime(2030, 10, 28, 2, 30, tzinfo=zone)


async def test_helpers_for_tests_fire_ticks(lab: Lab) -> None:
    """A run that waits for a tick's run is brought to its end by moving the clock to the tick."""
    runtime = await with_schedule(lab, schedule("ticker"))

    @workflow()
    async def follows(ctx: Context, _: Any) -> str:
        await ctx.sleep(timedelta(hours=5))
        return "done"

    other = lab.runtime(quick, follows)
    assert await run_to_completion(other, await other.start_run(follows), lab.clock) == "done"
    assert sum(run_id.startswith("ticker") for run_id in runs(lab)) == 5
    assert runtime.owner != other.owner


# Overlap.


async def test_skip_leaves_out_ticks_while_the_run_is_live(lab: Lab) -> None:
    runtime = await with_schedule(lab, schedule(workflow=waits))
    for hour in (1, 2, 3):
        at_hour(lab, hour)
        report = await runtime.sweep()
        assert report.ticks == ({"started": 1} if hour == 1 else {"skipped": 1})
    await runtime.deliver_signal(run_id(1), "go")
    await runtime.sweep()
    at_hour(lab, 4)
    await runtime.sweep()
    assert runs(lab) == {run_id(1): "finished", run_id(4): "paused"}


async def test_allow_starts_every_tick(lab: Lab) -> None:
    runtime = await with_schedule(lab, schedule(workflow=waits, overlap="allow"))
    for hour in (1, 2, 3):
        at_hour(lab, hour)
        assert (await runtime.sweep()).ticks == {"started": 1}
    assert set(runs(lab).values()) == {"paused"}
    assert len(runs(lab)) == 3


async def test_buffer_one_keeps_the_first_of_the_ticks_that_wait(lab: Lab) -> None:
    """It starts when the run before has ended, however late; the others are gone."""
    runtime = await with_schedule(lab, schedule(workflow=waits, overlap="buffer-one"))
    outcomes = []
    for hour in (1, 2, 3):
        at_hour(lab, hour)
        outcomes.append(dict((await runtime.sweep()).ticks))
    assert outcomes == [{"started": 1}, {"buffered": 1}, {"skipped": 1}]
    assert (await runtime.schedules.get("s")).buffered_fire_at == START + 2 * HOUR
    at_hour(lab, 3.5)
    await runtime.deliver_signal(run_id(1), "go")
    await runtime.sweep()
    assert runs(lab) == {run_id(1): "finished", run_id(2): "paused"}


@pytest.mark.parametrize("policy", ["buffer-one", "cancel-previous", "terminate-previous"])
async def test_no_tick_overtakes_the_one_that_waits(lab: Lab, policy: OverlapPolicy) -> None:
    """The run ends between a later tick's claim and its start: the one that waits goes first, or never."""
    store = lab.tapped()
    await with_schedule(lab, schedule(workflow=waits, overlap="buffer-one"))
    runtime = lab.runtime(quick, waits, store=store, schedules=[schedule(workflow=waits, overlap=policy)])
    for hour in (1, 2):
        at_hour(lab, hour)
        await runtime.sweep()
    await runtime.materialize_schedules()

    async def end_in_time(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "mark_schedule_bucket_started" and arguments.get("run_id") == run_id(3):
            await lab.store().terminate_run(run_id=run_id(1), now_ms=lab.clock.now_ms())

    untouched, store.before = store.before, end_in_time
    at_hour(lab, 3)
    await runtime.sweep()
    await run_until_blocked(runtime)
    store.before = untouched
    expected = {run_id(1): "aborted", run_id(2 if policy == "buffer-one" else 3): "paused"}
    assert runs(lab) == expected
    await runtime.terminate_run(list(expected)[1])
    assert await run_until_blocked(runtime) == (START + 4 * HOUR).timestamp() * 1000
    assert len(runs(lab)) == 2, "a tick started after a later one"


async def test_a_tick_that_was_put_back_is_not_left_out_when_it_finds_a_run(lab: Lab) -> None:
    """A backfill's own policy put it back; the schedule's would skip it, but it is in time."""
    store = lab.tapped()
    await with_schedule(lab, schedule(workflow=waits, overlap="skip"))
    runtime = lab.runtime(quick, waits, store=store)
    await runtime.schedules.backfill("s", START - 2 * HOUR, START, overlap="buffer-one")
    await run_until_blocked(runtime)
    await runtime.deliver_signal(run_id(-2), "go")
    await runtime.sweep(limit=0)
    [claim] = (await lab.store().claim_pending_runs(owner="w", lease_ms=1, now_ms=lab.clock.now_ms(), limit=9)).claims
    token = claim.lease.token
    await lab.store().heartbeat_run_lease(run_id=claim.run.run_id, lease_token=token, lease_ms=1, now_ms=0)
    lab.advance(seconds=1)
    dead = await lab.store().claim_stale_runs(owner="w", lease_ms=1, now_ms=lab.clock.now_ms(), limit=9, max_crashes=1)
    assert dead.dead == (claim.run.run_id,)

    async def requeue_in_time(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "mark_schedule_bucket_started" and arguments["action"] == "start":
            await lab.store().requeue_run(run_id=run_id(-2), now_ms=lab.clock.now_ms())

    store.before = requeue_in_time
    assert (await runtime.sweep()).ticks["skipped"] == 0
    await run_until_blocked(runtime)
    assert runs(lab) == {run_id(-2): "finished", run_id(-1): "paused"}


async def test_cancel_previous_starts_when_the_run_before_has_cleaned_up(lab: Lab) -> None:
    """The handler hears of it, and its cleaning up is waited for."""
    cleaned: list[str] = []

    @workflow()
    async def cleans(ctx: Context, _: Any) -> None:
        try:
            await ctx.wait_for_event("go")
        finally:
            await ctx.sleep(timedelta(minutes=5))
            cleaned.append(ctx.run_id)

    at_hour(lab, 0.5)
    runtime = lab.runtime(cleans, schedules=[schedule(workflow=cleans, overlap="cancel-previous")])
    await runtime.materialize_schedules()
    at_hour(lab, 1)
    await run_until_blocked(runtime)
    at_hour(lab, 2)
    await run_until_blocked(runtime)
    assert runs(lab) == {run_id(1): "paused"}
    assert (await lab.load(run_id(1))).cancel_requested
    lab.advance(minutes=5)
    await run_until_blocked(runtime)
    assert cleaned == [run_id(1)]
    assert runs(lab) == {run_id(1): "aborted", run_id(2): "paused"}


async def test_terminate_previous_ends_it_at_once(lab: Lab) -> None:
    runtime = await with_schedule(lab, schedule(workflow=waits, overlap="terminate-previous"))
    for hour in (1, 2):
        at_hour(lab, hour)
        assert (await runtime.sweep()).ticks == {"started": 1}
    assert runs(lab) == {run_id(1): "aborted", run_id(2): "paused"}
    assert (await lab.load(run_id(1))).reason == f"terminate-previous: {run_id(2)}"


async def test_a_tick_asked_for_twice_does_not_end_its_own_run(lab: Lab) -> None:
    """Due and part of a backfill: one run, which lives on."""
    for policy in ("cancel-previous", "terminate-previous", "skip", "buffer-one"):
        runtime = await with_schedule(lab, schedule(policy, waits, overlap=policy))
        at_hour(lab, 1)
        await runtime.sweep()
        assert (await runtime.schedules.backfill(policy, START + HOUR, START + 2 * HOUR)).requested == 1
        assert (await runtime.sweep()).ticks == {"started": 1}
        assert runs(lab) == {run_id(1, policy): "paused"}
        assert not (await lab.load(run_id(1, policy))).cancel_requested
        lab.data.runs.clear()
        lab.data.schedules.clear()
        lab.clock = TestClock()


async def test_a_backfill_of_what_has_run_ends_no_run(lab: Lab) -> None:
    """The tick's own run has ended, and the present one need not make way for it."""
    for policy in ("cancel-previous", "terminate-previous", "buffer-one"):
        runtime = await with_schedule(lab, schedule(policy, waits, overlap=policy))
        at_hour(lab, 1)
        await runtime.sweep()
        await runtime.deliver_signal(run_id(1, policy), "go")
        await runtime.sweep()
        at_hour(lab, 2)
        await runtime.sweep()
        await runtime.schedules.backfill(policy, START + HOUR, START + 2 * HOUR)
        assert (await runtime.sweep()).ticks == {"skipped": 1}
        assert runs(lab) == {run_id(1, policy): "finished", run_id(2, policy): "paused"}
        assert not (await lab.load(run_id(2, policy))).cancel_requested
        lab.data.runs.clear()
        lab.data.schedules.clear()
        lab.clock = TestClock()


async def test_cancel_previous_reaches_a_running_step_of_this_process(lab: Lab, gate: Gate) -> None:
    """A worker without room for more fires all the same: what it drives is what must end."""

    @workflow()
    async def busy(ctx: Context, _: Any) -> None:
        await ctx.step(gate.pass_through)

    at_hour(lab, 0.5)
    runtime = lab.runtime(busy, schedules=[schedule(workflow=busy, overlap="cancel-previous")])
    await runtime.materialize_schedules()
    async with lab.working(runtime, concurrency=1, poll_interval=timedelta(minutes=1)):
        at_hour(lab, 1)
        await asyncio.wait_for(gate.reached.wait(), 5)
        gate.reached.clear()
        at_hour(lab, 2)
        await asyncio.wait_for(gate.reached.wait(), 5)
        assert runs(lab) == {run_id(1): "aborted", run_id(2): "running"}
        gate.opened.set()
        await lab.until(lambda: runs(lab)[run_id(2)] == "finished")


# Missed ticks.


@pytest.mark.parametrize(
    ("options", "started"),
    [
        ({}, [6]),
        ({"missed": "one"}, [1, 6]),
        ({"missed": "all"}, [1, 2, 3, 4, 5, 6]),
        ({"missed": "all", "missed_limit": 2}, [4, 5, 6]),
        ({"grace": timedelta(hours=1)}, [5, 6]),
    ],
)
async def test_ticks_that_nobody_fired(lab: Lab, options: dict[str, Any], started: list[int]) -> None:
    """No worker for five and a half hours, then one sweep at the sixth."""
    await with_schedule(lab, schedule(**options))
    at_hour(lab, 6)
    report = await lab.sweep(quick)
    assert sorted(runs(lab)) == [run_id(hour) for hour in started]
    assert report.ticks["started"] == len(started)
    assert report.next_due_ms == (START + 7 * HOUR).timestamp() * 1000


async def test_each_missed_run_has_its_turn_before_the_next(lab: Lab) -> None:
    """Under `skip` too: in a sweep the run of one tick is driven before the next tick is fired."""
    await with_schedule(lab, schedule(missed="all", overlap="skip"))
    at_hour(lab, 5.5)
    report = await lab.sweep(quick)
    assert (report.ticks, set(runs(lab).values())) == ({"started": 5}, {"finished"})


async def test_limit_bounds_the_ticks_of_a_sweep(lab: Lab) -> None:
    """What is left is announced as due now."""
    await with_schedule(lab, schedule(missed="all", overlap="allow"))
    at_hour(lab, 20.5)
    runtime = lab.runtime(quick)
    assert (await runtime.sweep(limit=0)).handled == 0
    report = await runtime.sweep(limit=8)
    assert (report.ticks, report.next_due_ms) == ({"started": 8}, lab.clock.now_ms())
    assert (await runtime.sweep(limit=100)).ticks == {"started": 12}
    await runtime.schedules.create(schedule("one-by-one", when=Every(timedelta(minutes=7)), missed="all"))
    at_hour(lab, 40.5)
    assert (await runtime.sweep(limit=7)).ticks.total() == 7


async def test_ticks_whose_runs_go_elsewhere_are_fired_to_the_last(lab: Lab) -> None:
    """A pass, a turn of a worker and the helper for tests end when no tick is left, not when no run is claimed."""
    runtime = await with_schedule(lab, schedule(queue="elsewhere", overlap="allow"), queues=["here"])
    await runtime.schedules.backfill("s", START - 150 * HOUR, START)
    await run_until_blocked(runtime)
    assert len(runs(lab)) == 150
    await runtime.schedules.backfill("s", START - 400 * HOUR, START - 150 * HOUR)
    async with lab.working(runtime, poll_interval=24 * HOUR):
        await lab.until(lambda: len(runs(lab)) == 400, seconds=20)


# What an application says to them.


async def test_declared_schedules_that_are_not_in_the_store_are_reported(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """Missing, or another definition; once in the log, in each report, until this program brings them in."""
    await with_schedule(lab, schedule("same"), schedule("old", when=Every(2 * HOUR)), schedule("paused", paused=True))
    await lab.runtime(quick).schedules.pause("same")
    declared = [schedule("same"), schedule("old"), schedule("new"), schedule("paused")]
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store, schedules=declared)
    with caplog.at_level(logging.WARNING):
        reports = [await runtime.sweep() for _ in range(2)]
        async with lab.working(runtime):
            await lab.until(lambda: store.calls.count("claim_pending_runs") > 2)
    assert [report.not_materialized for report in reports] == [{"old": "differs", "new": "missing"}] * 2
    told = [record.getMessage() for record in caplog.records if "materialize_schedules()" in record.getMessage()]
    assert len(told) == 2
    assert "'new' is declared, but not in the store" in told[1]
    assert store.calls.count("get_schedule") == len(declared), "looked for more than once"
    await runtime.schedules.create(schedule("new"))
    assert (await runtime.sweep()).not_materialized == {"old": "differs"}
    await runtime.materialize_schedules()
    assert (await runtime.sweep()).not_materialized == {}


async def test_nobody_looks_who_has_brought_the_schedules_in_or_declares_none(lab: Lab) -> None:
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store, schedules=[schedule()])
    await runtime.materialize_schedules()
    store.calls.clear()
    assert (await runtime.sweep()).not_materialized == {}
    assert (await lab.runtime(quick, store=store).sweep()).not_materialized == {}
    assert "get_schedule" not in store.calls


async def test_a_declared_schedule_that_cannot_be_written_ends_no_sweep(lab: Lab) -> None:
    """Its input is what no codec carries: said, and the runs go on."""
    runtime = lab.runtime(quick, schedules=[schedule("bad", input={1, 2}), schedule("new")])
    await runtime.start_run(quick)
    report = await runtime.sweep()
    assert report.not_materialized == {"bad": "unwritable", "new": "missing"}
    assert report.outcomes == {"finished": 1}


async def test_a_store_that_is_away_is_looked_into_the_next_time(lab: Lab) -> None:
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store, schedules=[schedule()])
    untouched = store.before

    async def be_away(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "get_schedule":
            raise StoreUnavailableError("away")

    store.before = be_away
    assert (await runtime.sweep()).not_materialized == {}
    store.before = untouched
    assert (await runtime.sweep()).not_materialized == {"s": "missing"}


async def test_materializing_again_writes_nothing(lab: Lab) -> None:
    """It says what it did; what changed is changed, what an operator paused stays paused."""
    runtime = await with_schedule(lab, schedule("a"), schedule("b", paused=True))
    before = lab.picture()
    assert await runtime.materialize_schedules() == {}
    assert lab.picture() == before
    await runtime.schedules.pause("a")
    await runtime.schedules.resume("b")
    changed = lab.runtime(
        quick, waits, schedules=[schedule("a", input=1), schedule("b", paused=True), schedule("c", paused=True)]
    )
    assert await changed.materialize_schedules() == {"a": "updated", "c": "created"}
    paused = [(record.id, record.paused) async for record in changed.schedules.list()]
    assert paused == [("a", True), ("b", False), ("c", True)]


async def test_a_new_version_of_the_workflow_is_taken_over(lab: Lab) -> None:
    """And a tick that is due at the deployment fires, on the new version."""
    await with_schedule(lab, schedule())

    @workflow(id="quick", version="2")
    async def newer(ctx: Context, _: Any) -> str:
        return "newer"

    at_hour(lab, 1)
    runtime = lab.runtime(newer, schedules=[schedule(workflow=newer)])
    assert await runtime.materialize_schedules() == {"s": "updated"}
    await runtime.sweep()
    assert await runtime.attach(run_id(1)).result() == "newer"


async def test_a_change_of_the_timing_swallows_no_due_tick(lab: Lab) -> None:
    """The tick that is due by the old definition fires, then the new one holds; a missed one stays missed."""
    await with_schedule(lab, schedule("due"), schedule("late"))
    later = Every(2 * HOUR)
    at_hour(lab, 1)
    await lab.runtime(quick, schedules=[schedule("due", when=later)]).materialize_schedules()
    lab.advance(minutes=5)
    await lab.runtime(quick, schedules=[schedule("late", when=later)]).materialize_schedules()
    await lab.sweep(quick)
    assert set(runs(lab)) == {run_id(1, "due")}
    at_hour(lab, 3.5)
    await lab.sweep(quick)
    at_hour(lab, 4)
    await lab.sweep(quick)
    assert set(runs(lab)) == {run_id(1, "due"), run_id(4, "due"), run_id(4, "late")}


async def test_an_upsert_between_claim_and_settlement_wins(lab: Lab) -> None:
    """The tick is not started by the old definition, but by the new one."""
    await with_schedule(lab, schedule(input="old"))
    at_hour(lab, 1)
    store = lab.tapped()
    changer = lab.runtime(quick, schedules=[schedule(input="new")])

    async def change(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "claim_due_schedule_buckets":
            store.after = lambda verb, arguments: asyncio.sleep(0)
            await changer.materialize_schedules()

    store.after = change
    report = await lab.runtime(quick, store=store).sweep()
    assert report.ticks == {"changed": 1, "started": 1}
    assert await changer.attach(run_id(1)).result() == "new"


async def test_pause_and_resume(lab: Lab) -> None:
    """Ticks of the pause are not made up for, whatever the policy; on request a paused schedule fires."""
    runtime = await with_schedule(lab, schedule(missed="all"))
    assert (await runtime.schedules.pause("s")).paused
    at_hour(lab, 3.5)
    assert (await runtime.sweep()).handled == 0
    triggered = await runtime.schedules.trigger("s")
    await runtime.sweep()
    assert await triggered.status() == "finished"
    record = await runtime.schedules.resume("s")
    assert (record.paused, record.next_fire_at) == (False, START + 4 * HOUR)
    at_hour(lab, 4)
    await runtime.sweep()
    assert set(runs(lab)) == {triggered.run_id, run_id(4)}


async def test_pausing_twice_writes_once(lab: Lab) -> None:
    runtime = await with_schedule(lab, schedule())
    first = await runtime.schedules.pause("s")
    assert (await runtime.schedules.pause("s")).revision == first.revision == 2
    assert (await runtime.schedules.resume("s")).revision == 3


async def test_pause_repeats_when_somebody_changes_the_schedule(lab: Lab) -> None:
    """Neither change is lost; one that never gets through is an error that may be repeated."""
    await with_schedule(lab, schedule(input="old"))
    store = lab.tapped()
    numbers = iter(range(100))

    async def change(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "get_schedule" and store.calls.count(verb) <= changes:
            await lab.runtime(quick).schedules.create(schedule(input=next(numbers)))

    store.after = change
    changes = 3
    pauser = lab.runtime(quick, store=store)
    record = await pauser.schedules.pause("s")
    assert (record.paused, record.definition().input, record.revision) == (True, 2, 5)
    await lab.runtime(quick).schedules.resume("s")
    store.calls.clear()
    changes = 100
    with pytest.raises(ScheduleConflictError, match="'s' is being modified concurrently"):
        await pauser.schedules.pause("s")


async def test_trigger_gives_a_run_of_its_own_each_time(lab: Lab) -> None:
    """Twice at one moment, at the moment of a tick, and beside one: never the same run."""
    runtime = lab.runtime(quick, schedules=[schedule(overlap="allow")])
    await runtime.materialize_schedules()
    first = await runtime.schedules.trigger("s")
    second = await runtime.schedules.trigger("s")
    await runtime.sweep()
    third = await runtime.schedules.trigger("s")
    await runtime.sweep()
    assert len({first.run_id, second.run_id, third.run_id, run_id(0)}) == 4
    assert runs(lab) == dict.fromkeys((first.run_id, second.run_id, third.run_id, run_id(0)), "finished")


async def test_a_trigger_keeps_the_overlap_policy(lab: Lab) -> None:
    runtime = await with_schedule(lab, schedule(workflow=waits))
    await runtime.schedules.trigger("s")
    await runtime.sweep()
    second = await runtime.schedules.trigger("s")
    assert (await runtime.sweep()).ticks == {"skipped": 1}
    with pytest.raises(RunNotFoundError):
        await second.status()


async def test_backfill_fires_a_period(lab: Lab) -> None:
    """Its first moment and not its last, before the schedule was there too; what has run does not run again."""
    runtime = await with_schedule(lab, schedule())
    at_hour(lab, 3)
    await runtime.sweep()
    backfill = await runtime.schedules.backfill("s", START - 2 * HOUR, START + 2 * HOUR)
    assert backfill.requested == 4
    assert backfill.ticks == tuple(START + hour * HOUR for hour in (-2, -1, 0, 1))
    assert (await runtime.schedules.backfill("s", START - 2 * HOUR, START)).requested == 0
    report = await runtime.sweep()
    assert report.ticks == {"started": 4}
    assert set(runs(lab)) == {run_id(hour) for hour in (-2, -1, 0, 1, 3)}
    assert (await runtime.schedules.backfill("s", START + 3 * HOUR, START + 4 * HOUR)).requested == 1
    await runtime.sweep()
    assert len(runs(lab)) == 5


async def test_a_backfill_says_what_has_become_of_its_ticks(lab: Lab) -> None:
    """Waiting, buffered, started with the run's id, or left out; to whoever asks, also from another process."""
    runtime = await with_schedule(lab, schedule(workflow=waits, overlap="buffer-one"))
    begin, end = START - 4 * HOUR, START
    backfill = await runtime.schedules.backfill("s", begin, end)
    ticks = backfill.ticks
    assert (await backfill.status()).waiting == ticks
    await runtime.sweep(limit=3)
    status = await lab.runtime(quick).schedules.backfill_status("s", begin, end)
    assert (status.waiting, status.buffered, status.started, status.left_out, status.settled) == (
        ticks[3:], ticks[1:2], {ticks[0]: run_id(-4)}, ticks[2:3], False
    )  # fmt: skip
    await runtime.deliver_signal(run_id(-4), "go")
    await run_until_blocked(runtime)
    status = await backfill.status()
    assert status.settled
    assert (status.started, status.left_out) == ({ticks[0]: run_id(-4), ticks[1]: run_id(-3)}, ticks[2:])
    await runtime.schedules.delete("s")
    with pytest.raises(ScheduleNotFoundError):
        await backfill.status()


async def test_the_status_of_a_large_backfill_is_read_in_pages(lab: Lab) -> None:
    runtime = await with_schedule(lab, schedule(when=Every(timedelta(seconds=1)), overlap="allow"))
    await runtime.start_run(quick, run_id="s@2029-strange")
    backfill = await runtime.schedules.backfill("s", START - timedelta(seconds=2_500), START)
    await runtime.sweep(limit=1_200)
    status = await backfill.status()
    assert len(status.waiting) + len(status.started) == 2_500
    assert (len(status.started), status.left_out, status.buffered) == (1_200, (), ())
    assert (await runtime.schedules.backfill_status("s", START, START)).settled


async def test_a_backfill_one_after_the_other_leaves_nothing_out(lab: Lab) -> None:
    """Each tick waits for its turn, in order; the schedule's own ticks and those fired by hand do not wait for them."""
    runtime = await with_schedule(lab, schedule(workflow=waits))
    backfill = await runtime.schedules.backfill("s", START - 3 * HOUR, START, overlap="buffer-all")
    started: list[str] = []
    for hour in (-3, -2, -1):
        await run_until_blocked(runtime)
        assert len(runs(lab)) == len(started) + 1
        assert runs(lab)[run_id(hour)] == "paused"
        started.append(run_id(hour))
        await runtime.deliver_signal(run_id(hour), "go")
    await run_until_blocked(runtime)
    status = await backfill.status()
    assert status.settled
    assert list(status.started.values()) == started
    await runtime.schedules.backfill("s", START - 6 * HOUR, START - 3 * HOUR, overlap="buffer-all")
    await run_until_blocked(runtime)
    at_hour(lab, 1)
    assert (await runtime.sweep()).ticks == {"skipped": 1}
    await runtime.schedules.trigger("s")
    assert (await runtime.sweep()).ticks == {"skipped": 1}


async def test_a_backfill_may_allow_what_the_schedule_does_not(lab: Lab) -> None:
    runtime = await with_schedule(lab, schedule(workflow=waits, overlap="skip"))
    backfill = await runtime.schedules.backfill("s", START - 3 * HOUR, START, overlap="allow")
    await run_until_blocked(runtime)
    assert list(runs(lab).values()) == ["paused"] * 3
    assert len((await backfill.status()).started) == 3
    with pytest.raises(InvalidArgumentError, match="overlap"):
        await runtime.schedules.backfill("s", START - 3 * HOUR, START, overlap="all")  # type: ignore[arg-type]


async def test_backfill_is_written_in_parts_and_bounded(lab: Lab) -> None:
    """No more than the store takes at once; a period of too many ticks is refused before anything is written."""
    store = lab.tapped()
    await with_schedule(lab, schedule(when=Every(timedelta(seconds=1))))
    runtime = lab.runtime(quick, store=store)
    assert (await runtime.schedules.backfill("s", START, START + timedelta(seconds=2_500))).requested == 2_500
    sizes = [len(a["fire_times_ms"]) for verb, a in store.arguments if verb == "request_schedule_buckets"]
    assert sizes == [1_000, 1_000, 500]
    store.calls.clear()
    with pytest.raises(InvalidArgumentError, match="more than 10000 ticks"):
        await runtime.schedules.backfill("s", START, START + timedelta(seconds=10_001))
    assert store.calls == ["get_schedule"]


async def test_delete(lab: Lab) -> None:
    """Nothing of it fires any more, its runs stay."""
    runtime = await with_schedule(lab, schedule())
    at_hour(lab, 1)
    await runtime.sweep()
    assert (await runtime.schedules.delete("s")).kind == "deleted"
    assert (await runtime.schedules.delete("s")).kind == "not-found"
    at_hour(lab, 5)
    assert (await runtime.sweep()).handled == 0
    assert set(runs(lab)) == {run_id(1)}
    assert [record async for record in runtime.schedules.list()] == []


async def test_unknown_schedule(lab: Lab) -> None:
    schedules = lab.runtime(quick).schedules
    for call in (
        schedules.get("x"),
        schedules.pause("x"),
        schedules.resume("x"),
        schedules.trigger("x"),
        schedules.backfill("x", START, START + HOUR),
        schedules.next_fire_times("x", 3),
    ):
        with pytest.raises(ScheduleNotFoundError):
            await call


async def test_listing_goes_through_all_pages(lab: Lab) -> None:
    runtime = await with_schedule(lab, *(schedule(f"s{n:03}") for n in range(205)))
    assert [record.id async for record in runtime.schedules.list()] == [f"s{n:03}" for n in range(205)]


async def test_definition_comes_back(lab: Lab) -> None:
    declared = schedule(
        when=Cron("0 2 * * *", "Europe/Warsaw"), input={"a": [1]}, overlap="buffer-one", missed="all", missed_limit=3,
        jitter=timedelta(seconds=5), starts_at=START, queue="q", priority=-1,
    )  # fmt: skip
    runtime = await with_schedule(lab, declared)
    read = (await runtime.schedules.get("s")).definition()
    assert read == Schedule(**{name: getattr(declared, name) for name in declared.__slots__} | {"workflow": "quick"})


async def test_next_fire_times_fire_nothing(lab: Lab) -> None:
    """Of a schedule in the store or only in the program; in UTC; paused or not."""
    runtime = await with_schedule(lab, schedule(paused=True))
    expected = [START + hours * HOUR for hours in (1, 2, 3)]
    before = lab.picture()
    assert await runtime.schedules.next_fire_times("s", 3) == expected
    assert await runtime.schedules.next_fire_times(schedule("other"), 3) == expected
    assert await runtime.schedules.next_fire_times("s", 1, after=START + 9 * HOUR) == [START + 10 * HOUR]
    assert await runtime.schedules.next_fire_times(schedule(ends_at=START + 2 * HOUR), 3) == expected[:1]
    assert lab.picture() == before
    with pytest.raises(InvalidArgumentError, match=r"^count: "):
        await runtime.schedules.next_fire_times("s", -1)


async def test_wrong_declarations_are_refused_when_the_program_starts(lab: Lab) -> None:
    with pytest.raises(ConfigurationError, match="declared twice"):
        lab.runtime(quick, schedules=[schedule(), schedule(input=1)])
    with pytest.raises(ConfigurationError, match="is no Schedule"):
        lab.runtime(quick, schedules=["0 0 * * *"])
    with pytest.raises(UnknownWorkflowError):
        lab.runtime(quick, schedules=[schedule(workflow=waits)])
    with pytest.raises(UnknownWorkflowError):
        await lab.runtime(quick).schedules.create(schedule(workflow="nobody"))


async def test_a_schedule_overtaken_by_a_clock_ahead_of_ours_goes_on(lab: Lab) -> None:
    """Its tick was fired by a worker ahead of us: taken over from us as the next one it would never fire again."""
    await with_schedule(lab, schedule(input="old"))
    at_hour(lab, 0.9999)
    store = lab.tapped()
    ahead = Lab_ahead(lab)

    async def fire_ahead(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "get_schedule":
            store.after = lambda verb, arguments: asyncio.sleep(0)
            await ahead.sweep()

    store.after = fire_ahead
    changer = lab.runtime(quick, store=store, schedules=[schedule(when=Every(HOUR / 2))])
    await changer.materialize_schedules()
    assert set(runs(lab)) == {run_id(1)}
    assert (await changer.schedules.get("s")).next_fire_at == START + 1.5 * HOUR
    at_hour(lab, 1.5)
    await changer.sweep()
    assert set(runs(lab)) == {run_id(1), run_id(1.5)}


def Lab_ahead(lab: Lab) -> WorkflowRuntime:  # noqa: N802
    clock = TestClock(START + HOUR)
    return WorkflowRuntime(store=lab.store(), workflows=[quick], clock=clock)


# Crashes and lost answers.


class CrashError(BaseException):
    """The process is gone."""


def crash_at(store: TappedStore, number: int, *, committed: bool) -> None:
    """Let the process die before a call is sent, or after it was committed."""
    counter = iter(range(1_000))

    async def tap(verb: str, arguments: dict[str, Any]) -> None:
        if next(counter) == number:
            raise CrashError

    if committed:
        store.after = tap
    else:
        store.before = tap


@pytest.mark.parametrize("policy", ["skip", "allow", "buffer-one", "cancel-previous", "terminate-previous"])
@pytest.mark.parametrize("committed", [False, True])
async def test_a_crash_between_any_two_calls_is_harmless(lab: Lab, policy: Any, committed: bool) -> None:
    """After each crash another worker goes on, and the end is that of a world without crashes."""
    new_lab = type(lab)

    async def live(number: int | None) -> tuple[dict[str, str], bool]:
        lab = new_lab()
        await with_schedule(lab, schedule(workflow=waits, overlap=policy, grace=timedelta(minutes=10)))
        at_hour(lab, 1)
        await run_until_blocked(lab.runtime(waits))
        at_hour(lab, 2)
        store = lab.tapped()
        if number is not None:
            crash_at(store, number, committed=committed)
        crashed = False
        try:
            await run_until_blocked(lab.runtime(waits, store=store))
        except (CrashError, BaseExceptionGroup):
            crashed = True
        lab.advance(seconds=31)
        await run_until_blocked(lab.runtime(waits))
        lab.advance(seconds=31)
        await run_until_blocked(lab.runtime(waits))
        return runs(lab), crashed

    calm, _ = await live(None)
    expected = {
        "skip": {run_id(1): "paused"},
        "allow": {run_id(1): "paused", run_id(2): "paused"},
        "buffer-one": {run_id(1): "paused"},
        "cancel-previous": {run_id(1): "aborted", run_id(2): "paused"},
        "terminate-previous": {run_id(1): "aborted", run_id(2): "paused"},
    }[policy]
    assert calm == expected
    points = 0
    while True:
        after, crashed = await live(points)
        assert after == expected
        if not crashed:
            break
        points += 1
    assert points >= 6


async def test_a_lost_answer_is_asked_for_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same operation id, so that it is not done twice; a store that stays away is reported."""
    monkeypatch.setattr(store_retry, "_RETRY_DELAYS_S", (0.0,) * 3)
    await with_schedule(lab, schedule(workflow=waits, overlap="terminate-previous"))
    verbs = ("mark_schedule_bucket_started", "terminate_run")
    store = lab.tapped()
    for hour in (1, 2):
        at_hour(lab, hour)
        lost: Counter[str] = Counter()

        async def lose(verb: str, arguments: dict[str, Any], lost: Counter[str] = lost) -> None:
            if verb in verbs and lost[verb] < 2:
                lost[verb] += 1
                raise StoreUnavailableError("the answer was lost")

        store.after = lose
        report = await lab.runtime(waits, store=store).sweep()
        assert report.ticks == {"started": 1}
    assert runs(lab) == {run_id(1): "aborted", run_id(2): "paused"}
    operations = [a["operation_id"] for verb, a in store.arguments if verb == verbs[0]]
    assert len(set(operations)) < len(operations)

    at_hour(lab, 3)

    async def away(verb: str, arguments: dict[str, Any]) -> None:
        if verb == verbs[0]:
            raise StoreUnavailableError("away")

    store.before, store.after = away, lambda verb, arguments: asyncio.sleep(0)
    report = await lab.runtime(waits, store=store).sweep()
    assert report.ticks == {"failed": 1}
    assert isinstance(report.tick_failures[0].error, StoreUnavailableError)
    lab.advance(seconds=31)
    assert (await lab.sweep(waits)).ticks == {"started": 1}


async def test_a_tick_taken_over_by_another_worker_is_left_to_it(lab: Lab) -> None:
    """The slow one writes nothing any more."""
    await with_schedule(lab, schedule())
    at_hour(lab, 1)
    store = lab.tapped()

    async def be_slow(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "claim_due_schedule_buckets":
            store.after = lambda verb, arguments: asyncio.sleep(0)
            lab.advance(seconds=31)
            claims = await lab.store().claim_due_schedule_buckets(
                owner="thief", lease_ms=60_000, now_ms=lab.clock.now_ms(), limit=1
            )
            assert len(claims.buckets) == 1

    store.after = be_slow
    assert (await lab.runtime(quick, store=store).sweep()).ticks == {"lost": 1}
    assert runs(lab) == {}


# A worker.


async def test_a_worker_sleeps_until_the_next_tick(lab: Lab) -> None:
    """It fires at the moment, with an hour between two polls, and hears of schedules that are created meanwhile."""
    runtime = await with_schedule(lab, schedule())
    async with lab.working(runtime, poll_interval=24 * HOUR):
        for hour in (1, 2):
            at_hour(lab, hour - 0.001)
            await asyncio.sleep(0.01)
            assert run_id(hour) not in runs(lab)
            at_hour(lab, hour)
            await lab.until(lambda hour=hour: runs(lab).get(run_id(hour)) == "finished")
        await asyncio.sleep(0.05)  # the worker has nothing to do now but to wait
        await runtime.schedules.create(schedule("new", when=Every(timedelta(minutes=10))))
        await asyncio.sleep(0.01)
        lab.advance(minutes=10)
        await lab.until(lambda: any(run_id.startswith("new") for run_id in runs(lab)))
        triggered = await runtime.schedules.trigger("s")
        await lab.until(lambda: runs(lab).get(triggered.run_id) == "finished")


async def test_a_worker_works_off_a_backfill(lab: Lab) -> None:
    runtime = await with_schedule(lab, schedule(overlap="allow"))
    await runtime.schedules.backfill("s", START - 300 * HOUR, START)
    async with lab.working(runtime, poll_interval=24 * HOUR):
        await lab.until(lambda: list(runs(lab).values()).count("finished") == 300, seconds=20)


# Stores that leave schedules out.


class Unwritten:
    """A store whose verbs of schedules are missing, or raise this error."""

    def __init__(self, store: Any, error: type[Exception] | None) -> None:
        self._store = store
        self._error = error

    def __getattr__(self, name: str) -> Any:
        if "schedule" not in name or name == "schedule_timer":
            return getattr(self._store, name)
        if self._error is None:
            raise AttributeError(name=name, obj=self)
        return self._raise

    async def _raise(self, **_: Any) -> Any:
        assert self._error is not None
        raise self._error


WAYS = pytest.mark.parametrize("error", [None, NotImplementedError], ids=["missing", "not implemented"])


@WAYS
async def test_runs_are_driven_on_a_store_without_schedules(
    lab: Lab, error: type[Exception] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """By a sweep and by a worker. The log says once that no tick fires."""
    store: Any = Unwritten(lab.store(), error)
    runtime = lab.runtime(quick, store=store)
    with caplog.at_level(logging.INFO):
        await runtime.start_run(quick, 1)
        assert (await runtime.sweep()).outcomes == {"finished": 1}
        handle = await runtime.start_run(quick, 2)
        async with lab.working(runtime):
            await lab.until(lambda: lab.data.runs[handle.run_id].status.is_terminal)
    told = [record for record in caplog.records if "no tick fires" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.INFO]


@WAYS
async def test_a_schedule_declared_for_a_store_without_them_is_reported(
    lab: Lab, error: type[Exception] | None, caplog: pytest.LogCaptureFixture
) -> None:
    store: Any = Unwritten(lab.store(), error)
    runtime = lab.runtime(quick, store=store, schedules=[schedule()])
    await runtime.start_run(quick)
    with caplog.at_level(logging.WARNING):
        report = await runtime.sweep()
    assert (report.not_materialized, report.outcomes) == ({"s": "unsupported"}, {"finished": 1})
    assert "this store has no schedules, so it never fires" in caplog.text
    calls = runtime.schedules
    for call in (
        runtime.materialize_schedules(),
        calls.create(schedule()),
        calls.get("s"),
        anext(calls.list()),
        calls.delete("s"),
        calls.pause("s"),
        calls.resume("s"),
        calls.trigger("s"),
        calls.backfill("s", START, START + HOUR),
        calls.backfill_status("s", START, START + HOUR),
        calls.next_fire_times("s", 1),
    ):
        with pytest.raises(CapabilityNotSupportedError, match="does not have the capability 'schedules'"):
            await call


async def test_ticks_fire_once_the_store_has_schedules(lab: Lab) -> None:
    """What a store once could not do ends nothing for good: it may be a proxy whose target was changed."""
    await with_schedule(lab, schedule())
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store)
    untouched = store.before

    async def refuse(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "claim_due_schedule_buckets":
            raise NotImplementedError

    store.before = refuse
    lab.advance(hours=1)
    assert (await runtime.sweep()).ticks.total() == 0
    store.before = untouched
    assert (await runtime.sweep()).ticks.total() == 1


async def test_a_mistake_in_a_wrapper_is_not_taken_for_a_store_without_schedules(lab: Lab) -> None:
    class Wrapper(Unwritten):
        def __getattr__(self, name: str) -> Any:
            return self._forgotten if name == "claim_due_schedule_buckets" else getattr(self._store, name)

        @property
        def _forgotten(self) -> Any:
            raise AttributeError("not set yet")

    store: Any = Wrapper(lab.store(), None)
    with pytest.raises(AttributeError):
        await lab.runtime(quick, store=store).sweep()


@pytest.mark.parametrize("error", [AttributeError("a mistake"), StoreNotOpenError("store", "verb"), KeyError("k")])
async def test_a_mistake_in_a_verb_of_schedules_is_not_taken_for_a_store_without_them(
    lab: Lab, error: Exception
) -> None:
    """Else its ticks would never fire, in silence."""
    store = lab.tapped()

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "claim_due_schedule_buckets":
            raise error

    store.before = fail
    with pytest.raises(type(error)):
        await lab.runtime(quick, store=store).sweep()
