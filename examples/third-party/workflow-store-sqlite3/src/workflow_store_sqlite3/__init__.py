"""A workflow store in one SQLite file, on nothing but the standard library's `sqlite3`."""

from .store import Sqlite3WorkflowStore
from .transactions import Transaction

__all__ = ["Sqlite3WorkflowStore", "Transaction"]
