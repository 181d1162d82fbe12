"""What a driver has decided but not yet written: the next unit of the log, with everything that belongs to it."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from ..store import NewEvent, Timer
from .history import Recorded, new_event
from .operations import Operation

__all__ = ["MAX_EVENTS", "PendingUnit", "TimerBook"]

MAX_EVENTS = 50
_MAX_BYTES = 500_000


@dataclass(slots=True)
class PendingUnit:
    """Collects events, taken inbox entries and changes of timers until they are written together."""

    max_events: int = MAX_EVENTS
    events: list[NewEvent] = field(default_factory=list)
    taken_inbox: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, recorded: Recorded, taken: int | None = None) -> None:
        """Add an event, and the inbox entry that it accounts for."""
        self.events.append(new_event(recorded))
        self.size += len(recorded.payload or "")
        if taken is not None:
            self.taken_inbox.append(taken)

    @property
    def full(self) -> bool:
        """Whether it should be written before more is added: a unit is bounded."""
        return len(self.events) >= self.max_events or self.size >= _MAX_BYTES

    def clear(self) -> None:
        """Forget what was written."""
        self.events.clear()
        self.taken_inbox.clear()
        self.size = 0


@dataclass(slots=True)
class TimerBook:
    """Knows which operations have a deadline, and which of their timers the store holds."""

    _timed: dict[str, Operation] = field(default_factory=dict)
    _queue: list[tuple[int, int, Operation]] = field(default_factory=list)
    """A heap of deadlines, each with the number of its call so that equal ones keep their order."""
    _watched: int = 0

    def watch(self, operation: Operation) -> None:
        """Look after an operation whose deadline, if it has one, has just become known."""
        if operation.until_ms is not None:
            self._timed[operation.step_id] = operation
            self._watched += 1
            heapq.heappush(self._queue, (operation.until_ms, self._watched, operation))

    def changes(self) -> tuple[list[Timer], list[str]]:
        """Give the timers to set and the ids of those to remove; `written` must follow when that is done."""
        to_set, to_remove = [], []
        for operation in self._timed.values():
            wanted = operation.until_ms if operation.pending else None
            if wanted is not None and wanted != operation.timer_set_ms:
                to_set.append(Timer(timer_id=operation.step_id, fire_at_ms=wanted))
            elif wanted is None and operation.timer_set_ms is not None:
                to_remove.append(operation.step_id)
        return to_set, to_remove

    def written(self) -> None:
        """Hear that the store holds what `changes` gave."""
        for step_id, operation in list(self._timed.items()):
            operation.timer_set_ms = operation.until_ms if operation.pending else None
            if not operation.pending:
                del self._timed[step_id]

    def next_due(self) -> Operation | None:
        """Give the pending operation with the earliest deadline."""
        while self._queue:
            until_ms, _, operation = self._queue[0]
            if operation.pending and operation.until_ms == until_ms:
                return operation
            heapq.heappop(self._queue)
        return None
