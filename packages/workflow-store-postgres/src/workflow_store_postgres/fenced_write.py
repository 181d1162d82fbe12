"""The common part of a driver's writes: the fence is in the statement, and a refusal is explained afterwards.

The head never goes back to a token, a length or an operation that it has left behind. So the verdict on a write that
did nothing may be read after it, in a statement of its own, without holding anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_runtime.store import NewEvent, StoreUnavailableError, Timer
from workflow_store_sql import Fence

from .statement_sender import Row, Sender

__all__ = ["FencedWrite", "Outcome", "done", "event_values", "timer_values"]

_MAX_TRIES = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a write that was not refused."""

    row: Row
    """Row that the statement returned; for a repeat the head as it is now."""
    repeated: Mapping[str, Any] | None
    """The first answer, when this operation had been done before; nothing was written now."""

    @property
    def wakes(self) -> bool:
        """True if the write, of those that may leave work for somebody, did so."""
        return self.repeated is None and bool(self.row["wakes"])


def done(row: Row) -> Outcome:
    """Return the outcome of a write that the statement has done."""
    return Outcome(row, None)


def event_values(events: Sequence[NewEvent], taken_inbox: Sequence[int]) -> tuple[list[Any], ...]:
    """Write events, and the inbox entries that they account for, as the parameters of a statement.

    Numbers go as text: each new connection would have to look up the type of a list of them.
    """
    return (
        [event.kind for event in events],
        [event.step_id for event in events],
        [event.payload for event in events],
        list(map(str, taken_inbox)),
    )


def timer_values(set_timers: Sequence[Timer], removed_timers: Sequence[str]) -> tuple[list[Any], ...]:
    """Write changes of timers as the parameters of a statement; times as text, as `event_values` has it."""
    return (
        [timer.timer_id for timer in set_timers],
        [str(timer.fire_at_ms) for timer in set_timers],
        list(removed_timers),
    )


@dataclass(frozen=True, slots=True)
class FencedWrite:
    """A driver's write, which its fence lets through or refuses.

    Args:
        sender: Where it goes.
        fence: The driver's lease, and the operation.
    """

    sender: Sender
    fence: Fence

    async def commit(self, name: str, *values: object) -> Outcome:
        """Run a named statement, whose first parameters are the fence.

        Raises:
            LeaseLostError: The token is not the current one, or the run is not running.
            LogConflictError: The log is not as long as the driver believed.
        """
        fence = self.fence.values()
        for _ in range(_MAX_TRIES):
            rows = await self.sender.rows(name, *fence, *values)
            if rows:
                return done(rows[0])
            repeated = await self.verdict()
            if repeated is not None:
                return repeated
        raise StoreUnavailableError(
            f"gave up after {_MAX_TRIES} tries: run {self.fence.run_id!r} is being modified concurrently"
        )

    async def verdict(self, name: str = "fenced_write.before") -> Outcome | None:
        """Return the outcome of an earlier try of this operation; `None` when the write may be tried again.

        Args:
            name: How to read the head.

        Raises:
            LeaseLostError: The token is not the current one, or the run is not running.
            LogConflictError: The log is not as long as the driver believed.
        """
        heads = await self.sender.rows(name, self.fence.run_id)
        repeated = self.fence.judge(heads[0] if heads else None)
        return None if repeated is None else Outcome(heads[0], repeated)
