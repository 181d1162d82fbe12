"""Migrations of a large PostgreSQL database beside busy workers: how long a step takes and waits, phase by phase.

    python benchmarks/postgres_migrations.py [--runs N] [--check]

The tables are those of the first release, with a million runs. Two worker processes start small runs all the time and
drive them, while the tables get every later migration, two made-up ones that change the hot table, and at last what a
tool without care would send: the peers. A report is a transaction that has read the hot table and stays open.

A step's time is that of its append: from the first call to the answer, whatever is repeated in between; a run's last
step is written with its end and not counted. A pause is the time from the end of one step to that of the next, whoever
makes them. Both count for each phase that they reach into. Locks that workers wait for are sampled 50 times a second.
With `--check` it exits with 1 when a worker waits too long for a lock, or when building an index online slows steps too
much. It fails anyway when a run that was started has not finished.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import asyncpg
from workflow_migrations import Migration, parse_migrations
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_runtime.errors import StoreError
from workflow_runtime.store import Appended
from workflow_store_postgres import PostgresWorkflowStore, get_migration_sql, get_migrations, schema
from workflow_test_support.servers.postgres_databases import at_database, drop_database, run_on
from workflow_test_support.servers.postgres_server import postgres_dsn

WORKERS = 2
RUNS_PER_S = 12
"""Runs that each worker starts: some are always under way, and two cores can do more."""
STEPS, STEP_S = 10, 0.02
BEFORE_S = 10.0
REPORT_S = 16.0
SHORTEST_S = 3.0
"""The least time that a phase is watched: a percentile needs steps."""
SETTLE_S = 3.0
SAMPLE_S = 0.02
LONGEST_WAIT_S = 2.0
"""The most that a worker may wait for a lock: a migration tries for half a second, and a machine may be slow."""
SLOWER = 10.0
LEAST_P99_S = 0.1
"""The 99th percentile beside a build may be so many times that before, or this much where that was next to nothing."""
LIMIT_S = 1_800
WORKER, REPORT = "benchmark worker", "monthly report"

# Nearly all have finished, some have failed, and some wait for a day that is far off.
FILL = """
INSERT INTO workflow_event_locks (
    run_id, status, workflow_id, workflow_version, queue, priority, due_at, lease_number, next_index, inbox_seq,
    cancel_requested, crashes, awaiting, operation_id, operation_answer, created_at, updated_at, finished_at
)
SELECT
    'run-' || lpad(n::text, 8, '0'),
    CASE
        WHEN n % 20000 = 7 THEN 'dead' WHEN n % 1000 = 1 THEN 'errored' WHEN n % 1000 = 2 THEN 'aborted'
        WHEN n % 50 = 4 THEN 'queued' WHEN n % 50 = 5 THEN 'paused' ELSE 'finished'
    END,
    'workflow-' || n % 8, '1', 'default', 0, 4102444800000 + n, 1, 3, 1, false, 0, '[]', 'o', '{}', n, n,
    CASE WHEN n % 50 NOT IN (4, 5) THEN n END
FROM generate_series(1, $RUNS) AS n;
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT run_id, workflow_id, workflow_version, queue, priority, created_at FROM workflow_event_locks;
INSERT INTO workflow_run_states (run_id, input) SELECT run_id, '{"order":1}' FROM workflow_event_locks;
"""
WAITING = """
SELECT
    activity.pid, activity.query_start,
    extract(epoch FROM clock_timestamp() - min(held.waitstart))::float8 AS waits_s
FROM pg_stat_activity AS activity LEFT JOIN pg_locks AS held ON held.pid = activity.pid AND NOT held.granted
WHERE activity.application_name = $1 AND activity.wait_event_type = 'Lock'
GROUP BY activity.pid, activity.query_start
"""
LIVE = "SELECT status, count(*) FROM workflow_event_locks WHERE run_id >= 'live-' AND run_id < 'live.' GROUP BY status"
RECORDED_STEPS = "SELECT count(*) FROM workflow_events WHERE kind = 'step-completed'"
MADE_UP = """-- {id}: made up for a benchmark; no release has it.
-- Oldest code: 0.1.0

