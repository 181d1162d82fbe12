"""The steps that a run has asked for: idle, running as tasks of the application's event loop, or just ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..escapes import EscapedError
from ..metering.drive_budget import DriveBudget
from ..payloads import JsonText
from .moves import StepWork
from .operations import Operation
from .running_step import RunningStep
from .step_attempts import StepAttempts
from .step_transactions import StepTransactions
from .stop_request import StopRequest
from .thread_calls import ThreadCalls

__all__ = ["EndedAttempt", "StepTasks"]

if TYPE_CHECKING:
    from .step_threads import StepThreads


class EndedAttempt(NamedTuple):
    """One attempt of a step, and what came of it."""

    operation: Operation
    attempt: int
    result: JsonText | None
    """Result of the step; `None` when it failed."""
    error: BaseException | None = None
    """Exception that it raised."""


class StepTasks:
    """The steps that one drive's handler has asked for, each idle, running as a task, or ended and not yet recorded."""

    def __init__(
        self,
        *,
        attempts: StepAttempts,
        transactions: StepTransactions,
        threads: StepThreads | None,
        budget: DriveBudget,
        stop: StopRequest,
        on_change: Callable[[], None],
    ) -> None:
        """Begin without steps.

        Args:
            attempts: Makes the attempts.
            transactions: Runs those of transactional steps, and knows which one must not be cancelled now.
            threads: Where plain functions run; `None` in a Python without threads.
            budget: Says how many steps may start, and whether one was refused a query for the drive's sake.
            stop: Made when one was.
            on_change: Called when a step has ended, whatever way, or when a function that outlived its attempt has.
        """
        self.ended: deque[EndedAttempt] = deque()
        """Attempts that nobody has recorded yet."""
        self.fatal: BaseException | None = None
        """Set when Ctrl-C was pressed while a step's body had the thread."""
        self._attempts = attempts
        self._transactions = transactions
        self._calls = ThreadCalls(threads, on_change)
        self._budget = budget
        self._stop = stop
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._idle: list[Operation] = []
        self._running: dict[str, RunningStep] = {}

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """The tasks of the steps that run now."""
        return [step.task for step in self._running.values()]

    @property
    def unrecorded(self) -> int:
        """Number of steps that run or have ended without a record; a transactional one brings its record along."""
        running = (step.operation for step in self._running.values())
        return len(self.ended) + sum(not (operation.transactional and operation.pending) for operation in running)

    @property
    def work(self) -> StepWork:
        """State of the steps."""
        if self.at_work:
            return StepWork.RUNNING
        for operation in self._idle:
            if operation.until_ms is None and not operation.future.done():
                return StepWork.STARTABLE
        return StepWork.NONE

    @property
    def at_work(self) -> bool:
        """True if a step runs, or its plain function still does: nobody else may drive the run meanwhile."""
        return bool(self._running or self._calls.holding)

    @property
    def holding(self) -> bool:
        """True if a plain function runs whose step is yet to be recorded; see `ThreadCalls`."""
        return self._calls.holding

    @property
    def transaction_open(self) -> bool:
        """True if a transactional step runs that the handler waits for: one that can still commit."""
        running = self._running
        return bool(running) and any(
            step.operation.transactional and step.operation.pending for step in running.values()
        )

    def step_of(self, task: asyncio.Task[Any]) -> str | None:
        """Return the id of the step that runs as this task. May be called from another thread."""
        running = list(self._running.values())
        return next((step.operation.step_id for step in running if step.task is task), None)

    def add(self, operation: Operation) -> None:
        """Take in a step that is to run, now or when the pause before its next attempt is over."""
        self._idle.append(operation)

    def start(self) -> None:
        """Start what is runnable, transactional steps one after the other; forget what nobody waits for any more."""
        idle, self._idle = self._idle, []
        limit = self._budget.startable_steps()
        most = None if limit is None else len(self._running) + limit
        for operation in idle:
            if operation.future.done():
                continue
            room = most is None or len(self._running) < most
            if room and operation.until_ms is None and not (operation.transactional and self.transaction_open):
                self._start(operation)
            else:
                self._idle.append(operation)

    def cancel_abandoned(self) -> None:
        """Cancel the running steps that the handler does not wait for any more."""
        for step in self._running.values():
            if step.operation.future.done():
                self._cancel(step)

    def cancel(self) -> None:
        """Cancel all running steps. A transaction that is being committed ends by itself."""
        for step in self._running.values():
            self._cancel(step)

    def withdraw(self) -> None:
        """Cancel the plain functions that still wait for a thread."""
        for step in self._running.values():
            step.withdraw()

    def interrupt(self) -> None:
        """Cancel the running steps that end by that: all but plain functions that have begun."""
        for step in self._running.values():
            if not step.withdraw() and not step.plain:
                self._cancel(step)

    def _cancel(self, step: RunningStep) -> None:
        if not (step.operation.transactional and self._transactions.committing):
            step.cancel()

    def _start(self, operation: Operation) -> None:
        assert operation.step is not None
        step = self._running[operation.step_id] = RunningStep(operation)
        # After the bookkeeping: an eager task factory starts the attempt at once.
        step.task = self._loop.create_task(self._attempt(step), context=operation.step.context)
        # A task that is cancelled at once never enters its function, which notes all other ends.
        step.task.add_done_callback(partial(self._end, step))

    def _end(self, step: RunningStep, task: asyncio.Task[None] | None = None) -> None:
        if step.over:
            return
        step.over = True
        del self._running[step.operation.step_id]
        if step.cut_short:
            self._idle.append(step.operation)
        self._on_change()

    async def _attempt(self, step: RunningStep) -> None:
        operation = step.operation
        attempt = operation.failed_attempts + 1
        try:
            result = await self._attempts.make(operation, attempt, partial(self._calls.call, step))
        except EscapedError as escaped:
            self._note(step, error=escaped.error)
        except asyncio.CancelledError as cancellation:
            if step.cancelled:
                raise
            self._note(step, error=cancellation)  # raised by the step's function itself
        except Exception as raised:  # noqa: BLE001  # whatever a user's code raises is a failed attempt
            if self._budget.refused(raised):
                self._stop.make()
                self.withdraw()
            else:
                self._note(step, error=raised)
        except BaseException as interrupt:
            self.fatal = interrupt  # the process is going down, not the step
            step.cut_short = False
            raise
        else:
            self._note(step, result)
        finally:
            self._end(step)

    def _note(self, step: RunningStep, result: JsonText | None = None, error: BaseException | None = None) -> None:
        """Keep what an attempt came to, until it is settled; a transactional step may have recorded that itself."""
        step.cut_short = False
        if result is not None or error is not None:
            self.ended.append(EndedAttempt(step.operation, step.operation.failed_attempts + 1, result, error))
