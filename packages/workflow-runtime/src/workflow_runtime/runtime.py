"""The runtime: what an application starts runs with, delivers to them, and drives them with."""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext
from contextvars import Context
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from .agenda import NotListening, Polling
from .clock import Clock, StoreClock
from .drives import Drives, see_through
from .durations import check_duration
from .engine.definition import Registry, Workflow
from .engine.drive_outcome import DriveOutcome
from .engine.driver import Driver
from .engine.driver_settings import DriverSettings
from .engine.lease_keeper import LeaseKeeper
from .errors import (
    CapabilityNotSupportedError,
    ConfigurationError,
    InvalidArgumentError,
)
from .handles import RunHandle
from .health import NOT_WORKING, WorkerHealth
from .ids import check_id, new_id
from .isolation import outside_handlers
from .logs import get_logger
from .metering import QueryMeter, is_counted, meter_queries, queries_left
from .metering.drive_budget import DriveBudget
from .metering.sweep_plan import SweepPlan, can_start_and_drive, whole_budget
from .misuse import checked_store
from .payloads import JsonText, PayloadCodec, exact_codec
from .progress import log_start
from .run_client import RunClient
from .schedules.client import Schedules
from .schedules.definition import Schedule
from .sources import SOURCES, Source
from .stop_signals import hear_stop_signals
from .store import (
    DEFAULT_QUEUE,
    ClaimedRun,
    Created,
    Existing,
    Listening,
    QueryCosts,
    SupportsHeartbeats,
    SupportsNotify,
    WorkflowExecutionStore,
    WorkNotice,
)
from .sweep import Claimer, PlannedSweep, RunFailure, Sweep, SweepReport, drive_claim
from .tables import Tables
from .wake_up import WakeUp
from .watch import LoopWatch
from .worker import Worker

if TYPE_CHECKING:
    from .engine.step_threads import StepThreads
    from .heartbeats import HeartbeatThread

__all__ = ["DRAIN_TIMEOUT", "WorkflowRuntime"]

logger = get_logger("workflow_runtime")

DRAIN_TIMEOUT = timedelta(seconds=25)
"""The longest that a stop takes: some seconds less than the 30 after which Kubernetes kills."""

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


