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

from .role import Role

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
        filters = (_list(statuses), _list(workflow_ids), _list(queues))
        # One more than asked for tells whether there is another page.
        page = (*_page_bounds(cursor, created_from_ms or 0, created_before_ms, descending), limit + 1)
        order = "_descending" if descending else ""
        if run_id_prefix is not None:
            name = f"list_runs_by_prefix{order}"
            rows = await self._session.rows_planned_for_values(name, *filters, *page, run_id_prefix)
        elif any(wanted is not None for wanted in filters):
            rows = await self._session.rows(f"list_runs_in_lanes{order}", *filters, *page)
        else:
            rows = await self._session.rows(f"list_runs{order}", *page)
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
        filters = (_list(statuses), _list(workflow_ids), _list(queues))
        before_ms = _END_OF_TIME_MS if created_before_ms is None else created_before_ms
        wanted = (*filters, created_from_ms or 0, before_ms)
        if run_id_prefix is not None:
            rows = await self._session.rows_planned_for_values("count_runs_by_prefix", *wanted, run_id_prefix)
        else:
            rows = await self._session.rows("count_runs", *wanted)
        return RunCounts.of((row["status"], row["run_count"]) for row in rows)

    @checked
    async def get_run_timeline(self, *, run_id: str, limit: int = 1_000) -> RunTimeline:
        rows = await self._session.rows("load_execution", run_id, limit, _ANY_SIZE, limit, _ANY_SIZE, True)
        if not rows:
            raise RunNotFoundError(run_id)
        record = self._read.record(rows[0])
        return build_timeline(
            run=record,
            events=self._read.first_history(rows[0], record, limit),
            inbox=self._read.first_inbox(rows[0]),
            timers=self._read.timers(rows[0]),
            limit=limit,
        )


def _list(items: Sequence[str] | None) -> list[str] | None:
    return None if items is None else list(items)


def _page_bounds(
    cursor: str | None, created_from_ms: int, created_before_ms: int | None, descending: bool
) -> tuple[str | int, ...]:
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
