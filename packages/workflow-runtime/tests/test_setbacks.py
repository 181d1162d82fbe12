"""A worker sits out what the store, or anything else, does to it; what is wrong at its start ends it."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    ConfigurationError,
    Context,
    RunStatus,
    SchemaMissingError,
    StoreAccessError,
    StoreError,
    StoreOperationError,
    StoreUnavailableError,
    TestClock,
    workflow,
)
from workflow_runtime.setbacks import Setbacks

if TYPE_CHECKING:
    from conftest import Gate, Lab, TappedStore

ERRORS = [
    StoreUnavailableError("restarting"),
    StoreOperationError("no such function"),
    StoreAccessError("password authentication failed (28P01)"),
    SchemaMissingError("run the migrations"),
    RuntimeError("a bug of ours"),
    KeyError("a bug of the store"),
]
TURNS = 20
"""Turns of the event loop in which a worker does all that one second asks of it."""


@workflow()
async def quick(ctx: Context, _: Any) -> Any:
    return await ctx.step(echo, "done")


async def echo(value: Any) -> Any:
    return value


class Faults:
    """Breaks the calls whose names begin as it is told."""

    def __init__(self, store: TappedStore) -> None:
        self.error: Exception | None = None
        self.verbs: tuple[str, ...] = ("claim", "read_clock")
        self.hits = 0
        store.before = self._fail

    async def _fail(self, verb: str, arguments: dict[str, Any]) -> None:
        if self.error is not None and verb.startswith(self.verbs):
            self.hits += 1
            # Without what it met before: an error that is raised again keeps all of its tracebacks, which are logged.
            raise self.error.with_traceback(None)


def ended(lab: Lab, *run_ids: str) -> bool:
    return all(lab.data.runs[run_id].status.is_terminal for run_id in run_ids)


async def let_pass(lab: Lab, seconds: int) -> None:
    """Let the time pass in small parts, so that a worker meets each of its pauses."""
    for _ in range(seconds):
        lab.advance(seconds=1)
        for _ in range(TURNS):
            await asyncio.sleep(0)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "verb", ["claim", "claim_pending", "claim_stale", "claim_due_timers", "claim_due_schedule", "read_clock"]
)
async def test_worker_that_once_worked_sits_it_out(
    lab: Lab, verb: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong, and for a long time: it says so, and goes on by itself when that is over."""
    store = lab.tapped()
    faults = Faults(store)
    runtime = lab.runtime(quick, store=store)
    async with lab.working(runtime):
        await runtime.start_run(quick, run_id="before")
        await lab.until(ended, lab, "before")
        faults.error, faults.verbs = error, (verb,)
        await let_pass(lab, 200)
        assert faults.hits > 3
        faults.error = None
        await runtime.start_run(quick, run_id="after")
        await let_pass(lab, 31)
        await lab.until(ended, lab, "after")
    level = logging.WARNING if verb.endswith("schedule") and getattr(error, "retryable", False) else logging.ERROR
    assert level in {record.levelno for record in caplog.records if "cannot" in record.getMessage()}
    assert runtime.health().working_since is None


