"""Running calls at once, so that a failure leaves nothing running."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["all_of"]

R = TypeVar("R")


async def all_of(*calls: Coroutine[Any, Any, R]) -> list[R]:
    """Run calls as tasks and give their results; when one fails, stop the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as errors:
        # One error is what a report can show: the first, the others mostly follow from it.
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
