"""The long-lived loop of a worker."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from .clock import Clock
from .engine.driver import Driver
from .errors import StoreError
from .store import ClaimedRun, Listening
from .sweep import Claimer, SweepReport

__all__ = ["NotListening", "Polling", "Worker"]

logger = logging.getLogger("workflow_runtime")

_POLL_MS = 1_000
_LIVE_POLL_MS = 30_000
"""While the store tells of work, polls only find what a lost notice would have told."""
_TICKS = 100
"""So many ticks are fired in one turn; then the runs have theirs."""
_CLOCK_MS = 60_000
"""Heartbeats correct the clock, and a worker without long steps sends none. A monotonic clock drifts, and may stand
still while the machine sleeps."""
_CUT_S = 5.0
"""How long cancelled steps may take at the end of a drain."""


class NotListening:
    """Stands in where the store tells of nothing."""

    live = False


class Polling:
    """How long a worker waits when nothing tells it to look.

    Args:
        interval: What the user chose, if anything.
        listening: Whether the store tells of work.
        lease_ms: How long a crashed worker's runs stay with it. Whoever polls at least that often knows in time
            when each lease expires.
    """

    def __init__(self, interval: timedelta | None, listening: Listening, *, lease_ms: int) -> None:
        self._chosen_ms = None if interval is None else max(1, interval // timedelta(milliseconds=1))
        self._listening = listening
        self._live_ms = max(_POLL_MS, min(_LIVE_POLL_MS, lease_ms))

    def idle_ms(self) -> int:
        """Tell how long when all is well and nothing is known to be due sooner."""
        if self._chosen_ms is not None:
            return self._chosen_ms
        return self._live_ms if self._listening.live else _POLL_MS

    def again_ms(self) -> int:
        """Tell how long when there is work that could not be claimed: no notice will come for it."""
        return min(_POLL_MS, self.idle_ms())

    def away_ms(self) -> int:
        """Tell how long when the store is away."""
        return max(_POLL_MS, self._chosen_ms or 0)


class Worker:
    """Claims as much as it has room for, drives it, and waits for more."""

    def __init__(
        self,
        *,
        claimer: Claimer,
        make_driver: Callable[[ClaimedRun], Driver],
        drive: Callable[[Driver, SweepReport], Awaitable[None]],
        clock: Clock,
        read_clock: Callable[[], Awaitable[int]],
        concurrency: int,
        polling: Polling,
        drain_s: float,
        work_arrived: asyncio.Event,
    ) -> None:
        self._claimer = claimer
        self._make_driver = make_driver
        self._drive = drive
        self._clock = clock
        self._read_clock = read_clock
        self._read_clock_at_ms = clock.now_ms() + _CLOCK_MS
        self._concurrency = concurrency
        self._polling = polling
        self._drain_s = drain_s
        self._wake = work_arrived
        self._report = SweepReport()
        self._driving: dict[asyncio.Task[None], Driver] = {}

    async def work(self, stop: asyncio.Event, *, handle_signals: bool) -> SweepReport:
        """Work until `stop` is set or a signal comes, then drain."""
        hurry = asyncio.Event()
        watcher = asyncio.create_task(self._wake_on(stop))
        try:
            with _signals(stop, hurry) if handle_signals else _no_signals():
                while not stop.is_set():
                    await self._turn()
                await self._drain(hurry)
        finally:
            left = {watcher, *self._driving}
            for task in left:
                task.cancel()
            await asyncio.wait(left)  # nothing of ours may use the store once this has returned
        return self._report

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _turn(self) -> None:
        """Fire ticks, claim what there is room for, then wait until there may be more to do."""
        self._wake.clear()
        room = self._concurrency - len(self._driving)
        now_ms = self._clock.now_ms()
        wait_until_ms = now_ms + self._polling.idle_ms()
        fired = self._report.ticks.total()
        try:
            await self._correct_clock()
            claims = await self._claimer.claim(room, self._report, ticks=_TICKS)
        except StoreError as error:
            if not error.retryable:
                raise
            logger.warning("cannot claim: %s", error)
            wait_until_ms = self._clock.now_ms() + self._polling.away_ms()
        else:
            for claim in claims:
                self._spawn(claim)
            if claims or self._report.ticks.total() > fired:
                return  # there may be more; the loop ends when nothing is left or there is no room
            due_ms = self._report.next_due_ms
            if due_ms is not None:
                # What is due but was not given (somebody else is at it, or it cannot be read) has to wait a little.
                again_ms = due_ms if due_ms > now_ms else now_ms + self._polling.again_ms()
                wait_until_ms = min(wait_until_ms, again_ms)
        await self._clock.wait(self._wake, wait_until_ms)

    async def _correct_clock(self) -> None:
        if self._clock.now_ms() >= self._read_clock_at_ms:
            self._clock.correct(await self._read_clock())
            self._read_clock_at_ms = self._clock.now_ms() + _CLOCK_MS

    def _spawn(self, claim: ClaimedRun) -> None:
        driver = self._make_driver(claim)

        async def drive() -> None:
            await self._drive(driver, self._report)

        task = asyncio.create_task(drive())
        self._driving[task] = driver
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._driving[task]
        self._wake.set()  # there is room again, and a paused run may be due at once

    async def _drain(self, hurry: asyncio.Event) -> None:
        """Let running steps end, hand the runs over, and cancel what takes too long."""
        self._stop_drivers(cancel_steps=False)
        ending = asyncio.create_task(hurry.wait())
        try:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + self._drain_s
            while self._driving and not hurry.is_set() and loop.time() < deadline:
                left_s = deadline - loop.time()
                await asyncio.wait({*self._driving, ending}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
        if self._driving:
            self._stop_drivers(cancel_steps=True)
            await asyncio.wait(set(self._driving), timeout=_CUT_S)

    def _stop_drivers(self, *, cancel_steps: bool) -> None:
        for driver in self._driving.values():
            driver.stop(cancel_steps=cancel_steps)


@contextmanager
def _signals(stop: asyncio.Event, hurry: asyncio.Event) -> Iterator[None]:
    """Turn the first SIGTERM or SIGINT into a drain and the second into a quick end."""
    loop = asyncio.get_running_loop()
    installed = []

    def received() -> None:
        if stop.is_set():
            hurry.set()
        else:
            logger.info("draining")
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, received)
        except (NotImplementedError, RuntimeError, ValueError):
            continue  # Windows, Pyodide, or not the main thread: the process's own handling stays
        installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


@contextmanager
def _no_signals() -> Iterator[None]:
    yield
