"""A workflow store in one SQLite file, on nothing but the standard library's `sqlite3`."""

from .store import Sqlite3WorkflowStore

__all__ = ["Sqlite3WorkflowStore"]
