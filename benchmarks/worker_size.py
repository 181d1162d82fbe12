"""The time in which one worker begins and ends many runs that are at a step all at once, and what the collector takes.

    python benchmarks/worker_size.py [--runs 1000 4000 16000]

On the memory store, so that only the worker counts. Time in proportion to the number of runs shows as the same figure
a run on each line. Each number of runs has a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import time
from collections.abc import Mapping
from typing import Any

from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_memory import InMemoryWorkflowStore


class CollectorTime:
    """The time that the garbage collector has taken, and its longest pause, in seconds."""

    def __init__(self) -> None:
        self.all_s = 0.0
        self.longest_s = 0.0
        self._began = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
            return
        took_s = time.perf_counter() - self._began
        self.all_s += took_s
        self.longest_s = max(self.longest_s, took_s)


class Gate:
    """A step that every run waits in until all are there and the gate is opened."""

    def __init__(self, runs: int) -> None:
        self.full = asyncio.Event()
        self.open = asyncio.Event()
        self._missing = runs

    async def pass_through(self) -> None:
        """Wait with the others."""
        self._missing -= 1
        if not self._missing:
            self.full.set()
        await self.open.wait()


async def begin_and_end(runs: int) -> tuple[float, float]:
    """Return the seconds until all runs were at their step, and from a stop until the worker had ended them."""
    gate = Gate(runs)

    @workflow(id="waits")
    async def waits(ctx: Context, number: int) -> None:
        await ctx.step(gate.pass_through)

    runtime = WorkflowRuntime(store=InMemoryWorkflowStore(), workflows=[waits])
    for number in range(runs):
        await runtime.start_run(waits, number)
    stop, began = asyncio.Event(), time.perf_counter()
    working = asyncio.create_task(runtime.work(stop=stop, concurrency=runs))
    await gate.full.wait()
    at_step = time.perf_counter()
    stop.set()
    gate.open.set()
    await working
    return at_step - began, time.perf_counter() - at_step


def measure(runs: int) -> None:
    """Measure one number of runs, and print it."""
    collector = CollectorTime()
    began_s, ended_s = asyncio.run(begin_and_end(runs))
    print(
        f"{runs:,} runs: begun in {began_s:.2f} s ({began_s / runs * 1e6:.0f} us each), "
        f"ended in {ended_s:.2f} s ({ended_s / runs * 1e6:.0f} us each); "
        f"garbage collection {collector.all_s:.2f} s, longest pause {collector.longest_s:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1_000, 4_000, 16_000])
    arguments: Any = parser.parse_args()
    for runs in arguments.runs:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(runs,))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
