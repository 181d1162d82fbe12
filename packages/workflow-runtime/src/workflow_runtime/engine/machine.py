"""The pure core: a handler, fed with events, asks for operations. No I/O, no clock, no store.

`apply` takes one event, whether replayed from the log or about to be written to it, and resolves what it
resolves; `run` lets the handler go on until every branch is blocked again. Both happen one event at a time,
so a replay goes through the very same states as the first execution.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from ..errors import (
    ConfigurationError,
    NonDeterminismError,
    StepFailedError,
    WaitLimitError,
    WaitTimeoutError,
)
from ..failures import read_failure
from ..isolation import with_advice
from ..payloads import JsonText
from ..store import MAX_AWAITED_BYTES, awaited_bytes
from .failure_ledger import FailureLedger
from .handler_outcome import Aborted, Errored, Finished, Outcome
from .history import OPERATION_OF, EventKind, OperationKind, Recorded
from .leftovers import DurableCalls, error_of_circles, error_of_leftovers, still_going_on, unseen_failure
from .loop import WorkflowLoop
from .operations import UNKNOWN_TIMER, Operation, StepCall
from .step_ids import StepIds
from .suspended import Suspended

__all__ = ["Machine"]


class Machine:
    """A handler that runs, with its pending operations. A driver feeds it events, and a replay does the same.

    Everything but the constructor must be called through a drive's `HandlerTurns`.

    Args:
        run_id: Whose handler.
        package: The top-level package of the handler's own code; when absent, all code is.
    """

    def __init__(self, run_id: str, package: str | None = None) -> None:
        self.run_id = run_id
        self._package = package
        self.calls: DurableCalls = DurableCalls()
        self._begin()

    def _begin(self) -> None:
        self.loop: WorkflowLoop = WorkflowLoop(self.run_id, self._package)  # type: ignore[abstract]  # the rest is set below its class
        self.ledger: FailureLedger = FailureLedger()
        self._operations: dict[str, Operation] = {}
        self.unseen: list[Operation] = []
        """The operations that the handler asked for since the last `take_new`."""
        self._waits = 0
        """Number of signals and approvals that the handler waits for."""
        self._awaited_bytes = 0
        """Bytes of the names and step ids of what the handler waits for."""
        self._step_ids = StepIds(self._operations)
        self._main: asyncio.Task[Any] | None = None
        self._cancelled = False
        self.cancel_reason: str | None = None
        self._refusals: int | None = None
        self._turns_before = self._asked_before = 0
        """Number of turns at the last event."""
        self.outcome: Outcome | None = None
        """Outcome of the handler; `None` while it goes on."""

    # What the driver does.

    def start(self, handler: Callable[[], Awaitable[Any]]) -> None:
        """Set the handler up; `run` makes it go."""

        async def main() -> Any:
            return await handler()

        self._main = self.loop.create_task(main(), context=copy_context())

    def run(self, until_s: float = math.inf) -> bool:
        """Run the handler until every branch is blocked.

        Args:
            until_s: Stop at this moment (of `time.perf_counter`), to be called again.

        Returns:
            Whether every branch is blocked, or the handler has ended, and there is time left. Without time left, when
            nothing had to be done for that.
        """
        if self.outcome is not None or not self.loop.ready:
            return True
        turns = self.loop.turns
        if not self.loop.run_until_blocked(_MOST_TURNS, until_s):
            if self._turns_left() > 0:
                return False
            self.outcome = Errored(error_of_circles(self.loop.turns - self._turns_before, self.loop.living_tasks()))
        elif self._main is not None and self._main.done():
            self.outcome = self._find_outcome(self._main)
        return time.perf_counter() < until_s or self.loop.turns == turns

    def _turns_left(self) -> int:
        # A handler that starts 100,000 operations at once takes that many turns, and still makes progress.
        asked = len(self._operations) - self._asked_before
        return _MOST_TURNS + 4 * asked - (self.loop.turns - self._turns_before)

    def take_new(self) -> list[Operation]:
        """Return the operations that the handler asked for since the last call, in that order."""
        unseen, self.unseen = self.unseen, []
        return unseen

    def apply(self, event: Recorded) -> None:
        """Apply an event. `run` must follow.

        Raises:
            NonDeterminismError: The handler has not asked for what the event records, or has given it up.
        """
        self.ledger.moment += 1
        self._turns_before, self._asked_before = self.loop.turns, len(self._operations)
        kind = event.kind
        if kind is EventKind.STEP_COMPLETED:  # most events are
            self._apply_value(self._find(event), event)
        elif kind is EventKind.CANCEL_REQUESTED:
            self._cancel(event)
        elif kind is EventKind.RETRY_REQUESTED:
            self._end_backoffs()
        elif kind is EventKind.RUN_RETRIED or kind is EventKind.RUN_FORKED:
            self._doubt_timers()
        elif (apply := _APPLY.get(kind)) is not None:
            apply(self, self._find(event), event)

    def undo(self, event: Recorded) -> None:
        """Take note of a failure that counts no more: its operation stays pending. `run` need not follow.

        Raises:
            NonDeterminismError: As `apply`.
        """
        if event.kind is not EventKind.CANCEL_REQUESTED:
            self._find(event).begin_anew()

    def suspend(self) -> None:
        """Take the handler down where it waits. Its durable calls do nothing from now on."""
        self._refusals = 0
        for operation in self._operations.values():
            if operation.pending:
                operation.future.set_exception(Suspended())
        self.loop.run_until_blocked(max_callbacks=_TEARDOWN_CALLBACKS)
        # The rest waits for another branch (a queue, an event). End it now, not when it is garbage-collected.
        self.loop.cancel_tasks()
        self.loop.run_until_blocked(max_callbacks=_TEARDOWN_CALLBACKS)
        self.loop.close()
        self.calls.close()

    def _find_outcome(self, main: asyncio.Task[Any]) -> Outcome:
        if main.cancelled():
            return Aborted() if self._cancelled else Errored(asyncio.CancelledError("the handler cancelled itself"))
        error, leftovers = main.exception(), self._leftovers()
        if error is None:
            return Finished(main.result()) if leftovers is None else Errored(leftovers)
        if leftovers is not None:
            with suppress(BaseException):  # a user's exception class may raise from any method
                error.add_note(str(leftovers))
        return Errored(with_advice(error))

    def _leftovers(self) -> ConfigurationError | None:
        """Return the error of a handler that returned too early. Whatever was cancelled has had its turn by now."""
        forgotten, failures, living = self.calls.forgotten(), self.loop.unseen_failures(), self.loop.living_tasks()
        if not (forgotten or failures or living):
            return None
        waiting = {op.future: f"{op.kind} {op.step_id!r}" for op in self._operations.values() if op.pending}
        others = [still_going_on(task, _waits_for(task, waiting)) for task in living]
        error = error_of_leftovers(forgotten, [*others, *map(unseen_failure, failures)])
        error.__cause__ = failures[0] if failures else None
        return error

    def restart(self) -> None:
        """Take the handler down and forget it, to start it again from the top."""
        self.suspend()
        self._begin()

    # What the context does on behalf of the handler.

    def request(
        self,
        kind: OperationKind,
        id: str | None,
        default: str,
        *,
        name: str = "",
        value: JsonText | None = None,
        step: StepCall | None = None,
        until: Callable[[int], int] | None = None,
    ) -> asyncio.Future[Any]:
        """Register what the handler asks for; the future is resolved by an event.

        Args:
            kind: What it asks for.
            id: The step id, if the handler gave one.
            default: What the step id is made of otherwise.
            name: See `Operation`, as for the rest.
            value: What to record.
            step: What to run.
            until: How to find the deadline.

        Raises:
            Suspended: The handler is being taken down.
            ConfigurationError: Something else than the handler asks, or the handler's time is over.
            InvalidArgumentError: The explicit id was used before in this run.
            WaitLimitError: The handler waits for too much already.
        """
        future: asyncio.Future[Any] = asyncio.Future(loop=self.loop)
        # Checked first: a handler that catches every error and tries again must not loop for ever.
        if self._refusals is not None:
            return self._refuse(future)
        if not self.loop.is_running():
            raise ConfigurationError(
                "durable operations are for the handler itself: a step or a thread cannot use them"
            )
        step_id = self._step_ids.take(id, default)
        task = asyncio.current_task(self.loop)
        operation = Operation(
            step_id=step_id, kind=kind, future=future, task=task, name=name, value=value, step=step, until=until
        )
        if kind in _AWAITED:
            self._count_wait(operation)
        self.ledger.asked(task)
        self._operations[step_id] = operation
        self.unseen.append(operation)
        return future

    def _count_wait(self, operation: Operation) -> None:
        """Refuse a wait that would make the awaited list longer than a store carries; a replay refuses it as well."""
        size = awaited_bytes(operation.name, operation.step_id)
        total = self._awaited_bytes + size
        if total > MAX_AWAITED_BYTES:
            raise WaitLimitError(operation.step_id, self._waits, total, MAX_AWAITED_BYTES)
        self._awaited_bytes, self._waits = total, self._waits + 1
        # Before the handler learns of the end, however it came about, and at the same moment in each replay.
        operation.future.add_done_callback(partial(self._wait_ended, size))

    def _wait_ended(self, size: int, future: asyncio.Future[Any]) -> None:
        self._awaited_bytes, self._waits = self._awaited_bytes - size, self._waits - 1

    def waits_for(self, step_id: str) -> bool:
        """Return whether the handler waits for an operation."""
        operation = self._operations.get(step_id)
        return operation is not None and operation.pending

    def _refuse(self, future: asyncio.Future[Any]) -> asyncio.Future[Any]:
        self._refusals = (self._refusals or 0) + 1
        # A handler that swallows every error must block in the end, or the drive would never end.
        if self._refusals > _TEARDOWN_REFUSALS:
            return future
        if self.loop.is_running():
            raise Suspended
        raise ConfigurationError(
            f"run {self.run_id!r}: this ctx is over. Its handler has ended, or was taken down when the run was paused "
            "or handed over. Await durable operations in the handler itself, and give no ctx to steps or other tasks"
        )

    def _cancel(self, event: Recorded) -> None:
        self.cancel_reason = event.facts().get("reason")
        self._cancelled = self.ledger.cancelled = True
        if self._main is not None:
            self._main.cancel()

    def _end_backoffs(self) -> None:
        # The timers leave the store in the write that brings the event.
        for operation in self._operations.values():
            if operation.kind is OperationKind.STEP and operation.pending:
                operation.until_ms = None

    def _doubt_timers(self) -> None:
        # The end of the run's former life removed them from the store, and a fork never had them. Whether they
        # were set again, the log does not say.
        for operation in self._operations.values():
            if operation.pending and operation.until_ms is not None:
                operation.timer_set_ms = UNKNOWN_TIMER

    def _fail(self, operation: Operation, error: Exception) -> None:
        self.ledger.failed(operation.step_id, operation.task, self.loop.tasks_made)
        operation.future.set_exception(error)

    def _find(self, event: Recorded) -> Operation:
        operation = self._operations.get(event.step_id)
        if operation is None or operation.kind is not OPERATION_OF[event.kind] or operation.future.done():
            recorded = f"{OPERATION_OF[event.kind]} {event.step_id!r} ({event.kind})"
            raise NonDeterminismError(self.run_id, event.step_id, recorded, self._called(event, operation))
        return operation

    def _called(self, event: Recorded, operation: Operation | None) -> str:
        """Describe what the handler called, where it does not wait for what the log records."""
        if operation is not None:
            called = f"{operation.kind} {operation.step_id!r}"
            fits = operation.kind is OPERATION_OF[event.kind]
            return f"{called}, but does not wait for it any more" if fits else called
        if self._main is not None and self._main.done():
            return "nothing of that id: the handler has ended"
        pending = [f"{op.kind} {op.step_id!r}" for op in self._operations.values() if op.pending]
        return "nothing of that id, but " + (", ".join(pending[:5]) or "nothing durable at all")

    def _apply_value(self, operation: Operation, event: Recorded) -> None:
        operation.future.set_result(event.payload)
        operation.task = operation.step = None  # a run may have 100,000 steps, each with its arguments

    def _apply_nothing(self, operation: Operation, event: Recorded) -> None:
        operation.future.set_result(None)

    def _apply_retry(self, operation: Operation, event: Recorded) -> None:
        facts = event.facts()
        operation.failed_attempts = facts["attempt"]
        operation.until_ms = operation.timer_set_ms = facts["retry_at_ms"]

    def _apply_step_failure(self, operation: Operation, event: Recorded) -> None:
        facts = event.facts()
        failure = read_failure(facts)
        error = StepFailedError(operation.step_id, failure.error_type, failure.message, facts["attempts"], failure)
        self._fail(operation, error)

    def _apply_start(self, operation: Operation, event: Recorded) -> None:
        facts = event.facts()
        if facts.get("name", "") != operation.name:
            recorded = f"{operation.kind} for {facts.get('name')!r}"
            called = f"{operation.kind} for {operation.name!r}"
            raise NonDeterminismError(self.run_id, operation.step_id, recorded, called)
        operation.started = True
        operation.until_ms = operation.timer_set_ms = facts.get("until_ms")

    def _apply_timeout(self, operation: Operation, event: Recorded) -> None:
        self._fail(operation, WaitTimeoutError(operation.step_id))


def _waits_for(task: asyncio.Task[Any], operations: Mapping[asyncio.Future[Any], str]) -> list[str]:
    waits_for: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
    return [operations[waits_for]] if waits_for is not None and waits_for in operations else []


_AWAITED = frozenset({OperationKind.WAIT, OperationKind.APPROVAL})
_MOST_TURNS = 1_000_000
"""Number of turns without an event after which a handler counts as going round in circles."""
_TEARDOWN_CALLBACKS = 100_000
_TEARDOWN_REFUSALS = 1_000

_APPLY: dict[EventKind, Callable[[Machine, Operation, Recorded], None]] = {
    EventKind.STEP_COMPLETED: Machine._apply_value,  # noqa: SLF001
    EventKind.STEP_RETRYING: Machine._apply_retry,  # noqa: SLF001
    EventKind.STEP_FAILED: Machine._apply_step_failure,  # noqa: SLF001
    EventKind.SLEEP_STARTED: Machine._apply_start,  # noqa: SLF001
    EventKind.SLEEP_ENDED: Machine._apply_nothing,  # noqa: SLF001
    EventKind.WAIT_STARTED: Machine._apply_start,  # noqa: SLF001
    EventKind.SIGNAL_RECEIVED: Machine._apply_value,  # noqa: SLF001
    EventKind.WAIT_TIMED_OUT: Machine._apply_timeout,  # noqa: SLF001
    EventKind.APPROVAL_REQUESTED: Machine._apply_start,  # noqa: SLF001
    EventKind.APPROVAL_RECEIVED: Machine._apply_value,  # noqa: SLF001
    EventKind.APPROVAL_TIMED_OUT: Machine._apply_timeout,  # noqa: SLF001
    EventKind.VALUE_RECORDED: Machine._apply_value,  # noqa: SLF001
    EventKind.EMITTED: Machine._apply_nothing,  # noqa: SLF001
}
