"""A `D1Database` on a local SQLite file, through aiosqlite.

One connection, on aiosqlite's thread. Each call is a single hop to that thread, a batch included: its BEGIN, its
statements and its COMMIT run there in one go. A task that is cancelled while it waits therefore leaves nothing
half done behind, and other tasks on the same connection cannot get between two statements of a batch.

This is the only module that knows sqlite3 and aiosqlite. Nothing imports it before a file is opened.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Thread, current_thread
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, get_args

from workflow_runtime.errors import ConfigurationError, InvalidArgumentError

from .database import D1DatabaseError, D1PreparedStatement, D1Value
from .javascript import as_bound, as_read
from .limits import MAX_BOUND_VALUES, MAX_STATEMENT_BYTES, MAX_VALUE_BYTES, check_statement, check_values, first_keyword

if TYPE_CHECKING:
    import aiosqlite

__all__ = ["LocalD1Database", "LocalResult", "LocalStatement", "LocalUnit", "Synchronous"]

Synchronous: TypeAlias = Literal["FULL", "NORMAL", "EXTRA"]
"""What SQLite does before a commit returns. `NORMAL` may lose the last commits when the machine loses power."""

_OLDEST_SQLITE = (3, 37, 0)
"""STRICT tables."""

_CACHED_STATEMENTS = 256
"""More than the store has, so that none is compiled twice."""

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
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

_DRIVER_ERRORS = (sqlite3.Error, sqlite3.Warning)

_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

_PASSES_AT_THE_START = _LOCKED | {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
}  # fmt: skip
"""A full disk passes too: somebody frees space, and the work goes on. So does a limit or quota of the file's size."""

