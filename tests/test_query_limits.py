"""Sweeps that may send so many queries: never more, nothing lost, nobody starved, as the database itself counts."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from workflow_runtime import (
    CapabilityNotSupportedError,
    ConfigurationError,
    Context,
    Every,
    QueryLimitReachedError,
    RetryPolicy,
    RunFailure,
    RunStatus,
    Schedule,
    StoreUnavailableError,
    SweepReport,
    TestClock,
    Workflow,
    WorkflowRuntime,
    meter_queries,
    workflow,
)
from workflow_runtime.hosting import sweep_handler, sweep_summary
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent
from workflow_runtime.testing import run_until_blocked
from workflow_store_d1 import D1PreparedStatement, D1Result, D1Transaction, D1WorkflowStore
from workflow_store_d1.database import D1DatabaseError, D1Value
from workflow_store_d1.local import LocalD1Database
from workflow_store_d1.retries import Retries
from workflow_store_memory import InMemoryWorkflowStore

T = TypeVar("T")
HALF = JsonText("0.5")
LEAST = 28
"""With fewer queries a sweep of the D1 store could do nothing."""


class CountedStatement:
    def __init__(self, database: CountingDatabase, inner: D1PreparedStatement) -> None:
        self._database = database
        self.inner = inner

    def bind(self, *values: D1Value) -> Self:
        return type(self)(self._database, self.inner.bind(*values))

    async def all(self) -> D1Result:
        return (await self._database.send(1, self._all))[0]

    async def _all(self) -> Sequence[D1Result]:
        return [await self.inner.all()]

    async def run(self) -> D1Result:
        return await self.all()


class CountingDatabase:
    """D1 as it is: nothing but batches. Counts statements on its own, and loses answers when a test says so."""

    def __init__(self, inner: LocalD1Database) -> None:
        self._inner = inner
        self.sent = 0
        self.loses_answer: Callable[[], bool] = lambda: False

    def prepare(self, sql: str) -> CountedStatement:
        return CountedStatement(self, self._inner.prepare(sql))

    async def batch(self, statements: Sequence[Any]) -> Sequence[D1Result]:
        inner = [statement.inner for statement in statements]
        return await self.send(len(inner), lambda: self._inner.batch(inner))

    async def send(self, statements: int, call: Callable[[], Awaitable[Sequence[D1Result]]]) -> Sequence[D1Result]:
        self.sent += statements
        results = await call()
        if self.loses_answer():
            raise D1DatabaseError("Network connection lost.", unavailable=True, outcome_unknown=True)
        return results


class Bench:
    """A database, and hosts that sweep it with so many queries each time."""

    def __init__(self, database: CountingDatabase) -> None:
        self.database = database
        self.store = D1WorkflowStore(database)
        self.clock = TestClock()
        self.ran: Counter[Any] = Counter()
        """How often the bodies of steps ran."""
        self.workflows: list[Workflow[Any, Any]] = [
            workflow(id="steps")(self.steps),
            workflow(id="naps")(self.naps),
            workflow(id="gathers")(self.gathers),
            workflow(id="talks")(self.talks),
            workflow(id="starts")(self.starts),
            workflow(id="writes")(self.writes),
            workflow(id="guesses")(self.guesses),
            workflow(id="listens")(self.listens),
            workflow(id="rests")(self.rests),
        ]
        self.by_id = {each.id: each for each in self.workflows}
        self.schedules = [
            Schedule(
                id=f"tick-{number}",
                workflow=self.by_id["steps"],
                input=1,
                when=Every(timedelta(minutes=1)),
                overlap="allow",
            )
            for number in range(3)
        ]

    def runtime(self, seed: int = 0, **options: Any) -> WorkflowRuntime:
        facts: dict[str, Any] = {"workflows": self.workflows, "schedules": self.schedules, "clock": self.clock}
        return WorkflowRuntime(store=self.store, **(facts | {"rng": random.Random(seed)} | options))

    async def sweep(self, runtime: WorkflowRuntime, max_queries: int, **options: Any) -> SweepReport:
        """Sweep, and hold the sweep to what it may send."""
        before = self.database.sent
        report = await runtime.sweep(max_queries=max_queries, **options)
        sent = self.database.sent - before
        assert sent <= max_queries
        assert report.queries == sent
        return report

    async def start(self, workflow_id: str, input: Any = None, **options: Any) -> str:
        handle = await self.runtime().start_run(self.by_id[workflow_id], input, **options)
        return handle.run_id

    async def orphan(self, run_id: str) -> None:
        """Leave a run with a worker that has died."""
        await self.store.create_run(
            run_id=run_id,
            workflow_id="steps",
            workflow_version="1",
            input=JsonText("2"),
            operation_id=run_id,
            now_ms=self.clock.now_ms() - 2_000,
            owner="dead",
            lease_ms=1_000,
        )

    async def recorded_run(self, run_id: str, count: int, payload: JsonText = HALF) -> None:
        """Leave a run with a log of so many events, to which it adds a few."""
        created = await self.store.create_run(
            run_id=run_id,
            workflow_id="guesses",
            workflow_version="1",
            input=JsonText(str(count + 3)),
            operation_id=run_id,
            now_ms=self.clock.now_ms(),
            owner="other",
            lease_ms=1_000,
        )
        assert created.kind == "created"
        assert created.claim is not None
        now_ms, token = self.clock.now_ms(), created.claim.lease.token
        names = ["random", *(f"random#{number}" for number in range(2, count + 1))]
        for first in range(0, count, 5_000):
            await self.store.append_events(
                run_id=run_id,
                lease_token=token,
                operation_id=f"append-{first}",
                expected_next_index=first,
                events=[
                    NewEvent(kind="value-recorded", step_id=name, payload=payload)
                    for name in names[first : first + 5_000]
                ],
                now_ms=now_ms,
                lease_ms=1_000,
            )
        await self.store.release_run_lease(run_id=run_id, lease_token=token, operation_id="release", now_ms=now_ms)

    async def paid(self) -> int:
        """How many rows the business has."""
        return len((await self.store.database.prepare("SELECT key FROM business").all()).results)

    async def untroubled(self, call: Awaitable[T]) -> T:
        """Ask without losing answers."""
        loses_answer, self.database.loses_answer = self.database.loses_answer, lambda: False
        try:
            return await call
        finally:
            self.database.loses_answer = loses_answer

    async def statuses(self) -> Counter[RunStatus]:
        return Counter({status: count for status, count in (await self.store.count_runs()).items() if count})

    async def progress(self) -> tuple[int, int]:
        """How many events there are, and how many runs have ended or wait."""
        runs = (await self.store.list_runs(limit=1_000)).runs
        return sum(run.next_index for run in runs), len(runs) + sum(run.status.is_terminal for run in runs)

    async def crashes(self) -> int:
        return max((run.crashes for run in (await self.store.list_runs(limit=1_000)).runs), default=0)

    async def step(self, key: Any) -> Any:
        self.ran[key] += 1
        await asyncio.sleep(0)
        return key

    # Workflows.

    async def steps(self, ctx: Context, count: int) -> int:
        for number in range(count):
            await ctx.step(self.step, (ctx.run_id, number))
        return count

    async def naps(self, ctx: Context, _: None) -> None:
        await ctx.sleep(timedelta(minutes=1))
        await ctx.step(self.step, (ctx.run_id, 0))

    async def gathers(self, ctx: Context, count: int) -> int:
        results = await asyncio.gather(*(ctx.step(self.step, (ctx.run_id, number)) for number in range(count)))
        return len(results)

    async def talks(self, ctx: Context, count: int) -> int:
        """Nothing but events of the handler's own, with a step in between."""
        for number in range(count):
            await asyncio.gather(ctx.now(), ctx.uuid(), ctx.emit("n", number), ctx.step(self.step, number))
        return count

    async def guesses(self, ctx: Context, count: int) -> None:
        for _ in range(count):
            await ctx.random()

    async def listens(self, ctx: Context, count: int) -> None:
        for _ in range(count):
            await ctx.wait_for_event("go")

    async def rests(self, ctx: Context, count: int) -> int:
        return len(await asyncio.gather(*(ctx.sleep(timedelta(minutes=1)) for _ in range(count))))

    async def starts(self, ctx: Context, count: int) -> int:
        return int(await ctx.step.options(retry=RetryPolicy(max_attempts=1))(self.start_runs, ctx.run_id, count))

    async def start_runs(self, run_id: str, count: int) -> int:
        self.ran[run_id] += 1
        for number in range(count):
            await self.start("steps", 0, run_id=f"{run_id}/{number}")
        return count

    async def writes(self, ctx: Context, count: int) -> None:
        await ctx.transaction("pay", self.pay, ctx.run_id, count)

    async def pay(self, tx: D1Transaction, run_id: str, count: int) -> None:
        for number in range(count):
            tx.add("INSERT INTO business VALUES (?1)", f"{run_id}/{number}")


