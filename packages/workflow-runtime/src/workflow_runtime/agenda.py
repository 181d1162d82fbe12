"""A worker's agenda: when each source of work is worth asking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from .sources import RUN_SOURCES, SOURCES, Answer, Source
from .store import Listening
from .wake_up import News

__all__ = ["Agenda", "NotListening", "Polling"]

_POLL_MS = 1_000
_LIVE_POLL_MS = 30_000
"""While the store notifies of work, polls only find what lost notices were about."""
_MOST_RUNS = 100


class NotListening:
    """Stands in for a store without notices."""

    live = False


class Polling:
    """The intervals at which a worker looks without a notice.

    Args:
        interval: What the user chose, if anything.
        listening: True if the store notifies of work.
    """

    def __init__(self, interval: timedelta | None, listening: Listening) -> None:
        self._chosen_ms = None if interval is None else max(1, interval // timedelta(milliseconds=1))
        self._listening = listening

    @property
    def told(self) -> bool:
        """True if notices of work are coming at present."""
        return self._listening.live

    def idle_ms(self) -> int:
        """Return the pause when all is well and nothing is known to be due sooner."""
        if self._chosen_ms is not None:
            return self._chosen_ms
        return _LIVE_POLL_MS if self._listening.live else _POLL_MS

    def again_ms(self) -> int:
        """Return the pause when there is work that could not be claimed: no notice will come for it."""
        return min(_POLL_MS, self.idle_ms())


class Agenda:
    """For each source the time from which on it is asked: known from its last answer and from news since.

    Without either it is asked as often as an idle worker polls, however busy this one is. So what nobody told of is
    found no later than by an idle worker: a lost notice, a long sleep that another process began.

    Args:
        polling: How often that is.
        lease_ms: How long a worker's lease lasts.
    """

    def __init__(self, polling: Polling, *, lease_ms: int) -> None:
        self._polling = polling
        self._watch_ms = max(_POLL_MS, lease_ms)
        self._ask_at_ms: dict[Source, int] = dict.fromkeys(SOURCES, 0)
        self._due_ms: dict[Source, int | None] = dict.fromkeys(SOURCES)
        """The last answer of each source."""
        self._told: set[str] = set()
        """Runs of notices that were not looked for yet."""

    def heed(self, news: News) -> None:
        """Take in what has happened."""
        for source, at_ms in news.due_ms.items():
            self._ask(source, at_ms)
        if news.run_ids:
            self._told |= news.run_ids
            self._ask("pending", 0)
        if len(self._told) > _MOST_RUNS:
            self._told.clear()
            self._ask("timers", 0)

    def heed_free_place(self) -> None:
        """Take in that a run has ended: ask those that had more than there was room for.

        While no notices come, what was queued meanwhile is found here too.
        """
        for source in RUN_SOURCES:
            if (due_ms := self._due_ms[source]) is not None:
                self._ask(source, due_ms)
        if not self._polling.told:
            self._ask("pending", 0)

    def heed_time(self, until_ms: int) -> None:
        """Take in that somebody has waited until a time. The clock may say otherwise: it stands still at times."""
        for source, at_ms in self._ask_at_ms.items():
            if at_ms <= until_ms:
                self._ask_at_ms[source] = 0

    def due(self, now_ms: int, *, room: bool) -> list[Source]:
        """Return whom to ask.

        Args:
            now_ms: The present; milliseconds since the Unix epoch.
            room: True if there is room for runs. Ticks are fired without.
        """
        return [source for source in _askable(room=room) if self._ask_at_ms[source] <= now_ms]

    def next_ms(self, *, room: bool) -> int:
        """Return when there is somebody to be asked again, in milliseconds since the Unix epoch."""
        return min(self._ask_at_ms[source] for source in _askable(room=room))

    def runs_due_ms(self) -> int | None:
        """Return since when, or from when on, the next run can be claimed, as far as the sources have said."""
        return min((at_ms for source in RUN_SOURCES if (at_ms := self._due_ms[source]) is not None), default=None)

    def next_due_ms(self) -> int | None:
        """Return the time of the next work that the sources have told of."""
        return min((at_ms for at_ms in self._due_ms.values() if at_ms is not None), default=None)

    def answered(self, answers: Mapping[Source, Answer], claimed: Iterable[str], asked_at_ms: int) -> None:
        """Take in what the sources said, and the ids of the runs that they gave.

        Args:
            answers: Those of the ones that were asked.
            claimed: The ids.
            asked_at_ms: When the first one was asked; milliseconds since the Unix epoch.
        """
        for source, answer in answers.items():
            self._due_ms[source] = answer.next_due_ms
            self._ask_at_ms[source] = asked_at_ms + self._pause_ms(source, answer, asked_at_ms)
        claimed = set(claimed)
        unseen = self._told - claimed if "pending" in answers else set()
        if "pending" in answers:
            self._told.clear()
        if unseen and "timers" not in answers:
            self._ask("timers", 0)  # it is asleep, or somebody else has it
        if claimed or unseen:
            # Where there is work others have some too. A worker that dies is seen before its lease is over.
            self._ask("stale", asked_at_ms + self._watch_ms)

    def _pause_ms(self, source: Source, answer: Answer, asked_at_ms: int) -> int:
        idle_ms = self._polling.idle_ms()
        if answer.found and source == "ticks":
            return 0  # a tick may have had another one behind it
        if answer.failed:
            return self._polling.again_ms()
        if answer.next_due_ms is None:
            return idle_ms
        if answer.next_due_ms > asked_at_ms:
            return min(idle_ms, answer.next_due_ms - asked_at_ms)
        # What is due but was not given (somebody else is at it, or it cannot be read) has to wait a little.
        return 0 if answer.found else self._polling.again_ms()

    def _ask(self, source: Source, at_ms: int) -> None:
        self._ask_at_ms[source] = min(self._ask_at_ms[source], at_ms)


def _askable(*, room: bool) -> tuple[Source, ...]:
    return SOURCES if room else ("ticks",)
