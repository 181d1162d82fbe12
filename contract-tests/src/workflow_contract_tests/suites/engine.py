"""The runtime on the store: one story, played by workers that die, are late, are stopped, and know nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

from workflow_runtime import (
    NO_RETRY,
    Context,
    Every,
    RunStatus,
    Schedule,
    StepFailedError,
    TestClock,
    Workflow,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.clock import from_ms
from workflow_runtime.payloads import decode_json
from workflow_runtime.store import RunRecord, SupportsSubscribe, WorkflowExecutionStore
from workflow_runtime.testing import run_to_completion, run_until_blocked

from ..cases import clause
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY
from ..scenarios import claim_due, claim_pending, record
from ..story import ITEMS, LOG, OUTPUT, STEPS, Stage, World, order_workflow, quiet

_LATE_S = 10.0
_QUIET_S = 0.15
"""The time within which every notice has arrived."""


async def _assert_told(stage: Stage, run: RunRecord) -> None:
    """Assert that a run has the story's end and its log."""
    assert run.status is RunStatus.FINISHED, f"the story ended as {run.status}: {run.reason or run.error}"
    assert run.output is not None
    assert decode_json(run.output) == OUTPUT
    assert await stage.log(run.run_id) == LOG


@clause("PAUSE-1", "LOG-1", "LOG-7", "CLAIM-2", "CLAIM-7", "TIMER-2", "SIGNAL-1", "SIGNAL-2", "APPROVAL-1", "FINISH-1")
async def story_of_one_worker(h: StoreHarness) -> None:
    """Steps, retries, waits and sleeps of a run lead to its end, do nothing twice, and are the same in each replay."""
    world = World()
    stage = Stage(h, order_workflow(world))
    with quiet():
        run = await stage.play(await stage.start(), world, check_replay=True)
    await _assert_told(stage, run)
    assert world.done == STEPS
    assert (run.due_at_ms, run.crashes, run.inbox_seq) == (None, 0, 2)


@clause("CLAIM-2", "CLAIM-6", "CLAIM-9", "DEAD-3", "TIMER-3", "LOG-7", "FINISH-1")
async def story_of_workers_that_die(h: StoreHarness) -> None:
    """Whatever is due, a worker claims it and dies; another one, on another handle, goes on where the log ends."""
    world = World()
    stage = Stage(h, order_workflow(world))
    run_id = await stage.start()
    stranger = stage.worker(workflows=[order_workflow(world, version="1")])
    assert await run_until_blocked(stranger) is None, "a worker without the run's version is told of work"
    with quiet():
        run = await stage.play(run_id, world, _after_a_death(h, stage, await h.handles(3)))
    await _assert_told(stage, run)
    assert world.done == STEPS


def _after_a_death(h: StoreHarness, stage: Stage, handles: list[WorkflowExecutionStore]) -> Callable[[], Any]:
    """Return what gives the next worker: it comes when the one before has died with all that was due."""
    turns = itertools.cycle(handles)

    async def next_worker() -> WorkflowRuntime:
        store = next(turns)
        for claim in (claim_pending, claim_due):
            for claimed in (await claim(h, store=store)).claims:
                await LeaseHolder.of(h, claimed, store).heartbeat()
        stage.move_to(h.now_ms + LEASE_MS)
        return stage.worker(next(turns))

    return next_worker


@clause("DURABLE-1", "CLAIM-2", "TIMER-1", capability="durable")
async def story_of_programs_that_end(h: StoreHarness) -> None:
    """All handles are closed whenever a run waits; workers on new ones go on where the log ends."""
    world = World()
    stage = Stage(h, order_workflow(world))

    async def next_worker() -> WorkflowRuntime:
        await h.reopen()
        stage.client = stage.worker(h.second)
        return stage.worker()

    with quiet():
        run = await stage.play(await stage.start(), world, next_worker)
    await _assert_told(stage, run)
    assert world.done == STEPS


@clause("FENCE-1", "CLAIM-1", "LOG-1", "FINISH-1")
async def story_of_a_late_worker(h: StoreHarness) -> None:
    """A worker whose run was taken over while its step ran writes nothing more: the log is that of its successor."""
    world = World()
    stage = Stage(h, order_workflow(world))
    third = (await h.handles(3))[2]
    late = ["charge 3", "ship"]

    async def in_step(what: str) -> None:
        if what in late:
            late.remove(what)
            ahead = TestClock(from_ms(stage.clock.now_ms() + 2 * LEASE_MS))
            await run_until_blocked(stage.worker(third, clock=ahead))

    world.in_step = in_step
    with quiet():
        run = await stage.play(await stage.start(), world)
    await _assert_told(stage, run)
    assert world.done == [step for step in STEPS for _ in range(2 if step in {"charge 3", "ship"} else 1)]


