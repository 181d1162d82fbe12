"""A store as a drive with a limit of queries sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ..store import WorkflowExecutionStore

__all__ = ["BudgetedStore"]

_OWN_WRITES = frozenset(
    {"append_events", "mark_run_paused", "mark_run_finished", "mark_run_errored", "release_run_lease"}
)
"""The verbs that queries are kept back for. A transaction is not among them: its step has to do with what is free."""


class BudgetedStore:
    """A store whose writes of one drive may use what the drive keeps back. All other verbs are the store's own.

    Args:
        store: The store.
        opens: Entered around each of those writes; gets the name of the verb.
    """

    def __init__(self, store: WorkflowExecutionStore, opens: Callable[[str], AbstractContextManager[None]]) -> None:
        self._store = store
        self._opens = opens

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        return partial(self._write, name, attribute) if name in _OWN_WRITES else attribute

    async def _write(self, name: str, verb: Callable[..., Awaitable[Any]], /, **arguments: Any) -> Any:
        with self._opens(name):
            return await verb(**arguments)
