"""Answers about schedules and their ticks, as pure functions of rows.

A bucket, in the names of the contract and of the tables, is one tick of a schedule. Settling a tick is called
`mark_schedule_bucket_started` after its usual action: to skip it, or to put it back, settles it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workflow_runtime.store import (
    BucketBehind,
    BucketBuffered,
    BucketOverlapping,
    BucketResult,
    BucketSkipped,
    BucketStarted,
    LeaseLostError,
    Schedule,
    ScheduleChanged,
    ScheduleNotFoundError,
)

from .rows import Row, RowReader

__all__ = ["TickMark", "read_schedule"]


def read_schedule(read: RowReader, schedule_id: str, rows: Sequence[Row]) -> Schedule:
    """Return the schedule of `get_schedule`.

    Raises:
        ScheduleNotFoundError: There is no row.
    """
    if not rows:
        raise ScheduleNotFoundError(schedule_id)
    return read.schedule(rows[0])


@dataclass(frozen=True, slots=True)
class TickMark:
    """A tick that its claimer wants to start, skip or put back; the fence of `mark_schedule_bucket_started`."""

    schedule_id: str
    fire_at_ms: int
    lease_token: str
    expected_revision: int
    run_id: str | None

    def values(self) -> tuple[str, int, str, int, str | None]:
        """Return the first parameters of each statement that settles the tick."""
        return (self.schedule_id, self.fire_at_ms, self.lease_token, self.expected_revision, self.run_id)

    def settled(self, outcome: str) -> BucketResult:
        """Answer for a tick that was settled now."""
        return _settled(outcome, self.run_id)

    def refused(self, before: Row | None, operation_id: str) -> BucketResult:
        """Answer for a tick that nothing was written for, by its schedule as it was.

        Raises:
            LeaseLostError: Another claim has the tick.
        """
        if before is None:
            return ScheduleChanged()
        if (before["settled_fire_at"], before["settled_operation_id"]) == (self.fire_at_ms, operation_id):
            # A repeat. The last run that was started is that of the last tick, if that started one.
            return _settled(before["settled_outcome"], before["previous_run_id"])
        if before["revision"] != self.expected_revision:
            return ScheduleChanged()
        if (before["tick_at"], before["lease_token"]) != (self.fire_at_ms, self.lease_token):
            raise LeaseLostError(f"tick {self.fire_at_ms} of schedule {self.schedule_id!r}")
        if before["live_run_id"] in (None, self.run_id):
            return BucketBehind(fire_at_ms=before["buffered_fire_at"])
        return BucketOverlapping(run_id=before["live_run_id"])


def _settled(outcome: str, run_id: str | None) -> BucketResult:
    if outcome == "started" and run_id is not None:
        return BucketStarted(run_id=run_id)
    return BucketBuffered() if outcome == "buffered" else BucketSkipped()
