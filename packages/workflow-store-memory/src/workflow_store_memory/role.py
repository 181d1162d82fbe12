"""What the roles share: the data, the two looks at a run that begin a driver's write, and what a unit is."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from workflow_runtime.errors import LeaseLostError, LogConflictError
from workflow_runtime.store import StoreCapabilities, checked

from .data import InMemoryData, Run

__all__ = ["Role", "unit"]

R = TypeVar("R")
A = TypeVar("A")
VerbT = TypeVar("VerbT", bound=Callable[..., Coroutine[Any, Any, Any]])


def unit(verb: VerbT) -> VerbT:
    """Make all of a verb of the contract happen in one go, after its arguments were checked.

    The verb is an `async def`, as callers see it, that never waits, so no other task comes in between. The lock does
    the same between threads.
    """

    @functools.wraps(verb)
    async def run_unit(self: Role, **arguments: Any) -> Any:
        # Let other tasks in where a database would: callers then interleave here as they do in production.
        await asyncio.sleep(0)
        self._data.check_process()
        with self._data.lock:
            return _at_once(verb(self, **arguments))

    return cast("VerbT", checked(run_unit))


def _at_once(verb: Coroutine[Any, Any, R]) -> R:
    try:
        verb.send(None)
    except StopIteration as done:
        return cast("R", done.value)
    verb.close()
    raise RuntimeError("a unit of the store in memory must not wait for anything")


class Role:
    """The part of the store that every role stands on."""

    _data: InMemoryData
    _capabilities: StoreCapabilities
    _clock: Callable[[], int]

    def _repeated(self, run_id: str, operation_id: str, answer_type: type[A]) -> A | None:
        """Find the answer of the run's last driver's write, if this is a repeat of it."""
        run = self._data.runs.get(run_id)
        if run is None or run.operation_id != operation_id or not isinstance(run.answer, answer_type):
            return None
        return run.answer

    def _driven(self, run_id: str, lease_token: str, expected_next_index: int | None = None) -> Run:
        """Find the run that the caller drives, and check that its log is where the caller believes it to be.

        The lease's expiry is not looked at: it only lets others claim, and a claim changes the token.
        """
        run = self._data.runs.get(run_id)
        if run is None or run.lease is None or run.lease.token != lease_token:
            raise LeaseLostError(f"run {run_id!r}")
        if expected_next_index is not None and expected_next_index != run.next_index:
            raise LogConflictError(run_id, expected_next_index, run.next_index)
        return run
