"""Opening the store that a command line names, and making room in it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from workflow_runtime import WorkflowExecutionStore
from workflow_store_d1 import D1WorkflowStore
from workflow_store_postgres import PostgresWorkflowStore

_POSTGRES = ("postgres://", "postgresql://")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlace:
    """Where the tables are.

    Args:
        location: The path of a SQLite file, or the URL of a Postgres database.
        schema: Which schema of the database.

    Raises:
        ValueError: The location is another URL.
    """

    location: str
    schema: str | None = None

    def __post_init__(self) -> None:
        if "://" in self.location and not self.is_postgres:
            scheme = self.location.partition("://")[0]
            raise ValueError(f"{scheme}:// is unknown here: give the path of a SQLite file, or a postgres:// URL")

    @property
    def is_postgres(self) -> bool:
        """Whether it is a Postgres database."""
        return self.location.startswith(_POSTGRES)

    def arguments(self) -> list[str]:
        """Give what leads a worker process here."""
        return ["--store", self.location, *(["--schema", self.schema] if self.schema is not None else [])]


@asynccontextmanager
async def open_store(place: StorePlace) -> AsyncIterator[WorkflowExecutionStore]:
    """Open the store."""
    if place.is_postgres:
        async with PostgresWorkflowStore.connect(place.location, schema=place.schema, max_size=5) as postgres:
            yield postgres
    else:
        async with D1WorkflowStore.open(place.location) as sqlite:
            yield sqlite


async def make_room(location: str) -> StorePlace:
    """Prepare a place where nothing lies in the way: in a Postgres database a new schema.

    Raises:
        ValueError: The database cannot be used.
    """
    place = StorePlace(location=location)
    if not place.is_postgres:
        return place
    schema = f"audit_demo_{secrets.token_hex(4)}"
    await _execute(location, f"CREATE SCHEMA {schema}")
    return StorePlace(location=location, schema=schema)


async def clear_room(place: StorePlace) -> None:
    """Remove the schema; a SQLite file stays until the next start of the demo."""
    if place.schema is not None:
        await _execute(place.location, f"DROP SCHEMA {place.schema} CASCADE")


async def _execute(location: str, statement: str) -> None:
    try:
        connection = await asyncpg.connect(location)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise ValueError(f"{statement!r} failed: {error}") from error