@clause("LEASE-3", "CLAIM-1", "LOG-1")
async def story_of_a_stopped_worker(h: StoreHarness) -> None:
    """A worker that is stopped in a step hands the run over; the next one takes it at once, and does the step again."""
    world = World()
    stage = Stage(h, order_workflow(world))
    run_id = await stage.start()

    async def in_step(what: str) -> None:
        if what == "price pen":
            sweep.cancel()
            await asyncio.Event().wait()

    world.in_step = in_step
    sweep = asyncio.ensure_future(stage.worker().sweep())
    with contextlib.suppress(asyncio.CancelledError):
        await sweep
    run = await record(h, run_id)
    assert (run.status, run.lease_owner, run.crashes) == (RunStatus.QUEUED, None, 0)
    world.in_step = None
    with quiet():
        await _assert_told(stage, await stage.play(run_id, world))


@clause("CANCEL-2", "CANCEL-1", "FINISH-3", "LOG-6")
async def story_cancelled_while_it_waits(h: StoreHarness) -> None:
    """A run that waits and is cancelled goes on at once, cleans up by steps, and ends as aborted with the reason."""
    world = World(tells=["release"])
    stage = Stage(h, order_workflow(world))
    with quiet():
        waiting = await stage.play(await stage.start(), world, until="address")
        answers = [await stage.client.cancel_run(waiting.run_id, reason="rain") for _ in range(2)]
        run = await stage.play(waiting.run_id, world)
    assert [answer.kind for answer in answers] == ["requested", "duplicate"]
    assert (run.status, run.reason, run.finished_at_ms) == (RunStatus.ABORTED, "rain", waiting.updated_at_ms)
    assert world.done == [*STEPS[:-1], "give back"]


