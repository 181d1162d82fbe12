"""The timeline of a run, made of what a store reads."""

from __future__ import annotations

from collections.abc import Sequence

from .values import Event, InboxEntry, RunRecord, RunTimeline, TimelineEntry, Timer

__all__ = ["build_timeline"]


def build_timeline(
    *,
    run: RunRecord,
    events: Sequence[Event],
    inbox: Sequence[InboxEntry],
    timers: Sequence[Timer],
    limit: int,
) -> RunTimeline:
    """Merge a run's facts into one list ordered by time.

    Args:
        run: The run.
        events: Its first `limit` events.
        inbox: Its first `limit` inbox entries, taken ones included.
        timers: Its pending timers.
        limit: What bounded the two.
    """
    entries = [TimelineEntry(at_ms=run.created_at_ms, source="run", what="created", step_id=None, detail=run.input)]
    entries += [
        TimelineEntry(at_ms=e.created_at_ms, source="log", what=e.kind, step_id=e.step_id, detail=e.payload)
        for e in events
    ]
    entries += [
        TimelineEntry(at_ms=e.received_at_ms, source="inbox", what=f"{e.kind} {e.name}", step_id=None, detail=e.payload)
        for e in inbox
    ]
    entries += [
        TimelineEntry(at_ms=t.fire_at_ms, source="timer", what="fires", step_id=t.timer_id, detail=None) for t in timers
    ]
    entries.sort(key=lambda entry: entry.at_ms)  # a stable sort: equal times keep the order of their source
    truncated = run.next_index > len(events) or run.inbox_seq > len(inbox)
    return RunTimeline(run=run, entries=tuple(entries), truncated=truncated)
