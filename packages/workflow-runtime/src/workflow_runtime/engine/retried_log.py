"""The events of a log that count no more, because the run was retried after them, or forked whole.

The end of a run names the operations that had failed and that a retry repeats (see `failure_ledger.py`). When
`run-retried` or `run-forked` follows, those failures are not replayed: to the handler the operations are still pending.
A handler cannot be rewound, so the log is replayed from the top again when it turns out that something was replayed
that counts no more. Only runs that were retried pay for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import NonDeterminismError
from .history import FAILURES, EventKind, Recorded

__all__ = ["MATTERS", "RetriedLog", "end_facts"]

MATTERS = FAILURES | {
    EventKind.CANCEL_REQUESTED,
    EventKind.RUN_ERRORED,
    EventKind.RUN_ABORTED,
    EventKind.RUN_RETRIED,
    EventKind.RUN_FORKED,
}
"""The events that are to be shown to a `RetriedLog`."""

_REPEATS = "retry_repeats"
_WITHDRAWS = "retry_withdraws_cancel"
_CANCEL = ""
"""Stands among the step ids for the request to end."""
_MAX_NAMED_BYTES = 65_536


def end_facts(step_ids: Sequence[str], *, cancelled: bool) -> dict[str, object]:
    """Return what a retry will take back, for the event that ends a run. Nothing for very many failures."""
    if sum(len(step_id) for step_id in step_ids) > _MAX_NAMED_BYTES:
        return {}
    facts: dict[str, object] = {_REPEATS: list(step_ids)}
    return facts | {_WITHDRAWS: True} if cancelled else facts


class RetriedLog:
    """The events of a log that count no more, learned while it is read. A replay asks it about each event."""

    def __init__(self) -> None:
        self.undone: frozenset[int] = frozenset()
        """The indexes of those that are known."""
        self.only_reading: bool = False
        """True if the replay has gone wrong, so that the rest of the log is read to learn from it."""
        self._by_retry: dict[int, frozenset[int]] = {}
        self._is_new = False
        self._newest: dict[str, int] = {}
        self._ended: Iterable[str] | None = ()
        self._divergence: tuple[int, NonDeterminismError] | None = None

    def read(self, index: int, recorded: Recorded, unanswered: Sequence[str], *, cancelled: bool) -> None:
        """Look at one of the events that matter, in their order.

        Args:
            index: Where it stands.
            recorded: What it says.
            unanswered: The operations that have failed in this replay and that nothing depends on, in case that the
                log does not name them: older ones do not.
            cancelled: As `unanswered`, for the request to end.
        """
        match recorded.kind:
            case EventKind.RUN_ERRORED | EventKind.RUN_ABORTED:
                self._ended = _named(recorded)
                if self._ended is None and not self.only_reading:
                    self._ended = (*unanswered, _CANCEL) if cancelled else unanswered
            case EventKind.RUN_RETRIED | EventKind.RUN_FORKED:
                self._retried(index)
            case _:
                self._newest[recorded.step_id] = index

    def diverged(self, index: int, error: NonDeterminismError) -> None:
        """Note that the handler does not go along with an event."""
        self.only_reading = True
        self._divergence = (index, error)

    def begin_again(self) -> bool:
        """Return, at the end of the log, whether it has to be replayed from the top, now that more is known.

        Raises:
            NonDeterminismError: The handler diverges, and no retry has to do with it.
        """
        diverged, self._divergence = self._divergence, None
        if not self._is_new and diverged is not None and not self._refuted_by(diverged[0]):
            raise diverged[1]
        again = self._is_new
        self._is_new = self.only_reading = False
        self._newest.clear()
        self._ended = ()
        self.undone = frozenset().union(*self._by_retry.values())
        return again

    def _retried(self, index: int) -> None:
        ended, self._ended = self._ended, ()
        if index not in self._by_retry and ended is not None:
            self._by_retry[index] = frozenset(self._newest[name] for name in ended if name in self._newest)
            self._is_new = self._is_new or bool(self._by_retry[index])
        # The events that follow belong to a handler that never saw what was taken back.
        self.only_reading = self.only_reading or self._is_new or ended is None

    def _refuted_by(self, index: int) -> bool:
        """Return True if a divergence shows that something depends on what a retry took back: that counts again."""
        for retried_at, undone in self._by_retry.items():
            if undone and min(undone) < index < retried_at:
                self._by_retry[retried_at] = frozenset()
                self._is_new = True
                return True
        return False


def _named(end: Recorded) -> Iterable[str] | None:
    facts = end.facts()
    if _REPEATS not in facts:
        return None
    return [*facts[_REPEATS], _CANCEL] if facts.get(_WITHDRAWS) else list(facts[_REPEATS])
