"""The common part of a driver's writes: the repeat, the fence, and one batch.

The batch begins by reading the head as it was. All its writes carry the fence, and the update of the head, which uses
the fence up, comes last. So either all of them acted or none did, and the head as it was shows which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_runtime.store import NewEvent, Timer
from workflow_store_sql import Fence

from .database import D1PreparedStatement, D1Value, Row
from .statement_sender import SendBatch, StatementSender, json_list

__all__ = ["EVENTS_AT_ONCE", "FencedWrite", "Outcome"]

EVENTS_AT_ONCE = 16
"""Number of payloads for which the statement has parameters."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a write that was not refused."""

    before: Row
    """The head as it was."""
    repeated: Mapping[str, Any] | None
    """The first answer, when this operation had been done before; nothing was written now."""


class FencedWrite:
    """A driver's write: the batch that keeps it, being put together.

    Args:
        sender: Where it goes.
        fence: The driver's lease, and the operation.
    """

    def __init__(self, sender: StatementSender, fence: Fence) -> None:
        self._sender = sender
        self._fence = fence
        self._statements: list[D1PreparedStatement] = [sender.statement("fenced_write.before", fence.run_id)]

    def add(self, name: str, *values: D1Value) -> None:
        """Add a named statement, whose first parameters are the fence."""
        self._statements.append(self._sender.statement(name, *self._fence.values(), *values))

    def guard(self) -> None:
        """Add a statement that fails the whole batch when the fence does not hold."""
        self.add("fenced_write.guard")

    def add_foreign(self, statements: Sequence[D1PreparedStatement]) -> None:
        """Add statements that do not carry the fence; they need the guard before them."""
        self._statements.extend(statements)

    def append(self, events: Sequence[NewEvent], taken_inbox: Sequence[int], now_ms: int) -> None:
        """Add new events and mark the inbox entries that they account for."""
        first = self._fence.expected_next_index or 0
        for start in range(0, len(events), EVENTS_AT_ONCE):
            self._add_events(events[start : start + EVENTS_AT_ONCE], first + start, now_ms)
        if taken_inbox:
            self.add("fenced_write.taken", json_list(taken_inbox))

    def _add_events(self, events: Sequence[NewEvent], first_index: int, now_ms: int) -> None:
        facts = [(event.kind, event.step_id, len(event.payload or "")) for event in events]
        payloads = [event.payload for event in events]
        if len(events) == 1:
            [(kind, step_id, size)] = facts
            self.add("fenced_write.event", first_index, kind, step_id, now_ms, size, *payloads)
        else:
            padding = [None] * (EVENTS_AT_ONCE - len(events))
            self.add("fenced_write.events", first_index, now_ms, json_list(facts), *payloads, *padding)

    def change_timers(self, set_timers: Sequence[Timer], removed_timers: Sequence[str]) -> None:
        """Remove timers, then add or move others."""
        if removed_timers:
            self.add("fenced_write.removed_timers", json_list(removed_timers))
        if set_timers:
            self.add("fenced_write.set_timers", json_list([timer.timer_id, timer.fire_at_ms] for timer in set_timers))

    async def look(self) -> Outcome:
        """Read how the head stands to this write, and write nothing.

        Raises:
            LeaseLostError: The token is not the current one, or the run is not running.
            LogConflictError: The log is not as long as the driver believed.
        """
        rows = await self._sender.rows("fenced_write.before", self._fence.run_id)
        return self._judge(rows[0] if rows else None)

    async def commit(self, send: SendBatch | None = None) -> Outcome:
        """Send the batch.

        Args:
            send: How; as a batch of its own when absent.

        Raises:
            LeaseLostError: The token is not the current one, or the run is not running.
            LogConflictError: The log is not as long as the driver believed.
        """
        results = await self._sender.batch(self._statements, send)
        return self._judge(results[0][0] if results[0] else None)

    def _judge(self, head: Row | None) -> Outcome:
        repeated = self._fence.judge(head)
        assert head is not None  # without a row the fence would not have held
        return Outcome(head, repeated)
