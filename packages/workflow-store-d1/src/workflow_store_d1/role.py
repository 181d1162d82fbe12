"""What every role of the store stands on."""

from __future__ import annotations

from workflow_runtime.store import QueryCosts, StoreCapabilities
from workflow_store_sql import RowReader

from .fenced_write import EVENTS_AT_ONCE
from .session import Session

__all__ = ["CAPABILITIES", "COSTS", "Role"]

COSTS = QueryCosts(read=1, claim=6, tick=6, write=5, release=2, events_per_query=EVENTS_AT_ONCE, call=7)
"""The statements of the longest batch of each kind."""

CAPABILITIES = StoreCapabilities(
    max_payload_bytes=900_000, durable=True, subscribe=True, transactions=True, metered=COSTS
)
"""A run's input and output lie in one row, and D1 carries rows of up to 2,000,000 bytes."""


class Role:
    """A part of the store: a session to send SQL by, and a reader for what comes back."""

    _session: Session
    _read: RowReader
    _capabilities: StoreCapabilities

    @property
    def capabilities(self) -> StoreCapabilities:
        """The store's own declaration."""
        return self._capabilities
