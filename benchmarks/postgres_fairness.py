"""Fairness of many workers on one PostgreSQL: their shares of the work, starvation, and the cost of a wake-up.

    python benchmarks/postgres_fairness.py
    python benchmarks/postgres_fairness.py herd

First, 8 worker processes get 2,000 runs: most are queued at once, in three queues, one of them with a higher priority.
While the workers are behind, timers come due, signals are delivered, leases of a worker that died run out, and ticks
fire. A wait is the time from the moment when something could have been done to the first line of the handler after it.

Second, 1, 4 and 16 idle workers listen while single runs are started: how many statements they all send for one run, as
the server counts them (pg_stat_statements), and how soon it runs.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import asyncpg
from workflow_runtime import Context, Every, Schedule, WorkflowRuntime, workflow
from workflow_runtime.payloads import JsonText
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import LocalServer

SETTINGS = (
    "fsync=on", "synchronous_commit=on", "full_page_writes=on",
    "shared_preload_libraries=pg_stat_statements", "compute_query_id=on",
)  # fmt: skip
WORKERS = 8
QUEUED, TIMERS, SIGNALS, STALE, SCHEDULES = 1_400, 250, 250, 60, 5
"""With some eight ticks of each schedule, 2,000 runs."""
QUEUES = {"mail": 0, "reports": 0, "urgent": 10}
"""Each with the priority of its runs."""
PREPARATION_S = 25.0
SPREAD_S = 8.0
"""Timers, signals, expiring leases and ticks come so long after the queued runs."""
STEP_S = 0.01
HERDS = (1, 4, 16)
SINGLE_RUNS, PAUSE_S = 100, 0.1
LEASE = timedelta(seconds=5)
LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
STATEMENTS = """
SELECT coalesce(sum(calls), 0)::integer FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query !~ 'pg_stat_statements'
"""


async def stamp() -> list[Any]:
    """Say when, and by whom."""
    await asyncio.sleep(STEP_S)
    return [time.time() - STEP_S, sys.argv[-1]]


@workflow(id="simple")
async def simple(ctx: Context, _: None) -> list[Any]:
    return await ctx.step(stamp)


@workflow(id="timed")
async def timed(ctx: Context, at: str) -> list[Any]:
    await ctx.sleep_until(datetime.fromisoformat(at))
    return await ctx.step(stamp)


@workflow(id="signalled")
async def signalled(ctx: Context, _: None) -> list[Any]:
    await ctx.wait_for_event("go")
    return await ctx.step(stamp)


@contextmanager
def workers(dsn: str, size: int) -> Iterator[None]:
    children = [subprocess.Popen([sys.executable, __file__, "serve", dsn, str(number)]) for number in range(size)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


async def serve(dsn: str) -> None:
    async with PostgresWorkflowStore.connect(dsn, max_size=4) as store:
        runtime = WorkflowRuntime(store=store, workflows=[simple, timed, signalled], lease=LEASE)
        await runtime.work(concurrency=5)


class Load:
    """The work, and for each run what it is and since when it could have gone on."""

    def __init__(self, store: PostgresWorkflowStore) -> None:
        self._store = store
        self._runtime = WorkflowRuntime(store=store, workflows=[simple, timed, signalled], lease=LEASE)
        self._rng = random.Random(1)
        self._queues = list(QUEUES)
        self.runs: dict[str, tuple[str, float]] = {}

    async def prepare(self) -> None:
        """Queue what the workers will be behind with, and begin what waits for something: nobody works yet."""
        self._begin = time.time() + PREPARATION_S
        await _at_once(self._sleeper(number) for number in range(TIMERS))
        await _at_once(self._waiter(number) for number in range(SIGNALS))
        await _at_once(self._queued(number) for number in range(QUEUED))

    async def bring(self) -> None:
        """Bring what comes while the workers are behind."""
        await asyncio.sleep(self._begin - time.time())
        await asyncio.gather(self._signal_all(), self._abandon(), self._schedule())

    def _place(self) -> dict[str, Any]:
        queue = self._rng.choice(self._queues)
        return {"queue": queue, "priority": QUEUES[queue]}

    async def _queued(self, number: int) -> None:
        place = self._place()
        self.runs[f"queued-{number}"] = (f"queued, {place['queue']}", self._begin)
        begin = datetime.fromtimestamp(self._begin).astimezone()
        await self._runtime.start_run(simple, run_id=f"queued-{number}", start_at=begin, **place)

    async def _sleeper(self, number: int) -> None:
        at = self._begin + SPREAD_S * number / TIMERS
        moment = datetime.fromtimestamp(at).astimezone().isoformat()
        await self._runtime.run_here(timed, moment, run_id=f"timed-{number}")
        self.runs[f"timed-{number}"] = ("timer", at)

    async def _waiter(self, number: int) -> None:
        place: dict[str, Any] = {"queue": "urgent", "priority": QUEUES["urgent"]} if number % 2 else {}
        await self._runtime.run_here(signalled, run_id=f"signalled-{number}", **place)

    async def _signal_all(self) -> None:
        for number in range(SIGNALS):
            await asyncio.sleep(max(0.0, self._begin + SPREAD_S * number / SIGNALS - time.time()))
            kind = "signal, urgent" if number % 2 else "signal"
            self.runs[f"signalled-{number}"] = (kind, time.time())
            await self._runtime.deliver_signal(f"signalled-{number}", "go")

    async def _abandon(self) -> None:
        """Claim runs as a worker that dies at once."""
        await asyncio.sleep(max(0.0, self._begin - time.time()))
        now_ms = await self._store.read_clock()
        for number in range(STALE):
            lease_ms = round(SPREAD_S * 1_000 * number / STALE) + 100
            await self._store.create_run(
                run_id=f"stale-{number}", workflow_id=simple.id, workflow_version=simple.version,
                input=JsonText("null"), operation_id=f"create-{number}", now_ms=now_ms, owner="dead", lease_ms=lease_ms,
            )  # fmt: skip
            self.runs[f"stale-{number}"] = ("expired lease", (now_ms + lease_ms) / 1e3)

    async def _schedule(self) -> None:
        ends_at = datetime.fromtimestamp(self._begin + SPREAD_S).astimezone()
        for number in range(SCHEDULES):
            every = Every(timedelta(seconds=1), offset=timedelta(milliseconds=200 * number))
            schedule = Schedule(id=f"tick-{number}", workflow=simple, when=every, overlap="allow", ends_at=ends_at)
            await self._runtime.schedules.create(schedule)
            # Not before: a tick whose moment comes while the schedule is being created is none.
            times = await self._runtime.schedules.next_fire_times(schedule, 100)
            for moment in times:
                precision = "milliseconds" if moment.microsecond else "seconds"
                name = moment.replace(tzinfo=None).isoformat(timespec=precision)
                self.runs[f"tick-{number}@{name}Z"] = ("tick", moment.timestamp())

    async def results(self) -> dict[str, Any]:
        return {run_id: await self._runtime.attach(run_id).result() for run_id in self.runs}

    async def firing(self) -> list[float]:
        """Say how late each tick was fired, whenever its run had its turn."""
        late = []
        for run_id, (kind, since) in self.runs.items():
            if kind == "tick":
                late.append((await self._runtime.attach(run_id).load()).created_at_ms / 1e3 - since)
        return late


async def _at_once(calls: Iterator[Awaitable[None]]) -> None:
    async def some() -> None:
        for call in calls:
            await call

    await asyncio.gather(*(some() for _ in range(8)))


async def fairness(dsn: str) -> None:
    async with PostgresWorkflowStore.connect(dsn, max_size=8) as store:
        load = Load(store)
        await load.prepare()
        with workers(dsn, WORKERS):
            await load.bring()
            results = await asyncio.wait_for(load.results(), 120)
        firing = await load.firing()
    waits: defaultdict[str, list[float]] = defaultdict(list)
    for run_id, (kind, since) in load.runs.items():
        waits[kind].append(results[run_id][0] - since)
    ends = [at for at, _ in results.values()]
    took = max(ends) - min(ends)
    shares = sorted(Counter(worker for _, worker in results.values()).values())
    print(f"{len(results)} runs on {WORKERS} workers in {took:.1f} s; runs per worker {shares}")
    for kind, times in sorted(waits.items()):
        report(f"wait of {kind}", times)
    report("firing of tick", firing)


def report(what: str, times: Sequence[float]) -> None:
    ordered = sorted(times)
    median, p99, last = statistics.median(ordered), ordered[int(len(ordered) * 0.99)], ordered[-1]
    print(
        f"{what:<26} median {median * 1e3:8.1f} ms   p99 {p99 * 1e3:8.1f} ms   max {last * 1e3:8.1f} ms   "
        f"n {len(ordered)}",
        flush=True,
    )


async def herd(dsn: str) -> None:
    numbers = count()
    async with PostgresWorkflowStore.connect(dsn) as store:
        runtime = WorkflowRuntime(store=store, workflows=[simple, timed, signalled])
        observer = await asyncpg.connect(dsn)
        for size in HERDS:
            with workers(dsn, size):
                while await observer.fetchval(LISTENERS) < size:  # noqa: ASYNC110  # other processes
                    await asyncio.sleep(0.1)
                await asyncio.sleep(1)
                before, since, handles = await observer.fetchval(STATEMENTS), {}, []
                for _ in range(SINGLE_RUNS):
                    run_id = f"single-{next(numbers)}"
                    since[run_id] = time.time()
                    handles.append(await runtime.start_run(simple, run_id=run_id))
                    await asyncio.sleep(PAUSE_S)
                await asyncio.sleep(0.5)
                statements = (await observer.fetchval(STATEMENTS) - before) / SINGLE_RUNS
                results = [await handle.result() for handle in handles]
            shares = sorted(Counter(worker for _, worker in results).values())
            print(f"{size:>2} idle workers: {statements:.1f} statements for each run; runs per worker {shares}")
            report("from start to handler", [at - since[h.run_id] for h, (at, _) in zip(handles, results, strict=True)])
        await observer.close()


async def prepare(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE EXTENSION pg_stat_statements")
    await connection.close()
    async with PostgresWorkflowStore.connect(dsn) as store:
        await store.ensure_schema()


def run_all(parts: Sequence[str]) -> None:
    for part in parts:
        with LocalServer(*SETTINGS) as server:
            asyncio.run(prepare(server.dsn))
            asyncio.run(PARTS[part](server.dsn))


PARTS = {"fairness": fairness, "herd": herd}

if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(sys.argv[2]))
    else:
        run_all(sys.argv[1:] or list(PARTS))
