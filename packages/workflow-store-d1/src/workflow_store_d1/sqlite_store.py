"""The store on a local SQLite file, under its own name."""

from __future__ import annotations

from .store import D1WorkflowStore

__all__ = ["SQLiteWorkflowStore"]


class SQLiteWorkflowStore(D1WorkflowStore):
    """The store on a local SQLite file, as `SQLiteWorkflowStore.open(path)` gives it.

    A file keeps the rules of Cloudflare D1, so this is the D1 store with nothing of its own but its name.
    """

    def __repr__(self) -> str:
        path = getattr(self.database, "path", None)  # a database object of the caller may lack it
        return f"<{type(self).__name__}>" if path is None else f"<{type(self).__name__} {path!r}>"
