"""The measuring of stores: each verb for a share of the time, first alone, then by many callers at once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from ..harness import StoreHarness
from ..measurements import AT_ONCE, Measurement, Timing, timing_of
from ..tasks import all_of
from .callers import BENCH_VERBS, Act, BenchVerb, Caller

__all__ = ["FEW", "MANY", "StoreBench"]

FEW, MANY = 100, 10_000
"""The runs that lie in the store while its verbs are measured, if there is time to create them."""
_HANDLES = 4
_FEWEST_ROUNDS = 3
_MOST_CALLS = 320
"""The calls of one timing: a fast store must not be measured among more runs than a slow one."""


class StoreBench:
    """The bench of one store.

    Args:
        name: Name of the store in the measurements.
        h: The harness of the store, entered.
    """

    def __init__(self, name: str, h: StoreHarness) -> None:
        self._name = name
        self._h = h
        self._numbers = itertools.count(1)
        self._stored = 0

    async def fill(self, count: int, seconds: float) -> None:
        """Create runs until so many are there, or the time is over."""
        callers = await self._callers(AT_ONCE)
        end = time.perf_counter() + seconds
        while self._stored < count and time.perf_counter() < end:
            missing = callers[: count - self._stored]
            await all_of(*(caller.create() for caller in missing))
            self._stored += len(missing)

    async def measure(self, seconds: float, *, at_once: bool) -> list[Measurement]:
        """Measure each verb, with an equal share of what is left of the time.

        Args:
            seconds: The time for all verbs.
            at_once: Measure also many callers at once.
        """
        end = time.perf_counter() + seconds
        found = []
        for number, verb in enumerate(BENCH_VERBS):
            share_s = (end - time.perf_counter()) / (len(BENCH_VERBS) - number)
            found.append(await self._measure(verb, share_s, at_once=at_once))
        return found

    async def _measure(self, verb: BenchVerb, share_s: float, *, at_once: bool) -> Measurement:
        alone = many = problem = None
        try:
            if share_s > 0:
                alone = await self._time(verb, 1, share_s / 2 if at_once else share_s)
            if share_s > 0 and at_once:
                many = await self._time(verb, AT_ONCE, share_s / 2)
        except Exception as error:  # noqa: BLE001  # it is reported, and the other verbs are measured
            problem = f"{type(error).__name__}: {error}".partition("\n")[0]
        return Measurement(
            store=self._name, verb=verb.name, stored=self._stored, alone=alone, at_once=many, problem=problem
        )

    async def _time(self, verb: BenchVerb, count: int, seconds: float) -> Timing:
        """Call a verb again and again by so many callers. The first round warms up, and does not count."""
        end = time.perf_counter() + seconds
        callers = await self._callers(count)
        await _each(callers, verb.begin)
        times_s: list[float] = []
        busy_s = 0.0
        for number in range(max(_FEWEST_ROUNDS, _MOST_CALLS // count) + 1):
            await _each(callers, verb.before)
            began = time.perf_counter()
            found = await all_of(*(_timed(verb.call, caller) for caller in callers))
            if number:
                busy_s += time.perf_counter() - began
                times_s += found
            if number >= _FEWEST_ROUNDS and time.perf_counter() > end:
                break
        return timing_of(times_s, busy_s)

    async def _callers(self, count: int) -> list[Caller]:
        handles = await self._h.handles(_HANDLES)
        return [
            Caller(handles[number % _HANDLES], f"bench-{next(self._numbers)}", self._h.now_ms)
            for number in range(count)
        ]


async def _each(callers: Sequence[Caller], act: Act | None) -> None:
    if act is not None:
        await all_of(*(act(caller) for caller in callers))


async def _timed(call: Act, caller: Caller) -> float:
    began = time.perf_counter()
    await call(caller)
    return time.perf_counter() - began
