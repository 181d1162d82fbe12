"""Creating, ending and removing runs."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    DEFAULT_QUEUE,
    NOTICE_HORIZON_MS,
    AlreadyFinished,
    Awaited,
    CancelRequested,
    CancelResult,
    Created,
    CreateResult,
    Deleted,
    DeleteResult,
    Duplicate,
    Execution,
    Existing,
    Lease,
    NewEvent,
    NotDeletable,
    NotFound,
    NotRequeueable,
    Paused,
    Requeued,
    RequeueResult,
    RunRecord,
    RunStatus,
    Terminated,
    TerminateResult,
    Timer,
    cancel_payload,
    check_prunable,
    checked,
    differing_fields,
)

from .creation import NewRun, creation_id, first_claim, first_lease
from .driver import DriverWrite, event_values, timer_values
from .role import Role
from .rows import awaited_text
from .session import Row

__all__ = ["RunLifecycle"]

_ENDED = frozenset({RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED})
_NOT_CANCELLABLE = _ENDED | {RunStatus.DEAD}


class RunLifecycle(Role):
    """Keeps `RunLifecycleStore`."""

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
        lease = None
        if owner is not None and lease_ms is not None:
            token = self._session.new_token()
            lease = Lease(owner=owner, token=token, number=1, expires_at_ms=now_ms + lease_ms)
        new = NewRun(
            run_id=run_id,
            workflow_id=workflow_id,
            workflow_version=workflow_version,
            input=input,
            queue=queue,
            priority=priority,
            now_ms=now_ms,
            due_at_ms=now_ms if available_at_ms is None else available_at_ms,
            operation_id=operation_id,
            lease=lease,
        )
        with self._notices.about(run_id if lease is None else None) as telling:
            [row] = await self._session.settled("create_run", *new.values(), telling.itself)
            telling.wakes = row["wakes"]
        if row["created"]:
            return new.created()
        if row["operation_id"] == creation_id(operation_id):
            return await self._created_before(row)
        run = self._read.record(row)
        differs = differing_fields(
            stored_workflow_id=run.workflow_id, stored_input=run.input, workflow_id=workflow_id, input=input
        )
        return Existing(run=run, differs=differs)

    @checked
    async def load_run(self, *, run_id: str) -> RunRecord | None:
        rows = await self._session.rows("load_run", run_id)
        return self._read.record(rows[0]) if rows else None

    @checked
    async def load_execution(
        self,
        *,
        run_id: str,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Execution | None:
        rows = await self._session.rows(
            "load_execution",
            run_id,
            history_limit,
            history_bytes,
            DEFAULT_HISTORY_EVENTS,
            DEFAULT_HISTORY_BYTES,
            False,
        )
        if not rows:
            return None
        record = self._read.record(rows[0])
        return Execution(
            run=record,
            history=self._read.first_history(rows[0], record, history_limit),
            inbox=self._read.first_inbox(rows[0]),
            timers=self._read.timers(rows[0]),
        )

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
        write = DriverWrite(
            session=self._session,
            verb="mark_run_paused",
            run_id=run_id,
            lease_token=lease_token,
            operation_id=operation_id,
            expected_next_index=expected_next_index,
        )
        with self._notices.about(run_id) as telling:
            outcome = await write.commit(
                "mark_run_paused",
                *event_values(events, taken_inbox),
                *timer_values(set_timers, removed_timers),
                seen_inbox_seq,
                awaited_text(awaited),
                now_ms,
                now_ms + NOTICE_HORIZON_MS,
                telling.itself,
            )
            telling.wakes = outcome.wakes
        first = outcome.repeated or outcome.row
        queued = first["status"] == RunStatus.QUEUED
        return Paused(status=RunStatus.QUEUED if queued else RunStatus.PAUSED, next_index=first["next_index"])

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
        write = DriverWrite(
            session=self._session,
            verb="mark_run_finished",
            run_id=run_id,
            lease_token=lease_token,
            operation_id=operation_id,
            expected_next_index=expected_next_index,
        )
        end = (RunStatus.FINISHED.value, output, None, None, now_ms)
        await write.commit("mark_run_ended", *event_values(events, taken_inbox), *end)

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
        write = DriverWrite(
            session=self._session,
            verb="mark_run_errored",
            run_id=run_id,
            lease_token=lease_token,
            operation_id=operation_id,
            expected_next_index=expected_next_index,
        )
        status = RunStatus.ABORTED if aborted else RunStatus.DEAD if parked else RunStatus.ERRORED
        end = (status.value, None, error, reason if aborted or parked else None, now_ms)
        await write.commit("mark_run_ended", *event_values(events, taken_inbox), *end)

    @checked
    async def cancel_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> CancelResult:
        with self._notices.about(run_id) as telling:
            rows = await self._session.settled("cancel_run", run_id, now_ms, cancel_payload(reason), telling.itself)
            telling.hear(rows)
        if not rows:
            return NotFound()
        if rows[0]["inbox_seq"] is not None:
            return CancelRequested(inbox_seq=rows[0]["inbox_seq"])
        status = self._read.status(rows[0]["status"], run_id)
        if status in _NOT_CANCELLABLE:
            return AlreadyFinished(status=status)
        return Duplicate(inbox_seq=rows[0]["known_seq"])

    @checked
    async def terminate_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> TerminateResult:
        rows = await self._session.settled("terminate_run", run_id, now_ms, reason)
        if not rows:
            return NotFound()
        status = self._read.status(rows[0]["status"], run_id)
        return AlreadyFinished(status=status) if status in _ENDED else Terminated()

    @checked
    async def requeue_run(self, *, run_id: str, now_ms: int) -> RequeueResult:
        with self._notices.about(run_id) as telling:
            rows = await self._session.settled("requeue_run", run_id, now_ms, telling.itself)
            telling.hear(rows)
        if not rows:
            return NotFound()
        status = self._read.status(rows[0]["status"], run_id)
        return Requeued() if status is RunStatus.DEAD else NotRequeueable(status=status)

    @checked
    async def delete_run(self, *, run_id: str, now_ms: int, force: bool = False) -> DeleteResult:
        rows = await self._session.settled("delete_run", run_id, now_ms, bool(force))
        if not rows:
            return NotFound()
        if rows[0]["deleted"]:
            return Deleted()
        return NotDeletable(status=self._read.status(rows[0]["status"], run_id))

    @checked
    async def prune_runs(
        self,
        *,
        finished_before_ms: int,
        limit: int,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> int:
        if statuses is None:
            statuses = sorted(_ENDED)
        check_prunable(statuses)
        workflows = None if workflow_ids is None else list(workflow_ids)
        rows = await self._session.rows("prune_runs", finished_before_ms, list(statuses), workflows, limit)
        pruned: int = rows[0]["pruned"]
        return pruned

    async def _created_before(self, head: Row) -> Created:
        """Answer a repeat of the creation as the first time."""
        run = self._read.record(head)
        lease = first_lease(head)
        if lease is None:
            return Created(run=run, claim=None)
        values = (run.run_id, 0, DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES)
        inbox = self._read.inbox(await self._session.rows("read_inbox", *values))
        return Created(run=run, claim=first_claim(run, lease, inbox))
