"""The raw limits that rates are divided by: what the database, or Python, does without any engine.

This process stays through all rounds, so that no calibration pays for a start. Each line that it reads names a limit
and the seconds to work; each line that it prints is a rate per second.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg

from comparison.contenders.stopwatch import CONNECTIONS, PAYLOAD, read_task

TABLE = "CREATE TABLE raw (run_id text, number integer, payload jsonb, PRIMARY KEY (run_id, number))"
INSERT = "INSERT INTO raw VALUES ($1, $2, $3::text::jsonb)"


async def rate(unit: Callable[[int], Awaitable[object]], at_once: int, seconds: float) -> float:
    """Return how often `at_once` tasks did it in a second; each call gets a number of its own."""
    began = time.perf_counter()
    until, calls = began + seconds, iter(range(sys.maxsize))

    async def some() -> int:
        mine = 0
        while time.perf_counter() < until:
            await unit(next(calls))
            mine += 1
        return mine

    done = sum(await asyncio.gather(*(some() for _ in range(at_once))))
    return done / (time.perf_counter() - began)


class Limits:
    """The connections of the calibrations."""

    def __init__(self, pool: asyncpg.Pool, file: aiosqlite.Connection) -> None:
        self._pool = pool
        self._file = file
        self._payload = json.dumps(PAYLOAD)

    async def insert_1(self, seconds: float) -> float:
        """A row of one statement each, committed by itself, on one connection."""
        await self._pool.execute("TRUNCATE raw")
        async with self._pool.acquire() as connection:
            return await rate(lambda n: connection.execute(INSERT, "run", n, self._payload), 1, seconds)

    async def insert_16(self, seconds: float) -> float:
        """The same on 16 connections."""
        await self._pool.execute("TRUNCATE raw")
        async with AsyncExitStack() as stack:
            all_of_them = [await stack.enter_async_context(self._pool.acquire()) for _ in range(CONNECTIONS)]
            free = list(all_of_them)

            async def insert(number: int) -> None:
                connection = free.pop()
                await connection.execute(INSERT, "run", number, self._payload)
                free.append(connection)

            return await rate(insert, CONNECTIONS, seconds)

    async def sqlite(self, seconds: float) -> float:
        """A row a transaction in a SQLite file in WAL mode with synchronous=FULL, through aiosqlite."""
        await self._file.execute("DELETE FROM raw")
        insert = "INSERT INTO raw VALUES ('run', ?, ?)"
        return await rate(lambda n: self._file.execute(insert, (n, self._payload)), 1, seconds)

    async def tasks(self, seconds: float) -> float:
        """The floor of an engine in Python: a function awaited as a task, its result to JSON and back."""

        async def work() -> dict[str, Any]:
            return PAYLOAD

        async def step(_: int) -> None:
            json.loads(json.dumps(await asyncio.create_task(work())))

        return await rate(step, 1, seconds)


async def main() -> None:
    task = read_task()
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            asyncpg.create_pool(task.dsn, min_size=CONNECTIONS, max_size=CONNECTIONS)
        )
        file = await stack.enter_async_context(aiosqlite.connect(Path(task.folder, "raw.db"), isolation_level=None))
        await pool.execute(TABLE)
        for statement in ("journal_mode = WAL", "synchronous = FULL"):
            await file.execute(f"PRAGMA {statement}")
        await file.execute("CREATE TABLE raw (run_id TEXT, number INTEGER, payload TEXT, PRIMARY KEY (run_id, number))")
        limits = Limits(pool, file)
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            name, seconds = line.split()
            figure = await getattr(limits, name.replace("-", "_"))(float(seconds))
            print(json.dumps({"rate": figure}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
