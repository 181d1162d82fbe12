"""A `D1Database` on a local SQLite file.

One connection, on a thread of its own. Each call is a single hop to that thread, a batch included: its BEGIN, its
statements and its COMMIT run there in one go. A task that is cancelled while it waits therefore leaves nothing
half done behind, and other tasks on the same connection cannot get between two statements of a batch.

No call waits for ever: `busy_timeout` bounds how long it waits for others (another process's transaction, calls before
it, a transaction of this handle), `call_timeout` what SQLite takes beyond that. Nothing imports this module, or the
threads and sqlite3 that it needs, before a file is opened.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Self, get_args

from workflow_runtime.store import ConfigurationError, Home, InvalidArgumentError, check_duration

from .connection_thread import ConnectionThread
from .database import D1DatabaseError, D1PreparedStatement, D1Value
from .javascript import as_bound, as_bound_plainly
from .jobs import Manner
from .limits import MAX_BOUND_VALUES, MAX_VALUE_BYTES, check_statement, check_values, first_keyword
from .sqlite_connection import (
    IN_MEMORY,
    PASSES_AT_THE_START,
    SQLITE_ERRORS,
    ConnectionCall,
    LocalResult,
    Settings,
    SQLiteConnection,
    Synchronous,
    check_version,
    database_error,
    greatest_value_bytes,
)

__all__ = [
    "LocalD1Database",
    "LocalResult",
    "LocalStatement",
    "LocalTransaction",
    "Synchronous",
    "largest_payload_bytes",
]

_AT_EXIT_S = 5.0
"""The longest that the end of the program waits for files that nobody closed."""

_WRITING = frozenset({"DELETE", "INSERT", "REPLACE", "UPDATE"})
_COMBINED = _WRITING | {"SELECT", "WITH"}
"""First words of what may share a transaction. The rest changes tables, or settings that outlive a statement. WITH by
itself may be a read, which must not wait for the right to write.
"""

_BESIDE_PAYLOADS = 200_000
"""Bytes of a row, or of a value, that are no payload."""


class LocalStatement:
    """One statement with its values."""

    __slots__ = ("_database", "sql", "values")

    def __init__(self, database: LocalD1Database, sql: str, values: tuple[D1Value, ...]) -> None:
        self._database = database
        self.sql: str = sql
        self.values: tuple[D1Value, ...] = values

    def bind(self, *values: D1Value) -> Self:
        """Return a statement of the same text with these values for `?1`, `?2` and so on."""
        return type(self)(self._database, self.sql, _bound(values, self._database.max_value_bytes))

    async def all(self) -> LocalResult:
        """Run it as a transaction of its own and give its rows."""
        (result,) = await self._database.execute([self], begin=None)
        return result

    async def run(self) -> LocalResult:
        """Run it as a transaction of its own."""
        return await self.all()


class LocalD1Database:
    """One handle on a SQLite file; several processes may have one each.

    Made by `open`, ended by `close`. It belongs to the event loop on which it was opened.
    """

    def __init__(self, path: str, settings: Settings, call_timeout_s: float, *, combine: bool = True) -> None:
        self.max_value_bytes: int = settings.max_value_bytes
        """The largest value, and the largest row, that it carries."""
        self._path = path
        self._combine = combine
        self._busy_timeout_s = settings.busy_timeout_s
        self._longest_s = settings.busy_timeout_s + call_timeout_s
        self._home = Home("this SQLite store")
        self._closed = False
        self._open: LocalTransaction | None = None
        self._thread = ConnectionThread(f"SQLite {Path(path).name}", partial(SQLiteConnection, path, settings))
        _handles.add(self)
        _threads.add(self._thread)

    @property
    def path(self) -> str:
        """The file."""
        return self._path

    @property
    def is_in_memory(self) -> bool:
        """True if there is no file, and nothing that could be opened again."""
        return self._path == IN_MEMORY

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "FULL",
        busy_timeout: timedelta = timedelta(seconds=10),
        call_timeout: timedelta = timedelta(seconds=60),
        max_payload_bytes: int | None = None,
        combine: bool = True,
    ) -> Self:
        """Open a file, or create it.

        Args:
            path: The file; `:memory:` gives a database that ends with its handle.
            synchronous: What SQLite does before a commit returns.
            busy_timeout: How long a call waits for others: another process's transaction, or one of this handle.
            call_timeout: How long SQLite may take for a call beyond that; it is interrupted then.
            max_payload_bytes: Room for two payloads of this size in a row. By default that of D1: values and rows of
                2,000,000 bytes.
            combine: Whether writes that wait at the same time share a commit.

        Raises:
            ConfigurationError: SQLite is too old.
            InvalidArgumentError: An unusable argument.
            D1DatabaseError: The file cannot be opened, or is no database.
        """
        path = _checked_path(path)
        _check_options(synchronous, busy_timeout, call_timeout)
        settings = Settings(
            synchronous=synchronous,
            busy_timeout_s=busy_timeout.total_seconds(),
            max_value_bytes=_value_bytes(max_payload_bytes),
        )
        try:
            database = cls(path, settings, call_timeout.total_seconds(), combine=combine)
        except RuntimeError as error:  # there are too many threads, or the program is ending
            raise D1DatabaseError(f"no thread for the file: {error}", unavailable=True) from error
        await database._connect()
        return database

    async def _connect(self) -> None:
        try:
            await self._thread.connected(self._longest_s)
        except BaseException as error:
            # Nobody waits for the thread: it ends by itself, and closes what it has opened.
            self._closed = True
            self._thread.end(hurry=True)
            if isinstance(error, SQLITE_ERRORS):
                raise database_error(error, passes=PASSES_AT_THE_START) from error
            raise

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
        deadline = await self._wait_for_turn()
        texts = _texts(statements)
        call = ConnectionCall(statements=texts, begin=begin, commit=begin is not None, deadline=deadline)
        return await self._hop(call, _manner(call) if self._combine else Manner.ALONE)

    @asynccontextmanager
    async def interactive(self) -> AsyncIterator[LocalTransaction]:
        """Open a transaction that begins with its first statement. Other tasks on this handle wait until it ends."""
        transaction = LocalTransaction(self)
        token = _inside.set(transaction)
        try:
            yield transaction
        finally:
            _inside.reset(token)
            await transaction.end()

    async def _wait_for_turn(self) -> float:
        """Wait until no transaction of this handle is open; give until when the call may wait for others.

        Raises:
            ConfigurationError: The database cannot be used here.
            D1DatabaseError: The transaction does not end.
        """
        deadline = time.monotonic() + self._busy_timeout_s
        while self._open is not None and not self._closed:
            self._home.check()  # as is done before any hop
            if self._open is _inside.get():
                raise ConfigurationError(
                    "the store cannot be used from inside its own transaction, which would wait for itself; "
                    "use the transaction's execute() and fetch(), or do it in a step of its own"
                )
            await self._open.wait(self._busy_timeout_s, deadline)
        return deadline

    async def _hop(self, call: ConnectionCall, manner: Manner = Manner.ALONE) -> list[LocalResult]:
        self._home.check()
        if self._closed:
            raise ConfigurationError("the database is closed")
        try:
            return await self._thread.call(
                lambda connection: connection.run(call), within_s=self._longest_s, manner=manner, unit=call
            )
        except SQLITE_ERRORS as error:
            raise database_error(error) from error

    async def close(self) -> None:
        """Finish what is under way and close the file. A second call does nothing.

        It may be called on any event loop. In a forked child it does nothing: the file is the parent's.

        Raises:
            D1DatabaseError: It could not be closed in time.
        """
        if self._closed or self._home.is_inherited:
            self._closed = True
            return
        self._closed = True
        self._thread.end()
        if not await self._thread.ended(self._longest_s):
            raise D1DatabaseError(f"{self._path} could not be closed: it does not answer", unavailable=True)

    def __del__(self) -> None:
        if self._abandon():
            self._warn()

    def _abandon(self) -> bool:
        """End a handle that nobody closed. What was acknowledged is in the file already.

        Returns:
            Whether nobody had closed it.
        """
        thread: ConnectionThread | None = getattr(self, "_thread", None)  # half-initialised otherwise
        if thread is None or self._closed or self._home.is_inherited:
            return False
        self._closed = True
        thread.end(hurry=True)
        return True

    def _warn(self) -> None:
        problem = f"nobody closed the SQLite store on {self._path!r}: use `async with`, or `await store.close()`"
        warnings.warn(problem, ResourceWarning, stacklevel=2, source=self)


_handles: weakref.WeakSet[LocalD1Database] = weakref.WeakSet()
_threads: weakref.WeakSet[ConnectionThread] = weakref.WeakSet()
"""Those of handles that are garbage too: a thread that runs keeps itself."""


@atexit.register
def _end_forgotten() -> None:
    """Close at the end of the program what nobody has closed."""
    forgotten = [handle for handle in list(_handles) if handle._abandon()]  # noqa: SLF001  # one module, one thing
    end = time.monotonic() + _AT_EXIT_S
    for thread in list(_threads):
        thread.join(max(0.0, end - time.monotonic()))
    for handle in forgotten:
        handle._warn()  # noqa: SLF001


class LocalTransaction:
    """A transaction that is open for as long as its caller likes."""

    def __init__(self, database: LocalD1Database) -> None:
        self._ended = asyncio.Event()
        self._database = database
        self._turn = asyncio.Lock()
        self._begun = False
        self._committed = False

    @property
    def begun(self) -> bool:
        """True if anything has run in it."""
        return self._begun

    async def wait(self, within_s: float, deadline: float) -> None:
        """Wait for its end.

        Raises:
            D1DatabaseError: It has not ended in time.
        """
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._ended.wait()
        except TimeoutError:
            problem = f"another transaction of this program has held the file for more than {within_s:g} s"
            raise D1DatabaseError(problem, unavailable=True) from None

    async def run(self, statements: Sequence[D1PreparedStatement]) -> list[LocalResult]:
        """Run statements in it, beginning it first if need be."""
        async with self._turn:
            begin = None if self._begun else "BEGIN IMMEDIATE"
            if begin:
                deadline = await self._database._wait_for_turn()  # noqa: SLF001  # one module, one thing
                self._check_going_on()  # or the turn would never be given back
                self._database._open, self._begun = self, True  # noqa: SLF001
                return await self._hop(statements, begin=begin, deadline=deadline)
            return await self._hop(statements)

    async def commit(self, statements: Sequence[D1PreparedStatement]) -> list[LocalResult]:
        """Run the last statements and commit. An error rolls everything back."""
        async with self._turn:
            results = await self._hop(statements, commit=True)
            self._committed = True
            return results

    async def end(self) -> None:
        """Roll back what was not committed, and let the others go on."""
        if self._begun and not self._committed and not self._ended.is_set():
            # In its own task: a cancelled caller must not let others in before the work is done.
            rolling_back = asyncio.ensure_future(self._roll_back())
            await asyncio.shield(rolling_back)
        else:
            self._let_go()

    async def _hop(
        self,
        statements: Sequence[D1PreparedStatement],
        *,
        begin: str | None = None,
        commit: bool = False,
        deadline: float = 0.0,
    ) -> list[LocalResult]:
        self._check_going_on()
        texts = _texts(_own(statements))
        call = ConnectionCall(statements=texts, begin=begin, commit=commit, inside=begin is None, deadline=deadline)
        return await self._database._hop(call)  # noqa: SLF001

    def _check_going_on(self) -> None:
        if self._ended.is_set():
            raise D1DatabaseError("the transaction has ended")

    async def _roll_back(self) -> None:
        try:
            # Where the file was closed meanwhile, that has rolled back.
            with suppress(D1DatabaseError, ConfigurationError):
                await self._database._hop(ConnectionCall(roll_back=True, deadline=0.0))  # noqa: SLF001
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._database._open is self:  # noqa: SLF001
            self._database._open = None  # noqa: SLF001
        self._ended.set()


_inside: ContextVar[LocalTransaction | None] = ContextVar("workflow_store_d1_transaction", default=None)
"""The transaction in whose function the present task runs."""


def largest_payload_bytes() -> int:
    """Return how large payloads may be in this SQLite: two of them lie in one row."""
    return (greatest_value_bytes() - _BESIDE_PAYLOADS) // 2


def _bound(values: tuple[D1Value, ...], max_bytes: int) -> tuple[D1Value, ...]:
    plain = as_bound_plainly(values, max_bytes) if len(values) <= MAX_BOUND_VALUES else None
    if plain is None:
        check_values(values, max_bytes)
        return tuple(map(as_bound, values))
    return plain


def _own(statements: Sequence[D1PreparedStatement]) -> list[LocalStatement]:
    mine = [statement for statement in statements if isinstance(statement, LocalStatement)]
    if len(mine) != len(statements):
        raise TypeError("a batch takes the statements that prepare() of the same kind of database gave")
    return mine


def _texts(statements: Sequence[LocalStatement]) -> list[tuple[str, tuple[D1Value, ...]]]:
    return [(statement.sql, statement.values) for statement in statements]


def _manner(call: ConnectionCall) -> Manner:
    if call.reads:
        return Manner.READS
    combined = _WRITING if call.begin is None else _COMBINED
    return Manner.JOINS if all(first_keyword(sql) in combined for sql, _ in call.statements) else Manner.ALONE


def _checked_path(path: str | os.PathLike[str]) -> str:
    text: object = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidArgumentError("path", "must name a file")
    # Absolute, so that a change of the working directory keeps the file.
    return text if text == IN_MEMORY else str(Path(text).absolute())


def _check_options(synchronous: Synchronous, busy_timeout: timedelta, call_timeout: timedelta) -> None:
    check_version()
    if synchronous not in get_args(Synchronous):
        raise InvalidArgumentError("synchronous", f"must be one of {', '.join(get_args(Synchronous))}")
    if check_duration("busy_timeout", busy_timeout) < timedelta(0):
        raise InvalidArgumentError("busy_timeout", "must not be negative")
    if call_timeout <= timedelta(0):
        raise InvalidArgumentError("call_timeout", "must be positive")


def _value_bytes(max_payload_bytes: int | None) -> int:
    if max_payload_bytes is None:
        return MAX_VALUE_BYTES
    largest = largest_payload_bytes()
    if type(max_payload_bytes) is not int or not 1 <= max_payload_bytes <= largest:
        raise InvalidArgumentError("max_payload_bytes", f"must be an int from 1 to {largest}, which SQLite carries")
    return max(MAX_VALUE_BYTES, 2 * max_payload_bytes + _BESIDE_PAYLOADS)
