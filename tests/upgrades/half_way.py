"""Stores whose tables are half-way between two releases, for the contract tests of either.

The process that examines them runs the code of one release: whatever comes first in its PYTHONPATH. What the tables are
made with is in files, so that it need not be what that code ships.
"""

import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from functools import cache, partial
from pathlib import Path
from typing import Any

from workflow_contract_tests import StoreHarness
from workflow_test_support.harnesses import postgres, sqlite
from workflow_test_support.servers.database_pool import DatabasePool
from workflow_test_support.servers.postgres_databases import make_template
from workflow_test_support.servers.postgres_server import LocalServer

SCRIPT = "TABLES_SCRIPT"
"""Names the file with the SQL of the tables."""
STAY = "TABLES_STAY"
"""Says that `ensure_schema` shall not build what is missing."""


@asynccontextmanager
async def on_postgres() -> AsyncIterator[StoreHarness]:
    """A database of a server of this process."""
    async with _databases().database() as dsn:
        yield _as_they_are(postgres.harness_on(dsn))


@asynccontextmanager
async def on_sqlite() -> AsyncIterator[StoreHarness]:
    """A file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "app.db")
        with closing(sqlite3.connect(path)) as database:
            database.executescript(_script())
        yield _as_they_are(sqlite.harness_on(path))


def _script() -> str:
    return Path(os.environ[SCRIPT]).read_text(encoding="utf-8")


def _as_they_are(harness: StoreHarness) -> StoreHarness:
    """Keep a later release from building the indexes that are missing."""
    if STAY not in os.environ:
        return harness
    open_store: Any = harness._open_store

    async def opened() -> Any:
        store = await open_store()
        store.ensure_schema = partial(store.ensure_schema, online=False)
        return store

    harness._open_store = opened
    return harness


@cache
def _databases() -> DatabasePool:
    until_exit = ExitStack()
    dsn = until_exit.enter_context(LocalServer(durable=True)).dsn
    return DatabasePool(dsn, make_template(dsn, "template0", _script(), postgres.BUSINESS))
