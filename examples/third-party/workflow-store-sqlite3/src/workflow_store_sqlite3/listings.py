"""Looking at many runs, and at what happened to one."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection

from workflow_runtime.store import (
    RunCounts,
    RunNotFoundError,
    RunPage,
    RunStatus,
    RunTimeline,
    build_timeline,
    decode_run_cursor,
    encode_run_cursor,
)

from .rows import as_json, entry, find_run, select_events, select_timers, summary

_MATCHING = """
    (:statuses IS NULL OR status IN (SELECT value FROM json_each(:statuses)))
    AND (:workflow_ids IS NULL OR workflow_id IN (SELECT value FROM json_each(:workflow_ids)))
    AND (:queues IS NULL OR queue IN (SELECT value FROM json_each(:queues)))
    AND (:prefix IS NULL OR substr(run_id, 1, length(:prefix)) = :prefix)
    AND (:from_ms IS NULL OR created_at_ms >= :from_ms)
    AND (:before_ms IS NULL OR created_at_ms < :before_ms)
"""
_UPWARDS = f"""
    SELECT workflow_runs.*, awaited
    FROM workflow_runs JOIN workflow_run_data USING (run_id)
    WHERE {_MATCHING} AND (:after_ms IS NULL OR (created_at_ms, run_id) > (:after_ms, :after_id))
    ORDER BY created_at_ms, run_id
    LIMIT :limit
"""
_DOWNWARDS = _UPWARDS.replace(" > (:after", " < (:after").replace(
    "ORDER BY created_at_ms, run_id", "ORDER BY created_at_ms DESC, run_id DESC"
)
_COUNTS = f"SELECT status, count(*) FROM workflow_runs WHERE {_MATCHING} GROUP BY status"


def list_runs(
    db: Connection,
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
    asked = _filters(statuses, workflow_ids, queues, run_id_prefix, created_from_ms, created_before_ms)
    after_ms, after_id = (None, None) if cursor is None else decode_run_cursor(cursor)
    asked |= {"after_ms": after_ms, "after_id": after_id, "limit": limit + 1}
    rows = db.execute(_DOWNWARDS if descending else _UPWARDS, asked).fetchall()
    runs = tuple(summary(row) for row in rows[:limit])
    more = bool(runs) and len(rows) > limit
    return RunPage(runs=runs, next_cursor=encode_run_cursor(runs[-1].created_at_ms, runs[-1].run_id) if more else None)


def count_runs(
    db: Connection,
    *,
    statuses: Sequence[RunStatus] | None = None,
    workflow_ids: Sequence[str] | None = None,
    queues: Sequence[str] | None = None,
    run_id_prefix: str | None = None,
    created_from_ms: int | None = None,
    created_before_ms: int | None = None,
) -> RunCounts:
    asked = _filters(statuses, workflow_ids, queues, run_id_prefix, created_from_ms, created_before_ms)
    return RunCounts.of((row[0], row[1]) for row in db.execute(_COUNTS, asked))


def get_run_timeline(db: Connection, *, run_id: str, limit: int = 1_000) -> RunTimeline:
    run = find_run(db, run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    inbox = db.execute("SELECT * FROM workflow_inbox WHERE run_id = ? ORDER BY inbox_seq LIMIT ?", (run_id, limit))
    return build_timeline(
        run=run,
        events=select_events(db, run_id, from_index=0, limit=limit, max_bytes=2**53),
        inbox=[entry(row) for row in inbox],
        timers=select_timers(db, run_id),
        limit=limit,
    )


def _filters(
    statuses: Sequence[RunStatus] | None,
    workflow_ids: Sequence[str] | None,
    queues: Sequence[str] | None,
    run_id_prefix: str | None,
    created_from_ms: int | None,
    created_before_ms: int | None,
) -> dict[str, object]:
    return {
        "statuses": as_json(statuses),
        "workflow_ids": as_json(workflow_ids),
        "queues": as_json(queues),
        "prefix": run_id_prefix,
        "from_ms": created_from_ms,
        "before_ms": created_before_ms,
    }
