"""Fixed intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from ..durations import check_duration
from ..errors import InvalidArgumentError
from ..retry import MAX_DELAY

__all__ = ["Every", "whole_ms"]

_MS = timedelta(milliseconds=1)
_LAST_MS = 253_370_764_800_000
"""The year 9999: later moments are no `datetime` any more."""


@dataclass(frozen=True, slots=True)
class Every:
    """Ticks at a fixed interval, counted from the Unix epoch: every 5 minutes means at :00, :05, :10 in UTC.

    All workers agree on the moments, whenever each of them was started.

    Raises:
        InvalidArgumentError: The interval is shorter than a second, or one of the two is no whole number of
            milliseconds.
    """

    interval: timedelta
    offset: timedelta = timedelta(0)
    """Delay after each multiple of the interval: `Every(timedelta(hours=1), offset=timedelta(minutes=7))` fires at
    seven past.
    """

    def __post_init__(self) -> None:
        interval_ms = whole_ms("interval", self.interval)
        if interval_ms < 1_000:
            raise InvalidArgumentError("interval", f"must be at least 1 second, not {self.interval}")
        offset_ms = whole_ms("offset", self.offset)
        # One form for one meaning: an equal schedule is then written equally.
        object.__setattr__(self, "interval", interval_ms * _MS)
        object.__setattr__(self, "offset", (offset_ms % interval_ms) * _MS)

    def ticks_after(self, after_ms: int) -> Iterator[int]:
        """Yield the ticks after a moment, in order."""
        interval_ms, offset_ms = self.interval // _MS, self.offset // _MS
        tick_ms = ((after_ms - offset_ms) // interval_ms + 1) * interval_ms + offset_ms
        while tick_ms < _LAST_MS:
            yield tick_ms
            tick_ms += interval_ms


def whole_ms(argument: str, duration: timedelta) -> int:
    """Turn a duration into milliseconds.

    Raises:
        InvalidArgumentError: It is negative, too long, or not a whole number of milliseconds.
    """
    duration = check_duration(argument, duration)
    if not timedelta(0) <= duration <= MAX_DELAY:
        raise InvalidArgumentError(argument, f"must be from 0 to {MAX_DELAY.days} days, not {duration}")
    if duration % _MS:
        raise InvalidArgumentError(argument, f"must be a whole number of milliseconds, not {duration}")
    return duration // _MS
