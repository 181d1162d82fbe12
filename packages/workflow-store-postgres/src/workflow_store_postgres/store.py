"""The store: its roles put together, and what concerns it as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

import asyncpg
from workflow_migrations import Migration
from workflow_runtime.errors import CapabilityNotSupportedError, ConfigurationError, StoreUnavailableError
from workflow_runtime.ids import new_id
from workflow_runtime.isolation import outside_handlers, refuse_in_handler
from workflow_runtime.logs import get_logger
from workflow_runtime.store import LeaseRenewer, Listening, WorkNotice

from . import schema as schema_module
from .bulk import Bulk
from .events import EventLog
from .failures import driver_errors
from .leases import Leases
from .listening import Listener, OpenConnection, borrowed_from, connected_to
from .notices import Notices
from .queries import Queries
from .role import CAPABILITIES
from .rows import RowReader
from .runs import RunLifecycle
from .schedules import Schedules
from .session import Session
from .signals import Signals
from .timers import Timers
from .transactions import Transactions

__all__ = ["PostgresWorkflowStore", "StoreOpening"]

OpenHeartbeats: TypeAlias = Callable[[], AbstractAsyncContextManager[LeaseRenewer]]

logger = get_logger("workflow_store_postgres")

_CLOSE_TIMEOUT_S = 10.0


@outside_handlers
class PostgresWorkflowStore(RunLifecycle, Bulk, EventLog, Leases, Timers, Signals, Schedules, Queries, Transactions):
    """Keeps the contract in a PostgreSQL database.

    Args:
        pool: Where the connections come from. The store neither closes nor changes it.
        schema: Where the tables are; by default wherever the connections' search_path finds them.
        tables: Table names by key, where they are not the defaults.
        listen: Whether workers on this store hear of new work by LISTEN: while one works, a connection of the pool is
            kept for that. False behind a pooler in transaction mode: they then poll. Telling others of new work by
            NOTIFY works everywhere.
        heartbeat_connect: Makes a new connection to the same database, on whatever event loop runs: with it a worker
            renews leases from a thread, and a step that blocks the event loop does not lose its run.
        acquire_timeout: How long a call waits for a free connection before it raises `StoreUnavailableError`.
        new_token: Makes a lease token that was never used before; for tests.

    Raises:
        ConfigurationError: Names that cannot work.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        schema: str | None = None,
        tables: Mapping[str, str] | None = None,
        *,
        listen: bool = True,
        heartbeat_connect: Callable[[], Awaitable[asyncpg.Connection]] | None = None,
        acquire_timeout: timedelta = timedelta(seconds=30),
        new_token: Callable[[], str] = new_id,
    ) -> None:
        names = schema_module.table_names(tables)
        self._session = Session(
            pool,
            names,
            schema_module.schema_name(schema),
            new_token=new_token,
            acquire_timeout_s=acquire_timeout.total_seconds(),
        )
        self._read = RowReader(names)
        self._notices = Notices(self._session)
        self._own_pool: asyncpg.Pool | None = None
        self._open_listening: OpenConnection | None = (
            _spare_connection(pool, acquire_timeout.total_seconds()) if listen else None
        )
        self._open_heartbeats: OpenHeartbeats | None = (
            None if heartbeat_connect is None else self._beating_by(heartbeat_connect)
        )
        self._declare()

    @classmethod
    def connect(
        cls,
        dsn: str | None = None,
        *,
        schema: str | None = None,
        tables: Mapping[str, str] | None = None,
        listen: bool = True,
        acquire_timeout: timedelta = timedelta(seconds=30),
        **pool_options: Any,
    ) -> StoreOpening:
        """Open a store on a pool of its own: `await` it and close it yourself, or use `async with`.

        Args:
            dsn: Where the database is; by default what libpq's environment variables say.
            schema: As for the class.
            tables: As for the class.
            listen: As for the class, but a worker listens on a connection of its own beside the pool.
            acquire_timeout: As for the class.
            pool_options: Whatever `asyncpg.create_pool` takes, such as `max_size` or `statement_cache_size`.

        Raises:
            ConfigurationError: Names, or options of the pool, that cannot work.
            StoreUnavailableError: The server cannot be reached.
            StoreOperationError: The server refuses the connection.
        """

        async def open_store() -> PostgresWorkflowStore:
            options = _with_defaults(pool_options)
            pool = await _open_pool(dsn, options)
            try:
                store = cls(pool, schema, tables, listen=False, acquire_timeout=acquire_timeout)
            except ConfigurationError:
                await pool.close()
                raise
            store._own_pool = pool
            store._open_listening = connected_to(dsn, options) if listen else None
            alone = {**pool_options, "min_size": 0, "max_size": 1}
            store._open_heartbeats = partial(cls.connect, dsn, schema=schema, tables=tables, listen=False, **alone)
            store._declare()
            return store

        return StoreOpening(open_store)

    async def close(self) -> None:
        """End the store. One that was made by `connect` closes its pool; a second call does nothing."""
        await self._notices.flush()
        self._session.close()
        pool, self._own_pool = self._own_pool, None
        if pool is None:
            return
        try:
            with driver_errors():
                await asyncio.wait_for(pool.close(), _CLOSE_TIMEOUT_S)
        except StoreUnavailableError:
            pool.terminate()  # somebody still waits for an answer, or the server is gone: nothing is lost with it

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def ensure_schema(self, *, lock_timeout: timedelta = timedelta(seconds=60)) -> None:
        """Create or upgrade the tables.

        Args:
            lock_timeout: How long to wait for another process that is migrating.

        Raises:
            ForeignTablesError: Tables of these names belong to something else.
            SchemaAheadError: The database is newer than this package.
            StoreUnavailableError: Another process has been migrating for longer; the message says which.
        """
        await schema_module.ensure_schema(self._session, lock_timeout.total_seconds())

    async def check_schema(self) -> None:
        """Raise unless the tables fit this code."""
        await schema_module.check_schema(self._session)

    def get_migrations(self) -> tuple[Migration, ...]:
        """Give the package's migrations in order, with default table names."""
        return schema_module.get_migrations()

    def get_migration_sql(self, schema: str | None = None, tables: Mapping[str, str] | None = None) -> str:
        """Give all migrations as one script, with this store's names where none are given."""
        return schema_module.get_migration_sql(
            self._session.schema if schema is None else schema,
            self._session.tables.by_key() if tables is None else tables,
        )

    async def read_clock(self) -> int:
        """Read the database's time."""
        rows = await self._session.rows("read_clock")
        clock: int = rows[0]["clock"]
        return clock

    def listen(self, on_notice: Callable[[WorkNotice], None]) -> AbstractAsyncContextManager[Listening]:
        """Hear of new work for as long as the block lasts."""
        return self._listening(on_notice)

    @asynccontextmanager
    async def _listening(self, on_notice: Callable[[WorkNotice], None]) -> AsyncGenerator[Listening, None]:
        if self._open_listening is None:
            raise CapabilityNotSupportedError("notify")
        async with Listener(self._session, self._open_listening, on_notice).listening() as listener:
            yield listener
        await self._notices.flush()  # what a worker that stops has handed over is told before its program ends

    def open_heartbeats(self) -> AbstractAsyncContextManager[LeaseRenewer]:
        """Open a connection for nothing but heartbeats, on the event loop that runs."""
        if self._open_heartbeats is None:
            raise CapabilityNotSupportedError("heartbeats")
        return self._open_heartbeats()

    def _declare(self) -> None:
        self._capabilities = replace(
            CAPABILITIES,
            notify=self._open_listening is not None,
            heartbeats=self._open_heartbeats is not None,
        )

    def _beating_by(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> OpenHeartbeats:
        async def connect_anew(*_: object, **__: object) -> asyncpg.Connection:
            return await connect()

        @asynccontextmanager
        async def open_heartbeats() -> AsyncGenerator[LeaseRenewer, None]:
            # A pool of one makes the connection anew when it breaks.
            async with asyncpg.create_pool(connect=connect_anew, min_size=0, max_size=1) as pool:
                tables = self._session.tables.by_key()
                yield PostgresWorkflowStore(pool, self._session.schema, tables, listen=False)

        return open_heartbeats


def _spare_connection(pool: asyncpg.Pool, timeout_s: float) -> OpenConnection | None:
    if pool.get_max_size() > 1:
        return borrowed_from(pool, timeout_s)
    logger.info("a pool of one connection has none to spare for listening: workers on this store poll")
    return None


class _UnresetConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection of a pool that nobody but the store uses.

    No statement of the store leaves anything behind, so the round trip that would clean up is spared. A function that
    ran in a transaction may have left whatever it likes.
    """

    _was_lent = False

    def transaction(self, **options: Any) -> Any:
        # The store's own statements are transactions by themselves.
        self._was_lent = True
        return super().transaction(**options)

    def get_reset_query(self) -> str:
        query: str = super().get_reset_query() if self._was_lent else ""
        self._was_lent = False
        return query


def _with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    settings = {"application_name": "workflow-store-postgres", **options.get("server_settings", {})}
    defaults = {
        "min_size": min(1, options.get("max_size", 1)),
        "connection_class": _UnresetConnection,
        # The statements are few and always the same: prepared once, they stay.
        "max_cached_statement_lifetime": 0,
    }
    return {**defaults, **options, "server_settings": settings}


async def _open_pool(dsn: str | None, options: Mapping[str, Any]) -> asyncpg.Pool:
    try:
        with driver_errors():
            pool: asyncpg.Pool = await asyncpg.create_pool(dsn, **options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the pool cannot be made: {error}") from error
    return pool


class StoreOpening:
    """What `PostgresWorkflowStore.connect` gives: to be awaited, or to be entered with `async with`."""

    def __init__(self, open_store: Callable[[], Coroutine[Any, Any, PostgresWorkflowStore]]) -> None:
        self._open_store = open_store
        self._store: PostgresWorkflowStore | None = None

    def __await__(self) -> Generator[Any, None, PostgresWorkflowStore]:
        refuse_in_handler("a store that is opened")
        return self._open_store().__await__()

    async def __aenter__(self) -> PostgresWorkflowStore:
        refuse_in_handler("a store that is opened")
        self._store = await self._open_store()
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._store is not None:
            await self._store.close()
