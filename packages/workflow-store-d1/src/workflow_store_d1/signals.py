"""Delivering into a run's inbox."""

from __future__ import annotations

from workflow_runtime.payloads import JsonText
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
    approval_payload,
    checked,
)

from .database import Row
from .role import Role

__all__ = ["Signals"]

_ENDED = frozenset({RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED})
"""A dead run takes deliveries: `requeue_run` may bring it back."""


class Signals(Role):
    """Keeps `SignalStore`."""

    @checked
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
        before = await self._deliver(run_id, "signal", name, signal_id, payload, now_ms, only_if_waiting)
        if before is None:
            return NotFound()
        if before["known_seq"] is not None:
            return Duplicate(inbox_seq=before["known_seq"])
        return self._answer(run_id, before, only_if_waiting)

    @checked
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
        payload = approval_payload(approved=approved, decided_by=decided_by, comment=comment)
        before = await self._deliver(run_id, "approval", approval_id, approval_id, payload, now_ms, only_if_waiting)
        if before is None:
            return NotFound()
        if before["known_seq"] is not None:
            return AlreadyDecided(approved=self._read.decision(before, run_id))
        return self._answer(run_id, before, only_if_waiting)

    @checked
    async def deliver_retry(self, *, run_id: str, retry_id: str, now_ms: int) -> DeliverRetryResult:
        before = await self._deliver(run_id, "retry", "retry", retry_id, None, now_ms, only_if_waiting=False)
        if before is None:
            return NotFound()
        if before["known_seq"] is not None:
            return Duplicate(inbox_seq=before["known_seq"])
        status = self._read.status(before, run_id)
        if status in _ENDED:
            return AlreadyFinished(status=status)
        delivery = Delivered if before["awaited"] else Buffered
        return delivery(inbox_seq=before["inbox_seq"] + 1)

    @checked
    async def read_inbox(
        self, *, run_id: str, limit: int, after_seq: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[InboxEntry, ...]:
        rows = await self._session.rows("read_inbox", run_id, after_seq, limit, max_bytes)
        return self._read.inbox(rows)

    async def _deliver(
        self,
        run_id: str,
        kind: InboxKind,
        name: str,
        delivery_id: str,
        payload: JsonText | None,
        now_ms: int,
        only_if_waiting: bool,
    ) -> Row | None:
        """Deliver if everything allows it, and give the head as it was, which tells whether it did."""
        size = 0 if payload is None else len(payload)
        entry = (run_id, kind, name, delivery_id)
        statement = self._session.statement
        before, *_ = await self._session.batch(
            [
                statement("deliver.before", *entry),
                statement("deliver.entry", *entry, only_if_waiting, now_ms, size, payload),
                statement("deliver.waken", run_id, kind, name, now_ms),
                statement("deliver.head", run_id, now_ms),
            ]
        )
        return before[0] if before else None

    def _answer(
        self, run_id: str, before: Row, only_if_waiting: bool
    ) -> AlreadyFinished | NotWaiting | Delivered | Buffered:
        status = self._read.status(before, run_id)
        if status in _ENDED:
            return AlreadyFinished(status=status)
        if before["awaited"]:
            return Delivered(inbox_seq=before["inbox_seq"] + 1)
        if only_if_waiting:
            return NotWaiting(status=status)
        return Buffered(inbox_seq=before["inbox_seq"] + 1)
