"""`auto_schema`: whoever calls a runtime first makes the tables, once, where the store or the program says so."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    ConfigurationError,
    Context,
    DeliverSignal,
    Every,
    ForeignTablesError,
    InvalidArgumentError,
    QueryLimitReachedError,
    RunNotFoundError,
    Schedule,
    SchemaAheadError,
    SchemaBehindError,
    SchemaError,
    SchemaMissingError,
    StartRun,
    StoreUnavailableError,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.handles import RunHandle
from workflow_runtime.hosting import sweep_handler
from workflow_runtime.schedules.client import Schedules
from workflow_store_memory import InMemoryWorkflowStore

if TYPE_CHECKING:
    from conftest import Lab, TappedStore

MISSING = "run the migrations"
HOURLY = Every(timedelta(hours=1))
START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 5, tzinfo=UTC)


@workflow(id="quick")
async def quick(ctx: Context, _: Any) -> str:
    return "done"


class Fresh:
    """A store without tables: each call fails until they are made, which takes a moment."""

    def __init__(self, lab: Lab, *, wrong: SchemaError | None = None) -> None:
        self.store: TappedStore = lab.tapped()
        self.store.before = self.refuse
        self.calls = self.store.calls
        self.wrong: SchemaError | None = wrong or SchemaMissingError(MISSING)
        """Error of each call; `None` once the tables are made."""
        self.failures: list[Exception] = []
        """Errors of the next attempts to make them."""
        self.goes_on = asyncio.Event()
        """Making waits for it."""
        self.goes_on.set()

    async def refuse(self, verb: str, arguments: dict[str, Any]) -> None:
        """Let no call pass before the tables are there."""
        if verb == "ensure_schema":
            await asyncio.sleep(0)
            await self.goes_on.wait()
            if self.failures:
                raise self.failures.pop(0)
            self.wrong = None
        if self.wrong is not None:
            raise self.wrong

    @property
    def made(self) -> int:
        """Number of attempts to make the tables."""
        return self.calls.count("ensure_schema")


async def follow(runtime: WorkflowRuntime) -> None:
    async for _ in runtime.attach("run").events():
        pass


async def list_schedules(runtime: WorkflowRuntime) -> None:
    async for _ in runtime.schedules.list():
        pass


async def work(runtime: WorkflowRuntime) -> None:
    stop = asyncio.Event()
    stop.set()
    await runtime.work(stop=stop, handle_signals=False)


SCHEDULE = Schedule(id="hourly", when=HOURLY, workflow=quick)
SHORT = timedelta(seconds=5)
FIRST: dict[str, Callable[[WorkflowRuntime], Awaitable[object]]] = {
    "WorkflowRuntime.cancel_run": lambda runtime: runtime.cancel_run("run"),
    "WorkflowRuntime.cancel_runs": lambda runtime: runtime.cancel_runs(),
    "WorkflowRuntime.deliver_approval": lambda runtime: runtime.deliver_approval("run", "ship", approved=True),
    "WorkflowRuntime.deliver_signal": lambda runtime: runtime.deliver_signal("run", "go"),
    "WorkflowRuntime.deliver_signals": lambda runtime: runtime.deliver_signals([DeliverSignal("run", "go")]),
    "WorkflowRuntime.fork_run": lambda runtime: runtime.fork_run("run", 0),
    "WorkflowRuntime.materialize_schedules": lambda runtime: runtime.materialize_schedules(),
    "WorkflowRuntime.requeue_run": lambda runtime: runtime.requeue_run("run"),
    "WorkflowRuntime.requeue_runs": lambda runtime: runtime.requeue_runs(),
    "WorkflowRuntime.retry_now": lambda runtime: runtime.retry_now("run"),
    "WorkflowRuntime.retry_run": lambda runtime: runtime.retry_run("run"),
    "WorkflowRuntime.retry_runs": lambda runtime: runtime.retry_runs(),
    "WorkflowRuntime.run_here": lambda runtime: runtime.run_here(quick),
    "WorkflowRuntime.start_run": lambda runtime: runtime.start_run(quick),
    "WorkflowRuntime.start_runs": lambda runtime: runtime.start_runs(quick, [StartRun(None)]),
    "WorkflowRuntime.sweep": lambda runtime: runtime.sweep(),
    "WorkflowRuntime.terminate_run": lambda runtime: runtime.terminate_run("run"),
    "WorkflowRuntime.terminate_runs": lambda runtime: runtime.terminate_runs(),
    "WorkflowRuntime.work": work,
    "RunHandle.ended": lambda runtime: runtime.attach("run").ended(timeout=SHORT),
    "RunHandle.events": follow,
    "RunHandle.load": lambda runtime: runtime.attach("run").load(),
    "RunHandle.result": lambda runtime: runtime.attach("run").result(timeout=SHORT),
    "RunHandle.status": lambda runtime: runtime.attach("run").status(),
    "Schedules.backfill": lambda runtime: runtime.schedules.backfill("hourly", START, END),
    "Schedules.backfill_status": lambda runtime: runtime.schedules.backfill_status("hourly", START, END),
    "Schedules.create": lambda runtime: runtime.schedules.create(SCHEDULE),
    "Schedules.delete": lambda runtime: runtime.schedules.delete("hourly"),
    "Schedules.get": lambda runtime: runtime.schedules.get("hourly"),
    "Schedules.list": list_schedules,
    "Schedules.materialize": lambda runtime: runtime.schedules.materialize(),
    "Schedules.next_fire_times": lambda runtime: runtime.schedules.next_fire_times("hourly", 1),
    "Schedules.pause": lambda runtime: runtime.schedules.pause("hourly"),
    "Schedules.resume": lambda runtime: runtime.schedules.resume("hourly"),
    "Schedules.trigger": lambda runtime: runtime.schedules.trigger("hourly"),
    "Schedules.unfit": lambda runtime: runtime.schedules.unfit(),
    "sweep_handler": lambda runtime: sweep_handler(runtime, timedelta(seconds=1))(),
}
"""Each call of a program that needs the store."""


@pytest.mark.parametrize("call", FIRST)
async def test_the_first_call_makes_the_tables(lab: Lab, call: str) -> None:
    fresh = Fresh(lab)
    runtime = lab.runtime(quick, store=fresh.store, schedules=[SCHEDULE])
    with suppress(LookupError, RunNotFoundError, ConfigurationError):  # there is no such run or schedule
        await asyncio.wait_for(FIRST[call](runtime), 10)
    assert fresh.calls[:2] == ["check_schema", "ensure_schema"]
    assert len(fresh.calls) > 2 or call == "RunHandle.events", "the call itself did not reach the store"
    assert fresh.made == 1
    await runtime.start_run(quick)
    assert fresh.calls.count("ensure_schema") == 1


def test_every_call_is_among_them() -> None:
    """A call that is new has to be added above."""
    there = {
        f"{cls.__name__}.{name}"
        for cls in (WorkflowRuntime, RunHandle, Schedules)
        for name, method in inspect.getmembers(cls, callable)
        if not name.startswith("_") and (inspect.iscoroutinefunction(method) or name in {"events", "list"})
    }
    assert there == FIRST.keys() - {"sweep_handler"}


async def test_events_that_are_followed_first_are_all_there(lab: Lab) -> None:
    await lab.finish(quick, run_id="run")
    fresh = Fresh(lab)
    events = [event async for event in lab.runtime(quick, store=fresh.store).attach("run").events()]
    assert fresh.made == 1
    assert events == list(await lab.events("run")) != []


async def test_tables_that_fit_cost_one_look(lab: Lab) -> None:
    store = lab.tapped()
    runtime = lab.runtime(quick, store=store)
    for number in range(3):
        await runtime.start_run(quick, run_id=f"run-{number}")
    assert store.calls == ["check_schema", "create_run", "create_run", "create_run"]


async def test_tables_that_are_behind_are_upgraded(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    fresh = Fresh(lab, wrong=SchemaBehindError(("0001_expand_more",), MISSING))
    with caplog.at_level(logging.INFO, "workflow_runtime"):
        await lab.runtime(quick, store=fresh.store).start_run(quick)
    assert fresh.made == 1
    assert "auto_schema: the workflow tables were missing or behind" in caplog.text


async def test_without_it_nobody_makes_tables_and_clients_look_at_nothing(lab: Lab) -> None:
    fresh = Fresh(lab)
    runtime = lab.runtime(quick, store=fresh.store, auto_schema=False)
    with pytest.raises(SchemaMissingError):
        await runtime.start_run(quick)
    assert fresh.calls == ["create_run"]
    fresh.calls.clear()
    for _ in range(2):
        with pytest.raises(SchemaMissingError, match=MISSING):
            await runtime.sweep()
        with pytest.raises(SchemaMissingError, match=MISSING):
            await runtime.work(handle_signals=False)
    assert fresh.calls == ["check_schema"] * 4


async def test_store_that_declares_nothing_is_left_alone(lab: Lab) -> None:
    """Other people's stores behave as they did before there was this."""
    store = lab.tapped(lab.silent())
    assert not store.capabilities.auto_schema
    runtime = lab.runtime(quick, store=store)
    await runtime.start_run(quick)
    assert store.calls == ["create_run"]


