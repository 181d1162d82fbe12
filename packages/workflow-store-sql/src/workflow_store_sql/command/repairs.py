"""Repairs of what is recorded about the tables. The tables themselves stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from workflow_migrations import Migration, read_table_definitions
from workflow_runtime.store import SchemaDamagedError, SchemaError, SchemaHalfAppliedError

from ..differences import differences, leftovers
from ..schema import chosen_migrations
from ..tables import environment_name
from .look import Look

__all__ = [
    "ChecksumRepair",
    "EnvironmentRepair",
    "RecordRepair",
    "Repair",
    "decide_checksum",
    "decide_environment",
    "decide_record",
]

_CHANGES_ROWS = ("INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRepair:
    """The record of a migration whose effects are there."""

    migration: Migration

    @property
    def description(self) -> str:
        """The change in words."""
        return f"record {self.migration.migration_id}: its effects are all there"

    warning: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksumRepair:
    """The checksum of a migration that is recorded."""

    migration: Migration
    recorded: str | None

    @property
    def description(self) -> str:
        """The change in words."""
        before = "none is recorded" if self.recorded is None else f"{self.recorded} is recorded"
        return f"record the checksum {self.migration.checksum} of {self.migration.migration_id}; {before}"

    @property
    def warning(self) -> str | None:
        """The risk in words."""
        if self.recorded is None:
            return None
        return (
            f"{self.migration.migration_id} was applied with another text than this package ships. The comparison of "
            "tables, columns and indexes has found no difference, but it does not see everything"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRepair:
    """The mark of the tables."""

    environment: str | None
    recorded: tuple[str, ...]

    @property
    def description(self) -> str:
        """The change in words."""
        before = ", ".join(map(repr, self.recorded)) or "no mark"
        change = "take the mark away" if self.environment is None else f"mark the tables with {self.environment!r}"
        return f"{change}; before: {before}"

    @property
    def warning(self) -> str | None:
        """The risk in words."""
        if not self.recorded:
            return None
        return "programs of the environment that is recorded will refuse the tables, and others will work on them"


Repair: TypeAlias = RecordRepair | ChecksumRepair | EnvironmentRepair


def decide_record(look: Look, migration_id: str) -> RecordRepair | None:
    """Return the record that lacks, or `None` if it is there.

    Raises:
        ConfigurationError: There is no such migration.
        SchemaDamagedError: Some of its effects are not there.
        SchemaError: The tables are not ours, or earlier records lack.
    """
    migration = _chosen(look, migration_id)
    recorded = _recorded(look)
    if migration_id in recorded:
        return None
    earlier = [one for one in look.missing() if one.number < migration.number and one.phase == "expand"]
    if earlier:
        raise SchemaError(f"{earlier[0].migration_id} is not recorded, which comes before {migration_id}")
    if any(_changes_rows(statement) for statement in migration.statements[:-1]):
        raise SchemaError(f"{migration_id} changes rows, and whether it did cannot be seen")
    _check_effects(look, recorded, migration)
    return RecordRepair(migration=migration)


def decide_checksum(look: Look, migration_id: str) -> ChecksumRepair | None:
    """Return the checksum that lacks or differs, or `None` if it is as it should be.

    Raises:
        ConfigurationError: There is no such migration.
        SchemaDamagedError: The tables are not as the recorded migrations make them.
        SchemaError: The tables are not ours, or the migration is not recorded.
    """
    migration = _chosen(look, migration_id)
    applied = look.applied()
    checksums = {row.migration_id: row.checksum for row in applied}
    if migration_id not in checksums:
        raise SchemaError(f"{migration_id} is not recorded")
    if checksums[migration_id] == migration.checksum:
        return None
    look.schema.compare(applied, look.columns, look.indexes, look.faults)
    return ChecksumRepair(migration=migration, recorded=checksums[migration_id])


def decide_environment(look: Look, environment: str | None) -> EnvironmentRepair | None:
    """Return the mark that is wanted, or `None` if it is there.

    Raises:
        ConfigurationError: An unusable name.
        SchemaError: The tables are not ours, not there, or older than marks.
    """
    environment = environment_name(environment)
    if not look.applied():
        look.check()  # which says that there are none
    if look.environments == (() if environment is None else (environment,)):
        return None
    record_table = look.schema.tables.schema_migrations.lower()
    if not any(row["table_name"].lower() == record_table and row["column_name"] == "environment" for row in look.found):
        raise SchemaError(f"these tables cannot be marked yet: {look.schema.remedy}")
    return EnvironmentRepair(environment=environment, recorded=look.environments)


def _chosen(look: Look, migration_id: str) -> Migration:
    (migration,) = chosen_migrations(look.schema.migrations, ids=[migration_id], from_id=None, to_id=None)
    return migration


def _recorded(look: Look) -> set[str]:
    """Return what is recorded; nothing where the first record is the one that lacks."""
    try:
        return {row.migration_id for row in look.applied()}
    except SchemaHalfAppliedError:
        return set()


def _changes_rows(statement: str) -> bool:
    code = [line for line in statement.splitlines() if not line.lstrip().startswith("--")]
    return "\n".join(code).strip().upper().startswith(_CHANGES_ROWS)


def _check_effects(look: Look, recorded: set[str], migration: Migration) -> None:
    """Raise unless what a migration makes is there, and what it takes away is gone."""
    schema = look.schema

    def definitions(*also: str) -> Sequence[Migration]:
        return [one for one in schema.migrations if one.migration_id in {*recorded, *also}]

    before = read_table_definitions(definitions(), schema.tables)
    after = read_table_definitions(definitions(migration.migration_id), schema.tables)
    known = differences(before, look.columns, look.indexes)  # another repair's business
    lacks = [told for told in differences(after, look.columns, look.indexes) if told not in known]
    problems = (*lacks, *leftovers(before, after, look.columns, look.indexes))
    if problems:
        raise SchemaDamagedError(
            problems, f"{migration.migration_id} is not recorded, and was not applied as a whole; "
        )
