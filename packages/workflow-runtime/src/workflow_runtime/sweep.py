"""One bounded pass over due work: fire ticks, claim from every source in turn, drive what was claimed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from .clock import Clock
from .drives import Drives
from .engine.definition import Registry
from .engine.drive_outcome import DriveOutcome
from .engine.driver import Driver
from .engine.driver_settings import DriverSettings
from .errors import CorruptRecordError, StoreError
from .frozen_value import Value, value
from .logs import get_logger, one_line
from .metering import QueryMeter
from .metering.drive_budget import DriveBudget
from .metering.sweep_plan import SweepPlan
from .schedules.firing import TickFailure, TickFirer
from .sources import SOURCES, Answer, Source
from .store import ClaimBatch, ClaimedRun
from .store_retry import failure_level, may_pass
from .unserved import UnservedRuns, UnservedWatch

__all__ = ["Claimer", "Claims", "PlannedSweep", "RunFailure", "Sweep", "SweepReport", "drive_claim"]

logger = get_logger("workflow_runtime")

Phase: TypeAlias = tuple[Source, Callable[[int], Awaitable[ClaimBatch]]]
Turns: TypeAlias = deque[Phase | None]
"""Sources of work in the order in which they are asked; `None` stands for the ticks of schedules."""

_KEPT = 1_000
"""A worker reports over months; what it keeps for its report must not grow with them."""


@value
class RunFailure(Value):
    """A run that could not be driven this time. It is tried again: its lease runs out, or it was handed over."""

    run_id: str
    error: Exception


@dataclass(slots=True, kw_only=True)
class SweepReport:
    """The outcome of one sweep."""

    claimed: Counter[str] = field(default_factory=Counter)
    """Runs by source: `stale`, `timers`, `pending`."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Drives by outcome: `finished`, `errored`, `aborted`, `paused`, `queued`, `released`, `lost`."""
    failed: int = 0
    """Number of drives that failed."""
    failures: deque[RunFailure] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """Runs that could not be driven; the last 1,000 of them."""
    corrupt: deque[CorruptRecordError] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """Runs and schedules that could not be read; the last 1,000."""
    dead: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """Runs that were parked after repeated crashes; the last 1,000."""
    ticks: Counter[str] = field(default_factory=Counter)
    """Ticks of schedules by outcome: `started`, `skipped` (its predecessor's run was live), `missed` (it was too late),
    `buffered`, `changed` (the schedule was, meanwhile), `lost` (to another worker), `failed`."""
    tick_failures: deque[TickFailure] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """Ticks that could not be settled; the last 1,000."""
    retried: int = 0
    """Attempts of steps that failed and will be repeated."""
    missed: set[str] = field(default_factory=set)
    """Schedules of which ticks were missed: there was nobody to fire them in time."""
    claim_failures: deque[Exception] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """Reasons why something could not be claimed while there was other work; the last 1,000."""
    unclaimable: set[str] = field(default_factory=set)
    """Schedules with a tick waiting whose workflow this process does not know; some of them."""
    not_materialized: dict[str, str] = field(default_factory=dict)
    """Declared schedules that are `missing` in the store, there as something that `differs`, `unwritable`, or
    `unsupported` by a store without schedules, as of the first look. Not looked for within a limit of queries."""
    unserved: tuple[UnservedRuns, ...] = ()
    """Runs that have been claimable for a minute and that this process does not take: it does not know their workflow
    or version, or does not serve their queue. Some of them, as of the last look: a worker has its first after a minute
    and then one each ten minutes, and a sweep without a limit of queries looks at its end."""
    next_due_ms: int | None = None
    """Time of the next known work; milliseconds since the Unix epoch. Not later than the present when more is waiting
    already.
    """
    oldest_due_ms: int | None = None
    """Since when, or from when on, the next run can be claimed, as of the last look that had room for one."""
    next_lease_end_ms: int | None = None
    """Time at which the first lease of others ends on a run that this process could drive, as of the last look."""
    queries: int | None = None
    """Number of statements sent to the database; `None` where the store does not count (`capabilities.metered`).
    Heartbeats from a thread are left out.
    """
    rows_read: int | None = None
    """Number of rows read, as far as the database tells; `None` where the store does not count. The same for
    `rows_written`.
    """
    rows_written: int | None = None

    def count(self, meter: QueryMeter) -> None:
        """Take over what was counted."""
        self.queries, self.rows_read, self.rows_written = meter.queries, meter.rows_read, meter.rows_written

    @property
    def total(self) -> int:
        """Number of runs that were claimed."""
        return self.claimed.total()

    @property
    def handled(self) -> int:
        """Number of runs that were claimed and of ticks that were fired; none means that nothing is left to do."""
        return self.claimed.total() + self.ticks.total()


