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
from dataclasses import replace
from typing import Literal, TypeAlias

from workflow_migrations import (
    Migration,
    OnlineIndex,
    TableNames,
    quote_identifier,
    read_online_index,
    render_migrations,
)
from workflow_runtime.store import StoreError, WorkflowError, get_logger, one_line

from .failures import database_errors
from .holders import told
from .lent_connection import LentConnection, Row
from .statement_sender import StatementSender

__all__ = ["OnlineMigration", "Turn"]

logger: logging.Logger = get_logger("workflow_store_postgres")

Turn: TypeAlias = Literal["applied", "building", "in use"]
"""Outcome of a try. Others build the index, or use its table."""
_State: TypeAlias = Literal["missing", "usable", "unusable", "building"]

_LOCK_NOT_AVAILABLE = "55P03"
_OVERTAKEN = frozenset({"40P01", "42P07"})
"""Another process builds the index: each waited for the other, or it was first."""
_IS_THERE = "23505"
_LOOK_S = 5.0
"""Time between two looks at how far the building is."""


class OnlineMigration:
    """A migration that builds one index without a transaction.

    No such index can be built of a table in partitions. It is built of one partition after the other, and made of these
    in a transaction, which reads no rows.

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
        self._shipped = shipped
        self._whole = _Building(sender, place, read_online_index(shipped, sender.tables), rendered, timeout_s)
        _, self._create_at_once, self._record = rendered.in_transaction().statements
        self._timeout_s = timeout_s

    async def apply(self) -> Turn:
        """Build the index unless it is there, and record it.

        Raises:
            StoreError: The database could not do it. What was built in part is gone, unless that failed too.
        """
        try:
            state = await self._whole.clear()
            if state == "missing":
                parts = await self._parts()
                state = await self._build_parts(parts) if parts else await self._whole.build()
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
        buildings = (self._whole, *await self._parts())
        async with self._sender.transaction() as connection:
            return [row for building in buildings for row in await building.builders(connection)]

    async def _parts(self) -> Sequence[_Building]:
        """Return the indexes of the partitions, if the table has some."""
        table = self._whole.index.table
        rows = await self._sender.rows("read_partitions", self._place, table)
        [key] = [key for key, name in self._sender.tables.by_key().items() if name == table]
        return [self._part(replace(self._sender.tables, **{key: row["name"]})) for row in rows]

    def _part(self, tables: TableNames) -> _Building:
        (rendered,) = render_migrations([self._shipped], tables, schema=self._place)
        index = read_online_index(self._shipped, tables)
        return _Building(self._sender, self._place, index, rendered, self._timeout_s)

    async def _build_parts(self, parts: Sequence[_Building]) -> _State:
        """Build what the partitions lack, and make the index of the whole table of that."""
        for part in parts:
            state = await part.clear()
            if state == "missing":
                state = await part.build()
            if state == "building":
                return state
        async with self._sender.transaction() as connection:
            await connection.execute(self._sender.sql("limit_lock_waits"))
            await connection.execute(f"LOCK TABLE {self._named(self._whole.index.table)} IN SHARE MODE")
            if any([await part.look(connection) != "usable" for part in parts]):
                return "building"  # somebody has changed what there is: another look is needed
            await connection.execute(self._create_at_once, timeout_s=self._timeout_s)
        return "usable"

    async def _note(self) -> Turn:
        """Record the index, if it is there. Somebody may have done so a moment ago."""
        try:
            async with self._sender.transaction() as connection:
                if await self._whole.look(connection) != "usable":
                    return "building"
                await connection.execute(self._record)
                await connection.execute(self._sender.sql("record_checksum"), self.migration_id, self._shipped.checksum)
        except StoreError as error:
            if getattr(error.__cause__, "sqlstate", None) != _IS_THERE:
                raise
        return "applied"

    def _named(self, name: str) -> str:
        return f"{quote_identifier(self._place)}.{quote_identifier(name)}"


class _Building:
    """An index of one table that is not in partitions, or what is there of an index of one that is.

    Args:
        sender: Where statements go.
        place: Schema of the table.
        index: Its name, and its table's.
        rendered: The migration that builds it, as it is sent.
        timeout_s: How long the building may take.
    """

    def __init__(
        self, sender: StatementSender, place: str, index: OnlineIndex, rendered: Migration, timeout_s: float
    ) -> None:
        self.index = index
        self._sender = sender
        self._place = place
        _, self._create, _ = rendered.statements
        self._timeout_s = timeout_s

    async def clear(self) -> _State:
        """Return what is there, after what was left behind is dropped."""
        async with self._sender.transaction() as connection:
            state = await self.look(connection)
            if state == "unusable":
                # Who builds an index has this lock: nobody drops what another has begun, or finished, a moment ago.
                await connection.execute(self._sender.sql("limit_lock_waits"))
                await connection.execute(f"LOCK TABLE {self._named(self.index.table)} IN SHARE UPDATE EXCLUSIVE MODE")
                state = await self.look(connection)
            if state == "unusable":
                logger.info("dropping the index %s, which was built in part", one_line(self.index.name))
                await connection.execute(f"DROP INDEX {self._named(self.index.name)}")
                state = "missing"
        return state

    async def build(self) -> _State:
        """Build it."""
        logger.info("building the index %s: programs go on meanwhile", one_line(self.index.name))
        self._sender.check_open()
        try:
            with database_errors():
                async with self._watched(), self._sender.connections.lend() as connection:
                    await connection.execute(self._create, timeout_s=self._timeout_s)
        except StoreError:
            with suppress(StoreError):  # else the next try drops it
                await self.clear()
            raise
        return "usable"

    async def look(self, connection: LentConnection) -> _State:
        """Return what is there."""
        rows = await connection.fetch(self._sender.sql("read_index"), self._place, self.index.name)
        if not rows:
            return "missing"
        if rows[0]["is_valid"]:
            return "usable"
        return "building" if await self.builders(connection) else "unusable"

    async def builders(self, connection: LentConnection) -> Sequence[Row]:
        """Return who builds it, or another one of its table."""
        return await connection.fetch(self._sender.sql("read_index_builders"), self._place, self.index.table)

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
                rows = await self._sender.rows("read_index_progress", self._place, self.index.table)
                for row in rows:
                    how_far = _how_far(row)
                    if how_far != said:
                        level = logging.INFO if row["pid"] is None else logging.WARNING
                        logger.log(level, "index %s: %s", one_line(self.index.name), one_line(how_far))
                    said = how_far


def _how_far(row: Row) -> str:
    total = row["blocks_total"] or 0
    share = f", {100 * row['blocks_done'] // total} %" if total else ""
    waits = "" if row["pid"] is None else f"; it waits for {told([row])}"
    return f"{row['phase']}{share}{waits}"
