"""Forks: a new run goes on from the first part of another run's log, and nothing recorded there is done again."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    NO_RETRY,
    Context,
    Cron,
    Every,
    InvalidArgumentError,
    RetryPolicy,
    RunStatus,
    Schedule,
    StepFailedError,
    WaitTimeoutError,
    WorkflowRuntime,
    decode_json,
    fixed_backoff,
    step_info,
    workflow,
)
from workflow_runtime.testing import run_until_blocked

if TYPE_CHECKING:
    from conftest import Lab

HOUR = timedelta(hours=1)


async def kinds(lab: Lab, run_id: str) -> list[str]:
    """Give the kinds of the events of a log."""
    return [event.kind for event in await lab.events(run_id)]


async def test_steps_of_the_part_are_not_done_again_and_the_rest_is(lab: Lab) -> None:
    """Wherever the log is cut: the new run does what the part does not hold, once, and gives the same result."""
    done: Counter[str] = Counter()

    async def act(name: str) -> str:
        done[f"{step_info().run_id}:{name}"] += 1
        return name.upper()

    @workflow()
    async def acts(ctx: Context, _: Any) -> list[str]:
        moment = await ctx.now()
        await ctx.emit("began")
        found = [await ctx.step(act, name) for name in ("a", "b", "c")]
        return [*found, moment.isoformat()]

    runtime = lab.runtime(acts)
    handle = await runtime.start_run(acts, run_id="run")
    await runtime.sweep()
    expected, log = await handle.result(), await kinds(lab, "run")
    for from_index in range(len(log) + 1):
        answer = await runtime.fork_run("run", from_index, f"fork-{from_index}")
        assert answer.kind == "forked"
        lab.advance(seconds=1)
        await runtime.sweep()
        forked = await lab.events(f"fork-{from_index}")
        payload = forked[from_index].payload
        assert payload is not None
        assert (forked[from_index].kind, decode_json(payload)) == (
            "run-forked",
            {"run_id": "run", "from_index": from_index},
        )
        assert [event.kind for event in forked if event.index != from_index][: len(log)] == log
        result = await runtime.attach(f"fork-{from_index}").result()
        assert result[:3] == expected[:3]
        assert (result == expected) == (from_index > 0), "a time that was recorded is recorded for good"
        steps = sum(kind == "step-completed" for kind in log[:from_index])
        assert sum(count for key, count in done.items() if key.startswith(f"fork-{from_index}:")) == 3 - steps
    assert set(done.values()) == {1}
    assert await kinds(lab, "run") == log


@pytest.mark.parametrize("crash", [False, True])
async def test_deadlines_of_waits_are_kept_by_the_fork(lab: Lab, crash: bool) -> None:
    """The store does not hold their timers at first; they fire when they would have fired, also after a crash."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> list[str]:
        async def nap() -> str:
            await ctx.sleep(2 * HOUR)
            return "slept"

        async def wait() -> str:
            try:
                return str(await ctx.wait_for_event("go", timeout=HOUR))
            except WaitTimeoutError:
                return "timed out"

        return list(await asyncio.gather(nap(), wait()))

    runtime = lab.runtime(waits)
    await runtime.start_run(waits, run_id="run")
    await runtime.sweep()
    lab.advance(minutes=30)
    await runtime.fork_run("run", 2, "fork")
    if crash:
        assert await lab.claim("fork")
        lab.advance(seconds=40)
    assert (await runtime.sweep()).outcomes == {"paused": 1}
    timers = await lab.timers("fork")
    assert timers == await lab.timers("run")
    lab.advance(minutes=30)
    await runtime.sweep()
    assert [timer.timer_id for timer in await lab.timers("fork")] == ["sleep"]
    lab.advance(hours=1)
    await runtime.sweep()
    assert await runtime.attach("fork").result() == ["slept", "timed out"]
    assert await runtime.attach("run").result() == ["slept", "timed out"]