@asynccontextmanager
async def open_bench(path: Path) -> AsyncIterator[Bench]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE business (key TEXT NOT NULL)")
    local = await LocalD1Database.open(path, synchronous="NORMAL")
    try:
        bench = Bench(CountingDatabase(local))
        await bench.store.ensure_schema()
        yield bench
    finally:
        await local.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path / "app.db") as opened:
        yield opened


async def no_time(seconds: float) -> None:
    """Do not wait."""


async def fill(bench: Bench, each: int) -> int:
    """Leave work of every kind; give the number of runs that end by it."""
    for number in range(each):
        await bench.start("naps", run_id=f"nap-{number}")
    await run_until_blocked(bench.runtime())
    await bench.runtime().materialize_schedules()
    bench.clock.advance(timedelta(minutes=1))
    for number in range(each):
        await bench.start("steps", 3, run_id=f"pending-{number}")
        await bench.orphan(f"stale-{number}")
    return 3 * each + 2 * len(bench.schedules)


async def check_nothing_lost(bench: Bench, runs: int) -> None:
    assert await bench.statuses() == {RunStatus.FINISHED: runs}
    assert set(bench.ran.values()) == {1}
    assert await bench.crashes() == 0


@pytest.mark.parametrize("fresh", [False, True], ids=["one-runtime", "a-runtime-for-each-sweep"])
@pytest.mark.parametrize("max_queries", [50, 1_000])
async def test_backlog_of_every_kind_is_worked_off(bench: Bench, max_queries: int, fresh: bool) -> None:
    """No sweep sends more than it may, each one gets on, and each source has its turn."""
    runs = await fill(bench, 10)
    runtime = bench.runtime()
    firsts: dict[str, int] = {}
    report = SweepReport()
    for number in range(200):
        before = await bench.progress()
        report = await bench.sweep(bench.runtime(seed=number) if fresh else runtime, max_queries)
        for source, count in {**report.claimed, "ticks": report.ticks.total()}.items():
            if count:
                firsts.setdefault(source, number)
        assert not report.failures
        assert not report.tick_failures
        if report.handled == 0:
            break
        assert await bench.progress() > before
    assert report.next_due_ms == bench.clock.now_ms() + 60_000, "an idle sweep knows when the schedules fire again"
    await check_nothing_lost(bench, runs)
    assert set(firsts) == {"stale", "timers", "pending", "ticks"}
    assert fresh or max(firsts.values()) <= 3, f"a source had to wait: {firsts}"


