"""The program under a wrong clock: a worker (until SIGTERM), or a client that starts runs and signals them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import wrong_clock
from workflow_runtime import (
    Context,
    WaitTimeoutError,
    WorkflowExecutionStore,
    WorkflowRuntime,
    step_info,
    workflow,
)
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore

LEASE = timedelta(seconds=2)
STEP_S = 2.6
"""Longer than the lease: only its renewals keep the run with its worker."""
SLEEP = timedelta(seconds=1)
TIMEOUT = timedelta(seconds=0.5)
RUNS = 3
"""Of each client."""


async def take_long(number: int) -> dict[str, Any]:
    walls = [datetime.now(UTC).timestamp(), time.time_ns() / 1e9]
    await asyncio.sleep(STEP_S / 2)
    wrong_clock.step_back()
    await asyncio.sleep(STEP_S / 2)
    walls.append(time.time())
    print(json.dumps({"run": step_info().run_id, "walls": walls}), flush=True)
    return {"number": number}


@workflow(id="timed")
async def timed(ctx: Context, number: int) -> dict[str, Any]:
    begun = await ctx.now()
    await ctx.step(take_long, number)
    worked = await ctx.now()
    await ctx.sleep(SLEEP)
    slept = await ctx.now()
    with suppress(WaitTimeoutError):
        await ctx.wait_for_event("never", timeout=TIMEOUT)
    waited = await ctx.now()
    got = await ctx.wait_for_event("go")
    return {"got": got, "times": [moment.timestamp() for moment in (begun, worked, slept, waited)]}


@asynccontextmanager
async def open_store(location: str, schema: str) -> AsyncIterator[WorkflowExecutionStore]:
    if schema:
        async with PostgresWorkflowStore.connect(location, schema=schema) as postgres:
            yield postgres
    else:
        async with SQLiteWorkflowStore.open(location) as sqlite:
            yield sqlite


async def work(runtime: WorkflowRuntime) -> None:
    print(json.dumps({"ready": True}), flush=True)
    await runtime.work(concurrency=2, poll_interval=timedelta(milliseconds=50))


async def serve(runtime: WorkflowRuntime, name: str) -> None:
    handles = [await runtime.start_run(timed, number, run_id=f"{name}-{number}") for number in range(RUNS)]
    for number, handle in enumerate(handles):
        for _ in range(2):
            await runtime.deliver_signal(handle.run_id, "go", number, signal_id="go")
    results = {handle.run_id: await handle.result(timeout=timedelta(seconds=60)) for handle in handles}
    print(json.dumps({"wall": time.time(), "results": results}), flush=True)


async def take_part(kind: str, role: str, location: str, schema: str) -> None:
    async with open_store(location, schema) as store:
        runtime = WorkflowRuntime(store=store, workflows=[timed], lease=LEASE)
        await (work(runtime) if role == "worker" else serve(runtime, kind))


def _end_with_parent() -> None:
    # The parent holds the other end of standard input.
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(take_part(*sys.argv[1:]))
