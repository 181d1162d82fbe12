"""The workflow that is run under disturbance: it notes in the journal what it really does."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from workflow_runtime import NO_RETRY, Context, step_info, workflow
from workflow_test_support.torture.journal import note

STEPS = 20
SIGNALS = 3
"""Each run waits for so many."""
SIGNAL = "go"

_LONGEST_STEP_S = 0.03
_MODULUS = 1_000_003

_executions = itertools.count(1)


def _begin() -> str:
    """Note that a step begins; give what tells this execution from all others."""
    execution = f"{os.getpid()}-{next(_executions)}"
    info = step_info()
    note("begun", run=info.run_id, step=info.step_id, execution=execution)
    return execution


async def work(value: int, number: int) -> dict[str, Any]:
    execution = _begin()
    await asyncio.sleep(random.uniform(0, _LONGEST_STEP_S))
    return {"value": _next_value(value, number), "execution": execution}


def work_on_a_thread(value: int, number: int) -> dict[str, Any]:
    execution = _begin()
    time.sleep(random.uniform(0, _LONGEST_STEP_S))
    return {"value": _next_value(value, number), "execution": execution}


def _next_value(value: int, number: int) -> int:
    return (value * 31 + number) % _MODULUS


@workflow(id="errand", retry=NO_RETRY)
async def errand(ctx: Context, value: int) -> dict[str, Any]:
    """Twenty steps: in a row, on threads, side by side; between them a sleep and three waits."""

    async def step(value: int, number: int) -> int:
        body: Callable[[int, int], Any] = work_on_a_thread if number % 5 == 0 else work
        done = await ctx.step.options(id=f"step-{number}")(body, value, number)
        result: int = done["value"]
        return result

    received = []
    for number in range(5):
        value = await step(value, number)
    received.append(await ctx.wait_for_event(SIGNAL))
    one, other = await asyncio.gather(step(value, 5), step(value, 6))
    value = one + other
    await ctx.sleep(timedelta(milliseconds=100))
    for number in range(7, 14):
        value = await step(value, number)
    received.append(await ctx.wait_for_event(SIGNAL))
    for number in range(14, STEPS):
        value = await step(value, number)
    received.append(await ctx.wait_for_event(SIGNAL))
    return {"value": value, "received": received}


def expected_output(value: int) -> dict[str, Any]:
    """Return what a run must give, whatever happens to those who drive it."""
    for number in range(5):
        value = _next_value(value, number)
    value = _next_value(value, 5) + _next_value(value, 6)
    for number in range(7, STEPS):
        value = _next_value(value, number)
    return {"value": value, "received": list(range(SIGNALS))}
