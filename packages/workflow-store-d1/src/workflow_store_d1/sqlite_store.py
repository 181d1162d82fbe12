"""The store on a local SQLite file, under its own name."""

from __future__ import annotations

from workflow_runtime.isolation import outside_handlers

from .store import D1WorkflowStore

__all__ = ["SQLiteWorkflowStore"]


@outside_handlers
class SQLiteWorkflowStore(D1WorkflowStore):
    """The store on a local SQLite file, as `SQLiteWorkflowStore.open(path)` gives it.

    A file keeps the rules of Cloudflare D1, so this is the D1 store with nothing of its own but its name.
    """

    # Named here again, so that a handler that calls one of them reads the name of this class.
    ensure_schema = D1WorkflowStore.ensure_schema
    check_schema = D1WorkflowStore.check_schema
    read_clock = D1WorkflowStore.read_clock
    close = D1WorkflowStore.close

    def __repr__(self) -> str:
        path = getattr(self.database, "path", None)  # which a database of the caller's own need not have
        return f"<{type(self).__name__}>" if path is None else f"<{type(self).__name__} {path!r}>"
