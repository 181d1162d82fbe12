"""The store: its roles put together, and what concerns it as a whole."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeAlias

import asyncpg
from workflow_migrations import Migration
from workflow_runtime.store import (
    CapabilityNotSupportedError,
    ConfigurationError,
    Home,
    LeaseRenewer,
    Listening,
    WorkflowError,
    WorkNotice,
    check_duration,
    get_logger,
    new_id,
    outside_handlers,
)
from workflow_store_sql import RowReader, StoreOpening, environment_name, table_names

from . import schema as schema_module
from .bulk import Bulk
from .capabilities import CAPABILITIES
from .combined_writes import Combined
from .connections import Connections, in_time
from .event_log import EventLog
from .forks import Forks
from .leases import Leases
from .listening import NoticeListener, OpenConnection, borrowed_from, connected_to
from .many import Many
from .migrating import Migrator
from .notices import NoticeSender
from .opening import connector, open_pool, pool_options
from .queries import Queries
from .runs import RunLifecycle
from .schedules import Schedules
from .signals import Signals
from .statement_sender import StatementSender
from .timers import Timers
from .transactions import TransactionalAppends

__all__ = ["LOCK_TIMEOUT", "MIGRATION_TIMEOUT", "PostgresWorkflowStore"]

OpenHeartbeats: TypeAlias = Callable[[], AbstractAsyncContextManager[LeaseRenewer]]

logger = get_logger("workflow_store_postgres")

_ACQUIRE_TIMEOUT = timedelta(seconds=30)
_STATEMENT_TIMEOUT = timedelta(seconds=5)
LOCK_TIMEOUT = timedelta(seconds=60)
MIGRATION_TIMEOUT = timedelta(minutes=10)
_CLOSE_TIMEOUT_S = 2.0


@outside_handlers
class PostgresWorkflowStore(
    RunLifecycle, Forks, Bulk, Many, EventLog, Leases, Timers, Signals, Schedules, Queries, TransactionalAppends
):
    """The store in a PostgreSQL database.

    Args:
        pool: Where the connections come from. The store neither closes nor changes it.
        schema: Where the tables are; by default wherever the connections' search_path finds them.
        tables: Table names by key, where they are not the defaults.
        listen: True notifies workers on this store of new work by LISTEN: while one works, a connection of the pool is
            kept for that. False behind a pooler in transaction mode: they then poll. Notifying others of new work by
            NOTIFY works everywhere.
        heartbeat_connect: Makes a new connection to the same database, on whatever event loop runs: with it a worker
            renews leases from a thread, and a step that blocks the event loop does not lose its run.
        acquire_timeout: How long a call waits for a free connection before it raises `StoreUnavailableError`.
        statement_timeout: How long the server may take to answer a statement; then it is cancelled, and the call raises
            `StoreUnavailableError`. A server that does not even confirm that within a second loses the connection.
        environment: Environment of the program, such as "production". New tables are marked with it, and workers refuse
            tables that are marked with another, or with any if this is absent: a copy that was restored elsewhere.
        combine: Whether writes to different runs that come at about the same time go as one statement: what steps have
            done, ends, pauses, starts, signals. Each is written as if it were alone: the lost lease of one run is not
            the others' matter. False sends each alone.
        new_token: Makes a lease token that was never used before; for tests.

    Raises:
        ConfigurationError: Names, or times, that cannot work.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        schema: str | None = None,
        tables: Mapping[str, str] | None = None,
        *,
        listen: bool = True,
        heartbeat_connect: Callable[[], Awaitable[asyncpg.Connection]] | None = None,
        acquire_timeout: timedelta = _ACQUIRE_TIMEOUT,
        statement_timeout: timedelta = _STATEMENT_TIMEOUT,
        environment: str | None = None,
        combine: bool = True,
        new_token: Callable[[], str] = new_id,
    ) -> None:
        _check_pool(pool)
        names = table_names(tables)
        self._environment = environment_name(environment)
        connections = Connections(
            pool,
            acquire_timeout_s=_seconds("acquire_timeout", acquire_timeout),
            statement_timeout_s=_seconds("statement_timeout", statement_timeout),
        )
        # Nothing public shows where a pool was made.
        home = Home("this Postgres store", getattr(pool, "_loop", None))
        self._sender = StatementSender(connections, home, names, schema_module.schema_name(schema), new_token=new_token)
        self._read = RowReader(names)
        self._notices = NoticeSender(self._sender)
        self._combined = Combined(self._sender, combine=combine)
        self._own_pool: asyncpg.Pool | None = None
        self._open_listening: OpenConnection | None = _spare_connection(pool, connections) if listen else None
        self._open_heartbeats: OpenHeartbeats | None = (
            None
            if heartbeat_connect is None
            else self._beating_by(
                heartbeat_connect, acquire_timeout=acquire_timeout, statement_timeout=statement_timeout
            )
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
        acquire_timeout: timedelta = _ACQUIRE_TIMEOUT,
        statement_timeout: timedelta | None = None,
        environment: str | None = None,
        combine: bool = True,
        **options: Any,
    ) -> StoreOpening[Self]:
        """Open a store on a pool of its own: `await` it and close it yourself, or use `async with`.

        Args:
            dsn: Where the database is; by default what libpq's environment variables say.
            schema: As for the class.
            tables: As for the class.
            listen: As for the class, but a worker listens on a connection of its own beside the pool.
            acquire_timeout: As for the class.
            statement_timeout: As for the class. By default the `command_timeout` of the options, else 5 seconds. It
                holds for opening a connection too, unless the options have a `timeout`.
            environment: As for the class.
            combine: As for the class.
            options: Whatever `asyncpg.create_pool` takes, such as `max_size` or `statement_cache_size`.

        Raises:
            ConfigurationError: A DSN, names, times, or options of the pool, that cannot work.
            StoreUnavailableError: The server cannot be reached.
            StoreOperationError: The server refuses the connection.
        """
        if statement_timeout is None:
            statement_timeout = _command_timeout(options)
        times: dict[str, Any] = {"acquire_timeout": acquire_timeout, "statement_timeout": statement_timeout}

        async def open_store() -> Self:
            acquire_s = _seconds("acquire_timeout", acquire_timeout)
            ready = pool_options(options, timeout_s=_seconds("statement_timeout", statement_timeout))
            pool = await open_pool(dsn, ready, timeout_s=acquire_s)
            try:
                store = cls(pool, schema, tables, listen=False, environment=environment, combine=combine, **times)
                if "min_size" not in options:
                    async with store._sender.connections.lend():
                        pass  # connection errors show at once
            except BaseException:
                pool.terminate()
                raise
            store._own_pool = pool
            store._sender.connections.keep()
            store._open_listening = connected_to(dsn, ready, acquire_s) if listen else None
            store._open_heartbeats = open_heartbeats
            store._declare()
            return store

        def open_heartbeats() -> StoreOpening[Self]:
            alone = {name: value for name, value in options.items() if name != "init_size"}
            alone |= {"min_size": 0, "max_size": 1}
            return cls.connect(dsn, schema=schema, tables=tables, listen=False, **times, **alone)

        return StoreOpening(open_store, "PostgresWorkflowStore.connect(...)")

    async def close(self) -> None:
        """End the store. One that was made by `connect` closes its pool; a second call does nothing.

        It takes some seconds at most, also when the server is silent. In a forked child it does nothing: there it is
        the parent's.

        Raises:
            ConfigurationError: The store belongs to another event loop.
        """
        if self._sender.closed or self._sender.home.is_inherited:
            return
        self._sender.check_open()
        await self._notices.flush()
        self._sender.close()
        await self._sender.connections.settle()
        pool, self._own_pool = self._own_pool, None
        if pool is not None:
            await _close_pool(pool)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def ensure_schema(
        self,
        *,
        contract: bool = False,
        online: bool = True,
        lock_timeout: timedelta = LOCK_TIMEOUT,
        migration_timeout: timedelta = MIGRATION_TIMEOUT,
    ) -> None:
        """Create or upgrade the tables.

        Args:
            contract: Whether to take away, too, what programs of earlier releases need: only when none of them runs any
                more. It builds indexes too. New tables get every migration.
            online: Whether to build new indexes of tables that are in use. Programs go on meanwhile, and do without an
                index that is not there; this call takes as long as the table is large. While another process builds
                one, it returns at once.
            lock_timeout: How long to wait for another process that is migrating, or for those who use a table that is
                to be changed. Each try for such a table holds up others for half a second at most.
            migration_timeout: How long one statement of a migration may take.

        Raises:
            ForeignTablesError: Tables of these names belong to something else.
            SchemaHalfAppliedError: A tool without a transaction stopped in the middle of a migration.
            SchemaUnrecordedError: The same, of a later migration; the message has the SQL that is left to run.
            SchemaAheadError: The database is newer than this package.
            WrongEnvironmentError: The tables belong to another environment.
            StoreUnavailableError: Others have been migrating, or using a table, for longer; the message says who.
        """
        await Migrator(
            self._sender,
            self._environment,
            lock_timeout_s=check_duration("lock_timeout", lock_timeout).total_seconds(),
            migration_timeout_s=_seconds("migration_timeout", migration_timeout),
            contract=contract,
            online=online,
        ).run()

    async def check_schema(self, *, deep: bool = False) -> None:
        """Raise unless the tables fit this code.

        Args:
            deep: Whether to look at each column, index and constraint too, as an operator does after a restore or when
                somebody has changed tables by hand. A worker that starts reads what is recorded, and no more.

        Raises:
            SchemaError: They do not fit; the message says what mends it.
        """
        await schema_module.check_schema(self._sender, self._environment, deep=deep)

    def get_migrations(self) -> tuple[Migration, ...]:
        """Return the package's migrations in order, with default table names."""
        return schema_module.get_migrations()

    def get_migration_sql(self, schema: str | None = None, tables: Mapping[str, str] | None = None) -> str:
        """Return all migrations as one script, with this store's names where none are given."""
        return schema_module.get_migration_sql(
            self._sender.schema if schema is None else schema,
            self._sender.tables.by_key() if tables is None else tables,
        )

    async def read_clock(self) -> int:
        """Read the database's time."""
        rows = await self._sender.rows("read_clock")
        clock: int = rows[0]["clock"]
        return clock

    def listen(self, on_notice: Callable[[WorkNotice], None]) -> AbstractAsyncContextManager[Listening]:
        """Call a function on each notice of work while the block lasts."""
        return self._listening(on_notice)

    @asynccontextmanager
    async def _listening(self, on_notice: Callable[[WorkNotice], None]) -> AsyncGenerator[Listening, None]:
        if self._open_listening is None:
            raise CapabilityNotSupportedError("notify")
        self._sender.check_open()
        async with NoticeListener(self._sender, self._open_listening, on_notice).listening() as listener:
            yield listener
        await self._notices.flush()  # send the notices of handed-over runs before the program ends

    def open_heartbeats(self) -> AbstractAsyncContextManager[LeaseRenewer]:
        """Open a connection for nothing but heartbeats, on the event loop that runs."""
        if self._open_heartbeats is None:
            raise CapabilityNotSupportedError("heartbeats")
        self._sender.home.check_process()
        return self._open_heartbeats()

    def _declare(self) -> None:
        self._capabilities = replace(
            CAPABILITIES,
            notify=self._open_listening is not None,
            heartbeats=self._open_heartbeats is not None,
        )

    def _beating_by(self, connect: Callable[[], Awaitable[asyncpg.Connection]], **times: Any) -> OpenHeartbeats:
        async def connect_anew(*_: object, **__: object) -> asyncpg.Connection:
            return await connect()

        @asynccontextmanager
        async def open_heartbeats() -> AsyncGenerator[LeaseRenewer, None]:
            # A pool of one makes the connection anew when it breaks.
            pool = await asyncpg.create_pool(connect=connector(connect_anew), min_size=0, max_size=1)
            tables = self._sender.tables.by_key()
            store = PostgresWorkflowStore(pool, self._sender.schema, tables, listen=False, **times)
            store._own_pool = pool
            async with store:
                yield store

        return open_heartbeats


