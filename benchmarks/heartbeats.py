"""The delay of heartbeats, which decides how short a lease may be.

A run's step keeps the process busy in one way after the other: it waits, blocks the event loop, computes in Python on
the loop or on threads, or sits in C code that does not give up the interpreter's lock. Each renewal that the store
answered is noted. What counts is the longest time between two of them: while it is below the lease, nobody else
takes the run. With `--load` other processes compete for the processors.

Prints for each store and each kind of step: renewals, the time that should lie between two, the longest that did, and
by how much it was late.

With `--leases 50000` it keeps so many leases for `--seconds` instead, as a worker of that many long runs does, and
prints what share of a core the process took for it, how many renewals and calls that were, and how many leases ended.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_runtime.clock import StoreClock
from workflow_runtime.engine.held_lease import HeldLease
from workflow_runtime.engine.lease_keeper import LeaseKeeper
from workflow_runtime.heartbeats import HeartbeatThread
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import LocalServer

_IN_C = 60_000_000
"""What `sum` adds up without giving up the lock: about a second and a half on a quiet machine."""


async def waits(seconds: float) -> None:
    """Leave the event loop alone."""
    await asyncio.sleep(seconds)


async def blocks(seconds: float) -> None:
    """Block the event loop in a call that gives up the interpreter's lock."""
    time.sleep(seconds)  # noqa: ASYNC251  # that is the point


async def computes(seconds: float) -> None:
    """Compute on the event loop."""
    compute(seconds)


async def computes_on_threads(seconds: float) -> None:
    """Compute on eight threads at once."""
    await asyncio.gather(*(asyncio.to_thread(compute, seconds) for _ in range(8)))


async def stays_in_c(seconds: float) -> None:
    """Call C code again and again that keeps the interpreter's lock."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(_IN_C))


def compute(seconds: float) -> None:
    """Compute in Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(number * number for number in range(1_000))


STEPS: list[Callable[[float], Any]] = [waits, blocks, computes, computes_on_threads, stays_in_c]


@workflow(id="busy")
async def busy(ctx: Context, arguments: list[Any]) -> None:
    """Keep the process busy in one step."""
    name, seconds = arguments
    await ctx.step(next(step for step in STEPS if step.__name__ == name), seconds)


def note_renewals(store: Any, at: list[float]) -> None:
    """Have the store note when it answered a renewal."""
    right = store.open_heartbeats

    class Noting:
        def __init__(self, renewer: Any) -> None:
            self._renewer = renewer

        async def heartbeat_run_leases(self, **arguments: Any) -> Any:
            answer = await self._renewer.heartbeat_run_leases(**arguments)
            at.append(time.monotonic())
            return answer

    @asynccontextmanager
    async def open_heartbeats() -> AsyncIterator[Any]:
        async with right() as renewer:
            yield Noting(renewer)

    store.open_heartbeats = open_heartbeats


