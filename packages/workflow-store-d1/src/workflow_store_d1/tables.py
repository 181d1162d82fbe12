"""The tables, described for those who read them: dashboards, diagnostics, reports. Only the store writes to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workflow_migrations import TableDefinition, make_sqlalchemy_tables, read_table_definitions
from workflow_runtime.errors import ConfigurationError

from .schema import get_migrations, table_names

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

__all__ = ["get_sqlalchemy_tables", "get_table_definitions"]


def get_table_definitions(tables: Mapping[str, str] | None = None) -> tuple[TableDefinition, ...]:
    """Tell the names and columns of the tables, as the migrations make them.

    Args:
        tables: Table names by key, where they are not the defaults.

    Raises:
        ConfigurationError: Names that cannot work.
    """
    return read_table_definitions(get_migrations(), table_names(tables))


def get_sqlalchemy_tables(
    metadata: MetaData | None = None, tables: Mapping[str, str] | None = None
) -> Mapping[str, Table]:
    """Give the tables as SQLAlchemy's `Table` objects, by key, to be read. It needs the extra `sqlalchemy`.

    Args:
        metadata: Where they are registered. By default one of their own, which keeps them away from the tables that
            your application creates, and from Alembic. Creating or dropping them is refused.
        tables: Table names by key, where they are not the defaults.

    Raises:
        ConfigurationError: SQLAlchemy is not installed, or names that cannot work.
    """
    try:
        return make_sqlalchemy_tables(get_table_definitions(tables), metadata)
    except ImportError as error:
        raise ConfigurationError(
            'SQLAlchemy is not installed: `pip install "workflow-store-d1[sqlalchemy]"`'
        ) from error
