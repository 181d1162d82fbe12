"""The state of a database's tables: whose they are, what is applied, and what is missing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from workflow_migrations import (
    AppliedMigration,
    DatabaseAheadError,
    Migration,
    MigrationError,
    TableNames,
    UnknownMigrationError,
    plan_migrations,
    quote_identifier,
    read_table_definitions,
    select_migrations,
)
from workflow_runtime.store import (
    ConfigurationError,
    ForeignTablesError,
    SchemaAheadError,
    SchemaBehindError,
    SchemaDamagedError,
    SchemaError,
    SchemaHalfAppliedError,
    SchemaMissingError,
    SchemaUnrecordedError,
    WrongEnvironmentError,
    get_logger,
    one_line,
)

from .differences import differences
from .half_applied import statements_done
from .rows import Row

__all__ = ["Schema", "chosen_migrations"]

logger: logging.Logger = get_logger("workflow_store_sql")

_COLUMNS = frozenset({"migration_id", "package_name", "package_version", "oldest_code", "checksum", "applied_at"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The tables as a store ships them, to be compared with what a database has.

    Args:
        distribution: The store, as it records its migrations.
        version: Its version: an older one may run on the tables of a newer one while these say so.
        migrations: What it ships.
        tables: The names of its tables.
        remedy: What to do when something is missing.
        place: Where they are, in words, if a database has more than one place for them.
        environment: Environment that the program is of, if it says so.
    """

    distribution: str
    version: str
    migrations: Sequence[Migration]
    tables: TableNames
    remedy: str
    place: str | None = None
    environment: str | None = None

    def fits(self, records: Sequence[Row]) -> bool:
        """Return True if nothing is needed, by the rows of the table of the migrations, and nothing is wrong.

        Whoever gets False looks closer, and raises what is the matter.
        """
        if not records:
            return False
        try:
            applied = self.applied((), records)
            self.check(applied)
        except SchemaError:
            return False
        return True

    def is_ours(self, found: Iterable[Row]) -> bool:
        """Return whether the table of the migrations is there.

        Args:
            found: A row for each column of what has a name of our tables, with `table_name` and `column_name`.

        Raises:
            ForeignTablesError: Tables of these names are there, and this package did not make them.
        """
        present = _columns_by_table(found)
        record_table = self.tables.schema_migrations
        # Where case does not count, the database may spell it otherwise.
        columns = next((present[name] for name in present if name.lower() == record_table.lower()), None)
        if columns is None:
            self._refuse(present, f"there is no table {record_table!r} that says who made it")
            return False
        if not columns >= _COLUMNS:
            self._refuse([record_table], "its columns are not those of this package")
        return True

    def has_records(self, found: Iterable[Row]) -> bool:
        """Return whether the rows of the table of the migrations can be read, whoever's the tables are.

        Args:
            found: As for `is_ours`.
        """
        try:
            return self.is_ours(found)
        except ForeignTablesError:
            return False

    def applied(self, found: Iterable[Row], records: Sequence[Row]) -> Sequence[AppliedMigration]:
        """Return what was applied, by the rows of the table of the migrations.

        Args:
            found: As for `is_ours`.
            records: The rows.

        Raises:
            ForeignTablesError: Another package's migrations, or tables that none of ours made.
            SchemaHalfAppliedError: Tables as ours make them, and no record.
        """
        record_table = self.tables.schema_migrations
        if not records:
            self._refuse_unrecorded(_columns_by_table(found))
        for record in records:
            if record["package_name"] != self.distribution:
                self._refuse([record_table], f"it records migrations of {record['package_name']!r}")
        return [
            AppliedMigration(
                migration_id=row["migration_id"],
                checksum=row["checksum"],
                oldest_code=row["oldest_code"],
                environment=row.get("environment"),  # which 0000 has no column for
            )
            for row in records
        ]

    def _refuse_unrecorded(self, present: Mapping[str, Collection[str]]) -> None:
        record_table = self.tables.schema_migrations
        made = {table.name.lower(): table for table in read_table_definitions(self.migrations, self.tables)}
        unrecorded = sorted(name for name in present if name.lower() != record_table.lower())
        for name in unrecorded:
            if set(present[name]) != {column.name for column in made[name.lower()].columns if not column.generated}:
                self._refuse([name], f"{record_table!r} says nothing about it")
        # A table of the migrations that is alone and empty is where the first one begins; it cannot begin twice.
        raise SchemaHalfAppliedError((*unrecorded, record_table), self._looked())

    def missing(self, applied: Sequence[AppliedMigration]) -> tuple[Migration, ...]:
        """Return what is to be applied, in order.

        Raises:
            SchemaAheadError: The database is newer than this package, which is too old for it.
            SchemaError: A migration was applied with another text, or left out.
        """
        try:
            return plan_migrations(applied, self.migrations, version=self.version)
        except DatabaseAheadError as error:
            needed = "" if error.needed is None else f" to {error.needed} or later; this is {self.version}"
            raise SchemaAheadError(error.unknown, f"{self._looked()}upgrade {self.distribution}{needed}") from error
        except MigrationError as error:
            raise SchemaError(f"{self._looked()}{error}") from error

    def check_environment(self, applied: Sequence[AppliedMigration]) -> None:
        """Raise if the tables belong to another environment.

        Raises:
            WrongEnvironmentError: They do: somebody has restored a copy of them here.
        """
        for recorded in sorted(_environments(applied)):
            if recorded != self.environment:
                raise WrongEnvironmentError(recorded, self.environment, self._looked())

    def needed(self, applied: Sequence[AppliedMigration]) -> tuple[Migration, ...]:
        """Return what is to be applied before this package can run: the missing migrations that expand.

        Raises:
            SchemaError: As `missing`.
        """
        return tuple(one for one in self.missing(applied) if one.phase == "expand")

    def next_unit(
        self, applied: Sequence[AppliedMigration], *, contract: bool, online: bool = True
    ) -> tuple[Migration, ...]:
        """Return what is to be applied next, as one unit; nothing if nothing is left.

        New tables have no earlier programs, so they get every migration, and at once: whoever finds tables must take
        them for used. Tables in use get what expands first, so that programs can start; what contracts comes last.

        Args:
            applied: What was applied.
            contract: Whether to apply contract migrations to tables that are in use, and before them the online ones.
            online: Whether to apply online migrations to such tables.

        Raises:
            SchemaError: As `missing`.
            WrongEnvironmentError: As `check_environment`.
        """
        self.check_environment(applied)
        missing = self.missing(applied)
        if not applied:
            return missing
        phases = ("expand", *(["online"] if online or contract else []), *(["contract"] if contract else []))
        return tuple(one for phase in phases for one in missing if one.phase == phase)[:1]

    def check(self, applied: Sequence[AppliedMigration]) -> None:
        """Raise unless everything is applied that this package needs.

        Raises:
            SchemaMissingError: There are no tables.
            SchemaBehindError: Some migrations are missing.
            SchemaError: As `missing`.
            WrongEnvironmentError: As `check_environment`.
        """
        self.check_environment(applied)
        missing = self.needed(applied)
        if missing and not applied:
            raise SchemaMissingError(self._looked() + self.remedy)
        if missing:
            raise SchemaBehindError(
                tuple(migration.migration_id for migration in missing), self._looked() + self.remedy
            )
        if self.environment is not None and not _environments(applied):
            table = quote_identifier(self.tables.schema_migrations)
            logger.warning(
                "%sthe tables do not say that they belong to the environment %r, so a copy of them would not either: "
                "mark them with UPDATE %s SET environment = '...'",
                one_line(self._looked()),
                one_line(self.environment),
                one_line(table),
            )

    def compare(
        self,
        applied: Sequence[AppliedMigration],
        columns: Iterable[Row],
        indexes: Iterable[Row],
        faults: Iterable[str] = (),
    ) -> None:
        """Raise unless the tables are as the applied migrations make them.

        Args:
            applied: What was applied.
            columns: As for `differences`.
            indexes: As for `differences`.
            faults: What else is wrong with them, in words.

        Raises:
            SchemaDamagedError: Something is missing or changed.
        """
        definitions = read_table_definitions(self._known(applied), self.tables)
        problems = (*differences(definitions, columns, indexes), *faults)
        if problems:
            raise SchemaDamagedError(problems, self._looked())

    def refuse_half_applied(
        self,
        migration: Migration,
        statements: Sequence[str],
        applied: Sequence[AppliedMigration],
        columns: Iterable[Row],
        indexes: Iterable[Row],
    ) -> None:
        """Raise if a migration of tables that are in use, which failed just now, was applied in part before.

        Args:
            migration: As the package ships it.
            statements: Its statements as this database gets them.
            applied: What was applied.
            columns: As for `differences`.
            indexes: As for `differences`.

        Raises:
            SchemaUnrecordedError: It was, by a tool without a transaction.
        """
        done = statements_done(self._known(applied), migration, self.tables, columns, indexes)
        if done:
            raise SchemaUnrecordedError(migration.migration_id, tuple(statements[done:]), self._looked())

    def _known(self, applied: Sequence[AppliedMigration]) -> list[Migration]:
        recorded = {row.migration_id for row in applied}
        return [migration for migration in self.migrations if migration.migration_id in recorded]

    def _refuse(self, tables: Iterable[str], problem: str) -> None:
        for table in tables:
            raise ForeignTablesError(table, self._looked() + problem)

    def _looked(self) -> str:
        return "" if self.place is None else f"looked in {self.place}; "


def _environments(applied: Sequence[AppliedMigration]) -> set[str]:
    return {row.environment for row in applied if row.environment is not None}


def _columns_by_table(found: Iterable[Row]) -> Mapping[str, set[str]]:
    columns: dict[str, set[str]] = {}
    for row in found:
        of_table = columns.setdefault(row["table_name"], set())
        if row["column_name"] is not None:
            of_table.add(row["column_name"])
    return columns


def chosen_migrations(
    migrations: Sequence[Migration], *, ids: Sequence[str] | None, from_id: str | None, to_id: str | None
) -> tuple[Migration, ...]:
    """Return the migrations that a user asked for, as `select_migrations` does.

    Raises:
        ConfigurationError: An id that the package does not ship.
    """
    try:
        return select_migrations(migrations, ids=ids, from_id=from_id, to_id=to_id)
    except UnknownMigrationError as error:
        raise ConfigurationError(str(error)) from error
