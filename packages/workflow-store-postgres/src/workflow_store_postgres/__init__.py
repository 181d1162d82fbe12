"""The Postgres store of workflow-runtime: durable runs in your own PostgreSQL database, on asyncpg."""

from ._version import __version__
from .partitions import get_partition_sql
from .schema import get_migration_sql, get_migrations
from .store import PostgresWorkflowStore
from .tables import exclude_workflow_tables, get_sqlalchemy_tables, get_table_definitions

__all__ = [
    "PostgresWorkflowStore",
    "__version__",
    "exclude_workflow_tables",
    "get_migration_sql",
    "get_migrations",
    "get_partition_sql",
    "get_sqlalchemy_tables",
    "get_table_definitions",
]
