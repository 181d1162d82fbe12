"""Migration files: numbered, immutable once released, and the only source of a schema."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from .errors import InvalidMigrationError

__all__ = ["Migration", "checksum", "load_migrations", "parse_migrations"]

_FILE_NAME = re.compile(r"(?P<id>(?P<number>\d{4})_[a-z0-9]+(?:_[a-z0-9]+)*)\.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One shipped migration file."""

    migration_id: str
    """The file's name without its ending, as it is recorded in the database."""
    number: int
    sql: str
    """The text, with default table names."""
    checksum: str
    """Checksum by which an edited file differs from the released one."""


def load_migrations(package: str, folder: str = "migrations") -> tuple[Migration, ...]:
    """Read the migration files of an installed package.

    Args:
        package: The import name.
        folder: The folder inside the package; files that do not end in `.sql` are none of ours.

    Raises:
        InvalidMigrationError: A name, a gap or a double.
    """
    directory = resources.files(package).joinpath(folder)
    return parse_migrations(
        {entry.name: entry.read_text(encoding="utf-8") for entry in directory.iterdir() if entry.name.endswith(".sql")}
    )


def parse_migrations(files: Mapping[str, str]) -> tuple[Migration, ...]:
    """Order files by number and refuse what is not a gapless series from 0000.

    Args:
        files: Text by file name.

    Raises:
        InvalidMigrationError: A name, a gap or a double.
    """
    migrations = [_parse(file_name, files[file_name]) for file_name in sorted(files)]
    for expected, migration in enumerate(migrations):
        if migration.number < expected:
            raise InvalidMigrationError(f"{migration.migration_id}.sql", "another file has the same number")
        if migration.number > expected:
            raise InvalidMigrationError(f"{migration.migration_id}.sql", f"number {expected:04} is missing before it")
    return tuple(migrations)


def checksum(sql: str) -> str:
    """Hash a migration's text. What editors and version control change by themselves does not count."""
    lines = [line.rstrip() for line in sql.splitlines()]
    return hashlib.sha256("\n".join(lines).strip().encode("utf-8")).hexdigest()


def _parse(file_name: str, sql: str) -> Migration:
    match = _FILE_NAME.fullmatch(file_name)
    if match is None:
        raise InvalidMigrationError(file_name, "must be named like 0001_what_it_does.sql")
    if not sql.strip():
        raise InvalidMigrationError(file_name, "is empty")
    return Migration(migration_id=match["id"], number=int(match["number"]), sql=sql, checksum=checksum(sql))
