"""Answers to calls from outside, as pure functions of a row: the head, and what a statement did to it.

Each function takes the row of one run, or `None` for a run that is not there. Beside `status` it reads the columns that
its docstring names.
"""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import (
    AlreadyDecided,
    AlreadyFinished,
    Buffered,
    CancelRequested,
    CancelResult,
    Deleted,
    DeleteResult,
    DeliverApprovalResult,
    Delivered,
    DeliverRetryResult,
    DeliverSignalResult,
    Duplicate,
    NotDeletable,
    NotFound,
    NotRequeueable,
    NotRetryable,
    NotWaiting,
    Requeued,
    RequeueResult,
    Retried,
    RetryResult,
    RunStatus,
    Terminated,
    TerminateResult,
    check_prunable,
)

from .rows import Row, RowReader

__all__ = [
    "ENDED",
    "NOT_CANCELLABLE",
    "answer_approval",
    "answer_cancel",
    "answer_delete",
    "answer_requeue",
    "answer_retry",
    "answer_retry_request",
    "answer_signal",
    "answer_terminate",
    "error_status",
    "prunable_statuses",
]

ENDED = frozenset({RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED})
"""The ends that `retry_run` alone may undo. A dead run takes deliveries: `requeue_run` may bring it back."""
NOT_CANCELLABLE = ENDED | {RunStatus.DEAD}


def error_status(*, aborted: bool, parked: bool) -> RunStatus:
    """Return the status that `mark_run_errored` gives a run."""
    if aborted:
        return RunStatus.ABORTED
    return RunStatus.DEAD if parked else RunStatus.ERRORED


def prunable_statuses(statuses: Sequence[RunStatus] | None) -> Sequence[RunStatus]:
    """Return the statuses that `prune_runs` asks for: the given ones, or those of ended runs.

    Raises:
        InvalidArgumentError: Runs of one of them are not to be pruned.
    """
    wanted = sorted(ENDED) if statuses is None else statuses
    check_prunable(wanted)
    return wanted


def answer_signal(read: RowReader, run_id: str, row: Row | None) -> DeliverSignalResult:
    """Answer `deliver_signal`.

    The columns: `known_seq`, the number of the entry that was there before; `inbox_seq`, the number of the new one;
    `awaited`, whether the run waits for it.
    """
    if row is None:
        return NotFound()
    if row["known_seq"] is not None:
        return Duplicate(inbox_seq=row["known_seq"])
    return _delivered(read, run_id, row)


def answer_approval(read: RowReader, run_id: str, row: Row | None) -> DeliverApprovalResult:
    """Answer `deliver_approval`, by the columns of `answer_signal` and `known_payload`, the decision that was there."""
    if row is None:
        return NotFound()
    if row["known_seq"] is not None:
        return AlreadyDecided(approved=read.decision(row, run_id))
    return _delivered(read, run_id, row)


def answer_retry_request(read: RowReader, run_id: str, row: Row | None) -> DeliverRetryResult:
    """Answer `deliver_retry`, by the columns of `answer_signal`."""
    if row is None:
        return NotFound()
    if row["known_seq"] is not None:
        return Duplicate(inbox_seq=row["known_seq"])
    if row["inbox_seq"] is None:
        return AlreadyFinished(status=read.status(row["status"], run_id))
    return _entry(row)


def answer_cancel(read: RowReader, run_id: str, row: Row | None) -> CancelResult:
    """Answer `cancel_run`, by the columns `known_seq` and `inbox_seq` of `answer_signal`."""
    if row is None:
        return NotFound()
    if row["inbox_seq"] is not None:
        return CancelRequested(inbox_seq=row["inbox_seq"])
    status = read.status(row["status"], run_id)
    if status in NOT_CANCELLABLE:
        return AlreadyFinished(status=status)
    return Duplicate(inbox_seq=row["known_seq"])


def answer_terminate(read: RowReader, run_id: str, row: Row | None) -> TerminateResult:
    """Answer `terminate_run`."""
    if row is None:
        return NotFound()
    status = read.status(row["status"], run_id)
    return AlreadyFinished(status=status) if status in ENDED else Terminated()


def answer_requeue(read: RowReader, run_id: str, row: Row | None) -> RequeueResult:
    """Answer `requeue_run`."""
    if row is None:
        return NotFound()
    status = read.status(row["status"], run_id)
    return Requeued() if status is RunStatus.DEAD else NotRequeueable(status=status)


def answer_retry(read: RowReader, run_id: str, row: Row | None) -> RetryResult:
    """Answer `retry_run`, by the column `event_index`: that of the new event, if the run is retried."""
    if row is None:
        return NotFound()
    if row["event_index"] is None:
        return NotRetryable(status=read.status(row["status"], run_id))
    return Retried(index=row["event_index"])


def answer_delete(read: RowReader, run_id: str, row: Row | None) -> DeleteResult:
    """Answer `delete_run`, by the column `deleted`."""
    if row is None:
        return NotFound()
    return Deleted() if row["deleted"] else NotDeletable(status=read.status(row["status"], run_id))


def _delivered(read: RowReader, run_id: str, row: Row) -> AlreadyFinished | NotWaiting | Delivered | Buffered:
    if row["inbox_seq"] is not None:
        return _entry(row)
    status = read.status(row["status"], run_id)
    return AlreadyFinished(status=status) if status in ENDED else NotWaiting(status=status)


def _entry(row: Row) -> Delivered | Buffered:
    delivery = Delivered if row["awaited"] else Buffered
    return delivery(inbox_seq=row["inbox_seq"])
