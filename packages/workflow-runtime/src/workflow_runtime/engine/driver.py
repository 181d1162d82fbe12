"""Drives one claimed run: replays it, runs its steps, writes what happened, and lets it go."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar

from ..clock import Clock
from ..errors import (
    ConfigurationError,
    CorruptRecordError,
    LeaseLostError,
    NonDeterminismError,
    PayloadTooLargeError,
)
from ..payloads import JsonText, PayloadCodec, encode_json
from ..store import Awaited, ClaimedRun, Event, InboxEntry, RunStatus, WorkflowExecutionStore
from .context import Context
from .definition import Workflow
from .history import EventKind, OperationKind, Recorded, describe_error, emitted_payload, from_event, run_event
from .inbox import Inbox
from .machine import Aborted, Errored, Finished, Machine
from .operations import Operation
from .pending import PendingUnit, TimerBook
from .step_tasks import EndedAttempt, StepTasks
from .steps import make_step_info, run_attempt
from .writer import RunWriter

__all__ = ["DriveOutcome", "Driver", "DriverSettings"]

T = TypeVar("T")
logger = logging.getLogger("workflow_runtime")

_REPLAY_CHUNK = 200
"""Events applied before other tasks of the application get a turn."""
_PAGE = 1_000
_CLEANUP_GRACE_S = 5.0
"""How long cancelled steps may take to clean up before the driver stops waiting for them."""


class DriveOutcome(StrEnum):
    """How a drive ended."""

    FINISHED = "finished"
    ERRORED = "errored"
    ABORTED = "aborted"
    PAUSED = "paused"
    QUEUED = "queued"
    """Paused, but something arrived meanwhile: it is claimable at once."""
    RELEASED = "released"
    """Handed over, because the worker stops."""
    LOST = "lost"
    """Another worker has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSettings:
    """What all drivers of a runtime share."""

    store: WorkflowExecutionStore
    clock: Clock
    codec: PayloadCodec
    lease_ms: int
    rng: random.Random


