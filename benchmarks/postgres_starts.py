"""Many runs started, and many signals delivered: one by one and together, on PostgreSQL and in a SQLite file.

    python benchmarks/postgres_starts.py [--runs 1000] [--rounds 5] [--folder FOLDER]

In each round, in turns: plain inserts of the same payload one after the other on one connection, `start_run` for each,
`start_runs` of all, `deliver_signal` for each, and `deliver_signals` of all. Everything goes over one connection, one
call after the other. SQLite is in WAL mode with synchronous=FULL. The ratio is to the plain inserts of the same round.
Prints medians, with the range of the ratios, and the CPU time of this process for each run or signal.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
from workflow_runtime import Context, DeliverSignal, StartRun, WorkflowRuntime, workflow
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import LocalServer

SETTINGS = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")
PAYLOAD = {"text": "x" * 286}
INSERTS, ONE_BY_ONE = 300, 200


@workflow(id="job")
async def job(ctx: Context, payload: Any) -> Any:
    return await ctx.wait_for_event("go")


class Bench:
    """One store.

    Args:
        name: Of the store.
        store: Where runs are started.
        insert: Makes a plain insert and commits it.
        runs: Number of runs that are started together.
    """

    def __init__(self, name: str, store: Any, insert: Callable[[], Awaitable[object]], runs: int) -> None:
        self._name = name
        self._runtime = WorkflowRuntime(store=store, workflows=[job])
        self._insert = insert
        self._runs = runs
        self._taken: dict[str, list[tuple[float, float, float]]] = {}

    async def round(self, number: int) -> None:
        """Measure each kind of work once."""
        one, many = f"{number}-one", f"{number}-many"
        ids = [f"{many}-{run:06}" for run in range(self._runs)]
        await self._runtime.start_run(job, PAYLOAD, run_id=f"{number}-first")  # whatever is done once

        async def inserts() -> None:
            for _ in range(INSERTS):
                await self._insert()

        async def start_each() -> None:
            for run in range(ONE_BY_ONE):
                await self._runtime.start_run(job, PAYLOAD, run_id=f"{one}-{run:06}")

        async def deliver_each() -> None:
            for run in range(ONE_BY_ONE):
                await self._runtime.deliver_signal(f"{one}-{run:06}", "go", PAYLOAD)

        floor = await self._measure("plain insert", INSERTS, inserts)
        await self._measure("start_run", ONE_BY_ONE, start_each, floor)
        started = self._runtime.start_runs(job, [StartRun(PAYLOAD, run_id=run_id) for run_id in ids])
        await self._measure("start_runs", self._runs, lambda: started, floor)
        again = self._runtime.start_runs(job, [StartRun(PAYLOAD, run_id=run_id) for run_id in ids])
        await self._measure("start_runs again", self._runs, lambda: again, floor)
        await self._measure("deliver_signal", ONE_BY_ONE, deliver_each, floor)
        delivered = self._runtime.deliver_signals([DeliverSignal(run_id, "go", PAYLOAD) for run_id in ids])
        await self._measure("deliver_signals", self._runs, lambda: delivered, floor)

    async def _measure(
        self, what: str, count: int, work: Callable[[], Awaitable[object]], floor: float | None = None
    ) -> float:
        began, cpu_s = time.perf_counter(), time.process_time()
        await work()
        rate = count / (time.perf_counter() - began)
        cpu_us = 1e6 * (time.process_time() - cpu_s) / count
        self._taken.setdefault(what, []).append((rate, rate / (floor or rate), cpu_us))
        return rate

    def show(self) -> None:
        """Print a line for each kind of work."""
        for what, rounds in self._taken.items():
            rates, ratios, cpus = zip(*rounds, strict=True)
            print(
                f"{self._name:9}{what:18}{statistics.median(rates):10,.0f}/s {statistics.median(ratios):8.2f} of plain "
                f"({min(ratios):.2f} to {max(ratios):.2f}){statistics.median(cpus):8.0f} µs CPU",
                flush=True,
            )


async def on_postgres(dsn: str, runs: int, rounds: int) -> None:
    observer = await asyncpg.connect(dsn)
    await observer.execute("CREATE TABLE plain (payload text)")

    async def insert() -> None:
        await observer.execute("INSERT INTO plain VALUES ($1)", "x" * 300)

    async with PostgresWorkflowStore.connect(dsn, max_size=2) as store:
        await store.ensure_schema()
        bench = Bench("Postgres", store, insert, runs)
        for number in range(rounds):
            await bench.round(number)
        bench.show()
    await observer.close()


async def on_sqlite(folder: Path, runs: int, rounds: int) -> None:
    plain = await aiosqlite.connect(folder / "plain.db", isolation_level=None)
    await plain.execute("PRAGMA journal_mode = WAL")
    await plain.execute("PRAGMA synchronous = FULL")
    await plain.execute("CREATE TABLE plain (payload TEXT)")

    async def insert() -> None:
        await plain.execute("INSERT INTO plain VALUES (?)", ("x" * 300,))

    async with SQLiteWorkflowStore.open(folder / "app.db") as store:
        bench = Bench("SQLite", store, insert, runs)
        for number in range(rounds):
            await bench.round(number)
        bench.show()
    await plain.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the SQLite files are; a temporary one by default")
    options = parser.parse_args()
    with LocalServer(*SETTINGS) as server:
        asyncio.run(on_postgres(server.dsn, options.runs, options.rounds))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        asyncio.run(on_sqlite(Path(folder), options.runs, options.rounds))


if __name__ == "__main__":
    main()
