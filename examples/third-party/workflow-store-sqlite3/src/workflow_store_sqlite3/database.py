"""The connection to the file: a thread, a transaction for each unit, and the errors that come out."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from workflow_runtime.errors import (
    ConfigurationError,
    SchemaMissingError,
    StoreAccessError,
    StoreError,
    StoreOperationError,
    StoreUnavailableError,
)
from workflow_runtime.store import Home

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
        """Run a unit in the thread, in one transaction."""
        self._home.check()
        if self._closed:
            raise ConfigurationError("this SQLite store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, begin, unit)

    async def close(self) -> None:
        """Close the connection once the units that have begun are through. Closing it again does nothing."""
        if self._closed or self._home.is_inherited:
            return
        self._closed = True
        closing = self._thread.submit(self._close)
        self._thread.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(closing))

    def _run(self, begin: Begin, unit: Callable[[sqlite3.Connection], T]) -> T:
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                if self._connection is None:
                    self._connection = _connect(self._path)
                with self._connection:  # commits, or rolls back when something is raised
                    self._connection.execute(begin)
                    return unit(self._connection)
            except sqlite3.Error as error:
                # SQLite itself waits for locks, but for a few it does not: changing the journal's mode, for one.
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise _as_store_error(error) from error
            time.sleep(0.01)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()


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