_PASSES = _PASSES_AT_THE_START | {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
"""A file that was opened once: its file system is read-only for a while, or the process has too many files open."""

_FOR_GOOD = frozenset({sqlite3.SQLITE_IOERR_CORRUPTFS, sqlite3.SQLITE_IOERR_DATA, sqlite3.SQLITE_READONLY_DBMOVED})
"""Of those, what does not pass: the file's content is broken, or the file is another one."""

_COMMIT_IN_DOUBT = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
"""What was written may be on the disk all the same."""

_NUMBERED_NEED_NAMES = (3, 12, 0) <= sys.version_info[:3] < (3, 12, 2)
"""These versions take `?1` for a name and warn when values come as a sequence."""

_NUMBERED = re.compile(r"\?(\d+)")


@dataclass(frozen=True, slots=True)
class LocalResult:
    """The outcome of one statement."""

    results: list[dict[str, Any]]
    meta: Mapping[str, Any] = field(default_factory=dict)


class LocalStatement:
    """One statement with its values."""

    __slots__ = ("_database", "sql", "values")

    def __init__(self, database: LocalD1Database, sql: str, values: tuple[D1Value, ...]) -> None:
        self._database = database
        self.sql: str = sql
        self.values: tuple[D1Value, ...] = values

    def bind(self, *values: D1Value) -> Self:
        """Give a statement of the same text with these values for `?1`, `?2` and so on."""
        check_values(values)
        return type(self)(self._database, self.sql, tuple(map(as_bound, values)))

    async def all(self) -> LocalResult:
        """Run it as a transaction of its own and give its rows."""
        (result,) = await self._database.execute([self], begin=None)
        return result

    async def run(self) -> LocalResult:
        """Run it as a transaction of its own."""
        return await self.all()


class LocalD1Database:
    """One handle on a SQLite file; several processes may have one each.

    Made by `open`, ended by `close`.
    """

    def __init__(self, connection: aiosqlite.Connection, thread: Thread) -> None:
        self._connection = connection
        self._thread = thread
        self._closed = False
        self._open: LocalUnit | None = None

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "FULL",
        busy_timeout: timedelta = timedelta(seconds=10),
    ) -> Self:
        """Open a file, or create it.

        Args:
            path: The file; `:memory:` gives a database that ends with its handle.
            synchronous: What SQLite does before a commit returns.
            busy_timeout: How long a call waits for another process's transaction.

        Raises:
            ConfigurationError: aiosqlite is not installed, or SQLite is too old.
            InvalidArgumentError: An unusable argument.
            D1DatabaseError: The file cannot be opened, or is no database.
        """
        _check_options(os.fspath(path), synchronous, busy_timeout)
        connector = _Connector(os.fspath(path), synchronous, busy_timeout)
        opening = asyncio.ensure_future(connector.connect())
        try:
            return cls(*await asyncio.shield(opening))
        except asyncio.CancelledError:
            # The thread works on: wait for what it opens and close it, or nobody ever will.
            with suppress(*_DRIVER_ERRORS):
                await cls(*await opening).close()
            raise
        except _DRIVER_ERRORS as error:
            raise _database_error(error, passes=_PASSES_AT_THE_START) from error

    def prepare(self, sql: str) -> LocalStatement:
        """Make a statement of SQL text."""
        check_statement(sql)
        return LocalStatement(self, sql, ())

    async def batch(self, statements: Sequence[D1PreparedStatement]) -> list[LocalResult]:
        """Run statements in order as one transaction: all or none."""
        mine = _own(statements)
        if not mine:
            raise D1DatabaseError("a batch without statements")
        # A batch that only reads needs a snapshot, not the right to write, which others would have to wait for.
        reads = all(first_keyword(statement.sql) == "SELECT" for statement in mine)
        return await self.execute(mine, begin="BEGIN" if reads else "BEGIN IMMEDIATE")

    async def execute(self, statements: Sequence[LocalStatement], *, begin: str | None) -> list[LocalResult]:
        """Run statements in one hop to the connection's thread, as one transaction if `begin` says how."""
        await self._wait_for_turn()
        return await self._hop(_Unit(statements, begin=begin, commit=begin is not None))

    @asynccontextmanager
    async def interactive(self) -> AsyncIterator[LocalUnit]:
        """Give a transaction that begins with its first statement. Other tasks on this handle wait until it ends."""
        unit = LocalUnit(self)
        token = _inside.set(unit)
        try:
            yield unit
        finally:
            _inside.reset(token)
            await unit.end()

    async def _wait_for_turn(self) -> None:
        while self._open is not None:
            if self._open is _inside.get():
                raise ConfigurationError(
                    "the store cannot be used from inside its own transaction, which would wait for itself; "
                    "use the transaction's execute() and fetch(), or do it in a step of its own"
                )
            await self._open.ended.wait()
        if self._closed:
            raise ConfigurationError("the database is closed")

    async def _hop(self, unit: _Unit) -> list[LocalResult]:
        try:
            results: Iterable[Any] = await self._connection.execute_fetchall(unit)
        except _DRIVER_ERRORS as error:
            raise _database_error(error) from error
        return list(results)

    async def close(self) -> None:
        """Finish what is under way and close the file. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._connection.close()
        except _DRIVER_ERRORS as error:
            raise _database_error(error) from error
        finally:
            await _ended(self._thread)


class LocalUnit:
    """A transaction that is open for as long as its caller likes."""

    def __init__(self, database: LocalD1Database) -> None:
        self.ended: asyncio.Event = asyncio.Event()
        self._database = database
        self._turn = asyncio.Lock()
        self._begun = False
        self._committed = False

    @property
    def begun(self) -> bool:
        """Whether anything has run in it."""
        return self._begun

    async def run(self, statements: Sequence[D1PreparedStatement]) -> list[LocalResult]:
        """Run statements in it, beginning it first if need be."""
        async with self._turn:
            begin = None if self._begun else "BEGIN IMMEDIATE"
            if begin:
                await self._database._wait_for_turn()  # noqa: SLF001  # one module, one thing
                self._check_going_on()  # or nobody would ever give the turn back
                self._database._open, self._begun = self, True  # noqa: SLF001
            return await self._hop(statements, begin=begin)

    async def commit(self, statements: Sequence[D1PreparedStatement]) -> list[LocalResult]:
        """Run the last statements and commit. An error rolls everything back."""
        async with self._turn:
            results = await self._hop(statements, commit=True)
            self._committed = True
            return results

    async def end(self) -> None:
        """Roll back what was not committed, and let the others go on."""
        if self._begun and not self._committed and not self.ended.is_set():
            # In a task of its own: whoever is cancelled here must not let the others in before it is done.
            rolling_back = asyncio.ensure_future(self._roll_back())
            await asyncio.shield(rolling_back)
        else:
            self._let_go()

    async def _hop(
        self, statements: Sequence[D1PreparedStatement], *, begin: str | None = None, commit: bool = False
    ) -> list[LocalResult]:
        self._check_going_on()
        unit = _Unit(_own(statements), begin=begin, commit=commit, inside=begin is None)
        return await self._database._hop(unit)  # noqa: SLF001

    def _check_going_on(self) -> None:
        if self.ended.is_set():
            raise D1DatabaseError("the transaction has ended")

    async def _roll_back(self) -> None:
        try:
            # Where the file was closed meanwhile, that has rolled back.
            with suppress(D1DatabaseError, ValueError):
                await self._database._hop(_Unit([], begin=None, roll_back=True))  # noqa: SLF001
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._database._open is self:  # noqa: SLF001
            self._database._open = None  # noqa: SLF001
        self.ended.set()


class _Unit(str):
    """Travels to the connection's thread in the place of a statement's text."""

    __slots__ = ("begin", "commit", "inside", "roll_back", "statements")
    statements: Sequence[tuple[str, tuple[D1Value, ...]]]
    begin: str | None
    commit: bool
    inside: bool
    """Whether it must find a transaction open."""
    roll_back: bool

    def __new__(
        cls,
        statements: Sequence[LocalStatement],
        *,
        begin: str | None,
        commit: bool = False,
        inside: bool = False,
        roll_back: bool = False,
    ) -> Self:
        unit = super().__new__(cls, f"a unit of {len(statements)} statements")
        unit.statements = [(statement.sql, statement.values) for statement in statements]
        unit.begin = begin
        unit.commit = commit
        unit.inside = inside
        unit.roll_back = roll_back
        return unit


class _UnitCursor(sqlite3.Cursor):
    """Hands a unit's results over where aiosqlite looks for rows."""

    results: list[LocalResult]

    def fetchall(self) -> list[Any]:
        return self.results


