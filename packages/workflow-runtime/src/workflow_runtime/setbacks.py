"""The pauses of a worker while something fails: growing, bounded, with jitter."""

from __future__ import annotations

import logging
import random

from .clock import Clock
from .logs import get_logger, one_line
from .store_retry import may_pass

__all__ = ["Setbacks"]

logger = get_logger("workflow_runtime")

_FIRST_MS = 1_000
_LONGEST_AWAY_MS = 5_000
"""The longest pause between two looks while the store is away: it may be back any moment."""
_LONGEST_REFUSED_MS = 30_000
"""The longest pause between two looks while the store refuses them: somebody has to mend it."""

_SOON_MS = 30_000
"""Time within which a passing trouble passes, as a rule. After it somebody should know."""


class Setbacks:
    """Failures in a row of one kind of work.

    Args:
        what: What fails, for the log: `claim`.
        clock: The runtime's.
        rng: For the jitter: workers that fail together are not to come back together.
    """

    def __init__(self, what: str, *, clock: Clock, rng: random.Random) -> None:
        self._what = what
        self._clock = clock
        self._rng = rng
        self._count = 0
        self._since_ms = 0

    @property
    def failing(self) -> bool:
        """True if it failed last."""
        return self._count > 0

    def met(self, error: Exception) -> int:
        """Note a failure, log it, and return until when to rest."""
        now_ms = self._clock.now_ms()
        if not self._count:
            self._since_ms = now_ms
        pause_ms = self._pause_ms(error)
        self._count += 1
        self._say(error, pause_ms)
        return now_ms + pause_ms

    def over(self) -> None:
        """Note that it went well."""
        if self._count:
            away_s = (self._clock.now_ms() - self._since_ms) / 1000
            logger.info("can %s again, after %d failures in %.1f s", one_line(self._what), self._count, away_s)
        self._count = 0

    def _pause_ms(self, error: Exception) -> int:
        longest_ms = _LONGEST_AWAY_MS if getattr(error, "retryable", False) else _LONGEST_REFUSED_MS
        pause_ms = min(longest_ms, _FIRST_MS << min(self._count, 10))
        return round(pause_ms * self._rng.uniform(0.5, 1))

    def _say(self, error: Exception, pause_ms: int) -> None:
        soon = getattr(error, "retryable", False) and self._clock.now_ms() - self._since_ms < _SOON_MS
        logger.log(
            logging.WARNING if soon else logging.ERROR,
            "cannot %s: %s; the next try is in %.1f s",
            one_line(self._what),
            one_line(error),
            pause_ms / 1000,
            exc_info=None if may_pass(error) else error,
        )
