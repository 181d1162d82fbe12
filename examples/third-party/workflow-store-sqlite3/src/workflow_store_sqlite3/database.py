"""The connection to the file: a thread, a transaction for each unit, and the errors that come out."""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, TypeVar

from workflow_runtime.store import (
    ConfigurationError,
    Home,
    SchemaMissingError,
    StoreAccessError,
    StoreError,
    StoreOperationError,
    StoreUnavailableError,
)

T = TypeVar("T")

Begin = Literal["BEGIN", "BEGIN IMMEDIATE"]
READ: Begin = "BEGIN"
"""Everything that a unit reads is of one moment."""
WRITE: Begin = "BEGIN IMMEDIATE"
"""The unit is the only writer from its first statement on, so that it can read, decide, and then write."""

BUSY_S = 30.0
"""Seconds that a unit waits for other writers, here and in other processes."""

_UNAVAILABLE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_NO_ACCESS = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH}


class Database:
    """A connection in a thread of its own. Each handle of the store has one.

    A call that is cancelled leaves its unit alone: one that has not begun never will, one that runs goes on to its
    end. The next call of the handle waits for that in the thread's queue.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._home = Home("this SQLite store")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="workflow-store-sqlite3")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def run(self, begin: Begin, unit: Callable[[sqlite3.Connection], T]) -> T:
        """Run a unit in one transaction: all of it happens, or nothing does."""

        def transaction(db: sqlite3.Connection) -> T:
            with db:  # commits, or rolls back when something is raised
                db.execute(begin)
                return unit(db)

        return await self.call(transaction)

    async def call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call a function in the thread; call it again while others keep the file locked."""
        return await self.call_once(lambda db: _until_free(functools.partial(function, db)))

    async def call_once(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call a function in the thread, and let SQLite's errors through as they are."""
        self._home.check()
        if self._closed:
            raise ConfigurationError("this SQLite store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(self._connected()))

    async def close(self) -> None:
        """Close the connection when what has begun is through. Closing it again does nothing."""
        closing = self.close_soon()
        if closing is not None:
            await asyncio.shield(asyncio.wrap_future(closing))

    def close_soon(self) -> Future[None] | None:
        """Let the thread close the connection, which rolls back what was not committed. It ends by itself then."""
        if self._closed or self._home.is_inherited:
            return None
        self._closed = True
        closing = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        return closing

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _until_free(functools.partial(_connect, self._path))
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _until_free(function: Callable[[], T]) -> T:
    """Call a function until no other writer is in its way, and turn SQLite's errors into those of the contract."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return function()
        except sqlite3.Error as error:
            # SQLite itself waits for locks, but for a few it does not: changing the journal's mode, for one.
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise _as_store_error(error) from error
        time.sleep(0.01)


def _connect(path: str | os.PathLike[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _code(error: sqlite3.Error) -> int | None:
    """Return the primary code, without what SQLite adds to it; `None` for errors of the Python module itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _as_store_error(error: sqlite3.Error) -> StoreError:
    code = _code(error)
    if code in _UNAVAILABLE:
        return StoreUnavailableError(str(error))
    if code in _NO_ACCESS:
        return StoreAccessError(str(error))
    if "no such table: workflow_" in str(error):
        return SchemaMissingError("call `ensure_schema()` once")
    return StoreOperationError(str(error))
