"""Comparison of the tables that a database has with those that the migrations make."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from workflow_migrations import ColumnDefinition, IndexDefinition, TableDefinition, UniqueDefinition

from .rows import Row

__all__ = ["differences", "leftovers"]


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of the database."""

    columns: dict[str, Row] = field(default_factory=dict)
    indexes: dict[str, Row] = field(default_factory=dict)


def differences(
    definitions: Sequence[TableDefinition], columns: Iterable[Row], indexes: Iterable[Row]
) -> tuple[str, ...]:
    """Return in words what is not as the migrations make it. What is there besides does not matter.

    Args:
        definitions: What the applied migrations make.
        columns: A row for each column of the tables: `table_name`, `column_name`, `column_type`, `nullable`.
        indexes: A row for each of their indexes: `table_name`, `index_name`, `is_unique`, `is_valid`, and
            `index_columns`, the names of its columns with commas between them.
    """
    found = _by_table(columns, indexes)
    told: list[str] = []
    for table in definitions:
        there = found.get(table.name.lower())
        told += _differences_of(table, there) if there is not None else [f"table {table.name!r} is missing"]
    return tuple(told)


def leftovers(
    before: Sequence[TableDefinition],
    after: Sequence[TableDefinition],
    columns: Iterable[Row],
    indexes: Iterable[Row],
) -> tuple[str, ...]:
    """Return in words what a migration takes away and is still there.

    Args:
        before: What the migrations before it make.
        after: What they make together with it.
        columns: As for `differences`.
        indexes: As for `differences`.
    """
    found = _by_table(columns, indexes)
    kept = {table.key: table for table in after}
    told: list[str] = []
    for table in before:
        there, still = found.get(table.name.lower()), kept.get(table.key)
        if there is not None:
            told += [f"table {table.name!r} is still there"] if still is None else _left_in(table, still, there)
    return tuple(told)


def _left_in(before: TableDefinition, after: TableDefinition, there: _Table) -> Iterator[str]:
    columns = {column.name for column in before.columns} - {column.name for column in after.columns}
    indexes = {index.name for index in before.indexes} - {index.name for index in after.indexes}
    for kind, names, found in (("column", columns, there.columns), ("index", indexes, there.indexes)):
        for name in sorted(names):
            if name.lower() in found:
                yield f"table {before.name!r} still has the {kind} {name!r}"


def _by_table(columns: Iterable[Row], indexes: Iterable[Row]) -> dict[str, _Table]:
    # Our names differ in more than case: SQLite may spell them otherwise.
    found: dict[str, _Table] = {}
    for row in columns:
        found.setdefault(row["table_name"].lower(), _Table()).columns[row["column_name"].lower()] = row
    for row in indexes:
        found.setdefault(row["table_name"].lower(), _Table()).indexes[row["index_name"].lower()] = row
    return found


def _differences_of(table: TableDefinition, there: _Table) -> Iterator[str]:
    for column in table.columns:
        yield from _of_column(table.name, column, there.columns.get(column.name.lower()))
    for index in table.indexes:
        yield from _of_index(table.name, index, there.indexes.get(index.name.lower()))
    for unique in table.unique:
        yield from _of_constraint(table.name, unique, there.indexes.values())


def _of_column(table: str, column: ColumnDefinition, there: Row | None) -> Iterator[str]:
    if there is None:
        yield f"table {table!r} lacks the column {column.name!r}"
        return
    if there["column_type"].lower() != column.type.lower():
        yield f"column {column.name!r} of {table!r} is {there['column_type']}, not {column.type}"
    if bool(there["nullable"]) != column.nullable and column.generated is None:
        yield f"column {column.name!r} of {table!r} {'may' if there['nullable'] else 'may not'} be NULL"


def _of_index(table: str, index: IndexDefinition, there: Row | None) -> Iterator[str]:
    if there is None:
        yield f"table {table!r} lacks the index {index.name!r}"
    elif not there["is_valid"]:
        yield f"index {index.name!r} of {table!r} is not valid: drop it and create it again"
    elif bool(there["is_unique"]) != index.unique:
        yield f"index {index.name!r} of {table!r} {'is' if there['is_unique'] else 'is not'} unique"
    elif there["index_columns"] != (wanted := ",".join(index.columns)):
        yield f"index {index.name!r} of {table!r} is on {there['index_columns']}, not on {wanted}"


def _of_constraint(table: str, unique: UniqueDefinition, there: Collection[Row]) -> Iterator[str]:
    wanted = ",".join(unique.columns)
    if not any(row["is_unique"] and row["is_valid"] and row["index_columns"] == wanted for row in there):
        yield f"table {table!r} lacks the unique constraint on {wanted}"
