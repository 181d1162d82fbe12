"""A connection to a SQLite file that behaves like D1's: its limits, its numbers, and batches as transactions.

Lives on the thread of a `ConnectionThread`. This is the only module that speaks to sqlite3.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from threading import Event
from typing import Any, Literal, TypeAlias, TypeVar

from workflow_runtime.store import ConfigurationError

from .combined_writes import NotCommittedError
from .database import D1DatabaseError, D1Value
from .javascript import as_read
from .limits import MAX_BOUND_VALUES, MAX_STATEMENT_BYTES, first_keyword
from .open_files import OpenFiles

__all__ = [
    "IN_MEMORY",
    "PASSES_AT_THE_START",
    "SQLITE_ERRORS",
    "ConnectionCall",
    "LocalResult",
    "SQLiteConnection",
    "Settings",
    "Synchronous",
    "check_version",
    "database_error",
    "greatest_value_bytes",
]

Synchronous: TypeAlias = Literal["FULL", "NORMAL", "EXTRA"]
"""Levels of waiting for the disk at a commit. `NORMAL` may lose the last commits when the machine loses power."""

IN_MEMORY = ":memory:"

_OLDEST_SQLITE = (3, 37, 0)
"""STRICT tables."""

SQLITE_ERRORS = (sqlite3.Error, sqlite3.Warning)

_CACHED_STATEMENTS = 256
"""More than the store has, so that none is compiled twice."""

_LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MAX_STATEMENT_BYTES,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: MAX_BOUND_VALUES,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 5,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 32,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}

_PRAGMAS = frozenset(
    {
        "case_sensitive_like", "data_version", "defer_foreign_keys", "foreign_key_check", "foreign_key_list",
        "foreign_keys", "ignore_check_constraints", "index_info", "index_list", "index_xinfo", "legacy_alter_table",
        "optimize", "quick_check", "recursive_triggers", "reverse_unordered_selects", "table_info", "table_list",
        "table_xinfo",
    }
)  # fmt: skip

_REFUSED_FUNCTIONS = frozenset(
    {
        "ceiling", "fts5_source_id", "load_extension", "log10", "power", "sqlite_compileoption_get",
        "sqlite_compileoption_used", "sqlite_log", "sqlite_source_id", "sqlite_version", "subtype",
    }
)  # fmt: skip

_REFUSED_ACTIONS = frozenset(
    {
        sqlite3.SQLITE_CREATE_TEMP_INDEX, sqlite3.SQLITE_CREATE_TEMP_TABLE, sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
    }
)  # fmt: skip

_JOURNAL_MODES = frozenset({"wal", "memory"})
"""`memory` is all that a database in memory can do, and it has no other users."""

_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

PASSES_AT_THE_START = _LOCKED | {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
}  # fmt: skip
"""A full disk passes too: somebody frees space, and the work goes on. So does a limit or quota of the file's size."""

_PASSES = PASSES_AT_THE_START | {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_INTERRUPT}
"""A file that was opened once: its file system is read-only for a while, or the process has too many files open. And a
call that was interrupted in the place of the one before, which had just ended: nothing of it is done."""

_FOR_GOOD = frozenset({sqlite3.SQLITE_IOERR_CORRUPTFS, sqlite3.SQLITE_IOERR_DATA, sqlite3.SQLITE_READONLY_DBMOVED})
"""Those of them that do not pass: the file's content is broken, or the file is another one."""

_COMMIT_IN_DOUBT = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
"""Errors after which the commit may be on the disk all the same."""

_FIRST_PAUSES_S = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.025)
_PAUSE_S = 0.05
"""Pause between two looks at a file that another process has locked; about as long as those of SQLite's own busy
handler.
"""

_LOOK_EVERY_S = 0.1
"""The longest that a read from a lost file goes unnoticed."""

_NUMBERED_NEED_NAMES = (3, 12, 0) <= sys.version_info[:3] < (3, 12, 2)
"""These versions take `?1` for a name and warn when values come as a sequence."""

_SIZED = (str, bytes)

