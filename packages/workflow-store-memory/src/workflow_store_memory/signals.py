"""Delivering into a run's inbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    TERMINAL_STATUSES,
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
    JsonText,
    NotFound,
    NotWaiting,
    RunStatus,
    SignalToDeliver,
    approval_payload,
    decode_json,
)

from .atomic import atomic
from .data import InMemoryData, Run
from .records import first_page
from .store_role import StoreRole

__all__ = ["Signals"]


class Signals(StoreRole):
    """The role `SignalStore`, and `deliver_signals`."""

    @atomic
    async def deliver_signal(
        self,
        *,
        run_id: str,
        signal_id: str,
        name: str,
        payload: JsonText | None,
        now_ms: int,
        only_if_waiting: bool = False,
    ) -> DeliverSignalResult:
        """SIGNAL-1 to SIGNAL-5."""
        signal = SignalToDeliver(run_id=run_id, signal_id=signal_id, name=name, payload=payload)
        return self._deliver_signal(signal, now_ms, only_if_waiting=only_if_waiting)

    @atomic
    async def deliver_signals(
        self, *, signals: Sequence[SignalToDeliver], now_ms: int
    ) -> tuple[DeliverSignalResult, ...]:
        """BULK-5."""
        return tuple(self._deliver_signal(signal, now_ms, only_if_waiting=False) for signal in signals)

    def _deliver_signal(self, signal: SignalToDeliver, now_ms: int, *, only_if_waiting: bool) -> DeliverSignalResult:
        run = self._data.runs.get(signal.run_id)
        if run is None:
            return NotFound()
        known = run.deliveries.get(("signal", signal.signal_id))
        if known is not None:
            return Duplicate(inbox_seq=known.inbox_seq)
        refusal = _refusal(run, "signal", signal.name, only_if_waiting)
        return refusal or _deliver(self._data, run, "signal", signal.name, signal.signal_id, signal.payload, now_ms)

    @atomic
    async def deliver_approval(
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
        """APPROVAL-1, APPROVAL-2."""
        run = self._data.runs.get(run_id)
        if run is None:
            return NotFound()
        known = run.deliveries.get(("approval", approval_id))
        if known is not None and known.payload is not None:
            return AlreadyDecided(approved=decode_json(known.payload)["approved"])
        payload = approval_payload(approved=approved, decided_by=decided_by, comment=comment)
        refusal = _refusal(run, "approval", approval_id, only_if_waiting)
        return refusal or _deliver(self._data, run, "approval", approval_id, approval_id, payload, now_ms)

    @atomic
    async def deliver_retry(self, *, run_id: str, retry_id: str, now_ms: int) -> DeliverRetryResult:
        """SIGNAL-7."""
        run = self._data.runs.get(run_id)
        if run is None:
            return NotFound()
        known = run.deliveries.get(("retry", retry_id))
        if known is not None:
            return Duplicate(inbox_seq=known.inbox_seq)
        if run.status in TERMINAL_STATUSES and run.status is not RunStatus.DEAD:
            return AlreadyFinished(status=run.status)
        return _deliver(self._data, run, "retry", "retry", retry_id, None, now_ms)

    @atomic
    async def read_inbox(
        self, *, run_id: str, limit: int, after_seq: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[InboxEntry, ...]:
        """SIGNAL-6."""
        run = self._data.runs.get(run_id)
        if run is None:
            return ()
        return first_page(run.untaken_after(after_seq), limit=limit, max_bytes=max_bytes)


def _refusal(
    run: Run, kind: Literal["signal", "approval"], name: str, only_if_waiting: bool
) -> AlreadyFinished | NotWaiting | None:
    # A dead run takes deliveries: `requeue_run` may bring it back.
    if run.status in TERMINAL_STATUSES and run.status is not RunStatus.DEAD:
        return AlreadyFinished(status=run.status)
    if only_if_waiting and not run.waits_for(kind, name):
        return NotWaiting(status=run.status)
    return None


def _deliver(
    data: InMemoryData,
    run: Run,
    kind: InboxKind,
    name: str,
    delivery_id: str,
    payload: JsonText | None,
    now_ms: int,
) -> Delivered | Buffered:
    awaited = run.waits_for(kind, name)
    entry = run.receive(kind=kind, name=name, delivery_id=delivery_id, payload=payload, now_ms=now_ms)
    if awaited or run.status is RunStatus.RUNNING:
        data.notify(run.run_id)
    if not awaited:
        return Buffered(inbox_seq=entry.inbox_seq)
    run.make_queued(now_ms)
    return Delivered(inbox_seq=entry.inbox_seq)
