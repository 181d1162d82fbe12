"""The health of a worker, for probes."""

from __future__ import annotations

from datetime import datetime

from .clock import Clock, from_ms
from .frozen_value import Value, value
from .logs import one_line

__all__ = ["NOT_WORKING", "Pulse", "WorkerHealth"]


@value
class WorkerHealth(Value):
    """The health of a runtime's worker. All times are the store's, as aware datetimes in UTC."""

    working_since: datetime | None
    """Time at which the worker began; `None` while none works."""
    last_look: datetime | None
    """Time of the last successful look for work. An idle worker that is notified of new work looks every 30 seconds."""
    driving: int
    """Number of runs that are being driven here, by sweeps and `run_here` too."""
    store_reachable: bool
    """True if the last look was answered."""
    last_error: str | None
    """Last error of asking the store for work, in one line; kept after it has passed."""
    draining: bool
    """True if it was asked to stop."""

    @property
    def ready(self) -> bool:
        """True if it takes work: it works, the store answers, and nobody has asked it to stop."""
        return self.working_since is not None and self.store_reachable and not self.draining


NOT_WORKING = WorkerHealth(
    working_since=None, last_look=None, driving=0, store_reachable=False, last_error=None, draining=False
)


class Pulse:
    """The notes of a worker for its health."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = from_ms(clock.now_ms())
        self._last_look: datetime | None = None
        self._reachable = True
        self._last_error: str | None = None

    @property
    def looked(self) -> bool:
        """True if a look was ever answered."""
        return self._last_look is not None

    def beat(self) -> None:
        """Note that a look was answered."""
        self._last_look = from_ms(self._clock.now_ms())
        self._reachable = True

    def missed(self, error: Exception) -> None:
        """Note that the store was asked in vain."""
        self._reachable = False
        self._last_error = one_line(error)

    def health(self, *, driving: int, draining: bool) -> WorkerHealth:
        """Return the worker's health."""
        return WorkerHealth(
            working_since=self._since,
            last_look=self._last_look,
            driving=driving,
            store_reachable=self._reachable and self.looked,
            last_error=self._last_error,
            draining=draining,
        )
