"""Creating, upgrading and checking the tables. The migration files are the only source of the schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from workflow_migrations import AppliedMigration, Migration, load_migrations, render_sql, split_statements
from workflow_runtime.store import StoreOperationError
from workflow_store_sql import Schema, table_names

from .database import D1PreparedStatement
from .statement_sender import REMEDY, StatementSender, json_list

__all__ = ["check_schema", "ensure_schema", "get_migration_sql", "get_migrations"]


@cache
def get_migrations() -> tuple[Migration, ...]:
    """Return the package's migrations in order, with default table names."""
    return load_migrations("workflow_store_d1")


def get_migration_sql(tables: Mapping[str, str] | None = None) -> str:
    """Return all migrations as one script, for your own tools.

    Args:
        tables: Table names by key, where they are not the defaults.
    """
    names = table_names(tables)
    return "\n".join(render_sql(migration.sql, names) for migration in get_migrations())


async def ensure_schema(sender: StatementSender) -> None:
    """Apply what is missing, one migration per batch. Several processes may do this at once."""
    schema = _schema(sender)
    while steps := schema.missing(await _read_applied(sender, schema)):
        try:
            await sender.batch(_statements(sender, steps[0]))
        except StoreOperationError:
            # Another process may have applied it meanwhile; then there is less to do now.
            if steps[0] in schema.missing(await _read_applied(sender, schema)):
                raise


async def check_schema(sender: StatementSender) -> None:
    """Raise unless the tables fit this code."""
    schema = _schema(sender)
    schema.check(await _read_applied(sender, schema))


def _schema(sender: StatementSender) -> Schema:
    return Schema(distribution="workflow-store-d1", migrations=get_migrations(), tables=sender.tables, remedy=REMEDY)


def _statements(sender: StatementSender, migration: Migration) -> list[D1PreparedStatement]:
    script = split_statements(render_sql(migration.sql, sender.tables))
    record = sender.statement("record_checksum", migration.migration_id, migration.checksum)
    return [*(sender.prepare(statement) for statement in script), record]


async def _read_applied(sender: StatementSender, schema: Schema) -> Sequence[AppliedMigration]:
    names = sorted(sender.tables.by_key().values())
    tables, columns = await sender.batch(
        [
            sender.statement("read_tables", json_list(names)),
            sender.statement("read_migration_columns", sender.tables.schema_migrations),
        ]
    )
    present = [row["name"] for row in tables]
    if not schema.is_ours(present, [row["name"] for row in columns]):
        return ()
    return schema.applied(present, await sender.rows("read_applied_migrations"))
