"""The D1 store of workflow-runtime: durable runs in Cloudflare D1, or in a local SQLite file."""

from ._version import __version__
from .binding import BindingD1Database
from .database import D1Database, D1DatabaseError, D1PreparedStatement, D1Result
from .http import D1HttpDatabase
from .retries import Retries
from .schema import get_migration_sql, get_migrations
from .sqlite_store import SQLiteWorkflowStore
from .store import D1WorkflowStore
from .tables import exclude_workflow_tables, get_sqlalchemy_tables, get_table_definitions
from .transactions import D1Transaction, SQLiteTransaction

__all__ = [
    "BindingD1Database",
    "D1Database",
    "D1DatabaseError",
    "D1HttpDatabase",
    "D1PreparedStatement",
    "D1Result",
    "D1Transaction",
    "D1WorkflowStore",
    "Retries",
    "SQLiteTransaction",
    "SQLiteWorkflowStore",
    "__version__",
    "exclude_workflow_tables",
    "get_migration_sql",
    "get_migrations",
    "get_sqlalchemy_tables",
    "get_table_definitions",
]
