"""Looking at many runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TypeAlias

from workflow_runtime.store import RunCounts, RunNotFoundError, RunPage, RunStatus, RunTimeline, checked
from workflow_store_sql import ANY_SIZE, END_OF_TIME_MS, fail_only, read_run_page, run_page_bounds

from .lent_connection import Row
from .rows import run_rows
from .store_role import StoreRole

__all__ = ["Queries"]

_Filters: TypeAlias = tuple[list[str] | None, list[str] | None, list[str] | None]
"""The statuses, workflows and queues that are asked for."""


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
        filters: _Filters = (_list(statuses), _list(workflow_ids), _list(queues))
        # One more than asked for shows whether there is another page.
        page = (*run_page_bounds(cursor, created_from_ms, created_before_ms, descending=descending), limit + 1)
        order = "_descending" if descending else ""
        if run_id_prefix is not None:
            name = f"list_runs_by_prefix{order}"
            rows = await self._sender.rows_planned_for_values(name, *filters, *page, _pattern(run_id_prefix))
        elif filters == (None, None, None):
            rows = await self._sender.rows(f"list_runs{order}", *page)
        elif fail_only(statuses) and workflow_ids is None and queues is None:
            rows = await self._sender.rows(f"list_failed_runs{order}", filters[0], *page)
        else:
            rows = await self._rows_of_some(filters, page, order)
        return read_run_page(self._read, rows, limit)

    async def _rows_of_some(self, filters: _Filters, page: tuple[int, str, int, int], order: str) -> Sequence[Row]:
        """Return a page of the runs of some statuses, workflows and queues, and the row after it.

        Most runs have finished: who asks for those mostly finds a page among the next runs. What does not fill a page
        there is read lane by lane; the lanes of what is rare are few.
        """
        if _mostly_wanted(filters[0]):
            rows = await self._sender.rows(f"list_nearby_runs{order}", *filters, *page)
            if len(rows) == page[-1]:
                return rows
        return await self._sender.rows(f"list_runs_in_lanes{order}", *filters, *page)

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
        filters: _Filters = (_list(statuses), _list(workflow_ids), _list(queues))
        before_ms = END_OF_TIME_MS if created_before_ms is None else created_before_ms
        bounds = (created_from_ms or 0, before_ms)
        if run_id_prefix is not None:
            pattern = _pattern(run_id_prefix)
            rows = await self._sender.rows_planned_for_values("count_runs_by_prefix", *filters, *bounds, pattern)
        elif filters[1:] == (None, None) and bounds == (0, END_OF_TIME_MS) and _mostly_wanted(statuses):
            # The table from end to end, by several processes of the server: sooner than its largest lanes.
            rows = await self._sender.rows("count_all_runs")
            rows = [row for row in rows if statuses is None or row["status"] in statuses]
        else:
            rows = await self._sender.rows("count_runs", *filters, *bounds)
        return RunCounts.of((row["status"], row["run_count"]) for row in rows)

    @checked
    async def get_run_timeline(self, *, run_id: str, limit: int = 1_000) -> RunTimeline:
        rows = await self._sender.rows("load_execution", run_id, limit, ANY_SIZE, limit, ANY_SIZE, True)
        if not rows:
            raise RunNotFoundError(run_id)
        return self._read.timeline(run_rows(rows[0]), limit)


def _mostly_wanted(statuses: Collection[str] | None) -> bool:
    """Return True if runs that finished are asked for: in most databases these are nearly all."""
    return statuses is None or RunStatus.FINISHED in statuses


def _list(items: Sequence[str] | None) -> list[str] | None:
    return None if items is None else list(items)


def _pattern(prefix: str) -> str:
    """Return the pattern of LIKE for texts that begin like this: PostgreSQL 14 finds no index for `starts_with`."""
    return re.sub(r"([\\%_])", r"\\\1", prefix) + "%"
