"""Databases for tests: copies of a template, which has our tables and perhaps many rows in them."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg

_numbers = itertools.count()


def at_database(dsn: str, name: str) -> str:
    """Return the DSN of another database on the same server."""
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


async def run_on(dsn: str, *statements: str) -> None:
    """Run statements, each by itself."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def server_version(dsn: str) -> int:
    """Return the major version of a server."""
    connection = await asyncpg.connect(dsn)
    try:
        return int(connection.get_server_version().major)
    finally:
        await connection.close()


async def copy_template(server_dsn: str, template: str) -> str:
    """Copy a template. Return the name of the copy."""
    name = f"workflow_test_{os.getpid()}_{next(_numbers)}"
    connection = await asyncpg.connect(server_dsn)
    try:
        # Copying files is three times as quick as writing each page to the log, where the server can do it.
        strategy = "STRATEGY file_copy" if connection.get_server_version() >= (15,) else ""
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}")
    finally:
        await connection.close()
    return name


async def drop_database(server_dsn: str, name: str) -> None:
    """Drop a database, even while it is in use; nothing happens when a test has dropped it."""
    await run_on(server_dsn, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@asynccontextmanager
async def new_database(server_dsn: str, template: str) -> AsyncIterator[str]:
    """Copy a template for one test; gives the DSN."""
    name = await copy_template(server_dsn, template)
    try:
        yield at_database(server_dsn, name)
    finally:
        await drop_database(server_dsn, name)


@contextmanager
def new_template(server_dsn: str, base: str, *statements: str) -> Iterator[str]:
    """Make a template for as long as the block lasts."""
    name = make_template(server_dsn, base, *statements)
    yield name
    run_aside(drop_database(server_dsn, name))


def make_template(server_dsn: str, base: str, *statements: str) -> str:
    """Make a database to be copied: like another one, with what the statements do to it. Return its name."""
    name = f"workflow_test_{os.getpid()}_template_{next(_numbers)}"
    run_aside(run_on(server_dsn, f"CREATE DATABASE {name} TEMPLATE {base}"))
    run_aside(run_on(at_database(server_dsn, name), *statements))
    return name


def run_aside(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on a thread: a fixture may be called in a running event loop."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
