"""The command `workflow-store-d1`, which is `python -m workflow_store_d1` too."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

from workflow_migrations import Migration
from workflow_runtime.store import ConfigurationError
from workflow_store_sql import command
from workflow_store_sql.command import ConnectionOption, Names, Patience

from ._version import __version__
from .schema import get_migration_sql, get_migrations
from .upkeep import D1Tables

__all__ = ["D1Adapter", "main"]

_BUSY_TIMEOUT = timedelta(seconds=60)
_CALL_TIMEOUT = timedelta(minutes=10)
_REQUEST_TIMEOUT = timedelta(minutes=2)
"""Time of each step of a request; the whole takes four times that at most."""
_TOKEN = "CLOUDFLARE_API_TOKEN"


class D1Adapter:
    """The store, as the command knows it."""

    distribution: str = "workflow-store-d1"
    package: str = "workflow_store_d1"
    version: str = __version__
    has_schemas: bool = False
    partitioning: None = None
    in_transaction: bool = False
    options: Sequence[ConnectionOption] = (
        ConnectionOption(name="file", metavar="FILE", help="A SQLite file."),
        ConnectionOption(
            name="account",
            metavar="ID",
            variables=("CLOUDFLARE_ACCOUNT_ID",),
            help=f"Account of a D1 database; the token is read from ${_TOKEN}.",
        ),
        ConnectionOption(
            name="database",
            metavar="ID",
            variables=("CLOUDFLARE_DATABASE_ID", "CLOUDFLARE_D1_DATABASE_ID"),
            help="The D1 database.",
        ),
    )

    def migrations(self, names: Names) -> Sequence[Migration]:
        """Return what the package ships, with these names."""
        return get_migrations(names.tables)

    def script(self, names: Names, ids: Sequence[str], *, transaction: bool) -> str:
        """Return migrations as one script."""
        return get_migration_sql(names.tables, ids=ids, transaction=transaction)

    @asynccontextmanager
    async def open(
        self, names: Names, options: Mapping[str, str | None], patience: Patience, *, create: bool
    ) -> AsyncIterator[D1Tables]:
        """Open a file, or D1 over HTTP.

        Raises:
            ConfigurationError: It is not said where the database is, or there is no such file.
        """
        file = options["file"]
        if file is None:
            opening, place = _over_http(names, options, patience)
        else:
            opening, place = _file(file, names, patience, create=create)
        async with opening as tables:
            tables.place = place
            yield tables


_Opening: TypeAlias = "tuple[AbstractAsyncContextManager[D1Tables], Mapping[str, str]]"
"""The tables on their way, and where they are."""


def _file(file: str, names: Names, patience: Patience, *, create: bool) -> _Opening:
    from sqlite3 import sqlite_version  # noqa: PLC0415  # Workers have none

    if not create and not Path(file).exists():
        raise ConfigurationError(f"there is no such file: {file!r}; `migrate` makes one")
    opening = D1Tables.open(
        file,
        tables=names.tables,
        busy_timeout=patience.lock_timeout or _BUSY_TIMEOUT,
        call_timeout=patience.migration_timeout or _CALL_TIMEOUT,
    )
    return opening, {"file": file, "server": f"SQLite {sqlite_version}"}


def _over_http(names: Names, options: Mapping[str, str | None], patience: Patience) -> _Opening:
    account, database, token = options["account"], options["database"], os.environ.get(_TOKEN)
    if not account or not database:
        raise ConfigurationError("say where the tables are: --file FILE, or --account ID and --database ID")
    if not token:
        raise ConfigurationError(f"the environment variable {_TOKEN} has no token with the permission D1:Edit")
    timeout = patience.migration_timeout or _REQUEST_TIMEOUT
    opening = D1Tables.connect_http(account, database, token, tables=names.tables, timeout=timeout)
    return opening, {"database": database, "server": "Cloudflare D1"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command.main(D1Adapter(), arguments)


if __name__ == "__main__":
    sys.exit(main())
