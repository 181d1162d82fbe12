"""Creating, ending and removing runs."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    DEFAULT_QUEUE,
    Awaited,
    CancelResult,
    CreateResult,
    DeleteResult,
    Execution,
    JsonText,
    NewEvent,
    Paused,
    RequeueResult,
    RunRecord,
    RunStatus,
    TerminateResult,
    Timer,
    cancel_payload,
    checked,
)
from workflow_store_sql import (
    Fence,
    NewRun,
    RunRows,
    answer_cancel,
    answer_delete,
    answer_requeue,
    answer_terminate,
    awaited_text,
    error_status,
    new_lease,
    prunable_statuses,
)

from .database import D1PreparedStatement
from .entries import cancelled
from .fenced_write import FencedWrite
from .statement_sender import json_list
from .store_role import StoreRole

__all__ = ["RunLifecycle"]


class RunLifecycle(StoreRole):
    """The role `RunLifecycleStore`."""

    @checked
    async def create_run(
        self,
        *,
        run_id: str,
        workflow_id: str,
        workflow_version: str,
        input: JsonText,
        operation_id: str,
        now_ms: int,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        available_at_ms: int | None = None,
        owner: str | None = None,
        lease_ms: int | None = None,
    ) -> CreateResult:
        lease = new_lease(self._sender.new_token, owner, lease_ms, now_ms)
        facts = (run_id, workflow_id, workflow_version, queue, priority, now_ms)
        new = NewRun(*facts, now_ms if available_at_ms is None else available_at_ms, input, operation_id, lease)
        before, *_ = await self._sender.batch(self._creation(new))
        if not before:
            return new.created()
        page = (0, DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES)
        return await new.taken(self._read, before[0], lambda: self._sender.rows("read_inbox", run_id, *page))

    def _creation(self, new: NewRun) -> list[D1PreparedStatement]:
        """Make the batch: read what is there, and write if nothing is. The head, which tells that, comes last."""
        statement = self._sender.statement
        return [
            statement("create_run.before", new.run_id),
            statement("create_run.run", *new.facts),
            statement("create_run.state", new.run_id, new.input),
            statement("create_run.head", *new.facts, *new.head),
        ]

    @checked
    async def load_run(self, *, run_id: str) -> RunRecord | None:
        rows = await self._sender.rows("load_run", run_id)
        return self._read.record(rows[0]) if rows else None

    @checked
    async def load_execution(
        self,
        *,
        run_id: str,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Execution | None:
        statement = self._sender.statement
        run, history, inbox, timers = await self._sender.batch(
            [
                statement("load_run", run_id),
                statement("read_events", run_id, 0, history_limit, history_bytes),
                statement("read_inbox", run_id, 0, DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES),
                statement("read_timers", run_id),
            ]
        )
        return self._read.execution(RunRows(run[0], history, inbox, timers), history_limit) if run else None

    @checked
    async def mark_run_paused(
        self,
        *,
        run_id: str,
        lease_token: str,
        operation_id: str,
        expected_next_index: int,
        seen_inbox_seq: int,
        now_ms: int,
        events: Sequence[NewEvent] = (),
        taken_inbox: Sequence[int] = (),
        set_timers: Sequence[Timer] = (),
        removed_timers: Sequence[str] = (),
        awaited: Sequence[Awaited] = (),
    ) -> Paused:
        write = FencedWrite(
            self._sender, Fence("mark_run_paused", run_id, lease_token, operation_id, expected_next_index)
        )
        write.append(events, taken_inbox, now_ms)
        write.change_timers(set_timers, removed_timers)
        write.add("mark_run_paused.head", len(events), seen_inbox_seq, awaited_text(awaited), now_ms)
        outcome = await write.commit()
        if outcome.repeated is not None:
            queued = outcome.repeated["status"] == RunStatus.QUEUED
            next_index = int(outcome.repeated["next_index"])
        else:
            queued = outcome.before["inbox_seq"] > seen_inbox_seq
            next_index = expected_next_index + len(events)
        return Paused(status=RunStatus.QUEUED if queued else RunStatus.PAUSED, next_index=next_index)

    @checked
    async def mark_run_finished(
        self,
        *,
        run_id: str,
        lease_token: str,
        operation_id: str,
        expected_next_index: int,
        output: JsonText,
        now_ms: int,
        events: Sequence[NewEvent] = (),
        taken_inbox: Sequence[int] = (),
    ) -> None:
        write = FencedWrite(
            self._sender, Fence("mark_run_finished", run_id, lease_token, operation_id, expected_next_index)
        )
        write.append(events, taken_inbox, now_ms)
        write.add("fenced_write.no_timers")
        write.add("mark_run_ended.state", output, None, None)
        write.add("mark_run_ended.head", len(events), RunStatus.FINISHED.value, now_ms)
        await write.commit()

    @checked
    async def mark_run_errored(
        self,
        *,
        run_id: str,
        lease_token: str,
        operation_id: str,
        expected_next_index: int,
        error: JsonText,
        now_ms: int,
        events: Sequence[NewEvent] = (),
        taken_inbox: Sequence[int] = (),
        aborted: bool = False,
        parked: bool = False,
        reason: str | None = None,
    ) -> None:
        write = FencedWrite(
            self._sender, Fence("mark_run_errored", run_id, lease_token, operation_id, expected_next_index)
        )
        status = error_status(aborted=aborted, parked=parked)
        write.append(events, taken_inbox, now_ms)
        if not parked:
            write.add("fenced_write.no_timers")
        write.add("mark_run_ended.state", None, error, reason if aborted or parked else None)
        write.add("mark_run_ended.head", len(events), status.value, now_ms)
        await write.commit()

    @checked
    async def cancel_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> CancelResult:
        payload = cancel_payload(reason)
        statement = self._sender.statement
        before, *_ = await self._sender.batch(
            [
                statement("cancel_run.before", run_id),
                statement("cancel_run.entry", run_id, now_ms, len(payload), payload),
                statement("cancel_run.head", run_id, now_ms),
            ]
        )
        row = cancelled(self._read, run_id, before[0]) if before else None
        return answer_cancel(self._read, run_id, row)

    @checked
    async def terminate_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> TerminateResult:
        statement = self._sender.statement
        before, *_ = await self._sender.batch(
            [
                statement("terminate_run.before", run_id),
                statement("terminate_run.state", run_id, reason),
                statement("terminate_run.timers", run_id),
                statement("terminate_run.head", run_id, now_ms),
            ]
        )
        return answer_terminate(self._read, run_id, before[0] if before else None)

    @checked
    async def requeue_run(self, *, run_id: str, now_ms: int) -> RequeueResult:
        statement = self._sender.statement
        before, *_ = await self._sender.batch(
            [
                statement("requeue_run.before", run_id),
                statement("requeue_run.state", run_id),
                statement("requeue_run.head", run_id, now_ms),
            ],
            recognised=False,
        )
        return answer_requeue(self._read, run_id, before[0] if before else None)

    @checked
    async def delete_run(self, *, run_id: str, now_ms: int, force: bool = False) -> DeleteResult:
        statement = self._sender.statement
        before, *_, deleted = await self._sender.batch(
            [
                statement("delete_run.before", run_id),
                *(
                    statement(f"delete_run.{part}", run_id, now_ms, bool(force))
                    for part in ("events", "timers", "inbox", "state", "run", "head")
                ),
            ],
            recognised=False,
        )
        row = {**before[0], "deleted": bool(deleted)} if before else None
        return answer_delete(self._read, run_id, row)

    @checked
    async def prune_runs(
        self,
        *,
        finished_before_ms: int,
        limit: int,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> int:
        values = (finished_before_ms, json_list(prunable_statuses(statuses)), json_list(workflow_ids), limit)
        *_, deleted = await self._sender.batch(
            [
                self._sender.statement(f"prune_runs.{part}", *values)
                for part in ("events", "timers", "inbox", "states", "runs", "heads")
            ],
            recognised=False,
        )
        return len(deleted)
