"""Errors of shipped migration files, of table names, and of a database that they meet.

```text
MigrationError
|- InvalidMigrationError     a shipped migration file has a bad name, a gap or a double    -> fix the package
|- InvalidTableNamesError    the names that a user asked for cannot work                   -> choose others
|- ChecksumMismatchError     a file was edited after it had been applied                   -> restore the file
|- MigrationGapError         the database lacks a migration older than its newest          -> repair the database
|- UnknownMigrationError     the package ships no migration of the id that was asked for    -> use a shipped one
|- DatabaseAheadError        the database has migrations that this package is too old for   -> upgrade the package
`- ReadOnlyTableError        a table for reading was about to be created or dropped         -> use the migrations
```
"""

from __future__ import annotations

__all__ = [
    "ChecksumMismatchError",
    "DatabaseAheadError",
    "InvalidMigrationError",
    "InvalidTableNamesError",
    "MigrationError",
    "MigrationGapError",
    "ReadOnlyTableError",
    "UnknownMigrationError",
]


class MigrationError(Exception):
    """The root of the tree."""


class InvalidMigrationError(MigrationError):
    """A shipped migration file has a bad name, or the numbers have a gap or a double."""

    def __init__(self, file_name: str, problem: str) -> None:
        super().__init__(file_name, problem)
        self.file_name = file_name
        self.problem = problem

    def __str__(self) -> str:
        return f"migration {self.file_name!r}: {self.problem}"


class InvalidTableNamesError(MigrationError):
    """The table names that a user asked for cannot work."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        return f"tables[{self.key!r}]: {self.problem}"


class UnknownMigrationError(MigrationError):
    """The package ships no migration of the id that was asked for."""

    def __init__(self, migration_id: str, known: tuple[str, ...]) -> None:
        super().__init__(migration_id, known)
        self.migration_id = migration_id
        self.known = known

    def __str__(self) -> str:
        return f"there is no migration {self.migration_id!r}; there are {', '.join(self.known)}"


class ChecksumMismatchError(MigrationError):
    """The text of a migration is not what was applied to the database."""

    def __init__(self, migration_id: str) -> None:
        super().__init__(migration_id)
        self.migration_id = migration_id

    def __str__(self) -> str:
        return (
            f"migration {self.migration_id} was applied with another text than this package ships: install the package "
            "unedited. If the edited text was applied, mend the tables and set the checksum of its record to NULL"
        )


class MigrationGapError(MigrationError):
    """The database lacks a migration although it has a later one."""

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__(missing)
        self.missing = missing

    def __str__(self) -> str:
        return (
            f"the database has later migrations but lacks {', '.join(self.missing)}: apply them by hand, "
            f"get_migration_sql(ids={[*self.missing]}) has their SQL"
        )


class DatabaseAheadError(MigrationError):
    """The database has migrations that this package does not know, and it is too old for them."""

    def __init__(self, unknown: tuple[str, ...], needed: str | None = None) -> None:
        super().__init__(unknown, needed)
        self.unknown = unknown
        self.needed = needed
        """Version of the package that may run on the database; `None` if the database does not say."""

    def __str__(self) -> str:
        needed = "" if self.needed is None else f", which need {self.needed} or later"
        return f"the database has migrations unknown to this package{needed}: {', '.join(self.unknown)}"


class ReadOnlyTableError(MigrationError):
    """SQLAlchemy was asked to create or to drop one of the tables that it only reads."""

    def __init__(self, table: str) -> None:
        super().__init__(table)
        self.table = table

    def __str__(self) -> str:
        return (
            f"the table {self.table!r} is here to be read; its store's migrations make it. "
            "Keep these tables in a MetaData of their own"
        )
