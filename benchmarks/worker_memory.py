"""The memory of a worker after 100,000 runs: does any of it stay behind?

    python benchmarks/worker_memory.py
    python benchmarks/worker_memory.py --runs 20000

Linux only. One process starts one-step runs on PostgreSQL, some thousands at a time, and works them off, with
combining as it is by default; then it drives as many itself, one after another. After each portion it prints its
resident memory and the number of objects that Python's garbage collector tracks.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from collections.abc import AsyncGenerator
from pathlib import Path

from workflow_runtime import Context, StartRun, WorkflowRuntime, workflow
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import LocalServer

SETTINGS = ("fsync=off", "synchronous_commit=off")
RUNS, PORTIONS, CONCURRENCY = 100_000, 10, 64
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


async def echo(text: str) -> str:
    return text


@workflow(id="job")
async def job(ctx: Context, text: str) -> str:
    return await ctx.step(echo, text)


def show(how: str, done: int) -> None:
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_MIB
    print(f"{how}, {done:>7,} runs: {resident:6.1f} MiB, {len(gc.get_objects()):,} objects", flush=True)


async def numbered(count: int) -> AsyncGenerator[StartRun[str], None]:
    for number in range(count):
        yield StartRun(f"{number:0100}")


async def work_off(runtime: WorkflowRuntime, count: int) -> None:
    """Start runs, and drive them by a worker of this process."""
    handles = await runtime.start_runs(job, numbered(count))
    stop = asyncio.Event()
    working = asyncio.create_task(runtime.work(concurrency=CONCURRENCY, stop=stop, handle_signals=False))
    for handle in handles:
        await handle.result()
    stop.set()
    await working


async def drive_here(runtime: WorkflowRuntime, count: int) -> None:
    for number in range(count):
        await (await runtime.run_here(job, f"{number:0100}")).result()


async def main(runs: int) -> None:
    portion = runs // PORTIONS
    with LocalServer(*SETTINGS) as server:
        async with PostgresWorkflowStore.connect(server.dsn, max_size=8) as store:
            await store.ensure_schema()
            runtime = WorkflowRuntime(store=store, workflows=[job])
            for how, drive in (("worker", work_off), ("driven here", drive_here)):
                for number in range(1, PORTIONS + 1):
                    await drive(runtime, portion)
                    show(how, number * portion)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Memory of a worker after many runs.")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs in each of the two ways (default 100,000)")
    asyncio.run(main(parser.parse_args().runs))
