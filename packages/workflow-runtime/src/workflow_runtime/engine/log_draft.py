"""The next write of a run's log, while it grows."""

from __future__ import annotations

from ..store import NewEvent
from .history import Recorded, new_event
from .log_write import LogWrite
from .timer_book import TimerBook

__all__ = ["LogDraft"]

_MAX_BYTES = 500_000


class LogDraft:
    """The next write of a run's log while it grows. Whatever takes effect in the handler is here until it is written.

    Args:
        max_events: So many events make it full.
    """

    def __init__(self, max_events: int) -> None:
        self.events: list[NewEvent] = []
        self.timers: TimerBook = TimerBook()
        self._max_events = max_events
        self._taken_inbox: list[int] = []
        self._size = 0
        self.full: bool = max_events <= 0
        """True if it should be written before more is added: a write is bounded."""

    @property
    def empty(self) -> bool:
        """True if there is nothing to write, no timer either."""
        return not (self.events or self.timers.has_changes)

    def add(self, recorded: Recorded, taken: int | None = None) -> None:
        """Add an event, and the number of the inbox entry that it accounts for."""
        self.events.append(new_event(recorded))
        self._size += len(recorded.payload or "")
        self.full = len(self.events) >= self._max_events or self._size >= _MAX_BYTES
        if taken is not None:
            self._taken_inbox.append(taken)

    def write(self, *more: NewEvent) -> LogWrite:
        """Return everything that is to be written now, and more events behind it; `written` must follow."""
        to_set, to_remove = self.timers.changes()
        return LogWrite((*self.events, *more), tuple(self._taken_inbox), tuple(to_set), tuple(to_remove))

    def last_write(self, end: NewEvent) -> LogWrite:
        """Return the write that ends the run. The timers are left out: the end of a run removes all of them."""
        return LogWrite(events=(*self.events, end), taken_inbox=tuple(self._taken_inbox))

    def written(self) -> None:
        """Forget what the store has now."""
        self.events.clear()
        self._taken_inbox.clear()
        self._size = 0
        self.full = self._max_events <= 0
        self.timers.written()
