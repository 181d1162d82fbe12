"""Atomic verbs of the contract: nothing else happens in the store from the first line of one to its last."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar, cast

from workflow_runtime.store import checked

from .store_role import StoreRole

__all__ = ["atomic"]

R = TypeVar("R")
VerbT = TypeVar("VerbT", bound=Callable[..., Coroutine[Any, Any, Any]])


def atomic(verb: VerbT) -> VerbT:
    """Make all of a verb of the contract happen in one go, after its arguments were checked.

    The verb is an `async def`, as callers see it, that never waits, so no other task comes in between. The lock does
    the same between threads.
    """

    @functools.wraps(verb)
    async def run_atomically(self: StoreRole, **arguments: Any) -> Any:
        # Let other tasks in where a database would: callers then interleave here as they do in production.
        await _others()
        self._data.check_process()
        with self._data.lock:
            return _at_once(verb(self, **arguments))

    return cast("VerbT", checked(run_atomically))


@types.coroutine
def _others() -> Generator[None, None, None]:
    """Wait for one turn of the event loop, as `asyncio.sleep(0)` does."""
    yield


def _at_once(verb: Coroutine[Any, Any, R]) -> R:
    try:
        verb.send(None)
    except StopIteration as done:
        return cast("R", done.value)
    verb.close()
    raise RuntimeError("a verb of the store in memory must not wait for anything")