async def _close_pool(pool: asyncpg.Pool) -> None:
    try:
        await in_time(pool.close(), _CLOSE_TIMEOUT_S, problem="the pool was not closed", undo=lambda _: None)
    except WorkflowError:
        pass
    finally:
        pool.terminate()  # somebody still waits for an answer, or the server is gone: nothing is lost with it


def _command_timeout(options: Mapping[str, Any]) -> timedelta:
    seconds = options.get("command_timeout")
    return timedelta(seconds=seconds) if isinstance(seconds, int | float) and seconds > 0 else _STATEMENT_TIMEOUT


def _spare_connection(pool: asyncpg.Pool, connections: Connections) -> OpenConnection | None:
    size = pool.get_max_size()
    if size > 1:
        return borrowed_from(connections, size)
    logger.info("a pool of one connection has none to spare for listening: workers on this store poll")
    return None


def _seconds(name: str, duration: object) -> float:
    if not isinstance(duration, timedelta) or duration <= timedelta(0):
        raise ConfigurationError(f"{name} must be a timedelta above zero, such as timedelta(seconds=5)")
    return duration.total_seconds()


def _check_pool(pool: object) -> None:
    if isinstance(pool, str | bytes):  # the message is not repeated: it may hold a password
        raise ConfigurationError(
            "a store is made of a pool, not of a DSN: write `async with PostgresWorkflowStore.connect(dsn) as store:`"
        )
    if not callable(getattr(pool, "acquire", None)):
        if inspect.iscoroutine(pool):
            pool.close()
        raise ConfigurationError(
            f"a store is made of a pool, as `await asyncpg.create_pool(dsn)` gives, not of a {type(pool).__name__}; "
            "PostgresWorkflowStore.connect(dsn) makes its own"
        )