async def test_the_program_has_the_last_word(lab: Lab) -> None:
    store = lab.tapped(lab.silent())
    await lab.runtime(quick, store=store, auto_schema=True).start_run(quick)
    assert store.calls == ["check_schema", "create_run"]


async def test_in_memory_there_is_nothing_to_do() -> None:
    runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[quick])
    assert await (await runtime.run_here(quick)).result() == "done"


def test_given_store_is_what_the_runtime_shows(lab: Lab) -> None:
    store = lab.store()
    assert lab.runtime(quick, store=store).store is store


@pytest.mark.parametrize("wrong", ["no", 1, 0])
def test_anything_but_yes_no_and_nothing_is_refused(lab: Lab, wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="auto_schema: must be True, False or None"):
        lab.runtime(quick, auto_schema=wrong)


# What is in the way.


@pytest.mark.parametrize(
    "wrong", [ForeignTablesError("runs", "not ours"), SchemaAheadError(("0009_expand_more",), "upgrade")]
)
@pytest.mark.parametrize("call", ["start_run", "sweep"])
async def test_tables_that_cannot_be_mended_are_not_touched(lab: Lab, call: str, wrong: SchemaError) -> None:
    fresh = Fresh(lab, wrong=wrong)
    runtime = lab.runtime(quick, store=fresh.store)
    for _ in range(2):
        with pytest.raises(type(wrong)) as raised:
            await (runtime.start_run(quick) if call == "start_run" else runtime.sweep())
        assert raised.value is wrong
    assert fresh.calls == ["check_schema"] * 2