class _Connection(sqlite3.Connection):
    """A connection that can run a unit, transaction and all, within one call of `execute`."""

    def __init__(self, path: str, *, synchronous: Synchronous, timeout: float, **options: Any) -> None:
        super().__init__(path, timeout=timeout, **options)
        try:
            for limit, value in _LIMITS.items():
                self.setlimit(limit, value)
            self._use_wal(time.monotonic() + timeout)
            super().execute(f"PRAGMA synchronous = {synchronous}")
            # The claims' small intermediate tables would each cost a temporary file.
            super().execute("PRAGMA temp_store = MEMORY")
            self.set_authorizer(_authorize)
        except BaseException:
            self.close()
            raise

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if not isinstance(sql, _Unit):
            return super().execute(sql, parameters)
        cursor = self.cursor(_UnitCursor)
        cursor.results = self._run(sql)
        return cursor

    def _run(self, unit: _Unit) -> list[LocalResult]:
        if unit.inside and not self.in_transaction:
            raise sqlite3.OperationalError("a statement before has ended the transaction")
        if unit.begin is not None:
            super().execute(unit.begin)
        try:
            results = [self._run_one(*statement) for statement in unit.statements]
            if unit.commit:
                super().execute("COMMIT")
        except BaseException:
            if unit.commit:
                self._roll_back()
            raise
        if unit.roll_back:
            self._roll_back()
        return results

    def _roll_back(self) -> None:
        # Some errors (a full disk, for one) have ended the transaction already.
        if self.in_transaction:
            super().execute("ROLLBACK")

    def _run_one(self, sql: str, values: tuple[D1Value, ...]) -> LocalResult:
        cursor = super().execute(sql, _by_name(sql, values) if _NUMBERED_NEED_NAMES else values)
        names = [column[0] for column in cursor.description or ()]
        rows = [dict(zip(names, map(as_read, row), strict=True)) for row in cursor.fetchall()]
        return LocalResult(rows, {"changes": max(cursor.rowcount, 0), "last_row_id": cursor.lastrowid})

    def _use_wal(self, deadline: float) -> None:
        # SQLite does not wait for a lock here, and several processes may open a new file at once: it raises, or leaves
        # the mode as it was.
        while True:
            try:
                ((mode,),) = super().execute("PRAGMA journal_mode = WAL").fetchall()
                if mode in _JOURNAL_MODES:
                    return
                problem = sqlite3.OperationalError(f"the file stays in journal mode {mode!r} and cannot be shared")
            except sqlite3.OperationalError as error:
                if _primary_code(error) not in _LOCKED:
                    raise
                problem = error
            if time.monotonic() > deadline:
                raise problem
            time.sleep(0.01)