@clause("CANCEL-3", "LEASE-2", "CANCEL-1", "FINISH-3")
async def story_cancelled_at_work(h: StoreHarness) -> None:
    """A worker learns of a request to end when it renews its lease: it cancels the step, and only cleans up."""
    world = World()
    stage = Stage(h, order_workflow(world))

    async def in_step(what: str) -> None:
        if what == "charge 1":
            await stage.client.cancel_run(run_id, reason="rain")
            stage.move_to(h.now_ms + LEASE_MS // 2)  # by then the worker renews its lease
            await asyncio.sleep(_LATE_S)
            world.done.append("nobody stopped it")

    world.in_step = in_step
    run_id = await stage.start()
    with quiet():
        run = await stage.play(run_id, world)
    assert (run.status, run.reason) == (RunStatus.ABORTED, "rain")
    assert world.done == [*STEPS[:3], "give back"]


@clause("RETRY-1", "RETRY-3", "FORK-1", "FINISH-3")
async def story_mended_and_forked(h: StoreHarness) -> None:
    """A failed run that is retried ends well, and a fork of its log lives a life of its own from there on."""

    async def in_step(what: str) -> None:
        if what == "ship":
            raise OSError("no lorry")

    world = World(in_step)
    stage = Stage(h, order_workflow(world))
    with quiet():
        run = await stage.play(await stage.start(), world)
        assert (run.status, world.done) == (RunStatus.ERRORED, [*STEPS, "ship", "ship"])
        world.in_step, world.done = None, []
        await stage.client.retry_run(run.run_id)
        mended = await stage.play(run.run_id, world, check_replay=True)
        before = await stage.log(run.run_id)
        length = LOG.index("wait-started wait:address")
        await stage.client.fork_run(run.run_id, length, "fork")
        fork = await stage.play("fork", world, check_replay=True)
    assert (mended.status, fork.status) == (RunStatus.FINISHED, RunStatus.FINISHED)
    assert (mended.output, world.done) == (fork.output, ["ship", "ship"])
    assert await stage.log(run.run_id) == before, "the fork changed the log that it comes from"
    assert await stage.log("fork") == [*LOG[:length], "run-forked", *LOG[length:]]


@clause("SCHEDULE-13", "SCHEDULE-14", "SCHEDULE-1", "SCHEDULE-9", "SCHEDULE-12", schedules=True)
async def story_on_a_schedule(h: StoreHarness) -> None:
    """A schedule starts the story at its ticks, but for those that come while the run before has not ended."""
    world = World()
    order = order_workflow(world)
    every = timedelta(days=3)
    stage = Stage(h, order, schedules=[Schedule(id="orders", workflow=order, when=Every(every), input=ITEMS)])
    assert await stage.client.materialize_schedules() == {"orders": "created"}
    assert await stage.worker().materialize_schedules() == {}
    end_ms = h.now_ms + timedelta(days=18) // timedelta(milliseconds=1)
    with quiet():
        while (due_ms := await stage.scene(stage.worker(), world)) is not None and due_ms < end_ms:
            stage.move_to(due_ms)
    listed = (await h.second.list_runs(limit=MANY)).runs
    runs = [await record(h, run.run_id) for run in listed]
    ticks_ms = [run.scheduled_at_ms or 0 for run in runs]
    assert [timedelta(milliseconds=at_ms - ticks_ms[0]) for at_ms in ticks_ms] == [0 * every, 3 * every]
    for run in runs:
        assert run.schedule_id == "orders"
        await _assert_told(stage, run)


@clause("TX-1", "TX-4", capability="transactions")
async def story_with_transactions(h: StoreHarness) -> None:
    """A step in a transaction writes its row and its record once; one that fails, and a replay, write none."""

    async def fail(tx: Any, key: str) -> None:
        await h.write_business(tx, key)
        raise LookupError(f"no {key}")

    @workflow(id="sale")
    async def sale(ctx: Context, _: None) -> list[str]:
        await ctx.transaction("sell", h.write_business, "sold")
        try:
            await ctx.transaction.options(retry=NO_RETRY)("fail", fail, "lost")
            problem = "none"
        except StepFailedError as error:
            problem = error.message
        await ctx.sleep(timedelta(days=1))
        await ctx.transaction("send", h.write_business, "sent")
        return [problem]

    stage = Stage(h, cast("Workflow[Any, Any]", sale))
    handle = await stage.client.start_run("sale", run_id="sale")
    with quiet():
        due_ms = await run_until_blocked(stage.worker())
        assert await h.read_business() == ["sold"]
        assert due_ms is not None
        stage.move_to(due_ms)
        assert await run_to_completion(stage.worker(), handle, stage.clock) == ["no lost"]
    assert await h.read_business() == ["sent", "sold"]
    kinds = ["step-completed sell", "step-failed fail", "sleep-started sleep", "sleep-ended sleep"]
    assert await stage.log("sale") == [*kinds, "step-completed send", "run-finished"]


@clause("SUBSCRIBE-1", "SUBSCRIBE-2", capability="subscribe")
async def story_that_is_followed(h: StoreHarness) -> None:
    """A follower of a run from its beginning gets its whole log as workers write it, and then it is over."""
    world = World()
    stage = Stage(h, order_workflow(world))
    run_id = await stage.start()
    third = cast(SupportsSubscribe, (await h.handles(3))[2])

    async def follow() -> list[Any]:
        return [event async for event in third.subscribe_events(run_id=run_id)]

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        with quiet():
            await _assert_told(stage, await stage.play(run_id, world))
    assert following.result() == list(await h.second.read_events(run_id=run_id, limit=MANY))


@clause("NOTIFY-1", "NOTIFY-2", capability="notify")
async def story_of_a_woken_worker(h: StoreHarness) -> None:
    """A worker that waits, and for which no time passes, begins a run and goes on with it as soon as it is told."""

    @workflow(id="greeting")
    async def greeting(ctx: Context, _: None) -> str:
        return f"hello {await ctx.wait_for_event('name')}"

    stage = Stage(h, cast("Workflow[Any, Any]", greeting))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(stage.worker().work(stop=stop, handle_signals=False))
        try:
            for run_id in ("first", "second"):
                await asyncio.sleep(_QUIET_S)
                await stage.client.start_run("greeting", run_id=run_id)
                await _until(h, run_id, RunStatus.PAUSED)
                await stage.client.deliver_signal(run_id, "name", run_id)
                run = await _until(h, run_id, RunStatus.FINISHED)
                assert run.output == f'"hello {run_id}"'
        finally:
            stop.set()


async def _until(h: StoreHarness, run_id: str, status: RunStatus) -> RunRecord:
    """Wait until a run has a status, and return it."""
    end = asyncio.get_running_loop().time() + _LATE_S
    while True:
        run = await record(h, run_id)
        if run.status is status:
            return run
        assert asyncio.get_running_loop().time() < end, f"nobody wakes the worker for {run_id!r}, which is {run.status}"
        await asyncio.sleep(0.005)
