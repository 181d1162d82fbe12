"""The raw limit of a wake-up: one NOTIFY to a listener in another process."""

from __future__ import annotations

import asyncio
import sys
import time

import asyncpg


async def echo(dsn: str) -> None:
    """Answer each notification with the time at which it came."""
    connection = await asyncpg.connect(dsn)
    arrived: asyncio.Queue[float] = asyncio.Queue()
    await connection.add_listener("there", lambda *_: arrived.put_nowait(time.monotonic()))
    while True:
        at = await arrived.get()
        await connection.execute("SELECT pg_notify('back', $1)", repr(at))


async def round_trips(dsn: str, count: int, pause_s: float) -> list[float]:
    """Return the seconds from each NOTIFY to its arrival in the other process."""
    connection = await asyncpg.connect(dsn)
    answers: asyncio.Queue[float] = asyncio.Queue()
    await connection.add_listener("back", lambda *facts: answers.put_nowait(float(facts[3])))
    await _until_heard(connection, answers)
    times = []
    for _ in range(count):
        await asyncio.sleep(pause_s)
        sent = time.monotonic()
        await connection.execute("NOTIFY there")
        times.append(await asyncio.wait_for(answers.get(), 10) - sent)
    await connection.close()
    return times


async def _until_heard(connection: asyncpg.Connection, answers: asyncio.Queue[float]) -> None:
    """Wait until the other process listens, and forget what it has answered by then."""
    while answers.empty():  # another process
        await connection.execute("NOTIFY there")
        await asyncio.sleep(0.1)
    while not answers.empty():
        answers.get_nowait()


if __name__ == "__main__":
    asyncio.run(echo(sys.argv[2]))
