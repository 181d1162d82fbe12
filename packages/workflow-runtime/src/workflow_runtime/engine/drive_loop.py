"""The loop of one drive: settle, ask for the next move, make it."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigurationError, CorruptRecordError, NonDeterminismError, QueryLimitReachedError
from ..isolation import refused
from .drive_outcome import DriveOutcome
from .drive_parts import DriveParts
from .history import UnknownKindError
from .live_state import LiveState
from .moves import Move, next_move

__all__ = ["DriveLoop"]


class DriveLoop:
    """The loop of one drive, from the replay to the write that ends it. A driver runs it once.

    Args:
        parts: What it works with.
        on_waiting: See `Driver.on_waiting`.
    """

    def __init__(self, parts: DriveParts, on_waiting: Callable[[bool], None]) -> None:
        self._parts = parts
        self._on_waiting = on_waiting
        self._machine = parts.machine
        self._turns = parts.turns
        self._draft = parts.draft
        self._inbox = parts.inbox
        self._reader = parts.reader
        self._steps = parts.steps
        self._transactions = parts.transactions
        self._settler = parts.settler
        self._budget = parts.budget
        self._drafts = parts.drafts
        self._stop = parts.stop
        self._state = LiveState(parts)

    async def run(self) -> DriveOutcome:
        """Drive the run as far as it goes.

        Raises:
            LeaseLostError: A write was refused, because another worker has the run.
            QueryLimitReachedError: Reading or writing takes more queries than there are.
            StoreError: The store is away for longer than a write waits, or the run cannot be read.
        """
        if (parked := await self._replay_or_park()) is not None:
            return parked
        while True:
            await self._settle()
            match move := next_move(self._state):
                case Move.WORK:
                    await self._work()
                case Move.WRITE:
                    await self._drafts.write_all()
                    await self._read_news()
                case Move.SETTLE:
                    pass
                case _:
                    self._on_waiting(False)
                    return await self._end(move)

    async def _replay_or_park(self) -> DriveOutcome | None:
        try:
            await self._parts.replay.run()
            await self._take_over_claim()
        except UnknownKindError:
            raise  # a worker with a newer engine may take the run when the lease has run out
        except (NonDeterminismError, CorruptRecordError) as error:
            return await self._parts.run_end.park(error)
        return None

    async def _take_over_claim(self) -> None:
        """Take in what else the claim brought: the inbox, and the timers that are due."""
        inbox, inbox_seq = self._inbox, self._parts.claim.run.inbox_seq
        inbox.add(self._parts.claim.inbox)
        if self._parts.claim.inbox and inbox.seen_seq < inbox_seq:
            await self._parts.writer.ask(self._reader.read)  # the claim brought the first page only
        inbox.seen_seq = max(inbox.seen_seq, inbox_seq)
        for timer in self._parts.claim.due_timers:
            if not self._machine.waits_for(timer.timer_id):
                self._draft.timers.stray(timer.timer_id)  # the run would become claimable again at once, for ever

    async def _settle(self) -> None:
        """Apply everything that has happened; what is being committed comes first."""
        if self._transactions.committing:
            await self._transactions.committed()
        self._transactions.hold_back()
        try:
            if committed := self._transactions.take_committed():
                self._turns.call(self._machine.apply, committed)
            self._budget.measure()
            await self._turns.repeat(self._settler.settle, self._budget.low)
        finally:
            self._transactions.let_commit()
        self._steps.cancel_abandoned()

    async def _work(self) -> None:
        # A write might have to wait for the very connection that an open transaction holds.
        if not (self._draft.empty or self._steps.transaction_open):
            await self._drafts.write_all()
        # Nothing runs before its cause is durable.
        if not self._stop.made and self._draft.empty:
            self._steps.start()
        if self._steps.at_work:
            await self._wait()

    async def _wait(self) -> None:
        """Wait for a step to end, a timer, news from outside, or a request to stop."""
        self._on_waiting(True)
        if not (self._parts.wake.is_set() or self._reader.has_news):
            # A draft that is full takes nothing, and so no timer either, before it is written.
            due = None if self._draft.full or self._budget.low else self._draft.timers.next_due()
            await self._parts.settings.clock.wait(self._parts.wake, None if due is None else due.until_ms)
        self._parts.wake.clear()
        if self._reader.has_news:
            await self._read_news()

    async def _read_news(self) -> None:
        try:
            await self._reader.read_news()
        except QueryLimitReachedError:
            self._stop.make()
            self._steps.withdraw()
            self._parts.wake.set()

    async def _end(self, move: Move) -> DriveOutcome:
        match move:
            case Move.END_RUN:
                return await self._end_run()
            case Move.PAUSE:
                return await self._parts.lease_end.pause()
            case Move.RELEASE:
                return await self._parts.lease_end.release()
            case Move.LEAVE:
                return DriveOutcome.LOST
            case Move.REFUSE_THREAD:
                return await self._refuse_thread()
            case Move.REFUSE_DEADLOCK:
                return await self._parts.run_end.by_error(ConfigurationError(_DEADLOCK))
            case _:
                raise self._steps.fatal or self._transactions.broken or AssertionError("nothing is broken")

    async def _end_run(self) -> DriveOutcome:
        self._parts.break_off.cancel_steps()  # nobody awaits them, and a transaction may hold the only connection
        while self._settler.record_done():
            await self._drafts.write_all()
        if not self._budget.covers_end():
            return await self._parts.lease_end.release()
        return await self._parts.run_end.by_outcome()

    async def _refuse_thread(self) -> DriveOutcome:
        thread = self._machine.loop.called_from
        what = f"a thread: {thread!r} has called back, and would wake the handler at another moment in a replay"
        return await self._parts.run_end.by_error(refused(what))


_DEADLOCK = (
    "every branch of the handler waits for something that is not durable (an asyncio event, queue or future): "
    "nothing could ever wake it. What comes from outside belongs in a step: await ctx.step(function)"
)
