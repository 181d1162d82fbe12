"""The deadlines of a run's operations, and which of their timers the store holds."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from ..store import MAX_TIMER_CHANGES, Timer
from .operations import UNKNOWN_TIMER, Operation

__all__ = ["TimerBook"]


@dataclass(slots=True)
class TimerBook:
    """The operations of a run that have a deadline, and what their timers in the store lack.

    A driver asks it for the next deadline, and each write for the timers to set and to remove.
    """

    _timed: dict[str, Operation] = field(default_factory=dict)
    _queue: list[tuple[int, int, Operation]] = field(default_factory=list)
    """A heap of deadlines, each with the number of its call so that equal ones keep their order."""
    _watched: int = 0
    _strays: list[str] = field(default_factory=list)

    def watch(self, operation: Operation) -> None:
        """Add an operation whose deadline, if it has one, has just become known."""
        if operation.until_ms is not None:
            self._timed[operation.step_id] = operation
            self._watched += 1
            heapq.heappush(self._queue, (operation.until_ms, self._watched, operation))

    def changes(self) -> tuple[list[Timer], list[str]]:
        """Return the timers to set and the ids of those to remove; `written` must follow when that is done.

        Of very many these are some, and the others follow in the next writes: `overfull` is true then. New timers
        always come with the event that sets them. One to be removed that a crash in between leaves behind wakes the
        run once, and is then a stray one.
        """
        if not self._timed and not self._strays:
            return [], []  # the common case, in every step
        to_set, to_remove, strays, _ = self._next()
        timers = [Timer(timer_id=op.step_id, fire_at_ms=op.until_ms) for op in to_set if op.until_ms is not None]
        return timers, strays + [operation.step_id for operation in to_remove]

    def written(self) -> None:
        """Note that the store holds what `changes` returned."""
        if not self._timed and not self._strays:
            return
        to_set, to_remove, strays, _ = self._next()
        for operation in to_set:
            operation.timer_set_ms = operation.until_ms
        for operation in to_remove:
            operation.timer_set_ms = None
        del self._strays[: len(strays)]
        for step_id, operation in list(self._timed.items()):
            if not operation.pending and operation.timer_set_ms is None:
                del self._timed[step_id]

    @property
    def has_changes(self) -> bool:
        """True if a timer is to be set or removed."""
        if not self._timed and not self._strays:
            return False
        to_set, to_remove, strays, _ = self._next()
        return bool(to_set or to_remove or strays)

    @property
    def has_deadlines(self) -> bool:
        """True if an operation may be due one day."""
        return bool(self._queue)

    @property
    def overfull(self) -> bool:
        """True if there is more to change than one write takes."""
        return self._next()[3]

    def stray(self, timer_id: str) -> None:
        """Note a timer that nobody waits for: it is to be removed."""
        self._strays.append(timer_id)

    def _next(self) -> tuple[list[Operation], list[Operation], list[str], bool]:
        new: list[Operation] = []
        again: list[Operation] = []
        gone: list[Operation] = []
        for operation in self._timed.values():
            wanted = operation.until_ms if operation.pending else None
            if wanted is None:
                if operation.timer_set_ms is not None:
                    gone.append(operation)
            elif operation.timer_set_ms == UNKNOWN_TIMER:
                again.append(operation)
            elif wanted != operation.timer_set_ms:
                new.append(operation)
        strays = self._strays[:MAX_TIMER_CHANGES]
        to_set = new + again[: MAX_TIMER_CHANGES - len(new)]
        to_remove = gone[: MAX_TIMER_CHANGES - len(strays)]
        done = len(to_set) + len(to_remove) + len(strays)
        return to_set, to_remove, strays, done < len(new) + len(again) + len(gone) + len(self._strays)

    def next_due(self) -> Operation | None:
        """Return the pending operation with the earliest deadline."""
        while self._queue:
            until_ms, _, operation = self._queue[0]
            if operation.pending and operation.until_ms == until_ms:
                return operation
            heapq.heappop(self._queue)
        return None
