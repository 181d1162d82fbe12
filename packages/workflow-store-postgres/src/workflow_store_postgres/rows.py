"""The one codec between rows and the contract's values. A row that cannot be read raises `CorruptRecordError`.

Payloads are read as text, whatever codecs for json the pool's owner has set. A list of rows that belong to one run
comes as one array for each column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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

from .session import Row

__all__ = ["RowReader", "awaited_text"]

_WAITING = frozenset({RunStatus.QUEUED, RunStatus.PAUSED})

_EVENT_COLUMNS = ("event_index", "kind", "step_id", "created_at", "payload")
_EVENT_ARRAYS = ("event_indexes", "event_kinds", "event_step_ids", "event_times", "event_payloads")
_ENTRY_COLUMNS = ("inbox_seq", "kind", "name", "delivery_id", "received_at", "payload")
_ENTRY_ARRAYS = (
    "entry_numbers",
    "entry_kinds",
    "entry_names",
    "entry_delivery_ids",
    "entry_times",
    "entry_payloads",
)
_TIMER_COLUMNS = ("timer_id", "fire_at")
_TIMER_ARRAYS = ("timer_ids", "timer_times")


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
        run_input = row["input"]
        if run_input is None:
            raise CorruptRecordError(self._tables.run_states, fields["run_id"], "input is missing")
        _, awaited = self._awaited(row) if fields["status"] is RunStatus.PAUSED else (0, ())
        return RunRecord(
            **fields,
            input=run_input,
            output=row["output"],
            error=row["error"],
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

    def history(self, rows: Iterable[Row], run_id: str, *, from_index: int = 0) -> tuple[Event, ...]:
        """Read a page of a log, whatever the order of its rows."""
        events = sorted((_event(row) for row in rows), key=lambda event: event.index)
        for expected, event in enumerate(events, start=from_index):
            if event.index != expected:
                self._missing_event(run_id, expected)
        return tuple(events)

    def first_history(self, row: Row, run: RunRecord, history_limit: int) -> tuple[Event, ...]:
        """Read the first page of a log, of which the head tells the length."""
        events = self.history(_unfold(row, _EVENT_COLUMNS, _EVENT_ARRAYS), run.run_id)
        if not events and run.next_index > 0 and history_limit > 0:
            self._missing_event(run.run_id, 0)
        return events

    def inbox(self, rows: Iterable[Row]) -> tuple[InboxEntry, ...]:
        """Read a page of an inbox, whatever the order of its rows."""
        return tuple(sorted((_inbox_entry(row) for row in rows), key=lambda entry: entry.inbox_seq))

    def first_inbox(self, row: Row) -> tuple[InboxEntry, ...]:
        """Read the page of the inbox that comes with a run."""
        return self.inbox(_unfold(row, _ENTRY_COLUMNS, _ENTRY_ARRAYS))

    def timers(self, row: Row) -> tuple[Timer, ...]:
        """Read the timers that come with a run, earliest first."""
        timers = [
            Timer(timer_id=timer["timer_id"], fire_at_ms=timer["fire_at"])
            for timer in _unfold(row, _TIMER_COLUMNS, _TIMER_ARRAYS)
        ]
        return tuple(sorted(timers, key=lambda timer: (timer.fire_at_ms, timer.timer_id)))

    def schedule(self, row: Row) -> Schedule:
        """Read a schedule."""
        return Schedule(
            schedule_id=row["schedule_id"],
            workflow_id=row["workflow_id"],
            workflow_version=row["workflow_version"],
            spec=row["spec"],
            input=row["input"],
            overlap_policy=row["overlap_policy"],
            queue=row["queue"],
            priority=row["priority"],
            enabled=row["enabled"],
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
        try:
            return bool(json.loads(row["known_payload"])["approved"])
        except (KeyError, TypeError):
            key = f"{run_id}[{row['known_seq']}]"
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
            "cancel_requested": row["cancel_requested"],
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

    def _missing_event(self, run_id: str, index: int) -> None:
        raise CorruptRecordError(self._tables.events, f"{run_id}[{index}]", "the event is missing")


def _event(row: Row) -> Event:
    return Event(
        index=row["event_index"],
        kind=row["kind"],
        step_id=row["step_id"],
        payload=_payload(row),
        created_at_ms=row["created_at"],
    )


def _inbox_entry(row: Row) -> InboxEntry:
    return InboxEntry(
        inbox_seq=row["inbox_seq"],
        kind=row["kind"],
        name=row["name"],
        delivery_id=row["delivery_id"],
        payload=_payload(row),
        received_at_ms=row["received_at"],
    )


def _payload(row: Row) -> JsonText | None:
    text: JsonText | None = row["payload"]
    return text


def _unfold(row: Row, columns: Sequence[str], arrays: Sequence[str]) -> list[Row]:
    """Make rows of a row's arrays; no array is no row."""
    if row[arrays[0]] is None:
        return []
    return [dict(zip(columns, values, strict=True)) for values in zip(*(row[name] for name in arrays), strict=True)]


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"no list, but {type(value).__name__}")
    return value
