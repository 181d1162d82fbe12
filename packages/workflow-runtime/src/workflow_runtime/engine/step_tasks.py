"""The steps that a run has asked for: idle, running as tasks of the application's event loop, or just ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from ..errors import QueryLimitReachedError
from ..escapes import EscapedError, cause_of, members_of
from ..logs import get_logger
from ..payloads import JsonText
from .operations import Operation
from .steps import StepInfo

__all__ = ["EndedAttempt", "StepTasks"]

if TYPE_CHECKING:
    from .step_threads import StepThreads, ThreadCall

logger = get_logger("workflow_runtime")


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """One attempt of a step, and what came of it."""

    operation: Operation
    attempt: int
    result: JsonText | None
    """What the step gave; `None` when it failed."""
    error: BaseException | None = None
    """What it raised."""


@dataclass(slots=True)
class _RunningStep:
    operation: Operation
    task: asyncio.Task[None] = field(init=False)
    plain: bool = False
    """Whether it is a plain function: that needs a thread."""
    call: ThreadCall | None = None
    """The plain function, once it waits for nothing but a thread."""
    cancelled: bool = False
    cut_short: bool = False

    def cancel(self) -> None:
        # Once: a second cancellation would hit the step while it cleans up.
        if not self.cancelled:
            self.cancelled = True
            self.task.cancel()

    def withdraw(self) -> bool:
        """Cancel a plain function that has not begun; tell whether it was one."""
        if self.plain and (self.call is None or self.call.take_back()):
            self.cancel()
            return True
        return False


class StepTasks:
    """Starts, watches and cancels the steps of one drive."""

    def __init__(
        self,
        *,
        run: Callable[[Operation, int], Awaitable[JsonText | None]],
        threads: StepThreads | None,
        on_change: Callable[[], None],
        is_committing: Callable[[], bool],
        cuts_short: Callable[[QueryLimitReachedError], bool],
    ) -> None:
        """Begin without steps.

        Args:
            run: Runs one attempt, given its number; `None` when there is nothing left to record.
            threads: Where plain functions run; `None` in a Python without threads.
            on_change: Called when a step has ended, whatever way, or when a function that outlived its attempt has.
            is_committing: Whether the transactional step that is running must not be cancelled now.
            cuts_short: Whether an attempt that ended because of such an error has not failed, but is to be made again
                by somebody who may send more.
        """
        self.ended: deque[EndedAttempt] = deque()
        """Attempts that nobody has recorded yet."""
        self.fatal: BaseException | None = None
        """Set when Ctrl-C was pressed while a step's body had the thread."""
        self._run = run
        self._threads = threads
        self._on_change = on_change
        self._is_committing = is_committing
        self._cuts_short = cuts_short
        self._idle: list[Operation] = []
        self._running: dict[str, _RunningStep] = {}
        self._on_threads: dict[str, tuple[Operation, ThreadCall]] = {}

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """The tasks of the steps that run now."""
        return [step.task for step in self._running.values()]

    @property
    def unrecorded(self) -> int:
        """How many steps run, or have ended and are not recorded, but for one that brings its record along."""
        return len(self._running) + len(self.ended) - self.transaction_open

    @property
    def has_runnable(self) -> bool:
        """Whether a step waits for nothing but being started."""
        return any(op.pending and op.until_ms is None for op in self._idle)

    @property
    def transaction_open(self) -> bool:
        """Whether a transactional step runs that the handler waits for: one that can still commit."""
        return any(step.operation.transactional and step.operation.pending for step in self._running.values())

    def step_of(self, task: asyncio.Task[Any]) -> str | None:
        """Give the id of the step that runs as this task. May be called from another thread."""
        running = list(self._running.values())
        return next((step.operation.step_id for step in running if step.task is task), None)

    @property
    def holding(self) -> bool:
        """Whether a plain function runs whose step is yet to be recorded.

        Nobody can interrupt it, not even after its attempt has ended by a timeout. Whoever else would drive the run
        might run the step beside it.
        """
        return any(operation.pending for operation, _ in self._on_threads.values())

    async def on_thread(self, operation: Operation, info: StepInfo, function: Callable[[], Any]) -> Any:
        """Call a step's plain function. It waits for its turn, and for the end of an earlier attempt's function."""
        if self._threads is None:
            return await asyncio.to_thread(function)  # the event loop there calls it at once
        step = self._running[operation.step_id]
        step.plain = True
        call = step.call = await self._threads.begin(info.idempotency_key, function)
        self._on_threads[operation.step_id] = operation, call
        try:
            result = await call.result()
        finally:
            if call.running:
                call.when_over(lambda: self._end_of_leftover(operation, call))
                logger.warning(
                    "run %r, step %r: its plain function cannot be interrupted and goes on, attempt %d is over",
                    info.run_id, info.step_id, info.attempt,
                )  # fmt: skip
            else:
                self._on_threads.pop(operation.step_id, None)
        step.plain = False  # what it has made may be a coroutine, which can be cancelled
        return result

    def _end_of_leftover(self, operation: Operation, call: ThreadCall) -> None:
        _, latest = self._on_threads.get(operation.step_id, (None, None))
        if latest is call:  # and not the next attempt's
            del self._on_threads[operation.step_id]
        self._on_change()

    def add(self, operation: Operation) -> None:
        """Take in a step that is to run, now or when the pause before its next attempt is over."""
        self._idle.append(operation)

    def start(self, limit: int | None = None) -> None:
        """Start what is runnable, transactional steps one after the other; forget what nobody waits for any more.

        Args:
            limit: Start no more than so many.
        """
        idle, self._idle = self._idle, []
        most = None if limit is None else len(self._running) + limit
        for operation in idle:
            if not operation.pending:
                continue
            room = most is None or len(self._running) < most
            if room and operation.until_ms is None and not (operation.transactional and self.transaction_open):
                self._start(operation)
            else:
                self._idle.append(operation)

    def cancel_abandoned(self) -> None:
        """Cancel the running steps that the handler does not wait for any more."""
        for step in self._running.values():
            if not step.operation.pending:
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

    def _cancel(self, step: _RunningStep) -> None:
        if not (step.operation.transactional and self._is_committing()):
            step.cancel()

    def _start(self, operation: Operation) -> None:
        assert operation.step is not None
        step = self._running[operation.step_id] = _RunningStep(operation)
        # After that: under an eager task factory the attempt begins at once.
        step.task = asyncio.create_task(self._attempt(operation), context=operation.step.context)
        # A callback, because a task that is cancelled at once never enters its function.
        step.task.add_done_callback(lambda _: self._step_ended(step))

    def _step_ended(self, step: _RunningStep) -> None:
        del self._running[step.operation.step_id]
        if step.task.cancelled() or step.cut_short:
            self._idle.append(step.operation)  # cut short, not failed: if it is still wanted, it runs again
        self._on_change()

    async def _attempt(self, operation: Operation) -> None:
        attempt = operation.failed_attempts + 1
        result: JsonText | None = None
        error: BaseException | None = None
        try:
            result = await self._run(operation, attempt)
        except EscapedError as escaped:
            error = escaped.error
        except asyncio.CancelledError as cancellation:
            if self._running[operation.step_id].cancelled:
                raise
            error = cancellation  # the body's own
        except Exception as raised:  # noqa: BLE001  # whatever a user's code raises is a failed attempt
            refusal = _refusal_behind(raised)
            if refusal is not None and self._cuts_short(refusal):
                self._running[operation.step_id].cut_short = True
                return
            error = raised
        except BaseException as interrupt:
            self.fatal = interrupt  # the process is going down, not the step
            raise
        if result is not None or error is not None:
            self.ended.append(EndedAttempt(operation, attempt, result, error))


def _refusal_behind(error: BaseException) -> QueryLimitReachedError | None:
    """Find what refused a step's call, though the step has raised something else because of it."""
    seen: set[int] = set()
    found = [error]
    while found:
        each = found.pop()
        if issubclass(type(each), QueryLimitReachedError):
            return cast("QueryLimitReachedError", each)
        if id(each) not in seen:
            seen.add(id(each))
            found += members_of(each)
            cause = cause_of(each)
            found += () if cause is None else (cause,)
    return None
