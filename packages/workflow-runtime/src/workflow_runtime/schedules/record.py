"""A schedule as it stands in the store."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..payloads import ExactCodec
from ..store import Schedule as StoredSchedule
from .conversions import declared_in, moment
from .definition import Schedule

__all__ = ["ScheduleRecord"]


class ScheduleRecord:
    """A schedule as the store holds it, at the moment of the reading."""

    def __init__(self, stored: StoredSchedule, codec: ExactCodec) -> None:
        self.id: str = stored.schedule_id
        """Names it."""
        self.workflow_id: str = stored.workflow_id
        """Id of the workflow that its ticks start."""
        self.workflow_version: str = stored.workflow_version
        """Version of the workflow."""
        self.paused: bool = not stored.enabled
        """True if it only fires on request."""
        self.revision: int = stored.revision
        """Counts the changes of its definition, pauses among them, from 1."""
        self.next_fire_at: datetime | None = moment(stored.next_fire_at_ms)
        """Next time at which it fires, unless it is paused; `None` when it is over."""
        self.last_fire_at: datetime | None = moment(stored.last_fire_at_ms)
        """Its newest tick that was dealt with."""
        self.buffered_fire_at: datetime | None = moment(stored.buffered_fire_at_ms)
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
        return declared_in(self._stored, self._codec)
