"""The codec reads the columns that it declares, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from workflow_migrations import DEFAULT_TABLES
from workflow_runtime.errors import CorruptRecordError
from workflow_runtime.payloads import JsonText
from workflow_store_sql import RowReader, RunRows, rows

RUN: dict[str, Any] = {
    "run_id": "a",
    "workflow_id": "w",
    "workflow_version": "1",
    "status": "paused",
    "queue": "default",
    "priority": 0,
    "created_at": 1,
    "updated_at": 2,
    "finished_at": None,
    "due_at": 3,
    "next_index": 1,
    "inbox_seq": 1,
    "cancel_requested": 0,
    "crashes": 0,
    "lease_owner": "o",
    "lease_expires_at": 9,
    "lease_token": "t",
    "lease_number": 1,
    "awaiting": "[]",
    "awaited_count": None,
    "input": "1",
    "output": None,
    "error": None,
    "reason": None,
    "schedule_id": None,
    "scheduled_at": None,
    "forked_from": None,
    "forked_from_index": None,
}
EVENT: dict[str, Any] = {"event_index": 0, "kind": "k", "step_id": "s", "created_at": 1, "payload": "1"}
ENTRY: dict[str, Any] = {
    "inbox_seq": 1,
    "kind": "signal",
    "name": "n",
    "delivery_id": "d",
    "received_at": 1,
    "payload": "1",
}
TIMER: dict[str, Any] = {"timer_id": "t", "fire_at": 3}
SCHEDULE: dict[str, Any] = {
    "schedule_id": "s",
    "workflow_id": "w",
    "workflow_version": "1",
    "spec": "{}",
    "input": "1",
    "overlap_policy": "skip",
    "queue": "default",
    "priority": 0,
    "enabled": 1,
    "next_fire_at": 1,
    "last_fire_at": None,
    "buffered_fire_at": None,
    "previous_run_id": None,
    "revision": 1,
    "created_at": 1,
    "updated_at": 1,
    "tick_at": 1,
    "tick_source": "due",
    "tick_policy": "skip",
    "overlapping_run_id": None,
    "lease_owner": "o",
    "lease_token": "t",
    "lease_number": 1,
    "lease_expires_at": 9,
}


class Watched(Mapping[str, Any]):
    """A row that remembers which of its columns were read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.read: set[str] = set()

    def __getitem__(self, column: str) -> Any:
        self.read.add(column)
        return self._values[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


READ = RowReader(DEFAULT_TABLES)


@pytest.mark.parametrize(
    ("declared", "values", "read"),
    [
        (rows.LISTED_COLUMNS, RUN, READ.summary),
        (rows.RECORD_COLUMNS, RUN, READ.record),
        (rows.LEASE_COLUMNS, RUN, READ.lease),
        (rows.EVENT_COLUMNS, EVENT, lambda row: READ.history([row], "a")),
        (rows.INBOX_COLUMNS, ENTRY, lambda row: READ.inbox([row], "a")),
        (rows.SCHEDULE_COLUMNS, SCHEDULE, READ.schedule),
        (rows.REQUESTED_BUCKET_COLUMNS, {"fire_at": 1, "overlap": None, "requested_at": 1}, READ.requested_bucket),
        (rows.CLAIMED_BUCKET_COLUMNS, SCHEDULE, READ.claimed_bucket),
        (
            rows.TIMER_COLUMNS,
            TIMER,
            lambda row: READ.execution(RunRows(RUN, [EVENT], [ENTRY], [row]), history_limit=10),
        ),
    ],
)
def test_declared_columns_are_those_that_are_read(
    declared: tuple[str, ...], values: dict[str, Any], read: Callable[[Mapping[str, Any]], object]
) -> None:
    row = Watched(values)
    read(row)
    assert row.read == set(declared)
    assert len(declared) == len(set(declared))


def test_run_that_waits_for_nothing_needs_no_awaited_list() -> None:
    """A listing of queued runs may leave the columns out."""
    row = Watched(RUN | {"status": "queued"})
    READ.summary(row)
    assert row.read == set(rows.LISTED_COLUMNS) - {"awaiting", "awaited_count"}


def test_timers_come_earliest_first_and_events_in_their_order() -> None:
    later, sooner = {"timer_id": "a", "fire_at": 5}, {"timer_id": "b", "fire_at": 4}
    second = EVENT | {"event_index": 1}
    execution = READ.execution(RunRows(RUN | {"next_index": 2}, [second, EVENT], [], [later, sooner]), 10)
    assert [timer.timer_id for timer in execution.timers] == ["b", "a"]
    assert [event.index for event in execution.history] == [0, 1]


def refuse(row: Mapping[str, Any], column: str) -> JsonText | None:
    raise ValueError(f"{column} is torn")


@pytest.mark.parametrize(
    ("read", "table", "key"),
    [
        (lambda reader: reader.record(RUN), "workflow_run_states", "a"),
        (lambda reader: reader.history([EVENT], "a"), "workflow_events", "a[0]"),
        (lambda reader: reader.inbox([ENTRY], "a"), "workflow_signal_deliveries", "a[1]"),
        (lambda reader: reader.schedule(SCHEDULE), "workflow_schedules", "s"),
    ],
)
def test_payload_that_a_dialect_cannot_read_is_named(read: Callable[[RowReader], object], table: str, key: str) -> None:
    with pytest.raises(CorruptRecordError, match="is torn") as refused:
        read(RowReader(DEFAULT_TABLES, refuse))
    assert (refused.value.table, refused.value.key) == (table, key)