@dataclass(slots=True)
class Claims:
    """The outcome of one go through sources of work."""

    runs: list[ClaimedRun] = field(default_factory=list)
    answers: dict[Source, Answer] = field(default_factory=dict)
    """Those of the sources that were asked."""

    def next_due_ms(self) -> int | None:
        """Return when the next thing is due, as far as was asked."""
        return _earliest(*(answer.next_due_ms for answer in self.answers.values()))

    def runs_due_ms(self) -> int | None:
        """Return when the next run is due, as far as was asked."""
        return _earliest(*(answer.next_due_ms for source, answer in self.answers.items() if source != "ticks"))

    def add(self, source: Source, batch: ClaimBatch) -> None:
        """Take in an answer, the second one of a source too."""
        before = self.answers.get(source)
        found = bool(batch.claims or batch.dead) or (before is not None and before.found)
        self.answers[source] = Answer(next_due_ms=batch.next_due_ms, found=found)
        self.runs.extend(batch.claims)


class Claimer:
    """The claims of one worker: ticks, then runs from three sources.

    The claims of runs begin with another source each time, so that none starves the others.
    Ticks come first, so that a run which one of them starts is claimed in the same go.
    """

    def __init__(
        self,
        *,
        settings: DriverSettings,
        registry: Registry,
        owner: str,
        queues: tuple[str, ...] | None,
        max_crashes: int,
        on_delivery: Callable[[str], None],
    ) -> None:
        store = settings.store
        self._clock = settings.clock
        self._ticks = TickFirer(
            store=store,
            clock=settings.clock,
            owner=owner,
            lease_ms=settings.lease_ms,
            workflow_ids=registry.ids(),
            on_delivery=on_delivery,
        )
        common: dict[str, Any] = {
            "owner": owner,
            "lease_ms": settings.lease_ms,
            "workflows": registry.versions(),
            "queues": queues,
        }

        async def stale(limit: int) -> ClaimBatch:
            now_ms = self._clock.now_ms()
            return await store.claim_stale_runs(limit=limit, now_ms=now_ms, max_crashes=max_crashes, **common)

        async def timers(limit: int) -> ClaimBatch:
            return await store.claim_due_timers(limit=limit, now_ms=self._clock.now_ms(), **common)

        async def pending(limit: int) -> ClaimBatch:
            return await store.claim_pending_runs(limit=limit, now_ms=self._clock.now_ms(), **common)

        self._phases: list[Phase] = [
            ("stale", stale),
            ("timers", timers),
            ("pending", pending),
        ]
        self._ticks_worked = False
        self._unserved = UnservedWatch(
            store=store, clock=settings.clock, owner=owner, workflows=registry.versions(), queues=queues
        )
        self._turns: Turns = deque([None, *self._phases])
        # A host that starts afresh for each sweep must still give each source the first turn now and then.
        self._turns.rotate(settings.rng.randrange(len(self._turns)))

    async def claim(
        self, limit: int, report: SweepReport, *, ticks: int, sources: Collection[Source] = SOURCES
    ) -> Claims:
        """Fire up to `ticks` ticks, then claim up to `limit` runs.

        Of each source a fair share is taken, then whatever is left. Who has no room for runs still fires: what waits
        for a tick may be the end of the very run that takes the room.

        Args:
            limit: At most so many runs.
            report: Where to note what was done.
            ticks: At most so many ticks.
            sources: Whom to ask. The runs of ticks are claimed in the same go.

        Returns:
            The runs, and what was said by those of the sources that it came to.

        Raises:
            Exception: Nothing could be claimed: the store is away, or refuses.
        """
        claims = Claims()
        if "ticks" in sources:
            answer = claims.answers["ticks"] = await self._fire(ticks, report)
            if answer.found or answer.failed:
                # The runs of ticks are there; or else the queue shows whether the store is away.
                sources = {*sources, "pending"}
        try:
            if limit:
                await self._claim_in_turn(limit, sources, claims, report)
                report.oldest_due_ms = claims.runs_due_ms()
            report.next_due_ms = claims.next_due_ms()
        except Exception as error:
            # Drive what was claimed already: otherwise it would wait for its lease to expire.
            if not claims.runs:
                raise
            level = logging.WARNING if may_pass(error) else logging.ERROR
            logger.log(level, "cannot claim: %s", one_line(error))
            report.claim_failures.append(error)
            report.next_due_ms = self._clock.now_ms()
        return claims

    async def look_for_unserved(self, report: SweepReport, *, at_once: bool = False) -> None:
        """Now and then, look for runs that wait for somebody else. An error here is no matter of the others.

        Args:
            report: Where to note them.
            at_once: Look whether it is time or not.
        """
        if not (at_once or self._unserved.is_due):
            return
        try:
            report.unserved = await self._unserved.look()
        except Exception as error:  # noqa: BLE001  # reported, and tried again in its time
            logger.warning("cannot look for runs that wait for other workers: %s", one_line(error))

    def turns(self) -> Turns:
        """Return the order in which one sweep looks into the sources, beginning with another one each time."""
        self._turns.rotate(-1)
        return self._turns.copy()

    async def claim_in_plan(
        self, plan: SweepPlan, turns: Turns, report: SweepReport, *, runs: int, ticks: int
    ) -> list[ClaimedRun]:
        """Fire ticks or claim runs: what the next source gives that has something.

        What cannot be paid for ends the sweep. Something cheaper behind it may be the first of another one.

        Raises:
            StoreError: The store is away.
        """
        handled = report.handled
        due: list[int | None] = []
        for phase in tuple(turns):
            wanted = ticks if phase is None else runs
            room = plan.ticks(wanted) if phase is None else plan.runs(wanted)
            if wanted and not room:
                due.append(self._clock.now_ms())
                break
            turns.rotate(-1)
            claims = Claims()
            if not wanted:
                due.append(self._clock.now_ms())
            elif phase is None:
                due.append((await self._fire(room, report, once=True)).next_due_ms)
            else:
                await self._claim_from(*phase, room, claims, report)
                due.append(claims.next_due_ms())
            if report.handled > handled:
                return claims.runs
        report.next_due_ms = _earliest(*due)
        return []

    async def _fire(self, limit: int, report: SweepReport, *, once: bool = False) -> Answer:
        """Fire ticks, and say when the next one is due."""
        fired = report.ticks.total()
        try:
            done = await self._ticks.fire(limit, once=once)
        except CorruptRecordError as error:
            # A failure in schedules does not hold up runs.
            logger.error("%s", one_line(error))  # noqa: TRY400  # as for the runs: the row is named, the stack says nothing
            report.corrupt.append(error)
            return Answer(next_due_ms=None)
        except StoreError as error:
            # The claims of runs will show whether the store is down. Ticks that worked before do not hold them up.
            if not (error.retryable or self._ticks_worked):
                raise
            level = logging.WARNING if error.retryable else logging.ERROR
            logger.log(level, "cannot claim ticks: %s", one_line(error))
            report.claim_failures.append(error)
            return Answer(next_due_ms=None, failed=error.retryable)
        self._ticks_worked = True
        report.ticks.update(done.outcomes)
        if done.failures:
            report.ticks["failed"] += len(done.failures)
        report.tick_failures.extend(done.failures)
        report.unclaimable.update(done.unclaimable)
        report.missed.update(done.missed)
        return Answer(next_due_ms=done.next_due_ms, found=report.ticks.total() > fired)

    async def _claim_in_turn(
        self, limit: int, sources: Collection[Source], claims: Claims, report: SweepReport
    ) -> None:
        """Claim each source's share, then what is left. Whom there is no room for is not asked."""
        phases = [phase for phase in self._phases if phase[0] in sources]
        self._phases = [*self._phases[1:], self._phases[0]]
        for (source, claim), share in zip(phases, _shares(limit, len(phases)), strict=True):
            if share:
                await self._claim_from(source, claim, share, claims, report)
        now_ms = self._clock.now_ms()
        for source, claim in phases:
            left, answer = limit - len(claims.runs), claims.answers.get(source)
            if left > 0 and (answer is None or (answer.next_due_ms is not None and answer.next_due_ms <= now_ms)):
                await self._claim_from(source, claim, left, claims, report)

    async def _claim_from(
        self,
        source: Source,
        claim: Callable[[int], Awaitable[ClaimBatch]],
        limit: int,
        claims: Claims,
        report: SweepReport,
    ) -> None:
        batch = await claim(limit)
        claims.add(source, batch)
        report.claimed[source] += len(batch.claims)
        report.corrupt.extend(batch.corrupt)
        report.dead.extend(batch.dead)
        if source == "stale":
            report.next_lease_end_ms = batch.next_due_ms
        for error in batch.corrupt:
            logger.error("%s", one_line(error))
        for run_id in batch.dead:
            logger.error("run %r is parked as dead after repeated crashes", run_id)


