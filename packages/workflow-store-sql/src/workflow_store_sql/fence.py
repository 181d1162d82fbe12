"""The condition that every write of a driver carries, and the verdict on a write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflow_runtime.store import Appended, LeaseLostError, LogConflictError, RunStatus

from .rows import Row

__all__ = ["Fence", "answer_append"]


@dataclass(frozen=True, slots=True)
class Fence:
    """The lease that a driver's write needs, and the operation by which a repeat of it is known.

    Args:
        verb: The method; an operation id that another method used is another operation.
        run_id: The run.
        lease_token: The token of the driver's lease.
        operation_id: The operation, as the driver numbers it.
        expected_next_index: The length of the log as the driver knows it; `None` when it does not matter.
    """

    verb: str
    run_id: str
    lease_token: str
    operation_id: str
    expected_next_index: int | None = None

    @property
    def operation(self) -> str:
        """The operation as the head records it."""
        return f"{self.verb}:{self.operation_id}"

    def values(self) -> tuple[str | int, ...]:
        """Return the first parameters of each statement that writes."""
        log = () if self.expected_next_index is None else (self.expected_next_index,)
        return (self.run_id, self.lease_token, *log, self.operation)

    def judge(self, head: Row | None) -> Mapping[str, Any] | None:
        """Return the first answer when the head has seen this operation, or `None` when the fence holds.

        Raises:
            LeaseLostError: The token is not the current one, or the run is not running.
            LogConflictError: The log is not as long as the driver believed.
        """
        if head is not None and head["operation_id"] == self.operation:
            answer: Mapping[str, Any] = json.loads(head["operation_answer"])
            return answer
        if head is None or head["status"] != RunStatus.RUNNING or head["lease_token"] != self.lease_token:
            raise LeaseLostError(f"run {self.run_id!r}")
        if self.expected_next_index not in {None, head["next_index"]}:
            raise LogConflictError(self.run_id, self.expected_next_index or 0, head["next_index"])
        return None


def answer_append(first: Mapping[str, Any], head: Row) -> Appended:
    """Answer an append: a repeat learns what the first one came to, and how the head stands now.

    Args:
        first: `next_index` and `lease_expires_at`, as the append left them.
        head: The head, for what has come from outside.
    """
    return Appended(
        next_index=int(first["next_index"]),
        lease_expires_at_ms=int(first["lease_expires_at"]),
        inbox_seq=head["inbox_seq"],
        cancel_requested=bool(head["cancel_requested"]),
    )
