"""The decision about a claimed tick, from the schedule, the tick and the present alone."""

from __future__ import annotations

import hashlib
from collections import deque
from datetime import datetime

from ..clock import from_ms
from ..frozen_value import Value, value
from ..ids import MAX_ID_BYTES
from ..store import BucketSource
from .spec import Spec

__all__ = ["Decision", "decide", "first_after", "tick_run_id"]


@value
class Decision(Value):
    """Start a run for the tick or leave it, and when the schedule fires next."""

    start: bool
    next_fire_at_ms: int | None
    """Means something for a due tick only."""
    available_at_ms: int | None
    """The run is not claimable before; the present when absent."""


def decide(*, spec: Spec, schedule_id: str, fire_at_ms: int, source: BucketSource, now_ms: int) -> Decision:
    """Decide about a tick.

    A requested tick and one that was put back are not late, whatever moment they stand for: they were due when they
    were asked for, or in time when they were put back.
    """
    if source == "requested":
        return Decision(start=True, next_fire_at_ms=None, available_at_ms=None)
    available_at_ms = fire_at_ms + _jitter_ms(spec, schedule_id, fire_at_ms)
    available_at = available_at_ms if available_at_ms > now_ms else None
    if source == "buffered":
        return Decision(start=True, next_fire_at_ms=None, available_at_ms=available_at)
    if now_ms - fire_at_ms > spec.grace_ms:
        return _decide_missed(spec, fire_at_ms, now_ms)
    return Decision(start=True, next_fire_at_ms=spec.next_after(fire_at_ms), available_at_ms=available_at)


def _decide_missed(spec: Spec, fire_at_ms: int, now_ms: int) -> Decision:
    in_time_ms = now_ms - spec.grace_ms
    """Ticks before this moment are missed."""
    if spec.missed == "all":
        oldest_ms = _oldest_kept(spec, fire_at_ms, in_time_ms)
        if oldest_ms > fire_at_ms:
            return Decision(start=False, next_fire_at_ms=oldest_ms, available_at_ms=None)
        return Decision(start=True, next_fire_at_ms=spec.next_after(fire_at_ms), available_at_ms=None)
    next_ms = spec.next_after(max(fire_at_ms, in_time_ms - 1))
    return Decision(start=spec.missed == "one", next_fire_at_ms=next_ms, available_at_ms=None)


def _oldest_kept(spec: Spec, fire_at_ms: int, until_ms: int) -> int:
    """Find the oldest of the newest `missed_limit` ticks from one on that lie before a moment.

    Looks back from that moment twice as far each time, because a schedule may have been left alone for years.
    """
    # No schedule fires more often than every second.
    span_ms = spec.missed_limit * 1_000
    while True:
        start_ms = max(fire_at_ms - 1, until_ms - span_ms - 1)
        kept: deque[int] = deque(maxlen=spec.missed_limit)
        for tick_ms in spec.ticks_after(start_ms):
            if tick_ms >= until_ms:
                break
            kept.append(tick_ms)
        if start_ms < fire_at_ms or len(kept) == spec.missed_limit:
            return kept[0] if kept else fire_at_ms
        span_ms *= 2


def first_after(spec: Spec, now_ms: int, last_fire_at_ms: int | None) -> int | None:
    """Return when a schedule that exists fires next: never again what it has fired already."""
    return spec.next_after(now_ms if last_fire_at_ms is None else max(now_ms, last_fire_at_ms))


def tick_run_id(schedule_id: str, fire_at_ms: int) -> str:
    """Name the run of a tick: readable, and the same for every worker, so that no tick starts two runs."""
    suffix = f"@{_stamp(from_ms(fire_at_ms))}"
    name = schedule_id.encode("utf-8")
    if len(name) + len(suffix) > MAX_ID_BYTES:
        digest = hashlib.sha256(name).hexdigest()[:32]
        cut = MAX_ID_BYTES - len(suffix) - len(digest) - 1
        return f"{name[:cut].decode('utf-8', 'ignore')}~{digest}{suffix}"
    return f"{schedule_id}{suffix}"


def _stamp(moment: datetime) -> str:
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _jitter_ms(spec: Spec, schedule_id: str, fire_at_ms: int) -> int:
    if not spec.jitter_ms:
        return 0
    digest = hashlib.sha256(f"{schedule_id}@{fire_at_ms}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (spec.jitter_ms + 1)
