"""The store: all roles on one server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from workflow_runtime.store import LeaseRenewer, StoreCapabilities

from .claims import Claims
from .inbox import Inbox
from .lives import Lives
from .notices import Notices
from .queries import Queries
from .schedules import Schedules
from .server import Server
from .writes import Writes

__all__ = ["ValkeyWorkflowStore"]


class ValkeyWorkflowStore(Lives, Writes, Claims, Inbox, Schedules, Queries, Notices):
    """A workflow store on one Valkey or Redis server. Make it on the event loop that uses it, and close it there.

    Args:
        url: Where the server is, such as `valkey://localhost:6379/0`.
        prefix: What all its keys begin with. Each prefix is a store of its own. Braces keep the keys of a store
            together where names are hashed.
        max_connections: The most connections that it opens.
    """

    capabilities = StoreCapabilities(
        max_payload_bytes=1_000_000, durable=True, subscribe=True, notify=True, heartbeats=True
    )

    def __init__(self, url: str, *, prefix: str = "{workflow}:", max_connections: int = 16) -> None:
        self._server = Server(url, prefix, max_connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    async def ensure_schema(self) -> None:
        await self._server.load_functions()

    async def check_schema(self) -> None:
        await self._server.check_format()

    async def read_clock(self) -> int:
        now_ms: int = await self._server.call("read_clock")
        return now_ms

    @asynccontextmanager
    async def open_heartbeats(self) -> AsyncIterator[LeaseRenewer]:
        """Open one connection of its own, on the event loop that runs now."""
        async with ValkeyWorkflowStore(self._server.url, prefix=self._server.prefix, max_connections=1) as renewer:
            yield renewer
