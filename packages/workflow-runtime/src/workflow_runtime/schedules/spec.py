"""What the store keeps of a schedule's timing: written with a version number, read back strictly."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, get_args

from ..clock import from_ms, to_ms
from ..errors import CorruptRecordError, InvalidArgumentError
from ..frozen_value import Value, value
from ..payloads import JsonText, decode_json, encode_json
from .cron import Cron
from .definition import MAX_MISSED, MissedPolicy, Schedule
from .every import Every, whole_ms

__all__ = ["Spec", "decode_spec", "encode_spec", "spec_of"]

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


@value
class Spec(Value):
    """The times at which a schedule fires, and what becomes of a late tick."""

    when: Cron | Every
    missed: MissedPolicy
    missed_limit: int
    grace_ms: int
    jitter_ms: int
    starts_at_ms: int | None
    ends_at_ms: int | None

    def ticks_after(self, after_ms: int) -> Iterator[int]:
        """Yield the ticks after a moment, in order, from the start to the end of the schedule."""
        if self.starts_at_ms is not None:
            after_ms = max(after_ms, self.starts_at_ms - 1)
        for tick_ms in self.when.ticks_after(after_ms):
            if self.ends_at_ms is not None and tick_ms >= self.ends_at_ms:
                return
            yield tick_ms

    def next_after(self, after_ms: int) -> int | None:
        """Return the first tick after a moment."""
        return next(self.ticks_after(after_ms), None)


def spec_of(schedule: Schedule[Any]) -> Spec:
    """Take the timing of a declared schedule."""
    return Spec(
        when=schedule.when,
        missed=schedule.missed,
        missed_limit=schedule.missed_limit,
        grace_ms=whole_ms("grace", schedule.grace),
        jitter_ms=whole_ms("jitter", schedule.jitter),
        starts_at_ms=_ms("starts_at", schedule.starts_at),
        ends_at_ms=_ms("ends_at", schedule.ends_at),
    )


def encode_spec(spec: Spec) -> JsonText:
    """Write it; equal ones give equal texts."""
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


def decode_spec(schedule_id: str, text: JsonText) -> Spec:
    """Read what `encode_spec` wrote.

    Raises:
        CorruptRecordError: It is damaged, a newer version of this package wrote it, or nobody here knows its zone.
    """
    try:
        return _decode(decode_json(text))
    except (_UnreadableError, InvalidArgumentError, ValueError, OverflowError) as error:
        raise CorruptRecordError("schedules", schedule_id, f"spec: {error}") from error


class _UnreadableError(Exception):
    """Something is not as this version writes it."""


def _decode(facts: Any) -> Spec:
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
