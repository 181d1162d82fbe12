"""Driving one claimed run: replay it, settle what happens, write it down, and let the run go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, NoReturn

from ..errors import (
    ConfigurationError,
    CorruptRecordError,
    LeaseLostError,
    NonDeterminismError,
    QueryLimitReachedError,
    StoreAccessError,
    StoreError,
)
from ..isolation import refused
from ..store import ClaimedRun
from ..watch import WatchedDrive
from .allowance import Allowance
from .break_off import BreakOff
from .definition import Workflow
from .draft_writer import DraftWriter
from .drive_budget import DriveBudget
from .drive_outcome import DriveOutcome
from .driver_settings import DriverSettings
from .handler_turns import HandlerTurns
from .held_lease import HeldLease
from .history import UnknownKindError
from .inbox import Inbox
from .inbox_reader import InboxReader
from .lease_end import LeaseEnd
from .log_draft import LogDraft
from .moves import DriveState, Move, StepWork, next_move
from .replay import Replay
from .replay_check import ReplayCheck
from .run_end import RunEnd
from .run_handler import RunHandler
from .run_writer import RunWriter
from .settler import Settler
from .shielding import run_shielded
from .step_attempts import StepAttempts
from .step_tasks import StepTasks
from .step_transactions import StepTransactions
from .stop_request import StopRequest

__all__ = ["Driver"]

_LAST_GRACE_S = 0.5
"""Where the drive was cancelled, and has waited for them before."""
_CLEANUP_GRACE_S = 5.0
"""How long cancelled steps may take to clean up before the driver stops waiting for them."""


class Driver:
    """The drive of one run, until the run ends, pauses, or must be let go. A worker makes one for each claim.

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
        self._claim = claim
        self._workflow = workflow
        self._allowance = allowance or Allowance()
        self._wake = asyncio.Event()
        self._stop = StopRequest()
        self._draft = LogDraft(self._allowance.max_events)
        self._inbox = Inbox()
        self._handler = RunHandler(settings, claim.run, workflow)
        self._watched = WatchedDrive(settings.watch, claim.run.run_id, workflow.id, self.step_of)
        self._turns = HandlerTurns(self._watched)
        self._set_up_machine()
        self._set_up_lease()
        self._set_up_steps()
        self._set_up_writes()
        self._set_up_ends()

    def _set_up_machine(self) -> None:
        self._check: ReplayCheck | None = None
        if not self._settings.checks_replay:
            self._machine = self._handler.machine()
            return
        self._machine = traced = self._handler.traced_machine()
        self._check = ReplayCheck(first=traced, handler=self._handler, turns=self._turns, store=self._settings.store)

    def _set_up_lease(self) -> None:
        settings, claim = self._settings, self._claim
        self._lease = HeldLease(claim=claim, clock=settings.clock, lease_ms=settings.lease_ms, on_news=self._wake.set)
        self._writer = RunWriter(
            store=settings.store,
            lease=self._lease,
            next_index=claim.run.next_index,
            clock=settings.clock,
            allowance=self._allowance,
            stop=self._stop,
        )
        self._reader = InboxReader(store=settings.store, lease=self._lease, inbox=self._inbox, wake=self._wake)

    def _set_up_steps(self) -> None:
        settings = self._settings
        self._transactions = StepTransactions(writer=self._writer, machine=self._machine, draft=self._draft)
        attempts = StepAttempts(
            run=self._claim.run,
            codec=settings.codec,
            max_payload_bytes=settings.store.capabilities.max_payload_bytes,
            transactions=self._transactions,
        )
        self._steps = StepTasks(
            attempts=attempts,
            transactions=self._transactions,
            threads=settings.threads,
            allowance=self._allowance,
            stop=self._stop,
            on_change=self._wake.set,
        )
        self._settler = Settler(
            machine=self._machine,
            draft=self._draft,
            inbox=self._inbox,
            steps=self._steps,
            clock=settings.clock,
            rng=settings.rng,
        )

    def _set_up_writes(self) -> None:
        self._budget = DriveBudget(allowance=self._allowance, steps=self._steps, draft=self._draft)
        self._drafts = DraftWriter(writer=self._writer, draft=self._draft, budget=self._budget, check=self._check)

    def _set_up_ends(self) -> None:
        self._run_end = RunEnd(
            workflow_id=self._workflow.id,
            machine=self._machine,
            codec=self._settings.codec,
            max_payload_bytes=self._settings.store.capabilities.max_payload_bytes,
            writer=self._writer,
            draft=self._draft,
        )
        self._lease_end = LeaseEnd(
            writer=self._writer, draft=self._draft, drafts=self._drafts, budget=self._budget, inbox=self._inbox
        )
        self._break_off = BreakOff(
            writer=self._writer,
            steps=self._steps,
            transactions=self._transactions,
            stop=self._stop,
            wake=self._wake,
        )
        self._ends: dict[Move, Callable[[], Awaitable[DriveOutcome]]] = {
            Move.RAISE: self._raise,
            Move.LEAVE: self._leave,
            Move.REFUSE_THREAD: self._refuse_thread,
            Move.END_RUN: self._end_run,
            Move.RELEASE: self._lease_end.release,
            Move.PAUSE: self._lease_end.pause,
            Move.REFUSE_DEADLOCK: self._refuse_deadlock,
        }

    @property
    def run_id(self) -> str:
        """Which run."""
        return self._writer.run_id

    @property
    def nudged(self) -> bool:
        """Whether it was asked to look at the inbox, and has not done so."""
        return self._reader.nudged

    @property
    def stopping(self) -> bool:
        """Whether it is about to hand the run over."""
        return self._stop.made

    @property
    def retried(self) -> int:
        """How many attempts of steps failed and are repeated."""
        return self._settler.retried

    @property
    def refused_at(self) -> int | None:
        """Where in the log it would have taken more queries than it had; `None` when they sufficed."""
        return None if self._stop.refusal is None else self._writer.next_index

    def step_of(self, task: asyncio.Task[Any]) -> str | None:
        """Return the id of the step that runs as this task. May be called from another thread."""
        return self._steps.step_of(task)

    def stop(self, *, cancel_steps: bool = False) -> None:
        """Ask to hand the run over: no new step starts.

        Args:
            cancel_steps: Cancel the steps that are running instead of waiting for them; they run again elsewhere.
                A plain function that has begun cannot be cancelled: it is waited for all the same.
        """
        self._stop.make()
        if cancel_steps:
            self._steps.interrupt()
        else:
            self._steps.withdraw()
        self._wake.set()

    def nudge(self) -> None:
        """Look at the inbox now: something may have been delivered."""
        self._reader.nudge()

    async def drive(self) -> DriveOutcome:
        """Drive the run. To be called once.

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
            heartbeat = asyncio.create_task(self._lease.keep(self._settings.store, patience_ms=patience_ms))
            grace_s = _CLEANUP_GRACE_S
            try:
                return await self._drive_as_far_as_allowed()
            except LeaseLostError:
                return DriveOutcome.LOST
            except asyncio.CancelledError:
                grace_s = _LAST_GRACE_S
                await run_shielded(self._break_off.release_at_once())
                raise
            except Exception:
                await self._break_off.sit_out_threads()
                raise
            finally:
                try:
                    await self._break_off.clean_up(heartbeat, grace_s)
                finally:
                    await self._turns.call(self._machine.suspend)

    async def _drive_as_far_as_allowed(self) -> DriveOutcome:
        self._budget.keep_back()
        try:
            outcome = await self._drive()
            if self._check is not None:
                await self._check.run()
        except QueryLimitReachedError as error:
            self._stop.refusal = error
            await self._break_off.release_unless_at_work()
            raise
        except StoreAccessError:
            # Not the run's own fault: a lease that runs out would count as a crash.
            self._stop.make()
            with suppress(StoreError):
                await self._break_off.release_unless_at_work()
            raise
        if outcome is DriveOutcome.RELEASED and self._stop.refusal is not None:
            raise self._stop.refusal
        return outcome

    async def _drive(self) -> DriveOutcome:
        if (parked := await self._replay_or_park()) is not None:
            return parked
        while True:
            await self._settle()
            match move := next_move(self._state()):
                case Move.WORK:
                    await self._work()
                case Move.WRITE:
                    await self._drafts.write_all()
                    await self._read_news()
                case Move.SETTLE:
                    pass
                case _:
                    return await self._ends[move]()

    async def _replay_or_park(self) -> DriveOutcome | None:
        replay = Replay(
            claim=self._claim,
            store=self._settings.store,
            writer=self._writer,
            machine=self._machine,
            handler=self._handler,
            turns=self._turns,
            watched=self._watched,
        )
        try:
            await replay.run()
        except UnknownKindError:
            raise  # a worker with a newer engine may take the run when the lease has run out
        except (NonDeterminismError, CorruptRecordError) as error:
            return await self._run_end.park(error)
        await self._take_over_claim()
        return None

    async def _take_over_claim(self) -> None:
        """Take in what else the claim brought: the inbox, and the timers that are due."""
        inbox, inbox_seq = self._inbox, self._claim.run.inbox_seq
        inbox.add(self._claim.inbox)
        if self._claim.inbox and inbox.seen_seq < inbox_seq:
            await self._writer.ask(self._reader.read)  # the claim brought the first page only
        inbox.seen_seq = max(inbox.seen_seq, inbox_seq)
        for timer in self._claim.due_timers:
            if not self._machine.waits_for(timer.timer_id):
                self._draft.timers.stray(timer.timer_id)  # it would make the run claimable again at once, for ever

    async def _settle(self) -> None:
        """Apply everything that has happened; what is being committed comes first."""
        async with self._transactions.held_back():
            if committed := self._transactions.take_committed():
                await self._turns.call(partial(self._machine.apply, committed))
            self._budget.measure()
            await self._turns.repeat(partial(self._settler.settle, only_attempts=self._budget.low))
            self._budget.keep_back()
        self._steps.cancel_abandoned()

    def _state(self) -> DriveState:
        steps, work = self._steps, self._steps.work
        return DriveState(
            broken=steps.fatal is not None or self._transactions.broken is not None,
            lease_lost=self._lease.lost,
            called_from_thread=self._machine.loop.called_from is not None,
            draft_full=self._draft.full,
            draft_empty=self._draft.empty,
            transaction_open=steps.transaction_open,
            handler_ended=self._machine.outcome is not None,
            step_ended=bool(steps.ended),
            step_work=work,
            budget_low=self._budget.low,
            stopping=self._stop.made,
            can_wake=work is not StepWork.NONE or self._can_be_woken(),
        )

    def _can_be_woken(self) -> bool:
        return self._draft.timers.next_due() is not None or bool(self._inbox.waiting())

    async def _work(self) -> None:
        # A write might have to wait for the very connection that an open transaction holds.
        if not self._steps.transaction_open:
            await self._drafts.write_all()
        # Nothing runs before its cause is durable.
        if not self._stop.made and self._draft.empty:
            self._steps.start(self._budget.startable_steps())
            self._budget.keep_back()
        if self._steps.at_work:
            await self._wait()

    async def _wait(self) -> None:
        """Wait for a step to end, a timer, news from outside, or a request to stop."""
        if not self._reader.has_news:
            # A draft that is full takes nothing, and so no timer either, before it is written.
            due = None if self._draft.full or self._budget.low else self._draft.timers.next_due()
            await self._settings.clock.wait(self._wake, None if due is None else due.until_ms)
        self._wake.clear()
        await self._read_news()

    async def _read_news(self) -> None:
        try:
            await self._reader.read_news()
        except QueryLimitReachedError:
            self.stop()

    async def _end_run(self) -> DriveOutcome:
        self._break_off.cancel_steps()  # nobody waits for them, and a transaction may hold the only connection
        while self._settler.record_done():
            await self._drafts.write_all()
        if not self._budget.covers_end():
            return await self._lease_end.release()
        return await self._run_end.by_outcome()

    async def _raise(self) -> NoReturn:
        raise self._steps.fatal or self._transactions.broken or AssertionError("nothing is broken")

    async def _leave(self) -> DriveOutcome:
        return DriveOutcome.LOST

    async def _refuse_thread(self) -> DriveOutcome:
        thread = self._machine.loop.called_from
        what = f"a thread: {thread!r} has called back, and would wake the handler at another moment in a replay"
        return await self._run_end.by_error(refused(what))

    async def _refuse_deadlock(self) -> DriveOutcome:
        return await self._run_end.by_error(ConfigurationError(_DEADLOCK))


_DEADLOCK = (
    "every branch of the handler waits for something that is not durable (an asyncio event, queue or future): "
    "nothing could ever wake it. What comes from outside belongs in a step: await ctx.step(function)"
)
