"""Pages of listings: where one begins, and what it shows."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

from workflow_runtime.store import (
    LogPage,
    RunPage,
    RunStatus,
    SchedulePage,
    decode_run_cursor,
    decode_schedule_cursor,
    encode_run_cursor,
    encode_schedule_cursor,
)

from .rows import Row, RowReader

__all__ = [
    "ANY_SIZE",
    "END_OF_TIME_MS",
    "after_prefix",
    "fail_only",
    "read_log_page",
    "read_run_page",
    "read_schedule_page",
    "run_page_bounds",
    "schedule_page_start",
]

END_OF_TIME_MS = 2**53
"""After every time that the contract allows."""
ANY_SIZE = 2**53
"""A limit of bytes that nothing reaches."""
_SURROGATES, _AFTER_SURROGATES = 0xD800, 0xE000
_FAILED: frozenset[RunStatus] = frozenset({RunStatus.ABORTED, RunStatus.DEAD, RunStatus.ERRORED})
"""The statuses in workflow_event_locks_failed."""


def fail_only(statuses: Collection[RunStatus] | None) -> bool:
    """Return True if only runs that failed are asked for: they have an index of their own."""
    return bool(statuses) and _FAILED.issuperset(statuses or ())


def after_prefix(prefix: str) -> str | None:
    """Return the first text after all that begin so, by code point; `None` if there is none."""
    for length in range(len(prefix), 0, -1):
        last = ord(prefix[length - 1])
        if last < sys.maxunicode:
            # No text that is stored has a lone surrogate.
            return prefix[: length - 1] + chr(_AFTER_SURROGATES if last + 1 == _SURROGATES else last + 1)
    return None


def run_page_bounds(
    cursor: str | None, created_from_ms: int | None, created_before_ms: int | None, *, descending: bool
) -> tuple[int, str, int]:
    """Return the key just before the page, as a time and a run id, and the time at which the listing ends.

    No id is empty, so `(time, "")` stands before every run of that time: the filter by time and the cursor become one
    bound, and the index is entered where the page begins.
    """
    from_ms = created_from_ms or 0
    before_ms = END_OF_TIME_MS if created_before_ms is None else created_before_ms
    last = None if cursor is None else decode_run_cursor(cursor)
    if descending:
        start = (before_ms, "") if last is None else min(last, (before_ms, ""))
        return (*start, from_ms)
    start = (from_ms, "") if last is None else max(last, (from_ms, ""))
    return (*start, before_ms)


def read_log_page(read: RowReader, run_id: str, rows: Sequence[Row], from_index: int) -> LogPage | None:
    """Return a page of a log with its run's status, for `follow_events`; `None` for an unknown run.

    Each row has the columns of an event, the run's `status` and `run_created_at`, and the log's length `next_index`.
    """
    if not rows:
        return None
    found = [row for row in rows if row["event_index"] is not None]
    return LogPage(
        status=read.status(rows[0]["status"], run_id),
        created_at_ms=rows[0]["run_created_at"],
        next_index=rows[0]["next_index"],
        events=read.history(found, run_id, from_index=from_index),
    )


def read_run_page(read: RowReader, rows: Sequence[Row], limit: int) -> RunPage:
    """Return a page of runs; one row more than the limit shows that there is another page."""
    shown = rows[:limit]
    runs, corrupt = read.page(shown)
    more = bool(shown) and len(rows) > limit
    return RunPage(
        runs=runs,
        next_cursor=encode_run_cursor(shown[-1]["created_at"], shown[-1]["run_id"]) if more else None,
        corrupt=corrupt,
    )


def schedule_page_start(cursor: str | None) -> str:
    """Return the schedule id just before a page."""
    return "" if cursor is None else decode_schedule_cursor(cursor)


def read_schedule_page(read: RowReader, rows: Sequence[Row], limit: int) -> SchedulePage:
    """Return a page of schedules; one row more than the limit shows that there is another page."""
    schedules = tuple(read.schedule(row) for row in rows[:limit])
    more = bool(schedules) and len(rows) > limit
    return SchedulePage(
        schedules=schedules, next_cursor=encode_schedule_cursor(schedules[-1].schedule_id) if more else None
    )
