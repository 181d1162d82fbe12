"""The stores that are measured beside another one, where their packages are installed. None of them is required."""

from __future__ import annotations

import contextlib
import importlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from workflow_runtime.store import CONTRACT_VERSION

from ..harness import StoreHarness

__all__ = ["OpenHarness", "other_stores"]

_MEMORY, _SQLITE, _POSTGRES = "memory", "SQLite file", "PostgreSQL"

OpenHarness = Callable[[], AbstractAsyncContextManager[StoreHarness]]


def other_stores(dsn: str | None) -> Iterator[tuple[str, OpenHarness | str]]:
    """Yield the name of each store with what opens it, or with the reason why it cannot be opened.

    Args:
        dsn: A PostgreSQL database, in which a schema is created and dropped.
    """
    yield _MEMORY, _installed("workflow_store_memory", _memory)
    yield _SQLITE, _installed("workflow_store_d1", _sqlite)
    if dsn is None:
        yield _POSTGRES, "--bench-dsn names no database"
    else:
        yield _POSTGRES, _installed("workflow_store_postgres", lambda package: _postgres(package, dsn))


def _installed(
    name: str, open_harness: Callable[[Any], AbstractAsyncContextManager[StoreHarness]]
) -> OpenHarness | str:
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        return str(error)
    return lambda: open_harness(package)


@contextlib.asynccontextmanager
async def _memory(package: Any) -> AsyncIterator[StoreHarness]:
    data = package.InMemoryData()
    yield _harness(lambda: package.InMemoryWorkflowStore(data=data))


@contextlib.asynccontextmanager
async def _sqlite(package: Any) -> AsyncIterator[StoreHarness]:
    with tempfile.TemporaryDirectory(prefix="workflow-certify-") as folder:
        yield _harness(lambda: package.SQLiteWorkflowStore.open(Path(folder) / "bench.db"))


@contextlib.asynccontextmanager
async def _postgres(package: Any, dsn: str) -> AsyncIterator[StoreHarness]:
    asyncpg: Any = importlib.import_module("asyncpg")
    schema = f"workflow_bench_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE SCHEMA {schema}")
        yield _harness(lambda: package.PostgresWorkflowStore.connect(dsn, schema=schema))
    finally:
        await connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        await connection.close()


def _harness(open_store: Callable[[], Any]) -> StoreHarness:
    reason = "it is only measured"
    return StoreHarness(
        open_store,
        contract_version=CONTRACT_VERSION,
        not_applicable={"processes": reason, "corrupt": reason},
    )
