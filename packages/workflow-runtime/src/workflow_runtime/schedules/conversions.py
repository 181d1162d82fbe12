"""The way of a schedule from what an application declares to what a store keeps, and back.

There: a declared `Schedule` has a `Spec` (`spec_of`), which is written as JSON (`encode_spec`) and stored together with
the rest of the definition (`definition_to_store`). Back: a stored schedule holds a definition (`definition_in`), whose
JSON is read as a `Spec` (`spec_in`), from which comes the `Schedule` that was declared (`declared_in`).

The JSON has a version number and is read strictly.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, TypedDict, get_args

from ..clock import from_ms, to_ms
from ..engine.definition import Registry
from ..errors import CorruptRecordError, InvalidArgumentError
from ..payloads import ExactCodec, JsonText, decode_json, encode_json
from ..store import OverlapPolicy
from ..store import Schedule as StoredSchedule
from .cron import Cron
from .definition import MAX_MISSED, MissedPolicy, Schedule
from .every import Every, whole_ms
from .spec import Spec

__all__ = [
    "StoredDefinition",
    "declared_in",
    "definition_in",
    "definition_to_store",
    "encode_spec",
    "moment",
    "spec_in",
    "spec_of",
]

_VERSION = 1
_KEYS = {
    "version",
    "when",
    "missed",
    "missed_limit",
    "grace_ms",
    "jitter_ms",
    "starts_at_ms",
    "ends_at_ms",
}


class StoredDefinition(TypedDict):
    """The part of a stored schedule that was declared, as `upsert_schedule` takes it."""

    schedule_id: str
    workflow_id: str
    workflow_version: str
    spec: JsonText
    input: JsonText
    overlap_policy: OverlapPolicy
    queue: str
    priority: int


# From the application to the store.


def spec_of(declared: Schedule[Any]) -> Spec:
    """Return the timing of a declared schedule."""
    return Spec(
        when=declared.when,
        missed=declared.missed,
        missed_limit=declared.missed_limit,
        grace_ms=whole_ms("grace", declared.grace),
        jitter_ms=whole_ms("jitter", declared.jitter),
        starts_at_ms=_ms("starts_at", declared.starts_at),
        ends_at_ms=_ms("ends_at", declared.ends_at),
    )


def encode_spec(spec: Spec) -> JsonText:
    """Return a timing as JSON; equal ones give equal texts."""
    return encode_json(
        {
            "version": _VERSION,
            "when": _encode_when(spec.when),
            "missed": spec.missed,
            "missed_limit": spec.missed_limit,
            "grace_ms": spec.grace_ms,
            "jitter_ms": spec.jitter_ms,
            "starts_at_ms": spec.starts_at_ms,
            "ends_at_ms": spec.ends_at_ms,
        },
        "spec",
    )


def definition_to_store(declared: Schedule[Any], registry: Registry, codec: ExactCodec) -> StoredDefinition:
    """Return what a store keeps of a declared schedule.

    Raises:
        UnknownWorkflowError: The registry does not know the workflow.
        InvalidPayloadError: The input cannot be carried.
    """
    workflow = registry.current(declared.workflow)
    return {
        "schedule_id": declared.id,
        "workflow_id": workflow.id,
        "workflow_version": workflow.version,
        "spec": encode_spec(spec_of(declared)),
        "input": codec.encode(declared.input, "input"),
        "overlap_policy": declared.overlap,
        "queue": declared.queue,
        "priority": declared.priority,
    }


# From the store to the application.


def definition_in(stored: StoredSchedule) -> StoredDefinition:
    """Return the definition that a stored schedule holds."""
    return {
        "schedule_id": stored.schedule_id,
        "workflow_id": stored.workflow_id,
        "workflow_version": stored.workflow_version,
        "spec": stored.spec,
        "input": stored.input,
        "overlap_policy": stored.overlap_policy,
        "queue": stored.queue,
        "priority": stored.priority,
    }


def spec_in(stored: StoredSchedule) -> Spec:
    """Return the timing of a stored schedule.

    Raises:
        CorruptRecordError: It is damaged, a newer version of this package wrote it, or nobody here knows its zone.
    """
    try:
        return _decode_spec(decode_json(stored.spec))
    except (_UnreadableError, InvalidArgumentError, ValueError, OverflowError) as error:
        raise CorruptRecordError("schedules", stored.schedule_id, f"spec: {error}") from error


def declared_in(stored: StoredSchedule, codec: ExactCodec) -> Schedule[Any]:
    """Return the schedule that was declared; its workflow is an id.

    Raises:
        CorruptRecordError: As for `spec_in`.
    """
    spec = spec_in(stored)
    return Schedule(
        id=stored.schedule_id,
        workflow=stored.workflow_id,
        when=spec.when,
        input=codec.decode(stored.input),
        overlap=stored.overlap_policy,
        missed=spec.missed,
        missed_limit=spec.missed_limit,
        grace=timedelta(milliseconds=spec.grace_ms),
        jitter=timedelta(milliseconds=spec.jitter_ms),
        starts_at=moment(spec.starts_at_ms),
        ends_at=moment(spec.ends_at_ms),
        queue=stored.queue,
        priority=stored.priority,
        paused=not stored.enabled,
    )


class _UnreadableError(Exception):
    """Something is not as this version writes it."""


def _decode_spec(facts: Any) -> Spec:
    version = facts.get("version") if isinstance(facts, dict) else None
    if type(version) is int and version > _VERSION:
        raise _UnreadableError(f"version {version} was written by a newer workflow-runtime; this one reads {_VERSION}")
    if type(version) is not int or version != _VERSION or set(facts) != _KEYS:
        raise _UnreadableError("is not what this package writes")
    if facts["missed"] not in get_args(MissedPolicy):
        raise _UnreadableError(f"missed is {facts['missed']!r}")
    spec = Spec(
        when=_decode_when(facts["when"]),
        missed=facts["missed"],
        missed_limit=_integer(facts, "missed_limit"),
        grace_ms=_integer(facts, "grace_ms"),
        jitter_ms=_integer(facts, "jitter_ms"),
        starts_at_ms=_optional_integer(facts, "starts_at_ms"),
        ends_at_ms=_optional_integer(facts, "ends_at_ms"),
    )
    if not 1 <= spec.missed_limit <= MAX_MISSED:
        raise _UnreadableError(f"missed_limit is {spec.missed_limit}")
    return spec


def _encode_when(when: Cron | Every) -> dict[str, Any]:
    if isinstance(when, Cron):
        return {"kind": "cron", "expression": when.expression, "timezone": when.timezone}
    return {
        "kind": "every",
        "interval_ms": whole_ms("interval", when.interval),
        "offset_ms": whole_ms("offset", when.offset),
    }


def _decode_when(facts: Any) -> Cron | Every:
    match facts:
        case {"kind": "cron", "expression": str(expression), "timezone": str(timezone), **rest} if not rest:
            return Cron(expression, timezone)
        case {"kind": "every", "interval_ms": int(), "offset_ms": int(), **rest} if not rest:
            interval, offset = (timedelta(milliseconds=_integer(facts, key)) for key in ("interval_ms", "offset_ms"))
            return Every(interval, offset)
        case _:
            raise _UnreadableError(f"when is {facts!r:.100}")


def _integer(facts: dict[str, Any], key: str) -> int:
    number = facts[key]
    if type(number) is not int or number < 0:
        raise _UnreadableError(f"{key} is {number!r:.100}")
    return number


def _optional_integer(facts: dict[str, Any], key: str) -> int | None:
    if facts[key] is None:
        return None
    number = _integer(facts, key)
    from_ms(number)  # raises OverflowError beyond the calendar
    return number


def _ms(argument: str, moment: datetime | None) -> int | None:
    return None if moment is None else max(0, to_ms(argument, moment))


def moment(at_ms: int | None) -> datetime | None:
    """Return a stored moment that may be absent."""
    return None if at_ms is None else from_ms(at_ms)