class Driver:
    """Drives one run until it ends, pauses, or must be let go. Used once."""

    def __init__(self, *, settings: DriverSettings, claim: ClaimedRun, workflow: Workflow[Any, Any]) -> None:
        self._settings = settings
        self._store = settings.store
        self._clock = settings.clock
        self._max_payload_bytes = settings.store.capabilities.max_payload_bytes
        self._claim = claim
        self._workflow = workflow
        self._wake = asyncio.Event()
        self._writer = RunWriter(
            store=settings.store,
            claim=claim,
            clock=settings.clock,
            lease_ms=settings.lease_ms,
            on_news=self._wake.set,
        )
        self._machine = Machine(claim.run.run_id)
        self._unit = PendingUnit()
        self._timers = TimerBook()
        self._inbox = Inbox()
        self._fresh: deque[Operation] = deque()
        self._steps = StepTasks(run=self._run_attempt, on_change=self._wake.set)
        self._stopping = False
        self._nudged = False

    @property
    def run_id(self) -> str:
        """Which run."""
        return self._writer.run_id

    def stop(self, *, cancel_steps: bool = False) -> None:
        """Ask to hand the run over: no new step starts.

        Args:
            cancel_steps: Cancel the steps that are running instead of waiting for them; they run again elsewhere.
        """
        self._stopping = True
        if cancel_steps:
            self._steps.cancel()
        self._wake.set()

    def nudge(self) -> None:
        """Look at the inbox now: something may have been delivered."""
        self._nudged = True
        self._wake.set()

    async def drive(self) -> DriveOutcome:
        """Drive the run.

        Raises:
            StoreError: The store is away for longer than a write waits, or the run cannot be read. The lease runs
                out, and another worker takes the run.
        """
        heartbeat = asyncio.create_task(self._writer.keep_alive())
        try:
            return await self._drive()
        except LeaseLostError:
            return DriveOutcome.LOST
        finally:
            try:
                await self._stop_tasks(heartbeat)
            finally:
                await self._in_callback(self._machine.suspend)

    async def _drive(self) -> DriveOutcome:
        try:
            await self._replay()
        except NonDeterminismError as error:
            return await self._end_with_error(error)
        while True:
            await self._in_callback(self._settle)
            self._steps.cancel_abandoned()
            if self._steps.fatal is not None:
                raise self._steps.fatal
            if self._writer.lost:
                return DriveOutcome.LOST
            if self._unit.full:
                await self._flush()
                await self._read_news()
            elif self._machine.outcome is not None:
                return await self._end()
            elif self._steps.ended:
                continue  # a step ended after the settling: it may have woken the handler
            elif not self._steps.running and not self._steps.has_runnable:
                return await (self._pause() if self._can_be_woken() else self._end_with_error(_deadlock()))
            elif not self._steps.running and self._stopping:
                return await self._release()
            else:
                await self._run_steps()

    def _can_be_woken(self) -> bool:
        return bool(self._inbox.waiting()) or self._timers.next_due() is not None

    # Replaying.

    async def _replay(self) -> None:
        run = self._claim.run
        context = Context(
            machine=self._machine,
            run_id=run.run_id,
            codec=self._settings.codec,
            retry=self._workflow.retry,
            max_payload_bytes=self._max_payload_bytes,
            now_ms=self._clock.now_ms,
        )

        async def handler() -> Any:
            return await self._workflow.handler(context, self._settings.codec.decode(run.input))

        def start() -> None:
            self._machine.start(handler)
            self._machine.run()

        await self._in_callback(start)
        await self._replay_history()
        self._inbox.add(self._claim.inbox)
        if self._claim.inbox and self._inbox.seen_seq < run.inbox_seq:
            await self._read_inbox()  # the claim brought the first page only
        self._inbox.seen_seq = max(self._inbox.seen_seq, run.inbox_seq)

    async def _replay_history(self) -> None:
        page, applied = self._claim.history, 0
        while True:
            for start in range(0, len(page), _REPLAY_CHUNK):
                chunk = page[start : start + _REPLAY_CHUNK]
                await self._in_callback(lambda chunk=chunk: self._apply_recorded(chunk))  # type: ignore[misc]  # mypy cannot infer a default's type
            applied += len(page)
            if applied >= self._writer.next_index:
                return
            page = await self._store.read_events(run_id=self.run_id, from_index=applied, limit=_PAGE)
            if not page:
                problem = f"the log ends at {applied}, the head says {self._writer.next_index}"
                raise CorruptRecordError("events", self.run_id, problem)

    def _apply_recorded(self, events: tuple[Event, ...]) -> None:
        for event in events:
            recorded = from_event(self.run_id, event)
            self._apply(recorded, event.index)
            self._machine.run()

    def _apply(self, recorded: Recorded, index: int) -> None:
        try:
            self._machine.apply(recorded)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problem = f"the payload of {recorded.kind} cannot be read: {error!r}"
            raise CorruptRecordError("events", f"{self.run_id}/{index}", problem) from error

    async def _read_inbox(self) -> None:
        known = self._writer.inbox_seq
        while True:
            entries = await self._store.read_inbox(run_id=self.run_id, after_seq=self._inbox.seen_seq, limit=_PAGE)
            self._inbox.add(entries)
            if not entries:
                break
        # Numbers that were not brought are taken already.
        self._inbox.seen_seq = max(self._inbox.seen_seq, known)

    # Settling: everything that can be decided without waiting. Runs in a callback, without I/O.

    def _settle(self) -> None:
        self._machine.run()
        while not self._unit.full and self._machine.outcome is None and self._advance():
            self._machine.run()

    def _advance(self) -> bool:
        """Let the next thing that has happened take effect; tell whether there was one."""
        if self._take_cancel():
            return True
        self._fresh.extend(self._machine.take_new())
        while self._fresh:
            operation = self._fresh.popleft()
            if operation.pending and self._begin(operation):
                return True
        return self._take_attempt() or self._take_inbox() or self._take_due()

    def _begin(self, operation: Operation) -> bool:
        """Begin an operation that the handler asked for; tell whether that resolved it."""
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
                self._timers.watch(operation)
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
        self._timers.watch(operation)
        if operation.kind is not OperationKind.SLEEP:
            self._inbox.wait(operation)

    def _take_cancel(self) -> bool:
        entry = self._inbox.take_cancel()
        if entry is None:
            return False
        recorded = Recorded(EventKind.CANCEL_REQUESTED, "", entry.payload)
        self._unit.add(recorded, taken=entry.inbox_seq)
        self._machine.apply(recorded)
        return True

    def _take_attempt(self) -> bool:
        while self._steps.ended:
            ended = self._steps.ended.popleft()
            if ended.operation.pending:
                self._record_attempt(ended)
                return True
        return False

    def _record_attempt(self, ended: EndedAttempt) -> None:
        operation, result = ended.operation, ended.result
        if isinstance(result, str):
            self._record(EventKind.STEP_COMPLETED, operation, result)
            return
        delay, error = self._delay_after(ended, result)
        if delay is None:
            self._record(EventKind.STEP_FAILED, operation, describe_error(error, attempts=ended.attempt))
            return
        retry_at_ms = self._clock.now_ms() + round(delay.total_seconds() * 1000)
        payload = describe_error(error, attempt=ended.attempt, retry_at_ms=retry_at_ms)
        self._record(EventKind.STEP_RETRYING, operation, payload)
        operation.timer_set_ms = None
        self._timers.watch(operation)
        self._steps.add(operation)

    def _delay_after(self, ended: EndedAttempt, error: Exception) -> tuple[timedelta | None, Exception]:
        assert ended.operation.step is not None
        try:
            return ended.operation.step.retry.delay_after(ended.attempt, error, self._settings.rng), error
        except Exception as broken:  # a policy's functions are the user's code
            what = f"the retry policy raised {type(broken).__qualname__} about {type(error).__qualname__}"
            logger.exception("run %s, step %r: %s", self.run_id, ended.operation.step_id, what)
            return None, ConfigurationError(what)

    def _take_inbox(self) -> bool:
        match = self._inbox.take_match()
        if match is None:
            return False
        entry, operation = match
        kind = EventKind.SIGNAL_RECEIVED if entry.kind == "signal" else EventKind.APPROVAL_RECEIVED
        self._record(kind, operation, entry.payload, taken=entry)
        return True

    def _take_due(self) -> bool:
        while (operation := self._timers.next_due()) is not None:
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
        # The handler may see it before it is durable: nothing outside it happens until the unit is written.
        recorded = Recorded(kind, operation.step_id, payload)
        self._unit.add(recorded, taken=None if taken is None else taken.inbox_seq)
        self._machine.apply(recorded)

    # Steps.

    async def _run_steps(self) -> None:
        await self._flush()  # nothing runs before its cause is durable
        if not self._stopping:
            self._steps.start()
        await self._wait()

    def _run_attempt(self, operation: Operation, attempt: int) -> Awaitable[JsonText]:
        assert operation.step is not None
        run = self._claim.run
        info = make_step_info(run.run_id, run.created_at_ms, operation.step_id, attempt)
        return run_attempt(operation.step, info, self._settings.codec, self._max_payload_bytes)

    async def _stop_tasks(self, heartbeat: asyncio.Task[None]) -> None:
        heartbeat.cancel()
        self._steps.cancel()
        _, left = await asyncio.wait([heartbeat, *self._steps.running], timeout=_CLEANUP_GRACE_S)
        if left:
            logger.warning("run %s: %d cancelled steps are still cleaning up", self.run_id, len(left))

    # Writing and waiting.

    async def _flush(self) -> None:
        to_set, to_remove = self._timers.changes()
        if not self._unit.events and not to_set and not to_remove:
            return
        await self._writer.append(
            events=tuple(self._unit.events),
            taken_inbox=tuple(self._unit.taken_inbox),
            set_timers=to_set,
            removed_timers=to_remove,
        )
        self._unit.clear()
        self._timers.written()

    async def _wait(self) -> None:
        """Wait for a step to end, a timer, news from outside, or a request to stop."""
        if not self._has_news():
            due = self._timers.next_due()
            await self._clock.wait(self._wake, None if due is None else due.until_ms)
        self._wake.clear()
        await self._read_news()

    async def _read_news(self) -> None:
        if self._has_news() and not self._writer.lost:
            self._nudged = False
            await self._read_inbox()

    def _has_news(self) -> bool:
        return self._nudged or self._writer.inbox_seq > self._inbox.seen_seq

    async def _pause(self) -> DriveOutcome:
        to_set, to_remove = self._timers.changes()
        paused = await self._writer.pause(
            seen_inbox_seq=self._inbox.seen_seq,
            events=tuple(self._unit.events),
            taken_inbox=tuple(self._unit.taken_inbox),
            set_timers=to_set,
            removed_timers=to_remove,
            awaited=[_awaited(operation) for operation in self._inbox.waiting()],
        )
        return DriveOutcome.PAUSED if paused.status is RunStatus.PAUSED else DriveOutcome.QUEUED

    async def _release(self) -> DriveOutcome:
        await self._flush()
        await self._writer.release()
        return DriveOutcome.RELEASED

    async def _end(self) -> DriveOutcome:
        match self._machine.outcome:
            case Finished(output):
                try:
                    text = self._settings.codec.encode(output, "output")
                    if len(text) > self._max_payload_bytes:
                        raise PayloadTooLargeError("output", len(text), self._max_payload_bytes)
                except Exception as error:  # noqa: BLE001  # a codec is the user's code
                    return await self._end_with_error(error)
                events = (*self._unit.events, run_event(EventKind.RUN_FINISHED))
                await self._writer.finish(output=text, events=events, taken_inbox=tuple(self._unit.taken_inbox))
                return DriveOutcome.FINISHED
            case Errored(error):
                return await self._end_with_error(error)
            case Aborted() | None:
                payload = encode_json({"reason": self._machine.cancel_reason})
                await self._write_error(payload, EventKind.RUN_ABORTED, aborted=True)
                return DriveOutcome.ABORTED

    async def _end_with_error(self, error: BaseException) -> DriveOutcome:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        logger.error("run %s of %r errored", self.run_id, self._workflow.id, exc_info=error)
        await self._write_error(describe_error(error), EventKind.RUN_ERRORED, aborted=False)
        return DriveOutcome.ERRORED

    async def _write_error(self, error: JsonText, kind: EventKind, *, aborted: bool) -> None:
        await self._writer.error(
            error=error,
            events=(*self._unit.events, run_event(kind, error)),
            taken_inbox=tuple(self._unit.taken_inbox),
            aborted=aborted,
            reason=self._machine.cancel_reason if aborted else None,
        )

    async def _in_callback(self, function: Callable[[], T]) -> T:
        """Run something of the handler's loop in a plain callback (see `WorkflowLoop.run_until_blocked`)."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            try:
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
        "nothing could ever wake it"
    )
