"""What operators say to runs, any number of them in one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from workflow_runtime.errors import StoreUnavailableError
from workflow_runtime.store import (
    AlreadyFinished,
    CancelRequested,
    CancelResult,
    Duplicate,
    NewEvent,
    NotFound,
    NotRequeueable,
    NotRetryable,
    Requeued,
    RequeueResult,
    Retried,
    RetryResult,
    RunStatus,
    Terminated,
    TerminateResult,
    cancel_payload,
    check_retryable,
    checked,
)

from .role import Role
from .session import MAX_TRIES, Row, wait_a_little

__all__ = ["Bulk"]

A = TypeVar("A")

_ENDED = frozenset({RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED})


class Bulk(Role):
    """Keeps `BulkStore`, and `retry_run`."""

    @checked
    async def retry_run(
        self,
        *,
        run_id: str,
        event: NewEvent,
        now_ms: int,
        statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
    ) -> RetryResult:
        check_retryable(statuses)
        facts = (event.kind, event.step_id, event.payload)
        with self._notices.about(run_id) as telling:
            rows = await self._session.settled("retry_runs", [run_id], list(statuses), now_ms, *facts, telling.itself)
            telling.hear(rows)
        return _retry_answer(rows[0], self._read.status(rows[0]["status"], run_id)) if rows else NotFound()

    @checked
    async def retry_runs(
        self,
        *,
        run_ids: Sequence[str],
        event: NewEvent,
        now_ms: int,
        statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
    ) -> Mapping[str, RetryResult]:
        check_retryable(statuses)
        values = (list(statuses), now_ms, event.kind, event.step_id, event.payload, False)
        return await self._say("retry_runs", run_ids, *values, answer=_retry_answer)

    @checked
    async def cancel_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, CancelResult]:
        return await self._say("cancel_runs", run_ids, now_ms, cancel_payload(reason), answer=_cancel_answer)

    @checked
    async def terminate_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, TerminateResult]:
        return await self._say("terminate_runs", run_ids, now_ms, reason, answer=_terminate_answer)

    @checked
    async def requeue_runs(self, *, run_ids: Sequence[str], now_ms: int) -> Mapping[str, RequeueResult]:
        return await self._say("requeue_runs", run_ids, now_ms, answer=_requeue_answer)

    async def _say(
        self, name: str, run_ids: Sequence[str], *values: object, answer: Callable[[Row, RunStatus], A]
    ) -> dict[str, A | NotFound]:
        """Run a statement until none of the runs was overtaken, and tell the workers once if there is work."""
        answers: dict[str, A | NotFound] = {run_id: NotFound() for run_id in run_ids}
        left = list(answers)
        wakes = False
        try:
            for tries in range(1, MAX_TRIES + 1):
                rows = await self._session.rows(name, left, *values)
                for row in rows:
                    answers[row["run_id"]] = answer(row, self._read.status(row["status"], row["run_id"]))
                wakes = wakes or any(row["wakes"] for row in rows)
                left = [row["run_id"] for row in rows if row["overtaken"]]
                if not left:
                    return answers
                await wait_a_little(tries)
            raise StoreUnavailableError(f"too many others write these runs: {', '.join(left[:5])}")
        except (StoreUnavailableError, asyncio.CancelledError):
            wakes = True  # it may have been committed all the same
            raise
        finally:
            if wakes:
                self._notices.tell_of_anything()


def _retry_answer(row: Row, status: RunStatus) -> RetryResult:
    return NotRetryable(status=status) if row["event_index"] is None else Retried(index=row["event_index"])


def _cancel_answer(row: Row, status: RunStatus) -> CancelResult:
    if row["inbox_seq"] is not None:
        return CancelRequested(inbox_seq=row["inbox_seq"])
    if status in _ENDED or status is RunStatus.DEAD:
        return AlreadyFinished(status=status)
    return Duplicate(inbox_seq=row["known_seq"] or 0)


def _terminate_answer(row: Row, status: RunStatus) -> TerminateResult:
    return AlreadyFinished(status=status) if status in _ENDED else Terminated()


def _requeue_answer(row: Row, status: RunStatus) -> RequeueResult:
    return Requeued() if status is RunStatus.DEAD else NotRequeueable(status=status)
