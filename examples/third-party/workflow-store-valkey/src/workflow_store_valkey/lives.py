"""The roles `RunLifecycleStore` and `BulkStore`: creating, ending and removing runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    DEFAULT_QUEUE,
    AlreadyFinished,
    CancelRequested,
    CancelResult,
    ClaimedRun,
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
    Forked,
    ForkResult,
    JsonText,
    Lease,
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
    RunRecord,
    RunStatus,
    RunToCreate,
    Terminated,
    TerminateResult,
    cancel_payload,
    check_prunable,
    check_retryable,
    checked,
    differing_fields,
    differing_fork,
    new_id,
)

from . import codec
from .server import Reply, Server

PRUNED = (RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED)
RETRIED = (RunStatus.ERRORED, RunStatus.DEAD)


class Lives:
    """The methods that create, end and remove runs from outside."""

    _server: Server

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
        kind, record, token = await self._server.call(
            "create_run",
            run_id=run_id,
            workflow_id=workflow_id,
            workflow_version=workflow_version,
            input=input,
            operation_id=operation_id,
            now_ms=now_ms,
            queue=queue,
            priority=priority,
            available_at_ms=available_at_ms,
            owner=owner,
            lease_ms=lease_ms,
            new_token=new_id(),
        )
        run = codec.read_record(codec.read_row(record))
        if kind == "existing":
            differs = differing_fields(
                stored_workflow_id=run.workflow_id, stored_input=run.input, workflow_id=workflow_id, input=input
            )
            return Existing(run=run, differs=differs)
        if owner is None or lease_ms is None:
            return Created(run=run, claim=None)
        lease = Lease(owner=owner, token=token, number=1, expires_at_ms=run.lease_expires_at_ms or now_ms + lease_ms)
        return Created(run=run, claim=ClaimedRun(run=run, lease=lease, history=(), inbox=(), due_timers=()))

    @checked
    async def fork_run(
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
        kind, *facts = await self._server.call(
            "fork_run",
            run_id=run_id,
            new_run_id=new_run_id,
            from_index=from_index,
            event=codec.encode_event(event, now_ms),
            operation_id=operation_id,
            now_ms=now_ms,
            workflow_version=workflow_version,
        )
        if kind == "not-found":
            return NotFound()
        if kind == "not-forkable":
            return NotForkable(next_index=facts[0])
        run = codec.read_record(codec.read_row(facts[0]))
        if kind == "forked":
            return Forked(run=run)
        differs = differing_fork(run, run_id=run_id, from_index=from_index, workflow_version=workflow_version)
        return Existing(run=run, differs=differs)

    @checked
    async def load_run(self, *, run_id: str) -> RunRecord | None:
        row = codec.read_row(await self._server.call("load_run", run_id=run_id))
        return codec.read_record(row) if row else None

    @checked
    async def load_execution(
        self,
        *,
        run_id: str,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Execution | None:
        record, events, entries, timers = await self._server.call(
            "load_execution", run_id=run_id, history_limit=history_limit, history_bytes=history_bytes
        )
        if not record:
            return None
        return Execution(
            run=codec.read_record(codec.read_row(record)),
            history=codec.read_events(events, run_id),
            inbox=codec.read_entries(entries, run_id),
            timers=codec.read_timers(timers),
        )

    @checked
    async def cancel_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> CancelResult:
        return _cancelled(await self._server.call("cancel_run", run_id=run_id, **_cancelling(now_ms, reason)))

    @checked
    async def terminate_run(self, *, run_id: str, now_ms: int, reason: str | None = None) -> TerminateResult:
        return _terminated(await self._server.call("terminate_run", run_id=run_id, now_ms=now_ms, reason=reason))

    @checked
    async def requeue_run(self, *, run_id: str, now_ms: int) -> RequeueResult:
        return _requeued(await self._server.call("requeue_run", run_id=run_id, now_ms=now_ms))

    @checked
    async def retry_run(
        self, *, run_id: str, event: NewEvent, now_ms: int, statuses: Sequence[RunStatus] = RETRIED
    ) -> RetryResult:
        return _retried(await self._server.call("retry_run", run_id=run_id, **_retrying(event, now_ms, statuses)))

    @checked
    async def delete_run(self, *, run_id: str, now_ms: int, force: bool = False) -> DeleteResult:
        match await self._server.call("delete_run", run_id=run_id, now_ms=now_ms, force=force):
            case ["not-deletable", status]:
                return NotDeletable(status=RunStatus(status))
            case ["deleted"]:
                return Deleted()
        return NotFound()

    @checked
    async def prune_runs(
        self,
        *,
        finished_before_ms: int,
        limit: int,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
    ) -> int:
        wanted = PRUNED if statuses is None else statuses
        check_prunable(wanted)
        pruned: int = await self._server.call(
            "prune_runs",
            finished_before_ms=finished_before_ms,
            limit=limit,
            statuses=wanted,
            workflow_ids=workflow_ids,
        )
        return pruned

    @checked
    async def create_runs(self, *, runs: Sequence[RunToCreate], now_ms: int) -> tuple[CreateManyResult, ...]:
        if not runs:
            return ()
        facts = [{name: getattr(run, name) for name in RunToCreate.__dataclass_fields__} for run in runs]
        given = [{name: value for name, value in run.items() if value is not None} for run in facts]
        replies = await self._server.call("create_runs", runs=given, now_ms=now_ms)
        return tuple(map(_created_of_many, runs, replies))

    @checked
    async def cancel_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, CancelResult]:
        answers = await self._for_each("cancel_run", run_ids, _cancelling(now_ms, reason))
        return {run_id: _cancelled(reply) for run_id, reply in answers.items()}

    @checked
    async def terminate_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, TerminateResult]:
        answers = await self._for_each("terminate_run", run_ids, {"now_ms": now_ms, "reason": reason})
        return {run_id: _terminated(reply) for run_id, reply in answers.items()}

    @checked
    async def requeue_runs(self, *, run_ids: Sequence[str], now_ms: int) -> Mapping[str, RequeueResult]:
        answers = await self._for_each("requeue_run", run_ids, {"now_ms": now_ms})
        return {run_id: _requeued(reply) for run_id, reply in answers.items()}

    @checked
    async def retry_runs(
        self, *, run_ids: Sequence[str], event: NewEvent, now_ms: int, statuses: Sequence[RunStatus] = RETRIED
    ) -> Mapping[str, RetryResult]:
        answers = await self._for_each("retry_run", run_ids, _retrying(event, now_ms, statuses))
        return {run_id: _retried(reply) for run_id, reply in answers.items()}

    async def _for_each(self, verb: str, run_ids: Sequence[str], arguments: dict[str, Any]) -> dict[str, Reply]:
        """Return the reply of a verb for each of many runs, all of one call."""
        given = {name: value for name, value in arguments.items() if value is not None}
        ids = list(dict.fromkeys(run_ids))
        reply = await self._server.call("for_each_run", called=verb, run_ids=ids, arguments=given)
        return dict(zip(reply[::2], reply[1::2], strict=True))


def _created_of_many(run: RunToCreate, reply: Reply) -> CreateManyResult:
    kind, *stored = reply
    if kind == "created":
        return CreatedOfMany()
    stored_workflow_id, stored_input = stored
    try:
        differs = differing_fields(
            stored_workflow_id=stored_workflow_id,
            stored_input=stored_input,
            workflow_id=run.workflow_id,
            input=run.input,
        )
    except (TypeError, ValueError, RecursionError):  # it cannot be read
        differs = ("input",)
    return ExistingOfMany(run_id=run.run_id, differs=differs)


def _cancelling(now_ms: int, reason: str | None) -> dict[str, Any]:
    entry = codec.encode_entry("cancel", "cancel", "cancel", cancel_payload(reason), now_ms)
    return {"now_ms": now_ms, "entry": entry}


def _cancelled(reply: Reply) -> CancelResult:
    match reply:
        case ["requested", seq]:
            return CancelRequested(inbox_seq=seq)
        case ["duplicate", seq]:
            return Duplicate(inbox_seq=seq)
        case ["finished", status]:
            return AlreadyFinished(status=RunStatus(status))
    return NotFound()


def _terminated(reply: Reply) -> TerminateResult:
    match reply:
        case ["terminated"]:
            return Terminated()
        case ["finished", status]:
            return AlreadyFinished(status=RunStatus(status))
    return NotFound()


def _requeued(reply: Reply) -> RequeueResult:
    match reply:
        case ["requeued"]:
            return Requeued()
        case ["not-requeueable", status]:
            return NotRequeueable(status=RunStatus(status))
    return NotFound()


def _retrying(event: NewEvent, now_ms: int, statuses: Sequence[RunStatus]) -> dict[str, Any]:
    check_retryable(statuses)
    return {"event": codec.encode_event(event, now_ms), "now_ms": now_ms, "statuses": statuses}


def _retried(reply: Reply) -> RetryResult:
    match reply:
        case ["retried", index]:
            return Retried(index=index)
        case ["not-retryable", status]:
            return NotRetryable(status=RunStatus(status))
    return NotFound()