_NUMBERED = re.compile(r"\?(\d+)")

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class LocalResult:
    """The outcome of one statement."""

    results: list[dict[str, Any]]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a file."""

    synchronous: Synchronous
    busy_timeout_s: float
    max_value_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionCall:
    """Statements that run in one hop to the thread, with what begins and ends their transaction."""

    statements: Sequence[tuple[str, tuple[D1Value, ...]]] = ()
    begin: str | None = None
    commit: bool = False
    inside: bool = False
    """True if it must find a transaction open."""
    roll_back: bool = False
    deadline: float
    """On the monotonic clock: until when it may wait for a file that others have locked."""

    @property
    def reads(self) -> bool:
        """True if it writes nothing."""
        return all(first_keyword(sql) == "SELECT" for sql, _ in self.statements)

    @property
    def size_bytes(self) -> int:
        """Length of its texts and blobs."""
        return sum(len(value) for _, values in self.statements for value in values if isinstance(value, _SIZED))


class SQLiteConnection(sqlite3.Connection):
    """A connection to the file, with D1's limits and numbers.

    Args:
        path: The file, or `:memory:`.
        settings: How to use it.
        hurry: Set when nobody waits any more.
    """

    def __init__(self, path: str, settings: Settings, hurry: Event) -> None:
        # SQLite's own waiting cannot be cut short, so the waiting is ours.
        super().__init__(path, timeout=0, isolation_level=None, cached_statements=_CACHED_STATEMENTS)
        self._hurry = hurry
        self._files: OpenFiles | None = None
        self._looked_at = time.monotonic()
        try:
            self._set_limits(settings)
            self._patiently(self._use_wal, time.monotonic() + settings.busy_timeout_s)
            super().execute(f"PRAGMA synchronous = {settings.synchronous}")
            # Claims use small intermediate tables, each of which would cost a temporary file.
            super().execute("PRAGMA temp_store = MEMORY")
            self.set_authorizer(_authorize)
            if path != IN_MEMORY:
                self._files = OpenFiles(path)
        except BaseException:
            self.close()
            raise

    def run(self, call: ConnectionCall) -> list[LocalResult]:
        """Run the statements of a call: all of them or none.

        Raises:
            sqlite3.Error: What SQLite says.
            D1DatabaseError: The file is no longer the one that was opened.
        """
        writes = not call.reads
        if not call.roll_back:
            self._look(at_once=writes)
        results = self._patiently(partial(self._run, call), call.deadline)
        if writes:
            self._look(at_once=True)  # before it is reported as written
        return results

    def begin_units(self, call: ConnectionCall) -> list[LocalResult]:
        """Open a transaction that takes several calls, and run a first one in it. After an error none is open.

        Raises:
            sqlite3.Error: What SQLite says.
            D1DatabaseError: The file is no longer the one that was opened.
        """
        self._look(at_once=True)
        return self._patiently(partial(self._begin_units, call), call.deadline)

    def join_unit(self, call: ConnectionCall) -> list[LocalResult]:
        """Run a further call in it. After an error nothing of the call is there, or no transaction is open.

        Raises:
            sqlite3.Error: What SQLite says.
        """
        super().execute("SAVEPOINT unit")
        try:
            results = self._run_all(call)
            super().execute("RELEASE unit")
        except BaseException:
            self._undo_unit()
            raise
        return results

    def commit_units(self) -> None:
        """Commit the calls.

        Raises:
            NotCommittedError: Nothing of them is there.
            sqlite3.Error: They may be there all the same.
            D1DatabaseError: The file is no longer the one that was opened.
        """
        if not self.in_transaction:
            raise NotCommittedError
        try:
            super().execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if getattr(error, "sqlite_errorcode", None) in _COMMIT_IN_DOUBT:
                raise
            raise NotCommittedError from error
        self._look(at_once=True)  # before they are reported as written

    def _look(self, *, at_once: bool) -> None:
        """Look whether the files are still the ones that were opened; before a read only if that was a while ago."""
        now = time.monotonic()
        if self._files is not None and (at_once or now - self._looked_at > _LOOK_EVERY_S):
            self._files.check()
            self._looked_at = now

    def close(self) -> None:
        """Close the file; the last one to do so writes the log back into it."""
        with suppress(sqlite3.Error):
            # An interrupt that found nothing to interrupt would hit the writing back. A statement uses it up.
            super().execute("SELECT 1")
        super().close()

    def _set_limits(self, settings: Settings) -> None:
        for limit, value in {**_LIMITS, sqlite3.SQLITE_LIMIT_LENGTH: settings.max_value_bytes}.items():
            self.setlimit(limit, value)

    def _use_wal(self) -> None:
        # Where several processes open a new file at once, SQLite raises or leaves the mode as it was.
        ((mode,),) = super().execute("PRAGMA journal_mode = WAL").fetchall()
        if mode not in _JOURNAL_MODES:
            raise _NotSharedError(f"the file stays in journal mode {mode!r} and cannot be shared")
        super().execute("SELECT count(*) FROM sqlite_schema").fetchall()  # opens the files beside it

    def _patiently(self, call: Callable[[], R], deadline: float) -> R:
        """Make a call until nobody else holds the file, or the time is up."""
        for pause_s in chain(_FIRST_PAUSES_S, repeat(_PAUSE_S)):
            try:
                return call()
            except sqlite3.OperationalError as error:
                left_s = deadline - time.monotonic()
                # A statement inside an open transaction has taken effect.
                if not _is_locked(error) or self.in_transaction or left_s <= 0 or self._hurry.is_set():
                    raise
            self._hurry.wait(min(pause_s, left_s))
        raise AssertionError("the pauses never end")

    def _run(self, call: ConnectionCall) -> list[LocalResult]:
        if call.inside and not self.in_transaction:
            raise sqlite3.OperationalError("a statement before has ended the transaction")
        if not call.inside:
            self._roll_back()  # the end of its transaction was lost: nothing new may join it
        if call.begin is not None:
            super().execute(call.begin)
        try:
            results = self._run_all(call)
            if call.commit:
                super().execute("COMMIT")
        except BaseException:
            if call.commit:
                self._roll_back()
            raise
        if call.roll_back:
            self._roll_back()
        return results

    def _begin_units(self, call: ConnectionCall) -> list[LocalResult]:
        self._roll_back()  # the end of its transaction was lost: nothing new may join it
        super().execute("BEGIN IMMEDIATE")
        try:
            return self._run_all(call)
        except BaseException:
            self._roll_back()
            raise

    def _undo_unit(self) -> None:
        if not self.in_transaction:
            return
        try:
            super().execute("ROLLBACK TO unit")
            super().execute("RELEASE unit")
        except BaseException:  # what is left of the unit cannot be told
            self._roll_back()
            raise

    def _run_all(self, call: ConnectionCall) -> list[LocalResult]:
        return [self._run_one(*statement) for statement in call.statements]

    def _roll_back(self) -> None:
        # Some errors (a full disk, for one) have ended the transaction already.
        if self.in_transaction:
            super().execute("ROLLBACK")

    def _run_one(self, sql: str, values: tuple[D1Value, ...]) -> LocalResult:
        cursor = super().execute(sql, _by_name(sql, values) if _NUMBERED_NEED_NAMES else values)
        return LocalResult(_rows(cursor), {"changes": max(cursor.rowcount, 0), "last_row_id": cursor.lastrowid})


class _NotSharedError(sqlite3.OperationalError):
    """Another process has just made the file; it passes."""


def check_version() -> None:
    """Refuse a SQLite that cannot have the tables.

    Raises:
        ConfigurationError: It is too old.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        needed = ".".join(map(str, _OLDEST_SQLITE))
        raise ConfigurationError(f"SQLite {needed} or newer is needed; this Python has {sqlite3.sqlite_version}")


