"""What the holder of a lease writes: the log, timers, the end of the lease."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from sqlite3 import Connection, Row
from typing import Any

from workflow_runtime.store import (
    Appended,
    Awaited,
    Event,
    JsonText,
    LeaseLost,
    LeaseLostError,
    LeaseRenewal,
    LeaseResult,
    LogConflictError,
    LogPage,
    NewEvent,
    Paused,
    RunStatus,
    Timer,
)

from .heads import end_run, find_head, queue_run, set_head
from .rows import select_events

PAGE_EVENTS, PAGE_BYTES = 1_000, 1_000_000


def append_events(
    db: Connection,
    *,
    run_id: str,
    lease_token: str,
    operation_id: str,
    expected_next_index: int,
    events: Sequence[NewEvent],
    now_ms: int,
    lease_ms: int,
    taken_inbox: Sequence[int] = (),
    set_timers: Sequence[Timer] = (),
    removed_timers: Sequence[str] = (),
) -> Appended:
    head, answer = begin_write(db, run_id, lease_token, operation_id)
    if answer is None:
        next_index = _write_log(db, head, expected_next_index, events, taken_inbox, now_ms)
        _change_timers(db, run_id, set_timers, removed_timers)
        answer = {
            "next_index": next_index,
            "lease_expires_at_ms": max(head["claimable_at_ms"], now_ms + lease_ms),
            "inbox_seq": head["inbox_seq"],
            "cancel_requested": bool(head["cancel_requested"]),
        }
        set_head(db, run_id, claimable_at_ms=answer["lease_expires_at_ms"])
        _end_write(db, run_id, operation_id, now_ms, answer)
    return Appended(**answer)


def schedule_timer(
    db: Connection, *, run_id: str, lease_token: str, operation_id: str, timer_id: str, fire_at_ms: int, now_ms: int
) -> None:
    _, answer = begin_write(db, run_id, lease_token, operation_id)
    if answer is None:
        _change_timers(db, run_id, [Timer(timer_id=timer_id, fire_at_ms=fire_at_ms)], ())
        _end_write(db, run_id, operation_id, now_ms)


def mark_run_paused(
    db: Connection,
    *,
    run_id: str,
    lease_token: str,
    operation_id: str,
    expected_next_index: int,
    seen_inbox_seq: int,
    now_ms: int,
    events: Sequence[NewEvent] = (),
    taken_inbox: Sequence[int] = (),
    set_timers: Sequence[Timer] = (),
    removed_timers: Sequence[str] = (),
    awaited: Sequence[Awaited] = (),
) -> Paused:
    head, answer = begin_write(db, run_id, lease_token, operation_id)
    if answer is None:
        next_index = _write_log(db, head, expected_next_index, events, taken_inbox, now_ms)
        _change_timers(db, run_id, set_timers, removed_timers)
        things = json.dumps([(thing.kind, thing.name, thing.step_id, thing.until_ms) for thing in awaited])
        db.execute("UPDATE workflow_run_data SET awaited = ? WHERE run_id = ?", (things, run_id))
        queue_run(db, run_id, now_ms=now_ms, crashes=0)
        status = RunStatus.QUEUED
        if head["inbox_seq"] <= seen_inbox_seq:
            status = RunStatus.PAUSED
            timers = "SELECT min(fire_at_ms) FROM workflow_timers WHERE run_id = ?"
            set_head(db, run_id, status=status, claimable_at_ms=db.execute(timers, (run_id,)).fetchone()[0])
        answer = {"status": status, "next_index": next_index}
        _end_write(db, run_id, operation_id, now_ms, answer)
    return Paused(**{**answer, "status": RunStatus(answer["status"])})


def mark_run_finished(
    db: Connection,
    *,
    run_id: str,
    lease_token: str,
    operation_id: str,
    expected_next_index: int,
    output: JsonText,
    now_ms: int,
    events: Sequence[NewEvent] = (),
    taken_inbox: Sequence[int] = (),
) -> None:
    head, answer = begin_write(db, run_id, lease_token, operation_id)
    if answer is None:
        _write_log(db, head, expected_next_index, events, taken_inbox, now_ms)
        db.execute("UPDATE workflow_run_data SET output = ? WHERE run_id = ?", (output, run_id))
        end_run(db, run_id, RunStatus.FINISHED, now_ms=now_ms)
        _end_write(db, run_id, operation_id, now_ms)


def mark_run_errored(
    db: Connection,
    *,
    run_id: str,
    lease_token: str,
    operation_id: str,
    expected_next_index: int,
    error: JsonText,
    now_ms: int,
    events: Sequence[NewEvent] = (),
    taken_inbox: Sequence[int] = (),
    aborted: bool = False,
    parked: bool = False,
    reason: str | None = None,
) -> None:
    head, answer = begin_write(db, run_id, lease_token, operation_id)
    if answer is None:
        _write_log(db, head, expected_next_index, events, taken_inbox, now_ms)
        db.execute("UPDATE workflow_run_data SET error = ? WHERE run_id = ?", (error, run_id))
        status = RunStatus.ABORTED if aborted else RunStatus.DEAD if parked else RunStatus.ERRORED
        end_run(db, run_id, status, now_ms=now_ms, reason=reason if aborted or parked else None)
        _end_write(db, run_id, operation_id, now_ms)


def release_run_lease(db: Connection, *, run_id: str, lease_token: str, operation_id: str, now_ms: int) -> None:
    _, answer = begin_write(db, run_id, lease_token, operation_id)
    if answer is None:
        queue_run(db, run_id, now_ms=now_ms)
        _end_write(db, run_id, operation_id, now_ms)


def heartbeat_run_lease(db: Connection, *, run_id: str, lease_token: str, lease_ms: int, now_ms: int) -> LeaseRenewal:
    head = _fenced(find_head(db, run_id), run_id, lease_token)
    expires_at_ms = max(head["claimable_at_ms"], now_ms + lease_ms)
    set_head(db, run_id, claimable_at_ms=expires_at_ms, lease_heard=True)
    return LeaseRenewal(
        lease_expires_at_ms=expires_at_ms,
        inbox_seq=head["inbox_seq"],
        cancel_requested=bool(head["cancel_requested"]),
        store_clock_ms=clock_ms(),
    )


def heartbeat_run_leases(
    db: Connection, *, leases: Sequence[tuple[str, str]], lease_ms: int, now_ms: int
) -> tuple[LeaseResult, ...]:
    def renew(run_id: str, lease_token: str) -> LeaseResult:
        try:
            return heartbeat_run_lease(db, run_id=run_id, lease_token=lease_token, lease_ms=lease_ms, now_ms=now_ms)
        except LeaseLostError:  # raised before anything is written
            return LeaseLost()

    return tuple(renew(run_id, lease_token) for run_id, lease_token in leases)


def read_events(
    db: Connection, *, run_id: str, limit: int, from_index: int = 0, max_bytes: int = 1_000_000
) -> tuple[Event, ...]:
    return select_events(db, run_id, from_index=from_index, limit=limit, max_bytes=max_bytes)


def read_log_page(db: Connection, *, run_id: str, from_index: int) -> LogPage | None:
    """Read a page of the log with what a follower needs to know of the run."""
    head = find_head(db, run_id)
    if head is None:
        return None
    facts = {name: head[name] for name in ("created_at_ms", "next_index")}
    page = select_events(db, run_id, from_index=from_index, limit=PAGE_EVENTS, max_bytes=PAGE_BYTES)
    return LogPage(status=RunStatus(head["status"]), events=page, **facts)


def clock_ms() -> int:
    """Read the clock of this machine: a file has no other."""
    return time.time_ns() // 1_000_000


def begin_write(db: Connection, run_id: str, lease_token: str, operation_id: str) -> tuple[Row, dict[str, Any] | None]:
    """Read the head for a driver's write, with the answer if this very write was made before. That comes first.

    Raises:
        LeaseLostError: The token is not the run's current one.
    """
    head = find_head(db, run_id)
    if head is not None and head["last_operation_id"] == operation_id:
        return head, json.loads(head["last_answer"])
    return _fenced(head, run_id, lease_token), None


def insert_events(db: Connection, run_id: str, index: int, events: Sequence[NewEvent], now_ms: int) -> None:
    """Insert events from an index on."""
    db.executemany(
        """
        INSERT INTO workflow_events (run_id, event_index, kind, step_id, payload, created_at_ms)
        VALUES (?, ?, ?, ?, ?, ?)
        """,
        [(run_id, i, event.kind, event.step_id, event.payload, now_ms) for i, event in enumerate(events, index)],
    )


def _fenced(head: Row | None, run_id: str, lease_token: str) -> Row:
    # Whether the lease has expired does not matter, as long as nobody else has claimed the run.
    if head is None or head["status"] != RunStatus.RUNNING or head["lease_token"] != lease_token:
        raise LeaseLostError(f"run {run_id!r}")
    return head


def _write_log(
    db: Connection,
    head: Row,
    expected_next_index: int,
    events: Sequence[NewEvent],
    taken_inbox: Sequence[int],
    now_ms: int,
) -> int:
    """Append events, take the inbox entries that they account for, and return the length of the log."""
    run_id, next_index = head["run_id"], head["next_index"]
    if next_index != expected_next_index:
        raise LogConflictError(run_id, expected_next_index, next_index)
    insert_events(db, run_id, next_index, events, now_ms)
    db.executemany(
        "UPDATE workflow_inbox SET taken = 1 WHERE run_id = ? AND inbox_seq = ?",
        [(run_id, inbox_seq) for inbox_seq in taken_inbox],
    )
    if events:
        set_head(db, run_id, next_index=next_index + len(events), crashes=0)
    return int(next_index + len(events))


def _change_timers(db: Connection, run_id: str, set_timers: Sequence[Timer], removed_timers: Sequence[str]) -> None:
    db.executemany(
        "DELETE FROM workflow_timers WHERE run_id = ? AND timer_id = ?",
        [(run_id, timer_id) for timer_id in removed_timers],
    )
    db.executemany(
        """
        INSERT INTO workflow_timers (run_id, timer_id, fire_at_ms) VALUES (?, ?, ?)
        ON CONFLICT DO UPDATE SET fire_at_ms = excluded.fire_at_ms
        """,
        [(run_id, timer.timer_id, timer.fire_at_ms) for timer in set_timers],
    )


def _end_write(
    db: Connection, run_id: str, operation_id: str, now_ms: int, answer: dict[str, Any] | None = None
) -> None:
    """Note that the holder was heard, and what to answer when this write is repeated."""
    facts = {"last_operation_id": operation_id, "last_answer": json.dumps(answer or {}), "lease_heard": True}
    set_head(db, run_id, updated_at_ms=now_ms, **facts)
