"""Running something to its end, whatever cancellations come meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

__all__ = ["run_shielded"]


async def run_shielded(work: Coroutine[Any, Any, object]) -> None:
    """Run something that a cancelled task has to do, and that is bounded by itself.

    A further cancellation must not cut it short, and there are those who cancel again and again.
    """
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    if not task.cancelled():
        task.result()
