"""Building an index beside programs that write: a migration that no transaction can hold.

At any moment the process may die, its connection may be lost, or another process may do the same. So what is there
decides, not what was done: an index that can be used is recorded; one that cannot, and that nobody builds, was left
behind and is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal, TypeAlias

from workflow_migrations import Migration, quote_identifier, read_online_index
from workflow_runtime.store import StoreError, WorkflowError, get_logger, one_line

from .failures import database_errors
from .holders import told
from .lent_connection import LentConnection, Row
from .statement_sender import StatementSender

__all__ = ["OnlineMigration", "Turn"]

logger: logging.Logger = get_logger("workflow_store_postgres")

Turn: TypeAlias = Literal["applied", "building", "in use"]
"""Outcome of a try. Others build the index, or use its table."""
_Index: TypeAlias = Literal["missing", "usable", "unusable", "building"]

_LOCK_NOT_AVAILABLE = "55P03"
_OVERTAKEN = frozenset({"40P01", "42P07"})
"""Another process builds the index: each waited for the other, or it was first."""
_IS_THERE = "23505"
_LOOK_S = 5.0
"""Time between two looks at how far the building is."""


class OnlineMigration:
    """A migration that builds one index without a transaction.

    Args:
        sender: Where statements go.
        place: Schema of the tables.
        shipped: The migration with default names.
        rendered: The same as it is sent.
        timeout_s: How long the building may take.
    """

    def __init__(
        self, sender: StatementSender, place: str, shipped: Migration, rendered: Migration, timeout_s: float
    ) -> None:
        self.migration_id = shipped.migration_id
        self._sender = sender
        self._place = place
        self._index = read_online_index(shipped, sender.tables)
        _, self._create, self._record = rendered.statements
        self._checksum = shipped.checksum
        self._timeout_s = timeout_s

    async def apply(self) -> Turn:
        """Build the index unless it is there, and record it.

        Raises:
            StoreError: The database could not do it. What was built in part is gone, unless that failed too.
        """
        try:
            state = await self._clear()
            if state == "missing":
                await self._build()
            return "building" if state == "building" else await self._note()
        except StoreError as error:
            state_of_server = getattr(error.__cause__, "sqlstate", None)
            if state_of_server in _OVERTAKEN:
                return "building"
            if state_of_server == _LOCK_NOT_AVAILABLE:
                return "in use"
            raise

    async def builders(self) -> Sequence[Row]:
        """Return who builds it: nobody, where those that began at once have ended each other's building."""
        async with self._sender.transaction() as connection:
            return await self._builders(connection)

    async def _clear(self) -> _Index:
        """Return what is there, after what was left behind is dropped."""
        async with self._sender.transaction() as connection:
            state = await self._look(connection)
            if state == "unusable":
                # Who builds an index has this lock: nobody drops what another has begun, or finished, a moment ago.
                await connection.execute(self._sender.sql("limit_lock_waits"))
                await connection.execute(f"LOCK TABLE {self._named(self._index.table)} IN SHARE UPDATE EXCLUSIVE MODE")
                state = await self._look(connection)
            if state == "unusable":
                logger.info("dropping the index %s, which was built in part", one_line(self._index.name))
                await connection.execute(f"DROP INDEX {self._named(self._index.name)}")
                state = "missing"
        return state

    async def _build(self) -> None:
        logger.info("building the index %s: programs go on meanwhile", one_line(self._index.name))
        self._sender.check_open()
        try:
            with database_errors():
                async with self._watched(), self._sender.connections.lend() as connection:
                    await connection.execute(self._create, timeout_s=self._timeout_s)
        except StoreError:
            with suppress(StoreError):  # else the next try drops it
                await self._clear()
            raise

    async def _note(self) -> Turn:
        """Record the index, if it is there. Somebody may have done so a moment ago."""
        try:
            async with self._sender.transaction() as connection:
                if await self._look(connection) != "usable":
                    return "building"
                await connection.execute(self._record)
                await connection.execute(self._sender.sql("record_checksum"), self.migration_id, self._checksum)
        except StoreError as error:
            if getattr(error.__cause__, "sqlstate", None) != _IS_THERE:
                raise
        return "applied"

    async def _look(self, connection: LentConnection) -> _Index:
        rows = await connection.fetch(self._sender.sql("read_index"), self._place, self._index.name)
        if not rows:
            return "missing"
        if rows[0]["is_valid"]:
            return "usable"
        return "building" if await self._builders(connection) else "unusable"

    async def _builders(self, connection: LentConnection) -> Sequence[Row]:
        return await connection.fetch(self._sender.sql("read_index_builders"), self._place, self._index.table)

    def _named(self, name: str) -> str:
        return f"{quote_identifier(self._place)}.{quote_identifier(name)}"

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait([watch])

    async def _watch(self) -> None:
        """Log how far the building is, and whom it waits for, while the pool has a connection for that."""
        said = ""
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(WorkflowError):  # a watch that fails must not end the building
                rows = await self._sender.rows("read_index_progress", self._place, self._index.table)
                for row in rows:
                    how_far = _how_far(row)
                    if how_far != said:
                        level = logging.INFO if row["pid"] is None else logging.WARNING
                        logger.log(level, "index %s: %s", one_line(self._index.name), one_line(how_far))
                    said = how_far


def _how_far(row: Row) -> str:
    total = row["blocks_total"] or 0
    share = f", {100 * row['blocks_done'] // total} %" if total else ""
    waits = "" if row["pid"] is None else f"; it waits for {told([row])}"
    return f"{row['phase']}{share}{waits}"