BEGIN;

ALTER TABLE workflow_event_locks ADD COLUMN {column} text;

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES ('{id}', 'workflow-store-postgres', '0.2.0', '0.1.0', NULL, 0);

COMMIT;
"""
PLAIN_INDEX = """
CREATE INDEX made_up ON workflow_event_locks (status, finished_at, run_id) WHERE finished_at IS NOT NULL
"""
PLAIN_ALTER = "ALTER TABLE workflow_event_locks ADD COLUMN made_up text"


# What a worker process does.


async def work() -> dict[str, Any]:
    await asyncio.sleep(STEP_S)
    return {"text": "x" * 100}


@workflow(id="small")
async def small(ctx: Context, count: int) -> None:
    for _ in range(count):
        await ctx.step(work)


class TimedStore(PostgresWorkflowStore):
    """A store that notes each append: run, index, when it was called and answered, and whether it failed."""

    calls: list[tuple[str, int, float, float, bool]]
    failed_at: list[float]

    async def append_events(self, **given: Any) -> Appended:
        started, failed = time.time(), True
        try:
            answer = await super().append_events(**given)
            failed = False
            return answer
        finally:
            self.calls.append((given["run_id"], given["expected_next_index"], started, time.time(), failed))
            self.failed_at += [time.time()] if failed else []


class Kept(logging.Handler):
    """The warnings of a process, with their times."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.created, record.getMessage()))


