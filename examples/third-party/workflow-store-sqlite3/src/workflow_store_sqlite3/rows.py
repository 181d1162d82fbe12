"""What is stored, as the values of the contract."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from sqlite3 import Connection, Row
from typing import Any

from workflow_runtime.store import (
    AWAITED_SHOWN,
    Awaited,
    CorruptRecordError,
    Event,
    InboxEntry,
    RunRecord,
    RunStatus,
    RunSummary,
    Timer,
)

_ELSEWHERE = {"status", "due_at_ms", "lease_expires_at_ms", "cancel_requested", "first_awaited", "awaited_count"}
"""The facts of a run that have no column of their name, or need more than its value."""


def columns(value: type, *but: str) -> list[str]:
    """Name the columns that are the fields of a value."""
    return [field.name for field in fields(value) if field.name not in but]


_SUMMARY = columns(RunSummary, *_ELSEWHERE)
_RECORD = columns(RunRecord, *_SUMMARY, *_ELSEWHERE, "awaited")
_EVENT = columns(Event, "index")
_ENTRY = columns(InboxEntry)


def as_json(items: Iterable[object] | None) -> str | None:
    """Write a filter as the one parameter that `json_each` takes apart; no filter stays none."""
    return None if items is None else json.dumps(list(items))


def find_run(db: Connection, run_id: str) -> RunRecord | None:
    """Read a run with its payloads."""
    row = db.execute(
        """
        SELECT *, json_valid(input) AS readable
        FROM workflow_runs JOIN workflow_run_data USING (run_id)
        WHERE run_id = ?
        """,
        (run_id,),
    ).fetchone()
    return None if row is None else _record(row)


def read_run(db: Connection, run_id: str) -> RunRecord:
    """Read a run that is there."""
    run = find_run(db, run_id)
    assert run is not None
    return run


def summary(row: Row) -> RunSummary:
    """Make the summary of a row of heads with their awaited lists."""
    awaited = _awaited(row)
    return RunSummary(**_facts(row), first_awaited=awaited[:AWAITED_SHOWN], awaited_count=len(awaited))


def select_events(db: Connection, run_id: str, *, from_index: int, limit: int, max_bytes: int) -> tuple[Event, ...]:
    """Read a page of the log."""
    rows = db.execute(
        "SELECT * FROM workflow_events WHERE run_id = ? AND event_index >= ? ORDER BY event_index LIMIT ?",
        (run_id, from_index, limit),
    )
    return tuple(event(row) for row in within(rows, max_bytes))


def select_inbox(db: Connection, run_id: str, *, after_seq: int = 0, limit: int) -> Iterator[Row]:
    """Read entries of the inbox that nobody has taken."""
    return db.execute(
        "SELECT * FROM workflow_inbox WHERE run_id = ? AND inbox_seq > ? AND NOT taken ORDER BY inbox_seq LIMIT ?",
        (run_id, after_seq, limit),
    )


def select_timers(db: Connection, run_id: str, *, until_ms: int = 2**53) -> tuple[Timer, ...]:
    """Read the timers up to a time, earliest first."""
    rows = db.execute(
        "SELECT * FROM workflow_timers WHERE run_id = ? AND fire_at_ms <= ? ORDER BY fire_at_ms, timer_id",
        (run_id, until_ms),
    )
    return tuple(Timer(timer_id=row["timer_id"], fire_at_ms=row["fire_at_ms"]) for row in rows)


def event(row: Row) -> Event:
    """Make an event of its row."""
    return Event(index=row["event_index"], **{name: row[name] for name in _EVENT})


def entry(row: Row) -> InboxEntry:
    """Make an inbox entry of its row."""
    return InboxEntry(**{name: row[name] for name in _ENTRY})


def within(rows: Iterable[Row], max_bytes: int) -> Iterator[Row]:
    """Yield rows until their payloads take more than so many bytes, but at least one."""
    size = 0
    for position, row in enumerate(rows):
        size += len(row["payload"] or "")
        if position > 0 and size > max_bytes:
            return
        yield row


def _record(row: Row) -> RunRecord:
    if not row["readable"]:
        raise CorruptRecordError("workflow_run_data", row["run_id"], "the input is no JSON text")
    awaited = _awaited(row)
    return RunRecord(
        **_facts(row),
        **{name: row[name] for name in _RECORD},
        awaited=awaited,
        first_awaited=awaited[:AWAITED_SHOWN],
        awaited_count=len(awaited),
    )


def _facts(row: Row) -> dict[str, Any]:
    status, time_ms = RunStatus(row["status"]), row["claimable_at_ms"]
    running = status is RunStatus.RUNNING
    return {
        **{name: row[name] for name in _SUMMARY},
        "status": status,
        "cancel_requested": bool(row["cancel_requested"]),
        "due_at_ms": None if running else time_ms,
        "lease_expires_at_ms": time_ms if running else None,
    }


def _awaited(row: Row) -> tuple[Awaited, ...]:
    if row["status"] != RunStatus.PAUSED:
        return ()
    return tuple(
        Awaited(kind=kind, name=name, step_id=step_id, until_ms=until_ms)
        for kind, name, step_id, until_ms in json.loads(row["awaited"])
    )
