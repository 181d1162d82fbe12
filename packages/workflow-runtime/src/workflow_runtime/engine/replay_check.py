"""A check for tests: a run is replayed from its log, and must ask for the same as the first time.

What a handler must not use (`datetime.now()`, `uuid4()`, `random`, what is left from an earlier call) shows in that it
asks for something else, or ends in another way, when nothing but the log has stayed the same.
"""

from __future__ import annotations

from ..store import Event, WorkflowExecutionStore
from .handler_turns import HandlerTurns
from .history import EventKind, from_event
from .run_handler import RunHandler
from .traced_machine import TracedMachine, compare

__all__ = ["ReplayCheck"]

_PAGE = 1_000


class ReplayCheck:
    """A second replay of all that is in a run's log. A driver makes one after each write, where tests ask for it.

    Args:
        first: Runs the handler for the driver.
        handler: What it runs.
        turns: How the handler gets its turns.
        store: Has the log.
    """

    def __init__(
        self, *, first: TracedMachine, handler: RunHandler, turns: HandlerTurns, store: WorkflowExecutionStore
    ) -> None:
        self._first = first
        self._handler = handler
        self._turns = turns
        self._store = store

    async def run(self) -> None:
        """Replay the log, and raise at the first difference.

        Raises:
            NonDeterminismError: The handler has asked for something else, or ended in another way.
        """
        history = await self._whole_history()
        if any(event.kind == EventKind.RUN_RETRIED for event in history):
            return  # a retry took back some of what it records
        second = self._handler.traced_machine()
        try:
            self._turns.call(second.start, self._handler.on(second))
            self._turns.call(second.run)
            for event in history:
                self._turns.call(second.apply, from_event(second.run_id, event))
                self._turns.call(second.run)
            compare(self._first, second)
        finally:
            self._turns.call(second.suspend)

    async def _whole_history(self) -> list[Event]:
        run_id, history = self._first.run_id, list[Event]()
        while page := await self._store.read_events(run_id=run_id, from_index=len(history), limit=_PAGE):
            history += page
        return history
