"""The names of the tables that the log may be divided into, where the database can."""

from __future__ import annotations

from .names import DEFAULT_TABLES, TableNames
from .render import index_name

__all__ = ["PARTITION_COUNTS", "partition_name", "partition_names"]

PARTITION_COUNTS = tuple(2**power for power in range(1, 9))
"""Numbers of partitions that there may be: so few of them that all names are known."""


def partition_name(tables: TableNames, count: int, number: int) -> str:
    """Return the name of a partition of the log, which follows the table's own.

    Args:
        tables: The chosen names.
        count: How many partitions there are.
        number: Which one of them, from 0.
    """
    return index_name(f"{DEFAULT_TABLES.events}_p{count}_{number:0{len(str(count - 1))}}", tables)


def partition_names(tables: TableNames) -> frozenset[str]:
    """Return all names that partitions of the log may have, however many there are.

    Args:
        tables: The chosen names.
    """
    return frozenset(partition_name(tables, count, number) for count in PARTITION_COUNTS for number in range(count))