async def longest_gap(store: Any, step: Callable[[float], Any], seconds: float, lease: timedelta) -> tuple[int, float]:
    """Drive one run; give how many renewals it took, and the longest time without one."""
    at: list[float] = []
    note_renewals(store, at)
    runtime = WorkflowRuntime(store=store, workflows=[busy], lease=lease)
    began = time.monotonic()
    await runtime.run_here(busy, [step.__name__, seconds])
    times = [began, *at, time.monotonic()]
    return len(at), max(later - earlier for earlier, later in itertools.pairwise(times))


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Let other processes compute meanwhile."""
    rivals = [multiprocessing.Process(target=compute, args=(10_000,), daemon=True) for _ in range(processes)]
    for rival in rivals:
        rival.start()
    try:
        yield
    finally:
        for rival in rivals:
            rival.kill()
            rival.join()


@asynccontextmanager
async def sqlite_store(path: Path) -> AsyncIterator[Any]:
    """Open a store in a file."""
    async with SQLiteWorkflowStore.open(path) as store:
        await store.ensure_schema()
        yield store


@asynccontextmanager
async def postgres_store(dsn: str) -> AsyncIterator[Any]:
    """Open a store on a server."""
    async with PostgresWorkflowStore.connect(dsn) as store:
        await store.ensure_schema()
        yield store


async def measure(name: str, opened: Callable[[], Any], seconds: float, lease: timedelta) -> None:
    """Print one line for each kind of step."""
    third_s = lease.total_seconds() / 3
    for step in STEPS:
        async with opened() as store:
            renewals, gap_s = await longest_gap(store, step, seconds, lease)
        print(f"{name:9}{step.__name__:21}{renewals:5}{third_s:9.1f}{gap_s:11.2f}{max(0.0, gap_s - third_s):9.2f}")


async def begin_many(store: Any, count: int, begun: Callable[[Any], Awaitable[None]], lease_ms: int) -> None:
    """Create runs with leases."""
    numbers = iter(range(count))

    async def create() -> None:
        for number in numbers:
            answer = await store.create_run(
                run_id=f"run-{number}", workflow_id="long", workflow_version="1", input="null",
                operation_id=f"start-{number}", now_ms=await store.read_clock(), owner="bench", lease_ms=lease_ms,
            )  # fmt: skip
            await begun(answer.claim)

    await asyncio.gather(*(create() for _ in range(10)))


async def keep_many(name: str, store: Any, count: int, seconds: float, lease_ms: int) -> None:
    """Keep leases for a while, and print one line."""
    clock = StoreClock(await store.read_clock())
    calls = count_calls(store)
    thread = None
    if store.capabilities.heartbeats:
        thread = HeartbeatThread(store.open_heartbeats, clock=clock, lease_ms=lease_ms, max_block_s=300)
    keeper = LeaseKeeper(renewer=store, clock=clock, lease_ms=lease_ms, thread=thread)
    leases: list[HeldLease] = []

    async with AsyncExitStack() as stack:

        async def begun(claim: Any) -> None:
            leases.append(HeldLease(claim=claim, clock=clock, lease_ms=lease_ms, on_news=lambda: None))
            await stack.enter_async_context(keeper.keep(leases[-1]))

        await begin_many(store, count, begun, lease_ms)
        calls.clear()
        began, cpu_s = time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_s
    ended = sum(lease.lost for lease in leases)
    print(
        f"{name:9}{count:8}{cpu_s / took_s:10.1%}{sum(calls) / took_s:12.0f}{len(calls) / took_s:9.1f}{ended:7}"
        f"{1e6 * cpu_s / max(1, sum(calls)):9.1f}"
    )


def count_calls(store: Any) -> list[int]:
    """Have the store note how many leases each call renews."""
    calls: list[int] = []
    right, opened = store.heartbeat_run_leases, getattr(store, "open_heartbeats", None)

    async def renew(**arguments: Any) -> Any:
        calls.append(len(arguments["leases"]))
        return await right(**arguments)

    @asynccontextmanager
    async def open_heartbeats() -> AsyncIterator[Any]:
        async with opened() as renewer:  # type: ignore[misc]  # asked for by a thread only
            inner = renewer.heartbeat_run_leases

            async def renew_there(**arguments: Any) -> Any:
                calls.append(len(arguments["leases"]))
                return await inner(**arguments)

            renewer.heartbeat_run_leases = renew_there
            yield renewer

    store.heartbeat_run_leases, store.open_heartbeats = renew, open_heartbeats
    return calls


async def measure_many(dsn: str, path: Path, count: int, seconds: float, lease_ms: int) -> None:
    """Print one line for each store."""
    print(f"{'store':9}{'leases':>8}{'of a core':>10}{'renewals/s':>12}{'calls/s':>9}{'ended':>7}{'µs each':>9}")
    await keep_many("memory", InMemoryWorkflowStore(), count, seconds, lease_ms)
    async with sqlite_store(path) as sqlite:
        await keep_many("SQLite", sqlite, min(count, 10_000), seconds, lease_ms)
    async with postgres_store(dsn) as postgres:
        await keep_many("Postgres", postgres, count, seconds, lease_ms)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=12, help="for each kind of step")
    parser.add_argument("--lease", type=float, default=6, help="in seconds")
    parser.add_argument("--load", type=int, default=0, help="so many other processes that compute")
    parser.add_argument("--leases", type=int, default=0, help="keep so many at once instead; 50000, say")
    options = parser.parse_args()
    lease = timedelta(seconds=options.lease)
    print(f"lease {options.lease} s, {options.load} rivals, {multiprocessing.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as folder, LocalServer() as server, load(options.load):
        path = Path(folder) / "app.db"
        if options.leases:
            lease_ms = round(options.lease * 1_000)
            asyncio.run(measure_many(server.dsn, path, options.leases, options.seconds, lease_ms))
            return
        print(f"{'store':9}{'step':21}{'beats':>5}{'each, s':>9}{'longest, s':>11}{'late, s':>9}")
        asyncio.run(measure("SQLite", lambda: sqlite_store(path), options.seconds, lease))
        asyncio.run(measure("Postgres", lambda: postgres_store(server.dsn), options.seconds, lease))


if __name__ == "__main__":
    main()
