"""The tables as SQLAlchemy knows them, to be read with its expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .definitions import TableDefinition
from .errors import ReadOnlyTableError

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

__all__ = ["make_sqlalchemy_tables"]


def make_sqlalchemy_tables(
    definitions: Sequence[TableDefinition], metadata: MetaData | None = None
) -> Mapping[str, Table]:
    """Make a `Table` of each definition, by key. Creating or dropping them through SQLAlchemy is refused.

    Args:
        definitions: What `read_table_definitions` gave.
        metadata: Where they are registered; by default one of their own, which keeps them away from the tables that
            your application creates, and from Alembic.

    Raises:
        ImportError: SQLAlchemy is not installed.
        ReadOnlyTableError: Later, when somebody creates or drops one.
    """
    import sqlalchemy  # noqa: PLC0415  # an extra: everything else works without it

    types = {
        "bigint": sqlalchemy.BigInteger,
        "boolean": sqlalchemy.Boolean,
        "integer": sqlalchemy.Integer,
        "json": sqlalchemy.JSON,
        "smallint": sqlalchemy.SmallInteger,
        "text": sqlalchemy.Text,
    }
    registry = sqlalchemy.MetaData() if metadata is None else metadata
    made = {}
    for definition in definitions:
        columns = [
            sqlalchemy.Column(
                column.name, types[column.type.lower()](), nullable=column.nullable, primary_key=column.primary_key
            )
            for column in definition.columns
        ]
        table = sqlalchemy.Table(
            definition.name, registry, *columns, schema=definition.schema, comment=definition.comment
        )
        for change in ("before_create", "before_drop"):
            sqlalchemy.event.listen(table, change, _refuse)
        made[definition.key] = table
    return made


def _refuse(table: Table, *_: Any, **__: Any) -> None:
    raise ReadOnlyTableError(table.name)
