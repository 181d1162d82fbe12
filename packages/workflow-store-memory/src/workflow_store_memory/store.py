"""The store: its roles put together, and what concerns it as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from workflow_runtime.store import StoreCapabilities, outside_handlers

from .bulk import Bulk
from .data import InMemoryData
from .event_log import EventLog
from .forks import Forks
from .leases import Leases
from .notices import Notices
from .queries import Queries
from .schedules import Schedules
from .signals import Signals
from .timers import Timers

__all__ = ["InMemoryWorkflowStore"]


@outside_handlers
class InMemoryWorkflowStore(Bulk, Forks, EventLog, Leases, Timers, Signals, Schedules, Queries, Notices):
    """The store in ordinary Python objects, with the whole contract. Nothing outlives the process.

    Args:
        data: What to work on; several stores over one `InMemoryData` behave like several connections to one
            database. By default the store has data of its own.
        max_payload_bytes: The largest payload that it accepts.
        clock: The store's time in milliseconds since the Unix epoch; by default the machine's.
    """

    def __init__(
        self,
        *,
        data: InMemoryData | None = None,
        max_payload_bytes: int = 2_000_000,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._data = InMemoryData() if data is None else data
        self._capabilities = StoreCapabilities(
            max_payload_bytes=max_payload_bytes, durable=False, subscribe=True, notify=True, auto_schema=True
        )
        self._clock = _machine_clock if clock is None else clock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def capabilities(self) -> StoreCapabilities:
        """The store's own declaration."""
        return self._capabilities

    async def ensure_schema(self) -> None:
        """Do nothing: there are no tables."""

    async def check_schema(self) -> None:
        """Pass: there are no tables."""

    def get_migrations(self) -> tuple[()]:
        """Return no migrations."""
        return ()

    def get_migration_sql(self) -> str:
        """Return no SQL."""
        return ""

    async def read_clock(self) -> int:
        """Read the store's time."""
        return self._clock()

    async def close(self) -> None:
        """Do nothing: there is no connection to end, and the data lives as long as something refers to it."""


def _machine_clock() -> int:
    return time.time_ns() // 1_000_000
