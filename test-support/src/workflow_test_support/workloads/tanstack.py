"""The tables of TanStack Workflow, which have our names, with rows in each: no store of ours may touch them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = ["COLUMNS", "PACKAGES", "script"]

Dialect = Literal["postgres", "sqlite"]

PACKAGES: Mapping[Dialect, str] = {
    "postgres": "@tanstack/workflow-store-drizzle-postgres",
    "sqlite": "@tanstack/workflow-store-cloudflare-d1",
}
"""The packages as their tables of migrations name them."""

_STATE = (
    "workflow_id text NOT NULL, workflow_version text, status text NOT NULL, input jsonb NOT NULL, output jsonb, "
    "error jsonb, awaiting jsonb, waiting_for jsonb, pending_approval jsonb"
)
_LEASE = "lease_owner text, lease_expires_at bigint"

COLUMNS: Mapping[str, str] = {
    "workflow_schema_migrations": (
        "migration_id text PRIMARY KEY, package_name text NOT NULL, package_version text, applied_at bigint NOT NULL"
    ),
    "workflow_runs": (
        f"run_id text PRIMARY KEY, {_STATE}, wake_at bigint, {_LEASE}, created_at bigint NOT NULL, "
        "updated_at bigint NOT NULL"
    ),
    "workflow_run_states": (
        f"run_id text PRIMARY KEY, {_STATE}, created_at bigint NOT NULL, updated_at bigint NOT NULL"
    ),
    "workflow_event_locks": "run_id text PRIMARY KEY, created_at bigint NOT NULL",
    "workflow_events": (
        "run_id text NOT NULL, event_index integer NOT NULL, event_type text NOT NULL, step_id text, "
        "event jsonb NOT NULL, created_at bigint NOT NULL, PRIMARY KEY (run_id, event_index)"
    ),
    "workflow_timers": (
        "run_id text NOT NULL, signal_id text NOT NULL, workflow_id text NOT NULL, workflow_version text, "
        f"wake_at bigint NOT NULL, {_LEASE}, PRIMARY KEY (run_id, signal_id)"
    ),
    "workflow_signal_deliveries": (
        "run_id text NOT NULL, signal_id text NOT NULL, created_at bigint NOT NULL, PRIMARY KEY (run_id, signal_id)"
    ),
    "workflow_schedules": (
        "schedule_id text PRIMARY KEY, workflow_id text NOT NULL, workflow_version text, schedule jsonb NOT NULL, "
        "overlap_policy text NOT NULL, input jsonb, next_fire_at bigint, enabled boolean NOT NULL, "
        "updated_at bigint NOT NULL"
    ),
    "workflow_schedule_buckets": (
        "schedule_id text NOT NULL, bucket_id text NOT NULL, workflow_id text NOT NULL, workflow_version text, "
        "run_id text NOT NULL, fire_at bigint NOT NULL, input jsonb, overlap_policy text NOT NULL, "
        f"status text NOT NULL, {_LEASE}, started_at bigint, PRIMARY KEY (schedule_id, bucket_id)"
    ),
}
"""Columns and keys, by table."""

_ROWS: Mapping[str, str] = {
    "workflow_runs": "('r', 'w', '1', 'paused', '{}', NULL, NULL, NULL, '{}', NULL, 9, NULL, NULL, 1, 2)",
    "workflow_run_states": "('r', 'w', '1', 'paused', '{}', NULL, NULL, NULL, '{}', NULL, 1, 2)",
    "workflow_event_locks": "('r', 1)",
    "workflow_events": "('r', 0, 'started', NULL, '{}', 1)",
    "workflow_timers": "('r', 's', 'w', '1', 9, NULL, NULL)",
    "workflow_signal_deliveries": "('r', 's', 1)",
    "workflow_schedules": "('s', 'w', '1', '{}', 'skip', '{}', 9, true, 1)",
    "workflow_schedule_buckets": "('s', 'b', 'w', '1', 'r', 5, '{}', 'skip', 'started', NULL, NULL, 6)",
}
_SQLITE_TYPES = {"text": "TEXT", "jsonb": "TEXT", "bigint": "INTEGER", "integer": "INTEGER", "boolean": "INTEGER"}


def script(dialect: Dialect) -> str:
    """Return the SQL that makes the tables, with a row in each."""
    statements = [f"CREATE TABLE {table} ({_typed(columns, dialect)})" for table, columns in COLUMNS.items()]
    own = f"('0000_workflow_store', '{PACKAGES[dialect]}', '0.0.5', 1)"
    rows = {"workflow_schema_migrations": own, **_ROWS}
    statements += [f"INSERT INTO {table} VALUES {row}" for table, row in rows.items()]
    return "".join(f"{statement};\n" for statement in statements)


def _typed(columns: str, dialect: Dialect) -> str:
    if dialect == "postgres":
        return columns
    return " ".join(
        _SQLITE_TYPES.get(word.rstrip(","), word.rstrip(",")) + "," * word.count(",") for word in columns.split(" ")
    )
