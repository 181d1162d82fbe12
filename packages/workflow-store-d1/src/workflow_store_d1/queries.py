"""Looking at many runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workflow_runtime.store import DEFAULT_QUEUE, RunCounts, RunNotFoundError, RunPage, RunStatus, RunTimeline, checked
from workflow_store_sql import ANY_SIZE, END_OF_TIME_MS, RunRows, after_prefix, read_run_page, run_page_bounds

from .database import D1Value, Row
from .statement_sender import json_list
from .store_role import StoreRole

__all__ = ["Queries"]

_INDEXED = {
    **dict.fromkeys((RunStatus.PAUSED, RunStatus.QUEUED), "waiting"),
    RunStatus.RUNNING: "running",
    **dict.fromkeys((RunStatus.ABORTED, RunStatus.DEAD, RunStatus.ERRORED), "failed"),
}
"""The statuses whose runs have an index, and which statements read it: `list_..._runs` and `count_..._runs`."""
_MOST_WALKS = 10
"""The most statements that find the page of a listing: hosts count them."""
_FEW_ALIKE = 1_000
"""The most runs with a prefix that are read for a page; among more, the page is found by its other filters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filters:
    """The filters of a listing. `None` asks for any run."""

    statuses: Sequence[RunStatus] | None
    workflow_ids: Sequence[str] | None
    queues: Sequence[str] | None
    run_id_prefix: str | None

    @property
    def values(self) -> tuple[D1Value, ...]:
        """The four values as the statements take them."""
        lists = (self.statuses, self.workflow_ids, self.queues)
        return (*(json_list(wanted) for wanted in lists), self.run_id_prefix)

    @property
    def is_without_finished(self) -> bool:
        """True if no runs that finished are asked for: all others have indexes by status."""
        return self.statuses is not None and RunStatus.FINISHED not in self.statuses

    @property
    def has_indexed_queues(self) -> bool:
        """True if queues are asked for that are in workflow_runs_queue."""
        return self.queues is not None and DEFAULT_QUEUE not in self.queues

    def walks(self) -> list[tuple[str, tuple[D1Value, ...]]]:
        """Return the statements that find a page together, and the values of their filters: one index each."""
        statuses, workflow_ids, queues, prefix = self.values
        found: list[tuple[str, tuple[D1Value, ...]]]
        if self.is_without_finished:
            found = [
                (f"list_{_INDEXED[one]}_runs", (one.value, workflow_ids, queues, prefix))
                for one in dict.fromkeys(self.statuses or ())
            ]
        elif self.workflow_ids is not None:
            wanted = dict.fromkeys(self.workflow_ids)
            found = [("list_runs_of_workflow", (statuses, one, queues, prefix)) for one in wanted]
        elif self.has_indexed_queues:
            wanted = dict.fromkeys(self.queues or ())
            found = [("list_runs_of_queue", (statuses, workflow_ids, one, prefix)) for one in wanted]
        else:
            return [("list_runs", self.values)]
        return found if len(found) <= _MOST_WALKS else [("list_runs", self.values)]

    def counts(self, *, of_some_time: bool) -> tuple[str, ...]:
        """Return the statements that count the runs together."""
        if self.is_without_finished:
            return tuple(dict.fromkeys(f"count_{_INDEXED[one]}_runs" for one in self.statuses or ()))
        if self.workflow_ids is not None:
            return ("count_runs_of_workflows",)
        if self.has_indexed_queues:
            return ("count_runs_of_queues",)
        return ("count_runs" if of_some_time else "count_all_runs",)


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
        filters = _Filters(
            statuses=statuses, workflow_ids=workflow_ids, queues=queues, run_id_prefix=run_id_prefix or None
        )
        bounds = run_page_bounds(cursor, created_from_ms, created_before_ms, descending=descending)
        # One more than asked for shows whether there is another page.
        rows = await self._page(filters, bounds, limit + 1, descending=descending)
        return read_run_page(self._read, rows, limit)

    async def _page(
        self, filters: _Filters, bounds: tuple[int, str, int], limit: int, *, descending: bool
    ) -> Sequence[Row]:
        """Return the first runs from a place on that are asked for."""
        order = "_descending" if descending else ""
        prefix = filters.run_id_prefix
        if prefix is not None and (end := after_prefix(prefix)) and await self._is_rare(prefix, end):
            return await self._sender.rows(f"list_runs_by_prefix{order}", *bounds, *filters.values, limit, end)
        walks = [(f"{name}{order}", *bounds, *values, limit) for name, values in filters.walks()]
        found = await self._rows_of_all(walks)
        return sorted(found, key=lambda row: (row["created_at"], row["run_id"]), reverse=descending)[:limit]

    async def _rows_of_all(self, calls: Sequence[tuple[Any, ...]]) -> Sequence[Row]:
        """Return the rows of some statements, each given as its name and its values, as of one moment."""
        if not calls:
            return []
        if len(calls) == 1:
            return await self._sender.rows(*calls[0])
        batch = await self._sender.batch([self._sender.statement(*call) for call in calls])
        return [row for rows in batch for row in rows]

    async def _is_rare(self, prefix: str, end: str) -> bool:
        """Return True if few runs have ids that begin so."""
        [row] = await self._sender.rows("count_prefix", prefix, end, _FEW_ALIKE + 1)
        return bool(row["runs"] <= _FEW_ALIKE)

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
        filters = _Filters(
            statuses=statuses, workflow_ids=workflow_ids, queues=queues, run_id_prefix=run_id_prefix or None
        )
        before_ms = END_OF_TIME_MS if created_before_ms is None else created_before_ms
        values = (created_from_ms or 0, before_ms, *filters.values)
        prefix = filters.run_id_prefix
        if prefix is not None and (end := after_prefix(prefix)) and not filters.is_without_finished:
            rows = await self._sender.rows("count_runs_by_prefix", *values, end)
            return _counted(rows)
        of_some_time = values[:2] != (0, END_OF_TIME_MS)
        calls = [(name, *values) for name in filters.counts(of_some_time=of_some_time)]
        return _counted(await self._rows_of_all(calls))

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


def _counted(rows: Sequence[Row]) -> RunCounts:
    return RunCounts.of((row["status"], row["run_count"]) for row in rows)
