"""Calls for runs, any number of them in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from workflow_runtime.store import (
    CancelResult,
    CreateManyResult,
    DeliverSignalResult,
    NewEvent,
    NotFound,
    RequeueResult,
    RetryResult,
    RunStatus,
    RunToCreate,
    SignalToDeliver,
    TerminateResult,
    cancel_payload,
    check_retryable,
    checked,
)
from workflow_store_sql import (
    Creations,
    Deliveries,
    RowReader,
    answer_cancel,
    answer_requeue,
    answer_retry,
    answer_signals,
    answer_terminate,
    creation_values,
)

from .database import D1PreparedStatement, Row
from .entries import cancelled
from .statement_sender import json_list
from .store_role import StoreRole

__all__ = ["Bulk"]

A = TypeVar("A")
Answer: TypeAlias = Callable[[RowReader, str, Row], A]


class Bulk(StoreRole):
    """The role `BulkStore`, and `retry_run`."""

    @checked
    async def create_runs(self, *, runs: Sequence[RunToCreate], now_ms: int) -> tuple[CreateManyResult, ...]:
        if not runs:
            return ()
        creations = Creations(runs)
        values = json_list(creation_values(run, now_ms) for run in creations.firsts())
        statement = self._sender.statement
        before, *_ = await self._sender.batch(
            [
                statement("create_runs.before", values),
                statement("create_runs.runs", values, now_ms),
                statement("create_runs.states", values),
                statement("create_runs.heads", values, now_ms),
            ]
        )
        creations.note_stored(before)
        return creations.answers()

    @checked
    async def deliver_signals(
        self, *, signals: Sequence[SignalToDeliver], now_ms: int
    ) -> tuple[DeliverSignalResult, ...]:
        if not signals:
            return ()
        deliveries = Deliveries(signals)
        firsts = deliveries.firsts
        values = json_list((signal.run_id, signal.signal_id, signal.name, signal.payload) for signal in firsts)
        statement = self._sender.statement
        before, *_ = await self._sender.batch(
            [
                statement("deliver_signals.before", values),
                statement("deliver_signals.entries", values, now_ms),
                statement("deliver_signals.waken", values, now_ms),
                statement("deliver_signals.heads", values, now_ms),
            ]
        )
        heads = {row["place"]: row for row in before}
        return deliveries.answers(answer_signals(self._read, firsts, heads))

    @checked
    async def retry_run(
        self,
        *,
        run_id: str,
        event: NewEvent,
        now_ms: int,
        statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
    ) -> RetryResult:
        return (await self._retry([run_id], event, now_ms, statuses))[run_id]

    @checked
    async def retry_runs(
        self,
        *,
        run_ids: Sequence[str],
        event: NewEvent,
        now_ms: int,
        statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
    ) -> Mapping[str, RetryResult]:
        return await self._retry(run_ids, event, now_ms, statuses)

    @checked
    async def cancel_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, CancelResult]:
        ids, payload = json_list(run_ids), cancel_payload(reason)
        statement = self._sender.statement
        statements = [
            statement("cancel_runs.before", ids),
            statement("cancel_runs.entries", ids, now_ms, len(payload), payload),
            statement("cancel_runs.heads", ids, now_ms),
        ]

        def answer(read: RowReader, run_id: str, before: Row) -> CancelResult:
            return answer_cancel(read, run_id, cancelled(read, run_id, before))

        return await self._say(run_ids, statements, answer, recognised=True)

    @checked
    async def terminate_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, TerminateResult]:
        ids = json_list(run_ids)
        statement = self._sender.statement
        statements = [
            statement("terminate_runs.before", ids),
            statement("terminate_runs.states", ids, reason),
            statement("terminate_runs.timers", ids),
            statement("terminate_runs.heads", ids, now_ms),
        ]

        return await self._say(run_ids, statements, answer_terminate, recognised=True)

    @checked
    async def requeue_runs(self, *, run_ids: Sequence[str], now_ms: int) -> Mapping[str, RequeueResult]:
        ids = json_list(run_ids)
        statement = self._sender.statement
        statements = [
            statement("requeue_runs.before", ids),
            statement("requeue_runs.states", ids),
            statement("requeue_runs.heads", ids, now_ms),
        ]

        return await self._say(run_ids, statements, answer_requeue, recognised=False)

    async def _retry(
        self, run_ids: Sequence[str], event: NewEvent, now_ms: int, statuses: Sequence[RunStatus]
    ) -> Mapping[str, RetryResult]:
        check_retryable(statuses)
        asked = (json_list(run_ids), json_list(statuses))
        facts = (event.kind, event.step_id, len(event.payload or ""), event.payload)
        statement = self._sender.statement
        statements = [
            statement("retry_runs.before", asked[0]),
            statement("retry_runs.events", *asked, now_ms, *facts),
            statement("retry_runs.states", *asked),
            statement("retry_runs.requests", *asked),
            statement("retry_runs.heads", *asked, now_ms),
        ]

        def answer(read: RowReader, run_id: str, before: Row) -> RetryResult:
            retried = read.status(before["status"], run_id) in statuses
            return answer_retry(read, run_id, {**before, "event_index": before["next_index"] if retried else None})

        return await self._say(run_ids, statements, answer, recognised=False)

    async def _say(
        self,
        run_ids: Sequence[str],
        statements: Sequence[D1PreparedStatement],
        answer: Answer[A],
        *,
        recognised: bool,
    ) -> dict[str, A | NotFound]:
        """Run a batch that begins by reading the heads as they were, which shows what became of each run."""
        before, *_ = await self._sender.batch(statements, recognised=recognised)
        answers: dict[str, A | NotFound] = {run_id: NotFound() for run_id in run_ids}
        for row in before:
            answers[row["run_id"]] = answer(self._read, row["run_id"], row)
        return answers
