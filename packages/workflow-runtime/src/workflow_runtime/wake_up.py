"""A worker's wake-up: what has happened that it should look for, and how soon it does."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from .sources import SOURCES, Source

__all__ = ["News", "Patience", "WakeUp"]

_MOST_RUNS = 100
"""The most runs of notices that are remembered by their ids."""
_FIRST_PATIENCE_S = 0.001
_LAST_PATIENCE_S = 0.01


@dataclass(slots=True)
class News:
    """The news since the last turn of a worker."""

    due_ms: dict[Source, int] = field(default_factory=dict)
    """From when on a source has something; milliseconds since the Unix epoch."""
    run_ids: set[str] = field(default_factory=set)
    """Runs of notices: each is queued, or sleeps for a short time, or was another worker's before this one heard."""


class WakeUp:
    """A worker's wake-up, with the news that wake it. They are kept until the worker takes them."""

    def __init__(self) -> None:
        self.event: asyncio.Event = asyncio.Event()
        self._news = News()
        self._hurry = False

    def look(self) -> None:
        """Have the worker look at everything that may be due."""
        self.look_for(*SOURCES)

    def look_for(self, *sources: Source, at_ms: int = 0) -> None:
        """Have the worker ask these sources.

        Args:
            sources: What has something.
            at_ms: From when on; milliseconds since the Unix epoch.
        """
        for source in sources:
            self._news.due_ms[source] = min(at_ms, self._news.due_ms.get(source, at_ms))
        self.take_a_turn()

    def look_for_run(self, run_id: str) -> None:
        """Have the worker look for the run of a notice. All workers of the store are notified at once."""
        if len(self._news.run_ids) < _MOST_RUNS:
            self._news.run_ids.add(run_id)
            self.event.set()
        else:
            self.look_for("pending", "timers")

    def take_a_turn(self) -> None:
        """Wake the worker: there is something to be done, or room for it."""
        self._hurry = True
        self.event.set()

    @property
    def told(self) -> bool:
        """True if nothing but notices of runs has come."""
        return self.event.is_set() and not self._hurry

    def take(self) -> News:
        """Clear the wake-up; return what has happened."""
        news, self._news = self._news, News()
        self._hurry = False
        self.event.clear()
        return news


class Patience:
    """The random delay before claiming, so that workers woken by one notification do not stampede.

    Who got the last one goes at once, and the others look one after the other: where all would look in the same
    moment, they would keep the rows, and the processors, from the one who gets it.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._longest_s = 0.0

    async def wait(self, *, busy: bool) -> None:
        """Wait a random moment where several workers were woken, so that they do not stampede."""
        longest_s = max(self._longest_s, _FIRST_PATIENCE_S) if busy else self._longest_s
        if longest_s:
            await asyncio.sleep(self._rng.uniform(0, longest_s))

    def looked(self, *, found: bool) -> None:
        """Note whether there was something to be had."""
        self._longest_s = 0.0 if found else min(_LAST_PATIENCE_S, max(_FIRST_PATIENCE_S, 2 * self._longest_s))
