"""The tables as SQLAlchemy knows them, to be read with its expressions."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .definitions import ColumnDefinition, IndexDefinition, TableDefinition
from .errors import ReadOnlyTableError

if TYPE_CHECKING:
    from sqlalchemy import Column, Index, MetaData, Table

__all__ = ["INFO_KEY", "make_sqlalchemy_tables"]

INFO_KEY = "workflow_table"
"""Key in `Table.info` under which each of these tables says which one it is."""


def make_sqlalchemy_tables(
    definitions: Sequence[TableDefinition], metadata: MetaData | None = None
) -> Mapping[str, Table]:
    """Make a `Table` of each definition, by key, with its indexes and constraints.

    Creating or dropping them through SQLAlchemy is refused: the migrations do that.

    Args:
        definitions: What `read_table_definitions` gave.
        metadata: Where they are registered; by default one of their own, apart from the tables of your application.

    Raises:
        ImportError: SQLAlchemy is not installed.
        ReadOnlyTableError: Later, when somebody creates or drops one.
    """
    import sqlalchemy  # noqa: PLC0415  # an extra: everything else works without it

    registry = sqlalchemy.MetaData() if metadata is None else metadata
    made = {}
    for definition in definitions:
        table = sqlalchemy.Table(
            definition.name,
            registry,
            *(_column(column) for column in definition.columns),
            *(sqlalchemy.UniqueConstraint(*one.columns, name=one.name) for one in definition.unique),
            *(_index(index, {column.name for column in definition.columns}) for index in definition.indexes),
            schema=definition.schema,
            info={INFO_KEY: definition.key},
        )
        for change in ("before_create", "before_drop"):
            sqlalchemy.event.listen(table, change, _refuse)
        made[definition.key] = table
    return made


def _column(column: ColumnDefinition) -> Column[Any]:
    import sqlalchemy  # noqa: PLC0415

    types = {
        "bigint": sqlalchemy.BigInteger,
        "boolean": sqlalchemy.Boolean,
        "integer": sqlalchemy.Integer,
        "json": sqlalchemy.JSON,
        "smallint": sqlalchemy.SmallInteger,
        "text": sqlalchemy.Text,
    }
    computed = () if column.generated is None else (sqlalchemy.Computed(column.generated, persisted=column.stored),)
    return sqlalchemy.Column(
        column.name,
        types[column.type.lower()](),
        *computed,
        nullable=column.nullable,
        primary_key=column.primary_key,
        server_default=None if column.default is None else sqlalchemy.text(column.default),
    )


def _index(index: IndexDefinition, columns: Container[str]) -> Index:
    import sqlalchemy  # noqa: PLC0415

    where = None if index.where is None else sqlalchemy.text(index.where)
    parts = [text if text in columns else sqlalchemy.text(text) for text in index.columns]
    return sqlalchemy.Index(index.name, *parts, unique=index.unique, postgresql_where=where, sqlite_where=where)


def _refuse(table: Table, *_: Any, **__: Any) -> None:
    raise ReadOnlyTableError(table.name)
