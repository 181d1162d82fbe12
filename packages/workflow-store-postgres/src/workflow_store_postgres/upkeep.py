"""The tables as an operator looks after them by the command: what is there, and repairs of what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from workflow_migrations import Migration, Phase
from workflow_runtime.store import StoreUnavailableError
from workflow_store_sql.command import ChecksumRepair, EnvironmentRepair, Look, Patience, RecordRepair, Repair

from .holders import told
from .lent_connection import Row
from .migrating import Migrator
from .schema import SchemaInTransaction
from .store import LOCK_TIMEOUT, MIGRATION_TIMEOUT, PostgresWorkflowStore

__all__ = ["PostgresTables"]


class PostgresTables(PostgresWorkflowStore):
    """The store, as the command opens it."""

    async def look(self) -> Look:
        """Read what is there."""
        async with self._sender.transaction() as connection:
            return await _Upkeep(self._sender, connection, None).look()

    async def migrate(self, environment: str | None, phase: Phase, patience: Patience) -> None:
        """Apply what is missing, up to a phase."""
        await Migrator(
            self._sender,
            environment,
            lock_timeout_s=(patience.lock_timeout or LOCK_TIMEOUT).total_seconds(),
            migration_timeout_s=(patience.migration_timeout or MIGRATION_TIMEOUT).total_seconds(),
            contract=phase == "contract",
            online=phase != "expand",
            wait=patience.wait,
        ).run()

    async def repair(self, decide: Callable[[Look], Repair]) -> None:
        """Write what is decided, under the lock of those who migrate.

        Raises:
            StoreUnavailableError: Another process migrates.
        """
        async with self._sender.transaction() as connection:
            await _Upkeep(self._sender, connection, None).repair(decide)


class _Upkeep(SchemaInTransaction):
    """The tables as one transaction of an operator sees them."""

    async def look(self) -> Look:
        """Read what is there."""
        self._check_encoding()
        place, names = await self.place(), sorted(self._sender.tables.by_key().values())
        shipped = await self.shipped()
        found = await self._rows("read_relations", place, names)
        indexes = await self._rows("read_indexes", place, names)
        return Look(
            shipped=shipped,
            place=await self._where(place),
            found=found,
            records=await self._rows("read_migration_records") if shipped.has_records(found) else (),
            columns=await self._rows("read_columns", place, names),
            indexes=indexes,
            faults=await self._read_faults(),
            builders=await self._builders(place, sorted({row["table_name"] for row in indexes if not row["is_valid"]})),
        )

    async def repair(self, decide: Callable[[Look], Repair]) -> None:
        """Look again under the lock, and write."""
        key = await self.lock_key()
        if not await self._connection.fetchval(self._sender.sql("try_migration_lock"), key):
            holders = await self._rows("read_migration_lock_holder", key)
            raise StoreUnavailableError(f"another migration goes on, of {told(holders)}")
        repair = decide(await self.look())
        match repair:
            case RecordRepair(migration=migration):
                await self._record(migration)
            case ChecksumRepair(migration=migration):
                await self._execute("replace_checksum", migration.migration_id, migration.checksum)
            case EnvironmentRepair(environment=environment):
                await self._execute("mark_environment", environment)

    async def _record(self, migration: Migration) -> None:
        """Run the last statement of a migration, which records it."""
        rendered = await self._rendered(migration)
        await self._connection.execute(rendered.statements[-1])
        await self._execute("record_checksum", migration.migration_id, migration.checksum)

    async def _where(self, place: str) -> Mapping[str, str]:
        (server,) = await self._rows("read_server")
        return {"schema": place, "database": server["database"], "server": f"PostgreSQL {server['version']}"}

    async def _builders(self, place: str, tables: Sequence[str]) -> Mapping[str, str]:
        """Return who builds the indexes that cannot be used yet."""
        rows = {table: await self._rows("read_index_builders", place, table) for table in tables}
        return {table: told(builders) for table, builders in rows.items() if builders}

    async def _rows(self, name: str, *values: object) -> Sequence[Row]:
        return await self._connection.fetch(self._sender.sql(name), *values)

    async def _execute(self, name: str, *values: object) -> None:
        await self._connection.execute(self._sender.sql(name), *values)
