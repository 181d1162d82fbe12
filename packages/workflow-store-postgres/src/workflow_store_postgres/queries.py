"""Looking at many runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from workflow_runtime.store import RunCounts, RunNotFoundError, RunPage, RunStatus, RunTimeline, checked
from workflow_store_sql import ANY_SIZE, END_OF_TIME_MS, fail_only, read_run_page, run_page_bounds

from .rows import run_rows
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
        filters = (_list(statuses), _list(workflow_ids), _list(queues))
        # One more than asked for shows whether there is another page.
        page = (*run_page_bounds(cursor, created_from_ms, created_before_ms, descending=descending), limit + 1)
        order = "_descending" if descending else ""
        if run_id_prefix is not None:
            name = f"list_runs_by_prefix{order}"
            rows = await self._sender.rows_planned_for_values(name, *filters, *page, _pattern(run_id_prefix))
        elif fail_only(statuses) and workflow_ids is None and queues is None:
            rows = await self._sender.rows(f"list_failed_runs{order}", filters[0], *page)
        elif any(wanted is not None for wanted in filters):
            rows = await self._sender.rows(f"list_runs_in_lanes{order}", *filters, *page)
        else:
            rows = await self._sender.rows(f"list_runs{order}", *page)
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
        filters = (_list(statuses), _list(workflow_ids), _list(queues))
        before_ms = END_OF_TIME_MS if created_before_ms is None else created_before_ms
        wanted = (*filters, created_from_ms or 0, before_ms)
        if run_id_prefix is not None:
            rows = await self._sender.rows_planned_for_values("count_runs_by_prefix", *wanted, _pattern(run_id_prefix))
        else:
            rows = await self._sender.rows("count_runs", *wanted)
        return RunCounts.of((row["status"], row["run_count"]) for row in rows)

    @checked
    async def get_run_timeline(self, *, run_id: str, limit: int = 1_000) -> RunTimeline:
        rows = await self._sender.rows("load_execution", run_id, limit, ANY_SIZE, limit, ANY_SIZE, True)
        if not rows:
            raise RunNotFoundError(run_id)
        return self._read.timeline(run_rows(rows[0]), limit)


def _list(items: Sequence[str] | None) -> list[str] | None:
    return None if items is None else list(items)


def _pattern(prefix: str) -> str:
    """Return the pattern of LIKE for texts that begin like this: PostgreSQL 14 finds no index for `starts_with`."""
    return re.sub(r"([\\%_])", r"\\\1", prefix) + "%"
