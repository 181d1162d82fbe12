"""Listening for notices of work: one connection, made anew whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from workflow_runtime.store import WorkflowError, WorkNotice, get_logger, new_id, one_line

from .connections import Connections, close_or_cut, in_time
from .deadlines import Deadline
from .failures import DATABASE_ERRORS, database_errors
from .lent_connection import GRACE_S, cut
from .notices import ANYTHING
from .opening import for_one
from .statement_sender import StatementSender

__all__ = ["NoticeListener", "OpenConnection", "borrowed_from", "connected_to"]

OpenConnection: TypeAlias = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]

logger: logging.Logger = get_logger("workflow_store_postgres")

_PROBE_EVERY_S = 20.0
"""A connection can be dead unnoticed: it is probed this often, and when another one is found silent."""
_PROBE_TIMEOUT_S = 3.0
_FIRST_DELAY_S = 0.05
_LAST_DELAY_S = 30.0
_STOP_S = 3 * GRACE_S
"""It takes as long only where a user's own function, which opens connections, does not let itself be cancelled."""


def connected_to(dsn: str | None, options: Mapping[str, Any], timeout_s: float) -> OpenConnection:
    """Listen on a connection of its own.

    Args:
        dsn: Where the database is.
        options: Those of the store's pool, as `pool_options` gives them.
        timeout_s: How long it may take to open one.
    """
    connect, settings = options["connect"], for_one(options)

    @asynccontextmanager
    async def open_connection() -> AsyncGenerator[asyncpg.Connection, None]:
        connection = await in_time(
            connect(dsn, **settings), timeout_s, problem="no connection to listen on", undo=asyncpg.Connection.terminate
        )
        try:
            yield connection
        finally:
            await close_or_cut(connection)

    return open_connection


def borrowed_from(connections: Connections, size: int) -> OpenConnection:
    """Listen on a connection of a user's pool, which is kept for as long as somebody listens.

    Args:
        connections: Those of the pool.
        size: How many it has at most.
    """
    # The last connection is for the statements. A listener that finds none to spare waits; its worker polls meanwhile.
    spare = asyncio.Semaphore(size - 1)

    @asynccontextmanager
    async def open_connection() -> AsyncGenerator[asyncpg.Connection, None]:
        async with spare, connections.lend() as lent:
            yield lent.raw

    return open_connection


class NoticeListener:
    """A listener for notices, at work for as long as its block lasts, whatever happens to the connection.

    Args:
        sender: For statements on other connections.
        open_connection: Gives the connection to listen on.
        on_notice: Called for each notice.
    """

    def __init__(
        self, sender: StatementSender, open_connection: OpenConnection, on_notice: Callable[[WorkNotice], None]
    ) -> None:
        self._sender = sender
        self._open_connection = open_connection
        self._on_notice = on_notice
        self._probe_channel = f"workflow_probe_{new_id()}"
        self._news = asyncio.Event()
        """Something happened to the connection: an answer to the probe, or its end."""
        self._answered = self._ended = self._suspicious = False
        self._warned = False
        self._failures = 0
        self._live = False
        self._left = False

    @property
    def live(self) -> bool:
        """True if notices are coming."""
        return self._live

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[NoticeListener, None]:
        """Listen in the background. The first connection is not waited for."""
        task = asyncio.create_task(self._keep_listening())
        self._sender.connections.on_silence.add(self._suspect)
        try:
            yield self
        finally:
            self._sender.connections.on_silence.discard(self._suspect)
            self._left, self._live = True, False
            task.cancel()
            await asyncio.wait([task], timeout=_STOP_S)

    async def _keep_listening(self) -> None:
        while True:
            try:
                with database_errors():
                    async with self._open_connection() as connection:
                        await self._listen_on(connection)
            except WorkflowError as error:
                level = logging.DEBUG if self._failures else logging.WARNING
                logger.log(level, "cannot listen for work: %s", one_line(error))
            except Exception:  # an error in the pool's or connection's own hooks: the worker polls
                logger.exception("cannot listen for work")
            self._set_live(live=False)
            await asyncio.sleep(self._next_delay_s())

    def _next_delay_s(self) -> float:
        longest = min(_LAST_DELAY_S, _FIRST_DELAY_S * float(2 ** min(self._failures, 20)))
        self._failures += 1
        return longest * random.uniform(0.5, 1)  # noqa: S311  # no secret

    async def _listen_on(self, connection: asyncpg.Connection) -> None:
        """Listen until the connection breaks, brings nothing, or listens to the wrong table."""
        self._ended = False
        rows = await self._sender.rows("read_channel", self._sender.head_table)
        channel: str | None = rows[0]["channel"]
        if channel is None:
            return  # the tables are not there yet
        connection.add_termination_listener(self._connection_ended)
        try:
            async with Deadline(_PROBE_TIMEOUT_S):
                await connection.add_listener(channel, self._on_notification)
                await connection.add_listener(self._probe_channel, self._on_probe)
            while await self._still_listens(channel):
                self._failures = 0
                self._set_live(live=True)
                patience_s = _PROBE_EVERY_S * random.uniform(1, 1.1)  # noqa: S311  # no secret
                await self._until(lambda: self._ended or self._suspicious, patience_s)
        finally:
            await self._stop_listening_on(connection, channel)

    async def _stop_listening_on(self, connection: asyncpg.Connection, channel: str) -> None:
        # A connection that goes back to a pool must not bring notices to its next user.
        try:
            connection.remove_termination_listener(self._connection_ended)
            if not connection.is_closed():
                async with asyncio.timeout(GRACE_S):
                    await connection.remove_listener(channel, self._on_notification)
                    await connection.remove_listener(self._probe_channel, self._on_probe)
        except DATABASE_ERRORS:
            cut(connection)

    async def _still_listens(self, channel: str) -> bool:
        """Return True if a notice sent on another connection comes in on this one."""
        self._answered = self._suspicious = False
        rows = await self._sender.rows("probe", self._sender.head_table, self._probe_channel)
        if not await self._until(lambda: self._answered or self._ended, _PROBE_TIMEOUT_S):
            self._warn()
            return False
        return not self._ended and bool(rows[0]["channel"] == channel)

    def _warn(self) -> None:
        if not self._warned:
            logger.warning(
                "no notice comes in on the listening connection, so workers poll; behind a pooler in transaction mode "
                "open the store with listen=False"
            )
        self._warned = True
        self._failures = max(self._failures, 10)

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a condition that asyncpg's calls bring about; return whether it came true in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _set_live(self, *, live: bool) -> None:
        if live is not self._live:
            self._live = live
            self._notify(None)

    def _suspect(self) -> None:
        self._suspicious = True
        self._news.set()

    # Called by asyncpg. An exception would end up in the event loop's handler.

    def _on_notification(self, connection: asyncpg.Connection, pid: int, channel: str, payload: str) -> None:
        self._notify(None if payload == ANYTHING else payload)

    def _on_probe(self, connection: asyncpg.Connection, pid: int, channel: str, payload: str) -> None:
        self._answered = True
        self._news.set()

    def _connection_ended(self, connection: asyncpg.Connection) -> None:
        self._ended = True
        self._news.set()

    def _notify(self, run_id: str | None) -> None:
        if self._left:
            return
        try:
            self._on_notice(WorkNotice(run_id=run_id))
        except Exception:
            logger.exception("a listener for work raised")
