"""Opening the store that a command line names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from workflow_runtime import WorkflowExecutionStore
from workflow_store_d1 import D1WorkflowStore


@asynccontextmanager
async def open_store(location: str) -> AsyncIterator[WorkflowExecutionStore]:
    """Open the SQLite file at a path.

    Raises:
        ValueError: `location` is a URL.
    """
    if "://" in location:
        raise ValueError(f"{location!r} is a URL; this demo opens SQLite files, so give it a path")
    async with D1WorkflowStore.open(location) as store:
        yield store
