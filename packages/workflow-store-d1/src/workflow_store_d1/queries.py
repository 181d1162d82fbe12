"""Looking at many runs."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import RunCounts, RunNotFoundError, RunPage, RunStatus, RunTimeline, checked
from workflow_store_sql import ANY_SIZE, END_OF_TIME_MS, RunRows, fail_only, read_run_page, run_page_bounds

from .statement_sender import json_list
from .store_role import StoreRole

__all__ = ["Queries"]


class Queries(StoreRole):
    """The role `QueryStore`."""

    @checked
    async def list_runs(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        run_id_prefix: str | None = None,
        created_from_ms: int | None = None,
        created_before_ms: int | None = None,
        descending: bool = False,
    ) -> RunPage:
        bounds = run_page_bounds(cursor, created_from_ms, created_before_ms, descending=descending)
        name, workflows = "list_runs", json_list(workflow_ids)
        if fail_only(statuses):
            name = "list_failed_runs"
        elif workflow_ids is not None and len(workflow_ids) == 1:
            name, workflows = "list_runs_of_workflow", workflow_ids[0]
        if descending:
            name += "_descending"
        # One more than asked for shows whether there is another page.
        rows = await self._sender.rows(
            name, *bounds, json_list(statuses), workflows, json_list(queues), run_id_prefix, limit + 1
        )
        return read_run_page(self._read, rows, limit)

    @checked
    async def count_runs(
        self,
        *,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        run_id_prefix: str | None = None,
        created_from_ms: int | None = None,
        created_before_ms: int | None = None,
    ) -> RunCounts:
        rows = await self._sender.rows(
            "count_failed_runs" if fail_only(statuses) else "count_runs",
            created_from_ms or 0,
            END_OF_TIME_MS if created_before_ms is None else created_before_ms,
            json_list(statuses),
            json_list(workflow_ids),
            json_list(queues),
            run_id_prefix,
        )
        return RunCounts.of((row["status"], row["run_count"]) for row in rows)

    @checked
    async def get_run_timeline(self, *, run_id: str, limit: int = 1_000) -> RunTimeline:
        statement = self._sender.statement
        run, events, inbox, timers = await self._sender.batch(
            [
                statement("load_run", run_id),
                statement("read_events", run_id, 0, limit, ANY_SIZE),
                statement("get_run_timeline.inbox", run_id, limit),
                statement("read_timers", run_id),
            ]
        )
        if not run:
            raise RunNotFoundError(run_id)
        return self._read.timeline(RunRows(run[0], events, inbox, timers), limit)
