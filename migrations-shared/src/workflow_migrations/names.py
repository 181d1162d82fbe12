"""The names of the tables, by key: the user may choose others than the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

from .errors import InvalidTableNamesError

__all__ = ["DEFAULT_TABLES", "MAX_NAME_BYTES", "TableNames"]

MAX_NAME_BYTES = 63
"""PostgreSQL cuts longer names off, silently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableNames:
    """One name per table key."""

    schema_migrations: str = "workflow_schema_migrations"
    runs: str = "workflow_runs"
    run_states: str = "workflow_run_states"
    event_locks: str = "workflow_event_locks"
    events: str = "workflow_events"
    timers: str = "workflow_timers"
    signal_deliveries: str = "workflow_signal_deliveries"
    schedules: str = "workflow_schedules"
    schedule_buckets: str = "workflow_schedule_buckets"

    def __post_init__(self) -> None:
        taken: dict[str, str] = {}
        for key, name in self.by_key().items():
            _check_name(key, name)
            # Case counts in PostgreSQL and does not in SQLite: names must differ in more than case to work in both.
            other = taken.setdefault(name.lower(), key)
            if other != key:
                raise InvalidTableNamesError(key, f"has the same name as {other!r}: {name!r}")

    @classmethod
    def of(cls, tables: Mapping[str, str] | None) -> Self:
        """Take the names that a user gave and the defaults for the others.

        Raises:
            InvalidTableNamesError: An unknown key, an unusable name, or one name for two tables.
        """
        chosen = dict(tables or {})
        keys = [field.name for field in fields(cls)]
        for key in chosen:
            if key not in keys:
                raise InvalidTableNamesError(str(key), f"there is no such table; the keys are {', '.join(keys)}")
        return cls(**chosen)

    def by_key(self) -> dict[str, str]:
        """Return the names by key."""
        return asdict(self)


def _check_name(key: str, name: object) -> None:
    if not isinstance(name, str):
        raise InvalidTableNamesError(key, f"must be a string, not {type(name).__name__}")
    if not name:
        raise InvalidTableNamesError(key, "must not be empty")
    if "\0" in name:
        raise InvalidTableNamesError(key, "must not contain NUL")
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidTableNamesError(key, "must not contain a lone surrogate") from None
    if size > MAX_NAME_BYTES:
        raise InvalidTableNamesError(key, f"takes {size} bytes in UTF-8, at most {MAX_NAME_BYTES} are allowed")


DEFAULT_TABLES = TableNames()
