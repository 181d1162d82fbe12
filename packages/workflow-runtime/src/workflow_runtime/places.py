"""The places of a worker for the runs that it drives, and when free ones are worth a claim."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .engine.driver import Driver

__all__ = ["Places"]

_ENOUGH = 16
"""Number of runs that make a claim cheap. With more the drives would be in step, and store and worker wait by turns."""
_LONGEST_GATHERING_S = 0.05
"""The longest that a free place waits for others: a server that is slow must not hold up the places that it freed."""


class Places:
    """The places for runs. While more is waiting than there is room for, those that become free are filled together.

    Otherwise runs that end one after the other would each cost a claim. A free place only waits for drives that have
    just begun or are making their last write, so for about the time of one statement, and no longer than until half of
    the places are free, or as many as make a claim cheap. While all others are at their steps it does not wait at all.

    Args:
        on_overdue: Called when free places have waited for long enough.
    """

    def __init__(self, on_overdue: Callable[[], None]) -> None:
        self._on_overdue = on_overdue
        self._driving: dict[asyncio.Task[None], Driver] = {}
        self._passing: set[Driver] = set()
        """Drives in a state that takes no time to speak of: they have just begun, or make their last write."""
        self._more_waits = False
        self._overdue = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def driving(self) -> tuple[asyncio.Task[None], ...]:
        """The drives."""
        return tuple(self._driving)

    @property
    def taken(self) -> int:
        """Number of runs that are driven."""
        return len(self._driving)

    def take(self, driver: Driver, task: asyncio.Task[None]) -> None:
        """Take a place for a run."""
        self._driving[task] = driver
        self._passing.add(driver)
        driver.on_waiting = lambda waiting: (self._passing.discard if waiting else self._passing.add)(driver)

    def leave(self, task: asyncio.Task[None]) -> None:
        """Take back the place of a drive that has ended."""
        self._passing.discard(self._driving.pop(task))

    def to_fill(self, most: int) -> int:
        """Return how many runs to claim now. `on_overdue` follows if that is none though places are free.

        Args:
            most: Number of places.
        """
        free = max(0, most - len(self._driving))
        if not self._gathers(free, most):
            return free
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LONGEST_GATHERING_S, self._waited)
        return 0

    def looked(self, *, more_waits: bool) -> None:
        """Note that free places were filled as far as could be, and whether more runs are waiting."""
        self._more_waits, self._overdue = more_waits, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _gathers(self, free: int, most: int) -> bool:
        enough = min(most // 2, _ENOUGH)
        return self._more_waits and bool(self._passing) and not self._overdue and 0 < free < enough

    def _waited(self) -> None:
        self._overdue, self._timer = True, None
        self._on_overdue()
