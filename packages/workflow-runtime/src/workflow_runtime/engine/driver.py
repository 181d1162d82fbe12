"""Drives one claimed run: replays it, runs its steps, writes what happened, and lets it go."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..clock import Clock, from_ms
from ..errors import (
    ConfigurationError,
    CorruptRecordError,
    LeaseLostError,
    LogConflictError,
    NonDeterminismError,
    PayloadTooLargeError,
    QueryLimitReachedError,
    StoreAccessError,
    StoreError,
)
from ..escapes import exc_info_of, is_interrupt
from ..failures import failure_of, write_failure
from ..isolation import Fence, package_of, refused
from ..logs import get_logger, one_line
from ..payloads import ExactCodec, JsonText, encode_json
from ..store import Awaited, ClaimedRun, Event, NewEvent, RunStatus, WorkflowExecutionStore
from ..tries import may_pass
from ..watch import LoopWatch, WatchedDrive
from .allowance import Allowance
from .context import Context
from .definition import Workflow
from .finishing import to_its_end
from .history import EventKind, OperationKind, Recorded, UnknownKindError, from_event, run_event
from .inbox import Inbox
from .lease import HeldLease
from .log_draft import LogDraft
from .log_write import LogWrite
from .machine import Aborted, Errored, Finished, Machine
from .operations import Operation
from .replay_check import TracedMachine, compare
from .retried import MATTERS, RetriedLog, end_facts
from .settlement import Settlement
from .step_tasks import StepTasks
from .steps import make_step_info, run_attempt
from .transactions import Transactions
from .writer import RunWriter

if TYPE_CHECKING:
    from ..heartbeats import HeartbeatThread
    from .step_threads import StepThreads

__all__ = ["DriveOutcome", "Driver", "DriverSettings"]

T = TypeVar("T")
logger = get_logger("workflow_runtime")

_TURN_S = 0.02
"""How long a handler, or its replay, goes on before the application's event loop gets a turn."""
_PAGE = 1_000
_LOOK_AGAIN_S = 1.0
"""After the inbox could not be read."""
_LET_GO_S = 2.0
"""How long a drive that is cancelled may take to hand its run over."""
_LAST_GRACE_S = 0.5
"""Where the drive was cancelled, and has waited for them before."""
_CLEANUP_GRACE_S = 5.0
"""How long cancelled steps may take to clean up before the driver stops waiting for them."""
_MAX_REASON = 1_000
"""Characters of a reason; the error tells the rest."""


