"""The timing of a schedule."""

from __future__ import annotations

from collections.abc import Iterator

from ..frozen_value import Value, value
from .cron import Cron
from .definition import MissedPolicy
from .every import Every

__all__ = ["Spec"]


@value
class Spec(Value):
    """The times at which a schedule fires, and what becomes of a late tick."""

    when: Cron | Every
    missed: MissedPolicy
    missed_limit: int
    grace_ms: int
    jitter_ms: int
    starts_at_ms: int | None
    ends_at_ms: int | None

    def ticks_after(self, after_ms: int) -> Iterator[int]:
        """Yield the ticks after a moment, in order, from the start to the end of the schedule."""
        if self.starts_at_ms is not None:
            after_ms = max(after_ms, self.starts_at_ms - 1)
        for tick_ms in self.when.ticks_after(after_ms):
            if self.ends_at_ms is not None and tick_ms >= self.ends_at_ms:
                return
            yield tick_ms

    def next_after(self, after_ms: int) -> int | None:
        """Return the first tick after a moment."""
        return next(self.ticks_after(after_ms), None)
