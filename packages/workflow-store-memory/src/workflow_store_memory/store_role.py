"""The base of each role: the data, and the two looks at a run that begin a driver's write."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from workflow_runtime.store import LeaseLostError, LogConflictError, StoreCapabilities

from .data import InMemoryData, Run

__all__ = ["StoreRole"]

A = TypeVar("A")


class StoreRole:
    """A role of the contract, as the store keeps it."""

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