def greatest_value_bytes() -> int:
    """Return how large a value or a row may be in this SQLite."""
    connection = sqlite3.connect(IN_MEMORY)
    try:
        return connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
    finally:
        connection.close()


def database_error(error: Exception, *, passes: frozenset[int] = _PASSES) -> D1DatabaseError:
    """Return an error of SQLite's in the words that the store knows.

    Args:
        error: What SQLite raised.
        passes: The primary codes after which a later call may succeed.
    """
    code = getattr(error, "sqlite_errorcode", None)
    return D1DatabaseError(
        str(error),
        unavailable=_primary_code(error) in passes and code not in _FOR_GOOD,
        outcome_unknown=code in _COMMIT_IN_DOUBT,
    )


def _rows(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    if cursor.description is None:
        return []
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, map(as_read, row), strict=True)) for row in cursor.fetchall()]


def _is_locked(error: Exception) -> bool:
    return isinstance(error, _NotSharedError) or _primary_code(error) in _LOCKED


def _primary_code(error: Exception) -> int | None:
    # The low byte is the primary code; the rest of an extended code only says why.
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _by_name(sql: str, values: tuple[D1Value, ...]) -> tuple[D1Value, ...] | dict[str, D1Value]:
    names = set(_NUMBERED.findall(sql))
    # A statement that leaves out numbers cannot be given names for all values; there Python's warning stays. A wrong
    # number of values is for sqlite3 to refuse.
    return {name: values[int(name) - 1] for name in names} if len(names) == len(values) else values


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _by: str | None) -> int:
    """Refuse what D1 refuses. SQLite asks whenever it compiles a statement."""
    if action == sqlite3.SQLITE_PRAGMA:
        allowed = (first or "").lower() in _PRAGMAS
    elif action == sqlite3.SQLITE_FUNCTION:
        allowed = (second or "").lower() not in _REFUSED_FUNCTIONS
    else:
        allowed = action not in _REFUSED_ACTIONS
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY
