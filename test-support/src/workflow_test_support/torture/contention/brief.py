"""The workflow that the ticks of the contention runs start: short, and it notes when it was really at work."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from datetime import timedelta

from workflow_runtime import NO_RETRY, Context, step_info, workflow
from workflow_test_support.torture.journal import note

__all__ = ["brief"]

_LONGEST_S = 0.008
_SLEEPING = 0.2
"""This share of the runs is paused for a moment between its two steps."""

_executions = itertools.count(1)


async def occupy() -> None:
    """Keep the schedule busy for some milliseconds."""
    run_id, execution = step_info().run_id, f"{os.getpid()}-{next(_executions)}"
    note("begun", run=run_id, execution=execution)
    try:
        await asyncio.sleep(random.uniform(0, _LONGEST_S))
    finally:
        note("ended", run=run_id, execution=execution)


@workflow(id="brief", retry=NO_RETRY)
async def brief(ctx: Context, _: None) -> None:
    await ctx.step(occupy)
    if await ctx.random() < _SLEEPING:
        await ctx.sleep(timedelta(milliseconds=5))
        await ctx.step(occupy)
