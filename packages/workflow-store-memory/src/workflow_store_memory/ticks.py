"""The settlement of a claimed tick, and its effect on the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workflow_runtime.store import (
    BucketAction,
    BucketBehind,
    BucketBuffered,
    BucketOverlapping,
    BucketResult,
    BucketSkipped,
    BucketStarted,
    Created,
    RequestedOverlap,
    Schedule,
)

from .data import InMemoryData, Run, ScheduleRow, Tick
from .records import run_record

__all__ = ["TickDecision", "WaitingTicks", "waiting_ticks"]

_MAX_UNCLAIMABLE = 10
_NEWEST_WAITS = frozenset({"cancel-previous", "terminate-previous"})
"""With these a tick takes the place of an earlier one that waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingTicks:
    """The ticks that a claim finds."""

    claimable: Sequence[tuple[Tick, ScheduleRow]]
    """Ticks in the order in which they are claimed."""
    later_ms: Sequence[int]
    """Time at which further ones may be claimable: their own time, or the end of a claim."""
    unclaimable: tuple[str, ...]


def waiting_ticks(data: InMemoryData, workflow_ids: Sequence[str] | None, *, now_ms: int) -> WaitingTicks:
    """Look for ticks of these workflows; `None` means any."""
    claimable, later_ms, unclaimable = [], [], []
    for schedule_id, row in sorted(data.schedules.items()):
        wanted = workflow_ids is None or row.value.workflow_id in workflow_ids
        if wanted:
            later_ms += _later_ms(row, now_ms)
        tick = row.first_tick(now_ms=now_ms, previous_is_live=data.is_live(row.value.previous_run_id))
        if tick is None or row.is_leased(now_ms):
            continue
        if wanted:
            claimable.append((tick, row))
        else:
            unclaimable.append(schedule_id)
    claimable.sort(key=lambda item: (item[0].fire_at_ms, item[1].value.schedule_id))
    return WaitingTicks(claimable=claimable, later_ms=later_ms, unclaimable=tuple(unclaimable[:_MAX_UNCLAIMABLE]))


def _later_ms(row: ScheduleRow, now_ms: int) -> list[int]:
    moments = [] if row.due_tick_ms is None else [row.due_tick_ms]
    if row.lease is not None:
        moments.append(row.lease.expires_at_ms)
    return [at_ms for at_ms in moments if at_ms > now_ms]


@dataclass(frozen=True, slots=True, kw_only=True)
class TickDecision:
    """A worker's decision about the tick that it claimed: to start its run, to skip it, or to put it back."""

    action: BucketAction
    operation_id: str
    now_ms: int
    run_id: str | None
    next_fire_at_ms: int | None
    available_at_ms: int | None

    def settle(self, data: InMemoryData, row: ScheduleRow, tick: Tick) -> BucketResult:
        """Settle the claimed tick, unless its run would overlap with the previous one."""
        answer: BucketResult
        policy = row.policy_of(tick)
        if self.run_id is None:
            answer = BucketSkipped() if self.action == "skip" else self._put_back(row, tick, policy)
        elif self._overlaps(data, row.value, policy):
            assert row.value.previous_run_id is not None
            return BucketOverlapping(run_id=row.value.previous_run_id)
        elif (first := self._goes_first(row.value, tick, policy)) is not None:
            return BucketBehind(fire_at_ms=first)
        else:
            self._start(data, row.value, tick, self.run_id)
            answer = BucketStarted(run_id=self.run_id)
        row.value = self._moved_on(row.value, tick, policy, answer)
        return row.settle(tick, self.operation_id, answer)

    def _overlaps(self, data: InMemoryData, schedule: Schedule, policy: RequestedOverlap) -> bool:
        previous = schedule.previous_run_id
        return policy != "allow" and previous != self.run_id and data.is_live(previous)

    def _goes_first(self, schedule: Schedule, tick: Tick, policy: RequestedOverlap) -> int | None:
        """Find the buffered tick that a start would overtake; a later one replaces it where the newest is wanted."""
        buffered = schedule.buffered_fire_at_ms
        if policy == "allow" or buffered in (None, tick.fire_at_ms):
            return None
        return None if policy in _NEWEST_WAITS and tick.fire_at_ms > buffered else buffered

    def _put_back(self, row: ScheduleRow, tick: Tick, policy: RequestedOverlap) -> BucketBuffered | BucketSkipped:
        buffered = row.value.buffered_fire_at_ms
        if policy == "buffer-all" or buffered in (None, tick.fire_at_ms):
            return BucketBuffered()
        return BucketSkipped() if policy == "buffer-one" or buffered > tick.fire_at_ms else BucketBuffered()

    def _moved_on(self, schedule: Schedule, tick: Tick, policy: RequestedOverlap, answer: BucketResult) -> Schedule:
        if isinstance(answer, BucketBuffered):
            if policy != "buffer-all":
                schedule = replace(schedule, buffered_fire_at_ms=tick.fire_at_ms)
        elif schedule.buffered_fire_at_ms == tick.fire_at_ms or (answer.kind == "started" and policy in _NEWEST_WAITS):
            schedule = replace(schedule, buffered_fire_at_ms=None)
        if isinstance(answer, BucketStarted):
            schedule = replace(schedule, previous_run_id=answer.run_id)
        if tick.source == "due":
            schedule = replace(schedule, next_fire_at_ms=self.next_fire_at_ms, last_fire_at_ms=tick.fire_at_ms)
        return replace(schedule, updated_at_ms=self.now_ms)

    def _start(self, data: InMemoryData, schedule: Schedule, tick: Tick, run_id: str) -> None:
        if run_id in data.runs:
            return
        run = Run(
            run_id=run_id,
            generation=data.new_generation(),
            workflow_id=schedule.workflow_id,
            workflow_version=schedule.workflow_version,
            input=schedule.input,
            queue=schedule.queue,
            priority=schedule.priority,
            schedule_id=schedule.schedule_id,
            scheduled_at_ms=tick.fire_at_ms,
            created_at_ms=self.now_ms,
            updated_at_ms=self.now_ms,
            available_at_ms=self.now_ms if self.available_at_ms is None else self.available_at_ms,
        )
        data.runs[run_id] = run
        data.notify(run_id)
        run.record(self.operation_id, Created(run=run_record(run), claim=None))