class _Connector:
    """Connects, and knows the thread on which the connection lives."""

    def __init__(self, path: str, synchronous: Synchronous, busy_timeout: timedelta) -> None:
        self._path = path
        self._synchronous = synchronous
        self._timeout_s = busy_timeout.total_seconds()
        self._thread: Thread | None = None

    async def connect(self) -> tuple[aiosqlite.Connection, Thread]:
        connecting = _aiosqlite().connect(
            self._path,
            factory=self._open,
            timeout=self._timeout_s,
            isolation_level=None,
            cached_statements=_CACHED_STATEMENTS,
        )
        try:
            connection = await connecting
        except BaseException:
            # A thread that is still ending when the event loop closes makes noise.
            await _ended(self._thread)
            raise
        assert self._thread is not None
        return connection, self._thread

    def _open(self, path: str, **options: Any) -> _Connection:
        self._thread = current_thread()
        options.pop("factory", None)
        return _Connection(path, synchronous=self._synchronous, **options)


_inside: ContextVar[LocalUnit | None] = ContextVar("workflow_store_d1_unit", default=None)
"""The transaction in whose function the present task runs."""


def _own(statements: Sequence[D1PreparedStatement]) -> list[LocalStatement]:
    mine = [statement for statement in statements if isinstance(statement, LocalStatement)]
    if len(mine) != len(statements):
        raise TypeError("a batch takes the statements that prepare() of the same kind of database gave")
    return mine


async def _ended(thread: Thread | None) -> None:
    while thread is not None and thread.is_alive():  # noqa: ASYNC110  # a thread that ends tells no Event
        await asyncio.sleep(0.001)


def _check_options(path: str, synchronous: Synchronous, busy_timeout: timedelta) -> None:
    _aiosqlite()
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        needed = ".".join(map(str, _OLDEST_SQLITE))
        raise ConfigurationError(f"SQLite {needed} or newer is needed; this Python has {sqlite3.sqlite_version}")
    if not path or "\0" in path:
        raise InvalidArgumentError("path", "must name a file")
    if synchronous not in get_args(Synchronous):
        raise InvalidArgumentError("synchronous", f"must be one of {', '.join(get_args(Synchronous))}")
    if busy_timeout < timedelta(0):
        raise InvalidArgumentError("busy_timeout", "must not be negative")


def _aiosqlite() -> ModuleType:
    try:
        import aiosqlite  # noqa: PLC0415  # an extra: everything else works without it
    except ImportError as error:
        raise ConfigurationError(
            'a local SQLite file needs aiosqlite: pip install "workflow-store-d1[local]"'
        ) from error
    return aiosqlite


def _by_name(sql: str, values: tuple[D1Value, ...]) -> tuple[D1Value, ...] | dict[str, D1Value]:
    names = set(_NUMBERED.findall(sql))
    # A wrong number of values is left as it is, for the driver to refuse.
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


def _database_error(error: Exception, *, passes: frozenset[int] = _PASSES) -> D1DatabaseError:
    code = getattr(error, "sqlite_errorcode", None)
    return D1DatabaseError(
        str(error),
        unavailable=_primary_code(error) in passes and code not in _FOR_GOOD,
        outcome_unknown=code in _COMMIT_IN_DOUBT,
    )


def _primary_code(error: Exception) -> int | None:
    # The low byte is the primary code; the rest of an extended code only says why.
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
