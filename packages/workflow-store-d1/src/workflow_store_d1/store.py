"""The store: its roles put together, and what concerns it as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from workflow_migrations import Migration
from workflow_runtime.store import (
    CapabilityNotSupportedError,
    ConfigurationError,
    LeaseRenewer,
    new_id,
    outside_handlers,
)
from workflow_store_sql import RowReader, StoreOpening, environment_name, table_names

from . import schema
from .binding import as_database
from .bulk import Bulk
from .capabilities import CAPABILITIES
from .database import D1Database, D1DatabaseError
from .event_log import EventLog
from .forks import Forks
from .http import API_URL, D1HttpDatabase
from .leases import Leases
from .queries import Queries
from .retries import Retries
from .rows import checked_payload
from .runs import RunLifecycle
from .schedules import Schedules
from .signals import Signals
from .statement_sender import StatementSender, store_error
from .timers import Timers
from .transactions import TransactionalAppends

if TYPE_CHECKING:
    from .local import LocalD1Database, Synchronous

__all__ = ["D1WorkflowStore"]

OpenHeartbeats: TypeAlias = Callable[[], AbstractAsyncContextManager[LeaseRenewer]]


@outside_handlers
class D1WorkflowStore(
    RunLifecycle, Forks, Bulk, EventLog, Leases, Timers, Signals, Schedules, Queries, TransactionalAppends
):
    """The store in a D1 database, or in a local SQLite file that behaves like one.

    Args:
        db: The database, or the D1 binding of a Python Worker (`env.DB`). The store does not close it.
        tables: Table names by key, where they are not the defaults.
        environment: Environment of the program, such as "production". New tables are marked with it, and workers refuse
            tables that are marked with another, or with any if this is absent: a copy that was restored elsewhere.
        new_token: Makes a lease token that was never used before; for tests.
        retries: How a batch is repeated whose answer was lost.

    Raises:
        ConfigurationError: Table names that cannot work.
    """

    def __init__(
        self,
        db: D1Database,
        tables: Mapping[str, str] | None = None,
        *,
        environment: str | None = None,
        new_token: Callable[[], str] = new_id,
        retries: Retries | None = None,
    ) -> None:
        names = table_names(tables)
        self._environment = environment_name(environment)
        self._sender = StatementSender(as_database(db), names, new_token=new_token, retries=retries)
        self._read = RowReader(names, checked_payload)
        self._own_database: _Closeable | None = None
        self._capabilities = CAPABILITIES
        self._open_heartbeats: OpenHeartbeats | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        tables: Mapping[str, str] | None = None,
        synchronous: Synchronous = "FULL",
        busy_timeout: timedelta = timedelta(seconds=10),
        call_timeout: timedelta = timedelta(seconds=60),
        max_payload_bytes: int = CAPABILITIES.max_payload_bytes,
        combine: bool = True,
        environment: str | None = None,
    ) -> StoreOpening[Self]:
        """Open a store on a local SQLite file: `await` it and close it yourself, or use `async with`.

        Args:
            path: The file; it is created when it is not there. A runtime makes the tables, and so does `ensure_schema`.
            tables: Table names by key, where they are not the defaults.
            synchronous: What SQLite does before a commit returns. `NORMAL` is faster and may lose the last commits
                when the machine loses power.
            busy_timeout: How long a call waits for others: another process's transaction, or one of this store.
            call_timeout: How long SQLite may take for a call beyond that; it is interrupted then.
            max_payload_bytes: The largest payload that the store accepts. The default is what D1 can carry; a file that
                will not move to D1 may take up to about 499,000,000.
            combine: Whether writes that wait at the same time share a commit. Either way each is done as a whole or not
                at all, and is answered when it is durable.
            environment: As for the class.

        Raises:
            ConfigurationError: This Python has no SQLite, or one that is too old; or table names that cannot work.
            InvalidArgumentError: An unusable argument.
            StoreOperationError: The file cannot be opened, or is no database.
        """
        options: Any = {
            "synchronous": synchronous,
            "busy_timeout": busy_timeout,
            "call_timeout": call_timeout,
            "max_payload_bytes": max_payload_bytes,
            "combine": combine,
        }

        async def open_store() -> Self:
            table_names(tables)
            environment_name(environment)
            try:
                database = await _local().open(path, **options)
            except D1DatabaseError as error:
                raise store_error(error) from error
            store = cls(database, tables, environment=environment)
            again = partial(cls.open, database.path, tables=tables, **options)
            store._own(database, None if database.is_in_memory else again)
            # A file is its program's own: nobody else migrates it.
            store._declare(max_payload_bytes=max_payload_bytes, auto_schema=True)
            return store

        return StoreOpening(open_store, f"{cls.__name__}.open(...)")

    @classmethod
    def connect_http(
        cls,
        account_id: str,
        database_id: str,
        token: str,
        *,
        tables: Mapping[str, str] | None = None,
        base_url: str = API_URL,
        timeout: timedelta = timedelta(seconds=30),
        max_connections: int = 6,
        retries: Retries | None = None,
        environment: str | None = None,
    ) -> StoreOpening[Self]:
        """Open a store on D1 over Cloudflare's HTTP API: `await` it and close it yourself, or use `async with`.

        Args:
            account_id: Of the Cloudflare account.
            database_id: Of the database; a UUID, not its name.
            token: An API token with the permission D1:Edit.
            tables: Table names by key, where they are not the defaults.
            base_url: Where the API is.
            timeout: For each step of a request: connecting, sending, waiting for the answer; and for a call's turn.
                A whole request ends after four times that.
            max_connections: At most so many requests at once; further calls wait.
            retries: How a call is repeated that had no effect, or that is recognised when it had.
            environment: As for the class.

        Raises:
            ConfigurationError: httpx is not installed, or table names that cannot work.
            InvalidArgumentError: An unusable argument.
        """
        options: Any = {
            "base_url": base_url,
            "timeout": timeout,
            "max_connections": max_connections,
            "retries": retries,
        }
        again = partial(cls.connect_http, account_id, database_id, token, tables=tables, **options)

        async def open_store() -> Self:
            table_names(tables)
            environment_name(environment)
            database = D1HttpDatabase(account_id, database_id, token, **options)
            store = cls(database, tables, retries=retries, environment=environment)
            store._own(database, again)
            return store

        return StoreOpening(open_store, f"{cls.__name__}.connect_http(...)")

    def _own(self, database: _Closeable, again: OpenHeartbeats | None) -> None:
        """Take a database that ends with the store, and how to open it again if that can be done."""
        self._own_database = database
        self._open_heartbeats = again
        self._declare(heartbeats=again is not None)

    def _declare(self, **facts: Any) -> None:
        self._capabilities = replace(self._capabilities, **facts)

    @property
    def database(self) -> D1Database:
        """The database, for tables of your own beside those of the store."""
        return self._sender.database

    async def close(self) -> None:
        """End the store. One that opened its database closes it; a second call does nothing."""
        self._sender.close()
        database, self._own_database = self._own_database, None
        if database is not None:
            try:
                await database.close()
            except D1DatabaseError as error:
                raise store_error(error) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def open_heartbeats(self) -> AbstractAsyncContextManager[LeaseRenewer]:
        """Open the database once more, for nothing but heartbeats, on the event loop that runs."""
        if self._open_heartbeats is None:
            raise CapabilityNotSupportedError("heartbeats")
        return self._open_heartbeats()

    async def ensure_schema(self, *, contract: bool = False, online: bool = True) -> None:
        """Create or upgrade the tables.

        Args:
            contract: Whether to take away, too, what programs of earlier releases need: only when none of them runs any
                more. It builds indexes too. New tables get every migration.
            online: Whether to build new indexes of tables that are in use. Programs do without one that is not there;
                who writes waits while it is built.

        Raises:
            ForeignTablesError: Tables of these names belong to something else.
            SchemaHalfAppliedError: A tool without a transaction stopped in the middle of a migration.
            SchemaUnrecordedError: The same, of a later migration; the message has the SQL that is left to run.
            SchemaAheadError: The database is newer than this package.
            WrongEnvironmentError: The tables belong to another environment.
        """
        await schema.ensure_schema(self._sender, self._environment, contract=contract, online=online)

    async def check_schema(self, *, deep: bool = False) -> None:
        """Raise unless the tables fit this code.

        Args:
            deep: Whether to look at each column, index and constraint too, as an operator does after a restore or when
                somebody has changed tables by hand. A worker that starts reads what is recorded, and no more.

        Raises:
            SchemaError: They do not fit; the message says what mends it.
        """
        await schema.check_schema(self._sender, self._environment, deep=deep)

    def get_migrations(self) -> tuple[Migration, ...]:
        """Return the package's migrations in order, with default table names."""
        return schema.get_migrations()

    def get_migration_sql(self, tables: Mapping[str, str] | None = None) -> str:
        """Return all migrations as one script, with this store's table names unless others are given."""
        return schema.get_migration_sql(self._sender.tables.by_key() if tables is None else tables)

    async def read_clock(self) -> int:
        """Read the database's time."""
        rows = await self._sender.rows("read_clock")
        clock: int = rows[0]["clock"]
        return clock


def _local() -> type[LocalD1Database]:
    try:
        from .local import LocalD1Database  # noqa: PLC0415  # brings sqlite3 and threads, which Workers do not have
    except ImportError as error:
        raise ConfigurationError(
            f"this Python cannot open a file ({error}); in a Worker hand the D1 binding over: D1WorkflowStore(env.DB)"
        ) from error
    return LocalD1Database


class _Closeable(Protocol):
    async def close(self) -> None: ...