class Sweep:
    """One pass: as often as there is something due and a bound allows, fire, claim, and drive all of it to its end."""

    def __init__(
        self,
        *,
        claimer: Claimer,
        make_driver: Callable[[ClaimedRun, DriveBudget | None], Driver],
        drive: Callable[[Driver], Coroutine[Any, Any, DriveOutcome | RunFailure]],
        clock: Clock,
        drives: Drives,
        report: SweepReport,
    ) -> None:
        self._claimer = claimer
        self._make_driver = make_driver
        self._drive = drive
        self._clock = clock
        self._drives = drives
        self._report = report

    async def run(self, *, limit: int, deadline: timedelta | None, concurrency: int) -> None:
        """See `WorkflowRuntime.sweep`."""
        with self._stopped_at(deadline):
            await self._run(limit, concurrency)

    async def _run(self, limit: int, concurrency: int) -> None:
        report = self._report
        while self._room(limit) > 0 and not self._drives.stopping:
            before = report.handled
            drivers = await self._begin(runs=min(concurrency, limit - report.total), ticks=limit - report.ticks.total())
            if report.handled == before:
                break
            await self._drive_all(drivers)
        else:
            report.next_due_ms = self._clock.now_ms()  # a bound was reached: there may be more at once
        if not self._drives.stopping:
            await self._look_for_unserved()

    @contextmanager
    def _stopped_at(self, deadline: timedelta | None) -> Iterator[None]:
        if deadline is None:
            yield
            return
        if deadline <= timedelta(0):
            self._drives.stop()
        timer = asyncio.get_running_loop().call_later(deadline.total_seconds(), self._drives.stop)
        try:
            yield
        finally:
            timer.cancel()

    async def _look_for_unserved(self) -> None:
        await self._claimer.look_for_unserved(self._report, at_once=True)

    async def _begin(self, *, runs: int, ticks: int) -> list[Driver]:
        claims = await self._claimer.claim(runs, self._report, ticks=ticks)
        return [self._make_driver(claim, None) for claim in claims.runs]

    def _room(self, limit: int) -> int:
        return limit - max(self._report.total, self._report.ticks.total())

    async def _drive_all(self, drivers: list[Driver]) -> None:
        async with asyncio.TaskGroup() as group:
            for driver in drivers:
                group.create_task(self._drive(driver))


