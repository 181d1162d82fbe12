"""The plan for a database: a pure function of the rows that it recorded and the files that the package ships."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
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
    oldest_code: str | None = None
    """Version of the oldest release that may run on the database since; `None` if the row does not say."""
    environment: str | None = None
    """Environment that the tables belong to, such as "production"; `None` if the row does not say."""


def plan_migrations(
    applied: Sequence[AppliedMigration], migrations: Sequence[Migration], *, version: str | None = None
) -> tuple[Migration, ...]:
    """Return the migrations that the database lacks, in order.

    A database may have migrations that the package does not know, because a newer release has applied them. The package
    works on it if each of them says that code of its version may.

    Args:
        applied: What the database recorded, in any order.
        migrations: What the package ships, in order.
        version: Version of the package. Without it every unknown migration is refused.

    Raises:
        DatabaseAheadError: The package does not know some migrations, and is too old for them.
        ChecksumMismatchError: A shipped file is not what was applied.
        MigrationGapError: The database lacks an expand migration that is older than its newest one. Other migrations
            may wait for as long as they like.
    """
    recorded = {row.migration_id: row for row in applied}
    known = {migration.migration_id for migration in migrations}
    unknown = [row for migration_id, row in recorded.items() if migration_id not in known]
    _refuse_if_too_old(unknown, version)
    for migration in migrations:
        row = recorded.get(migration.migration_id)
        if row is not None and row.checksum is not None and row.checksum != migration.checksum:
            raise ChecksumMismatchError(migration.migration_id)
    steps = [migration for migration in migrations if migration.migration_id not in recorded]
    newest = max((migration.number for migration in migrations if migration.migration_id in recorded), default=-1)
    expand = [step for step in steps if step.phase == "expand"]
    missing = [step.migration_id for step in expand if unknown or step.number < newest]
    if missing:
        raise MigrationGapError(tuple(missing))
    return tuple(steps)


def _refuse_if_too_old(unknown: Collection[AppliedMigration], version: str | None) -> None:
    too_new = [row for row in unknown if not _may_run(version, row.oldest_code)]
    if not too_new:
        return
    needed = [row.oldest_code for row in too_new if row.oldest_code is not None]
    all_say = len(needed) == len(too_new)
    raise DatabaseAheadError(
        tuple(sorted(row.migration_id for row in unknown)), max(needed, key=_release) if all_say else None
    )


def _may_run(version: str | None, oldest_code: str | None) -> bool:
    if version is None or oldest_code is None:
        return False
    return bool(_release(oldest_code)) and _release(version) >= _release(oldest_code)


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, nothing if it has none. `0.2.0rc1` counts as `0.2.0`."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    release = [int(number) for number in numbers[0].split(".")] if numbers else []
    while release and release[-1] == 0:
        release.pop()
    return tuple(release)
