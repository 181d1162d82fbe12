"""Time for the runtime: the store's clock carried on by the monotonic one, or a test's own."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from .durations import check_duration
from .errors import InvalidArgumentError

__all__ = ["Clock", "StoreClock", "TestClock", "from_ms", "to_ms"]


class Clock(Protocol):
    """The source of a runtime's time, and its way of waiting."""

    def now_ms(self) -> int:
        """Return the present in milliseconds since the Unix epoch; never less than before."""
        ...

    def correct(self, store_clock_ms: int) -> None:
        """Take in what the store's clock showed a moment ago."""
        ...

    async def wait(self, event: asyncio.Event, until_ms: int | None) -> None:
        """Return when the event is set or the time has come (`None`: only the event)."""
        ...


class StoreClock:
    """The store's time, read once and then carried on by the monotonic clock.

    The wall clock of this machine is never read, so it may be wrong or jump. Answers to heartbeats correct the
    drift; a correction backwards makes this clock stand still until the store's has caught up.
    """

    def __init__(self, store_clock_ms: int) -> None:
        self._offset_ms = store_clock_ms - _monotonic_ms()
        self._latest_ms = store_clock_ms

    def now_ms(self) -> int:
        """Return the present."""
        self._latest_ms = max(self._latest_ms, self._offset_ms + _monotonic_ms())
        return self._latest_ms

    def correct(self, store_clock_ms: int) -> None:
        """Follow the store's clock."""
        self._offset_ms = store_clock_ms - _monotonic_ms()

    async def wait(self, event: asyncio.Event, until_ms: int | None) -> None:
        """Wait in real time."""
        if until_ms is None:
            await event.wait()
            return
        try:
            async with asyncio.timeout(max(0, until_ms - self.now_ms()) / 1000):
                await event.wait()
        except TimeoutError:
            return


class TestClock:
    """A clock that moves only when a test moves it. A week of sleeping takes no time.

    Hand one to every `WorkflowRuntime` that shares the store: then leases, timers and delays all follow it,
    on every store alike, since stores take the time from their arguments.
    """

    __test__ = False  # pytest would collect it for its name

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now_ms = to_ms("start", start)
        self._moved = asyncio.Event()

    def now_ms(self) -> int:
        """Return the present."""
        return self._now_ms

    def now(self) -> datetime:
        """Return the present as an aware datetime."""
        return from_ms(self._now_ms)

    def correct(self, store_clock_ms: int) -> None:
        """Ignore the store's clock."""

    def advance(self, by: timedelta) -> None:
        """Move forward."""
        self.advance_to_ms(self._now_ms + round(check_duration("by", by).total_seconds() * 1000))

    def advance_to_ms(self, at_ms: int) -> None:
        """Move forward to a time; one that has passed changes nothing."""
        self._now_ms = max(self._now_ms, at_ms)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def wait(self, event: asyncio.Event, until_ms: int | None) -> None:
        """Wait until a test has moved the clock that far."""
        while not event.is_set() and (until_ms is None or self._now_ms < until_ms):
            waiters = [asyncio.ensure_future(e.wait()) for e in (event, self._moved)]
            try:
                await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for waiter in waiters:
                    waiter.cancel()


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def to_ms(argument: str, moment: datetime) -> int:
    """Turn an aware datetime into milliseconds since the Unix epoch.

    Raises:
        InvalidArgumentError: It is naive: nobody knows which moment it means.
    """
    if not isinstance(moment, datetime):
        raise InvalidArgumentError(argument, f"must be a datetime with a time zone, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        problem = "must be a datetime with a time zone, and this one has none: datetime.now(UTC) has one, for instance"
        raise InvalidArgumentError(argument, problem)
    # Not by the operator of a subclass, which may give something else than a `timedelta`.
    return datetime.__sub__(moment, _EPOCH) // timedelta(milliseconds=1)


def from_ms(at_ms: int) -> datetime:
    """Turn milliseconds since the Unix epoch into an aware datetime in UTC."""
    return _EPOCH + timedelta(milliseconds=at_ms)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
