"""The names that a user gives the tables and their environment, and the tables as SQLAlchemy sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from workflow_migrations import InvalidTableNamesError, TableDefinition, TableNames, make_sqlalchemy_tables
from workflow_runtime.store import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

__all__ = ["environment_name", "sqlalchemy_tables", "table_names"]


def table_names(tables: Mapping[str, str] | None) -> TableNames:
    """Return the names that a user chose, with the defaults for the others.

    Raises:
        ConfigurationError: An unknown key, an unusable name, or one name for two tables.
    """
    try:
        return TableNames.of(tables)
    except InvalidTableNamesError as error:
        raise ConfigurationError(str(error)) from error


def environment_name(environment: object) -> str | None:
    """Return the environment that a user gave.

    Raises:
        ConfigurationError: An unusable name.
    """
    if environment is None:
        return None
    is_name = isinstance(environment, str) and environment.isprintable() and environment.strip() == environment != ""
    if not isinstance(environment, str) or not is_name:
        raise ConfigurationError(f"environment: {environment!r} is not a name such as 'production'")
    return environment


def sqlalchemy_tables(
    distribution: str, definitions: Sequence[TableDefinition], metadata: MetaData | None
) -> Mapping[str, Table]:
    """Return the tables of a store as SQLAlchemy's `Table` objects, by key.

    Raises:
        ConfigurationError: SQLAlchemy is not installed; it names the distribution whose extra brings it.
    """
    try:
        return make_sqlalchemy_tables(definitions, metadata)
    except ImportError as error:
        raise ConfigurationError(f'SQLAlchemy is not installed: `pip install "{distribution}[sqlalchemy]"`') from error
