"""Traces of a migration that a tool without a transaction left in the middle, in what the tables are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from workflow_migrations import Migration, TableDefinition, TableNames, read_table_definitions

from .differences import differences
from .rows import Row

__all__ = ["statements_done"]


def statements_done(
    before: Sequence[Migration],
    migration: Migration,
    tables: TableNames,
    columns: Iterable[Row],
    indexes: Iterable[Row],
) -> int:
    """Return how many statements of a migration were run, up to the last one that left a trace; 0 if none did.

    A statement that adds something has left one if the tables lack nothing more with it than without it, and one that
    takes something away if they lack something without it. Statements that change rows leave none that is known here.

    Args:
        before: The migrations that are recorded.
        migration: The next one, with default names as the others.
        tables: The names of the tables.
        columns: As for `differences`.
        indexes: As for `differences`.
    """
    found = list(columns), list(indexes)
    done = 0
    made = read_table_definitions(before, tables)
    for number in range(1, len(migration.statements) + 1):
        part = replace(migration, sql=";\n".join(migration.statements[:number]))
        then = read_table_definitions([*before, part], tables)
        lacked, lacks = set(differences(made, *found)), set(differences(then, *found))
        adds, removes = _size(then) > _size(made), _size(then) < _size(made)
        if (adds and lacks <= lacked) or (removes and lacked - lacks):
            done = number
        made = then
    return done


def _size(definitions: Sequence[TableDefinition]) -> int:
    return sum(1 + len(one.columns) + len(one.indexes) + len(one.unique) for one in definitions)