async def test_no_timer_is_left_behind_that_wakes_the_fork_for_nothing(lab: Lab) -> None:
    """A timer that was set by the first drive is removed by a later one, which cannot know of it from the log."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> None:
        await ctx.wait_for_event("go", timeout=HOUR)
        await ctx.wait_for_event("never")

    runtime = lab.runtime(waits)
    await runtime.start_run(waits, run_id="run")
    await runtime.sweep()
    await runtime.fork_run("run", 1, "fork")
    await runtime.sweep()
    await runtime.deliver_signal("fork", "go")
    await runtime.sweep()
    assert await lab.timers("fork") == ()
    lab.advance(hours=2)
    assert (await runtime.sweep()).outcomes == {"errored": 1}  # the other run, whose wait has timed out
    assert (await runtime.sweep()).total == 0


async def test_a_step_between_two_attempts_goes_on_with_the_next(lab: Lab) -> None:
    """The pause before it is kept; attempts that the part holds count."""
    attempts: list[tuple[str, int]] = []

    async def fails() -> None:
        attempts.append((step_info().run_id, step_info().attempt))
        raise ValueError("no")

    @workflow(retry=RetryPolicy(max_attempts=3, backoff=fixed_backoff(HOUR)))
    async def tries(ctx: Context, _: Any) -> str:
        try:
            await ctx.step(fails)
        except StepFailedError as error:
            return error.error_type
        return "never"

    runtime = lab.runtime(tries)
    await runtime.start_run(tries, run_id="run")
    await runtime.sweep()
    assert await kinds(lab, "run") == ["step-retrying"]
    await runtime.fork_run("run", 1, "fork")
    await run_until_blocked(runtime)
    assert attempts == [("run", 1)]
    for _ in range(3):
        lab.advance(hours=1)
        await run_until_blocked(runtime)
    assert [attempt for run_id, attempt in attempts if run_id == "fork"] == [2, 3]
    assert await runtime.attach("fork").result() == "ValueError"


async def test_what_was_taken_is_history_and_what_was_not_stays(lab: Lab) -> None:
    """The fork has its own inbox: neither the other's signals nor their ids."""

    @workflow()
    async def collects(ctx: Context, _: Any) -> list[Any]:
        first = await ctx.wait_for_event("item")
        approval = await ctx.approve("boss")
        return [first, approval.approved, await ctx.wait_for_event("item")]

    runtime = lab.runtime(collects)
    await runtime.start_run(collects, run_id="run")
    await runtime.deliver_signal("run", "item", 1, signal_id="one")
    await runtime.deliver_approval("run", "boss", approved=True)
    await runtime.sweep()
    await runtime.deliver_signal("run", "item", 2, signal_id="two")
    index = (await kinds(lab, "run")).index("approval-received") + 1
    await runtime.fork_run("run", index, "fork")
    await runtime.sweep()
    assert await runtime.attach("run").result() == [1, True, 2]
    assert await lab.status("fork") is RunStatus.PAUSED
    assert (await runtime.deliver_signal("fork", "item", 3, signal_id="two")).kind == "delivered"
    await runtime.sweep()
    assert await runtime.attach("fork").result() == [1, True, 3]


async def test_a_run_that_is_at_work_is_forked_from_what_it_has_written(lab: Lab) -> None:
    reached, opened = asyncio.Event(), asyncio.Event()

    async def first() -> int:
        return 1

    async def second() -> int:
        reached.set()
        await opened.wait()
        return 2

    @workflow()
    async def works(ctx: Context, _: Any) -> list[int]:
        return [await ctx.step(first), await ctx.step(second)]

    runtime = lab.runtime(works)
    handle = await runtime.start_run(works, run_id="run")
    async with lab.working(runtime, poll_interval=timedelta(minutes=1)):
        await asyncio.wait_for(reached.wait(), 5)
        assert (await runtime.fork_run("run", 2, "fork")).kind == "not-forkable"
        assert (await runtime.fork_run("run", 1, "fork")).kind == "forked"
        opened.set()
        assert await runtime.attach("fork").result() == [1, 2]  # a worker of this process is told of it
        assert await handle.result() == [1, 2]