@outside_handlers
class WorkflowRuntime(RunClient):
    """A runtime of workflows on a store.

    Any number of runtimes, in any number of processes, may share one store. A process that only starts runs and
    delivers signals needs no worker; somewhere `work()` (a long-lived loop) or `sweep()` (one bounded pass, for
    hosts that are woken by cron) must be called.
    """

    def __init__(
        self,
        *,
        store: WorkflowExecutionStore,
        workflows: Sequence[Workflow[Any, Any]],
        schedules: Sequence[Schedule[Any]] = (),
        clock: Clock | None = None,
        codec: PayloadCodec | None = None,
        lease: timedelta | None = None,
        max_crashes: int = 5,
        queues: Sequence[str] | None = None,
        max_block: timedelta = timedelta(minutes=5),
        step_threads: int = 32,
        warn_blocked_after: timedelta | None = timedelta(seconds=1),
        owner: str | None = None,
        rng: random.Random | None = None,
        auto_schema: bool | None = None,
    ) -> None:
        """Put a runtime together; nothing is read or written yet.

        Args:
            store: Where runs live. Its tables are made by the first call (`auto_schema`), or must exist
                (`ensure_schema`, or the package's SQL).
            workflows: What this process knows; it only claims runs of these, in these versions.
            schedules: What `materialize_schedules` brings into the store.
            clock: Instead of the store's time, in tests: a `TestClock`.
            codec: Instead of plain JSON.
            lease: How long a run stays with a worker that says nothing. Shorter means quicker recovery after a
                crash and more heartbeats, three for each lease; at least 100 ms. When absent, 10 seconds where a thread
                renews leases (`capabilities.heartbeats`), which no blocked event loop can stop, and else 30.
            max_crashes: After so many crashes in a row without progress a run is parked as `dead`.
            queues: Only drive runs of these queues; all when absent.
            max_block: How long an event loop that a step or a handler blocks keeps its leases, where the store can
                renew them from a thread (`capabilities.heartbeats`); after that they run out. Nothing turns it off.
            step_threads: So many steps that are plain functions run at once, each on a thread. The threads are this
                runtime's own, made when they are needed.
            warn_blocked_after: Log a warning about a handler, or an `async def` step, that blocks the event loop for
                longer, and about a replay that takes longer; `None` for none.
            owner: Names this process in leases; must be unique. Host, process and a random part when absent.
            rng: For the jitter of retries.
            auto_schema: Whether the first call of this runtime that needs the store, whichever it is, creates and
                upgrades the tables. It only ever adds the workflow tables, touches no others, and never contracts. If
                not, workers and sweeps check the tables, and other calls look at nothing. When absent, what the store
                declares (`capabilities.auto_schema`): on for a local file and in memory, off for Postgres and D1. Turn
                it off where migrations are yours.

        Raises:
            ConfigurationError: Something among `workflows` is no workflow or among `schedules` no schedule, an id is
                there twice, or a schedule's workflow is not among `workflows`.
        """
        super().__init__(
            tables=Tables(checked_store(store), auto_schema),
            registry=Registry(workflows),
            codec=exact_codec(codec),
            clock=clock,
            queues=None if queues is None else _checked_queues(queues),
        )
        self._max_block = check_duration("max_block", max_block)
        if self._max_block < timedelta(0):
            raise InvalidArgumentError("max_block", "must not be negative")
        lease = self._default_lease() if lease is None else check_duration("lease", lease)
        self._lease_ms = lease // timedelta(milliseconds=1)
        if self._lease_ms < _MIN_LEASE_MS:
            raise InvalidArgumentError("lease", f"must be at least {_MIN_LEASE_MS} ms, not {self._lease_ms}")
        _check_positive(max_crashes=max_crashes)
        if warn_blocked_after is not None and warn_blocked_after <= timedelta(0):
            raise InvalidArgumentError("warn_blocked_after", "must be more than nothing")
        self._checks_replay = False
        self._watch = LoopWatch(math.inf if warn_blocked_after is None else warn_blocked_after.total_seconds())
        self._max_crashes = max_crashes
        self._heartbeats: HeartbeatThread | None = None
        self._keeper: LeaseKeeper | None = None
        _check_positive(step_threads=step_threads)
        self._step_threads = step_threads
        self._threads: StepThreads | None = None
        own = f"{socket.gethostname()}:{os.getpid()}:{new_id()[:8]}"[-200:]
        self._owner = check_id("owner", owner or own)
        self._rng = rng or random.Random()  # noqa: S311  # jitter
        self._drivers: dict[str, Driver] = {}
        self._wake_ups: set[WakeUp] = set()
        """One for each worker of this runtime that is at work."""
        self._workers: set[Worker] = set()
        self._claimer: Claimer | None = None
        self.schedules: Schedules = Schedules(
            store=self._store,
            registry=self._registry,
            codec=self._codec,
            declared=schedules,
            now_ms=self._now_ms,
            on_change=lambda: self._wake_workers("ticks"),
        )
        """Everything that can be said to schedules at run time: pause, resume, trigger, backfill, list."""

    @property
    def store(self) -> WorkflowExecutionStore:
        """The store as it was given, for listings and administration. It does not wait for `auto_schema`."""
        return self._tables.store

    @property
    def owner(self) -> str:
        """This runtime's name in leases."""
        return self._owner

    async def materialize_schedules(self) -> dict[str, Literal["created", "updated"]]:
        """Bring the store's schedules up to what `schedules` declares; call it when the program is deployed.

        Writes nothing where nothing has changed, keeps what an operator has paused, and leaves schedules that are not
        declared alone. Several processes may do it at once.

        Returns:
            What it did, by schedule id; those without a change are absent.
        """
        return await self.schedules.materialize()

    # Driving.

    @overload
    async def run_here(
        self,
        workflow: Workflow[None, OutputT],
        input: None = None,
        *,
        run_id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
    ) -> RunHandle[OutputT]: ...
    @overload
    async def run_here(
        self,
        workflow: Workflow[InputT, OutputT],
        input: InputT,
        *,
        run_id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
    ) -> RunHandle[OutputT]: ...
    @overload
    async def run_here(
        self,
        workflow: str,
        input: Any = None,
        *,
        run_id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
    ) -> RunHandle[Any]: ...
    async def run_here(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = None,
        *,
        run_id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
    ) -> RunHandle[Any]:
        """Create a run and drive it here and now until it ends or waits. Saves the way through a worker.

        A run that waits is picked up by any worker later. A run id that exists already is not driven. When the caller
        is cancelled, steps that run are cancelled and the run is handed over, in 5 seconds at most. Where a
        `meter_queries(max_queries)` has too few queries left for more, the run is only created, or handed over.

        Args:
            workflow: As for `start_run`.
            input: As for `start_run`.
            run_id: As for `start_run`.
            queue: Where it waits after its first pause.
            priority: As for `start_run`.
        """
        await self._tables.made()  # before the queries are counted that are left for the run
        costs = self._bounded_costs()
        claim = costs is None or can_start_and_drive(costs)
        drives = Drives()

        async def create_and_drive() -> tuple[Created | Existing, JsonText | None]:
            answer, claimed = await self._create(
                workflow,
                input,
                run_id,
                queue,
                priority,
                None,
                owner=self._owner if claim else None,
                lease_ms=self._lease_ms if claim else None,
            )
            if claimed is not None:
                settings = await self._settings(limited=costs is not None)
                driver = self._driver(claimed, settings, None if costs is None else whole_budget(costs))
                await self._drive(driver, SweepReport(), drives)
                return answer, driver.output
            if not claim:
                self._wake_workers("pending")
            return answer, None

        driven = await see_through(create_and_drive(), drives)
        assert driven is not None  # nobody but a cancellation stops it
        answer, output = driven
        return self._handle(answer.run.run_id, created=isinstance(answer, Created), output=output)

    async def sweep(
        self,
        *,
        limit: int = 100,
        deadline: timedelta | None = None,
        concurrency: int = 10,
        max_queries: int | None = None,
        stop: asyncio.Event | None = None,
        drain_timeout: timedelta = DRAIN_TIMEOUT,
        handle_signals: bool = False,
    ) -> SweepReport:
        """Do one bounded pass over due work: ticks of schedules, runs to recover, due timers, queued runs.

        When its task is cancelled, it hands over what it drives; after 5 seconds at most the cancellation goes on.

        Args:
            limit: Claim at most so many runs and fire at most so many ticks.
            deadline: Stop claiming after this real time, and hand over what is then still running: each run
                finishes the steps that it is in.
            concurrency: Drive at most so many at once.
            max_queries: Send at most so many queries to the database, each statement counted. The sweep begins nothing
                that this would not let it hand over in good order, so it drives fewer runs at once and takes turns
                with what it looks for. Steps that call the runtime or the store are counted too, and no thread renews
                leases. Not every store can count. When absent, a `meter_queries(max_queries)` around the call holds.
            stop: Set it to say that the deadline is now.
            drain_timeout: How long the sweep may take after a stop, in all; see `work`.
            handle_signals: Whether SIGTERM and SIGINT stop the sweep too; see `work`.

        Returns:
            What was done, what could not be done, and when there will be work again.

        Raises:
            CapabilityNotSupportedError: `max_queries` on a store that does not count its queries.
            ConfigurationError: So few queries that nothing could be done with them; says how many it takes.
            SchemaError: The database's tables do not fit this package; says what mends it. A runtime looks until they
                fit, and then no more.
        """
        _check_positive(concurrency=concurrency)
        if type(limit) is not int or limit < 0:
            raise InvalidArgumentError("limit", f"must be an int that is not negative, not {limit!r}")
        if deadline is not None:
            deadline = check_duration("deadline", deadline)
        if max_queries is not None and self._store.capabilities.metered is None:
            raise CapabilityNotSupportedError("metered")
        _check_not_negative(drain_timeout=drain_timeout)
        stop = stop or asyncio.Event()
        drives, report = Drives(asked=stop), SweepReport()
        with meter_queries(max_queries) as meter, _signals(stop, drives) if handle_signals else nullcontext():
            work = self._sweep_for(meter, limit, deadline, concurrency, drives, report)
            await see_through(work, drives, stop=stop, within_s=drain_timeout.total_seconds())
        return self._counted(report, meter)

    async def work(
        self,
        *,
        concurrency: int = 10,
        poll_interval: timedelta | None = None,
        drain_timeout: timedelta = DRAIN_TIMEOUT,
        handle_signals: bool = True,
        stop: asyncio.Event | None = None,
    ) -> SweepReport:
        """Work until asked to stop: claim what is due, drive it, wait for more.

        On SIGTERM or SIGINT (or when `stop` is set) it drains: it claims nothing more, lets the steps that are
        running end, and hands the runs over to other workers at once. A second signal cuts that short, a third one
        does what it would have done without a worker. In a program that handles these signals itself, as a web server
        does, they stay the program's: it sets `stop`, or cancels the task.

        Args:
            concurrency: Drive at most so many runs at once.
            poll_interval: Look for work at least this often; due times that are known are kept to anyway. By default
                every second, or every 30 seconds while the store notifies of new work.
            drain_timeout: How long a stop may take in all, whatever a step or the store does. Steps have time to end
                until the last fifth of it, 5 seconds at most; then they are cancelled, and run again elsewhere. A plain
                function cannot be cancelled: a run whose function outlives the stop is not handed over, its lease runs
                out. Kubernetes kills after 30 seconds by default, so 25 here.
            handle_signals: Whether to listen to SIGTERM and SIGINT where the program does not; only possible in the
                main thread.
            stop: Set it to make the worker drain. A cancelled worker hands over too, in 5 seconds at most.

        Returns:
            What was done in all.

        Raises:
            ConfigurationError: Inside a `meter_queries(max_queries)`: a worker has no end of queries to send.
            SchemaError: The database's tables do not fit this package; says what mends it.
        """
        _check_positive(concurrency=concurrency)
        drain_timeout = check_duration("drain_timeout", drain_timeout)
        if poll_interval is not None:
            poll_interval = check_duration("poll_interval", poll_interval)
        if self._bounded_costs() is not None:
            raise ConfigurationError("work() does not end with a number of queries: within meter_queries() use sweep()")
        _check_not_negative(drain_timeout=drain_timeout)
        wake_up = WakeUp()
        stop = stop or asyncio.Event()
        drives, report = Drives(on_stop=wake_up.look, asked=stop), SweepReport()
        with meter_queries() as meter, _signals(stop, drives) if handle_signals else nullcontext():
            work = self._work(concurrency, poll_interval, wake_up, drives, report)
            await see_through(work, drives, stop=stop, within_s=drain_timeout.total_seconds())
        return self._counted(report, meter)

    def health(self) -> WorkerHealth:
        """Return the health of this runtime's worker, for liveness and readiness probes. Asks nobody.

        Of several workers that work at once it is the one that is worst off.
        """
        found = [worker.health(driving=len(self._drivers)) for worker in self._workers]
        return min(found, key=lambda health: (health.ready, health.working_since), default=NOT_WORKING)

    # Within.

    @contextmanager
    def _checking_replay(self, checks: bool) -> Iterator[None]:
        """Replay each run after each write and compare, for as long as the block lasts (see `testing.py`)."""
        before, self._checks_replay = self._checks_replay, checks
        try:
            yield
        finally:
            self._checks_replay = before

    async def _sweep_for(
        self,
        meter: QueryMeter,
        limit: int,
        deadline: timedelta | None,
        concurrency: int,
        drives: Drives,
        report: SweepReport,
    ) -> None:
        costs = self._bounded_costs()
        plan = None if costs is None else self._plan(meter, costs)
        await self._tables.ready()
        settings = await self._settings(limited=plan is not None)
        options: dict[str, Any] = {
            "claimer": self._claimer_for(settings),
            "make_driver": lambda claim, budget: self._driver(claim, settings, budget),
            "drive": lambda driver: self._drive(driver, report, drives),
            "clock": settings.clock,
            "drives": drives,
            "report": report,
        }
        if plan is None:
            report.not_materialized.update(await self.schedules.unfit())
        sweep = Sweep(**options) if plan is None else PlannedSweep(plan, meter, **options)
        await sweep.run(limit=limit, deadline=deadline, concurrency=concurrency)

    def _plan(self, meter: QueryMeter, costs: QueryCosts) -> SweepPlan:
        # Now and then, so that a run which takes all that a sweep can give gets on, though others wait beside it.
        return SweepPlan(meter, costs, one_first=self._rng.random() < _ONE_FIRST)

    async def _work(
        self,
        concurrency: int,
        poll_interval: timedelta | None,
        wake_up: WakeUp,
        drives: Drives,
        report: SweepReport,
    ) -> None:
        await self._tables.look()
        settings = await self._settings()
        self._wake_ups.add(wake_up)
        try:
            async with self._listen() as listening:
                worker = Worker(
                    claimer=self._claimer_for(settings),
                    make_driver=lambda claim: self._driver(claim, settings),
                    drive=lambda driver: self._drive(driver, report, drives),
                    clock=settings.clock,
                    read_clock=self._store.read_clock,
                    concurrency=concurrency,
                    lease_ms=self._lease_ms,
                    polling=Polling(poll_interval, listening),
                    drives=drives,
                    report=report,
                    wake_up=wake_up,
                    rng=self._rng,
                )
                report.not_materialized.update(await self.schedules.unfit())
                await self._work_with(worker, concurrency)
        finally:
            self._wake_ups.discard(wake_up)
            if self._heartbeats is not None and not self._wake_ups and not self._drivers:
                await self._heartbeats.ended()

    async def _work_with(self, worker: Worker, concurrency: int) -> None:
        log_start(
            owner=self._owner,
            store=self.store,
            workflows=self._registry.versions(),
            queues=self._queues,
            concurrency=concurrency,
            lease_ms=self._lease_ms,
        )
        self._workers.add(worker)
        try:
            await worker.work()
        finally:
            self._workers.discard(worker)

    def _bounded_costs(self) -> QueryCosts | None:
        """Return what the store's calls cost; `None` where no meter bounds them."""
        return None if queries_left() is None else self._store.capabilities.metered

    def _counted(self, report: SweepReport, meter: QueryMeter) -> SweepReport:
        if self._store.capabilities.metered is not None:
            report.count(meter)
        return report

    async def _settings(self, *, limited: bool = False) -> DriverSettings:
        clock = await self._ready_clock()
        return DriverSettings(
            store=self.store,
            clock=clock,
            codec=self._codec,
            lease_ms=self._lease_ms,
            rng=self._rng,
            threads=self._threads_for_steps(),
            watch=self._watch,
            checks_replay=self._checks_replay,
            leases=None if limited else self._keeper_by(clock),
        )

    def _threads_for_steps(self) -> StepThreads | None:
        if self._threads is None and sys.platform != "emscripten":
            from .engine.step_threads import StepThreads  # noqa: PLC0415  # there are Pythons without threads

            self._threads = StepThreads(self._step_threads)
        return self._threads

    def _keeper_by(self, clock: Clock) -> LeaseKeeper:
        if is_counted():  # the heartbeats too, by who counts the drives
            return self._new_keeper(clock)
        if self._keeper is None or self._keeper.loop is not asyncio.get_running_loop():
            self._keeper = Context().run(self._new_keeper, clock)
        return self._keeper

    def _new_keeper(self, clock: Clock) -> LeaseKeeper:
        thread = self._heartbeats_by(clock)
        return LeaseKeeper(renewer=self.store, clock=clock, lease_ms=self._lease_ms, thread=thread)

    def _heartbeats_by(self, clock: Clock) -> HeartbeatThread | None:
        if not self._can_beat_by_thread(clock):
            return None
        if self._heartbeats is None:
            from .heartbeats import HeartbeatThread  # noqa: PLC0415  # there are Pythons without threads

            self._heartbeats = HeartbeatThread(
                cast("SupportsHeartbeats", self._store).open_heartbeats,
                clock=clock,
                lease_ms=self._lease_ms,
                max_block_s=self._max_block.total_seconds(),
            )
        return self._heartbeats

    def _can_beat_by_thread(self, clock: Clock | None) -> bool:
        # A thread cannot wait for a clock that a test moves.
        follows_time = clock is None or isinstance(clock, StoreClock)
        return follows_time and self._store.capabilities.heartbeats and self._max_block > timedelta(0)

    def _default_lease(self) -> timedelta:
        return _LEASE_KEPT_BY_A_THREAD if self._can_beat_by_thread(self._clock) else _LEASE_KEPT_BY_THE_LOOP

    def _claimer_for(self, settings: DriverSettings) -> Claimer:
        if self._claimer is None:
            self._claimer = Claimer(
                settings=settings,
                registry=self._registry,
                owner=self._owner,
                queues=self._queues,
                max_crashes=self._max_crashes,
                on_delivery=self._delivered,
            )
        return self._claimer

    def _driver(self, claim: ClaimedRun, settings: DriverSettings, budget: DriveBudget | None = None) -> Driver:
        workflow = self._registry.find(claim.run.workflow_id, claim.run.workflow_version)
        return Driver(settings=settings, claim=claim, workflow=workflow, budget=budget)

    async def _drive(self, driver: Driver, report: SweepReport, drives: Drives) -> DriveOutcome | RunFailure:
        self._drivers[driver.run_id] = driver
        drives.add(driver)
        try:
            outcome = await drive_claim(driver, report)
            self._look_after(driver, outcome)
            return outcome
        finally:
            drives.discard(driver)
            if self._drivers.get(driver.run_id) is driver:
                del self._drivers[driver.run_id]
            if driver.nudged:
                self._wake_workers("pending", "timers")  # the news came after the end of the drive, or was about it

    def _look_after(self, driver: Driver, outcome: DriveOutcome | RunFailure) -> None:
        """Have the workers look for what a drive has left behind."""
        match outcome:
            case DriveOutcome.FINISHED | DriveOutcome.ERRORED | DriveOutcome.ABORTED | DriveOutcome.DEAD:
                self._ends.note(driver.run_id)
                if driver.schedule_id is not None:
                    self._wake_workers("ticks")  # one may have waited for this end
            case DriveOutcome.PAUSED:
                if driver.due_ms is not None:
                    self._wake_workers("timers", at_ms=driver.due_ms)
            case DriveOutcome.QUEUED:
                self._wake_workers("pending")
            case _:
                self._wake_workers()

    def _listen(self) -> AbstractAsyncContextManager[Listening]:
        if not self._store.capabilities.notify:
            return nullcontext(NotListening())
        return cast(SupportsNotify, self._store).listen(self._noticed)

    def _noticed(self, notice: WorkNotice) -> None:
        if notice.run_id is None:
            for driver in self._drivers.values():
                driver.nudge()
            self._wake_workers()
        elif notice.run_id in self._drivers:
            # If the drive has ended and only its answer is pending, workers are woken when it arrives.
            self._drivers[notice.run_id].nudge()
        else:
            for wake_up in self._wake_ups:
                wake_up.look_for_run(notice.run_id)

    def _delivered(self, run_id: str) -> None:
        # Wake a worker in this process now, instead of at its next heartbeat or poll.
        driver = self._drivers.get(run_id)
        if driver is not None:
            driver.nudge()  # what it does not read any more, workers look for when it has ended
        else:
            self._wake_workers("pending")

    def _wake_workers(self, *sources: Source, at_ms: int = 0) -> None:
        for wake_up in self._wake_ups:
            wake_up.look_for(*(sources or SOURCES), at_ms=at_ms)


