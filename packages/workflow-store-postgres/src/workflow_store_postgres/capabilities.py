"""The store's declaration about itself."""

from __future__ import annotations

from workflow_runtime.store import StoreCapabilities

__all__ = ["CAPABILITIES"]

CAPABILITIES = StoreCapabilities(max_payload_bytes=4_000_000, durable=True, subscribe=True, transactions=True)
"""The server would carry more, but each claim of the run would carry it too. Whether a store notifies of work is its
user's choice."""
