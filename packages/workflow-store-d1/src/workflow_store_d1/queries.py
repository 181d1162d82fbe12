"""Looking at many runs."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.errors import RunNotFoundError
from workflow_runtime.store import (
    RunCounts,
    RunPage,
    RunStatus,
    RunTimeline,
    build_timeline,
    checked,
    decode_run_cursor,
    encode_run_cursor,
)

from .database import D1Value
from .role import Role
from .session import json_list

__all__ = ["Queries"]

_END_OF_TIME_MS = 2**53
"""After every time that the contract allows."""
_ANY_SIZE = 2**53


class Queries(Role):
    """Keeps `QueryStore`."""

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
        bounds = _page_bounds(cursor, created_from_ms or 0, created_before_ms, descending)
        name = "list_runs_descending" if descending else "list_runs"
        workflows = json_list(workflow_ids)
        if workflow_ids is not None and len(workflow_ids) == 1:
            name = name.replace("list_runs", "list_runs_of_workflow")
            workflows = workflow_ids[0]
        # One more than asked for tells whether there is another page.
        rows = await self._session.rows(
            name, *bounds, json_list(statuses), workflows, json_list(queues), run_id_prefix, limit + 1
        )
        shown = rows[:limit]
        runs, corrupt = self._read.page(shown)
        more = bool(shown) and len(rows) > limit
        return RunPage(
            runs=runs,
            next_cursor=encode_run_cursor(shown[-1]["created_at"], shown[-1]["run_id"]) if more else None,
            corrupt=corrupt,
        )

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
        rows = await self._session.rows(
            "count_runs",
            created_from_ms or 0,
            _END_OF_TIME_MS if created_before_ms is None else created_before_ms,
            json_list(statuses),
            json_list(workflow_ids),
            json_list(queues),
            run_id_prefix,
        )
        return RunCounts.of((row["status"], row["run_count"]) for row in rows)

    @checked
    async def get_run_timeline(self, *, run_id: str, limit: int = 1_000) -> RunTimeline:
        statement = self._session.statement
        run, events, inbox, timers = await self._session.batch(
            [
                statement("load_run", run_id),
                statement("read_events", run_id, 0, limit, _ANY_SIZE),
                statement("get_run_timeline.inbox", run_id, limit),
                statement("read_timers", run_id),
            ]
        )
        if not run:
            raise RunNotFoundError(run_id)
        record = self._read.record(run[0])
        return build_timeline(
            run=record,
            events=self._read.first_history(events, record, limit),
            inbox=self._read.inbox(inbox),
            timers=[self._read.timer(row) for row in timers],
            limit=limit,
        )


def _page_bounds(
    cursor: str | None, created_from_ms: int, created_before_ms: int | None, descending: bool
) -> tuple[D1Value, ...]:
    """Say where a page begins, as the key that comes just before it, and at which time the listing ends.

    No id is empty, so `(time, "")` stands before every run of that time: the filter by time and the cursor become one
    bound, and the index is entered where the page begins.
    """
    before_ms = _END_OF_TIME_MS if created_before_ms is None else created_before_ms
    last = None if cursor is None else decode_run_cursor(cursor)
    if descending:
        start = (before_ms, "") if last is None else min(last, (before_ms, ""))
        return (*start, created_from_ms)
    start = (created_from_ms, "") if last is None else max(last, (created_from_ms, ""))
    return (*start, before_ms)
