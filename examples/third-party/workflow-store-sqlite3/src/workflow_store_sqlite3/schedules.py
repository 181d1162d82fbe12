"""Schedules: their definitions, and the ticks that are requested beside their own time."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection, Row

from workflow_runtime.store import (
    DEFAULT_QUEUE,
    BucketsRequested,
    Deleted,
    DeleteScheduleResult,
    JsonText,
    NotFound,
    OverlapPolicy,
    RequestBucketsResult,
    RequestedBucket,
    RequestedOverlap,
    Schedule,
    ScheduleNotFoundError,
    SchedulePage,
    ScheduleUpserted,
    decode_schedule_cursor,
    encode_schedule_cursor,
)

from .rows import columns

_FACTS = columns(Schedule, "enabled")


def upsert_schedule(
    db: Connection,
    *,
    schedule_id: str,
    workflow_id: str,
    workflow_version: str,
    spec: JsonText,
    input: JsonText,
    next_fire_at_ms: int | None,
    now_ms: int,
    overlap_policy: OverlapPolicy = "skip",
    queue: str = DEFAULT_QUEUE,
    priority: int = 0,
    enabled: bool | None = None,
    expected_revision: int | None = None,
) -> ScheduleUpserted:
    row = find_schedule(db, schedule_id)
    if expected_revision is not None and (row is None or row["revision"] != expected_revision):
        return ScheduleUpserted(kind="conflict", schedule=None if row is None else schedule(row))
    if enabled is None:
        enabled = True if row is None else bool(row["enabled"])
    definition: dict[str, object] = {
        "workflow_id": workflow_id,
        "workflow_version": workflow_version,
        "spec": spec,
        "input": input,
        "overlap_policy": overlap_policy,
        "queue": queue,
        "priority": priority,
        "enabled": enabled,
    }
    if row is None:
        _insert_schedule(db, schedule_id, {**definition, "next_fire_at_ms": next_fire_at_ms}, now_ms)
        return ScheduleUpserted(kind="created", schedule=get_schedule(db, schedule_id=schedule_id))
    if all(row[name] == stated for name, stated in definition.items()):
        return ScheduleUpserted(kind="unchanged", schedule=schedule(row))
    if row["spec"] != spec or (enabled and not row["enabled"]):
        definition["next_fire_at_ms"] = next_fire_at_ms
    # Whoever has claimed a tick decided by the former definition: the tick is free again.
    set_schedule(db, schedule_id, **definition, **NO_CLAIM, revision=row["revision"] + 1, updated_at_ms=now_ms)
    return ScheduleUpserted(kind="updated", schedule=get_schedule(db, schedule_id=schedule_id))


def get_schedule(db: Connection, *, schedule_id: str) -> Schedule:
    row = find_schedule(db, schedule_id)
    if row is None:
        raise ScheduleNotFoundError(schedule_id)
    return schedule(row)


def list_schedules(db: Connection, *, limit: int, cursor: str | None = None) -> SchedulePage:
    after_id = "" if cursor is None else decode_schedule_cursor(cursor)
    rows = db.execute(
        "SELECT * FROM workflow_schedules WHERE schedule_id > ? ORDER BY schedule_id LIMIT ?", (after_id, limit + 1)
    ).fetchall()
    page = tuple(schedule(row) for row in rows[:limit])
    more = bool(page) and len(rows) > limit
    return SchedulePage(schedules=page, next_cursor=encode_schedule_cursor(page[-1].schedule_id) if more else None)


def delete_schedule(db: Connection, *, schedule_id: str) -> DeleteScheduleResult:
    gone = db.execute("DELETE FROM workflow_schedules WHERE schedule_id = ?", (schedule_id,)).rowcount
    return Deleted() if gone else NotFound()


def request_schedule_buckets(
    db: Connection,
    *,
    schedule_id: str,
    fire_times_ms: Sequence[int],
    now_ms: int,
    overlap: RequestedOverlap | None = None,
) -> RequestBucketsResult:
    if find_schedule(db, schedule_id) is None:
        return NotFound()
    count = db.executemany(
        """
        INSERT INTO workflow_requested_ticks (schedule_id, fire_at_ms, overlap, requested_at_ms)
        VALUES (?, ?, ?, ?)
        ON CONFLICT DO NOTHING
        """,
        [(schedule_id, fire_at_ms, overlap, now_ms) for fire_at_ms in fire_times_ms],
    ).rowcount
    return BucketsRequested(count=max(count, 0))


def list_requested_buckets(
    db: Connection, *, schedule_id: str, limit: int, from_ms: int = 0
) -> tuple[RequestedBucket, ...]:
    rows = db.execute(
        """
        SELECT fire_at_ms, overlap, requested_at_ms
        FROM workflow_requested_ticks
        WHERE schedule_id = ? AND fire_at_ms >= ?
        ORDER BY fire_at_ms
        LIMIT ?
        """,
        (schedule_id, from_ms, limit),
    )
    return tuple(RequestedBucket(**{name: row[name] for name in row.keys()}) for row in rows)  # noqa: SIM118  # a row iterates over its values


NO_CLAIM = {"claimed_fire_at_ms": None, "claimed_source": None, "claim_token": None, "claim_expires_at_ms": None}
"""The columns of the claimed tick, when there is none."""


def find_schedule(db: Connection, schedule_id: str) -> Row | None:
    """Read the row of a schedule."""
    row: Row | None = db.execute("SELECT * FROM workflow_schedules WHERE schedule_id = ?", (schedule_id,)).fetchone()
    return row


def set_schedule(db: Connection, schedule_id: str, **columns: object) -> None:
    """Set columns of a schedule."""
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    db.execute(f"UPDATE workflow_schedules SET {assignments} WHERE schedule_id = :id", {**columns, "id": schedule_id})


def schedule(row: Row) -> Schedule:
    """Make a schedule of its row."""
    return Schedule(**{name: row[name] for name in _FACTS}, enabled=bool(row["enabled"]))


def _insert_schedule(db: Connection, schedule_id: str, columns: dict[str, object], now_ms: int) -> None:
    columns |= {"schedule_id": schedule_id, "created_at_ms": now_ms, "updated_at_ms": now_ms}
    values = ", ".join(f":{name}" for name in columns)
    db.execute(f"INSERT INTO workflow_schedules ({', '.join(columns)}) VALUES ({values})", columns)