async def test_refusal_to_make_them_is_the_callers_error(lab: Lab) -> None:
    fresh = Fresh(lab)
    refusal = ForeignTablesError("runs", "not ours")
    fresh.failures = [refusal]
    runtime = lab.runtime(quick, store=fresh.store)
    with pytest.raises(ForeignTablesError) as raised:
        await runtime.start_run(quick)
    assert raised.value is refusal
    await runtime.start_run(quick)
    assert fresh.made == 2


# Several callers at once.


async def started(runtime: WorkflowRuntime, count: int) -> list[Any]:
    """Start runs at once, and give what each call answers or raises."""
    calls = [runtime.start_run(quick, run_id=f"run-{number}") for number in range(count)]
    return list(await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10))


def kinds(answers: list[Any]) -> list[type]:
    return [type(answer) for answer in answers]


async def test_one_of_several_callers_makes_them(lab: Lab) -> None:
    fresh = Fresh(lab)
    runtime = lab.runtime(quick, store=fresh.store)
    answers, _ = await asyncio.gather(started(runtime, 5), runtime.sweep())
    assert kinds(answers) == [RunHandle] * 5
    assert fresh.made == 1
    assert fresh.calls.count("check_schema") == 1


async def test_others_get_the_failure_that_they_waited_for_and_later_ones_try_again(lab: Lab) -> None:
    """They do not try one after the other: with a database that is away, the last one would wait for ages."""
    fresh = Fresh(lab)
    fresh.failures = [StoreUnavailableError("away")]
    runtime = lab.runtime(quick, store=fresh.store)
    assert kinds(await started(runtime, 5)) == [StoreUnavailableError] * 5
    assert fresh.made == 1
    assert kinds(await started(runtime, 5)) == [RunHandle] * 5
    assert fresh.made == 2


