"""Calls that are made at once, without leaving any behind when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["all_of"]

R = TypeVar("R")


async def all_of(*calls: Coroutine[Any, Any, R]) -> list[R]:
    """Run calls as tasks and return their results. When one fails, cancel the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as errors:
        # A report can show one error. The others mostly follow from the first.
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