async def test_an_errored_run_goes_on_in_a_fork_before_its_failure(lab: Lab) -> None:
    """What had been paid stays paid; the mended step is tried with all its attempts."""
    paid: list[str] = []
    broken = True

    async def pay() -> None:
        paid.append(step_info().run_id)

    async def ship() -> str:
        if broken:
            raise KeyError("typo")
        return "shipped"

    @workflow(retry=NO_RETRY)
    async def order(ctx: Context, _: Any) -> str:
        await ctx.step(pay)
        return str(await ctx.step(ship))

    runtime = lab.runtime(order)
    await runtime.start_run(order, run_id="run")
    await runtime.sweep()
    assert await kinds(lab, "run") == ["step-completed", "step-failed", "run-errored"]
    broken = False
    await runtime.fork_run("run", 1, "fork")
    await runtime.sweep()
    assert await runtime.attach("fork").result() == "shipped"
    assert (paid, await lab.status("run")) == (["run"], RunStatus.ERRORED)


async def test_the_whole_log_of_an_errored_run_goes_on_as_by_a_retry(lab: Lab) -> None:
    """On a copy: what had failed gets fresh attempts, and the original stays errored; also when it is forked again."""
    broken, paid = True, 0

    async def pay() -> None:
        nonlocal paid
        paid += 1

    async def ship() -> str:
        if broken:
            raise KeyError("typo")
        return "shipped"

    @workflow(retry=NO_RETRY)
    async def order(ctx: Context, _: Any) -> str:
        await ctx.step(pay)
        return str(await ctx.step(ship))

    runtime = lab.runtime(order)
    await runtime.start_run(order, run_id="run")
    await runtime.sweep()
    await runtime.fork_run("run", 2, "failed")
    await runtime.fork_run("run", 3, "whole")
    await runtime.sweep()
    assert {await lab.status("failed"), await lab.status("whole")} == {RunStatus.ERRORED}
    broken = False
    length = len(await kinds(lab, "whole"))
    await runtime.fork_run("whole", length, "again")
    assert (await runtime.retry_run("whole")).kind == "retried"
    await runtime.sweep()
    for run_id in ("whole", "again"):
        assert await runtime.attach(run_id).result() == "shipped"
    assert (paid, await lab.status("run")) == (1, RunStatus.ERRORED)


async def test_a_finished_run_is_forked_whole(lab: Lab) -> None:
    """The end is replayed as it was."""

    @workflow()
    async def ends(ctx: Context, n: int) -> int:
        return n + round((await ctx.random()) * 1e9)

    runtime = lab.runtime(ends)
    await runtime.start_run(ends, 1, run_id="run")
    await runtime.sweep()
    assert (await runtime.fork_run("run", 2, "fork")).kind == "forked"
    await runtime.sweep()
    assert await runtime.attach("fork").result() == await runtime.attach("run").result()


