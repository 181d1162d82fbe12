"""Deliveries into a run's inbox."""

from __future__ import annotations

import json
from collections.abc import Sequence

from workflow_runtime.payloads import JsonText, encode_json
from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    AlreadyDecided,
    AlreadyFinished,
    Buffered,
    DeliverApprovalResult,
    Delivered,
    DeliverRetryResult,
    DeliverSignalResult,
    Duplicate,
    InboxEntry,
    InboxKind,
    NotFound,
    NotWaiting,
    RunStatus,
    SignalToDeliver,
)

from .pages import page
from .state import Run, State

__all__ = ["InboxVerbs", "receive"]


class InboxVerbs:
    """The verbs that deliver, and the one that reads what nobody has taken."""

    state: State

    def deliver_signal(
        self,
        *,
        run_id: str,
        signal_id: str,
        name: str,
        payload: JsonText | None,
        now_ms: int,
        only_if_waiting: bool = False,
    ) -> DeliverSignalResult:
        """Put a signal into the run's inbox (SIGNAL-1 to SIGNAL-5)."""
        run = self.state.runs.get(run_id)
        if run is None:
            return NotFound()
        if (seq := run.inbox.known.get(("signal", signal_id))) is not None:
            return Duplicate(inbox_seq=seq)
        if _takes_nothing(run):
            return AlreadyFinished(status=run.status)
        waits = _waits_for(run, "signal", name)
        if only_if_waiting and not waits:
            return NotWaiting(status=run.status)
        return _deliver(run, receive(run, "signal", name, signal_id, payload, now_ms), waits, now_ms)

    def deliver_signals(self, *, signals: Sequence[SignalToDeliver], now_ms: int) -> tuple[DeliverSignalResult, ...]:
        """Put signals into inboxes, one after the other (BULK-5)."""
        return tuple(
            self.deliver_signal(
                run_id=signal.run_id,
                signal_id=signal.signal_id,
                name=signal.name,
                payload=signal.payload,
                now_ms=now_ms,
            )
            for signal in signals
        )

    def deliver_approval(
        self,
        *,
        run_id: str,
        approval_id: str,
        approved: bool,
        now_ms: int,
        decided_by: str | None = None,
        comment: str | None = None,
        only_if_waiting: bool = False,
    ) -> DeliverApprovalResult:
        """Put a decision into the run's inbox (APPROVAL-1, APPROVAL-2)."""
        run = self.state.runs.get(run_id)
        if run is None:
            return NotFound()
        if (seq := run.inbox.known.get(("approval", approval_id))) is not None:
            return AlreadyDecided(approved=json.loads(run.inbox.entries[seq - 1].payload or "{}")["approved"])
        if _takes_nothing(run):
            return AlreadyFinished(status=run.status)
        waits = _waits_for(run, "approval", approval_id)
        if only_if_waiting and not waits:
            return NotWaiting(status=run.status)
        payload = encode_json({"approved": approved, "decided_by": decided_by, "comment": comment})
        return _deliver(run, receive(run, "approval", approval_id, approval_id, payload, now_ms), waits, now_ms)

    def deliver_retry(self, *, run_id: str, retry_id: str, now_ms: int) -> DeliverRetryResult:
        """Put the wish to try again into the run's inbox (SIGNAL-7)."""
        run = self.state.runs.get(run_id)
        if run is None:
            return NotFound()
        if (seq := run.inbox.known.get(("retry", retry_id))) is not None:
            return Duplicate(inbox_seq=seq)
        if _takes_nothing(run):
            return AlreadyFinished(status=run.status)
        waits = run.status is RunStatus.PAUSED
        return _deliver(run, receive(run, "retry", "retry", retry_id, None, now_ms), waits, now_ms)

    def read_inbox(
        self, *, run_id: str, limit: int, after_seq: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> Sequence[InboxEntry]:
        """Return entries that are not taken (SIGNAL-6)."""
        run = self.state.runs.get(run_id)
        return () if run is None else page(run.inbox.untaken(after_seq), limit, max_bytes)


def receive(run: Run, kind: InboxKind, name: str, delivery_id: str, payload: JsonText | None, now_ms: int) -> int:
    """Add an entry and return its number (SIGNAL-4)."""
    seq = len(run.inbox.entries) + 1
    run.inbox.entries.append(
        InboxEntry(inbox_seq=seq, kind=kind, name=name, delivery_id=delivery_id, payload=payload, received_at_ms=now_ms)
    )
    run.inbox.known[kind, delivery_id] = seq
    run.updated_at_ms = now_ms
    return seq


def _takes_nothing(run: Run) -> bool:
    """Return True if nobody will ever take what arrives now; somebody may requeue a dead run (SIGNAL-3)."""
    return run.status.is_terminal and run.status is not RunStatus.DEAD


def _waits_for(run: Run, kind: InboxKind, name: str) -> bool:
    return run.status is RunStatus.PAUSED and any(item.kind == kind and item.name == name for item in run.awaited)


def _deliver(run: Run, seq: int, waits: bool, now_ms: int) -> Delivered | Buffered:
    """Queue the run if it waits for this (SIGNAL-1)."""
    if not waits:
        return Buffered(inbox_seq=seq)
    run.status, run.due_at_ms, run.awaited = RunStatus.QUEUED, now_ms, ()
    return Delivered(inbox_seq=seq)
