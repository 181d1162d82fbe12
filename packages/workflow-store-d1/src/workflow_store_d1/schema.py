"""Creating, upgrading and checking the tables. The migration files are the only source of the schema."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache

from workflow_migrations import AppliedMigration, Migration, join_migrations, load_migrations, render_migrations
from workflow_runtime.store import SchemaError, SchemaMissingError, StoreOperationError, get_logger, one_line
from workflow_store_sql import Schema, chosen_migrations, table_names

from ._version import __version__
from .database import D1PreparedStatement, Row
from .statement_sender import REMEDY, StatementSender, json_list

__all__ = ["check_schema", "ensure_schema", "get_migration_sql", "get_migrations", "shipped_schema"]

logger: logging.Logger = get_logger("workflow_store_d1")


def get_migrations(tables: Mapping[str, str] | None = None) -> tuple[Migration, ...]:
    """Return the package's migrations in order: each with its id, text and statements.

    A released migration never changes, so a revision of your migration tool may name one by its id.

    Args:
        tables: Table names by key, where they are not the defaults.

    Raises:
        ConfigurationError: Names that cannot work.
    """
    return render_migrations(_shipped(), table_names(tables))


@cache
def _shipped() -> tuple[Migration, ...]:
    return load_migrations("workflow_store_d1")


def get_migration_sql(
    tables: Mapping[str, str] | None = None,
    *,
    ids: Sequence[str] | None = None,
    from_id: str | None = None,
    to_id: str | None = None,
    transaction: bool = False,
) -> str:
    """Return migrations as one script, for your own tools; by default all of them.

    Args:
        tables: Table names by key, where they are not the defaults.
        ids: Only these migrations.
        from_id: Only this migration and later ones.
        to_id: Only this migration and earlier ones.
        transaction: True to put each migration into a transaction, for a SQLite file. D1 refuses BEGIN.

    Raises:
        ConfigurationError: Names or an id that cannot work.
    """
    chosen = chosen_migrations(get_migrations(tables), ids=ids, from_id=from_id, to_id=to_id)
    if transaction:
        chosen = tuple(replace(one, sql=f"BEGIN IMMEDIATE;\n\n{one.sql}\nCOMMIT;\n") for one in chosen)
    return join_migrations(chosen)


async def ensure_schema(sender: StatementSender, environment: str | None, *, contract: bool, online: bool) -> None:
    """Apply what is missing: new tables in one batch, each later migration in one. Several may do this at once.

    Args:
        sender: Where statements go.
        environment: What the program is of, and what new tables are marked with.
        contract: Whether to apply contract migrations to tables that are in use. New ones get everything.
        online: Whether to apply migrations without which programs are slower and nothing else.
    """
    schema = shipped_schema(sender, environment)
    applied = await _read_applied(sender, schema)
    while unit := schema.next_unit(applied, contract=contract, online=online):
        refusal: StoreOperationError | SchemaMissingError | None = None
        try:
            logger.info("applying %s", one_line(", ".join(migration.migration_id for migration in unit)))
            statements = [one for migration in unit for one in _statements(sender, migration)]
            await sender.batch([*statements, *_mark(sender, schema, unit)])
        except (StoreOperationError, SchemaMissingError) as error:
            refusal = error
        applied = await _read_applied(sender, schema)
        # Another process may have applied it meanwhile; then there is less to do now.
        if refusal is not None and unit[0] in schema.missing(applied):
            if applied:
                (rendered,) = render_migrations(unit[:1], sender.tables)
                found = await _read_tables(sender)
                schema.refuse_half_applied(unit[0], rendered.statements, applied, *found)
            raise refusal


async def check_schema(sender: StatementSender, environment: str | None, *, deep: bool) -> None:
    """Raise unless the tables fit this code; when `deep`, also unless they are as the migrations make them."""
    schema = shipped_schema(sender, environment)
    if not deep:
        with suppress(SchemaError, StoreOperationError):  # which say less than a closer look
            if schema.fits(await sender.rows("read_applied_migrations")):
                return
    applied = await _read_applied(sender, schema)
    schema.check(applied)
    if deep:
        schema.compare(applied, *await _read_tables(sender))


def shipped_schema(sender: StatementSender, environment: str | None) -> Schema:
    """Return the tables as the package ships them."""
    return Schema(
        distribution="workflow-store-d1",
        version=__version__,
        migrations=get_migrations(),
        tables=sender.tables,
        remedy=REMEDY,
        environment=environment,
    )


def _statements(sender: StatementSender, migration: Migration) -> list[D1PreparedStatement]:
    (rendered,) = render_migrations([migration], sender.tables)
    record = sender.statement("record_checksum", migration.migration_id, migration.checksum)
    return [*(sender.prepare(statement) for statement in rendered.statements), record]


def _mark(sender: StatementSender, schema: Schema, unit: Sequence[Migration]) -> list[D1PreparedStatement]:
    """Return what marks new tables with their environment."""
    if unit[0].number or schema.environment is None:
        return []
    return [sender.statement("mark_environment", schema.environment)]


async def _read_tables(sender: StatementSender) -> tuple[Sequence[Row], Sequence[Row]]:
    """Return the columns and the indexes of our tables."""
    names = json_list(sorted(sender.tables.by_key().values()))
    columns, indexes = await sender.batch(
        [sender.statement("read_columns", names), sender.statement("read_indexes", names)]
    )
    return columns, indexes


async def _read_applied(sender: StatementSender, schema: Schema) -> Sequence[AppliedMigration]:
    names = sorted(sender.tables.by_key().values())
    found = await sender.rows("read_tables", json_list(names))
    if not schema.is_ours(found):
        return ()
    return schema.applied(found, await sender.rows("read_applied_migrations"))
