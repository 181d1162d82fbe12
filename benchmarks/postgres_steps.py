"""The cost of a durable step on PostgreSQL, beside one plain insert of the same payload: time, WAL bytes, HOT updates.

    python benchmarks/postgres_steps.py

The server runs with its defaults (fsync, synchronous commit and full page writes are on). The raw insert commits each
row on its own: no fence, no lease, no engine. Inserts and runs take turns.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import LocalServer

DURABLE = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")
STEPS = 10
RUNS = 100
ROUNDS = 5
TASKS = 16
PAYLOAD = {"text": "x" * 286}
RAW = "CREATE TABLE raw (run_id text, number integer, payload jsonb, PRIMARY KEY (run_id, number))"
UPDATES = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'workflow_event_locks'"


async def work() -> dict[str, Any]:
    return PAYLOAD


@workflow(id="steps")
async def steps(ctx: Context, count: int) -> None:
    for _ in range(count):
        await ctx.step(work)


@dataclass(slots=True)
class Bench:
    pool: asyncpg.Pool
    runtime: WorkflowRuntime
    made: int = 0

    async def durable_run(self, count: int = STEPS) -> None:
        await (await self.runtime.run_here(steps, count)).result()

    async def raw_run(self) -> None:
        self.made += 1
        run_id, payload = f"run-{self.made}", str(PAYLOAD).replace("'", '"')
        for number in range(STEPS):
            await self.pool.execute("INSERT INTO raw VALUES ($1, $2, $3::text::jsonb)", run_id, number, payload)

    async def seconds_per_step(self, run: Callable[[], Awaitable[None]], tasks: int) -> float:
        left = iter(range(RUNS))

        async def some_runs() -> None:
            for _ in left:
                await run()

        started = time.perf_counter()
        await asyncio.gather(*(some_runs() for _ in range(tasks)))
        return (time.perf_counter() - started) / RUNS / STEPS

    async def wal_bytes_per_step(self, run: Callable[[], Awaitable[None]]) -> float:
        before = await self.pool.fetchval("SELECT pg_current_wal_insert_lsn()")
        for _ in range(RUNS):
            await run()
        written = await self.pool.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", before)
        return float(written) / RUNS / STEPS

    async def hot_share(self, appends: int) -> float:
        before = await self._updates()
        await self.durable_run(appends)
        after = await self._updates()
        return (after[1] - before[1]) / (after[0] - before[0])

    async def _updates(self) -> tuple[int, int]:
        await asyncio.sleep(12)  # sessions hand their counts in when they have been idle for ten seconds
        return tuple(await self.pool.fetchrow(UPDATES))


async def compare(bench: Bench, tasks: int) -> None:
    ratios, ours, floors = [], [], []
    for _ in range(ROUNDS):
        floors.append(await bench.seconds_per_step(bench.raw_run, tasks))
        ours.append(await bench.seconds_per_step(bench.durable_run, tasks))
        ratios.append(ours[-1] / floors[-1])
    print(f"{tasks:>2} at once: raw insert   {1 / statistics.median(floors):8,.0f} per second")
    print(f"            durable step {1 / statistics.median(ours):8,.0f} per second")
    print(f"            ratio {statistics.median(ratios):.1f}  (each round: {', '.join(f'{r:.1f}' for r in ratios)})")


async def main() -> None:
    with LocalServer(*DURABLE) as server:
        async with (
            asyncpg.create_pool(server.dsn, max_size=TASKS, reset=_no_reset) as pool,
            PostgresWorkflowStore.connect(server.dsn, max_size=TASKS) as store,
        ):
            await pool.execute(RAW)
            await store.ensure_schema()
            bench = Bench(pool, WorkflowRuntime(store=store, workflows=[steps]))
            await bench.durable_run()
            for tasks in (1, TASKS):
                await compare(bench, tasks)
            raw, durable = [await bench.wal_bytes_per_step(run) for run in (bench.raw_run, bench.durable_run)]
            print(f"WAL per step (runs of {STEPS}): raw insert {raw:,.0f} bytes, durable step {durable:,.0f}")
            print(f"HOT share of 10,000 appends: {await bench.hot_share(10_000):.1%}")


async def _no_reset(connection: asyncpg.Connection) -> None:
    """As the store's own pool: nothing is left behind that a reset would clean up."""


if __name__ == "__main__":
    asyncio.run(main())
