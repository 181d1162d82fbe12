"""The log in partitions: a script for operators, which moves it there and back. Neither code nor migrations need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

from workflow_migrations import (
    DEFAULT_TABLES,
    PARTITION_COUNTS,
    TableNames,
    partition_name,
    quote_identifier,
    render_sql,
)
from workflow_runtime.store import ConfigurationError
from workflow_store_sql import table_names

from .schema import schema_name

__all__ = ["get_partition_sql"]

_DIVIDED = " PARTITION BY HASH (run_id)"
_EXAMPLE = "CREATE TABLE workflow_events_partition "
"""Beginning of the line that stands for all partitions."""
_TABLE = "'workflow_events'"
_OF_TRANSACTION = ("BEGIN;", "COMMIT;")


def get_partition_sql(
    partitions: int,
    schema: str | None = None,
    tables: Mapping[str, str] | None = None,
    *,
    transaction: bool = True,
) -> str:
    """Return the script that moves the log into partitions by a hash of the run id, or back into one table.

    It is for a database that has the tables. While it runs nobody can read or write the log; whatever goes wrong, all
    is as before. Its statements are for one transaction, and some of them hold semicolons.

    Args:
        partitions: How many: 2, 4, 8 and so on up to 256; 1 for one table without partitions.
        schema: The schema of the tables; by default the search_path leads to them.
        tables: Table names by key, where they are not the defaults.
        transaction: False to leave out BEGIN and COMMIT, for a tool that brings a transaction of its own.

    Raises:
        ConfigurationError: A number, names, or a schema, that cannot work.
    """
    if isinstance(partitions, bool) or partitions not in (1, *PARTITION_COUNTS):
        allowed = ", ".join(map(str, PARTITION_COUNTS))
        raise ConfigurationError(f"partitions: {partitions!r} is not one of 1, {allowed}")
    chosen, place = table_names(tables), schema_name(schema)
    lines = [line for line in _lines(partitions, chosen) if transaction or line not in _OF_TRANSACTION]
    return "\n".join(lines).replace(_TABLE, _in_string(chosen, place)) + "\n"


def _lines(partitions: int, tables: TableNames) -> Iterator[str]:
    for line in _shipped().splitlines():
        if not line.startswith(_EXAMPLE):
            yield render_sql(line if partitions > 1 else line.replace(_DIVIDED, ""), tables)
            continue
        for number in range(partitions if partitions > 1 else 0):
            name = quote_identifier(partition_name(tables, partitions, number))
            yield render_sql(
                f"CREATE TABLE {name} PARTITION OF {DEFAULT_TABLES.events}"
                f" FOR VALUES WITH (MODULUS {partitions}, REMAINDER {number});",
                tables,
            )


def _in_string(tables: TableNames, schema: str | None) -> str:
    """Return the table's full name as a string of SQL."""
    qualifier = "" if schema is None else quote_identifier(schema) + "."
    return "'" + (qualifier + quote_identifier(tables.events)).replace("'", "''") + "'"


@cache
def _shipped() -> str:
    return resources.files(__package__).joinpath("scripts", "partition_events.sql").read_text(encoding="utf-8")
