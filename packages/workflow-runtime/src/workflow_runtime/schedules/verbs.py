"""The verbs of schedules, which a store may leave out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from ..errors import CapabilityNotSupportedError, StoreNotOpenError
from ..store import WorkflowExecutionStore

__all__ = ["schedule_verbs"]


def schedule_verbs(store: WorkflowExecutionStore) -> WorkflowExecutionStore:
    """Return the store as schedules see it: a verb that it leaves out raises `CapabilityNotSupportedError`."""
    return cast("WorkflowExecutionStore", _ScheduleVerbs(store))


class _ScheduleVerbs:
    """A store whose missing verbs raise an error that says so.

    A verb that raises `NotImplementedError` counts as missing: no store raises that for another reason, see
    docs/errors-to-raise.md.
    """

    __slots__ = ("_store",)

    def __init__(self, store: WorkflowExecutionStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return partial(self._call, name)

    async def _call(self, name: str, /, **arguments: Any) -> Any:
        try:
            verb = getattr(self._store, name)
        except AttributeError as error:
            if isinstance(error, StoreNotOpenError) or error.name != name:  # a mistake inside a wrapper, say
                raise
            raise CapabilityNotSupportedError("schedules") from error
        try:
            return await verb(**arguments)
        except NotImplementedError as error:
            raise CapabilityNotSupportedError("schedules") from error
