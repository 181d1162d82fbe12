"""The migrations, and what a database has of them. The files are the only source of the schema."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache

from workflow_migrations import (
    AppliedMigration,
    Migration,
    join_migrations,
    load_migrations,
    quote_identifier,
    render_migrations,
)
from workflow_runtime.store import ConfigurationError, SchemaError
from workflow_store_sql import Schema, chosen_migrations, table_names

from ._version import __version__
from .failures import REMEDY
from .lent_connection import LentConnection, Row
from .online import OnlineMigration
from .statement_sender import StatementSender

__all__ = ["SchemaInTransaction", "check_schema", "get_migration_sql", "get_migrations", "schema_name"]

_PACKAGE = "workflow-store-postgres"
_MAX_NAME_BYTES = 63
_ENCODING = "UTF8"


def get_migrations(schema: str | None = None, tables: Mapping[str, str] | None = None) -> tuple[Migration, ...]:
    """Return the package's migrations in order: each with its id, text and statements.

    A released migration never changes, so a revision of your migration tool may name one by its id.

    Args:
        schema: The schema of the tables, which must be there; by default the first one of the search_path.
        tables: Table names by key, where they are not the defaults.

    Raises:
        ConfigurationError: Names, or a schema, that cannot work.
    """
    return render_migrations(_shipped(), table_names(tables), schema=schema_name(schema))


@cache
def _shipped() -> tuple[Migration, ...]:
    return load_migrations("workflow_store_postgres")


def get_migration_sql(
    schema: str | None = None,
    tables: Mapping[str, str] | None = None,
    *,
    ids: Sequence[str] | None = None,
    from_id: str | None = None,
    to_id: str | None = None,
    transaction: bool = True,
) -> str:
    """Return migrations as one script, for psql and your own tools; by default all of them.

    Args:
        schema: The schema of the tables, which must be there; by default the first one of the search_path.
        tables: Table names by key, where they are not the defaults.
        ids: Only these migrations.
        from_id: Only this migration and later ones.
        to_id: Only this migration and earlier ones.
        transaction: False to leave out BEGIN and COMMIT, for a tool that brings a transaction of its own.

    Raises:
        ConfigurationError: Names, a schema or an id that cannot work.
    """
    chosen = chosen_migrations(get_migrations(schema, tables), ids=ids, from_id=from_id, to_id=to_id)
    return join_migrations(chosen, transaction=transaction)


def schema_name(schema: object) -> str | None:
    """Return the name of a user's schema.

    Raises:
        ConfigurationError: An unusable name.
    """
    if schema is None:
        return None
    if not isinstance(schema, str) or not schema or "\0" in schema:
        raise ConfigurationError(f"schema: {schema!r} is not a name")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in schema):
        raise ConfigurationError(f"schema: {schema!r} has a lone surrogate")
    if len(schema.encode("utf-8")) > _MAX_NAME_BYTES:
        raise ConfigurationError(f"schema: {schema!r} is longer than {_MAX_NAME_BYTES} bytes")
    return schema


async def check_schema(sender: StatementSender, environment: str | None, *, deep: bool) -> None:
    """Raise unless the tables fit this code; when `deep`, also unless they are as the migrations make them."""
    async with sender.transaction() as connection:
        database = SchemaInTransaction(sender, connection, environment)
        applied = await database.read_applied()
        shipped = await database.shipped()
        shipped.check(applied)
        if deep:
            await database.compare(shipped, applied)


class SchemaInTransaction:
    """The tables as one transaction sees them, and changes them.

    Args:
        sender: Where statements come from.
        connection: What the transaction is open on.
        environment: What the program is of.
    """

    def __init__(self, sender: StatementSender, connection: LentConnection, environment: str | None) -> None:
        self._sender = sender
        self._environment = environment
        self._connection = connection
        self._known_place = sender.schema

    async def shipped(self) -> Schema:
        """Return what the package ships, for where the tables are."""
        return Schema(
            distribution=_PACKAGE,
            version=__version__,
            migrations=get_migrations(),
            tables=self._sender.tables,
            remedy=REMEDY,
            place=f"schema {await self.place()!r}",
            environment=self._environment,
        )

    async def next_unit(self, *, contract: bool, online: bool) -> tuple[Migration, ...]:
        """Return what is to be applied next, as `Schema.next_unit` does.

        Raises:
            SchemaError: What is there is not ours, not as we shipped it, of another environment, or too new.
        """
        return (await self.shipped()).next_unit(await self.read_applied(), contract=contract, online=online)

    async def read_applied(self) -> Sequence[AppliedMigration]:
        """Return what was applied.

        Raises:
            ForeignTablesError: What is there is not ours.
            SchemaError: The database cannot store every text.
        """
        self._check_encoding()
        tables = self._sender.tables
        place, names = await self.place(), sorted(tables.by_key().values())
        fetch, sql = self._connection.fetch, self._sender.sql
        found = await fetch(sql("read_relations"), place, names)
        shipped = await self.shipped()
        if not shipped.is_ours(found):
            return ()
        return shipped.applied(found, await fetch(sql("read_applied_migrations")))

    async def compare(self, shipped: Schema, applied: Sequence[AppliedMigration]) -> None:
        """Raise unless the tables are as the applied migrations make them.

        Raises:
            SchemaDamagedError: Something is missing or changed.
        """
        shipped.compare(applied, *await self._read_tables(), await self._read_faults())

    async def refuse_half_applied(self, migration: Migration) -> bool:
        """Raise if a migration that failed just now was applied in part before. Return True if it is recorded.

        Raises:
            SchemaUnrecordedError: It was, by a tool without a transaction.
        """
        shipped, applied = await self.shipped(), await self.read_applied()
        if not applied or migration not in shipped.missing(applied):
            return bool(applied)
        (rendered,) = render_migrations([migration], self._sender.tables, schema=await self.place())
        shipped.refuse_half_applied(migration, rendered.statements, applied, *await self._read_tables())
        return False

    async def _read_tables(self) -> tuple[Sequence[Row], Sequence[Row]]:
        """Return the columns and the indexes of our tables."""
        place, names = await self.place(), sorted(self._sender.tables.by_key().values())
        fetch, sql = self._connection.fetch, self._sender.sql
        return await fetch(sql("read_columns"), place, names), await fetch(sql("read_indexes"), place, names)

    async def _read_faults(self) -> Sequence[str]:
        """Return what is wrong with our tables beside columns and indexes, in words."""
        place, names = await self.place(), sorted(self._sender.tables.by_key().values())
        told: list[str] = []
        for row in await self._connection.fetch(self._sender.sql("read_faults"), place, names):
            if not row["has_key"]:
                told.append(f"table {row['table_name']!r} lacks its primary key")
            if row["lacks_partitions"]:
                told.append(f"table {row['table_name']!r} lacks partitions: events of some runs have no place")
        return told

    def _check_encoding(self) -> None:
        encoding = self._connection.raw.get_settings().server_encoding
        if encoding != _ENCODING:
            raise SchemaError(
                f"this database stores text as {encoding}, and ids and payloads may have any character: create one "
                f"with ENCODING '{_ENCODING}' TEMPLATE template0"
            )

    async def apply(self, unit: Sequence[Migration], timeout_s: float) -> None:
        """Run migrations, in which no statement waits long for a table.

        Their own BEGIN and COMMIT, which psql needs, are left out: a transaction is open.
        """
        schema, found = self._sender.schema, await self._find_schema()
        if schema is not None and not found["present"]:
            await self._connection.execute(f"CREATE SCHEMA {quote_identifier(schema)}")
        await self._connection.execute(self._sender.sql("limit_lock_waits"))
        for migration in unit:
            for statement in (await self._rendered(migration)).in_transaction().statements:
                await self._connection.execute(statement, timeout_s=timeout_s)
            values = (migration.migration_id, migration.checksum)
            await self._connection.execute(self._sender.sql("record_checksum"), *values)
        if unit[0].number == 0 and self._environment is not None:
            await self._connection.execute(self._sender.sql("mark_environment"), self._environment)

    async def online_migration(self, migration: Migration, timeout_s: float) -> OnlineMigration:
        """Return a migration that needs no transaction, for where the tables are."""
        return OnlineMigration(self._sender, await self.place(), migration, await self._rendered(migration), timeout_s)

    async def _rendered(self, migration: Migration) -> Migration:
        schema, found = self._sender.schema, await self._find_schema()
        if schema is None and found["visible"] != found["current"]:
            schema = found["visible"]  # or a new table would be created apart from the others
        (rendered,) = render_migrations([migration], self._sender.tables, schema=schema)
        return rendered

    async def lock_key(self) -> int:
        """Return the key of the lock: one for each set of tables."""
        place = f"{await self.place()}\0{self._sender.tables.schema_migrations}"
        digest = hashlib.sha256(f"{_PACKAGE}\0{place}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    async def place(self) -> str:
        """Return the schema of the tables: where the search_path leads to them, else where they would be created."""
        if self._known_place is None:
            found = await self._find_schema()
            self._known_place = found["visible"] or found["current"]
        if self._known_place is None:
            raise ConfigurationError("no schema of the connection's search_path exists; give the store a schema")
        return self._known_place

    async def _find_schema(self) -> Row:
        names = sorted(self._sender.tables.by_key().values())
        return await self._connection.fetchrow(self._sender.sql("read_schema"), self._sender.schema, names)