@pytest.mark.parametrize("seed", range(8))
async def test_random_limits_hold(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    runs = await fill(bench, 3)
    await bench.start("gathers", 12, run_id="gathers")
    await bench.start("talks", 12, run_id="talks")
    runtime = bench.runtime(seed)
    for _ in range(300):
        limit, concurrency = rng.randint(LEAST, rng.choice([LEAST, 60, 300])), rng.randint(1, 10)
        report = await bench.sweep(runtime, limit, limit=rng.randint(1, 20), concurrency=concurrency)
        assert not report.failures
        assert not report.tick_failures
        if await bench.statuses() == {RunStatus.FINISHED: runs + 2}:
            break
    await check_nothing_lost(bench, runs + 2)


@pytest.mark.parametrize("max_queries", [LEAST, 50, 1_000])
@pytest.mark.parametrize(("workflow_id", "count"), [("gathers", 100), ("steps", 60), ("talks", 40)])
async def test_run_that_takes_more_than_a_sweep_gets_on_in_each(
    bench: Bench, workflow_id: str, count: int, max_queries: int
) -> None:
    run_id = await bench.start(workflow_id, count)
    runtime = bench.runtime()
    sweeps = 0
    while (await bench.statuses())[RunStatus.FINISHED] == 0:
        sweeps += 1
        before = (await bench.progress())[0]
        report = await bench.sweep(runtime, max_queries)
        assert not report.failures
        # With the least a sweep looks into one source only, and it may be another one.
        assert report.claimed.total() == 0 or (await bench.progress())[0] > before
        assert sweeps < 1_000
    assert await runtime.attach(run_id).result() == count
    assert sweeps == 1 or max_queries < 1_000
    assert sweeps <= 8 or max_queries < 50 or workflow_id != "gathers", "too much was kept back for too long"
    await check_nothing_lost(bench, 1)


@pytest.mark.parametrize("max_queries", [LEAST, 50])
async def test_run_that_waits_for_many_things_at_once_gets_on(bench: Bench, max_queries: int) -> None:
    """What the waits begin with does not go into one write, however many they are."""
    for _ in range(2):
        await bench.start("rests", 300)
    runtime = bench.runtime()
    for _ in range(200):
        assert not (await bench.sweep(runtime, max_queries)).failures
        bench.clock.advance(timedelta(minutes=1))
        if await bench.statuses() == {RunStatus.FINISHED: 2}:
            break
    assert await bench.statuses() == {RunStatus.FINISHED: 2}
    assert await bench.crashes() == 0


@pytest.mark.parametrize("max_queries", range(30, 70, 3))
async def test_run_that_a_step_drives_keeps_to_what_the_step_may_send(bench: Bench, max_queries: int) -> None:
    """It hands the inner run over in time, and leaves what the outer one needs."""

    async def drive_inner(run_id: str) -> str:
        return (await runtime.run_here("steps", 10, run_id=f"{run_id}/inner")).run_id

    @workflow(id="drives")
    async def drives(ctx: Context, _: None) -> str:
        return str(await ctx.step(drive_inner, ctx.run_id))

    runtime = bench.runtime(workflows=[drives, bench.by_id["steps"]], schedules=[])
    await runtime.start_run(drives, run_id="outer")
    for _ in range(20):
        assert not (await bench.sweep(runtime, max_queries)).failures
    await check_nothing_lost(bench, 2)


@pytest.mark.parametrize("max_queries", range(20, 70, 3))
async def test_run_here_keeps_to_a_meter_around_it(bench: Bench, max_queries: int) -> None:
    """With too little left the run is only created."""
    runtime = bench.runtime()
    before = bench.database.sent
    with meter_queries(max_queries):
        handle = await runtime.run_here(bench.by_id["steps"], 10)
    assert bench.database.sent - before <= max_queries
    assert await handle.status() in {RunStatus.QUEUED, RunStatus.FINISHED}
    await bench.sweep(runtime, 1_000)
    await check_nothing_lost(bench, 1)


async def test_run_that_is_only_created_wakes_a_worker(bench: Bench) -> None:
    runtime = bench.runtime(schedules=[])
    stop = asyncio.Event()
    working = asyncio.create_task(
        runtime.work(stop=stop, handle_signals=False, poll_interval=timedelta(hours=1))  # the clock stands still
    )
    await asyncio.sleep(0.05)
    with meter_queries(10):
        handle = await runtime.run_here(bench.by_id["steps"], 2)
    assert await handle.result(timeout=timedelta(seconds=5)) == 2
    stop.set()
    await working


async def test_sweep_keeps_to_a_meter_around_it(bench: Bench) -> None:
    """Also one that was not told a limit of its own."""
    runs = await fill(bench, 3)
    runtime = bench.runtime()
    for _ in range(100):
        before = bench.database.sent
        with meter_queries(50):
            assert not (await runtime.sweep()).failures
        assert bench.database.sent - before <= 50
    await check_nothing_lost(bench, runs)


async def test_long_history_is_read_within_the_limit(bench: Bench) -> None:
    await bench.recorded_run("long", 20_000)
    report = await bench.sweep(bench.runtime(), 60)
    assert report.outcomes == {"finished": 1}


async def test_history_that_is_too_long_for_the_limit_is_told_of(bench: Bench) -> None:
    """The run cannot get on here, and says so each time; it is not taken for crashed, and the others get on."""
    await bench.recorded_run("long", 80, JsonText("0." + "5" * 250_000))  # three of them are a page
    await bench.start("steps", 2, run_id="other")
    runtime = bench.runtime()
    failures: list[RunFailure] = []
    for _ in range(16):
        failures += (await bench.sweep(runtime, 30)).failures
        bench.clock.advance(timedelta(seconds=1))  # who was handed over waits behind the others
    assert {failure.run_id for failure in failures} == {"long"}
    assert {type(failure.error) for failure in failures} == {QueryLimitReachedError}
    assert await bench.statuses() == {RunStatus.QUEUED: 1, RunStatus.FINISHED: 1}
    assert await bench.crashes() == 0
    assert (await bench.sweep(runtime, 200)).outcomes == {"finished": 1}


@pytest.mark.parametrize("pages", range(5, 25))
async def test_run_gets_on_or_is_told_of(bench: Bench, pages: int) -> None:
    """However little its history leaves: no sweep drives a run in vain and is silent about it."""
    await bench.recorded_run("long", 3 * pages, JsonText("0." + "5" * 250_000))
    runtime = bench.runtime()
    for _ in range(8):
        report = await bench.sweep(runtime, 30)
        if report.claimed.total():
            got_on = (await runtime.attach("long").load()).next_index > 3 * pages
            assert got_on != bool(report.failures)
            return
    raise AssertionError("the run was never claimed")


@pytest.mark.parametrize("workflow_id", ["guesses", "listens"])
@pytest.mark.parametrize("max_queries", range(LEAST, LEAST + 20, 4))
async def test_handler_that_only_decides_ends_without_a_failure(
    bench: Bench, max_queries: int, workflow_id: str
) -> None:
    """However few queries are left when it ends, it is handed over in time."""
    capabilities = bench.store.capabilities
    assert capabilities.metered is not None
    # With small writes it comes to its end with every number of queries left.
    bench.store._capabilities = replace(capabilities, metered=replace(capabilities.metered, events_per_query=1))
    runtime = bench.runtime()
    for count in range(1, 16):
        run_id = await bench.start(workflow_id, count)
        for _ in range(count):
            await runtime.deliver_signal(run_id, "go")
    for _ in range(200):
        report = await bench.sweep(runtime, max_queries)
        assert not report.failures
        if await bench.statuses() == {RunStatus.FINISHED: 15}:
            return
    raise AssertionError("the runs did not end")


async def test_source_of_work_is_found_by_hosts_that_begin_anew_each_time(bench: Bench) -> None:
    """With so few queries that a sweep looks into one source only, chance says into which."""
    runs = await fill(bench, 2)
    for seed in range(200):
        await bench.sweep(bench.runtime(seed), LEAST)
    await check_nothing_lost(bench, runs)


async def test_transaction_that_is_too_long_does_not_hurt_the_step_beside_it(bench: Bench) -> None:
    async def take_long() -> None:
        bench.ran["beside"] += 1
        await asyncio.sleep(0.1)

    @workflow(id="both")
    async def both(ctx: Context, _: None) -> None:
        await asyncio.gather(ctx.transaction("pay", bench.pay, "both", 60), ctx.step(take_long))

    runtime = bench.runtime(workflows=[both], schedules=[])
    handle = await runtime.start_run(both)
    report = await bench.sweep(runtime, 50)
    assert [type(failure.error) for failure in report.failures] == [QueryLimitReachedError]
    run = await handle.load()
    assert (run.status, run.next_index) == (RunStatus.QUEUED, 1)
    assert (await bench.sweep(runtime, 200)).outcomes == {"finished": 1}
    assert bench.ran["beside"] == 1


async def test_step_that_starts_runs_pays_from_the_same_queries(bench: Bench) -> None:
    await bench.start("starts", 5, run_id="starts")
    report = await bench.sweep(bench.runtime(), 50)
    assert report.queries is not None
    assert (await bench.statuses()).total() == 6
    assert report.queries > 5 * 4


async def test_step_that_wants_too_much_is_cut_short_and_told_of(bench: Bench) -> None:
    """It has not failed: its only attempt is made by whoever may send more."""
    await bench.start("starts", 11, run_id="starts")
    runtime = bench.runtime()
    for sweeps in (1, 2):
        report = await bench.sweep(runtime, 50, limit=1)
        [failure] = report.failures
        assert isinstance(failure.error, QueryLimitReachedError)
        assert bench.ran["starts"] == sweeps
        assert (await runtime.attach("starts").load()).status is RunStatus.QUEUED
    await bench.sweep(runtime, 300)
    assert await runtime.attach("starts").result() == 11
    assert await bench.crashes() == 0


@pytest.mark.parametrize("how", ["group", "cause", "context", "nested"])
async def test_step_that_wraps_a_refusal_is_cut_short_too(bench: Bench, how: str) -> None:
    """What a step makes of the error does not turn want of queries into a failure that is recorded."""

    async def read_often() -> int:
        for _ in range(60):
            await bench.store.read_clock()
        return 60

    async def read_in_its_way() -> int:
        if how in {"group", "nested"}:
            try:
                async with asyncio.TaskGroup() as group:
                    reading = group.create_task(read_often())
            except* QueryLimitReachedError as error:
                if how == "group":
                    raise
                raise RuntimeError("cannot read") from error
            return reading.result()
        try:
            return await read_often()
        except QueryLimitReachedError as error:
            if how == "cause":
                raise RuntimeError("cannot read") from error
            raise RuntimeError("cannot read")  # noqa: B904  # what many write

    @workflow(id="reads")
    async def reads(ctx: Context, _: None) -> int:
        return int(await ctx.step.options(retry=RetryPolicy(max_attempts=1))(read_in_its_way))

    runtime = bench.runtime(workflows=[reads], schedules=[])
    handle = await runtime.start_run(reads)
    [failure] = (await bench.sweep(runtime, 50, limit=1)).failures
    assert isinstance(failure.error, QueryLimitReachedError)
    assert (await bench.sweep(runtime, 200)).outcomes == {"finished": 1}
    assert await handle.result() == 60


@pytest.mark.parametrize("count", [20, 60])
async def test_transaction_is_sent_as_a_whole_or_not_at_all(bench: Bench, count: int) -> None:
    await bench.start("writes", count, run_id="writes")
    runtime = bench.runtime()
    report = await bench.sweep(runtime, 50)
    if count == 20:
        assert report.outcomes == {"finished": 1}
    else:
        assert [type(failure.error) for failure in report.failures] == [QueryLimitReachedError]
        assert await bench.paid() == 0
        assert await bench.statuses() == {RunStatus.QUEUED: 1}
        await bench.sweep(runtime, 100)
    assert await bench.paid() == count
    assert await bench.statuses() == {RunStatus.FINISHED: 1}


@pytest.mark.parametrize("fresh", [False, True], ids=["one-runtime", "a-runtime-for-each-sweep"])
@pytest.mark.parametrize(("runs", "count", "max_queries"), [(2, 30, 50), (12, 150, 1_000)])
async def test_runs_that_take_most_of_a_sweep_get_on_though_they_are_many(
    bench: Bench, runs: int, count: int, max_queries: int, fresh: bool
) -> None:
    """None of them can do with its part, where several are driven at once."""
    for number in range(runs):
        await bench.start("writes", count, run_id=f"run-{number}")
    runtime = bench.runtime()
    for seed in range(60):
        await bench.sweep(bench.runtime(seed) if fresh else runtime, max_queries)
        bench.clock.advance(timedelta(seconds=1))
    assert await bench.statuses() == {RunStatus.FINISHED: runs}
    assert await bench.paid() == runs * count


async def test_run_that_takes_too_much_is_not_driven_again_and_again(bench: Bench) -> None:
    """What is refused is cheap, so that a sweep could go on with it for long."""
    await bench.start("writes", 2_000)
    await bench.start("steps", 3)
    report = await bench.sweep(bench.runtime(), 1_000)
    assert len(report.failures) == 2
    assert report.outcomes == {"finished": 1}
    assert report.next_due_ms == bench.clock.now_ms()


async def test_run_that_gets_on_between_refusals_is_driven_on(bench: Bench) -> None:
    """What the steps beside it keep back for their records is free when they have ended."""
    ended = asyncio.Event()

    async def read_often() -> None:
        ended.clear()
        try:
            for _ in range(150):
                await bench.store.read_clock()
        finally:
            ended.set()

    async def step_beside(number: int) -> None:
        bench.ran[number] += 1
        await ended.wait()

    @workflow(id="both")
    async def both(ctx: Context, _: None) -> None:
        await asyncio.gather(ctx.step(read_often), *(ctx.step(step_beside, number) for number in range(300)))

    runtime = bench.runtime(workflows=[both], schedules=[])
    await runtime.start_run(both)
    report = await bench.sweep(runtime, 1_000)
    assert len(report.failures) == 2
    assert report.outcomes == {"finished": 1}
    assert set(bench.ran.values()) == {1}


async def test_step_with_a_meter_of_its_own_fails_by_itself(bench: Bench) -> None:
    """What a step may not send because it says so is its own failure, and its handler hears of it."""

    async def look() -> None:
        with meter_queries(max_queries=0):
            await bench.store.read_clock()

    @workflow(id="looks")
    async def looks(ctx: Context, _: None) -> None:
        await ctx.step.options(retry=RetryPolicy(max_attempts=1))(look)

    runtime = bench.runtime(workflows=[looks], schedules=[])
    handle = await runtime.start_run(looks)
    assert (await bench.sweep(runtime, 50)).outcomes == {"errored": 1}
    assert "QueryLimitReachedError" in str((await handle.load()).error)


@pytest.mark.parametrize("max_queries", range(LEAST + 17, LEAST + 29))
async def test_news_that_cannot_be_read_waits_for_the_next_drive(bench: Bench, max_queries: int) -> None:
    """A delivery to a run that has no query left for its inbox is not lost, and no step is."""
    told = asyncio.Event()

    async def wait_until_told() -> None:
        bench.ran["waits"] += 1
        await told.wait()

    @workflow(id="hears")
    async def hears(ctx: Context, _: None) -> Any:
        await asyncio.gather(*(ctx.step(wait_until_told) for _ in range(20)))
        return await ctx.wait_for_event("go")

    runtime = bench.runtime(workflows=[hears], schedules=[])
    handle = await runtime.start_run(hears)
    sweeping = asyncio.create_task(runtime.sweep(max_queries=max_queries))
    while not bench.ran["waits"]:
        await asyncio.sleep(0.001)
    await runtime.deliver_signal(handle.run_id, "go", "now")
    for _ in range(20):
        await asyncio.sleep(0.001)
    told.set()
    report = await sweeping
    assert (report.outcomes.total(), report.failures) == (1, deque())
    for _ in range(100):
        await bench.sweep(runtime, max_queries)
    assert await handle.result() == "now"
    assert bench.ran["waits"] == 20
    assert await bench.crashes() == 0


async def test_heartbeats_come_out_of_the_same_queries(bench: Bench) -> None:
    """A step that takes long may use up what is free, but not what its record and the hand-over take."""
    lease = timedelta(seconds=3)
    beats = 0

    async def last_long() -> None:
        nonlocal beats
        for _ in range(60):
            before = bench.database.sent
            bench.clock.advance(lease / 3)
            for _ in range(20):
                await asyncio.sleep(0.0005)
            beats += bench.database.sent - before

    @workflow(id="lasts")
    async def lasts(ctx: Context, _: None) -> None:
        await ctx.step(last_long)

    runtime = bench.runtime(workflows=[lasts], schedules=[], lease=lease)
    await runtime.start_run(lasts)
    report = await bench.sweep(runtime, 50)
    assert report.outcomes.total() == 1
    assert not report.failures
    assert 20 < beats < 43
    assert await bench.crashes() == 0


async def test_no_thread_renews_what_must_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of a file that could renew leases beside the event loop would send what no meter sees."""

    @workflow(id="lasts")
    async def lasts(ctx: Context, _: None) -> None:
        await ctx.step(asyncio.sleep, 0.5)

    opened = []
    open_heartbeats = D1WorkflowStore.open_heartbeats

    def open_and_tell(store: D1WorkflowStore) -> Any:
        opened.append(store)
        return open_heartbeats(store)

    monkeypatch.setattr(D1WorkflowStore, "open_heartbeats", open_and_tell)
    async with D1WorkflowStore.open(tmp_path / "thread.db") as store:
        await store.ensure_schema()
        runtime = WorkflowRuntime(store=store, workflows=[lasts], lease=timedelta(milliseconds=300))
        await runtime.start_run(lasts)
        report = await runtime.sweep(max_queries=60)
        assert (report.outcomes, opened) == ({"finished": 1}, [])
        await runtime.start_run(lasts)
        await runtime.sweep()
    assert opened, "without a limit the thread renews"


async def test_two_sweeps_at_once_keep_to_their_own_limits(bench: Bench) -> None:
    runs = await fill(bench, 5)
    both = [bench.runtime(seed=seed) for seed in (1, 2)]
    for _ in range(100):
        before = bench.database.sent
        reports = await asyncio.gather(*(runtime.sweep(max_queries=50) for runtime in both))
        assert all(report.queries is not None and report.queries <= 50 for report in reports)
        assert sum(report.queries or 0 for report in reports) == bench.database.sent - before
        if (await bench.statuses())[RunStatus.FINISHED] == runs:
            break
    await check_nothing_lost(bench, runs)


@pytest.mark.parametrize("seed", range(4))
async def test_lost_answers_cost_queries_and_no_work(bench: Bench, seed: int) -> None:
    """Repeats may use up what was kept back. Then a lease runs out: still nothing more is sent, and all of it ends."""
    rng = random.Random(seed)
    await fill(bench, 3)
    # Repeated by the store, or by the runtime.
    bench.store = D1WorkflowStore(bench.database, retries=Retries(attempts=1 + 4 * (seed % 2), sleep=no_time))
    runtime = bench.runtime(seed)
    bench.database.loses_answer = lambda: rng.random() < 0.15
    for _ in range(300):
        before = bench.database.sent
        limit = rng.randint(LEAST, 100)
        with suppress(StoreUnavailableError):  # a claim whose answer was lost: its runs come back
            await runtime.sweep(max_queries=limit)
        assert bench.database.sent - before <= limit
        bench.clock.advance(timedelta(seconds=10))
        if set(await bench.untroubled(bench.statuses())) == {RunStatus.FINISHED}:
            break
    assert (await bench.untroubled(bench.statuses())).keys() == {RunStatus.FINISHED}
    assert await bench.untroubled(bench.crashes()) < 5


async def test_refused_where_it_cannot_be_kept(bench: Bench) -> None:
    """Too few queries for anything, and a store that does not count."""
    with pytest.raises(ConfigurationError, match=f"at least {LEAST} queries"):
        await bench.sweep(bench.runtime(), LEAST - 1)
    await bench.sweep(bench.runtime(), LEAST)
    with meter_queries(max_queries=40):
        for _ in range(20):
            await bench.store.read_clock()
        with pytest.raises(ConfigurationError, match="and 20 are left"):
            await bench.sweep(bench.runtime(), 50)
    memory = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[])
    with pytest.raises(CapabilityNotSupportedError, match="metered"):
        await memory.sweep(max_queries=50)
    report = await memory.sweep()
    assert (report.queries, report.rows_read, report.rows_written) == (None, None, None)


async def test_worker_is_refused_where_queries_are_few(bench: Bench) -> None:
    """It would break off in the middle of its runs."""
    with meter_queries(1_000), pytest.raises(ConfigurationError, match="use sweep"):
        await bench.runtime().work()


async def test_sweep_without_a_limit_counts_too(bench: Bench) -> None:
    await bench.start("steps", 2)
    before = bench.database.sent
    with meter_queries() as meter:
        report = await bench.runtime().sweep()
    assert report.queries == bench.database.sent - before == meter.queries
    assert 0 < meter.requests < meter.queries
    assert sweep_summary(report)["queries"] == report.queries


async def test_handler_of_a_host_counts_what_opening_takes(bench: Bench) -> None:
    @asynccontextmanager
    async def open_runtime() -> AsyncIterator[WorkflowRuntime]:
        await bench.store.ensure_schema()
        yield bench.runtime()

    for number in range(20):
        await bench.start("steps", 2, run_id=f"run-{number}")
    handle = sweep_handler(open_runtime, timedelta(seconds=20), max_queries=50)
    for _ in range(100):
        before = bench.database.sent
        summary = await handle()
        assert bench.database.sent - before <= 50
        assert summary["queries"] <= 50
    assert await bench.statuses() == {RunStatus.FINISHED: 20}
    with pytest.raises(ConfigurationError, match=f"and {LEAST - 1} are left"):
        await sweep_handler(open_runtime, timedelta(seconds=20), max_queries=LEAST + 1)()
