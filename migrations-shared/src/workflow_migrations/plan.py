"""The plan for a database: a pure function of the rows that it recorded and the files that the package ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ChecksumMismatchError, DatabaseAheadError, MigrationGapError
from .files import Migration

__all__ = ["AppliedMigration", "plan_migrations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedMigration:
    """One row of the table of applied migrations."""

    migration_id: str
    checksum: str | None
    """`None` when the file was applied by hand: nobody took its checksum."""


def plan_migrations(applied: Sequence[AppliedMigration], migrations: Sequence[Migration]) -> tuple[Migration, ...]:
    """Return the migrations that the database lacks, in order.

    Args:
        applied: What the database recorded, in any order.
        migrations: What the package ships, in order.

    Raises:
        DatabaseAheadError: The database has migrations that the package does not know.
        ChecksumMismatchError: A shipped file is not what was applied.
        MigrationGapError: The database lacks one that is older than its newest.
    """
    recorded = {row.migration_id: row for row in applied}
    unknown = recorded.keys() - {migration.migration_id for migration in migrations}
    if unknown:
        raise DatabaseAheadError(tuple(sorted(unknown)))
    for migration in migrations:
        row = recorded.get(migration.migration_id)
        if row is not None and row.checksum is not None and row.checksum != migration.checksum:
            raise ChecksumMismatchError(migration.migration_id)
    newest = max((migration.number for migration in migrations if migration.migration_id in recorded), default=-1)
    steps = [migration for migration in migrations if migration.migration_id not in recorded]
    missing = [step.migration_id for step in steps if step.number < newest]
    if missing:
        raise MigrationGapError(tuple(missing))
    return tuple(steps)