async def serve(dsn: str, name: str) -> None:
    """Start runs until a line comes in, drive until another one does, and print what happened."""
    kept = Kept()
    logging.getLogger().addHandler(kept)
    async with TimedStore.connect(dsn, max_size=8, server_settings={"application_name": WORKER}) as store:
        assert isinstance(store, TimedStore)
        store.calls, store.failed_at = [], []
        runtime = WorkflowRuntime(store=store, workflows=[small])
        stop, started = asyncio.Event(), 0

        async def start_all() -> None:
            nonlocal started
            begin = time.monotonic()
            while True:
                await asyncio.sleep(max(0.0, begin + started / RUNS_PER_S - time.monotonic()))
                try:  # again, if it may have been started: that is idempotent
                    await runtime.start_run(small, STEPS, run_id=f"live-{name}-{started}")
                    started += 1
                except StoreError:
                    store.failed_at.append(time.time())

        working = asyncio.create_task(runtime.work(concurrency=8, stop=stop, handle_signals=False))
        starting = asyncio.create_task(start_all())
        await asyncio.to_thread(sys.stdin.readline)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            starting.result()
        await runtime.start_run(small, STEPS, run_id=f"live-{name}-{started}")  # was perhaps being started
        started += 1
        print(started, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        stop.set()
        await working
        print(json.dumps({"calls": store.calls, "failed_at": store.failed_at, "warnings": kept.said}))


# What the parent does meanwhile.


@contextmanager
def workers(dsn: str) -> Iterator[list[subprocess.Popen[str]]]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [
        subprocess.Popen([sys.executable, __file__, "serve", dsn, str(number)], **pipes) for number in range(WORKERS)
    ]
    try:
        yield children
    finally:
        for child in children:
            child.kill()
            child.communicate()


def say(child: subprocess.Popen[str]) -> str:
    """Send a line, and return the one that comes back."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("go on\n")
    child.stdin.flush()
    return child.stdout.readline()


class LockWatch:
    """Waits of the workers' sessions for locks, as they are seen: when each was seen last, and how long it was."""

    def __init__(self) -> None:
        self.waits: list[tuple[float, float]] = []

    async def watch(self, dsn: str) -> None:
        """Look until cancelled. What is shorter than the time between two looks may be missed."""
        connection = await asyncpg.connect(dsn)
        open_waits: dict[Any, tuple[float, float]] = {}
        try:
            while True:
                await asyncio.sleep(SAMPLE_S)
                seen, now = {}, time.time()
                for row in await connection.fetch(WAITING, WORKER):
                    who = (row["pid"], row["query_start"])
                    # A statement may wait for several locks in a row.
                    since = open_waits[who][0] if who in open_waits else now - (row["waits_s"] or 0.0)
                    seen[who] = (since, now)
                self.waits += [wait for who, wait in open_waits.items() if who not in seen]
                open_waits = seen
        finally:
            self.waits += open_waits.values()
            connection.terminate()


@dataclass(slots=True)
class Phase:
    """A stretch of time, and what was done in it."""

    what: str
    begin: float
    end: float
    took_s: float | None
    is_peer: bool

    def reached_by(self, stretches: Iterable[tuple[float, float]]) -> list[float]:
        """Return the lengths of those that reach into it."""
        return [end - begin for begin, end in stretches if begin < self.end and end > self.begin]

    def count(self, moments: Iterable[float]) -> int:
        """Return how many lie within it."""
        return sum(self.begin <= moment < self.end for moment in moments)


@dataclass(slots=True)
class Figures:
    """The effect of a phase on the workers. Times are in seconds."""

    per_s: float
    p50: float
    p99: float
    longest: float
    pause: float
    lock_wait: float
    failed_calls: int
    warnings: int


def percentile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


class Story:
    """Everything that was seen: phases, what workers did, and for what they waited."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.lock_watch = LockWatch()
        self.warnings: list[tuple[float, str]] = []
        self.calls: list[tuple[str, int, float, float, bool]] = []
        self.failed_at: list[float] = []

    async def phase(self, what: str, call: Callable[[], Awaitable[object]], *, is_peer: bool = False) -> None:
        """Wait until the workers have settled, make a call, and measure the steps meanwhile."""
        await asyncio.sleep(SETTLE_S)
        begin = time.time()
        await call()
        took_s = time.time() - begin
        await asyncio.sleep(SHORTEST_S - took_s)
        self.phases.append(Phase(what, begin, time.time(), took_s, is_peer))
        print(f"  {what}: {took_s:.2f} s", flush=True)

    def figures(self) -> dict[str, Figures]:
        """Return the figures of each phase."""
        steps = self._steps()
        pauses = list(pairwise(sorted(end for _, end in steps)))
        found = {}
        for phase in self.phases:
            times = phase.reached_by(steps)
            found[phase.what] = Figures(
                per_s=phase.count(end for _, end in steps) / (phase.end - phase.begin),
                p50=percentile(times, 0.5),
                p99=percentile(times, 0.99),
                longest=max(times, default=0.0),
                pause=max(phase.reached_by(pauses), default=0.0),
                lock_wait=max(phase.reached_by(self.lock_watch.waits), default=0.0),
                failed_calls=phase.count(self.failed_at),
                warnings=phase.count(at for at, _ in self.warnings),
            )
        return found

    def _steps(self) -> list[tuple[float, float]]:
        """Return when each step was appended first and when it was there; a worker may have taken over another's."""
        begun: dict[tuple[str, int], float] = {}
        done: dict[tuple[str, int], float] = {}
        for run_id, index, started, ended, failed in self.calls:
            key = run_id, index
            begun[key] = min(begun.get(key, started), started)
            if not failed:
                done[key] = min(done.get(key, ended), ended)
            else:
                done.setdefault(key, 0.0)
        last_try = {(run_id, index): ended for run_id, index, _, ended, _ in self.calls}
        return [(begin, done[key] or last_try[key]) for key, begin in begun.items()]


@asynccontextmanager
async def open_report(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that has read the hot table, and stays open for as long as the block lasts."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": REPORT})
    try:
        await connection.execute("BEGIN")
        await connection.fetchval("SELECT count(*) FROM workflow_event_locks WHERE status = 'finished'")
        yield connection
        await connection.execute("ROLLBACK")
    finally:
        connection.terminate()


