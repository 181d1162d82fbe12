"""Calls of operators for many runs at once: here, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workflow_runtime.store import (
    CancelResult,
    NewEvent,
    RequeueResult,
    RetryResult,
    RunStatus,
    TerminateResult,
    check_retryable,
    checked,
)

from .runs import RunLifecycle

__all__ = ["Bulk"]

# Each run is handled by the plain verb, atomically, even if a subclass overrides that verb.


class Bulk(RunLifecycle):
    """The role `BulkStore`."""

    @checked
    async def cancel_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, CancelResult]:
        """BULK-1 to BULK-3."""
        cancel = RunLifecycle.cancel_run
        return {run_id: await cancel(self, run_id=run_id, now_ms=now_ms, reason=reason) for run_id in set(run_ids)}

    @checked
    async def terminate_runs(
        self, *, run_ids: Sequence[str], now_ms: int, reason: str | None = None
    ) -> Mapping[str, TerminateResult]:
        """BULK-1 to BULK-3."""
        terminate = RunLifecycle.terminate_run
        return {run_id: await terminate(self, run_id=run_id, now_ms=now_ms, reason=reason) for run_id in set(run_ids)}

    @checked
    async def requeue_runs(self, *, run_ids: Sequence[str], now_ms: int) -> Mapping[str, RequeueResult]:
        """BULK-1 to BULK-3."""
        return {run_id: await RunLifecycle.requeue_run(self, run_id=run_id, now_ms=now_ms) for run_id in set(run_ids)}

    @checked
    async def retry_runs(
        self,
        *,
        run_ids: Sequence[str],
        event: NewEvent,
        now_ms: int,
        statuses: Sequence[RunStatus] = (RunStatus.ERRORED, RunStatus.DEAD),
    ) -> Mapping[str, RetryResult]:
        """BULK-1 to BULK-3."""
        check_retryable(statuses)
        retry = RunLifecycle.retry_run
        return {
            run_id: await retry(self, run_id=run_id, event=event, now_ms=now_ms, statuses=statuses)
            for run_id in set(run_ids)
        }
