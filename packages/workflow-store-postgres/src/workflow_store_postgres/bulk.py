"""Calls of operators for runs, any number of them in one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from workflow_runtime.store import (
    CancelResult,
    NewEvent,
    NotFound,
    RequeueResult,
    RetryResult,
    RunStatus,
    StoreUnavailableError,
    TerminateResult,
    cancel_payload,
    check_retryable,
    checked,
)
from workflow_store_sql import RowReader, answer_cancel, answer_requeue, answer_retry, answer_terminate

from .statement_sender import MAX_TRIES, Row, wait_a_little
from .store_role import StoreRole

__all__ = ["Bulk"]

A = TypeVar("A")


class Bulk(StoreRole):
    """The role `BulkStore`, and `retry_run`."""

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
        with self._notices.about(run_id) as pending:
            rows = await self._sender.settled(
                "retry_runs", [run_id], list(statuses), now_ms, *facts, pending.by_statement
            )
            pending.read_answer(rows)
        return answer_retry(self._read, run_id, rows[0] if rows else None)

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
        return await self._say("retry_runs", run_ids, *values, answer=answer_retry)

    @checked
    async def cancel_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, CancelResult]:
        return await self._say("cancel_runs", run_ids, now_ms, cancel_payload(reason), answer=answer_cancel)

    @checked
    async def terminate_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, TerminateResult]:
        return await self._say("terminate_runs", run_ids, now_ms, reason, answer=answer_terminate)

    @checked
    async def requeue_runs(self, *, run_ids: Sequence[str], now_ms: int) -> Mapping[str, RequeueResult]:
        return await self._say("requeue_runs", run_ids, now_ms, answer=answer_requeue)

    async def _say(
        self, name: str, run_ids: Sequence[str], *values: object, answer: Callable[[RowReader, str, Row], A]
    ) -> dict[str, A | NotFound]:
        """Run a statement until none of the runs was overtaken, and notify the workers once if there is work."""
        answers: dict[str, A | NotFound] = {run_id: NotFound() for run_id in run_ids}
        left = list(answers)
        wakes = False
        try:
            for tries in range(1, MAX_TRIES + 1):
                rows = await self._sender.rows(name, left, *values)
                for row in rows:
                    if not row["overtaken"]:
                        answers[row["run_id"]] = answer(self._read, row["run_id"], row)
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
                self._notices.notify_of_anything()
