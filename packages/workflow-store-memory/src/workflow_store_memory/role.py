"""What the roles share: the data, the two looks at a run that begin a driver's write, and what a unit is."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from workflow_runtime.errors import LeaseLostError, LogConflictError
from workflow_runtime.store import StoreCapabilities, checked

from .data import InMemoryData, Run

__all__ = ["Role", "unit"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
S = TypeVar("S", bound="Role")


def unit(body: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Make a verb of the contract out of a plain function: arguments checked, then all of it in one go.

    A body that is not async cannot be interrupted by another task; the lock does the same between threads.
    """

    @checked
    @functools.wraps(body)
    async def run_unit(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        # Let other tasks in where a database would: callers then interleave here as they do in production.
        await asyncio.sleep(0)
        with self._data.lock:
            return body(self, *args, **kwargs)

    @functools.wraps(body)
    async def verb(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await run_unit(self, *args, **kwargs)

    return verb


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
