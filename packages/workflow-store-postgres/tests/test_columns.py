"""Each statement whose rows the codec reads has the codec's columns, no less and no more."""

import asyncpg
import pytest
from workflow_store_postgres.rows import ARRAYS
from workflow_store_sql import load_statements, rows

SQL = load_statements("workflow_store_postgres")

EXECUTION = (*rows.RECORD_COLUMNS, *ARRAYS)
CLAIM = (
    *EXECUTION,
    *rows.LEASE_COLUMNS,
    "next_due",
    "overtaken",
    "before_status",
    "before_due_at",
    "before_lease_expires_at",
)
ITSELF = ("overtaken", "backed", "wakes", "notified")
"""Columns by which statements say that they must be sent again, or that they notified the workers."""

COLUMNS = {
    "read_creation": (*rows.RECORD_COLUMNS, *rows.LEASE_COLUMNS, "operation_id", "operation_answer", "backed"),
    "read_creations": ("run_id", "workflow_id", "operation_id", "same_input", "input", "backed"),
    "fork_run": (*rows.RECORD_COLUMNS, "operation_id", "source_length", *ITSELF),
    "load_run": rows.RECORD_COLUMNS,
    "load_execution": EXECUTION,
    "claim_run": CLAIM,
    "claim_stale_runs": CLAIM,
    "claim_pending_runs": CLAIM,
    "claim_due_timers": CLAIM,
    "read_events": rows.EVENT_COLUMNS,
    "look_at_log": (*rows.EVENT_COLUMNS, "status", "run_created_at", "next_index"),
    "read_inbox": rows.INBOX_COLUMNS,
    "list_runs": rows.LISTED_COLUMNS,
    "list_runs_descending": rows.LISTED_COLUMNS,
    "list_runs_in_lanes": rows.LISTED_COLUMNS,
    "list_runs_in_lanes_descending": rows.LISTED_COLUMNS,
    "list_nearby_runs": rows.LISTED_COLUMNS,
    "list_nearby_runs_descending": rows.LISTED_COLUMNS,
    "list_failed_runs": rows.LISTED_COLUMNS,
    "list_failed_runs_descending": rows.LISTED_COLUMNS,
    "list_runs_by_prefix": rows.LISTED_COLUMNS,
    "list_runs_by_prefix_descending": rows.LISTED_COLUMNS,
    "list_pending_runs": set(rows.LISTED_COLUMNS) - {"awaiting", "awaited_count"},
    "upsert_schedule": (*rows.SCHEDULE_COLUMNS, "kind", "overtaken", "backed"),
    "get_schedule": rows.SCHEDULE_COLUMNS,
    "list_schedules": rows.SCHEDULE_COLUMNS,
    "claim_due_schedule_buckets": (*rows.CLAIMED_BUCKET_COLUMNS, "next_due", "unclaimable", "overtaken"),
    "list_requested_buckets": rows.REQUESTED_BUCKET_COLUMNS,
}


@pytest.mark.parametrize("name", COLUMNS)
async def test_statement_has_the_columns_of_the_codec(database: asyncpg.Connection, name: str) -> None:
    prepared = await database.prepare(SQL[name])
    found = [column.name for column in prepared.get_attributes()]
    assert set(found) == set(COLUMNS[name])
    assert len(found) == len(set(found))


async def test_no_other_statement_gives_such_rows(database: asyncpg.Connection) -> None:
    """A new statement that gives whole runs or schedules belongs into the table above."""
    for name in SQL.keys() - COLUMNS.keys():
        prepared = await database.prepare(SQL[name])
        assert "workflow_id" not in {column.name for column in prepared.get_attributes()}, name
