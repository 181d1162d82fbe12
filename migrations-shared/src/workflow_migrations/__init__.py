"""Numbered SQL migrations and table names, for the SQL stores of workflow-runtime. No I/O but reading files."""

from ._version import __version__
from .autogenerate import ExcludedTables, exclude_workflow_tables
from .definitions import (
    ColumnDefinition,
    IndexDefinition,
    OnlineIndex,
    TableDefinition,
    UniqueDefinition,
    read_online_index,
    read_table_definitions,
)
from .errors import (
    ChecksumMismatchError,
    DatabaseAheadError,
    InvalidMigrationError,
    InvalidTableNamesError,
    MigrationError,
    MigrationGapError,
    ReadOnlyTableError,
    UnknownMigrationError,
)
from .files import (
    Migration,
    Phase,
    checksum,
    join_migrations,
    load_migrations,
    parse_migrations,
    render_migrations,
    select_migrations,
)
from .lexer import split_statements
from .names import DEFAULT_TABLES, TableNames
from .partitions import PARTITION_COUNTS, partition_name
from .plan import AppliedMigration, plan_migrations
from .render import quote_identifier, render_sql
from .sqlalchemy_tables import make_sqlalchemy_tables

__all__ = [
    "DEFAULT_TABLES",
    "PARTITION_COUNTS",
    "AppliedMigration",
    "ChecksumMismatchError",
    "ColumnDefinition",
    "DatabaseAheadError",
    "ExcludedTables",
    "IndexDefinition",
    "InvalidMigrationError",
    "InvalidTableNamesError",
    "Migration",
    "MigrationError",
    "MigrationGapError",
    "OnlineIndex",
    "Phase",
    "ReadOnlyTableError",
    "TableDefinition",
    "TableNames",
    "UniqueDefinition",
    "UnknownMigrationError",
    "__version__",
    "checksum",
    "exclude_workflow_tables",
    "join_migrations",
    "load_migrations",
    "make_sqlalchemy_tables",
    "parse_migrations",
    "partition_name",
    "plan_migrations",
    "quote_identifier",
    "read_online_index",
    "read_table_definitions",
    "render_migrations",
    "render_sql",
    "select_migrations",
    "split_statements",
]
