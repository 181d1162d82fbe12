"""The one codec between rows and the contract's values. A row that cannot be read raises `CorruptRecordError`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from workflow_migrations import TableNames
from workflow_runtime.errors import CorruptRecordError, InvalidArgumentError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    AWAITED_SHOWN,
    Awaited,
    ClaimedBucket,
    Event,
    InboxEntry,
    Lease,
    RequestedBucket,
    RunRecord,
    RunStatus,
    RunSummary,
    Schedule,
    Timer,
)

from .database import Row

__all__ = ["RowReader", "awaited_text"]

_WAITING = frozenset({RunStatus.QUEUED, RunStatus.PAUSED})


def awaited_text(awaited: Sequence[Awaited]) -> str:
    """Write an awaited list as the head keeps it."""
    return json.dumps(
        [[item.kind, item.name, item.step_id, item.until_ms] for item in awaited],
        ensure_ascii=False,
        separators=(",", ":"),
    )


class RowReader:
    """Reads rows; knows the tables' names for its errors."""

    def __init__(self, tables: TableNames) -> None:
        self._tables = tables

    def status(self, row: Row, run_id: str) -> RunStatus:
        """Read a head's status."""
        try:
            return RunStatus(row["status"])
        except ValueError:
            problem = f"unknown status {row['status']!r}"
            raise CorruptRecordError(self._tables.event_locks, run_id, problem) from None

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
            input=_required_payload(table, run_id, row, "input"),
            output=_payload(table, run_id, row, "output"),
            error=_payload(table, run_id, row, "error"),
            reason=row["reason"],
            awaited=awaited,
            first_awaited=awaited[:AWAITED_SHOWN],
            awaited_count=len(awaited),
            schedule_id=row["schedule_id"],
            scheduled_at_ms=row["scheduled_at"],
            forked_from_run_id=row["forked_from"],
            forked_from_index=row["forked_from_index"],
        )

    def lease(self, row: Row) -> Lease:
        """Read the lease of a run or of a tick."""
        return Lease(
            owner=row["lease_owner"],
            token=row["lease_token"],
            number=row["lease_number"],
            expires_at_ms=row["lease_expires_at"],
        )

    def history(self, rows: Sequence[Row], run_id: str, *, from_index: int = 0) -> tuple[Event, ...]:
        """Read a page of a log, whatever the order of its rows."""
        events = sorted((self._event(row) for row in rows), key=lambda event: event.index)
        for expected, event in enumerate(events, start=from_index):
            if event.index != expected:
                self._missing_event(run_id, expected)
        return tuple(events)

    def first_history(self, rows: Sequence[Row], run: RunRecord, history_limit: int) -> tuple[Event, ...]:
        """Read the first page of a log, of which the head tells the length."""
        events = self.history(rows, run.run_id)
        if not events and run.next_index > 0 and history_limit > 0:
            self._missing_event(run.run_id, 0)
        return events

    def inbox(self, rows: Sequence[Row]) -> tuple[InboxEntry, ...]:
        """Read a page of an inbox, whatever the order of its rows."""
        return tuple(sorted((self._inbox_entry(row) for row in rows), key=lambda entry: entry.inbox_seq))

    def timer(self, row: Row) -> Timer:
        """Read a timer."""
        return Timer(timer_id=row["timer_id"], fire_at_ms=row["fire_at"])

    def schedule(self, row: Row) -> Schedule:
        """Read a schedule."""
        table, schedule_id = self._tables.schedules, row["schedule_id"]
        return Schedule(
            schedule_id=schedule_id,
            workflow_id=row["workflow_id"],
            workflow_version=row["workflow_version"],
            spec=_required_payload(table, schedule_id, row, "spec"),
            input=_required_payload(table, schedule_id, row, "input"),
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
        text = _required_payload(self._tables.signal_deliveries, key, row, "known_payload")
        try:
            return bool(json.loads(text)["approved"])
        except (KeyError, TypeError):
            problem = "the payload is not that of an approval"
            raise CorruptRecordError(self._tables.signal_deliveries, key, problem) from None

    def _summary_fields(self, row: Row) -> dict[str, Any]:
        run_id = row["run_id"]
        status = self.status(row, run_id)
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

    def _event(self, row: Row) -> Event:
        key = f"{row['run_id']}[{row['event_index']}]"
        return Event(
            index=row["event_index"],
            kind=row["kind"],
            step_id=row["step_id"],
            payload=_payload(self._tables.events, key, row, "payload"),
            created_at_ms=row["created_at"],
        )

    def _inbox_entry(self, row: Row) -> InboxEntry:
        key = f"{row['run_id']}[{row['inbox_seq']}]"
        return InboxEntry(
            inbox_seq=row["inbox_seq"],
            kind=row["kind"],
            name=row["name"],
            delivery_id=row["delivery_id"],
            payload=_payload(self._tables.signal_deliveries, key, row, "payload"),
            received_at_ms=row["received_at"],
        )

    def _missing_event(self, run_id: str, index: int) -> None:
        raise CorruptRecordError(self._tables.events, f"{run_id}[{index}]", "the event is missing")


def _payload(table: str, key: str, row: Row, column: str) -> JsonText | None:
    text = row[column]
    if text is None:
        return None
    if not row[f"{column}_valid"]:
        raise CorruptRecordError(table, key, f"{column} is not valid JSON")
    return JsonText(text)


def _required_payload(table: str, key: str, row: Row, column: str) -> JsonText:
    text = _payload(table, key, row, column)
    if text is None:
        raise CorruptRecordError(table, key, f"{column} is missing")
    return text


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"no list, but {type(value).__name__}")
    return value
