"""Creating and upgrading the tables, beside programs that use them and others that migrate."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Literal, TypeAlias

from workflow_migrations import Migration
from workflow_runtime.store import (
    SchemaMissingError,
    StoreOperationError,
    StoreUnavailableError,
    get_logger,
    one_line,
)

from .holders import told
from .lent_connection import LentConnection, Row
from .online import OnlineMigration
from .schema import SchemaInTransaction
from .statement_sender import StatementSender

__all__ = ["Migrator"]

logger: logging.Logger = get_logger("workflow_store_postgres")

_Obstacle: TypeAlias = Literal["migrating", "in use", "building"]
"""Obstacle to a migration: another process that migrates, one that uses the tables, or one that builds an index."""
_LOCK_NOT_AVAILABLE = "55P03"
_LOOK_AGAIN_S = 0.05
_LONGEST_PAUSE_S = {"migrating": 0.5, "in use": 4.0, "building": 4.0}
"""Longest pause between two tries."""


class Migrator:
    """A process that creates or upgrades the tables. Several may do so at once.

    New tables are made in one transaction, and each later migration is one, or builds an index without.
    A change of a table waits for whoever uses the table, and holds up everybody who comes later. So it does not wait
    for long, and tries again: meanwhile the others go on.

    Args:
        sender: Where statements go.
        environment: What the program is of, and what new tables are marked with.
        lock_timeout_s: How long to wait for another process that is migrating, or for whoever uses the tables.
        migration_timeout_s: How long one statement of a migration may take.
        contract: Whether to apply contract migrations to tables that are in use. New ones get everything.
        online: Whether to build indexes of such tables.
        wait: Whether to wait for an index that another process builds, although nobody needs it.
    """

    def __init__(
        self,
        sender: StatementSender,
        environment: str | None,
        *,
        lock_timeout_s: float,
        migration_timeout_s: float,
        contract: bool,
        online: bool,
        wait: bool = False,
    ) -> None:
        self._sender = sender
        self._environment = environment
        self._lock_timeout_s = lock_timeout_s
        self._migration_timeout_s = migration_timeout_s
        self._wanted = {"contract": contract, "online": online}
        self._waits_for_builders = contract or wait
        self._online: OnlineMigration | None = None
        self._tried_at = 0.0
        self._logged: Sequence[Migration] = ()

    async def run(self) -> None:
        """Apply what is missing.

        Raises:
            SchemaError: What is there is not ours, not as we shipped it, of another environment, or too new.
            StoreUnavailableError: It waited in vain; the message says for whom.
        """
        async with self._sender.transaction() as connection:
            if not await self._database(connection).next_unit(**self._wanted):
                return
        patience = _Patience(self._lock_timeout_s)
        while (turn := await self._apply_next()) != "done":
            if turn == "applied":
                patience = _Patience(self._lock_timeout_s)
                continue
            if turn == "building" and not self._waits_for_builders and await self._is_left_to_others():
                return
            await patience.wait(turn, await self._who(turn))

    async def _apply_next(self) -> Literal["done", "applied"] | _Obstacle:
        """Apply what comes next under the lock of those who migrate, and say what came of it.

        That lock is tried, not waited for: a waiting call would hold a connection, which may be the pool's only one. An
        index is built without it, because it ends with the transaction.
        """
        self._tried_at = time.monotonic()
        applying: Migration | None = None
        try:
            async with self._sender.transaction() as connection:
                database = self._database(connection)
                if not await connection.fetchval(self._sender.sql("try_migration_lock"), await database.lock_key()):
                    return "migrating"
                unit = await database.next_unit(**self._wanted)
                if not unit:
                    return "done"
                self._log(unit)
                if unit[0].transactional:
                    applying = unit[0]
                    await database.apply(unit, self._migration_timeout_s)
                    return "applied"
                self._online = await database.online_migration(unit[0], self._migration_timeout_s)
        except StoreUnavailableError as error:
            if getattr(error.__cause__, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            return "in use"
        except (StoreOperationError, SchemaMissingError):
            if applying is None or not await self._is_recorded(applying):
                raise
            return "applied"
        return await self._online.apply()

    def _log(self, unit: Sequence[Migration]) -> None:
        """Log what is applied, once: tries may go on for a day."""
        if unit != self._logged:
            logger.info("applying %s", one_line(", ".join(migration.migration_id for migration in unit)))
            self._logged = unit

    async def _is_recorded(self, migration: Migration) -> bool:
        """Return True if somebody's tool has applied meanwhile what failed just now.

        Raises:
            SchemaUnrecordedError: A tool without a transaction has applied it in part.
        """
        async with self._sender.transaction() as connection:
            return await self._database(connection).refuse_half_applied(migration)

    async def _is_left_to_others(self) -> bool:
        """Return True if others build the index, and say so: programs run without it meanwhile."""
        if self._online is None or not (builders := await self._online.builders()):
            return False
        logger.info("%s: programs run without it meanwhile", one_line(_building(self._online, builders)))
        return True

    async def _who(self, obstacle: _Obstacle) -> str:
        """Return who is waited for, in words."""
        if obstacle == "building" and self._online is not None:
            return _building(self._online, await self._online.builders())
        async with self._sender.transaction() as connection:
            database = self._database(connection)
            fetch, sql = connection.fetch, self._sender.sql
            if obstacle == "migrating":
                holders = await fetch(sql("read_migration_lock_holder"), await database.lock_key())
                return f"another migration, of {told(holders)}"
            place, names = await database.place(), sorted(self._sender.tables.by_key().values())
            # Who came later was held up by the try, and is not in its way.
            since_try_s = time.monotonic() - self._tried_at
            holders = await fetch(sql("read_table_users"), place, names, since_try_s)
            return f"whoever uses the tables: {told(holders)}"

    def _database(self, connection: LentConnection) -> SchemaInTransaction:
        return SchemaInTransaction(self._sender, connection, self._environment)


def _building(online: OnlineMigration, builders: Sequence[Row]) -> str:
    return f"whoever builds the index of {online.migration_id}: {told(builders)}"


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
            raise StoreUnavailableError(f"waited {self._limit_s:g} s for {who}; migrate again once that has ended")
        if who != self._told:
            # Several processes that start at once wait for each other: nothing to be warned of.
            logger.log(
                logging.WARNING if obstacle == "in use" else logging.INFO, "a migration waits for %s", one_line(who)
            )
            self._told = who
        await asyncio.sleep(min(self._pause_s, left_s))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S[obstacle])
