"""Bringing a handler to where its log ends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..errors import CorruptRecordError, NonDeterminismError
from ..store import ClaimedRun, Event, WorkflowExecutionStore
from ..watch import WatchedDrive
from .handler_turns import HandlerTurns
from .history import Recorded, from_event
from .machine import Machine
from .retried_log import MATTERS, RetriedLog
from .run_handler import RunHandler
from .run_writer import RunWriter

__all__ = ["Replay"]

_PAGE = 1_000


class Replay:
    """One replay of a claimed run. A driver makes it before it does anything else.

    Args:
        claim: Has the first page of the log.
        store: Has the rest.
        writer: Knows how long the log is, and reads with a writer's patience.
        machine: Runs the handler.
        handler: What it runs.
        turns: How the handler gets its turns.
        watched: Gets the length of the replay.
    """

    def __init__(
        self,
        *,
        claim: ClaimedRun,
        store: WorkflowExecutionStore,
        writer: RunWriter,
        machine: Machine,
        handler: RunHandler,
        turns: HandlerTurns,
        watched: WatchedDrive,
    ) -> None:
        self._claim = claim
        self._store = store
        self._writer = writer
        self._machine = machine
        self._handler = handler
        self._turns = turns
        self._watched = watched
        self._retried = RetriedLog()

    async def run(self) -> None:
        """Replay the log, from the top again when it turns out that something was replayed that counts no more.

        Raises:
            NonDeterminismError: The handler does not go along with the log.
            CorruptRecordError: The log cannot be read.
            UnknownKindError: A newer engine has written it.
        """
        handler = self._handler.on(self._machine)
        while True:
            self._turns.call(self._machine.start, handler)
            await self._replay_history()
            if not self._retried.begin_again():
                return
            self._turns.call(self._machine.restart)

    async def _replay_history(self) -> None:
        page, applied = self._claim.history, 0
        while True:
            await self._turns.repeat(self._apply_page, iter(page))
            applied += len(page)
            if applied >= self._writer.next_index:
                self._watched.report_replay(applied)
                return
            page = await self._read_page(applied)

    async def _read_page(self, index: int) -> tuple[Event, ...]:
        run_id = self._writer.run_id
        page = await self._writer.ask(partial(self._store.read_events, run_id=run_id, from_index=index, limit=_PAGE))
        if not page:
            problem = f"the log ends at {index}, the head says {self._writer.next_index}"
            raise CorruptRecordError("events", run_id, problem)
        return page

    def _apply_page(self, events: Iterator[Event], until_s: float) -> bool:
        """Apply events. Return whether that was all of them, and not just all that there was time for."""
        while self._machine.run(until_s):
            if (event := next(events, None)) is None:
                return True
            recorded = from_event(self._machine.run_id, event)
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
            raise CorruptRecordError("events", f"{self._machine.run_id}/{index}", problem) from error
