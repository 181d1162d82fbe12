"""The way of stored runs into the frozen values that leave the store."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Protocol, TypeVar

from workflow_runtime.store import (
    AWAITED_SHOWN,
    DEFAULT_HISTORY_EVENTS,
    Event,
    InboxEntry,
    JsonText,
    RunRecord,
    RunStatus,
    RunSummary,
)

from .data import Run

__all__ = ["first_history", "first_page", "run_record", "run_summary", "untaken_inbox"]


class _HasPayload(Protocol):
    @property
    def payload(self) -> JsonText | None: ...


T = TypeVar("T", bound=_HasPayload)


def first_page(items: Iterable[T], *, limit: int, max_bytes: int) -> tuple[T, ...]:
    """Take items while they fit; the first one fits always, so that a reader gets on."""
    page: list[T] = []
    size = 0
    for item in islice(items, limit):
        size += len(item.payload or "")
        if page and size > max_bytes:
            break
        page.append(item)
    return tuple(page)


def first_history(run: Run, *, history_limit: int, history_bytes: int) -> tuple[Event, ...]:
    """Return the first page of a run's log."""
    return first_page(run.events, limit=history_limit, max_bytes=history_bytes)


def untaken_inbox(run: Run) -> tuple[InboxEntry, ...]:
    """Return the inbox entries that a claim brings."""
    return tuple(islice(run.untaken.values(), DEFAULT_HISTORY_EVENTS))


def run_summary(run: Run) -> RunSummary:
    """Show a run as listings do."""
    return RunSummary(**_summary_fields(run))


def run_record(run: Run) -> RunRecord:
    """Show a run with its payloads."""
    return RunRecord(
        **_summary_fields(run),
        input=run.input,
        output=run.output,
        error=run.error,
        reason=run.reason,
        awaited=run.awaited if run.status is RunStatus.PAUSED else (),
        schedule_id=run.schedule_id,
        scheduled_at_ms=run.scheduled_at_ms,
        forked_from_run_id=run.forked_from_run_id,
        forked_from_index=run.forked_from_index,
    )


def _summary_fields(run: Run) -> dict[str, Any]:
    awaited = run.awaited if run.status is RunStatus.PAUSED else ()
    return {
        "run_id": run.run_id,
        "workflow_id": run.workflow_id,
        "workflow_version": run.workflow_version,
        "status": run.status,
        "queue": run.queue,
        "priority": run.priority,
        "created_at_ms": run.created_at_ms,
        "updated_at_ms": run.updated_at_ms,
        "finished_at_ms": run.finished_at_ms,
        "due_at_ms": run.due_at_ms,
        "next_index": run.next_index,
        "inbox_seq": run.inbox_seq,
        "cancel_requested": run.cancel_requested,
        "crashes": run.crashes,
        "lease_owner": None if run.lease is None else run.lease.owner,
        "lease_expires_at_ms": None if run.lease is None else run.lease.expires_at_ms,
        "first_awaited": awaited[:AWAITED_SHOWN],
        "awaited_count": len(awaited),
    }
