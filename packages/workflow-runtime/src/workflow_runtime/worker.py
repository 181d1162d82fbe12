"""The long-lived loop of a worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from .clock import Clock
from .drives import Drives
from .engine.drive_outcome import DriveOutcome
from .engine.driver import Driver
from .errors import ConfigurationError, StoreAccessError, StoreError
from .health import Pulse, WorkerHealth
from .logs import get_logger
from .progress import Progress
from .setbacks import Setbacks
from .store import ClaimedRun, Listening
from .sweep import Claimer, RunFailure, SweepReport

__all__ = ["NotListening", "Patience", "Polling", "WakeUp", "Worker"]

logger = get_logger("workflow_runtime")

_POLL_MS = 1_000
_LIVE_POLL_MS = 30_000
"""While the store notifies of work, polls only find what lost notices were about."""
_TICKS = 100
"""The most ticks that are fired in one turn; then the runs have theirs."""
_CLOCK_MS = 90_000
"""Heartbeats correct the clock, and a worker without long steps sends none. A monotonic clock drifts, and may stand
still while the machine sleeps."""
_CUT_S = 5.0
"""The longest that the runs take to be handed over when the worker fails."""
_FIRST_PATIENCE_S = 0.001
_LAST_PATIENCE_S = 0.01


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

    def idle_ms(self) -> int:
        """Return the pause when all is well and nothing is known to be due sooner."""
        if self._chosen_ms is not None:
            return self._chosen_ms
        return _LIVE_POLL_MS if self._listening.live else _POLL_MS

    def again_ms(self) -> int:
        """Return the pause when there is work that could not be claimed: no notice will come for it."""
        return min(_POLL_MS, self.idle_ms())


class WakeUp:
    """A worker's wake-up: to look at everything, or only for the run of a notice."""

    def __init__(self) -> None:
        self.event: asyncio.Event = asyncio.Event()
        self._everything = True

    def look(self) -> None:
        """Have the worker look at everything that may be due."""
        self._everything = True
        self.event.set()

    def look_for_runs(self) -> None:
        """Have the worker look for queued runs and due timers. All workers of the store are notified at once."""
        self.event.set()

    @property
    def told(self) -> bool:
        """True if nothing but a notice has come."""
        return self.event.is_set() and not self._everything

    def take(self) -> bool:
        """Clear the wake-up; return True if everything must be looked at."""
        everything, self._everything = self._everything, False
        self.event.clear()
        return everything


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
        self._polling = polling
        self._drives = drives
        self._wake_up = wake_up
        self._patience = Patience(rng)
        self._looks = Setbacks("claim", clock=clock, rng=rng)
        self._writes = Setbacks("write for the runs that are driven", clock=clock, rng=rng)
        self._rest_until_ms = 0
        """Nothing is claimed before, because it failed."""
        self._pulse = Pulse(clock)
        self._lease_ms = lease_ms
        self._look_at_all_ms = 0
        """Time at which everything is looked at again, however many notices come before."""
        self._report = report
        self._driving: set[asyncio.Task[None]] = set()
        self._progress = Progress(self._report, clock=clock, driving=lambda: len(self._driving))

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
            if self._driving:
                await asyncio.wait(self._driving)  # all at once: their number may be large
        except asyncio.CancelledError:
            raise
        except BaseException:
            await self._hand_over()
            raise
        finally:
            await self._leave(telling)

    async def _hand_over(self) -> None:
        self._drives.stop(hurry=True)
        if self._driving:
            await asyncio.wait(self._driving, timeout=_CUT_S)

    async def _leave(self, telling: asyncio.Task[None]) -> None:
        """End what is left: nothing of ours may use the store once this has returned."""
        left = {telling, *self._driving}
        for task in left:
            task.cancel()
        await asyncio.wait(left)

    async def _turn(self) -> None:
        """Fire ticks, claim what there is room for, then wait until there may be more to do."""
        everything = self._wake_up.take() or self._clock.now_ms() >= self._look_at_all_ms
        try:
            await self._correct_clock()
            wait_until_ms = await (self._look_at_all() if everything else self._look_for_runs())
        except ConfigurationError:
            raise  # the store was closed, say: waiting will not repair that
        except Exception as error:
            # A worker that has worked once waits out any failure. A failure at the start ends it, with the cause.
            if not (self._pulse.looked or (isinstance(error, StoreError) and error.retryable)):
                raise
            self._pulse.missed(error)
            self._look_at_all_ms = self._rest_until_ms = self._looks.met(error)
            return
        self._pulse.beat()
        self._looks.over()
        self._progress.look_was_answered()
        await self._clock.wait(self._wake_up.event, wait_until_ms)
        if self._wake_up.told and self._clock.now_ms() < self._look_at_all_ms:
            await self._patience.wait(busy=bool(self._driving))

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

    async def _look_at_all(self) -> int:
        """Fire and claim whatever is due; say when to look again, at the latest."""
        now_ms, fired = self._clock.now_ms(), self._report.ticks.total()
        await self._claimer.look_for_unserved(self._report)
        claims = await self._claimer.claim(self._room(), self._report, ticks=_TICKS)
        self._spawn(claims)
        due_ms = self._report.next_due_ms
        again = self._report.ticks.total() > fired or (bool(claims) and due_ms is not None and due_ms <= now_ms)
        # What was fired or claimed may have left more behind; this ends when nothing is left or there is no room.
        self._look_at_all_ms = now_ms if again else self._next_look_ms(now_ms, due_ms)
        return self._look_at_all_ms

    async def _look_for_runs(self) -> int:
        """Claim the run of a notice, unless others were sooner, and any that comes with it."""
        now_ms = self._clock.now_ms()
        room = self._room()
        claims, due_ms = await self._claimer.claim_told(room, self._report)
        if room:
            self._patience.looked(found=bool(claims))
        self._spawn(claims)
        if claims and due_ms is not None and due_ms <= now_ms:
            self._look_at_all_ms = now_ms
        else:
            # The worker that was sooner may die: then the run's lease is over by then.
            soon_ms = now_ms + max(_POLL_MS, self._lease_ms)
            self._look_at_all_ms = min(self._look_at_all_ms, soon_ms, self._next_look_ms(now_ms, due_ms))
        return self._look_at_all_ms

    def _next_look_ms(self, now_ms: int, due_ms: int | None) -> int:
        idle_until_ms = now_ms + self._polling.idle_ms()
        if due_ms is None:
            return idle_until_ms
        # What is due but was not given (somebody else is at it, or it cannot be read) has to wait a little.
        return min(idle_until_ms, due_ms if due_ms > now_ms else now_ms + self._polling.again_ms())

    def _room(self) -> int:
        # While writes fail, drive one run at a time to find out whether they work again.
        most = 1 if self._writes.failing else self._concurrency
        return max(0, most - len(self._driving))

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
        self._driving.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._driving.discard(task)
        self._wake_up.look()  # there is room again, and a paused run may be due at once
