"""The events of a run's log: their kinds, and what each carries.

An event is written in one place (here) and read in one place (`machine.py`). The payload of a result is the
user's own JSON text, untouched; everything else is a small JSON object.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, NamedTuple

from ..errors import CorruptRecordError
from ..payloads import JsonText, decode_json
from ..store import Event, NewEvent
from ..store.values import CheckedEvent

__all__ = [
    "FAILURES",
    "OPERATION_OF",
    "EventKind",
    "OperationKind",
    "Recorded",
    "UnknownKindError",
    "emitted_payload",
    "from_event",
    "new_event",
    "run_event",
]


class OperationKind(StrEnum):
    """The durable operations."""

    __hash__ = str.__hash__  # the one of enums is a function in Python, and each step looks kinds up several times

    STEP = "step"
    SLEEP = "sleep"
    WAIT = "wait"
    APPROVAL = "approval"
    VALUE = "value"
    EMIT = "emit"


class EventKind(StrEnum):
    """Everything that a driver writes into a log."""

    __hash__ = str.__hash__  # as above

    STEP_COMPLETED = "step-completed"
    """The result."""
    STEP_RETRYING = "step-retrying"
    """`attempt` that failed, `retry_at_ms`, the error."""
    STEP_FAILED = "step-failed"
    """The error and the number of `attempts`."""
    SLEEP_STARTED = "sleep-started"
    """`until_ms`."""
    SLEEP_ENDED = "sleep-ended"
    WAIT_STARTED = "wait-started"
    """`name` and `until_ms`, which may be null."""
    SIGNAL_RECEIVED = "signal-received"
    """The signal's payload."""
    WAIT_TIMED_OUT = "wait-timed-out"
    APPROVAL_REQUESTED = "approval-requested"
    """`name` and `until_ms`, which may be null."""
    APPROVAL_RECEIVED = "approval-received"
    """The decision."""
    APPROVAL_TIMED_OUT = "approval-timed-out"
    VALUE_RECORDED = "value-recorded"
    """A time, a UUID or a random number."""
    EMITTED = "emitted"
    """`name` and `value`."""
    CANCEL_REQUESTED = "cancel-requested"
    """`reason`."""
    RETRY_REQUESTED = "retry-requested"
    """Somebody wants now what waits for its next attempt."""
    RUN_FINISHED = "run-finished"
    RUN_ERRORED = "run-errored"
    """The error, and what a retry repeats (`retry_repeats`): see `retried_log.py`."""
    RUN_ABORTED = "run-aborted"
    """`reason`."""
    RUN_PARKED = "run-parked"
    """The error that keeps the run from being driven; of a divergence also `step_id`, `recorded` and `called`."""
    RUN_RETRIED = "run-retried"
    """`reason`. Written when somebody retries the run; what stands above it belongs to a former life."""
    RUN_FORKED = "run-forked"
    """`run_id` and `from_index`: what stands above it was taken over from that run."""


OPERATION_OF: dict[EventKind, OperationKind] = {
    EventKind.STEP_COMPLETED: OperationKind.STEP,
    EventKind.STEP_RETRYING: OperationKind.STEP,
    EventKind.STEP_FAILED: OperationKind.STEP,
    EventKind.SLEEP_STARTED: OperationKind.SLEEP,
    EventKind.SLEEP_ENDED: OperationKind.SLEEP,
    EventKind.WAIT_STARTED: OperationKind.WAIT,
    EventKind.SIGNAL_RECEIVED: OperationKind.WAIT,
    EventKind.WAIT_TIMED_OUT: OperationKind.WAIT,
    EventKind.APPROVAL_REQUESTED: OperationKind.APPROVAL,
    EventKind.APPROVAL_RECEIVED: OperationKind.APPROVAL,
    EventKind.APPROVAL_TIMED_OUT: OperationKind.APPROVAL,
    EventKind.VALUE_RECORDED: OperationKind.VALUE,
    EventKind.EMITTED: OperationKind.EMIT,
}


FAILURES = frozenset({EventKind.STEP_FAILED, EventKind.WAIT_TIMED_OUT, EventKind.APPROVAL_TIMED_OUT})
"""Kinds of event that a handler gets as an exception."""


class Recorded(NamedTuple):
    """The part of an event that the machine needs, whether read from the log or about to be written."""

    kind: EventKind
    step_id: str
    payload: JsonText | None

    def facts(self) -> Any:
        """Read the payload of an event that carries a small object of ours."""
        return decode_json(self.payload) if self.payload is not None else {}


class UnknownKindError(CorruptRecordError):
    """An event that this version of the engine does not know. A newer one may: the run is left to others."""


def from_event(run_id: str, event: Event) -> Recorded:
    """Read an event of the log.

    Raises:
        UnknownKindError: This version of the engine does not know its kind.
    """
    kind = _KINDS.get(event.kind)
    if kind is None:
        raise UnknownKindError("events", f"{run_id}/{event.index}", f"unknown kind {event.kind!r}")
    return Recorded(kind, event.step_id or "", event.payload)


def new_event(recorded: Recorded) -> NewEvent:
    """Write an event of an operation."""
    return CheckedEvent(kind=_TEXTS[recorded.kind], step_id=recorded.step_id or None, payload=recorded.payload)


_KINDS = {kind.value: kind for kind in EventKind}
_TEXTS = {kind: kind.value for kind in EventKind}


def run_event(kind: EventKind, payload: JsonText | None = None) -> NewEvent:
    """Write an event of the run as a whole."""
    return CheckedEvent(kind=kind.value, payload=payload)


def emitted_payload(name: str, value: JsonText) -> JsonText:
    """Put the user's text into an object as it is, without decoding it."""
    return JsonText(f'{{"name":{json.dumps(name)},"value":{value}}}')
