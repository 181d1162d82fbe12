"""Names for all nine tables that SQL takes only in quotes, and a schema of the kind."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SCHEMA", "TABLES"]

SCHEMA = 'Odd "schema"; --'

TABLES: Mapping[str, str] = {
    "schema_migrations": 'odd "migrations"',
    "runs": "Runs",
    "run_states": "select",
    "event_locks": "a" * 63,
    "events": "é" * 31,
    "timers": "user",
    "signal_deliveries": "workflow_events",
    "schedules": "TABLE",
    "schedule_buckets": "semi;colon's -- /* $1 ?1 %s :name",
}
"""Quotes, upper case, 63 bytes, reserved words, another table's default name, and what drivers take for a parameter."""
