"""Creating, upgrading and checking the tables. The migration files are the only source of the schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from workflow_migrations import (
    AppliedMigration,
    DatabaseAheadError,
    InvalidTableNamesError,
    Migration,
    MigrationError,
    TableNames,
    load_migrations,
    plan_migrations,
    render_sql,
    split_statements,
)
from workflow_runtime.errors import (
    ConfigurationError,
    ForeignTablesError,
    SchemaAheadError,
    SchemaBehindError,
    SchemaError,
    SchemaMissingError,
    StoreOperationError,
)

from .database import D1PreparedStatement, Row
from .session import REMEDY, Session, json_list

__all__ = ["check_schema", "ensure_schema", "get_migration_sql", "get_migrations", "table_names"]

_PACKAGE = "workflow-store-d1"
_COLUMNS = frozenset({"migration_id", "package_name", "package_version", "checksum", "applied_at"})


@cache
def get_migrations() -> tuple[Migration, ...]:
    """Give the package's migrations in order, with default table names."""
    return load_migrations("workflow_store_d1")


def get_migration_sql(tables: Mapping[str, str] | None = None) -> str:
    """Give all migrations as one script, for your own tools.

    Args:
        tables: Table names by key, where they are not the defaults.
    """
    names = table_names(tables)
    return "\n".join(render_sql(migration.sql, names) for migration in get_migrations())


def table_names(tables: Mapping[str, str] | None) -> TableNames:
    """Take a user's table names.

    Raises:
        ConfigurationError: An unknown key, an unusable name, or one name for two tables.
    """
    try:
        return TableNames.of(tables)
    except InvalidTableNamesError as error:
        raise ConfigurationError(str(error)) from error


async def ensure_schema(session: Session) -> None:
    """Apply what is missing, one migration per unit. Several processes may do this at once."""
    while True:
        _, steps = await _plan(session)
        if not steps:
            return
        try:
            await session.batch(_statements(session, steps[0]))
        except StoreOperationError:
            # Another process may have applied it meanwhile; then there is less to do now.
            _, remaining = await _plan(session)
            if steps[0] in remaining:
                raise


async def check_schema(session: Session) -> None:
    """Raise unless the tables fit this code."""
    applied, steps = await _plan(session)
    if steps and not applied:
        raise SchemaMissingError(REMEDY)
    if steps:
        raise SchemaBehindError(tuple(step.migration_id for step in steps), REMEDY)


def _statements(session: Session, migration: Migration) -> list[D1PreparedStatement]:
    script = split_statements(render_sql(migration.sql, session.tables))
    record = session.statement("record_checksum", migration.migration_id, migration.checksum)
    return [*(session.prepare(statement) for statement in script), record]


async def _plan(session: Session) -> tuple[Sequence[AppliedMigration], tuple[Migration, ...]]:
    """Tell what is applied and what is missing."""
    applied = await _applied(session)
    try:
        return applied, plan_migrations(applied, get_migrations())
    except DatabaseAheadError as error:
        raise SchemaAheadError(error.unknown, f"upgrade {_PACKAGE}") from error
    except MigrationError as error:
        raise SchemaError(str(error)) from error


async def _applied(session: Session) -> Sequence[AppliedMigration]:
    record_table = session.tables.schema_migrations
    names = sorted(session.tables.by_key().values())
    tables, columns = await session.batch(
        [
            session.statement("read_tables", json_list(names)),
            session.statement("read_migration_columns", record_table),
        ]
    )
    present = [row["name"] for row in tables]
    if not columns:
        _refuse_foreign(present, f"there is no table {record_table!r} that says who made it")
        return ()
    if not {row["name"] for row in columns} >= _COLUMNS:
        raise ForeignTablesError(record_table, "its columns are not those of this package")
    applied = await session.rows("read_applied_migrations")
    if not applied:
        others = [name for name in present if name.lower() != record_table.lower()]
        _refuse_foreign(others, f"{record_table!r} says nothing about it")
    return [_read_applied(record_table, row) for row in applied]


def _refuse_foreign(tables: Sequence[str], problem: str) -> None:
    for table in tables:
        raise ForeignTablesError(table, problem)


def _read_applied(record_table: str, row: Row) -> AppliedMigration:
    if row["package_name"] != _PACKAGE:
        raise ForeignTablesError(record_table, f"it records migrations of {row['package_name']!r}")
    return AppliedMigration(migration_id=row["migration_id"], checksum=row["checksum"])
