"""Creating, ending and removing runs."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    DEFAULT_QUEUE,
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
from .database import Row
from .driver import DriverUnit
from .role import Role
from .rows import awaited_text
from .session import json_list

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
        before, *_ = await self._session.batch(new.statements(self._session))
        if not before:
            return new.created()
        if before[0]["operation_id"] == creation_id(operation_id):
            return await self._created_before(before[0])
        run = self._read.record(before[0])
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
        statement = self._session.statement
        run, history, inbox, timers = await self._session.batch(
            [
                statement("load_run", run_id),
                statement("read_events", run_id, 0, history_limit, history_bytes),
                statement("read_inbox", run_id, 0, DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES),
                statement("read_timers", run_id),
            ]
        )
        if not run:
            return None
        record = self._read.record(run[0])
        return Execution(
            run=record,
            history=self._read.first_history(history, record, history_limit),
            inbox=self._read.inbox(inbox),
            timers=tuple(self._read.timer(row) for row in timers),
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
        unit = DriverUnit(
            self._session,
            verb="mark_run_paused",
            run_id=run_id,
            lease_token=lease_token,
            operation_id=operation_id,
            expected_next_index=expected_next_index,
        )
        unit.append(events, taken_inbox, now_ms)
        unit.change_timers(set_timers, removed_timers)
        unit.add("mark_run_paused.head", len(events), seen_inbox_seq, awaited_text(awaited), now_ms)
        outcome = await unit.commit()
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
        unit = DriverUnit(
            self._session,
            verb="mark_run_finished",
            run_id=run_id,
            lease_token=lease_token,
            operation_id=operation_id,
            expected_next_index=expected_next_index,
        )
        unit.append(events, taken_inbox, now_ms)
        unit.add("driver.no_timers")
        unit.add("mark_run_ended.state", output, None, None)
        unit.add("mark_run_ended.head", len(events), RunStatus.FINISHED.value, now_ms)
        await unit.commit()

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
        unit = DriverUnit(
            self._session,
            verb="mark_run_errored",
            run_id=run_id,
            lease_token=lease_token,
            operation_id=operation_id,
            expected_next_index=expected_next_index,
        )
        status = RunStatus.ABORTED if aborted else RunStatus.DEAD if parked else RunStatus.ERRORED
        unit.append(events, taken_inbox, now_ms)
        if not parked:
            unit.add("driver.no_timers")
        unit.add("mark_run_ended.state", None, error, reason if aborted or parked else None)
        unit.add("mark_run_ended.head", len(events), status.value, now_ms)
        await unit.commit()

    @checked
    async def cancel_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> CancelResult:
        payload = cancel_payload(reason)
        statement = self._session.statement
        before, *_ = await self._session.batch(
            [
                statement("cancel_run.before", run_id),
                statement("cancel_run.entry", run_id, now_ms, len(payload), payload),
                statement("cancel_run.head", run_id, now_ms),
            ]
        )
        if not before:
            return NotFound()
        status = self._read.status(before[0], run_id)
        if status in _NOT_CANCELLABLE:
            return AlreadyFinished(status=status)
        if before[0]["known_seq"] is not None:
            return Duplicate(inbox_seq=before[0]["known_seq"])
        return CancelRequested(inbox_seq=before[0]["inbox_seq"] + 1)

    @checked
    async def terminate_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> TerminateResult:
        statement = self._session.statement
        before, *_ = await self._session.batch(
            [
                statement("terminate_run.before", run_id),
                statement("terminate_run.state", run_id, reason),
                statement("terminate_run.timers", run_id),
                statement("terminate_run.head", run_id, now_ms),
            ]
        )
        if not before:
            return NotFound()
        status = self._read.status(before[0], run_id)
        return AlreadyFinished(status=status) if status in _ENDED else Terminated()

    @checked
    async def requeue_run(self, *, run_id: str, now_ms: int) -> RequeueResult:
        statement = self._session.statement
        before, *_ = await self._session.batch(
            [
                statement("requeue_run.before", run_id),
                statement("requeue_run.state", run_id),
                statement("requeue_run.head", run_id, now_ms),
            ],
            recognised=False,
        )
        if not before:
            return NotFound()
        status = self._read.status(before[0], run_id)
        return Requeued() if status is RunStatus.DEAD else NotRequeueable(status=status)

    @checked
    async def delete_run(self, *, run_id: str, now_ms: int, force: bool = False) -> DeleteResult:
        statement = self._session.statement
        before, *_, deleted = await self._session.batch(
            [
                statement("delete_run.before", run_id),
                *(
                    statement(f"delete_run.{part}", run_id, now_ms, bool(force))
                    for part in ("events", "timers", "inbox", "state", "run", "head")
                ),
            ],
            recognised=False,
        )
        if not before:
            return NotFound()
        return Deleted() if deleted else NotDeletable(status=self._read.status(before[0], run_id))

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
        values = (finished_before_ms, json_list(statuses), json_list(workflow_ids), limit)
        *_, deleted = await self._session.batch(
            [
                self._session.statement(f"prune_runs.{part}", *values)
                for part in ("events", "timers", "inbox", "states", "runs", "heads")
            ],
            recognised=False,
        )
        return len(deleted)

    async def _created_before(self, head: Row) -> Created:
        """Answer a repeat of the creation as the first time."""
        run = self._read.record(head)
        lease = first_lease(head)
        if lease is None:
            return Created(run=run, claim=None)
        values = (run.run_id, 0, DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES)
        inbox = self._read.inbox(await self._session.rows("read_inbox", *values))
        return Created(run=run, claim=first_claim(run, lease, inbox))
