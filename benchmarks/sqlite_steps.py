"""The cost of a durable step on a SQLite file, beside one plain insert of the same payload into the same kind of file.

    python benchmarks/sqlite_steps.py

Both commit each row on its own, in WAL mode with synchronous=FULL, on a thread beside the event loop. The raw
insert is the floor: no fence, no lease, no engine.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_d1 import SQLiteWorkflowStore

STEPS = 300
ROUNDS = 5
PAYLOAD = {"text": "x" * 286}


async def work() -> dict[str, Any]:
    return PAYLOAD


@workflow(id="steps")
async def steps(ctx: Context, count: int) -> None:
    for _ in range(count):
        await ctx.step(work)


async def durable_steps(folder: Path) -> float:
    async with SQLiteWorkflowStore.open(folder / "durable.db") as store:
        await store.ensure_schema()
        runtime = WorkflowRuntime(store=store, workflows=[steps])
        started = time.perf_counter()
        await (await runtime.run_here(steps, STEPS)).result()
        return (time.perf_counter() - started) / STEPS


async def raw_inserts(folder: Path) -> float:
    with closing(sqlite3.connect(folder / "raw.db", isolation_level=None, check_same_thread=False)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE IF NOT EXISTS raw (run_id TEXT, number INTEGER, payload TEXT)")
        payload = str(PAYLOAD)
        started = time.perf_counter()
        for number in range(STEPS):
            await asyncio.to_thread(db.execute, "INSERT INTO raw VALUES (?, ?, ?)", ("run", number, payload))
        return (time.perf_counter() - started) / STEPS


async def main() -> None:
    ratios, ours, floors = [], [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            floor, step = await raw_inserts(Path(folder)), await durable_steps(Path(folder))
        floors.append(floor)
        ours.append(step)
        ratios.append(step / floor)
    print(f"raw insert   {statistics.median(floors) * 1e6:7.0f} us")
    print(f"durable step {statistics.median(ours) * 1e6:7.0f} us")
    print(f"ratio        {statistics.median(ratios):7.1f}  (each round: {', '.join(f'{r:.1f}' for r in ratios)})")


if __name__ == "__main__":
    asyncio.run(main())
