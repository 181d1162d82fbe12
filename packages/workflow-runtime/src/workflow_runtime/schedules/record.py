"""A schedule as it stands in the store."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from ..clock import from_ms
from ..payloads import ExactCodec
from ..store import Schedule as StoredSchedule
from .definition import Schedule
from .spec import decode_spec

__all__ = ["ScheduleRecord"]


class ScheduleRecord:
    """A schedule as the store holds it, at the moment of the reading."""

    def __init__(self, stored: StoredSchedule, codec: ExactCodec) -> None:
        self.id: str = stored.schedule_id
        """Names it."""
        self.workflow_id: str = stored.workflow_id
        """What its ticks start."""
        self.workflow_version: str = stored.workflow_version
        """In which version."""
        self.paused: bool = not stored.enabled
        """True if it only fires on request."""
        self.revision: int = stored.revision
        """Counts the changes of its definition, pauses among them, from 1."""
        self.next_fire_at: datetime | None = _moment(stored.next_fire_at_ms)
        """When it fires next, unless it is paused; `None` when it is over."""
        self.last_fire_at: datetime | None = _moment(stored.last_fire_at_ms)
        """Its newest tick that was dealt with."""
        self.buffered_fire_at: datetime | None = _moment(stored.buffered_fire_at_ms)
        """The tick that waits for the end of the previous run."""
        self.previous_run_id: str | None = stored.previous_run_id
        """The last run that a tick started."""
        self._stored = stored
        self._codec = codec

    def __repr__(self) -> str:
        return f"<ScheduleRecord {self.id!r} revision {self.revision}>"

    def definition(self) -> Schedule[Any]:
        """Read back what was declared; the workflow comes as its id.

        Raises:
            CorruptRecordError: The stored definition is damaged, or a newer version of this package wrote it.
        """
        stored = self._stored
        spec = decode_spec(stored.schedule_id, stored.spec)
        return Schedule(
            id=stored.schedule_id,
            workflow=stored.workflow_id,
            when=spec.when,
            input=self._codec.decode(stored.input),
            overlap=stored.overlap_policy,
            missed=spec.missed,
            missed_limit=spec.missed_limit,
            grace=timedelta(milliseconds=spec.grace_ms),
            jitter=timedelta(milliseconds=spec.jitter_ms),
            starts_at=_moment(spec.starts_at_ms),
            ends_at=_moment(spec.ends_at_ms),
            queue=stored.queue,
            priority=stored.priority,
            paused=self.paused,
        )


def _moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else from_ms(at_ms)
