"""What every role of the store stands on."""

from __future__ import annotations

from workflow_runtime.store import StoreCapabilities
from workflow_store_sql import RowReader

from .notices import Notices
from .session import Session

__all__ = ["CAPABILITIES", "Role"]

CAPABILITIES = StoreCapabilities(max_payload_bytes=4_000_000, durable=True, subscribe=True, transactions=True)
"""The server would carry more, but each claim of the run would carry it too. Whether a store tells of work is its
user's choice."""


class Role:
    """A part of the store: a session to send SQL by, and a reader for what comes back."""

    _session: Session
    _notices: Notices
    _capabilities: StoreCapabilities
    _read: RowReader

    @property
    def capabilities(self) -> StoreCapabilities:
        """The store's own declaration."""
        return self._capabilities
