"""The base of each role of the store."""

from __future__ import annotations

from workflow_runtime.store import StoreCapabilities
from workflow_store_sql import RowReader

from .combined_writes import Combined
from .notices import NoticeSender
from .statement_sender import StatementSender

__all__ = ["StoreRole"]


class StoreRole:
    """A role of the contract, as the store keeps it: a sender to send SQL by, and a reader for what comes back."""

    _sender: StatementSender
    _notices: NoticeSender
    _combined: Combined
    _capabilities: StoreCapabilities
    _read: RowReader

    @property
    def capabilities(self) -> StoreCapabilities:
        """The store's own declaration."""
        return self._capabilities
