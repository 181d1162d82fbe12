"""The one codec between rows and the contract's values. A row that cannot be read raises `CorruptRecordError`.

The `*_COLUMNS` are what each kind of row must have, under these names, in every dialect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from workflow_migrations import TableNames
from workflow_runtime.store import (
    AWAITED_SHOWN,
    Awaited,
    ClaimedBucket,
    ClaimedRun,
    CorruptRecordError,
    Event,
    Execution,
    InboxEntry,
    InvalidArgumentError,
    JsonText,
    Lease,
    RequestedBucket,
    RunRecord,
    RunStatus,
    RunSummary,
    RunTimeline,
    Schedule,
    Timer,
    build_timeline,
)

__all__ = [
    "CLAIMED_BUCKET_COLUMNS",
    "EVENT_COLUMNS",
    "INBOX_COLUMNS",
    "LEASE_COLUMNS",
    "LISTED_COLUMNS",
    "RECORD_COLUMNS",
    "REQUESTED_BUCKET_COLUMNS",
    "SCHEDULE_COLUMNS",
    "TIMER_COLUMNS",
    "ReadPayload",
    "Row",
    "RowReader",
    "RunRows",
    "awaited_text",
    "plain_payload",
]

Row: TypeAlias = Mapping[str, Any]
ReadPayload: TypeAlias = Callable[[Row, str], JsonText | None]
"""Reads a payload from a column; raises `ValueError` when the text cannot be used."""

_HEAD_COLUMNS = (
    "run_id",
    "workflow_id",
    "workflow_version",
    "status",
    "queue",
    "priority",
    "created_at",
    "updated_at",
    "finished_at",
    "due_at",
    "next_index",
    "inbox_seq",
    "cancel_requested",
    "crashes",
    "lease_owner",
    "lease_expires_at",
    "awaiting",
)
LISTED_COLUMNS = (*_HEAD_COLUMNS, "awaited_count")
"""A run in a listing. `awaiting` and `awaited_count` are read of paused runs only."""
RECORD_COLUMNS = (
    *_HEAD_COLUMNS,
    "input",
    "output",
    "error",
    "reason",
    "schedule_id",
    "scheduled_at",
    "forked_from",
    "forked_from_index",
)
LEASE_COLUMNS = ("lease_owner", "lease_token", "lease_number", "lease_expires_at")
EVENT_COLUMNS = ("event_index", "kind", "step_id", "created_at", "payload")
INBOX_COLUMNS = ("inbox_seq", "kind", "name", "delivery_id", "received_at", "payload")
TIMER_COLUMNS = ("timer_id", "fire_at")
SCHEDULE_COLUMNS = (
    "schedule_id",
    "workflow_id",
    "workflow_version",
    "spec",
    "input",
    "overlap_policy",
    "queue",
    "priority",
    "enabled",
    "next_fire_at",
    "last_fire_at",
    "buffered_fire_at",
    "previous_run_id",
    "revision",
    "created_at",
    "updated_at",
)
REQUESTED_BUCKET_COLUMNS = ("fire_at", "overlap", "requested_at")
CLAIMED_BUCKET_COLUMNS = (
    *SCHEDULE_COLUMNS,
    *LEASE_COLUMNS,
    "tick_at",
    "tick_source",
    "tick_policy",
    "overlapping_run_id",
)

_WAITING = frozenset({RunStatus.QUEUED, RunStatus.PAUSED})


@dataclass(frozen=True, slots=True)
class RunRows:
    """The rows that make one run, with the first pages of its log and its inbox."""

    run: Row
    events: Sequence[Row]
    inbox: Sequence[Row]
    timers: Sequence[Row]


def plain_payload(row: Row, column: str) -> JsonText | None:
    """Return a payload as the database gives it: for databases that keep nothing but JSON in such a column."""
    text: JsonText | None = row[column]
    return text


def awaited_text(awaited: Sequence[Awaited]) -> str:
    """Write an awaited list as the head keeps it."""
    return json.dumps(
        [[item.kind, item.name, item.step_id, item.until_ms] for item in awaited],
        ensure_ascii=False,
        separators=(",", ":"),
    )


class RowReader:
    """The codec of one store.

    Args:
        tables: The names of its tables, for errors.
        payload: Reads a payload from a column, as the dialect keeps it.
    """

    def __init__(self, tables: TableNames, payload: ReadPayload = plain_payload) -> None:
        self._tables = tables
        self._read_payload = payload

    def status(self, status: str, run_id: str) -> RunStatus:
        """Read a head's status."""
        try:
            return RunStatus(status)
        except ValueError:
            raise CorruptRecordError(self._tables.event_locks, run_id, f"unknown status {status!r}") from None

    def summary(self, row: Row) -> RunSummary:
        """Read a run as listings show it."""
        fields = self._summary_fields(row)
        if fields["status"] is RunStatus.PAUSED:
            counted, fields["first_awaited"] = self._awaited(row, AWAITED_SHOWN)
            fields["awaited_count"] = counted if row["awaited_count"] is None else row["awaited_count"]
        return RunSummary(**fields)

    def page(self, rows: Sequence[Row]) -> tuple[tuple[RunSummary, ...], tuple[CorruptRecordError, ...]]:
        """Read a page of a listing; what cannot be read hides nothing else."""
        runs, corrupt = [], []
        for row in rows:
            try:
                runs.append(self.summary(row))
            except CorruptRecordError as error:
                corrupt.append(error)
        return tuple(runs), tuple(corrupt)

    def record(self, row: Row) -> RunRecord:
        """Read a run with its payloads."""
        fields = self._summary_fields(row)
        table, run_id = self._tables.run_states, fields["run_id"]
        _, awaited = self._awaited(row) if fields["status"] is RunStatus.PAUSED else (0, ())
        return RunRecord(
            **fields,
            input=self._required_payload(table, run_id, row, "input"),
            output=self._payload(table, run_id, row, "output"),
            error=self._payload(table, run_id, row, "error"),
            reason=row["reason"],
            awaited=awaited,
            first_awaited=awaited[:AWAITED_SHOWN],
            awaited_count=len(awaited),
            schedule_id=row["schedule_id"],
            scheduled_at_ms=row["scheduled_at"],
            forked_from_run_id=row["forked_from"],
            forked_from_index=row["forked_from_index"],
        )

    def execution(self, rows: RunRows, history_limit: int) -> Execution:
        """Read a run with all that a driver needs."""
        run = self.record(rows.run)
        return Execution(
            run=run,
            history=self._first_history(rows.events, run, history_limit),
            inbox=self.inbox(rows.inbox, run.run_id),
            timers=_timers(rows.timers),
        )

    def claimed_run(self, rows: RunRows, history_limit: int) -> ClaimedRun:
        """Read a run that was claimed, with the timers that are due."""
        run = self.record(rows.run)
        return ClaimedRun(
            run=run,
            lease=self.lease(rows.run),
            history=self._first_history(rows.events, run, history_limit),
            inbox=self.inbox(rows.inbox, run.run_id),
            due_timers=_timers(rows.timers),
        )

    def timeline(self, rows: RunRows, limit: int) -> RunTimeline:
        """Read what happened to a run."""
        run = self.record(rows.run)
        return build_timeline(
            run=run,
            events=self._first_history(rows.events, run, limit),
            inbox=self.inbox(rows.inbox, run.run_id),
            timers=_timers(rows.timers),
            limit=limit,
        )

    def lease(self, row: Row) -> Lease:
        """Read the lease of a run or of a tick."""
        return Lease(
            owner=row["lease_owner"],
            token=row["lease_token"],
            number=row["lease_number"],
            expires_at_ms=row["lease_expires_at"],
        )

    def history(self, rows: Iterable[Row], run_id: str, *, from_index: int = 0) -> tuple[Event, ...]:
        """Read a page of a log, whatever the order of its rows."""
        events = sorted((self._event(row, run_id) for row in rows), key=lambda event: event.index)
        for expected, event in enumerate(events, start=from_index):
            if event.index != expected:
                self._missing_event(run_id, expected)
        return tuple(events)

    def inbox(self, rows: Iterable[Row], run_id: str) -> tuple[InboxEntry, ...]:
        """Read a page of an inbox, whatever the order of its rows."""
        return tuple(sorted((self._inbox_entry(row, run_id) for row in rows), key=lambda entry: entry.inbox_seq))

    def schedule(self, row: Row) -> Schedule:
        """Read a schedule."""
        table, schedule_id = self._tables.schedules, row["schedule_id"]
        return Schedule(
            schedule_id=schedule_id,
            workflow_id=row["workflow_id"],
            workflow_version=row["workflow_version"],
            spec=self._required_payload(table, schedule_id, row, "spec"),
            input=self._required_payload(table, schedule_id, row, "input"),
            overlap_policy=row["overlap_policy"],
            queue=row["queue"],
            priority=row["priority"],
            enabled=bool(row["enabled"]),
            next_fire_at_ms=row["next_fire_at"],
            last_fire_at_ms=row["last_fire_at"],
            buffered_fire_at_ms=row["buffered_fire_at"],
            previous_run_id=row["previous_run_id"],
            revision=row["revision"],
            created_at_ms=row["created_at"],
            updated_at_ms=row["updated_at"],
        )

    def requested_bucket(self, row: Row) -> RequestedBucket:
        """Read a tick that was requested."""
        return RequestedBucket(fire_at_ms=row["fire_at"], overlap=row["overlap"], requested_at_ms=row["requested_at"])

    def claimed_bucket(self, row: Row) -> ClaimedBucket:
        """Read a schedule together with its claimed tick."""
        return ClaimedBucket(
            schedule=self.schedule(row),
            fire_at_ms=row["tick_at"],
            source=row["tick_source"],
            overlap_policy=row["tick_policy"],
            overlapping_run_id=row["overlapping_run_id"],
            lease=self.lease(row),
        )

    def decision(self, row: Row, run_id: str) -> bool:
        """Read which decision an approval's entry holds."""
        key = f"{run_id}[{row['known_seq']}]"
        text = self._required_payload(self._tables.signal_deliveries, key, row, "known_payload")
        try:
            return bool(json.loads(text)["approved"])
        except (KeyError, TypeError):
            problem = "the payload is not that of an approval"
            raise CorruptRecordError(self._tables.signal_deliveries, key, problem) from None

    def _summary_fields(self, row: Row) -> dict[str, Any]:
        run_id = row["run_id"]
        status = self.status(row["status"], run_id)
        return {
            "run_id": run_id,
            "workflow_id": row["workflow_id"],
            "workflow_version": row["workflow_version"],
            "status": status,
            "queue": row["queue"],
            "priority": row["priority"],
            "created_at_ms": row["created_at"],
            "updated_at_ms": row["updated_at"],
            "finished_at_ms": row["finished_at"],
            "due_at_ms": row["due_at"] if status in _WAITING else None,
            "next_index": row["next_index"],
            "inbox_seq": row["inbox_seq"],
            "cancel_requested": bool(row["cancel_requested"]),
            "crashes": row["crashes"],
            "lease_owner": row["lease_owner"],
            "lease_expires_at_ms": row["lease_expires_at"],
        }

    def _awaited(self, row: Row, limit: int | None = None) -> tuple[int, tuple[Awaited, ...]]:
        try:
            # A listing cuts a long list to a fixed length, which a list of few things does not have.
            items = [item for item in _list(json.loads(row["awaiting"])) if item is not None]
            awaited = [
                Awaited(kind=kind, name=name, step_id=step_id, until_ms=until_ms)
                for kind, name, step_id, until_ms in items[:limit]
            ]
        except (ValueError, TypeError, InvalidArgumentError) as error:
            problem = "the awaited list cannot be read"
            raise CorruptRecordError(self._tables.event_locks, row["run_id"], problem) from error
        return len(items), tuple(awaited)

    def _event(self, row: Row, run_id: str) -> Event:
        try:
            payload = self._read_payload(row, "payload")
        except ValueError as error:
            raise CorruptRecordError(self._tables.events, f"{run_id}[{row['event_index']}]", str(error)) from None
        return Event(
            index=row["event_index"],
            kind=row["kind"],
            step_id=row["step_id"],
            payload=payload,
            created_at_ms=row["created_at"],
        )

    def _first_history(self, rows: Iterable[Row], run: RunRecord, limit: int) -> tuple[Event, ...]:
        """Read the first page of a log, whose length the head gives."""
        events = self.history(rows, run.run_id)
        if not events and run.next_index > 0 and limit > 0:
            self._missing_event(run.run_id, 0)
        return events

    def _inbox_entry(self, row: Row, run_id: str) -> InboxEntry:
        try:
            payload = self._read_payload(row, "payload")
        except ValueError as error:
            key = f"{run_id}[{row['inbox_seq']}]"
            raise CorruptRecordError(self._tables.signal_deliveries, key, str(error)) from None
        return InboxEntry(
            inbox_seq=row["inbox_seq"],
            kind=row["kind"],
            name=row["name"],
            delivery_id=row["delivery_id"],
            payload=payload,
            received_at_ms=row["received_at"],
        )

    def _payload(self, table: str, key: str, row: Row, column: str) -> JsonText | None:
        try:
            return self._read_payload(row, column)
        except ValueError as error:
            raise CorruptRecordError(table, key, str(error)) from None

    def _required_payload(self, table: str, key: str, row: Row, column: str) -> JsonText:
        text = self._payload(table, key, row, column)
        if text is None:
            raise CorruptRecordError(table, key, f"{column} is missing")
        return text

    def _missing_event(self, run_id: str, index: int) -> None:
        raise CorruptRecordError(self._tables.events, f"{run_id}[{index}]", "the event is missing")


def _timers(rows: Iterable[Row]) -> tuple[Timer, ...]:
    """Read timers, earliest first."""
    timers = [Timer(timer_id=row["timer_id"], fire_at_ms=row["fire_at"]) for row in rows]
    return tuple(sorted(timers, key=lambda timer: (timer.fire_at_ms, timer.timer_id)))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"no list, but {type(value).__name__}")
    return value
