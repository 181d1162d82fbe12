"""The tables, described for those who read them: dashboards, diagnostics, reports. Only the store writes to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workflow_migrations import ExcludedTables, TableDefinition, read_table_definitions
from workflow_store_sql import sqlalchemy_tables, table_names

from .schema import get_migrations, schema_name

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

__all__ = ["exclude_workflow_tables", "get_sqlalchemy_tables", "get_table_definitions"]


def get_table_definitions(
    schema: str | None = None, tables: Mapping[str, str] | None = None
) -> tuple[TableDefinition, ...]:
    """Return the names and columns of the tables, as the migrations make them.

    Args:
        schema: The schema of the tables; by default the connection's search_path decides.
        tables: Table names by key, where they are not the defaults.

    Raises:
        ConfigurationError: Names, or a schema, that cannot work.
    """
    return read_table_definitions(get_migrations(), table_names(tables), schema=schema_name(schema))


def get_sqlalchemy_tables(
    metadata: MetaData | None = None,
    schema: str | None = None,
    tables: Mapping[str, str] | None = None,
) -> Mapping[str, Table]:
    """Return the tables as SQLAlchemy's `Table` objects, by key, to be read. It needs the extra `sqlalchemy`.

    Args:
        metadata: Where they are registered. By default one of their own, apart from the tables of your application.
            Creating or dropping them is refused. Alembic needs the hooks of `exclude_workflow_tables` either way.
        schema: The schema of the tables; by default the connection's search_path decides.
        tables: Table names by key, where they are not the defaults.

    Raises:
        ConfigurationError: SQLAlchemy is not installed, or names, or a schema, that cannot work.
    """
    return sqlalchemy_tables("workflow-store-postgres", get_table_definitions(schema, tables), metadata)


def exclude_workflow_tables(schema: str | None = None, tables: Mapping[str, str] | None = None) -> ExcludedTables:
    """Return the hooks for Alembic's `env.py` that leave these tables alone: `include_name` and `include_object`.

    Args:
        schema: Schema of the tables, if the store was given one.
        tables: Table names by key, where they are not the defaults.

    Raises:
        ConfigurationError: Names, or a schema, that cannot work.
    """
    return ExcludedTables.of(table_names(tables), schema_name(schema))