@pytest.mark.parametrize(
    "error", [e for e in ERRORS if not getattr(e, "retryable", False)], ids=lambda e: type(e).__name__
)
async def test_error_at_the_start_ends_the_worker(lab: Lab, error: Exception) -> None:
    """With the cause, and nothing is left behind."""
    store = lab.tapped()
    faults = Faults(store)
    faults.error = error
    with pytest.raises(type(error)) as raised:
        await lab.runtime(quick, store=store).work(handle_signals=False)
    assert raised.value is error
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_store_that_is_away_at_the_first_look_is_waited_for(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = lab.tapped()
    faults = Faults(store)
    faults.error = StoreUnavailableError("restarting")
    runtime = lab.runtime(quick, store=store)
    async with lab.working(runtime):
        await lab.until(lambda: faults.hits > 0)
        await let_pass(lab, 20)
        assert not runtime.health().ready
        faults.error = None
        await runtime.start_run(quick, run_id="run")
        await let_pass(lab, 6)
        await lab.until(ended, lab, "run")
        assert runtime.health().ready
    assert "cannot claim: the store is unavailable: restarting; the next try is in" in caplog.text
    assert "can claim again, after" in caplog.text


async def test_closed_store_ends_the_worker(lab: Lab) -> None:
    """The program itself did that, and only the program can mend it."""
    store = lab.tapped()
    faults = Faults(store)
    runtime = lab.runtime(quick, store=store)
    working = asyncio.create_task(runtime.work(handle_signals=False))
    await lab.until(lambda: runtime.health().ready)
    faults.error = ConfigurationError("the store is closed")
    lab.advance(seconds=31)
    with pytest.raises(ConfigurationError):
        await asyncio.wait_for(working, 10)


async def test_resting_worker_stops_at_once(lab: Lab) -> None:
    store = lab.tapped()
    faults = Faults(store)
    runtime = lab.runtime(quick, store=store)
    async with lab.working(runtime):
        await lab.until(lambda: runtime.health().ready)
        faults.error = StoreAccessError("no grant")
        lab.advance(seconds=31)
        await lab.until(lambda: faults.hits > 0)


async def test_wake_ups_do_not_shorten_the_pauses(lab: Lab) -> None:
    """Of a store that refuses, a busy application would ask for nothing but errors."""
    store = lab.tapped()
    faults = Faults(store)
    runtime = lab.runtime(quick, store=store)
    async with lab.working(runtime):
        await lab.until(lambda: runtime.health().ready)
        faults.error, faults.verbs = StoreAccessError("no grant"), ("claim_pending",)
        for _ in range(50):
            await runtime.start_run(quick)
            await asyncio.sleep(0.002)
        assert 0 < faults.hits < 4
        faults.error = None


async def test_long_poll_interval_makes_no_long_pause(lab: Lab) -> None:
    """Who polls once a day does not wait for a day when the store restarts: nothing would wake it."""
    store = lab.tapped()
    faults = Faults(store)
    runtime = lab.runtime(quick, store=store)
    async with lab.working(runtime, poll_interval=timedelta(days=1)):
        await lab.until(lambda: runtime.health().ready)
        faults.error = StoreUnavailableError("restarting")
        await runtime.start_run(quick, run_id="run")
        await lab.until(lambda: faults.hits > 0)
        faults.error = None
        await let_pass(lab, 6)
        await lab.until(ended, lab, "run")


async def test_refused_ticks_hold_up_no_run(lab: Lab) -> None:
    """A grant that is missing on the tables of schedules is no matter of the runs."""
    store = lab.tapped()
    faults = Faults(store)
    runtime = lab.runtime(quick, store=store)
    async with lab.working(runtime):
        await lab.until(lambda: runtime.health().ready)
        faults.error, faults.verbs = StoreAccessError("no grant"), ("claim_due_schedule",)
        lab.advance(seconds=31)
        await lab.until(lambda: faults.hits)
        await runtime.start_run(quick, run_id="run")
        await lab.until(ended, lab, "run")


@pytest.mark.parametrize("error", [StoreAccessError("no grant"), StoreUnavailableError("a standby")])
@pytest.mark.parametrize("verb", ["append_events", "mark_run_finished", "mark_run_paused", "mark_run_errored"])
async def test_drive_waits_for_what_passes_within_the_lease(
    lab: Lab, verb: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is done twice, and no crash is counted."""
    monkeypatch.setattr("workflow_runtime.store_retry._RETRY_DELAYS_S", (0.001,))

    async def step() -> None:
        lab.ran["step"] += 1

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(step)
        if verb == "append_events":
            await ctx.step(echo, 1)
        if verb == "mark_run_paused":
            await ctx.wait_for_event("go")
        if verb == "mark_run_errored":
            raise ValueError

    store = lab.tapped()
    faults = Faults(store)
    runtime = lab.runtime(works, store=store)
    async with lab.working(runtime):
        faults.verbs, faults.error = (verb,), error
        await runtime.start_run(works, run_id="run")
        await lab.until(lambda: faults.hits > 10)
        faults.error = None
        if verb == "mark_run_paused":
            await runtime.deliver_signal("run", "go")
        await lab.until(ended, lab, "run")
    assert lab.ran == {"step": 1}
    assert lab.data.runs["run"].crashes == 0


@pytest.mark.parametrize("verb", ["read_events", "read_inbox"])
async def test_replay_waits_for_what_passes(lab: Lab, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the claim did not bring is asked for until it is answered."""
    monkeypatch.setattr("workflow_runtime.store_retry._RETRY_DELAYS_S", (0.001,))

    @workflow()
    async def collects(ctx: Context, count: int) -> int:
        return sum([await ctx.wait_for_event("go") for _ in range(count)])

    runtime = lab.runtime(collects)
    handle = await runtime.start_run(collects, 1_100, run_id="run")
    for number in range(1_100 if verb == "read_inbox" else 1_099):
        await runtime.deliver_signal("run", "go", 1, signal_id=str(number))
    if verb == "read_events":
        await runtime.sweep()
        await runtime.deliver_signal("run", "go", 1)
    store = lab.tapped()
    faults = Faults(store)
    faults.verbs, faults.error = (verb,), StoreAccessError("no grant")
    async with lab.working(lab.runtime(collects, store=store)):
        await lab.until(lambda: faults.hits > 10)
        faults.error = None
        await lab.until(ended, lab, "run", seconds=20)
    assert await handle.result() == 1_100


async def test_run_is_handed_over_when_its_writes_are_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts no crash, however long it lasts, and its steps are made again only now and then."""
    monkeypatch.setattr("workflow_runtime.store_retry._RETRY_DELAYS_S", (0.0,))
    bodies = lab.ran

    async def step(number: int) -> None:
        bodies[number] += 1

    @workflow()
    async def works(ctx: Context, number: int) -> None:
        await ctx.step(step, number)
        await ctx.step(echo, number)

    store = lab.tapped()
    faults = Faults(store)
    runtime = lab.runtime(works, store=store, max_crashes=2)
    async with lab.working(runtime):
        await lab.until(lambda: runtime.health().ready)
        faults.verbs, faults.error = ("append_events", "mark_run"), StoreAccessError("no grant on workflow_events")
        for number in range(10):
            await runtime.start_run(works, number, run_id=f"run-{number}")
        await let_pass(lab, 600)
        assert not runtime.health().store_reachable or "no grant" in str(runtime.health().last_error)
        assert sum(bodies.values()) < 60
        faults.error = None
        await let_pass(lab, 31)
        await lab.until(ended, lab, *(f"run-{number}" for number in range(10)))
    assert {run.status for run in lab.data.runs.values()} == {RunStatus.FINISHED}
    assert {run.crashes for run in lab.data.runs.values()} == {0}


async def test_claim_that_cannot_be_driven_ends_no_worker(lab: Lab) -> None:
    """A store that gives a version nobody asked for is wrong, but the other runs are not."""

    @workflow(id="quick", version="0")
    async def unknown(ctx: Context, _: Any) -> None:
        """Known to another process only."""

    class Careless(type(lab.store())):  # type: ignore[misc]  # the class of the store
        async def claim_pending_runs(self, **arguments: Any) -> Any:
            return await super().claim_pending_runs(**(arguments | {"workflows": None}))

    await lab.runtime(unknown).start_run(unknown, run_id="unknown")
    runtime = lab.runtime(quick, store=Careless(data=lab.data, clock=lab.clock.now_ms))
    async with lab.working(runtime):
        await runtime.start_run(quick, run_id="run")
        await lab.until(ended, lab, "run")
    assert not ended(lab, "unknown")


async def test_heartbeats_outlive_any_error(lab: Lab, gate: Gate) -> None:
    """A bug in one beat is not the end of the beats."""

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        return await ctx.step(gate.pass_through)

    store = lab.tapped()
    faults = Faults(store)
    faults.verbs = ("heartbeat",)
    runtime = lab.runtime(works, store=store)
    async with lab.working(runtime):
        await runtime.start_run(works, run_id="run")
        await gate.reached.wait()
        faults.error = RuntimeError("a bug")
        lab.advance(seconds=10)
        await lab.until(lambda: faults.hits == 1)
        faults.error = None
        await asyncio.sleep(0.01)
        lab.advance(seconds=10)
        await lab.until(lambda: lab.data.runs["run"].lease.expires_at_ms == lab.clock.now_ms() + 30_000)  # type: ignore[union-attr]  # it has one
        gate.opened.set()


def pauses_ms(error: Exception, count: int) -> list[int]:
    clock = TestClock()
    setbacks = Setbacks("claim", clock=clock, rng=random.Random(1))
    return [setbacks.met(error) - clock.now_ms() for _ in range(count)]


@pytest.mark.parametrize(("error", "longest_ms"), [(ERRORS[0], 5_000), (ERRORS[1], 30_000), (ERRORS[4], 30_000)])
def test_pauses_grow_to_a_bound_with_jitter(error: Exception, longest_ms: int) -> None:
    pauses = pauses_ms(error, 200)
    assert 500 <= pauses[0] <= 1_000
    assert max(pauses) <= longest_ms
    assert min(pauses[10:]) >= longest_ms // 2
    assert len(set(pauses[10:])) > 50


def test_pauses_begin_anew_after_a_success() -> None:
    clock = TestClock()
    setbacks = Setbacks("claim", clock=clock, rng=random.Random(1))
    for _ in range(10):
        setbacks.met(ERRORS[1])
    setbacks.over()
    assert setbacks.met(ERRORS[1]) - clock.now_ms() <= 1_000


def test_what_passes_becomes_an_error_when_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    """A standby that is taken for the primary is away for good, by its own words for a while."""
    clock = TestClock()
    setbacks = Setbacks("claim", clock=clock, rng=random.Random(1))
    for _ in range(3):
        setbacks.met(StoreUnavailableError("takes no writes"))
        clock.advance(timedelta(seconds=20))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "ERROR"]


def test_access_errors_are_refused_operations() -> None:
    """Who caught those before catches them still."""
    assert issubclass(StoreAccessError, StoreOperationError)
    assert not StoreAccessError.retryable
    assert isinstance(StoreAccessError("x"), StoreError)
