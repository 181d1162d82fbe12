"""Latency on PostgreSQL: from a signal's delivery, and from a timer's due time, until the handler goes on.

    python benchmarks/postgres_latency.py

One process delivers, another one works. Each figure is the time to the first line of the handler after its wait, when
nothing else happens ("idle") and at 200 a second. Beside it stands the raw limit: one NOTIFY to a listener in another
process. Both processes read the same clocks, so this runs on one machine.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from workflow_runtime import Context, RunHandle, RunStatus, Workflow, WorkflowRuntime, workflow
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import LocalServer

DURABLE = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")
IDLE = 150
BUSY = 1_000
PER_SECOND = 200
PAUSE_S = 0.03
CONCURRENCY = 20
AHEAD = timedelta(seconds=3)


@workflow(id="signalled")
async def signalled(ctx: Context, _: None) -> float:
    await ctx.wait_for_event("go")
    return time.monotonic()


@workflow(id="timed")
async def timed(ctx: Context, at: str) -> float:
    await ctx.sleep_until(datetime.fromisoformat(at))
    return time.time()


WORKFLOWS: list[Workflow[Any, float]] = [signalled, timed]


async def serve(dsn: str) -> None:
    async with PostgresWorkflowStore.connect(dsn) as store:
        await WorkflowRuntime(store=store, workflows=WORKFLOWS).work(concurrency=CONCURRENCY)


async def echo(dsn: str) -> None:
    """Answer each notification with the time at which it came."""
    connection = await asyncpg.connect(dsn)
    arrived: asyncio.Queue[float] = asyncio.Queue()
    await connection.add_listener("there", lambda *_: arrived.put_nowait(time.monotonic()))
    while True:
        at = await arrived.get()
        await connection.execute("SELECT pg_notify('back', $1)", repr(at))


async def raw_limit(dsn: str) -> list[float]:
    connection = await asyncpg.connect(dsn)
    answers: asyncio.Queue[float] = asyncio.Queue()
    await connection.add_listener("back", lambda *facts: answers.put_nowait(float(facts[3])))
    times = []
    for _ in range(IDLE):
        await asyncio.sleep(PAUSE_S)
        sent = time.monotonic()
        await connection.execute("NOTIFY there")
        times.append(await asyncio.wait_for(answers.get(), 10) - sent)
    await connection.close()
    return times


async def paused(runtime: WorkflowRuntime, count: int) -> list[RunHandle]:
    handles = [await runtime.start_run(signalled) for _ in range(count)]
    while not all([await handle.status() is RunStatus.PAUSED for handle in handles]):  # noqa: ASYNC110  # another process
        await asyncio.sleep(0.05)
    return handles


async def signals(runtime: WorkflowRuntime, count: int, every_s: float) -> list[float]:
    handles, sent = await paused(runtime, count), []
    begin = time.monotonic()
    for number, handle in enumerate(handles):
        await asyncio.sleep(max(0.0, begin + number * every_s - time.monotonic()))
        sent.append(time.monotonic())
        await runtime.deliver_signal(handle.run_id, "go")
    return [await handle.result() - at for handle, at in zip(handles, sent, strict=True)]


async def timers(runtime: WorkflowRuntime, count: int, every_s: float) -> list[float]:
    first = datetime.now().astimezone() + AHEAD + timedelta(seconds=count * 0.003)
    moments = [first + timedelta(seconds=number * every_s) for number in range(count)]
    handles = [await runtime.start_run(timed, moment.isoformat()) for moment in moments]
    return [await handle.result() - at.timestamp() for handle, at in zip(handles, moments, strict=True)]


def report(what: str, times: Sequence[float]) -> None:
    ordered = sorted(times)
    p99 = ordered[int(len(ordered) * 0.99)]
    print(
        f"{what:<28} median {statistics.median(ordered) * 1e3:6.1f} ms   p99 {p99 * 1e3:6.1f} ms   n {len(ordered)}",
        flush=True,
    )


async def main(dsn: str) -> None:
    async with PostgresWorkflowStore.connect(dsn) as store:
        runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS)
        report("raw NOTIFY, idle", await raw_limit(dsn))
        report("signal, idle", await signals(runtime, IDLE, PAUSE_S))
        report(f"signal, {PER_SECOND} per second", await signals(runtime, BUSY, 1 / PER_SECOND))
        report("timer, idle", await timers(runtime, IDLE, PAUSE_S))
        report(f"timer, {PER_SECOND} per second", await timers(runtime, BUSY, 1 / PER_SECOND))


async def prepare(dsn: str) -> None:
    async with PostgresWorkflowStore.connect(dsn) as store:
        await store.ensure_schema()


def run_all() -> None:
    with LocalServer(*DURABLE) as server:
        asyncio.run(prepare(server.dsn))
        children = [subprocess.Popen([sys.executable, __file__, role, server.dsn]) for role in ROLES]
        try:
            time.sleep(2)
            asyncio.run(main(server.dsn))
        finally:
            for child in children:
                child.kill()
                child.wait()


ROLES = {"serve": serve, "echo": echo}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(ROLES[sys.argv[1]](sys.argv[2]))
    else:
        run_all()
