"""Sample values for cases: the length of a lease, a limit, an event."""

from __future__ import annotations

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent

__all__ = ["LEASE_MS", "MANY", "event", "events"]

LEASE_MS = 30_000
MANY = 1_000
"""A limit that no case reaches."""


def event(payload: str | None = "null", *, kind: str = "note", step_id: str | None = None) -> NewEvent:
    """Return a new event."""
    return NewEvent(kind=kind, step_id=step_id, payload=None if payload is None else JsonText(payload))


def events(*payloads: str) -> list[NewEvent]:
    """Return a new event for each payload."""
    return [event(payload) for payload in payloads]
