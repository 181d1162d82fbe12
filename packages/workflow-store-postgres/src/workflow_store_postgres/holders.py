"""The holders of a lock that a migration waits for, in words."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import one_line

from .lent_connection import Row

__all__ = ["told"]


def told(holders: Sequence[Row]) -> str:
    """Return who holds a lock, by the rows of a query with `holder_columns`."""
    return "; ".join(map(_tell, holders)) or "nobody any more"


def _tell(holder: Row) -> str:
    if holder["pid"] is None:
        return "a prepared transaction"
    program = one_line(holder["application_name"] or "no application name")
    return (
        f"process {holder['pid']} ({program}, role {one_line(str(holder['role']))}, from {holder['address']}, "
        f"{holder['state']}) since {holder['since']}"
    )
