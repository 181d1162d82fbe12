"""Runs as seen from outside: creating them, ending them, reviving them, removing them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from sqlite3 import Connection

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    DEFAULT_QUEUE,
    TERMINAL_STATUSES,
    AlreadyFinished,
    CancelRequested,
    CancelResult,
    CorruptRecordError,
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
    differing_fields,
    differing_fork,
)

from .claims import claimed_run, take_lease
from .driving import insert_events
from .heads import end_run, find_head, insert_run, queue_run, set_head
from .inbox import put_into_inbox
from .rows import as_json, entry, find_run, read_run, select_events, select_inbox, select_timers

ENDED = TERMINAL_STATUSES - {RunStatus.DEAD}


def create_run(
    db: Connection,
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
    head = find_head(db, run_id)
    if head is None:
        insert_run(
            db,
            run_id,
            input,
            now_ms=now_ms,
            claimable_at_ms=now_ms if available_at_ms is None else available_at_ms,
            workflow_id=workflow_id,
            workflow_version=workflow_version,
            queue=queue,
            priority=priority,
            last_operation_id=operation_id,
        )
        if owner is not None and lease_ms is not None:
            lease = take_lease(db, run_id, owner=owner, lease_ms=lease_ms, now_ms=now_ms)
            facts = {name: getattr(lease, name) for name in ("owner", "token", "number", "expires_at_ms")}
            set_head(db, run_id, last_answer=json.dumps(facts))
        head = find_head(db, run_id)
        assert head is not None
    if head["last_operation_id"] != operation_id:
        run = read_run(db, run_id)
        differs = differing_fields(
            stored_workflow_id=run.workflow_id, stored_input=run.input, workflow_id=workflow_id, input=input
        )
        return Existing(run=run, differs=differs)
    # Created, by this call or by one whose answer was lost: it gives the lease that it gave then.
    facts = json.loads(head["last_answer"])
    claim = claimed_run(db, run_id, Lease(**facts), now_ms=now_ms) if facts else None
    return Created(run=read_run(db, run_id), claim=claim)


def fork_run(
    db: Connection,
    *,
    run_id: str,
    new_run_id: str,
    from_index: int,
    event: NewEvent,
    operation_id: str,
    now_ms: int,
    workflow_version: str | None = None,
) -> ForkResult:
    there = find_head(db, new_run_id)
    if there is not None:
        run = read_run(db, new_run_id)
        if there["last_operation_id"] == operation_id:
            return Forked(run=run)
        differs = differing_fork(run, run_id=run_id, from_index=from_index, workflow_version=workflow_version)
        return Existing(run=run, differs=differs)
    other = find_run(db, run_id)
    if other is None:
        return NotFound()
    if other.next_index < from_index:
        return NotForkable(next_index=other.next_index)
    taken_over = ("workflow_id", "queue", "priority", "schedule_id", "scheduled_at_ms")
    insert_run(
        db,
        new_run_id,
        other.input,
        now_ms=now_ms,
        claimable_at_ms=now_ms,
        last_operation_id=operation_id,
        next_index=from_index + 1,
        workflow_version=workflow_version or other.workflow_version,
        forked_from_run_id=run_id,
        forked_from_index=from_index,
        **{name: getattr(other, name) for name in taken_over},
    )
    db.execute(
        """
        INSERT INTO workflow_events (run_id, event_index, kind, step_id, payload, created_at_ms)
        SELECT ?, event_index, kind, step_id, payload, created_at_ms
        FROM workflow_events
        WHERE run_id = ? AND event_index < ?
        """,
        (new_run_id, run_id, from_index),
    )
    insert_events(db, new_run_id, from_index, [event], now_ms)
    return Forked(run=read_run(db, new_run_id))


def load_run(db: Connection, *, run_id: str) -> RunRecord | None:
    return find_run(db, run_id)


def load_execution(
    db: Connection,
    *,
    run_id: str,
    history_limit: int = DEFAULT_HISTORY_EVENTS,
    history_bytes: int = DEFAULT_HISTORY_BYTES,
) -> Execution | None:
    run = find_run(db, run_id)
    if run is None:
        return None
    return Execution(
        run=run,
        history=select_events(db, run_id, from_index=0, limit=history_limit, max_bytes=history_bytes),
        inbox=tuple(entry(row) for row in select_inbox(db, run_id, limit=DEFAULT_HISTORY_EVENTS)),
        timers=select_timers(db, run_id),
    )


def cancel_run(db: Connection, *, run_id: str, now_ms: int, reason: str | None = None) -> CancelResult:
    head = find_head(db, run_id)
    if head is None:
        return NotFound()
    status = RunStatus(head["status"])
    if status.is_terminal:
        return AlreadyFinished(status=status)
    if head["cancel_requested"]:
        requests = "SELECT max(inbox_seq) FROM workflow_inbox WHERE run_id = ? AND kind = 'cancel'"
        return Duplicate(inbox_seq=db.execute(requests, (run_id,)).fetchone()[0])
    payload = cancel_payload(reason)
    inbox_seq = put_into_inbox(
        db, head, kind="cancel", name="cancel", delivery_id="cancel", payload=payload, now_ms=now_ms
    )
    set_head(db, run_id, cancel_requested=True)
    if status is RunStatus.PAUSED:
        queue_run(db, run_id, now_ms=now_ms)
    elif status is RunStatus.QUEUED:
        set_head(db, run_id, claimable_at_ms=min(head["claimable_at_ms"], now_ms))
    return CancelRequested(inbox_seq=inbox_seq)


def terminate_run(db: Connection, *, run_id: str, now_ms: int, reason: str | None = None) -> TerminateResult:
    head = find_head(db, run_id)
    if head is None:
        return NotFound()
    if head["status"] in ENDED:
        return AlreadyFinished(status=RunStatus(head["status"]))
    end_run(db, run_id, RunStatus.ABORTED, now_ms=now_ms, reason=reason)
    return Terminated()


def requeue_run(db: Connection, *, run_id: str, now_ms: int) -> RequeueResult:
    head = find_head(db, run_id)
    if head is None:
        return NotFound()
    if head["status"] != RunStatus.DEAD:
        return NotRequeueable(status=RunStatus(head["status"]))
    _revive(db, run_id, now_ms)
    return Requeued()


def retry_run(
    db: Connection,
    *,
    run_id: str,
    event: NewEvent,
    now_ms: int,
    statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
) -> RetryResult:
    check_retryable(statuses)
    head = find_head(db, run_id)
    if head is None:
        return NotFound()
    if head["status"] not in statuses:
        return NotRetryable(status=RunStatus(head["status"]))
    index: int = head["next_index"]
    insert_events(db, run_id, index, [event], now_ms)
    _revive(db, run_id, now_ms, next_index=index + 1)
    if head["status"] == RunStatus.ABORTED:
        set_head(db, run_id, cancel_requested=False)
        db.execute("UPDATE workflow_inbox SET taken = 1 WHERE run_id = ? AND kind = 'cancel'", (run_id,))
    return Retried(index=index)


def _revive(db: Connection, run_id: str, now_ms: int, **columns: object) -> None:
    columns |= {"crashes": 0, "silent_claims": 0, "reason": None, "finished_at_ms": None}
    queue_run(db, run_id, now_ms=now_ms, **columns)
    db.execute("UPDATE workflow_run_data SET error = NULL WHERE run_id = ?", (run_id,))


def delete_run(db: Connection, *, run_id: str, now_ms: int, force: bool = False) -> DeleteResult:
    head = find_head(db, run_id)
    if head is None:
        return NotFound()
    held = head["status"] == RunStatus.RUNNING and head["claimable_at_ms"] > now_ms
    if held and not force:
        return NotDeletable(status=RunStatus.RUNNING)
    db.execute("DELETE FROM workflow_runs WHERE run_id = ?", (run_id,))
    return Deleted()


def prune_runs(
    db: Connection,
    *,
    finished_before_ms: int,
    limit: int,
    statuses: Sequence[RunStatus] | None = None,
    workflow_ids: Sequence[str] | None = None,
) -> int:
    statuses = sorted(ENDED) if statuses is None else statuses
    check_prunable(statuses)
    asked = {"statuses": as_json(statuses), "before": finished_before_ms, "workflow_ids": as_json(workflow_ids)}
    return db.execute(
        """
        DELETE FROM workflow_runs
        WHERE run_id IN (
            SELECT run_id
            FROM workflow_runs
            WHERE status IN (SELECT value FROM json_each(:statuses))
              AND finished_at_ms < :before
              AND (:workflow_ids IS NULL OR workflow_id IN (SELECT value FROM json_each(:workflow_ids)))
            ORDER BY finished_at_ms, run_id
            LIMIT :limit
        )
        """,
        {**asked, "limit": limit},
    ).rowcount


def create_runs(db: Connection, *, runs: Sequence[RunToCreate], now_ms: int) -> tuple[CreateManyResult, ...]:
    return tuple(_create_one_of_many(db, run, now_ms) for run in runs)


def _create_one_of_many(db: Connection, run: RunToCreate, now_ms: int) -> CreateManyResult:
    try:
        answer = create_run(
            db,
            run_id=run.run_id,
            workflow_id=run.workflow_id,
            workflow_version=run.workflow_version,
            input=run.input,
            operation_id=run.operation_id,
            now_ms=now_ms,
            queue=run.queue,
            priority=run.priority,
            available_at_ms=run.available_at_ms,
        )
    except CorruptRecordError:  # raised before anything is written: it must not keep the others back
        return ExistingOfMany(run_id=run.run_id, differs=("input",))
    if isinstance(answer, Created):
        return CreatedOfMany()
    return ExistingOfMany(run_id=run.run_id, differs=answer.differs)


def cancel_runs(
    db: Connection, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
) -> Mapping[str, CancelResult]:
    return {run_id: cancel_run(db, run_id=run_id, now_ms=now_ms, reason=reason) for run_id in dict.fromkeys(run_ids)}


def terminate_runs(
    db: Connection, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
) -> Mapping[str, TerminateResult]:
    return {run_id: terminate_run(db, run_id=run_id, now_ms=now_ms, reason=reason) for run_id in dict.fromkeys(run_ids)}


def requeue_runs(db: Connection, *, run_ids: Sequence[str], now_ms: int) -> Mapping[str, RequeueResult]:
    return {run_id: requeue_run(db, run_id=run_id, now_ms=now_ms) for run_id in dict.fromkeys(run_ids)}


def retry_runs(
    db: Connection,
    *,
    run_ids: Sequence[str],
    event: NewEvent,
    now_ms: int,
    statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
) -> Mapping[str, RetryResult]:
    return {
        run_id: retry_run(db, run_id=run_id, event=event, now_ms=now_ms, statuses=statuses)
        for run_id in dict.fromkeys(run_ids)
    }
