"""Waiting for an end that must come, whatever cancellations come meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

__all__ = ["to_its_end"]


async def to_its_end(work: Coroutine[Any, Any, object]) -> None:
    """Run something that a cancelled task has to do, and that is bounded by itself.

    A further cancellation must not cut it short, and there are those who cancel again and again.
    """
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    if not task.cancelled():
        task.result()
