"""Settling: everything that a driver can decide without waiting, as events that take effect in memory."""

from __future__ import annotations

import random
from collections import deque
from datetime import timedelta
from typing import Any

from ..clock import Clock
from ..errors import ConfigurationError
from ..escapes import exc_info_of, is_interrupt, name_of, text_of
from ..failures import failure_of, write_failure
from ..logs import get_logger, one_line
from ..payloads import JsonText, encode_json
from ..store import InboxEntry
from .history import EventKind, OperationKind, Recorded, emitted_payload
from .inbox import Inbox
from .log_draft import LogDraft
from .machine import Machine
from .operations import Operation
from .step_attempts import did_not_fit
from .step_tasks import EndedAttempt, StepTasks

__all__ = ["Settler"]

logger = get_logger("workflow_runtime")


class Settler:
    """The part of a driver that decides. It feeds the handler one event at a time, and adds each of them to the draft.

    Everything but the constructor must be called through a drive's `HandlerTurns`.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        draft: LogDraft,
        inbox: Inbox,
        steps: StepTasks,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._machine = machine
        self._draft = draft
        self._inbox = inbox
        self._steps = steps
        self._clock = clock
        self._rng = rng
        self._fresh: deque[Operation] = deque()
        self.retried: int = 0
        """Number of failed attempts that are repeated."""

    def settle(self, only_attempts: bool, until_s: float) -> bool:
        """Apply everything that has happened, until the handler waits or the draft is full.

        Args:
            only_attempts: Record what steps have done, and begin nothing that the handler asks for.
            until_s: Stop at this moment (of `time.perf_counter`), to be called again.

        Returns:
            Whether all of it has taken effect.
        """
        advance = self._take_attempt if only_attempts else self._advance
        while self._machine.run(until_s):
            if self._draft.full or self._machine.outcome is not None or not advance():
                return True
        return False

    def record_done(self) -> bool:
        """Add what steps have done, though the handler has ended: a retry of the run must not do it again.

        Returns:
            Whether the draft has to be written, because there is more than it takes.
        """
        ended = self._steps.ended
        while ended and not self._draft.full:
            attempt = ended.popleft()
            if attempt.error is not None:
                self._log_unrecorded(attempt, attempt.error, "the run has ended")
            elif attempt.operation.pending:
                self._draft.add(Recorded(EventKind.STEP_COMPLETED, attempt.operation.step_id, attempt.result))
        return bool(ended)

    def drop_ended(self) -> None:
        """Log the failures that this drive cannot record any more. May be called from anywhere on the loop's thread."""
        ended = self._steps.ended
        while ended:
            attempt = ended.popleft()
            if attempt.error is not None:
                self._log_unrecorded(attempt, attempt.error, "the drive is over")

    def _advance(self) -> bool:
        """Apply the next thing that has happened. Return whether there was one."""
        if self._inbox.cancel is not None:
            self._take_cancel(self._inbox.cancel)
            return True
        if self._machine.unseen:
            self._fresh.extend(self._machine.take_new())
        while self._fresh:
            # Starting a wait resolves nothing, so a handler may start any number at once.
            if self._draft.full:
                return False
            operation = self._fresh.popleft()
            if not operation.future.done() and self._begin(operation):
                return True
        if self._steps.ended and self._take_attempt():
            return True
        if self._inbox.idle and not self._draft.timers.has_deadlines:  # as in most steps
            return False
        return self._take_retry() or self._take_inbox() or self._take_due()

    def _begin(self, operation: Operation) -> bool:
        """Begin an operation that the handler asked for. Return whether that resolved it."""
        match operation.kind:
            case OperationKind.VALUE:
                self._record(EventKind.VALUE_RECORDED, operation, operation.value)
                return True
            case OperationKind.EMIT:
                payload = emitted_payload(operation.name, operation.value or JsonText("null"))
                self._record(EventKind.EMITTED, operation, payload)
                return True
            case OperationKind.STEP:
                self._steps.add(operation)
                self._draft.timers.watch(operation)
            case OperationKind.SLEEP | OperationKind.WAIT | OperationKind.APPROVAL:
                self._begin_wait(operation)
        return False

    def _begin_wait(self, operation: Operation) -> None:
        if not operation.started:
            until_ms = operation.until(self._clock.now_ms()) if operation.until is not None else None
            facts = (
                {"until_ms": until_ms} if operation.kind is OperationKind.SLEEP else _wait_facts(operation, until_ms)
            )
            self._record(_STARTED[operation.kind], operation, encode_json(facts))
            operation.timer_set_ms = None  # applied as in a replay; the store does not hold it yet
        self._draft.timers.watch(operation)
        if operation.kind is not OperationKind.SLEEP:
            self._inbox.wait(operation)

    def _take_cancel(self, entry: InboxEntry) -> None:
        self._inbox.cancel = None
        recorded = Recorded(EventKind.CANCEL_REQUESTED, "", entry.payload)
        self._draft.add(recorded, taken=entry.inbox_seq)
        self._machine.apply(recorded)

    def _take_retry(self) -> bool:
        entry = self._inbox.take_retry()
        if entry is None:
            return False
        recorded = Recorded(EventKind.RETRY_REQUESTED, "", None)
        self._draft.add(recorded, taken=entry.inbox_seq)
        self._machine.apply(recorded)
        return True

    def _take_attempt(self) -> bool:
        while self._steps.ended:
            ended = self._steps.ended.popleft()
            if not ended.operation.future.done():
                self._record_attempt(ended)
                return True
            if ended.error is not None:
                self._log_unrecorded(ended, ended.error, "the handler waits for the step no more")
        return False

    def _record_attempt(self, ended: EndedAttempt) -> None:
        operation = ended.operation
        if ended.error is None:
            self._record(EventKind.STEP_COMPLETED, operation, ended.result)
            return
        delay, error = self._delay_after(ended, ended.error)
        follows = "and with it the step" if delay is None else f"the next one follows after {delay}"
        self._log(ended, error, follows)
        failure = failure_of(error)
        if delay is None:
            self._record(EventKind.STEP_FAILED, operation, write_failure(failure, attempts=ended.attempt))
            return
        retry_at_ms = self._clock.now_ms() + round(delay.total_seconds() * 1000)
        self.retried += 1
        payload = write_failure(failure, attempt=ended.attempt, retry_at_ms=retry_at_ms)
        self._record(EventKind.STEP_RETRYING, operation, payload)
        operation.timer_set_ms = None
        self._draft.timers.watch(operation)
        self._steps.add(operation)

    def _log_unrecorded(self, ended: EndedAttempt, error: BaseException, why: str) -> None:
        self._log(ended, error, f"and is not recorded: {why}")

    def _log(self, ended: EndedAttempt, error: BaseException, what_follows: str) -> None:
        logger.warning(
            "run %r, step %r: attempt %d failed, %s",
            self._machine.run_id,
            ended.operation.step_id,
            ended.attempt,
            one_line(what_follows),
            exc_info=exc_info_of(error),
        )

    def _delay_after(self, ended: EndedAttempt, error: BaseException) -> tuple[timedelta | None, BaseException]:
        assert ended.operation.step is not None
        if did_not_fit(ended.operation.step, error):
            return None, error
        try:
            return ended.operation.step.retry.delay_after(ended.attempt, error, self._rng), error
        except BaseException as broken:  # a policy's functions are the user's code
            if is_interrupt(broken):
                raise
            what = f"the retry policy raised {name_of(broken)} about {name_of(error)}: {text_of(broken)}"
            told = ConfigurationError(what)
            told.__cause__, broken.__context__ = broken, error
            return None, told

    def _take_inbox(self) -> bool:
        match = self._inbox.take_match()
        if match is None:
            return False
        entry, operation = match
        kind = EventKind.SIGNAL_RECEIVED if entry.kind == "signal" else EventKind.APPROVAL_RECEIVED
        self._record(kind, operation, entry.payload, taken=entry)
        return True

    def _take_due(self) -> bool:
        while (operation := self._draft.timers.next_due()) is not None:
            if operation.until_ms is None or operation.until_ms > self._clock.now_ms():
                return False
            if operation.kind is not OperationKind.STEP:
                self._record(_TIMED_OUT[operation.kind], operation, None)
                return True
            operation.until_ms = None  # the pause before the next attempt is over
        return False

    def _record(
        self, kind: EventKind, operation: Operation, payload: JsonText | None, taken: InboxEntry | None = None
    ) -> None:
        # The handler may see it before it is durable: nothing outside it happens until the draft is written.
        recorded = Recorded(kind, operation.step_id, payload)
        self._draft.add(recorded, taken=None if taken is None else taken.inbox_seq)
        self._machine.apply(recorded)


_STARTED = {
    OperationKind.SLEEP: EventKind.SLEEP_STARTED,
    OperationKind.WAIT: EventKind.WAIT_STARTED,
    OperationKind.APPROVAL: EventKind.APPROVAL_REQUESTED,
}
_TIMED_OUT = {
    OperationKind.SLEEP: EventKind.SLEEP_ENDED,
    OperationKind.WAIT: EventKind.WAIT_TIMED_OUT,
    OperationKind.APPROVAL: EventKind.APPROVAL_TIMED_OUT,
}


def _wait_facts(operation: Operation, until_ms: int | None) -> dict[str, Any]:
    return {"name": operation.name, "until_ms": until_ms}
