"""Each statement whose rows the codec reads has the codec's columns, no less and no more."""

import sqlite3
from collections.abc import Iterator

import pytest
from workflow_migrations import split_statements
from workflow_store_d1 import get_migration_sql
from workflow_store_sql import load_queries, rows

QUERIES = load_queries("workflow_store_d1")

PAYLOADS = {"input", "output", "error", "payload", "spec"}
"""A statement says of each whether it is JSON."""

COLUMNS = {
    "create_run.before": (*rows.RECORD_COLUMNS, *rows.LEASE_COLUMNS, "operation_id", "operation_answer"),
    "load_run": rows.RECORD_COLUMNS,
    "claimed.runs": (*rows.RECORD_COLUMNS, *rows.LEASE_COLUMNS),
    "claimed.history": ("run_id", *rows.EVENT_COLUMNS),
    "claimed.inbox": ("run_id", *rows.INBOX_COLUMNS),
    "claimed.due_timers": ("run_id", *rows.TIMER_COLUMNS),
    "read_events": rows.EVENT_COLUMNS,
    "look_at_log": (*rows.EVENT_COLUMNS, "status", "run_created_at", "next_index"),
    "read_inbox": rows.INBOX_COLUMNS,
    "get_run_timeline.inbox": rows.INBOX_COLUMNS,
    "read_timers": rows.TIMER_COLUMNS,
    "list_runs": rows.LISTED_COLUMNS,
    "list_runs_descending": rows.LISTED_COLUMNS,
    "list_runs_of_workflow": rows.LISTED_COLUMNS,
    "list_runs_of_workflow_descending": rows.LISTED_COLUMNS,
    "list_runs_of_queue": rows.LISTED_COLUMNS,
    "list_runs_of_queue_descending": rows.LISTED_COLUMNS,
    "list_waiting_runs": rows.LISTED_COLUMNS,
    "list_waiting_runs_descending": rows.LISTED_COLUMNS,
    "list_running_runs": rows.LISTED_COLUMNS,
    "list_running_runs_descending": rows.LISTED_COLUMNS,
    "list_failed_runs": rows.LISTED_COLUMNS,
    "list_failed_runs_descending": rows.LISTED_COLUMNS,
    "list_runs_by_prefix": rows.LISTED_COLUMNS,
    "list_runs_by_prefix_descending": rows.LISTED_COLUMNS,
    "list_pending_runs": set(rows.LISTED_COLUMNS) - {"awaiting", "awaited_count"},
    "upsert_schedule.after": rows.SCHEDULE_COLUMNS,
    "get_schedule": rows.SCHEDULE_COLUMNS,
    "list_schedules": rows.SCHEDULE_COLUMNS,
    "claim_due_schedule_buckets.claimed": rows.CLAIMED_BUCKET_COLUMNS,
    "list_requested_buckets": rows.REQUESTED_BUCKET_COLUMNS,
}

LISTS: dict[str, int | str] = {"runs": "[]", "signals": "[]"}
"""Parameters that are lists of lists."""

HEADS = {
    "fenced_write.before",
    "create_runs.before",
    "deliver.before",
    "deliver_signals.before",
    "heartbeat_run_leases",
    "mark_schedule_bucket_started.before",
}
"""These are read by answers and verdicts, not by the codec."""


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in split_statements(get_migration_sql()):
        connection.execute(statement)
    yield connection
    connection.close()


def columns_of(database: sqlite3.Connection, name: str) -> list[str]:
    query = QUERIES[name]
    values = {str(number): LISTS.get(what, 1) for number, what in enumerate(query.parameters, 1)}
    cursor = database.execute(query.sql, values)
    return [column[0] for column in cursor.description or ()]


@pytest.mark.parametrize("name", COLUMNS)
def test_statement_has_the_columns_of_the_codec(database: sqlite3.Connection, name: str) -> None:
    wanted = set(COLUMNS[name])
    found = columns_of(database, name)
    assert set(found) - {"run_id"} == (wanted | {f"{column}_valid" for column in wanted & PAYLOADS}) - {"run_id"}
    assert len(found) == len(set(found))


OTHERS = {"fenced_write.guard", "read_indexes", "read_applied_migrations"}
"""Statements whose rows no codec reads."""


@pytest.mark.parametrize("name", sorted(QUERIES.keys() - COLUMNS.keys() - HEADS - OTHERS))
def test_no_other_statement_gives_such_rows(database: sqlite3.Connection, name: str) -> None:
    """A new statement with many columns belongs into the table above."""
    assert len(columns_of(database, name)) < 5
