"""Migration files: numbered, immutable once released, and the only source of a schema."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Literal, TypeAlias, get_args

from .errors import InvalidMigrationError, UnknownMigrationError
from .lexer import code_tokens, is_concurrent, is_transaction, split_statements, within_transaction
from .names import TableNames
from .render import render_sql

__all__ = [
    "Migration",
    "Phase",
    "checksum",
    "join_migrations",
    "load_migrations",
    "parse_migrations",
    "render_migrations",
    "select_migrations",
]

Phase: TypeAlias = Literal["expand", "online", "contract"]
"""Phases of a change of the schema.

`expand` adds what programs of its own release need; those of the release before run on. `online` adds an index, without
which programs are slower and nothing else; where the database can, it builds it while others write. `contract` takes
away what its own release no longer uses, once no earlier program runs.
"""
_PHASES: tuple[Phase, ...] = get_args(Phase)

_ONLINE = ["DROP INDEX CONCURRENTLY", "CREATE INDEX CONCURRENTLY"]
"""The first statements of a migration without a transaction. It makes one index, so that it is done or not done."""
_OLDEST_CODE = re.compile(r"^-- Oldest code: (?P<version>\S+)$", re.MULTILINE)
_FILE_NAME = re.compile(r"(?P<id>(?P<number>\d{4})_[a-z0-9]+(?:_[a-z0-9]+)*)\.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One shipped migration file."""

    migration_id: str
    """The file's name without its ending, as it is recorded in the database."""
    number: int
    sql: str
    """The text of the file: with default table names, unless `render_migrations` has put in others."""
    checksum: str
    """Checksum by which an edited file differs from the released one, whatever names are put in."""
    oldest_code: str | None = None
    """Version of the oldest release that may run on a database with this migration, as its line `-- Oldest code: 0.1.0`
    says. `None` if nothing is said: then no code that does not know the migration may run on it."""

    @property
    def phase(self) -> Phase:
        """The phase that its name begins with, as `0002_contract_drop_remark` does; else `expand`."""
        word = self.migration_id.split("_")[1]
        return next((phase for phase in _PHASES if phase == word), "expand")

    @property
    def transactional(self) -> bool:
        """False if it builds an index while others write, which no transaction can do: send each statement alone.

        A build that was stopped leaves an unusable index behind; sending all statements again mends that.
        """
        return not any(is_concurrent(statement) for statement in split_statements(self.sql))

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements, without BEGIN and COMMIT: for a tool that brings a transaction of its own."""
        return tuple(statement for statement in split_statements(self.sql) if not is_transaction(statement))

    def in_transaction(self) -> Migration:
        """Return it as a transaction of somebody else can run it: an index is built while writers wait."""
        return replace(self, sql=within_transaction(self.sql))


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


def render_migrations(
    migrations: Sequence[Migration], tables: TableNames, *, schema: str | None = None
) -> tuple[Migration, ...]:
    """Return migrations with the user's names in their text. Ids and checksums stay.

    Args:
        migrations: What the package ships.
        tables: The names to put in.
        schema: When given, every table name is qualified with it.
    """
    return tuple(replace(one, sql=render_sql(one.sql, tables, schema=schema)) for one in migrations)


def select_migrations(
    migrations: Sequence[Migration],
    *,
    ids: Sequence[str] | None = None,
    from_id: str | None = None,
    to_id: str | None = None,
) -> tuple[Migration, ...]:
    """Return some of the migrations, in their order.

    Args:
        migrations: What the package ships.
        ids: Only these.
        from_id: Only this one and later ones.
        to_id: Only this one and earlier ones.

    Raises:
        UnknownMigrationError: The package ships no migration of that id.
    """
    known = {migration.migration_id: migration.number for migration in migrations}
    for asked in (*(ids or ()), *(one for one in (from_id, to_id) if one is not None)):
        if asked not in known:
            raise UnknownMigrationError(asked, tuple(known))
    first = 0 if from_id is None else known[from_id]
    last = len(known) if to_id is None else known[to_id]
    return tuple(
        migration
        for migration in migrations
        if first <= migration.number <= last and (ids is None or migration.migration_id in ids)
    )


def join_migrations(migrations: Sequence[Migration], *, transaction: bool = True) -> str:
    """Return migrations as one script.

    Args:
        migrations: Those that are wanted.
        transaction: False for a tool that brings a transaction of its own: without BEGIN and COMMIT, and with indexes
            built while writers wait.
    """
    return "\n".join(one.sql if transaction else one.in_transaction().sql for one in migrations)


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
    oldest = _OLDEST_CODE.search(sql)
    migration = Migration(
        migration_id=match["id"],
        number=int(match["number"]),
        sql=sql,
        checksum=checksum(sql),
        oldest_code=None if oldest is None else oldest["version"],
    )
    _check_online(migration)
    return migration


def _check_online(migration: Migration) -> None:
    """Refuse a file without a transaction that could not be sent again from its start."""
    if migration.transactional:
        return
    begins = [" ".join(code_tokens(statement)[:3]).upper() for statement in split_statements(migration.sql)]
    if migration.phase != "online" or begins[:2] != _ONLINE or [one.split()[0] for one in begins[2:]] != ["INSERT"]:
        raise InvalidMigrationError(
            f"{migration.migration_id}.sql",
            "CONCURRENTLY is for a migration whose phase is online: it drops one index, creates it and records that",
        )
