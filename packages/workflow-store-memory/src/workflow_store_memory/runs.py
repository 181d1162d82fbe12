"""Creating, ending and removing runs."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    DEFAULT_QUEUE,
    NOTICE_HORIZON_MS,
    TERMINAL_STATUSES,
    AlreadyFinished,
    Awaited,
    CancelRequested,
    CancelResult,
    Created,
    CreatedOfMany,
    CreateManyResult,
    CreateResult,
    Deleted,
    DeleteResult,
    Duplicate,
    Execution,
    Existing,
    ExistingOfMany,
    JsonText,
    NewEvent,
    NotDeletable,
    NotFound,
    NotRequeueable,
    NotRetryable,
    Paused,
    Requeued,
    RequeueResult,
    Retried,
    RetryResult,
    RunRecord,
    RunStatus,
    RunToCreate,
    Terminated,
    TerminateResult,
    Timer,
    cancel_payload,
    check_prunable,
    check_retryable,
    differing_fields,
)

from .atomic import atomic
from .claims import Claim
from .data import NoAnswer, Run
from .records import first_history, run_record, untaken_inbox
from .store_role import StoreRole

__all__ = ["RunLifecycle"]

_PRUNED_BY_DEFAULT = (RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED)


class RunLifecycle(StoreRole):
    """The role `RunLifecycleStore`, and `create_runs`."""

    @atomic
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
        """RUN-1 to RUN-5."""
        wanted = RunToCreate(
            run_id=run_id,
            workflow_id=workflow_id,
            workflow_version=workflow_version,
            input=input,
            operation_id=operation_id,
            queue=queue,
            priority=priority,
            available_at_ms=available_at_ms,
        )
        claim = None
        if owner is not None and lease_ms is not None:
            claim = Claim(owner=owner, lease_ms=lease_ms, now_ms=now_ms)
        return self._create(wanted, now_ms, claim)

    @atomic
    async def create_runs(self, *, runs: Sequence[RunToCreate], now_ms: int) -> tuple[CreateManyResult, ...]:
        """BULK-4."""
        answers = (self._create(wanted, now_ms, None) for wanted in runs)
        return tuple(
            CreatedOfMany()
            if isinstance(answer, Created)
            else ExistingOfMany(run_id=answer.run.run_id, differs=answer.differs)
            for answer in answers
        )

    def _create(self, wanted: RunToCreate, now_ms: int, claim: Claim | None) -> CreateResult:
        repeated = self._repeated(wanted.run_id, wanted.operation_id, Created)
        if repeated is not None:
            return repeated
        existing = self._data.runs.get(wanted.run_id)
        if existing is not None:
            return _existing(existing, wanted.workflow_id, wanted.input)
        run = Run(
            run_id=wanted.run_id,
            generation=self._data.new_generation(),
            workflow_id=wanted.workflow_id,
            workflow_version=wanted.workflow_version,
            input=wanted.input,
            queue=wanted.queue,
            priority=wanted.priority,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            available_at_ms=now_ms if wanted.available_at_ms is None else wanted.available_at_ms,
        )
        self._data.runs[run.run_id] = run
        taken = None if claim is None else claim.take(run)
        if claim is None:
            self._data.notify(run.run_id)
        return run.record(wanted.operation_id, Created(run=run_record(run), claim=taken))

    @atomic
    async def load_run(self, *, run_id: str) -> RunRecord | None:
        """RUN-6."""
        run = self._data.runs.get(run_id)
        return None if run is None else run_record(run)

    @atomic
    async def load_execution(
        self,
        *,
        run_id: str,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Execution | None:
        """RUN-7."""
        run = self._data.runs.get(run_id)
        if run is None:
            return None
        return Execution(
            run=run_record(run),
            history=first_history(run, history_limit=history_limit, history_bytes=history_bytes),
            inbox=untaken_inbox(run),
            timers=run.pending_timers,
        )

    @atomic
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
        """PAUSE-1 to PAUSE-4, DEAD-3."""
        repeated = self._repeated(run_id, operation_id, Paused)
        if repeated is not None:
            return repeated
        run = self._driven(run_id, lease_token, expected_next_index)
        run.append(events, taken_inbox, now_ms)
        run.change_timers(set_timers, removed_timers)
        run.awaited = tuple(awaited)
        run.crashes = 0
        if run.inbox_seq > seen_inbox_seq:
            run.make_queued(now_ms)
            self._data.notify(run_id)
            return run.record(operation_id, Paused(status=RunStatus.QUEUED, next_index=run.next_index))
        run.make_paused(now_ms)
        if run.due_at_ms is not None and run.due_at_ms < now_ms + NOTICE_HORIZON_MS:
            self._data.notify(run_id)
        return run.record(operation_id, Paused(status=RunStatus.PAUSED, next_index=run.next_index))

    @atomic
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
        """FINISH-1, FINISH-2."""
        if self._repeated(run_id, operation_id, NoAnswer) is not None:
            return
        run = self._driven(run_id, lease_token, expected_next_index)
        run.append(events, taken_inbox, now_ms)
        run.output = output
        run.make_ended(RunStatus.FINISHED, now_ms)
        run.record(operation_id, NoAnswer())

    @atomic
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
        """FINISH-3, FINISH-4."""
        if self._repeated(run_id, operation_id, NoAnswer) is not None:
            return
        run = self._driven(run_id, lease_token, expected_next_index)
        run.append(events, taken_inbox, now_ms)
        run.error = error
        run.reason = reason if aborted or parked else None
        if parked:
            run.make_dead(now_ms)
        else:
            run.make_ended(RunStatus.ABORTED if aborted else RunStatus.ERRORED, now_ms)
        run.record(operation_id, NoAnswer())

    @atomic
    async def cancel_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> CancelResult:
        """CANCEL-1 to CANCEL-3."""
        run = self._data.runs.get(run_id)
        if run is None:
            return NotFound()
        if run.status in TERMINAL_STATUSES:
            return AlreadyFinished(status=run.status)
        known = run.deliveries.get(("cancel", "cancel"))
        if known is not None:
            return Duplicate(inbox_seq=known.inbox_seq)
        entry = run.receive(
            kind="cancel", name="cancel", delivery_id="cancel", payload=cancel_payload(reason), now_ms=now_ms
        )
        run.cancel_requested = True
        if run.status is RunStatus.PAUSED:
            run.make_queued(now_ms)
        elif run.status is RunStatus.QUEUED:
            # A run that has been due for a while keeps its place in the queue.
            run.available_at_ms = min(run.available_at_ms, now_ms)
        self._data.notify(run_id)
        return CancelRequested(inbox_seq=entry.inbox_seq)

    @atomic
    async def terminate_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> TerminateResult:
        """CANCEL-4."""
        run = self._data.runs.get(run_id)
        if run is None:
            return NotFound()
        if run.status in TERMINAL_STATUSES and run.status is not RunStatus.DEAD:
            return AlreadyFinished(status=run.status)
        run.reason = reason
        run.make_ended(RunStatus.ABORTED, now_ms)
        return Terminated()

    @atomic
    async def requeue_run(self, *, run_id: str, now_ms: int) -> RequeueResult:
        """DEAD-1."""
        run = self._data.runs.get(run_id)
        if run is None:
            return NotFound()
        if run.status is not RunStatus.DEAD:
            return NotRequeueable(status=run.status)
        run.crashes = 0
        run.error = run.reason = None
        run.make_queued(now_ms)
        self._data.notify(run_id)
        return Requeued()

    @atomic
    async def retry_run(
        self,
        *,
        run_id: str,
        event: NewEvent,
        now_ms: int,
        statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
    ) -> RetryResult:
        """RETRY-1 to RETRY-4."""
        check_retryable(statuses)
        run = self._data.runs.get(run_id)
        if run is None:
            return NotFound()
        if run.status not in statuses:
            return NotRetryable(status=run.status)
        if run.status is RunStatus.ABORTED:
            run.withdraw_cancel()
        run.append((event,), (), now_ms)
        run.error = run.reason = None
        run.make_queued(now_ms)
        self._data.notify(run_id)
        return Retried(index=run.next_index - 1)

    @atomic
    async def delete_run(self, *, run_id: str, now_ms: int, force: bool = False) -> DeleteResult:
        """RETAIN-1, RETAIN-2."""
        run = self._data.runs.get(run_id)
        if run is None:
            return NotFound()
        if run.lease is not None and run.lease.expires_at_ms > now_ms and not force:
            return NotDeletable(status=run.status)
        del self._data.runs[run_id]
        return Deleted()

    @atomic
    async def prune_runs(
        self,
        *,
        finished_before_ms: int,
        limit: int,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> int:
        """RETAIN-3."""
        wanted = _PRUNED_BY_DEFAULT if statuses is None else statuses
        check_prunable(wanted)
        old = [
            (run.finished_at_ms, run.run_id)
            for run in self._data.runs.values()
            if run.finished_at_ms is not None
            and run.finished_at_ms < finished_before_ms
            and run.status in wanted
            and (workflow_ids is None or run.workflow_id in workflow_ids)
        ]
        pruned = sorted(old)[:limit]
        for _, run_id in pruned:
            del self._data.runs[run_id]
        return len(pruned)


def _existing(run: Run, workflow_id: str, input: JsonText) -> Existing:
    differs = differing_fields(
        stored_workflow_id=run.workflow_id, stored_input=run.input, workflow_id=workflow_id, input=input
    )
    return Existing(run=run_record(run), differs=differs)
