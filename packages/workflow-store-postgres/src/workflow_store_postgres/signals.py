"""Delivering into a run's inbox."""

from __future__ import annotations

from collections.abc import Sequence

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
    NotFound,
    NotWaiting,
    RunStatus,
    approval_payload,
    checked,
)

from .role import Role
from .session import Row

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
        rows = await self._deliver(run_id, "signal", name, signal_id, only_if_waiting, now_ms, payload)
        if not rows:
            return NotFound()
        if rows[0]["known_seq"] is not None:
            return Duplicate(inbox_seq=rows[0]["known_seq"])
        return self._answer(run_id, rows[0])

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
        rows = await self._deliver(run_id, "approval", approval_id, approval_id, only_if_waiting, now_ms, payload)
        if not rows:
            return NotFound()
        if rows[0]["known_seq"] is not None:
            return AlreadyDecided(approved=self._read.decision(rows[0], run_id))
        return self._answer(run_id, rows[0])

    @checked
    async def deliver_retry(self, *, run_id: str, retry_id: str, now_ms: int) -> DeliverRetryResult:
        rows = await self._deliver(run_id, "retry", "retry", retry_id, False, now_ms, None)
        if not rows:
            return NotFound()
        if rows[0]["known_seq"] is not None:
            return Duplicate(inbox_seq=rows[0]["known_seq"])
        if rows[0]["inbox_seq"] is None:
            return AlreadyFinished(status=self._read.status(rows[0]["status"], run_id))
        delivery = Delivered if rows[0]["awaited"] else Buffered
        return delivery(inbox_seq=rows[0]["inbox_seq"])

    @checked
    async def read_inbox(
        self, *, run_id: str, limit: int, after_seq: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[InboxEntry, ...]:
        rows = await self._session.rows("read_inbox", run_id, after_seq, limit, max_bytes)
        return self._read.inbox(rows)

    async def _deliver(self, run_id: str, *values: object) -> Sequence[Row]:
        with self._notices.about(run_id) as telling:
            rows = await self._session.settled("deliver", run_id, *values, telling.itself)
            telling.hear(rows)
        return rows

    def _answer(self, run_id: str, row: Row) -> AlreadyFinished | NotWaiting | Delivered | Buffered:
        if row["inbox_seq"] is not None:
            delivery = Delivered if row["awaited"] else Buffered
            return delivery(inbox_seq=row["inbox_seq"])
        status = self._read.status(row["status"], run_id)
        return AlreadyFinished(status=status) if status in _ENDED else NotWaiting(status=status)
