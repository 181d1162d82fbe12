"""What operators say to runs, any number of them in one unit."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import (
    NewEvent,
    NotFound,
    NotRetryable,
    Retried,
    RetryResult,
    RunStatus,
    check_retryable,
    checked,
)

from .role import Role
from .session import json_list

__all__ = ["Bulk"]


class Bulk(Role):
    """Keeps `retry_run`."""

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

    async def _retry(
        self, run_ids: Sequence[str], event: NewEvent, now_ms: int, statuses: Sequence[RunStatus]
    ) -> dict[str, RetryResult]:
        check_retryable(statuses)
        statement = self._session.statement
        asked = (json_list(run_ids), json_list(statuses))
        facts = (event.kind, event.step_id, len(event.payload or ""), event.payload)
        before, *_ = await self._session.batch(
            [
                statement("retry_runs.before", asked[0]),
                statement("retry_runs.events", *asked, now_ms, *facts),
                statement("retry_runs.states", *asked),
                statement("retry_runs.requests", *asked),
                statement("retry_runs.heads", *asked, now_ms),
            ],
            recognised=False,
        )
        answers: dict[str, RetryResult] = {run_id: NotFound() for run_id in run_ids}
        for row in before:
            status = self._read.status(row, row["run_id"])
            retried = status in statuses
            answers[row["run_id"]] = Retried(index=row["next_index"]) if retried else NotRetryable(status=status)
        return answers