class PlannedSweep(Sweep):
    """A sweep that sends no more than so many queries, and leaves nothing half done for want of them."""

    def __init__(self, plan: SweepPlan, meter: QueryMeter, **options: Any) -> None:
        super().__init__(**options)
        self._plan = plan
        self._meter = meter
        self._turns = self._claimer.turns()
        self._refused: dict[str, int] = {}
        self._in_vain = False
        """True if a run was refused twice in one place: it would be claimed again and again, with less each time."""

    async def _begin(self, *, runs: int, ticks: int) -> list[Driver]:
        claims = await self._claimer.claim_in_plan(self._plan, self._turns, self._report, runs=runs, ticks=ticks)
        return [self._make_driver(claim, self._plan.budget(len(claims))) for claim in claims]

    async def _drive_all(self, drivers: list[Driver]) -> None:
        before = self._meter.queries
        await super()._drive_all(drivers)
        refused = {driver.run_id: index for driver in drivers if (index := driver.refused_at) is not None}
        self._plan.learn(len(drivers), self._meter.queries - before, refused=bool(refused))
        self._in_vain = not refused.items().isdisjoint(self._refused.items())
        self._refused |= refused

    async def _look_for_unserved(self) -> None:
        """Spend no query on it."""

    def _room(self, limit: int) -> int:
        return 0 if self._in_vain else super()._room(limit)


async def drive_claim(driver: Driver, report: SweepReport) -> DriveOutcome | RunFailure:
    """Drive a claimed run and note how it went; a run that cannot be driven does not hurt the others."""
    try:
        outcome = await driver.drive()
    except asyncio.CancelledError:
        raise
    except Exception as error:  # reported, with the run's id, instead of ending the whole sweep
        level = failure_level(error)
        logger.log(level, "run %r could not be driven: %s", driver.run_id, one_line(error), exc_info=error)
        failure = RunFailure(run_id=driver.run_id, error=error)
        report.failures.append(failure)
        report.failed += 1
        return failure
    finally:
        report.retried += driver.retried
    if outcome is DriveOutcome.LOST:
        logger.warning("run %r: the lease was lost, another worker has the run", driver.run_id)
    report.outcomes[outcome] += 1
    if outcome is DriveOutcome.DEAD:
        report.dead.append(driver.run_id)
    return outcome


def _earliest(*due_ms: int | None) -> int | None:
    return min((at_ms for at_ms in due_ms if at_ms is not None), default=None)


def _shares(limit: int, count: int) -> list[int]:
    """Split a limit as evenly as can be; the first ones get the rest."""
    return [limit // count + (index < limit % count) for index in range(count)]
