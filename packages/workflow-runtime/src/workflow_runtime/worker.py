"""The long-lived loop of a worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from .agenda import Agenda, Polling
from .clock import Clock
from .drives import Drives
from .engine.drive_outcome import DriveOutcome
from .engine.driver import Driver
from .errors import ConfigurationError, StoreAccessError, StoreError
from .health import Pulse, WorkerHealth
from .logs import get_logger
from .places import Places
from .progress import Progress
from .setbacks import Setbacks
from .store import ClaimedRun
from .sweep import Claimer, Claims, RunFailure, SweepReport
from .wake_up import Patience, WakeUp

__all__ = ["Worker"]

logger = get_logger("workflow_runtime")

_TICKS = 100
"""The most ticks that are fired in one turn; then the runs have theirs."""
_CLOCK_MS = 90_000
"""Heartbeats correct the clock, and a worker without long steps sends none. A monotonic clock drifts, and may stand
still while the machine sleeps."""
_CUT_S = 5.0
"""The longest that the runs take to be handed over when the worker fails."""


class Worker:
    """A loop that claims as many runs as it has room for, drives them, and waits for more."""

    def __init__(
        self,
        *,
        claimer: Claimer,
        make_driver: Callable[[ClaimedRun], Driver],
        drive: Callable[[Driver], Awaitable[DriveOutcome | RunFailure]],
        clock: Clock,
        read_clock: Callable[[], Awaitable[int]],
        concurrency: int,
        lease_ms: int,
        polling: Polling,
        drives: Drives,
        report: SweepReport,
        wake_up: WakeUp,
        rng: random.Random,
    ) -> None:
        self._claimer = claimer
        self._make_driver = make_driver
        self._drive = drive
        self._clock = clock
        self._read_clock = read_clock
        self._read_clock_at_ms = clock.now_ms() + _CLOCK_MS
        self._concurrency = concurrency
        self._agenda = Agenda(polling, lease_ms=lease_ms)
        self._drives = drives
        self._wake_up = wake_up
        self._patience = Patience(rng)
        self._looks = Setbacks("claim", clock=clock, rng=rng)
        self._writes = Setbacks("write for the runs that are driven", clock=clock, rng=rng)
        self._rest_until_ms = 0
        """Nothing is claimed before, because it failed."""
        self._pulse = Pulse(clock)
        self._report = report
        self._places = Places(wake_up.take_a_turn)
        self._progress = Progress(self._report, clock=clock, driving=lambda: self._places.taken)

    def health(self, *, driving: int) -> WorkerHealth:
        """Return the worker's health, while so many runs are driven."""
        return self._pulse.health(driving=driving, draining=self._drives.stopping)

    async def work(self) -> None:
        """Work until the drives are asked to stop, then until the last one has ended."""
        telling = asyncio.create_task(self._progress.tell())
        try:
            while not self._drives.stopping:
                await self._turn()
                await self._rest()
            if driving := self._places.driving:
                await asyncio.wait(driving)  # all at once: their number may be large
        except asyncio.CancelledError:
            raise
        except BaseException:
            await self._hand_over()
            raise
        finally:
            await self._leave(telling)

    async def _hand_over(self) -> None:
        self._drives.stop(hurry=True)
        if driving := self._places.driving:
            await asyncio.wait(driving, timeout=_CUT_S)

    async def _leave(self, telling: asyncio.Task[None]) -> None:
        """End what is left: nothing of ours may use the store once this has returned."""
        self._places.looked(more_waits=False)
        left = {telling, *self._places.driving}
        for task in left:
            task.cancel()
        await asyncio.wait(left)

    async def _turn(self) -> None:
        """Fire ticks, claim what there is room for, then wait until there may be more to do."""
        told = self._wake_up.told
        self._agenda.heed(self._wake_up.take())
        try:
            await self._correct_clock()
            await self._look(told=told)
        except ConfigurationError:
            raise  # the store was closed, say: waiting will not repair that
        except Exception as error:
            # A worker that has worked once waits out any failure. A failure at the start ends it, with the cause.
            if not (self._pulse.looked or (isinstance(error, StoreError) and error.retryable)):
                raise
            self._pulse.missed(error)
            self._rest_until_ms = self._looks.met(error)
            return
        await self._wait()

    async def _wait(self) -> None:
        """Wait for news, for a free place, or for the time of the next look."""
        event, until_ms = self._wake_up.event, self._agenda.next_ms(room=self._room() > 0)
        await self._clock.wait(event, until_ms)
        if not event.is_set():
            self._agenda.heed_time(until_ms)
        elif self._wake_up.told:
            await self._patience.wait(busy=self._places.taken > 0)

    async def _rest(self) -> None:
        """Wait until it is worth another try, whatever it is woken for meanwhile."""
        while not self._drives.stopping and self._clock.now_ms() < self._rest_until_ms:
            self._wake_up.event.clear()
            await self._clock.wait(self._wake_up.event, self._rest_until_ms)
            self._wake_up.look()

    async def _correct_clock(self) -> None:
        if self._clock.now_ms() >= self._read_clock_at_ms:
            self._clock.correct(await self._read_clock())
            self._read_clock_at_ms = self._clock.now_ms() + _CLOCK_MS

    async def _look(self, *, told: bool) -> None:
        """Ask those that may have something, and drive what they give."""
        await self._claimer.look_for_unserved(self._report)
        now_ms, room = self._clock.now_ms(), self._room()
        if sources := self._agenda.due(now_ms, room=room > 0):
            claims = await self._claimer.claim(room, self._report, ticks=_TICKS, sources=sources)
            self._spawn(claims.runs)
            self._note(claims, now_ms, room)
            if told and room:
                self._patience.looked(found=bool(claims.runs))

    def _note(self, claims: Claims, asked_at_ms: int, room: int) -> None:
        agenda, report = self._agenda, self._report
        agenda.answered(claims.answers, [claim.run.run_id for claim in claims.runs], asked_at_ms)
        report.next_due_ms = agenda.next_due_ms()
        if room:
            report.oldest_due_ms = due_ms = agenda.runs_due_ms()
            self._places.looked(more_waits=due_ms is not None and due_ms <= asked_at_ms)
        self._pulse.beat()
        self._looks.over()
        self._progress.look_was_answered()

    def _room(self) -> int:
        # While writes fail, drive one run at a time to find out whether they work again.
        return self._places.to_fill(1 if self._writes.failing else self._concurrency)

    def _spawn(self, claims: Sequence[ClaimedRun]) -> None:
        for claim in claims:
            try:
                self._spawn_one(claim)
            except Exception as error:
                logger.exception("run %r cannot be driven", claim.run.run_id)
                self._report.failures.append(RunFailure(run_id=claim.run.run_id, error=error))
                self._report.failed += 1

    def _spawn_one(self, claim: ClaimedRun) -> None:
        driver = self._make_driver(claim)

        async def drive() -> None:
            ended = await self._drive(driver)
            if not isinstance(ended, RunFailure):
                self._writes.over()
                self._rest_until_ms = 0  # the store is there again
            elif isinstance(ended.error, StoreAccessError):
                # The next run's steps would run without being recorded.
                self._pulse.missed(ended.error)
                self._rest_until_ms = max(self._rest_until_ms, self._writes.met(ended.error))

        task = asyncio.create_task(drive())
        self._places.take(driver, task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._places.leave(task)
        self._agenda.heed_free_place()
        if self._room():
            self._wake_up.take_a_turn()