async def test_a_part_with_a_request_to_end_ends(lab: Lab) -> None:
    """One that is cut before it does not."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> None:
        await ctx.wait_for_event("go")

    runtime = lab.runtime(waits)
    await runtime.start_run(waits, run_id="run")
    await runtime.sweep()
    await runtime.cancel_run("run")
    await runtime.sweep()
    assert await kinds(lab, "run") == ["wait-started", "cancel-requested", "run-aborted"]
    for from_index, status in ((1, RunStatus.PAUSED), (2, RunStatus.ABORTED), (3, RunStatus.PAUSED)):
        await runtime.fork_run("run", from_index, f"fork-{from_index}")
        await runtime.sweep()
        assert await lab.status(f"fork-{from_index}") is status
    assert (await runtime.cancel_run("fork-1")).kind == "requested"
    await runtime.sweep()
    assert await lab.status("fork-1") is RunStatus.ABORTED


async def test_another_version_goes_on_from_the_old_ones_log(lab: Lab) -> None:
    """Where the new code fits to the part; the old run stays on its version."""

    @workflow(id="flow", version="1")
    async def old(ctx: Context, _: Any) -> str:
        await ctx.emit("began")
        return "old"

    @workflow(id="flow", version="2", previous_versions=[old])
    async def new(ctx: Context, _: Any) -> str:
        await ctx.emit("began")
        return "new"

    await lab.runtime(old).start_run(old, run_id="run")
    runtime = lab.runtime(new)
    await runtime.sweep()
    await runtime.fork_run("run", 1, "same")
    await runtime.fork_run("run", 1, "other", version="2")
    await runtime.sweep()
    assert [await runtime.attach(run_id).result() for run_id in ("run", "same", "other")] == ["old", "old", "new"]


async def test_forking_twice_is_safe_and_says_what_differs(lab: Lab) -> None:
    """After a lost answer the same call finds its run; a random id is a run of its own each time."""

    @workflow()
    async def quick(ctx: Context, _: Any) -> None:
        await ctx.emit("began")

    runtime = lab.runtime(quick)
    await runtime.start_run(quick, run_id="run")
    await runtime.sweep()
    assert (await runtime.fork_run("run", 1, "fork")).kind == "forked"
    again = await runtime.fork_run("run", 1, "fork")
    assert (again.kind, again.differs) == ("existing", ())  # type: ignore[union-attr]
    other = await runtime.fork_run("run", 0, "fork", version="9")
    assert (other.kind, other.differs) == ("existing", ("from_index", "workflow_version"))  # type: ignore[union-attr]
    assert (await runtime.fork_run("nobody", 0)).kind == "not-found"
    first, second = await runtime.fork_run("run", 1), await runtime.fork_run("run", 1)
    assert first.run.run_id != second.run.run_id  # type: ignore[union-attr]
    with pytest.raises(InvalidArgumentError, match="from_index"):
        await runtime.fork_run("run", -1)


# Runs that know their tick.


async def test_a_scheduled_run_knows_its_tick(lab: Lab) -> None:
    """Also late, by hand, in a replay, after a crash, and in a fork; a run of another start knows none."""
    seen: list[tuple[str, str | None, datetime | None]] = []

    @workflow()
    async def report(ctx: Context, _: Any) -> Any:
        seen.append((ctx.run_id, ctx.schedule_id, ctx.scheduled_at))
        await ctx.sleep(HOUR)
        return None if ctx.scheduled_at is None else ctx.scheduled_at.isoformat()

    start = lab.clock.now()
    declared = Schedule(id="s", workflow=report, when=Every(HOUR), overlap="allow", grace=HOUR, jitter=HOUR)
    runtime = lab.runtime(report, schedules=[declared])
    lab.advance(minutes=1)
    await runtime.materialize_schedules()
    lab.advance(minutes=59 + 20)
    await run_until_blocked(runtime)
    lab.advance(hours=1)
    await runtime.schedules.pause("s")
    tick = start + HOUR
    run_id = f"s@{tick:%Y-%m-%dT%H:%M:%SZ}"
    await run_until_blocked(runtime)
    assert {entry for entry in seen if entry[0] == run_id} == {(run_id, "s", tick)}
    assert tick.tzinfo is UTC
    await runtime.fork_run(run_id, 0, "fork")
    by_hand = await runtime.schedules.trigger("s")
    await runtime.start_run(report, run_id=f"s@{start:%Y-%m-%dT%H:%M:%SZ}")
    assert await lab.claim("fork")
    lab.advance(seconds=40)
    now = lab.clock.now() - timedelta(seconds=40)
    await runtime.schedules.backfill("s", start - HOUR, start)
    await run_until_blocked(runtime)
    lab.advance(hours=1)
    await run_until_blocked(runtime)
    facts = {(run, schedule_id, moment) for run, schedule_id, moment in seen if run != run_id}
    assert facts == {
        ("fork", "s", tick),
        (by_hand.run_id, "s", now),
        (f"s@{start:%Y-%m-%dT%H:%M:%SZ}", None, None),
        (f"s@{start - HOUR:%Y-%m-%dT%H:%M:%SZ}", "s", start - HOUR),
    }
    assert await runtime.attach("fork").result() == tick.isoformat()


async def test_a_long_schedule_id_and_a_tick_within_a_second_are_known_exactly(lab: Lab) -> None:
    """What the run's id has no room for stands in its record."""

    @workflow()
    async def report(ctx: Context, _: Any) -> Any:
        return [ctx.schedule_id, ctx.scheduled_at and ctx.scheduled_at.isoformat()]

    name = "é" * 256
    runtime: WorkflowRuntime = lab.runtime(report)
    await runtime.schedules.create(Schedule(id=name, workflow=report, when=Cron("0 0 1 1 *")))
    lab.advance(milliseconds=1_250)
    now = lab.clock.now()
    handle = await runtime.schedules.trigger(name)
    await runtime.sweep()
    assert await handle.result() == [name, now.isoformat()]