_MIN_LEASE_MS = 100
_LEASE_KEPT_BY_A_THREAD = timedelta(seconds=10)
"""Measured (`benchmarks/heartbeats.py`): beside computing threads, at a load of 15 on two processors, beats came up to
0.4 s late. A lease of 10 s bears 6."""
_LEASE_KEPT_BY_THE_LOOP = timedelta(seconds=30)
"""A step that blocks the event loop for less than 20 s loses nothing."""
_ONE_FIRST = 0.25
"""Share of the sweeps with few queries in which the first run is driven alone."""


def _checked_queues(queues: Sequence[str]) -> tuple[str, ...]:
    if isinstance(queues, str):
        raise InvalidArgumentError("queues", "must be a sequence of queues, not one string")
    return tuple(check_id("queues", queue) for queue in queues)


def _signals(stop: asyncio.Event, drives: Drives) -> AbstractContextManager[None]:
    """Turn the first signal into a stop and the second one into haste."""

    def received() -> None:
        if stop.is_set():
            drives.stop(hurry=True)
        else:
            logger.info("draining")
            stop.set()

    return hear_stop_signals(received)


def _check_not_negative(**arguments: timedelta) -> None:
    for name, value in arguments.items():
        if value < timedelta(0):
            raise InvalidArgumentError(name, "must not be negative")


def _check_positive(**arguments: int) -> None:
    for name, value in arguments.items():
        if type(value) is not int or value < 1:
            raise InvalidArgumentError(name, f"must be an int of at least 1, not {value!r}")