async def behind_report(dsn: str, call: Callable[[], Awaitable[object]]) -> None:
    """Do something that a report is in the way of."""
    async with open_report(dsn):
        waiting = asyncio.create_task(_awaited(call()))
        await asyncio.sleep(REPORT_S)
        assert not waiting.done(), "the report is in its way"
        ended = time.monotonic()
    await asyncio.wait_for(waiting, 60)
    print(f"    {time.monotonic() - ended:.2f} s after a report of {REPORT_S:.0f} s:")


async def _awaited(call: Awaitable[object]) -> None:
    await call


def with_made_up(*columns: str) -> tuple[Migration, ...]:
    """Return the migrations of the package, followed by made-up ones that each give the hot table a column."""
    shipped = get_migrations()
    files = {f"{migration.migration_id}.sql": migration.sql for migration in shipped}
    for number, column in enumerate(columns, len(shipped)):
        migration_id = f"{number:04}_expand_{column}"
        files[f"{migration_id}.sql"] = MADE_UP.format(id=migration_id, column=column)
    return parse_migrations(files)


async def tell_story(dsn: str, story: Story) -> None:
    """Go through the phases while workers are busy."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(PostgresWorkflowStore.connect(dsn))
        admin = await asyncpg.connect(dsn)
        stack.push_async_callback(admin.close)

        async def migrate(*columns: str, **options: Any) -> None:
            made_up = with_made_up(*columns)
            with patch.object(schema, "get_migrations", lambda: made_up):
                await store.ensure_schema(**options)

        await migrate_failed_and_terminal(story, migrate, admin)
        await story.phase("0004, drops an index", lambda: migrate(contract=True))
        await story.phase("made-up 0005, adds a column", lambda: migrate("note"))
        kept = Kept()
        logging.getLogger("workflow_store_postgres").addHandler(kept)
        await story.phase(
            "made-up 0006, behind a report", lambda: behind_report(dsn, lambda: migrate("note", "remark"))
        )
        assert any(REPORT in line for _, line in kept.said), f"the log does not name the report: {kept.said}"
        said = next(line for _, line in kept.said if REPORT in line)
        print(f"  the log says {len(kept.said)} times: {said.split(';')[0]}")
        await story.phase("peer: CREATE INDEX", lambda: admin.execute(PLAIN_INDEX), is_peer=True)
        await story.phase(
            "peer: ALTER behind a report", lambda: behind_report(dsn, lambda: admin.execute(PLAIN_ALTER)), is_peer=True
        )


async def migrate_failed_and_terminal(
    story: Story, migrate: Callable[..., Awaitable[None]], admin: asyncpg.Connection
) -> None:
    """Build the indexes of 0002 and 0003 in one call, and look at what both did."""
    await story.phase("before", lambda: asyncio.sleep(BEFORE_S))
    await story.phase("0002 and 0003, built online", migrate)
    rows = await admin.fetch("SELECT migration_id, applied_at FROM workflow_schema_migrations ORDER BY migration_id")
    assert [row["migration_id"] for row in rows] == [one.migration_id for one in get_migrations()[:4]]
    first, second = (row["applied_at"] / 1e3 for row in rows[2:])
    begin = story.phases[-1].begin
    print(f"    of that, 0002 {first - begin:.2f} s, 0003 {second - first:.2f} s")


async def run_workers(dsn: str, story: Story) -> None:
    """Run all phases beside workers, and assert that every run that was started has finished."""
    with workers(dsn) as children:
        watch = asyncio.create_task(story.lock_watch.watch(dsn))
        connection = await asyncpg.connect(dsn)
        try:
            await until(lambda: finished(connection, at_least=WORKERS * RUNS_PER_S), 60)
            await tell_story(dsn, story)
            started = sum([int(await asyncio.to_thread(say, child)) for child in children])
            await until(lambda: finished(connection, at_least=started), 120)
            states = {row["status"]: row["count"] for row in await connection.fetch(LIVE)}
            assert states == {"finished": started}, f"{started} runs were started: {states}"
            steps = await connection.fetchval(RECORDED_STEPS)
            assert steps == started * STEPS, f"{steps} steps in {started} runs"
        finally:
            watch.cancel()
            await asyncio.wait([watch])
            connection.terminate()
        for child in children:
            output, _ = await asyncio.to_thread(child.communicate, "go on\n", 60)
            assert child.returncode == 0, f"a worker ended with {child.returncode}"
            told = json.loads(output)
            story.calls += [tuple(call) for call in told["calls"]]
            story.failed_at += told["failed_at"]
            story.warnings += [(at, line) for at, line in told["warnings"]]
    print(f"{started:,} runs started, all finished, {steps:,} steps", flush=True)


async def finished(connection: asyncpg.Connection, at_least: int) -> bool:
    states = {row["status"]: row["count"] for row in await connection.fetch(LIVE)}
    return bool(states.get("finished", 0) >= at_least)


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float) -> None:
    async with asyncio.timeout(limit_s):
        while not await condition():  # noqa: ASYNC110  # other processes
            await asyncio.sleep(0.1)


def report(story: Story) -> bool:
    """Print the table. Return True if everything is within its budget."""
    figures = story.figures()
    heads = ("took, s", "steps/s", "p50, ms", "p99, ms", "max, ms", "pause, ms", "lock, ms", "failed calls", "warnings")
    widths = (9, 9, 9, 9, 9, 11, 10, 14, 10)
    print(f"\n{'':<30}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for phase in story.phases:
        found = figures[phase.what]
        times = f"{found.p50 * 1e3:9.1f}{found.p99 * 1e3:9.1f}{found.longest * 1e3:9.0f}"
        stops = f"{found.pause * 1e3:11.0f}{found.lock_wait * 1e3:10.0f}"
        counts = f"{found.failed_calls:14}{found.warnings:10}"
        print(f"{phase.what:<30}{phase.took_s or 0:9.2f}{found.per_s:9.1f}{times}{stops}{counts}")
    before, built = figures["before"], figures["0002 and 0003, built online"]
    print(f"\nwhile indexes are built online, the 99th percentile is {built.p99 / before.p99:.1f} times that before")
    behind = figures["made-up 0006, behind a report"]
    print(f"behind a report workers make {behind.per_s / before.per_s:.0%} of the steps that they made before")
    wait_s = max(figures[phase.what].lock_wait for phase in story.phases if not phase.is_peer)
    kept = wait_s <= LONGEST_WAIT_S and built.p99 <= max(SLOWER * before.p99, LEAST_P99_S)
    print(f"a worker waited for a lock for {wait_s:.2f} s at most; the peers: ", end="")
    print(", ".join(f"{figures[phase.what].lock_wait:.2f} s" for phase in story.phases if phase.is_peer))
    return kept


async def main(runs: int) -> bool:
    """Fill a database, go through the phases, and print."""
    story = Story()
    with postgres_dsn() as server:
        name = f"workflow_migrations_{os.getpid()}"
        await run_on(server, f"CREATE DATABASE {name}")
        dsn = at_database(server, name)
        try:
            async with asyncio.timeout(LIMIT_S):
                first = get_migrations()[0].migration_id
                await run_on(
                    dsn,
                    get_migration_sql(to_id=first, transaction=False),
                    FILL.replace("$RUNS", str(runs)),
                    "VACUUM ANALYZE",
                )
                async with PostgresWorkflowStore.connect(dsn) as store:
                    await store.ensure_schema(online=False)
                print(f"{runs:,} runs, {WORKERS} workers that start {RUNS_PER_S} runs of {STEPS} steps a second each")
                await run_workers(dsn, story)
        finally:
            await drop_database(server, name)
    return report(story)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(*sys.argv[2:]))
        raise SystemExit
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is exceeded")
    options = parser.parse_args()
    kept = asyncio.run(main(options.runs))
    raise SystemExit(0 if kept or not options.check else 1)
