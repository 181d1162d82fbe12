"""The store's declaration about itself."""

from __future__ import annotations

from workflow_runtime.store import QueryCosts, StoreCapabilities

from .fenced_write import EVENTS_AT_ONCE

__all__ = ["CAPABILITIES"]

_COSTS = QueryCosts(read=1, claim=6, tick=6, write=5, release=2, events_per_query=EVENTS_AT_ONCE, call=7)
"""The statements of the longest batch of each kind."""

CAPABILITIES = StoreCapabilities(
    max_payload_bytes=900_000, durable=True, subscribe=True, transactions=True, metered=_COSTS
)
"""A run's input and output lie in one row, and D1 carries rows of up to 2,000,000 bytes."""
