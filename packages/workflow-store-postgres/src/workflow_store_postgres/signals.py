"""Delivering into a run's inbox."""

from __future__ import annotations

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    Buffered,
    DeliverApprovalResult,
    Delivered,
    DeliverRetryResult,
    DeliverSignalResult,
    InboxEntry,
    JsonText,
    approval_payload,
    checked,
)
from workflow_store_sql import RowReader, answer_approval, answer_retry_request, answer_signal

from .combined_writes import Unit
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
        values = ("signal", name, signal_id, only_if_waiting, now_ms, payload)
        if only_if_waiting:
            return answer_signal(self._read, run_id, await self._deliver(run_id, *values))
        with self._notices.about(run_id) as pending:

            async def alone() -> DeliverSignalResult:
                rows = await self._sender.settled("deliver", run_id, *values, pending.by_statement)
                pending.read_answer(rows)
                return answer_signal(self._read, run_id, rows[0] if rows else None)

            def together(row: Row) -> DeliverSignalResult:
                pending.read_answer([row])
                return _answer(self._read, run_id, row)

            facts = (run_id, signal_id, name, payload, now_ms, pending.by_statement)
            return await self._combined.deliveries.commit(lambda: Unit(run_id=run_id, values=facts), alone, together)

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


def _answer(read: RowReader, run_id: str, row: Row) -> DeliverSignalResult:
    """Answer one signal from its row of the statement that delivers many."""
    if row["inbox_seq"] is None:
        return answer_signal(read, run_id, None if row["status"] is None else row)
    kind = Buffered if row["awaited_place"] is None else Delivered
    return kind(inbox_seq=row["inbox_seq"])
