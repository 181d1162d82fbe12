"""The clock of a contender, and its talk with the process that measures.

A contender's argument is its task, as JSON. It makes itself ready, says so and waits, so that nothing of this is in the
figures of the server. It works when it is told to, and answers with what it did:

    contender  {"ready": true}
    parent     go
    contender  {"units": 1230, "seconds": 0.81, "client_cpu_s": 0.4}

Then it waits for its end: whatever it would do after the answer is nobody's measurement.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from comparison.contenders.sampling import Sampler

STEPS = 10
"""Steps of a run."""
PAYLOAD = {"text": "x" * 286}
"""A document of 300 bytes: the result of every step, and what a job is given."""
CONNECTIONS = 16
"""Connections of a contender, at the most."""
BULK = 1_000
"""Items of one call that starts many."""
WARM_UP_S = 0.2
"""Time that each contender works before it is ready: connections, prepared statements and caches are there then."""
WARM_UP_TURNS = 8
"""The least that is done in the warm-up, without regard to the time: servers plan anew up to the sixth use."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure."""

    workload: str
    at_once: int = 1
    seconds: float = 1.0
    """How long to work, unless there is a number of units."""
    units: int = 0
    """How many units to do, however long it takes; 0 for as many as there is time for."""
    backlog: int = 0
    """Jobs that are queued before a worker starts."""
    dsn: str = ""
    """An empty PostgreSQL database."""
    folder: str = ""
    """An empty folder, for a SQLite file."""
    options: dict[str, Any] = field(default_factory=dict)


def read_task() -> Task:
    """Return the task that the command line gives."""
    return Task(**json.loads(sys.argv[1]))


def wait_for_go() -> None:
    """Say that everything is ready, and wait for the word."""
    _say({"ready": True})
    if sys.stdin.readline().strip() != "go":
        raise SystemExit("nobody measures this")


def answer(**figures: Any) -> NoReturn:
    """Answer, and wait for the end."""
    _say(figures)
    sys.stdin.read()
    os._exit(0)  # at once: threads and connections of a contender need no ceremony


def absent(reason: str) -> NoReturn:
    """Answer that this version has nothing of the kind, which is no failure."""
    wait_for_go()
    answer(absent=reason)


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


class Stopwatch:
    """Wall and CPU time since it was made; the CPU time is that of this process with all its threads.

    Args:
        task: Says whether to profile, too.
    """

    def __init__(self, task: Task) -> None:
        self._sampler = Sampler() if task.options.get("profile") else None
        self._cpu_s = time.process_time()
        self._began = time.perf_counter()

    def figures(self, units: int) -> dict[str, Any]:
        """Return what an answer holds."""
        samples = {} if self._sampler is None else {"samples": self._sampler.stop()}
        return {
            **samples,
            "units": units,
            "seconds": time.perf_counter() - self._began,
            "client_cpu_s": time.process_time() - self._cpu_s,
        }


def repeat(task: Task, unit: Callable[[], object], size: int = 1) -> NoReturn:
    """Measure a blocking call, one after the other; each counts for `size` units."""
    _turn_for(WARM_UP_S, unit)
    wait_for_go()
    watch = Stopwatch(task)
    if task.units:
        turns = -(-task.units // size)
        for _ in range(turns):
            unit()
    else:
        turns = _turn_for(task.seconds, unit)
    answer(**watch.figures(turns * size))


def _turn_for(seconds: float, unit: Callable[[], object]) -> int:
    turns, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until or turns < WARM_UP_TURNS:
        unit()
        turns += 1
    return turns


async def repeat_async(task: Task, unit: Callable[[], Awaitable[object]], size: int = 1) -> NoReturn:
    """Measure an awaitable call, by as many tasks as the task says; each call counts for `size` units."""
    await _share(task.at_once, _while_time(WARM_UP_S, at_least=max(WARM_UP_TURNS, task.at_once)), unit)
    wait_for_go()
    watch = Stopwatch(task)
    turns = iter(range(-(-task.units // size))) if task.units else _while_time(task.seconds)
    done = await _share(task.at_once, turns, unit)
    answer(**watch.figures(done * size))


def _while_time(seconds: float, at_least: int = 1) -> Iterator[int]:
    turns, until = 0, time.perf_counter() + seconds
    while turns < at_least or time.perf_counter() < until:
        yield turns
        turns += 1


async def _share(at_once: int, turns: Iterator[int], unit: Callable[[], Awaitable[object]]) -> int:
    async def some() -> int:
        mine = 0
        for _ in turns:
            await unit()
            mine += 1
        return mine

    return sum(await asyncio.gather(*(some() for _ in range(at_once))))


class Jobs:
    """The calls of a handler, while a worker drains a queue.

    The clock runs from the first call, so that a worker's start is not in the rate.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._calls: list[float] = []
        self._all = asyncio.Event()

    def handled(self) -> None:
        """Count a call of the handler."""
        self._calls.append(time.perf_counter())
        if len(self._calls) == self._task.backlog:
            self._all.set()

    async def drain(self, work: Coroutine[Any, Any, object], stop: Callable[[], object]) -> NoReturn:
        """Let a worker work, and answer when the time is up or all jobs are done.

        Args:
            work: What the worker does until it is stopped.
            stop: Asks the worker to end when it has recorded what it did.
        """
        wait_for_go()
        watch = Stopwatch(self._task)
        worker = asyncio.ensure_future(work)
        handled = asyncio.ensure_future(self._all.wait())
        limit_s = None if self._task.units else self._task.seconds
        await asyncio.wait({worker, handled}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if self._task.units or worker.done():
            stop()
            await worker
        self._answer(watch)

    def _answer(self, watch: Stopwatch) -> NoReturn:
        answer(**watch.figures(len(self._calls)), rate=self.rate(time.perf_counter()))

    def rate(self, now: float) -> float:
        """Return jobs a second since the first one.

        A worker that claims many begins them in one burst. So the clock runs on to the end of the time, unless there
        was nothing left to do.
        """
        if len(self._calls) < 2:
            raise RuntimeError("the worker did no job")
        end = self._calls[-1] if self._all.is_set() else now
        return (len(self._calls) - 1) / (end - self._calls[0])