class DriveOutcome(StrEnum):
    """How a drive ended."""

    FINISHED = "finished"
    ERRORED = "errored"
    ABORTED = "aborted"
    PAUSED = "paused"
    QUEUED = "queued"
    """Paused, but something arrived meanwhile: it is claimable at once."""
    DEAD = "dead"
    """Parked: it does not match its history, or that cannot be read."""
    RELEASED = "released"
    """Handed over, because the worker stops."""
    LOST = "lost"
    """Another worker has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSettings:
    """What all drivers of a runtime share."""

    store: WorkflowExecutionStore
    clock: Clock
    codec: ExactCodec
    lease_ms: int
    rng: random.Random
    threads: StepThreads | None
    """Where plain functions run; `None` in a Python without threads."""
    watch: LoopWatch
    checks_replay: bool = False
    """Whether each run is replayed and compared after each unit: in tests."""
    heartbeats: HeartbeatThread | None
    """Renews leases beside the event loop, where the store and the clock allow it."""


class Driver:
    """Drives one run until it ends, pauses, or must be let go. Used once.

    Args:
        settings: What it shares with others.
        claim: The run.
        workflow: What the run is a run of.
        allowance: How many queries it may send; any number when absent.
    """

    def __init__(
        self,
        *,
        settings: DriverSettings,
        claim: ClaimedRun,
        workflow: Workflow[Any, Any],
        allowance: Allowance | None = None,
    ) -> None:
        self._settings = settings
        self._allowance = allowance or Allowance()
        self._store = settings.store
        self._clock = settings.clock
        self._max_payload_bytes = settings.store.capabilities.max_payload_bytes
        self._claim = claim
        self._workflow = workflow
        self._wake = asyncio.Event()
        self._lease = HeldLease(claim=claim, clock=settings.clock, lease_ms=settings.lease_ms, on_news=self._wake.set)
        self._writer = RunWriter(
            store=settings.store,
            lease=self._lease,
            next_index=claim.run.next_index,
            clock=settings.clock,
            allowance=self._allowance,
        )
        self._machine = self._make_machine()
        self._retried = RetriedLog()
        self._fence = Fence(asyncio.get_running_loop())
        self._watched = WatchedDrive(settings.watch, claim.run.run_id, workflow.id, self._step_of)
        self._draft = LogDraft(self._allowance.max_events)
        self._inbox = Inbox()
        self._transactions = Transactions(writer=self._writer, machine=self._machine, draft=self._draft)
        self._steps = StepTasks(
            run=self._run_attempt,
            threads=settings.threads,
            on_change=self._wake.set,
            is_committing=lambda: self._transactions.committing,
            cuts_short=self._cut_short,
        )
        self._settlement = Settlement(
            machine=self._machine,
            draft=self._draft,
            inbox=self._inbox,
            steps=self._steps,
            clock=settings.clock,
            rng=settings.rng,
        )
        self._stopping = False
        self._closing = False
        """Whether so few queries are left that nothing new is begun, for the time being."""
        self._refusal: QueryLimitReachedError | None = None
        """Why a step, or the drive, was cut short."""
        self._nudged = False
        self._looks_later = False
        """Whether the inbox could not be read a moment ago."""

    @property
    def run_id(self) -> str:
        """Which run."""
        return self._writer.run_id

    @property
    def nudged(self) -> bool:
        """Whether it was asked to look at the inbox, and has not done so."""
        return self._nudged

    @property
    def retried(self) -> int:
        """How many attempts of steps failed and are repeated."""
        return self._settlement.retried

    @property
    def refused_at(self) -> int | None:
        """Where in the log it would have taken more queries than it had; `None` when they sufficed."""
        return None if self._refusal is None else self._writer.next_index

    def stop(self, *, cancel_steps: bool = False) -> None:
        """Ask to hand the run over: no new step starts.

        Args:
            cancel_steps: Cancel the steps that are running instead of waiting for them; they run again elsewhere.
                A plain function that has begun cannot be cancelled: it is waited for all the same.
        """
        self._stopping = self._writer.in_a_hurry = True
        if cancel_steps:
            self._steps.interrupt()
        else:
            self._steps.withdraw()
        self._wake.set()

    def nudge(self) -> None:
        """Look at the inbox now: something may have been delivered."""
        self._nudged = True
        self._wake.set()

    async def drive(self) -> DriveOutcome:
        """Drive the run.

        Raises:
            QueryLimitReachedError: A step, or reading the run, takes more queries than there are. The run was handed
                over, unless there were too few left even for that.
            StoreError: The store is away for longer than a write waits, or the run cannot be read. The lease runs
                out, and another worker takes the run.
        """
        thread = self._settings.heartbeats
        keeping = thread.keep(self._lease) if thread is not None else nullcontext()
        with self._watched.watched(), self._allowance.opened(), keeping:
            # Beside a thread this is the second line, in case that the thread cannot connect.
            patience_ms = 0 if thread is None else self._lease.lease_ms // 6
            heartbeat = asyncio.create_task(self._lease.keep(self._store, patience_ms=patience_ms))
            grace_s = _CLEANUP_GRACE_S
            try:
                return await self._drive_as_far_as_allowed()
            except LeaseLostError:
                return DriveOutcome.LOST
            except asyncio.CancelledError:
                grace_s = _LAST_GRACE_S
                await to_its_end(self._let_go_at_once())
                raise
            except Exception:
                await self._sit_out_threads()
                raise
            finally:
                try:
                    await self._stop_tasks(heartbeat, grace_s)
                finally:
                    await self._in_callback(self._machine.suspend)

    async def _let_go_at_once(self) -> None:
        """Give the lease back, though nothing more can be recorded; keep it where a step would run twice at once."""
        self._writer.in_a_hurry = True
        self._transactions.close()
        self._steps.cancel()
        try:
            async with asyncio.timeout(_LET_GO_S):
                while self._steps.running:
                    await asyncio.wait(self._steps.running)
                    await asyncio.sleep(0)  # the steps hear of their tasks' ends in callbacks
                if not self._steps.holding and not self._lease.lost:
                    await self._writer.release()
        except (StoreError, TimeoutError) as error:
            logger.warning("run %r: not handed over, its lease runs out: %s", self.run_id, one_line(error))

    async def _sit_out_threads(self) -> None:
        """Keep the lease while a plain function runs that nobody can interrupt: the next worker would begin it too."""
        self._steps.cancel()
        while self._steps.holding and not self._lease.lost:
            self._wake.clear()
            await self._wake.wait()

    async def _drive_as_far_as_allowed(self) -> DriveOutcome:
        self._keep_back()
        try:
            outcome = await self._drive()
            await self._check_replay()
        except QueryLimitReachedError as error:
            self._refusal = error
            # With a step still running somebody else would run it a second time beside it: let the lease run out.
            if not self._steps.running and not self._steps.holding:
                await self._writer.release()
            raise
        except StoreAccessError:
            await self._hand_over()
            raise
        if outcome is DriveOutcome.RELEASED and self._refusal is not None:
            raise self._refusal
        return outcome

    async def _hand_over(self) -> None:
        """Let the run go because of an error that is not its own: a lease that runs out would count as a crash."""
        self._writer.in_a_hurry = True
        if not self._steps.running and not self._steps.holding:
            with suppress(StoreError):
                await self._writer.release()

    async def _drive(self) -> DriveOutcome:
        if (parked := await self._replay_or_park()) is not None:
            return parked
        while True:
            await self._settle()
            self._steps.cancel_abandoned()
            if fatal := self._steps.fatal or self._transactions.broken:
                raise fatal
            if self._lease.lost:
                return DriveOutcome.LOST
            if (thread := self._machine.loop.called_from) is not None:
                return await self._end_with_error(_called_from(thread))
            if self._draft.full and not self._steps.transaction_open:
                await self._flush()
                await self._read_news()
            elif self._machine.outcome is not None:
                return await self._end()
            elif self._steps.ended and not self._draft.full:
                continue  # a step ended after the settling: it may have woken the handler
            elif not self._steps.running and not self._steps.holding and (let_go := self._way_to_let_go()):
                return await let_go()
            else:
                await self._run_steps()

    async def _replay_or_park(self) -> DriveOutcome | None:
        try:
            await self._replay()
        except UnknownKindError:
            raise  # a worker with a newer engine may take the run when the lease has run out
        except (NonDeterminismError, CorruptRecordError) as error:
            return await self._park(error)
        return None

    async def _settle(self) -> None:
        """Let everything that has happened take effect; what is being committed comes first."""
        async with self._transactions.held_back():
            if committed := self._transactions.take_committed():
                await self._in_callback(partial(self._machine.apply, committed))
            self._closing = not self._allowance.covers_unit(self._steps.unrecorded)
            await self._in_turns(partial(self._settlement.settle, only_attempts=self._closing))
            self._keep_back()

    def _keep_back(self) -> None:
        self._allowance.keep_back(
            unrecorded_steps=self._steps.unrecorded,
            unwritten_events=None if self._draft.empty else len(self._draft.events),
        )

    def _way_to_let_go(self) -> Callable[[], Awaitable[DriveOutcome]] | None:
        """Tell how the drive ends when no step runs; `None` when one is to be started, or is yet to be recorded."""
        if self._closing:
            # What was kept back for a record is more than it takes: the rest may do for another step.
            return self._release if self._draft.empty else None
        if not self._steps.has_runnable:
            can_be_woken = bool(self._inbox.waiting()) or self._draft.timers.next_due() is not None
            return self._pause if can_be_woken else partial(self._end_with_error, _deadlock())
        return self._release if self._stopping else None

    # Replaying.

    async def _replay(self) -> None:
        run = self._claim.run
        handler = self._handler_for(self._machine)
        while True:
            await self._in_callback(partial(self._machine.start, handler))
            await self._replay_history()
            if not self._retried.begin_again():
                break
            await self._in_callback(self._machine.restart)
        self._inbox.add(self._claim.inbox)
        if self._claim.inbox and self._inbox.seen_seq < run.inbox_seq:
            await self._writer.ask(self._read_inbox)  # the claim brought the first page only
        self._inbox.seen_seq = max(self._inbox.seen_seq, run.inbox_seq)
        for timer in self._claim.due_timers:
            if not self._machine.waits_for(timer.timer_id):
                self._draft.timers.stray(timer.timer_id)  # it would make the run claimable again at once, for ever

    def _make_machine(self) -> Machine:
        run_id, package = self._claim.run.run_id, package_of(self._workflow.handler)
        if self._settings.checks_replay:
            return TracedMachine(run_id, package, self._settings.codec)
        return Machine(run_id, package)

    def _handler_for(self, machine: Machine) -> Callable[[], Awaitable[Any]]:
        run = self._claim.run
        context = Context(
            machine=machine,
            run_id=run.run_id,
            schedule_id=run.schedule_id,
            scheduled_at=None if run.scheduled_at_ms is None else from_ms(run.scheduled_at_ms),
            codec=self._settings.codec,
            retry=self._workflow.retry,
            max_payload_bytes=self._max_payload_bytes,
            now_ms=self._clock.now_ms,
            store=self._store,
        )

        async def handler() -> Any:
            return await self._workflow.handler(context, self._settings.codec.decode(run.input))

        return handler

    async def _check_replay(self) -> None:
        """Replay what is in the log on a machine of its own, and compare; in tests that ask for it."""
        first = self._machine
        if not isinstance(first, TracedMachine):
            return
        second = TracedMachine(first.run_id, package_of(self._workflow.handler), self._settings.codec)
        history = await self._whole_history()
        if any(event.kind == EventKind.RUN_RETRIED for event in history):
            return  # some of what it records counts no more
        try:
            await self._in_callback(partial(second.start, self._handler_for(second)))
            await self._in_callback(second.run)
            for event in history:
                await self._in_callback(partial(second.apply, from_event(self.run_id, event)))
                await self._in_callback(second.run)
            compare(first, second)
        finally:
            await self._in_callback(second.suspend)

    async def _whole_history(self) -> list[Event]:
        history: list[Event] = []
        while page := await self._store.read_events(run_id=self.run_id, from_index=len(history), limit=_PAGE):
            history += page
        return history

    async def _replay_history(self) -> None:
        page, applied = self._claim.history, 0
        while True:
            await self._in_turns(partial(self._apply_recorded, iter(page)))
            applied += len(page)
            if applied >= self._writer.next_index:
                self._watched.report_replay(applied)
                return
            read = partial(self._store.read_events, run_id=self.run_id, from_index=applied, limit=_PAGE)
            page = await self._writer.ask(read)
            if not page:
                problem = f"the log ends at {applied}, the head says {self._writer.next_index}"
                raise CorruptRecordError("events", self.run_id, problem)

    def _apply_recorded(self, events: Iterator[Event], *, until_s: float) -> bool:
        """Let events take effect; tell whether that was all of them, or just all that there was time for."""
        while self._machine.run(until_s):
            if (event := next(events, None)) is None:
                return True
            recorded = from_event(self.run_id, event)
            try:
                self._apply(recorded, event.index)
            except NonDeterminismError as error:
                self._retried.diverged(event.index, error)
        return False

    def _apply(self, recorded: Recorded, index: int) -> None:
        try:
            if recorded.kind in MATTERS:
                ledger = self._machine.ledger
                self._retried.read(index, recorded, ledger.step_ids, cancelled=ledger.cancelled)
            if self._retried.only_reading:
                return
            if index in self._retried.undone:
                self._machine.undo(recorded)
            else:
                self._machine.apply(recorded)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problem = f"the payload of {recorded.kind} cannot be read: {error!r}"
            raise CorruptRecordError("events", f"{self.run_id}/{index}", problem) from error

    async def _read_inbox(self) -> None:
        known = self._lease.inbox_seq
        while True:
            entries = await self._store.read_inbox(run_id=self.run_id, after_seq=self._inbox.seen_seq, limit=_PAGE)
            self._inbox.add(entries)
            if not entries:
                break
        # Numbers that were not brought are taken already.
        self._inbox.seen_seq = max(self._inbox.seen_seq, known)

    # Steps.

    async def _run_steps(self) -> None:
        # A write might have to wait for the very connection that an open transaction holds.
        if not self._steps.transaction_open:
            await self._flush()
        # Nothing runs before its cause is durable.
        if not self._stopping and self._draft.empty:
            self._steps.start(self._allowance.startable_steps(self._steps.unrecorded))
            self._keep_back()
        if self._steps.running or self._steps.holding:
            await self._wait()

    def _cut_short(self, error: QueryLimitReachedError) -> bool:
        """Tell whether a step's attempt ended because this drive may send no more; then it hands the run over."""
        if not self._allowance.exceeded:
            return False  # a meter of the step's own
        self._refusal = error
        self.stop()
        return True

    def _run_attempt(self, operation: Operation, number: int) -> Awaitable[JsonText | None]:
        assert operation.step is not None
        run, call = self._claim.run, operation.step
        info = make_step_info(run.run_id, run.created_at_ms, operation.step_id, number)
        attempt = partial(
            run_attempt,
            info=info,
            codec=self._settings.codec,
            max_payload_bytes=self._max_payload_bytes,
            on_thread=partial(self._steps.on_thread, operation, info),
        )
        if not call.transactional:
            return attempt(call)

        def run_in_transaction(tx: Any) -> Awaitable[JsonText]:
            return attempt(replace(call, args=(tx, *call.args)))

        return self._transactions.run(operation, run_in_transaction)

    def _step_of(self, task: asyncio.Task[Any]) -> str | None:
        return self._steps.step_of(task)

    async def _stop_tasks(self, heartbeat: asyncio.Task[None], grace_s: float) -> None:
        heartbeat.cancel()
        self._transactions.close()
        self._steps.cancel()
        _, left = await asyncio.wait([heartbeat, *self._steps.running], timeout=grace_s)
        if left:
            logger.warning("run %r: %d cancelled steps are still cleaning up", self.run_id, len(left))

    # Writing and waiting.

    async def _flush(self) -> None:
        while not self._draft.empty:
            await self._append()

    async def _append(self) -> None:
        await self._writer.append(self._draft.write())
        self._draft.written()
        self._keep_back()
        await self._check_replay()

    async def _wait(self) -> None:
        """Wait for a step to end, a timer, news from outside, or a request to stop."""
        if not self._has_news():
            # A unit that is full takes nothing, and so no timer either, before it is written.
            due = None if self._draft.full or self._closing else self._draft.timers.next_due()
            await self._clock.wait(self._wake, None if due is None else due.until_ms)
        self._wake.clear()
        await self._read_news()

    async def _read_news(self) -> None:
        if not self._has_news() or self._lease.lost:
            return
        self._nudged = False
        try:
            await self._read_inbox()
        except QueryLimitReachedError:
            self._looks_later = True  # whoever drives the run next is brought it
            self.stop()
        except StoreError as error:
            if not may_pass(error):
                raise
            # Not worth the steps that are running: nothing is lost, and a pause would be told of what was not seen.
            logger.warning("run %r: cannot read the inbox: %s", self.run_id, one_line(error))
            self._looks_later = True
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._looks_later = False
        self.nudge()

    def _has_news(self) -> bool:
        return not self._looks_later and (self._nudged or self._lease.inbox_seq > self._inbox.seen_seq)

    async def _pause(self) -> DriveOutcome:
        while self._draft.timers.overfull:
            await self._append()
        awaited = [_awaited(operation) for operation in self._inbox.waiting()]
        paused = await self._writer.pause(self._draft.write(), seen_inbox_seq=self._inbox.seen_seq, awaited=awaited)
        return DriveOutcome.PAUSED if paused.status is RunStatus.PAUSED else DriveOutcome.QUEUED

    async def _release(self) -> DriveOutcome:
        await self._flush()
        if self._closing and self._writer.next_index == self._claim.run.next_index:
            self._allowance.require_unit()  # or nobody would hear that the run never gets on
        await self._writer.release()
        return DriveOutcome.RELEASED

    async def _end(self) -> DriveOutcome:
        self._transactions.close()
        self._steps.cancel()  # nobody waits for them, and a transaction may hold the only connection
        while self._settlement.record_done():
            await self._flush()
        if not self._allowance.covers_write(len(self._draft.events) + 1):
            return await self._release()
        match self._machine.outcome:
            case Finished(output):
                try:
                    text = self._settings.codec.encode(output, "output")
                    if len(text) > self._max_payload_bytes:
                        raise PayloadTooLargeError("output", len(text), self._max_payload_bytes)
                except BaseException as error:  # noqa: BLE001  # a codec is the user's code
                    return await self._end_with_error(error)
                await self._writer.finish(self._draft.last_write(run_event(EventKind.RUN_FINISHED)), output=text)
                return DriveOutcome.FINISHED
            case Errored(error):
                return await self._end_with_error(error)
            case Aborted() | None:
                facts = {"reason": self._machine.cancel_reason}
                event = run_event(EventKind.RUN_ABORTED, encode_json(facts | self._retry_facts()))
                await self._write_error(encode_json(facts), event, aborted=True)
                return DriveOutcome.ABORTED

    async def _end_with_error(self, error: BaseException) -> DriveOutcome:
        if is_interrupt(error):
            raise error
        logger.error("run %r of %r errored", self.run_id, self._workflow.id, exc_info=exc_info_of(error))
        failure = failure_of(error)
        event = run_event(EventKind.RUN_ERRORED, write_failure(failure, **self._retry_facts()))
        await self._write_error(write_failure(failure), event, aborted=False)
        return DriveOutcome.ERRORED

    async def _park(self, error: NonDeterminismError | CorruptRecordError) -> DriveOutcome:
        """Leave the run to somebody who mends the code or the row: nothing that others have recorded is wrong."""
        logger.error("run %r of %r is parked as dead: %s", self.run_id, self._workflow.id, one_line(error))
        names = ("step_id", "recorded", "called") if isinstance(error, NonDeterminismError) else ()
        payload = write_failure(failure_of(error), **{name: getattr(error, name) for name in names})
        try:
            await self._writer.error(
                LogWrite(events=(run_event(EventKind.RUN_PARKED, payload),)),
                error=payload,
                parked=True,
                reason=one_line(error)[:_MAX_REASON],
            )
        except LogConflictError:
            raise error from None  # the log is not even as long as its head says
        return DriveOutcome.DEAD

    def _retry_facts(self) -> dict[str, Any]:
        # A handler that returned has come to terms with what failed, whatever is wrong with its result.
        ledger = self._machine.ledger
        returned = isinstance(self._machine.outcome, Finished)
        return end_facts(() if returned else ledger.step_ids, cancelled=ledger.cancelled and not returned)

    async def _write_error(self, error: JsonText, event: NewEvent, *, aborted: bool) -> None:
        reason = self._machine.cancel_reason if aborted else None
        await self._writer.error(self._draft.last_write(event), error=error, aborted=aborted, reason=reason)

    async def _in_turns(self, function: Callable[..., bool]) -> None:
        """Run something of the handler's loop, and let the application's event loop go on after each short while."""
        while not await self._in_callback(lambda: function(until_s=time.perf_counter() + _TURN_S)):
            pass

    async def _in_callback(self, function: Callable[[], T]) -> T:
        """Run something of the handler's loop in a plain callback (see `WorkflowLoop.run_until_blocked`)."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            try:
                with self._fence, self._watched:
                    result = function()
            except BaseException as error:  # noqa: BLE001  # handed on to the driver's task
                error_ = (
                    error if not isinstance(error, StopIteration) else RuntimeError("a handler raised StopIteration")
                )
                if not done.cancelled():
                    done.set_exception(error_)
            else:
                if not done.cancelled():
                    done.set_result(result)

        loop.call_soon(call)
        return await done


def _awaited(operation: Operation) -> Awaited:
    return Awaited(
        kind="signal" if operation.kind is OperationKind.WAIT else "approval",
        name=operation.name,
        step_id=operation.step_id,
        until_ms=operation.until_ms,
    )


def _deadlock() -> ConfigurationError:
    return ConfigurationError(
        "every branch of the handler waits for something that is not durable (an asyncio event, queue or future): "
        "nothing could ever wake it. What comes from outside belongs in a step: await ctx.step(function)"
    )


def _called_from(thread: str) -> ConfigurationError:
    return refused(f"a thread: {thread!r} has called back, and would wake the handler at another moment in a replay")
