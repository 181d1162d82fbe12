"""Creating, forking, ending, requeueing and removing runs, one at a time and in bulk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from workflow_runtime.errors import InvalidArgumentError
from workflow_runtime.payloads import JsonText, encode_json
from workflow_runtime.store import (
    DEFAULT_QUEUE,
    TERMINAL_STATUSES,
    AlreadyFinished,
    CancelRequested,
    CancelResult,
    Created,
    CreatedOfMany,
    CreateManyResult,
    CreateResult,
    Deleted,
    DeleteResult,
    Duplicate,
    Existing,
    ExistingOfMany,
    Forked,
    ForkResult,
    NewEvent,
    NotDeletable,
    NotForkable,
    NotFound,
    NotRequeueable,
    NotRetryable,
    Requeued,
    RequeueResult,
    Retried,
    RetryResult,
    RunStatus,
    RunToCreate,
    Terminated,
    TerminateResult,
)

from .driving import append_to_log, end_run
from .inbox import receive
from .leases import claim_of, give_lease
from .state import Run, State, Unsettled

__all__ = ["LifecycleVerbs"]

A = TypeVar("A")

ENDED_FOR_GOOD = frozenset({RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED})
RETRYABLE = frozenset({RunStatus.ERRORED, RunStatus.DEAD, RunStatus.ABORTED})


class LifecycleVerbs:
    """The verbs that make runs, end them from outside, requeue and remove them."""

    state: State

    def create_run(
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
        """Create a run, and claim it in the same unit when asked to (RUN-1 to RUN-5)."""
        stored = self.state.runs.get(run_id)
        if stored is not None:
            if repeated := _created_again(stored, operation_id):
                return repeated
            differs = [] if stored.workflow_id == workflow_id else ["workflow_id"]
            differs += [] if _same_value(stored.input, input) else ["input"]
            return Existing(run=stored.record(), differs=tuple(differs))
        run = Run(
            run_id=run_id,
            workflow_id=workflow_id,
            workflow_version=workflow_version,
            input=input,
            queue=queue,
            priority=priority,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            due_at_ms=now_ms if available_at_ms is None else available_at_ms,
        )
        self.state.runs[run_id] = run
        claim = None
        if owner is not None and lease_ms is not None:
            give_lease(self.state, run, owner=owner, lease_ms=lease_ms, now_ms=now_ms)
            claim = claim_of(run, now_ms)
        answer = Created(run=run.record(), claim=claim)
        run.last_operation = operation_id, answer
        return answer

    def fork_run(
        self,
        *,
        run_id: str,
        new_run_id: str,
        from_index: int,
        event: NewEvent,
        operation_id: str,
        now_ms: int,
        workflow_version: str | None = None,
    ) -> ForkResult:
        """Create a run that goes on from the first part of another's log (FORK-1 to FORK-4)."""
        known = self.state.runs.get(new_run_id)
        if known is not None:
            if known.last_operation is not None and known.last_operation[0] == operation_id:
                return Forked(run=known.record())
            differs = [] if known.forked_from_run_id == run_id else ["run_id"]
            differs += [] if known.forked_from_index == from_index else ["from_index"]
            differs += [] if workflow_version in {None, known.workflow_version} else ["workflow_version"]
            return Existing(run=known.record(), differs=tuple(differs))
        source = self.state.runs.get(run_id)
        if source is None:
            return NotFound()
        if from_index > len(source.log):
            return NotForkable(next_index=len(source.log))
        fork = Run(
            run_id=new_run_id,
            workflow_id=source.workflow_id,
            workflow_version=workflow_version or source.workflow_version,
            input=source.input,
            queue=source.queue,
            priority=source.priority,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            due_at_ms=now_ms,
            schedule_id=source.schedule_id,
            scheduled_at_ms=source.scheduled_at_ms,
            forked_from_run_id=run_id,
            forked_from_index=from_index,
            log=source.log[:from_index],
        )
        append_to_log(fork, event, now_ms)
        fork.last_operation = operation_id, None
        self.state.runs[new_run_id] = fork
        return Forked(run=fork.record())

    def cancel_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> CancelResult:
        """Ask a run to end (CANCEL-1 to CANCEL-3)."""
        run = self.state.runs.get(run_id)
        if run is None:
            return NotFound()
        if run.status.is_terminal:
            return AlreadyFinished(status=run.status)
        if (seq := run.inbox.known.get(("cancel", "cancel"))) is not None:
            return Duplicate(inbox_seq=seq)
        seq = receive(run, "cancel", "cancel", "cancel", encode_json({"reason": reason}), now_ms)
        run.cancel_requested = True
        if run.status is RunStatus.PAUSED:
            run.status, run.due_at_ms, run.awaited = RunStatus.QUEUED, now_ms, ()
        elif run.status is RunStatus.QUEUED and run.due_at_ms is not None:
            run.due_at_ms = min(run.due_at_ms, now_ms)  # one that was due keeps its place
        return CancelRequested(inbox_seq=seq)

    def terminate_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> TerminateResult:
        """End a run at once (CANCEL-4)."""
        run = self.state.runs.get(run_id)
        if run is None:
            return NotFound()
        if run.status in ENDED_FOR_GOOD:
            return AlreadyFinished(status=run.status)
        end_run(run, RunStatus.ABORTED, now_ms)
        run.reason = reason
        run.updated_at_ms = now_ms
        return Terminated()

    def requeue_run(self, *, run_id: str, now_ms: int) -> RequeueResult:
        """Requeue a dead run (DEAD-1)."""
        run = self.state.runs.get(run_id)
        if run is None:
            return NotFound()
        if run.status is not RunStatus.DEAD:
            return NotRequeueable(status=run.status)
        _queue_again(run, now_ms)
        return Requeued()

    def retry_run(
        self,
        *,
        run_id: str,
        event: NewEvent,
        now_ms: int,
        statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
    ) -> RetryResult:
        """Requeue a run that ended wrongly (RETRY-1 to RETRY-4)."""
        if not RETRYABLE.issuperset(statuses):
            raise InvalidArgumentError("statuses", "holds one that cannot be retried")
        run = self.state.runs.get(run_id)
        if run is None:
            return NotFound()
        if run.status not in statuses:
            return NotRetryable(status=run.status)
        if run.status is RunStatus.ABORTED:
            run.cancel_requested = False
            request = run.inbox.known.pop(("cancel", "cancel"), None)
            run.inbox.taken.update(() if request is None else (request,))
        index = append_to_log(run, event, now_ms)
        _queue_again(run, now_ms)
        return Retried(index=index)

    def delete_run(self, *, run_id: str, now_ms: int, force: bool = False) -> DeleteResult:
        """Remove a run (RETAIN-1, RETAIN-2)."""
        run = self.state.runs.get(run_id)
        if run is None:
            return NotFound()
        if run.is_held(now_ms) and not force:
            return NotDeletable(status=run.status)
        del self.state.runs[run_id]
        return Deleted()

    def prune_runs(
        self,
        *,
        finished_before_ms: int,
        limit: int,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> int:
        """Delete the terminal runs that ended first (RETAIN-3)."""
        if statuses is not None and not TERMINAL_STATUSES.issuperset(statuses):
            raise InvalidArgumentError("statuses", "holds one that is not terminal")
        named = ENDED_FOR_GOOD if statuses is None else frozenset(statuses)
        ended = sorted(
            (run.finished_at_ms, run.run_id)
            for run in self.state.runs.values()
            if run.status in named
            and run.finished_at_ms is not None
            and run.finished_at_ms < finished_before_ms
            and (workflow_ids is None or run.workflow_id in workflow_ids)
        )
        if 0 < limit < len(ended) and ended[limit - 1][0] == ended[limit][0]:
            raise Unsettled("RETAIN-3", "which of two runs that ended at once is the older one")
        for _, run_id in ended[:limit]:
            del self.state.runs[run_id]
        return len(ended[:limit])

    def create_runs(self, *, runs: Sequence[RunToCreate], now_ms: int) -> tuple[CreateManyResult, ...]:
        """Create runs, one after the other (BULK-4)."""

        def create(run: RunToCreate) -> CreateManyResult:
            facts: dict[str, Any] = {name: getattr(run, name) for name in RunToCreate.__dataclass_fields__}
            answer = self.create_run(**facts, now_ms=now_ms)
            if isinstance(answer, Created):
                return CreatedOfMany()
            return ExistingOfMany(run_id=run.run_id, differs=answer.differs)

        return tuple(map(create, runs))

    def cancel_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, CancelResult]:
        """Ask runs to end (BULK-1)."""
        return _each(run_ids, lambda run_id: self.cancel_run(run_id=run_id, now_ms=now_ms, reason=reason))

    def terminate_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, TerminateResult]:
        """End runs at once (BULK-1)."""
        return _each(run_ids, lambda run_id: self.terminate_run(run_id=run_id, now_ms=now_ms, reason=reason))

    def requeue_runs(self, *, run_ids: Sequence[str], now_ms: int) -> Mapping[str, RequeueResult]:
        """Requeue dead runs (BULK-1)."""
        return _each(run_ids, lambda run_id: self.requeue_run(run_id=run_id, now_ms=now_ms))

    def retry_runs(
        self,
        *,
        run_ids: Sequence[str],
        event: NewEvent,
        now_ms: int,
        statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
    ) -> Mapping[str, RetryResult]:
        """Requeue runs that ended wrongly (BULK-1)."""
        if not RETRYABLE.issuperset(statuses):
            raise InvalidArgumentError("statuses", "holds one that cannot be retried")
        return _each(
            run_ids, lambda run_id: self.retry_run(run_id=run_id, event=event, now_ms=now_ms, statuses=statuses)
        )


def _created_again(run: Run, operation_id: str) -> Created | None:
    """Return the answer to a repeated creation: the run as it is now, and the claim as it was given."""
    if run.last_operation is None or run.last_operation[0] != operation_id:
        return None
    first = run.last_operation[1]
    return Created(run=run.record(), claim=first.claim) if isinstance(first, Created) else None


def _same_value(left: JsonText, right: JsonText) -> bool:
    """Compare as JSON values: the order of keys does not matter, and `1`, `1.0` and `true` differ (RUN-3)."""
    return json.dumps(json.loads(left), sort_keys=True) == json.dumps(json.loads(right), sort_keys=True)


def _queue_again(run: Run, now_ms: int) -> None:
    run.status, run.due_at_ms, run.updated_at_ms = RunStatus.QUEUED, now_ms, now_ms
    run.crashes, run.error, run.reason, run.finished_at_ms = 0, None, None, None


def _each(run_ids: Sequence[str], verb: Callable[[str], A]) -> dict[str, A]:
    return {run_id: verb(run_id) for run_id in dict.fromkeys(run_ids)}
