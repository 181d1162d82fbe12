"""Creating and upgrading the tables, beside programs that use them and others that migrate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Literal, TypeAlias

from workflow_runtime.store import StoreUnavailableError, get_logger, one_line

from .connections import Row
from .schema import SchemaInTransaction
from .statement_sender import StatementSender

__all__ = ["ensure_schema"]

logger: logging.Logger = get_logger("workflow_store_postgres")

_Obstacle: TypeAlias = Literal["migrating", "in use"]
"""Obstacle to a migration: another process that migrates, or one that uses the tables."""
_LOCK_NOT_AVAILABLE = "55P03"
_LOOK_AGAIN_S = 0.05
_LONGEST_PAUSE_S = {"migrating": 0.5, "in use": 4.0}
"""Longest pause between two tries."""


async def ensure_schema(
    sender: StatementSender, lock_timeout_s: float, migration_timeout_s: float, *, contract: bool
) -> None:
    """Apply what is missing: new tables in one transaction, each later migration in one. Several may do this at once.

    A change of a table waits for whoever uses the table, and holds up everybody who comes later. So it does not wait
    for long, and tries again: meanwhile the others go on.

    Args:
        sender: Where statements go.
        lock_timeout_s: How long to wait for another process that is migrating, or for whoever uses the tables.
        migration_timeout_s: How long one statement of a migration may take.
        contract: Whether to apply contract migrations to tables that are in use. New ones get everything.

    Raises:
        StoreUnavailableError: It waited in vain; the message says for whom.
    """
    async with sender.transaction() as connection:
        database = SchemaInTransaction(sender, connection)
        if not await database.next_unit(contract=contract):
            return
    patience = _Patience(lock_timeout_s)
    while (turn := await _apply_next(sender, migration_timeout_s, contract=contract)) != "done":
        if turn == "applied":
            patience = _Patience(lock_timeout_s)
        else:
            await patience.wait(turn, await _who(sender, turn))


async def _apply_next(
    sender: StatementSender, migration_timeout_s: float, *, contract: bool
) -> Literal["done", "applied"] | _Obstacle:
    """Apply what comes next under the lock of those who migrate, and say what came of it.

    That lock is tried, not waited for: a waiting call would hold a connection, which may be the pool's only one.
    """
    try:
        async with sender.transaction() as connection:
            database = SchemaInTransaction(sender, connection)
            if not await connection.fetchval(sender.sql("try_migration_lock"), await database.lock_key()):
                return "migrating"
            unit = await database.next_unit(contract=contract)
            for migration in unit:
                logger.info("applying %s", one_line(migration.migration_id))
                await database.apply(migration, migration_timeout_s)
            return "applied" if unit else "done"
    except StoreUnavailableError as error:
        if getattr(error.__cause__, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        return "in use"


async def _who(sender: StatementSender, obstacle: _Obstacle) -> str:
    """Return who is waited for, in words."""
    async with sender.transaction() as connection:
        database = SchemaInTransaction(sender, connection)
        if obstacle == "migrating":
            holders = await connection.fetch(sender.sql("read_migration_lock_holder"), await database.lock_key())
            return f"another migration, of {_told(holders)}"
        place, names = await database.place(), sorted(sender.tables.by_key().values())
        holders = await connection.fetch(sender.sql("read_table_users"), place, names)
        return f"whoever uses the tables: {_told(holders)}"


def _told(holders: Sequence[Row]) -> str:
    return "; ".join(map(_tell, holders)) or "nobody any more"


def _tell(holder: Row) -> str:
    if holder["pid"] is None:
        return "a prepared transaction"
    program = one_line(holder["application_name"] or "no application name")
    return (
        f"process {holder['pid']} ({program}, role {one_line(str(holder['role']))}, from {holder['address']}, "
        f"{holder['state']}) since {holder['since']}"
    )


class _Patience:
    """Time that a migration may wait for others, as it runs out."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._end = time.monotonic() + limit_s
        self._pause_s = _LOOK_AGAIN_S
        self._told = ""

    async def wait(self, obstacle: _Obstacle, who: str) -> None:
        """Wait for a moment, and log for whom.

        Raises:
            StoreUnavailableError: It has taken too long.
        """
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise StoreUnavailableError(f"waited {self._limit_s:g} s for {who}")
        if who != self._told:
            # Several processes that start at once wait for each other: nothing to be warned of.
            logger.log(
                logging.INFO if obstacle == "migrating" else logging.WARNING, "a migration waits for %s", one_line(who)
            )
            self._told = who
        await asyncio.sleep(min(self._pause_s, left_s))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S[obstacle])
