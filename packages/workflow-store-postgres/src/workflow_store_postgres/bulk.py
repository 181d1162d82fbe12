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
        check_retryable(statuses)
        facts = (event.kind, event.step_id, event.payload)
        with self._notices.about(run_id) as telling:
            rows = await self._session.settled("retry_runs", [run_id], list(statuses), now_ms, *facts, telling.itself)
            telling.hear(rows)
        if not rows:
            return NotFound()
        if rows[0]["event_index"] is not None:
            return Retried(index=rows[0]["event_index"])
        return NotRetryable(status=self._read.status(rows[0]["status"], run_id))
