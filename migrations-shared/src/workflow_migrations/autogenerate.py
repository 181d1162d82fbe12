"""Keeping the tables out of what Alembic generates: they are not the application's to create, change or drop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .names import TableNames
from .partitions import partition_names
from .sqlalchemy_tables import INFO_KEY

__all__ = ["ExcludedTables", "exclude_workflow_tables"]


@dataclass(frozen=True, slots=True)
class ExcludedTables:
    """The two hooks of Alembic's `context.configure` that leave the workflow tables alone. Give it both.

    `include_name` keeps the tables of the database from being read. `include_object` leaves out those that stand in the
    application's `MetaData`, and never lets a table of these names be dropped.
    """

    names: frozenset[str]
    schema: str | None = None
    """`None` for whatever schema they are in."""

    @classmethod
    def of(cls, tables: TableNames, schema: str | None = None) -> Self:
        """Return the hooks for tables of these names, and for partitions of them."""
        return cls(frozenset(tables.by_key().values()) | partition_names(tables), schema)

    def include_name(self, name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
        """Return False for a workflow table of the database.

        Args:
            name: Name of what was found there.
            type_: Its kind: "schema", "table", "column" and so on.
            parent_names: What it belongs to; of a table "schema_name", `None` for the connection's default schema.
        """
        if type_ != "table" or name not in self.names:
            return True
        return self.schema is not None and parent_names.get("schema_name") != self.schema

    def include_object(self, object: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
        """Return False for a workflow table, wherever it was found.

        Args:
            object: What is compared: of a table SQLAlchemy's `Table`.
            name: Its name.
            type_: Its kind: "table", "column", "index" and so on.
            reflected: True if it was found in the database, False if in the `MetaData`.
            compare_to: Its counterpart on the other side; `None` if there is none.
        """
        if type_ != "table":
            return True
        if any(INFO_KEY in table.info for table in (object, compare_to) if table is not None):
            return False
        would_be_dropped = reflected and compare_to is None
        if not would_be_dropped or name not in self.names:
            return True
        # The connection's default schema has no name here, and may be ours.
        return self.schema is not None and object.schema not in {None, self.schema}


def exclude_workflow_tables(tables: Mapping[str, str] | None = None, schema: str | None = None) -> ExcludedTables:
    """Return the hooks for Alembic's `env.py` that leave the workflow tables alone.

    Args:
        tables: Table names by key, where they are not the defaults.
        schema: Schema of the tables, if the store was given one.

    Raises:
        InvalidTableNamesError: An unknown key, an unusable name, or one name for two tables.
    """
    return ExcludedTables.of(TableNames.of(tables), schema)
