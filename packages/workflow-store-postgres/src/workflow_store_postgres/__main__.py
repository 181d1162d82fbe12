"""The command `workflow-store-postgres`, which is `python -m workflow_store_postgres` too."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from workflow_migrations import PARTITION_COUNTS, Migration
from workflow_store_sql import command
from workflow_store_sql.command import ConnectionOption, Names, Partitioning, Patience

from ._version import __version__
from .partitions import get_partition_sql
from .schema import get_migration_sql, get_migrations
from .upkeep import PostgresTables

__all__ = ["PostgresAdapter", "main"]


class PostgresAdapter:
    """The store, as the command knows it."""

    distribution: str = "workflow-store-postgres"
    package: str = "workflow_store_postgres"
    version: str = __version__
    has_schemas: bool = True
    in_transaction: bool = True
    partitioning: Partitioning | None = Partitioning(
        counts=(1, *PARTITION_COUNTS),
        script=lambda names, count, whole: get_partition_sql(count, names.schema, names.tables, transaction=whole),
    )
    options: Sequence[ConnectionOption] = (
        ConnectionOption(
            name="dsn",
            metavar="DSN",
            variables=("DATABASE_URL",),
            help="Where the database is: postgresql://user@host/database. Without it $PGHOST and the others of libpq.",
        ),
    )

    def migrations(self, names: Names) -> Sequence[Migration]:
        """Return what the package ships, with these names."""
        return get_migrations(names.schema, names.tables)

    def script(self, names: Names, ids: Sequence[str], *, transaction: bool) -> str:
        """Return migrations as one script."""
        return get_migration_sql(names.schema, names.tables, ids=ids, transaction=transaction)

    @asynccontextmanager
    async def open(
        self, names: Names, options: Mapping[str, str | None], patience: Patience, *, create: bool
    ) -> AsyncIterator[PostgresTables]:
        """Open the database. No call makes one."""
        del patience, create
        dsn = options["dsn"]
        async with PostgresTables.connect(dsn, schema=names.schema, tables=names.tables, listen=False) as tables:
            yield tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command.main(PostgresAdapter(), arguments)


if __name__ == "__main__":
    sys.exit(main())
