"""What every write of a driver has in common: the fence is in the statement, and a refusal is explained afterwards.

The head never goes back to a token, a length or an operation that it has left behind. So the verdict on a write that
did nothing may be read after it, in a statement of its own, without holding anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_runtime.errors import LeaseLostError, LogConflictError, StoreUnavailableError
from workflow_runtime.store import NewEvent, RunStatus, Timer

from .session import Row, Sender

__all__ = ["DriverWrite", "Outcome", "event_values", "timer_values"]

_MAX_TRIES = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a write that was not refused."""

    row: Row
    """What the statement gave; for a repeat the head as it is now."""
    repeated: Mapping[str, Any] | None
    """The first answer, when this operation had been done before; nothing was written now."""

    @property
    def wakes(self) -> bool:
        """Whether the write, of those that may leave work for somebody, did so."""
        return self.repeated is None and bool(self.row["wakes"])


def event_values(events: Sequence[NewEvent], taken_inbox: Sequence[int]) -> tuple[list[Any], ...]:
    """Write events, and the inbox entries that they account for, as the parameters of a statement."""
    return (
        [event.kind for event in events],
        [event.step_id for event in events],
        [event.payload for event in events],
        list(taken_inbox),
    )


def timer_values(set_timers: Sequence[Timer], removed_timers: Sequence[str]) -> tuple[list[Any], ...]:
    """Write changes of timers as the parameters of a statement."""
    return (
        [timer.timer_id for timer in set_timers],
        [timer.fire_at_ms for timer in set_timers],
        list(removed_timers),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverWrite:
    """One write of a driver.

    Args:
        session: Where it goes.
        verb: Which verb; an operation id that another verb used is another operation.
        run_id: Which run.
        lease_token: The fence.
        operation_id: Tells a repeat.
        expected_next_index: The length of the log as the driver knows it; `None` when it does not matter.
    """

    session: Sender
    verb: str
    run_id: str
    lease_token: str
    operation_id: str
    expected_next_index: int | None

    async def commit(self, name: str, *values: object) -> Outcome:
        """Run a named statement, whose first parameters are the fence.

        Raises:
            LeaseLostError: The token is not the current one, or the run is not running.
            LogConflictError: The log is not as long as the driver believed.
        """
        log = () if self.expected_next_index is None else (self.expected_next_index,)
        for _ in range(_MAX_TRIES):
            rows = await self.session.rows(name, self.run_id, self.lease_token, *log, self._operation, *values)
            if rows:
                return Outcome(rows[0], None)
            repeated = await self.verdict()
            if repeated is not None:
                return repeated
        raise StoreUnavailableError(f"run {self.run_id!r} is written by others all the time")

    async def verdict(self, name: str = "driver.before") -> Outcome | None:
        """Say why nothing was written; `None` when nothing speaks against it (any more).

        Args:
            name: How to read the head.

        Raises:
            LeaseLostError: The token is not the current one, or the run is not running.
            LogConflictError: The log is not as long as the driver believed.
        """
        heads = await self.session.rows(name, self.run_id)
        if not heads:
            raise LeaseLostError(f"run {self.run_id!r}")
        head = heads[0]
        if head["operation_id"] == self._operation:
            return Outcome(head, json.loads(head["operation_answer"]))
        if head["status"] != RunStatus.RUNNING or head["lease_token"] != self.lease_token:
            raise LeaseLostError(f"run {self.run_id!r}")
        if self.expected_next_index not in {None, head["next_index"]}:
            raise LogConflictError(self.run_id, self.expected_next_index or 0, head["next_index"])
        return None

    @property
    def _operation(self) -> str:
        return f"{self.verb}:{self.operation_id}"
