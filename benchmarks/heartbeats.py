"""The delay of heartbeats, which decides how short a lease may be.

A run's step keeps the process busy in one way after the other: it waits, blocks the event loop, computes in Python on
the loop or on threads, or sits in C code that does not give up the interpreter's lock. Each renewal that the store
answered is noted. What counts is the longest time between two of them: while it is below the lease, nobody else
takes the run. With `--load` other processes compete for the processors.

Prints for each store and each kind of step: renewals, the time that should lie between two, the longest that did, and
by how much it was late.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_d1 import SQLiteWorkflowStore
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

        async def heartbeat_run_lease(self, **arguments: Any) -> Any:
            answer = await self._renewer.heartbeat_run_lease(**arguments)
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


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=12, help="for each kind of step")
    parser.add_argument("--lease", type=float, default=6, help="in seconds")
    parser.add_argument("--load", type=int, default=0, help="so many other processes that compute")
    options = parser.parse_args()
    lease = timedelta(seconds=options.lease)
    print(f"lease {options.lease} s, {options.load} rivals, {multiprocessing.cpu_count()} processors")
    print(f"{'store':9}{'step':21}{'beats':>5}{'each, s':>9}{'longest, s':>11}{'late, s':>9}")
    with tempfile.TemporaryDirectory() as folder, LocalServer() as server, load(options.load):
        path = Path(folder) / "app.db"
        asyncio.run(measure("SQLite", lambda: sqlite_store(path), options.seconds, lease))
        asyncio.run(measure("Postgres", lambda: postgres_store(server.dsn), options.seconds, lease))


if __name__ == "__main__":
    main()
