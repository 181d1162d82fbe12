"""One-step and ten-step runs through 1, 2, 4, 8 and 16 worker processes on one PostgreSQL: what more processes bring.

    python benchmarks/postgres_workers.py [--workers 1 4] [--steps 10] [--concurrency 64] [--rounds 3] [--uvloop]

The queue is filled while nobody works, then all workers begin at once. Printed for each number of workers: runs a
second, the ratio to one worker in the same round, CPU microseconds a run of the workers and of the server, how many of
the machine's cores were busy, and the least and the greatest share of a worker (1 is an even one). Where all cores are
busy, more processes show contention and not scaling: then the server belongs on a machine of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import asyncpg
from comparison.server import Server
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_postgres import PostgresWorkflowStore

RUNS = 4_000
AT_ONCE = 64
CONNECTIONS = 8
"""Of each worker: 16 workers must fit the server's 100."""
LONGEST_S = 300.0
LEFT = "SELECT count(*) FROM workflow_event_locks WHERE status <> 'finished'"


done = itertools.count()


async def work() -> int:
    """Count what this process does."""
    return next(done)


@workflow(id="job")
async def job(ctx: Context, steps: int) -> None:
    for _ in range(steps):
        await ctx.step(work)


async def serve(dsn: str, concurrency: int) -> None:
    """Work from the parent's first sign to its second one; then print the CPU seconds, and the number of steps."""
    async with PostgresWorkflowStore.connect(dsn, max_size=CONNECTIONS) as store:
        runtime = WorkflowRuntime(store=store, workflows=[job])
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        stop, before_s = asyncio.Event(), time.process_time()
        working = asyncio.create_task(runtime.work(stop=stop, concurrency=concurrency))
        await asyncio.to_thread(sys.stdin.readline)
        print(time.process_time() - before_s, next(done), flush=True)
        stop.set()
        await working


@contextmanager
def workers(size: int, *options: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Start worker processes that wait for their sign."""
    command = [sys.executable, __file__, "serve", *options]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(size)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        yield children
    finally:
        for child in children:
            child.kill()
            child.communicate()


def tell(children: Sequence[subprocess.Popen[str]]) -> None:
    """Give all of them their next sign."""
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()


async def fill(dsn: str, steps: int) -> None:
    async with PostgresWorkflowStore.connect(dsn, max_size=16) as store:
        await store.ensure_schema()
        runtime = WorkflowRuntime(store=store, workflows=[job])
        left = iter(range(RUNS))

        async def some() -> None:
            for number in left:
                await runtime.start_run(job, steps, run_id=f"run-{number}")

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))


def told_by(child: subprocess.Popen[str]) -> tuple[float, float]:
    """Return what a worker says at its end: CPU seconds, and the number of its steps."""
    assert child.stdout is not None
    cpu_s, steps = child.stdout.readline().split()
    return float(cpu_s), float(steps)


async def drained(observer: asyncpg.Connection, children: Sequence[subprocess.Popen[str]]) -> float:
    """Have the workers drain the queue; return the seconds that it took."""
    began = time.perf_counter()
    tell(children)
    while await observer.fetchval(LEFT):
        if time.perf_counter() - began > LONGEST_S:
            raise TimeoutError(f"the queue was not drained in {LONGEST_S:.0f} s")
        await asyncio.sleep(0.02)
    return time.perf_counter() - began


async def measure(server: Server, size: int, options: argparse.Namespace) -> dict[str, float]:
    """Measure one number of workers once."""
    with server.database() as dsn:
        await fill(dsn, options.steps)
        observer = await asyncpg.connect(dsn)
        loop = ["--uvloop"] if options.uvloop else []
        with workers(size, "--dsn", dsn, "--concurrency", str(options.concurrency), *loop) as children:
            before = server.read(dsn)
            took_s = await drained(observer, children)
            spent_s = server.read(dsn).cpu_s - before.cpu_s
            tell(children)
            cpu_s, steps = zip(*map(told_by, children), strict=True)
            for child in children:
                child.wait(60)
        await observer.close()
        worker_s = sum(cpu_s)
        return {
            "runs a second": RUNS / took_s,
            "us of workers a run": worker_s / RUNS * 1e6,
            "us of the server a run": spent_s / RUNS * 1e6,
            "cores": (worker_s + spent_s) / took_s,
            "least share": min(steps) / sum(steps) * size,
            "greatest share": max(steps) / sum(steps) * size,
        }


async def compare(options: argparse.Namespace) -> None:
    found: dict[int, list[dict[str, float]]] = {size: [] for size in options.workers}
    with Server() as server:
        for _ in range(options.rounds):
            for size in options.workers:
                found[size].append(await measure(server, size, options))
    first = found[options.workers[0]]
    for size, rounds in found.items():
        rates = [facts["runs a second"] for facts in rounds]
        ratios = [rate / one["runs a second"] for rate, one in zip(rates, first, strict=True)]
        rest = {name: statistics.median(facts[name] for facts in rounds) for name in list(rounds[0])[1:]}
        print(
            f"{size:2} workers: {statistics.median(rates):,.0f} runs/s [{min(rates):,.0f}-{max(rates):,.0f}], "
            f"{statistics.median(ratios):.2f} of {options.workers[0]}; "
            + ", ".join(f"{name} {value:,.2f}" for name, value in rest.items())
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("serve", nargs="?", choices=("serve",), help=argparse.SUPPRESS)
    parser.add_argument("--dsn", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=1, help="of each run; at least 1")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    if options.serve:
        factory: Any = None
        if options.uvloop:
            import uvloop  # noqa: PLC0415  # an extra

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(options.dsn, options.concurrency))
    else:
        asyncio.run(compare(options))


if __name__ == "__main__":
    main()
