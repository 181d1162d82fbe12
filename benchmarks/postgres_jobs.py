"""One-step runs through one worker on PostgreSQL: how fast it drains them, and what it sends for each.

    python benchmarks/postgres_jobs.py
    python benchmarks/postgres_jobs.py 1 16

For each concurrency the queue is filled while nobody works; then one worker drains it. The server counts the statements
that it is sent meanwhile (pg_stat_statements). The ratio is to plain inserts on one connection, just before.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence

import asyncpg
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import LocalServer

SETTINGS = (
    "fsync=on", "synchronous_commit=on", "full_page_writes=on",
    "shared_preload_libraries=pg_stat_statements", "compute_query_id=on",
)  # fmt: skip
CONCURRENCIES = (1, 16, 64)
RUNS, INSERTS, ROUNDS, AT_ONCE = 2_000, 500, 3, 16
CONNECTIONS = 16
PREPARATION = """
CREATE EXTENSION pg_stat_statements;
CREATE TABLE plain (payload text)
"""
LEFT = "SELECT count(*) FROM workflow_event_locks WHERE status <> 'finished'"
STATEMENTS = """
SELECT coalesce(sum(calls), 0)::integer FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND query !~ 'pg_stat_statements|status <> '
"""


async def echo(number: int) -> int:
    return number


@workflow(id="job")
async def job(ctx: Context, number: int) -> int:
    return await ctx.step(echo, number)


class Bench:
    """A store, and a plain connection beside it."""

    def __init__(self, store: PostgresWorkflowStore, observer: asyncpg.Connection) -> None:
        self._store = store
        self._observer = observer

    async def round(self, concurrency: int) -> tuple[float, float, float]:
        """Return jobs per second, their ratio to plain inserts, and statements per job."""
        await self._fill()
        floor = await self._inserts_per_s()
        before, began = await self._observer.fetchval(STATEMENTS), time.perf_counter()
        await self._drain(concurrency)
        rate = RUNS / (time.perf_counter() - began)
        return rate, rate / floor, (await self._observer.fetchval(STATEMENTS) - before) / RUNS

    async def _fill(self) -> None:
        runtime, numbers = WorkflowRuntime(store=self._store, workflows=[job]), iter(range(RUNS))

        async def some() -> None:
            for number in numbers:
                await runtime.start_run(job, number)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    async def _inserts_per_s(self) -> float:
        began = time.perf_counter()
        for _ in range(INSERTS):
            await self._observer.execute("INSERT INTO plain VALUES ($1)", "x" * 300)
        return INSERTS / (time.perf_counter() - began)

    async def _drain(self, concurrency: int) -> None:
        runtime, stop = WorkflowRuntime(store=self._store, workflows=[job]), asyncio.Event()
        working = asyncio.create_task(runtime.work(concurrency=concurrency, stop=stop, handle_signals=False))
        while await self._observer.fetchval(LEFT):  # noqa: ASYNC110  # the server knows
            await asyncio.sleep(0.02)
        stop.set()
        await working


async def main(concurrencies: Sequence[int]) -> None:
    with LocalServer(*SETTINGS) as server:
        async with PostgresWorkflowStore.connect(server.dsn, max_size=CONNECTIONS) as store:
            await store.ensure_schema()
            observer = await asyncpg.connect(server.dsn)
            await observer.execute(PREPARATION)
            bench = Bench(store, observer)
            for concurrency in concurrencies:
                rounds = [await bench.round(concurrency) for _ in range(ROUNDS)]
                rate, ratio, statements = (statistics.median(column) for column in zip(*rounds, strict=True))
                print(
                    f"concurrency {concurrency:>2}: {rate:6,.0f} jobs/s, {ratio:.2f} of plain inserts, "
                    f"{statements:.2f} statements a job",
                    flush=True,
                )
            await observer.close()


if __name__ == "__main__":
    asyncio.run(main([int(argument) for argument in sys.argv[1:]] or CONCURRENCIES))
