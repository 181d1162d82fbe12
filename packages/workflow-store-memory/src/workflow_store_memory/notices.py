"""Notices of work for waiting workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from workflow_runtime.store import Listening, WorkNotice

from .data import InMemoryData, WorkListener
from .store_role import StoreRole

__all__ = ["Notices"]


class _Live:
    live = True


class Notices(StoreRole):
    """The role `SupportsNotify`."""

    def listen(self, on_notice: Callable[[WorkNotice], None]) -> AbstractAsyncContextManager[Listening]:
        """NOTIFY-1 to NOTIFY-5."""
        return _listening(self._data, on_notice)


@asynccontextmanager
async def _listening(data: InMemoryData, on_notice: Callable[[WorkNotice], None]) -> AsyncGenerator[Listening, None]:
    listener = WorkListener(asyncio.get_running_loop(), on_notice)
    with data.lock:
        data.listeners.add(listener)
    listener.notify(None)
    try:
        yield _Live()
    finally:
        with data.lock:
            data.listeners.discard(listener)
        listener.left = True