async def test_caller_who_is_cancelled_leaves_it_to_the_next(lab: Lab) -> None:
    fresh = Fresh(lab)
    fresh.goes_on.clear()
    runtime = lab.runtime(quick, store=fresh.store)
    first = asyncio.create_task(runtime.start_run(quick))
    await lab.until(lambda: fresh.made == 1)
    others = asyncio.create_task(started(runtime, 3))
    waiting = asyncio.create_task(runtime.start_run(quick, run_id="waits"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in (waiting, first):  # one that waits, then the one that is at it
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    fresh.goes_on.set()
    assert kinds(await others) == [RunHandle] * 3
    assert fresh.made == 2


async def test_look_that_another_event_loop_left_under_way_holds_nobody_up(lab: Lab) -> None:
    """A fork, or a host that ends its loop with a call under way, leaves a future that nobody completes."""
    fresh = Fresh(lab)
    runtime = WorkflowRuntime(store=fresh.store, workflows=[quick], auto_schema=True)
    gone = asyncio.new_event_loop()
    runtime._tables._under_way = gone.create_future()
    await asyncio.wait_for(runtime.start_run(quick), 5)
    assert fresh.made == 1
    gone.close()


async def test_first_caller_is_cancelled_and_the_next_one_comes_later(lab: Lab) -> None:
    fresh = Fresh(lab)
    fresh.goes_on.clear()
    runtime = lab.runtime(quick, store=fresh.store)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runtime.start_run(quick), 0.05)
    fresh.goes_on.set()
    await asyncio.wait_for(runtime.start_run(quick), 10)
    assert fresh.made == 2


@pytest.mark.parametrize("failure", [QueryLimitReachedError(5, 1, 60), ConfigurationError("closed")])
async def test_what_only_concerns_one_caller_stays_with_it(lab: Lab, failure: Exception) -> None:
    """Its own limit of queries, say: the next one may have none."""
    fresh = Fresh(lab)
    fresh.failures = [failure]
    answers = await started(lab.runtime(quick, store=fresh.store), 3)
    assert kinds(answers) == [ConfigurationError, RunHandle, RunHandle]
    assert fresh.made == 2


async def test_limit_in_the_way_of_a_look_stays_with_its_caller(lab: Lab) -> None:
    fresh = Fresh(lab)
    limits: list[Exception] = [QueryLimitReachedError(0, 0, 1)]

    async def before(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "check_schema":
            await asyncio.sleep(0)
            if limits:
                raise limits.pop()
        await fresh.refuse(verb, arguments)

    fresh.store.before = before
    answers = await started(lab.runtime(quick, store=fresh.store), 3)
    assert kinds(answers) == [QueryLimitReachedError, RunHandle, RunHandle]


async def test_making_them_does_not_put_the_clock_wrong(lab: Lab) -> None:
    """The store's clock is read when they are there: an answer that took long is taken to be half as old."""
    fresh = Fresh(lab)

    async def before(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "ensure_schema":
            await asyncio.sleep(0.4)
        await fresh.refuse(verb, arguments)

    fresh.store.before = before
    runtime = WorkflowRuntime(store=fresh.store, workflows=[quick])
    await runtime.start_run(quick)
    told_ms = [arguments["now_ms"] for verb, arguments in fresh.store.arguments if verb == "create_run"]
    assert told_ms[0] - lab.clock.now_ms() < 150
