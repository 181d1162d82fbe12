"""The long-lived loop of a worker."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from .clock import Clock
from .engine.driver import Driver
from .errors import StoreError
from .store import ClaimedRun
from .sweep import Claimer, SweepReport

__all__ = ["Worker"]

logger = logging.getLogger("workflow_runtime")

_AWAY_MS = 1_000
"""The pause after a claim that failed because the store was away."""
_CUT_S = 5.0
"""How long cancelled steps may take at the end of a drain."""


class Worker:
    """Claims as much as it has room for, drives it, and waits for more."""

    def __init__(
        self,
        *,
        claimer: Claimer,
        make_driver: Callable[[ClaimedRun], Driver],
        drive: Callable[[Driver, SweepReport], Awaitable[None]],
        clock: Clock,
        concurrency: int,
        poll_ms: int,
        drain_s: float,
        work_arrived: asyncio.Event,
    ) -> None:
        self._claimer = claimer
        self._make_driver = make_driver
        self._drive = drive
        self._clock = clock
        self._concurrency = concurrency
        self._poll_ms = poll_ms
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
        """Claim what there is room for, then wait until there may be more to do."""
        self._wake.clear()
        room = self._concurrency - len(self._driving)
        now_ms = self._clock.now_ms()
        wait_until_ms = now_ms + self._poll_ms
        if room > 0:
            try:
                claims = await self._claimer.claim(room, self._report)
            except StoreError as error:
                if not error.retryable:
                    raise
                logger.warning("cannot claim: %s", error)
                wait_until_ms = self._clock.now_ms() + max(_AWAY_MS, self._poll_ms)
            else:
                for claim in claims:
                    self._spawn(claim)
                if claims:
                    return  # there may be more; the loop ends when nothing is left or there is no room
                due_ms = self._report.next_due_ms
                # What is due but was not given (another worker was quicker, or it cannot be read) is left to the poll.
                if due_ms is not None and due_ms > now_ms:
                    wait_until_ms = min(wait_until_ms, due_ms)
        await self._clock.wait(self._wake, wait_until_ms)

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
