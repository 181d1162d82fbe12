"""The cost of a durable step on a SQLite file, beside plain inserts of the same payload into the same kind of file.

    python benchmarks/sqlite_steps.py [--rounds 5] [--at-once 1 4 16 64] [--folder FOLDER]

For each number of runs at once, in turns: plain inserts by as many tasks through one connection of aiosqlite, the runs
with each write in a commit of its own (`combine=False`), and the runs with writes that wait sharing one. All are in
WAL mode with synchronous=FULL. The plain insert is the floor of a commit for each: no fence, no lease, no engine.

Latency is the time from one call of a run's step function to the next one, so the commit between them is in it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiosqlite
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_d1 import SQLiteWorkflowStore

STEPS = 4_000
"""Steps of a measurement, at the most, over all its runs."""
LEAST_STEPS, MOST_STEPS = 25, 300
"""Steps of a run."""
PAYLOAD = {"text": "x" * 286}


@dataclass
class Taken:
    """Measurements of one kind, one for each round."""

    rates: list[float] = field(default_factory=list)
    """Steps or inserts in a second."""
    cpu_us: list[float] = field(default_factory=list)
    """CPU time of the process for a step."""
    ratios: list[float] = field(default_factory=list)
    """The rate over that of the plain inserts in the same round."""
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


_calls: dict[int, list[float]] = {}
"""By run, when its step function was called."""


async def work(number: int) -> dict[str, Any]:
    _calls.setdefault(number, []).append(time.perf_counter())
    return PAYLOAD


@workflow(id="steps")
async def steps(ctx: Context, numbers: list[int]) -> None:
    number, count = numbers
    for _ in range(count):
        await ctx.step(work, number)


async def durable_steps(folder: Path, at_once: int, count: int, taken: Taken, *, combine: bool) -> None:
    async with SQLiteWorkflowStore.open(folder / f"{at_once}-{combine}.db", combine=combine) as store:
        await store.ensure_schema()
        runtime = WorkflowRuntime(store=store, workflows=[steps])
        _calls.clear()

        async def run(number: int) -> None:
            await (await runtime.run_here(steps, [number, count])).result()

        await measure(run, at_once, count, taken)
    between = [after - before for calls in _calls.values() for before, after in pairwise(calls)]
    cuts = statistics.quantiles(between, n=100)
    taken.p50_ms.append(cuts[49] * 1e3)
    taken.p99_ms.append(cuts[98] * 1e3)


async def plain_inserts(folder: Path, at_once: int, count: int, taken: Taken) -> None:
    async with aiosqlite.connect(folder / f"{at_once}-plain.db", isolation_level=None) as db:
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute("PRAGMA synchronous = FULL")
        await db.execute("CREATE TABLE plain (run_id TEXT, number INTEGER, payload TEXT)")
        payload = str(PAYLOAD)

        async def run(number: int) -> None:
            for position in range(count):
                await db.execute("INSERT INTO plain VALUES (?, ?, ?)", (f"run-{number}", position, payload))

        await measure(run, at_once, count, taken)


async def measure(run: Callable[[int], Awaitable[None]], at_once: int, count: int, taken: Taken) -> None:
    began, cpu_began = time.perf_counter(), time.process_time()
    await asyncio.gather(*(run(number) for number in range(at_once)))
    taken.rates.append(at_once * count / (time.perf_counter() - began))
    taken.cpu_us.append((time.process_time() - cpu_began) / (at_once * count) * 1e6)


async def compare(at_once: int, rounds: int, folder: str | None) -> None:
    count = max(LEAST_STEPS, min(MOST_STEPS, STEPS // at_once))
    plain, each, combined = Taken(), Taken(), Taken()
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            await plain_inserts(Path(name), at_once, count, plain)
            # Neither is always the one that comes first.
            for taken, combine in sorted(
                [(each, False), (combined, True)], key=lambda one: one[1] == (number % 2 == 0)
            ):
                await durable_steps(Path(name), at_once, count, taken, combine=combine)
                taken.ratios.append(taken.rates[-1] / plain.rates[-1])
    print(f"{at_once:2} at once  plain insert  {statistics.median(plain.rates):7.0f}/s")
    report("a commit each", each)
    report("combined", combined)


def report(title: str, taken: Taken) -> None:
    rate, ratio, cpu_us = map(statistics.median, (taken.rates, taken.ratios, taken.cpu_us))
    p50_ms, p99_ms = map(statistics.median, (taken.p50_ms, taken.p99_ms))
    rounds = ", ".join(f"{one:.2f}" for one in taken.ratios)
    print(f"            {title:13} {rate:7.0f}/s  {ratio:5.2f} of plain ({rounds})", end="  ")
    print(f"p50 {p50_ms:6.2f} ms  p99 {p99_ms:6.2f} ms  CPU {cpu_us:4.0f} us")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The cost of a durable step on a SQLite file.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--folder", help="where the files are; its disk decides")
    return parser.parse_args(words)


async def main() -> None:
    options = arguments()
    for at_once in options.at_once:
        await compare(at_once, options.rounds, options.folder)


if __name__ == "__main__":
    asyncio.run(main())
