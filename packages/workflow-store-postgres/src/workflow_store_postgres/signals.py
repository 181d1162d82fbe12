"""Delivering into a run's inbox."""

from __future__ import annotations

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DeliverApprovalResult,
    DeliverRetryResult,
    DeliverSignalResult,
    InboxEntry,
    JsonText,
    approval_payload,
    checked,
)
from workflow_store_sql import answer_approval, answer_retry_request, answer_signal

from .statement_sender import Row
from .store_role import StoreRole

__all__ = ["Signals"]


class Signals(StoreRole):
    """The role `SignalStore`."""

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
        row = await self._deliver(run_id, "signal", name, signal_id, only_if_waiting, now_ms, payload)
        return answer_signal(self._read, run_id, row)

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
        row = await self._deliver(run_id, "approval", approval_id, approval_id, only_if_waiting, now_ms, payload)
        return answer_approval(self._read, run_id, row)

    @checked
    async def deliver_retry(self, *, run_id: str, retry_id: str, now_ms: int) -> DeliverRetryResult:
        row = await self._deliver(run_id, "retry", "retry", retry_id, False, now_ms, None)
        return answer_retry_request(self._read, run_id, row)

    @checked
    async def read_inbox(
        self, *, run_id: str, limit: int, after_seq: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[InboxEntry, ...]:
        rows = await self._sender.rows("read_inbox", run_id, after_seq, limit, max_bytes)
        return self._read.inbox(rows, run_id)

    async def _deliver(self, run_id: str, *values: object) -> Row | None:
        with self._notices.about(run_id) as pending:
            rows = await self._sender.settled("deliver", run_id, *values, pending.by_statement)
            pending.read_answer(rows)
        return rows[0] if rows else None
