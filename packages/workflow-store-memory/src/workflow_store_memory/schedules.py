"""Schedules and their ticks.

A bucket, in the names of the contract and of the tables, is one tick of a schedule. Settling a tick is called
`mark_schedule_bucket_started` after its usual action: to skip it, or to put it back, settles it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workflow_runtime.store import (
    DEFAULT_QUEUE,
    BucketAction,
    BucketClaims,
    BucketResult,
    BucketsRequested,
    ClaimedBucket,
    Deleted,
    DeleteScheduleResult,
    JsonText,
    LeaseLostError,
    NotFound,
    OverlapPolicy,
    RequestBucketsResult,
    RequestedBucket,
    RequestedOverlap,
    Schedule,
    ScheduleChanged,
    ScheduleNotFoundError,
    SchedulePage,
    ScheduleUpserted,
    decode_schedule_cursor,
    encode_schedule_cursor,
)

from .atomic import atomic
from .data import ScheduleRow
from .store_role import StoreRole
from .ticks import TickDecision, waiting_ticks

__all__ = ["Schedules"]


class Schedules(StoreRole):
    """The role `ScheduleStore`."""

    @atomic
    async def upsert_schedule(
        self,
        *,
        schedule_id: str,
        workflow_id: str,
        workflow_version: str,
        spec: JsonText,
        input: JsonText,
        next_fire_at_ms: int | None,
        now_ms: int,
        overlap_policy: OverlapPolicy = "skip",
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        enabled: bool | None = None,
        expected_revision: int | None = None,
    ) -> ScheduleUpserted:
        """SCHEDULE-1 to SCHEDULE-4."""
        row = self._data.schedules.get(schedule_id)
        stored = None if row is None else row.value
        if expected_revision is not None and (stored is None or stored.revision != expected_revision):
            return ScheduleUpserted(kind="conflict", schedule=stored)
        asked = Schedule(
            schedule_id=schedule_id,
            workflow_id=workflow_id,
            workflow_version=workflow_version,
            spec=spec,
            input=input,
            overlap_policy=overlap_policy,
            queue=queue,
            priority=priority,
            enabled=enabled if enabled is not None else stored is None or stored.enabled,
            next_fire_at_ms=next_fire_at_ms,
            last_fire_at_ms=None,
            buffered_fire_at_ms=None,
            previous_run_id=None,
            revision=1,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        if row is None:
            self._data.schedules[schedule_id] = ScheduleRow(value=asked, generation=self._data.new_generation())
            self._data.notify(None)
            return ScheduleUpserted(kind="created", schedule=asked)
        if _with_state_of(row.value, asked) == row.value:
            return ScheduleUpserted(kind="unchanged", schedule=row.value)
        row.value = _changed(row.value, asked)
        row.end_lease()
        self._data.notify(None)
        return ScheduleUpserted(kind="updated", schedule=row.value)

    @atomic
    async def get_schedule(self, *, schedule_id: str) -> Schedule:
        """SCHEDULE-5."""
        row = self._data.schedules.get(schedule_id)
        if row is None:
            raise ScheduleNotFoundError(schedule_id)
        return row.value

    @atomic
    async def list_schedules(self, *, limit: int, cursor: str | None = None) -> SchedulePage:
        """SCHEDULE-6."""
        after = "" if cursor is None else decode_schedule_cursor(cursor)
        ids = sorted(schedule_id for schedule_id in self._data.schedules if schedule_id > after)
        page = ids[:limit]
        return SchedulePage(
            schedules=tuple(self._data.schedules[schedule_id].value for schedule_id in page),
            next_cursor=encode_schedule_cursor(page[-1]) if page and len(ids) > limit else None,
        )

    @atomic
    async def delete_schedule(self, *, schedule_id: str) -> DeleteScheduleResult:
        """SCHEDULE-7."""
        if self._data.schedules.pop(schedule_id, None) is None:
            return NotFound()
        return Deleted()

    @atomic
    async def request_schedule_buckets(
        self,
        *,
        schedule_id: str,
        fire_times_ms: Sequence[int],
        now_ms: int,
        overlap: RequestedOverlap | None = None,
    ) -> RequestBucketsResult:
        """SCHEDULE-8, SCHEDULE-18."""
        row = self._data.schedules.get(schedule_id)
        if row is None:
            return NotFound()
        new = set(fire_times_ms) - row.requested.keys()
        for fire_at_ms in new:
            row.requested[fire_at_ms] = RequestedBucket(fire_at_ms=fire_at_ms, overlap=overlap, requested_at_ms=now_ms)
        self._data.notify(None)
        return BucketsRequested(count=len(new))

    @atomic
    async def list_requested_buckets(
        self, *, schedule_id: str, limit: int, from_ms: int = 0
    ) -> tuple[RequestedBucket, ...]:
        """SCHEDULE-19."""
        row = self._data.schedules.get(schedule_id)
        if row is None:
            return ()
        moments = sorted(moment for moment in row.requested if moment >= from_ms)
        return tuple(row.requested[moment] for moment in moments[:limit])

    @atomic
    async def claim_due_schedule_buckets(
        self,
        *,
        owner: str,
        lease_ms: int,
        now_ms: int,
        limit: int,
        workflow_ids: Sequence[str] | None = None,
    ) -> BucketClaims:
        """SCHEDULE-9 to SCHEDULE-12."""
        waiting = waiting_ticks(self._data, workflow_ids, now_ms=now_ms)
        claimed = []
        for tick, row in waiting.claimable[:limit]:
            previous = row.value.previous_run_id
            claimed_tick = ClaimedBucket(
                schedule=row.value,
                fire_at_ms=tick.fire_at_ms,
                source=tick.source,
                overlap_policy=row.policy_of(tick),
                overlapping_run_id=previous if self._data.is_live(previous) else None,
                lease=row.begin_lease(tick, owner=owner, expires_at_ms=now_ms + lease_ms),
            )
            claimed.append(claimed_tick)
        left = [now_ms] if len(waiting.claimable) > limit else []
        return BucketClaims(
            buckets=tuple(claimed),
            next_due_ms=min([*left, *waiting.later_ms], default=None),
            unclaimable=waiting.unclaimable,
        )

    @atomic
    async def mark_schedule_bucket_started(
        self,
        *,
        schedule_id: str,
        fire_at_ms: int,
        lease_token: str,
        operation_id: str,
        expected_revision: int,
        action: BucketAction,
        now_ms: int,
        run_id: str | None = None,
        next_fire_at_ms: int | None = None,
        available_at_ms: int | None = None,
    ) -> BucketResult:
        """SCHEDULE-13 to SCHEDULE-17."""
        row = self._data.schedules.get(schedule_id)
        if row is None:
            return ScheduleChanged()
        settled = row.settled
        if settled is not None and (settled.fire_at_ms, settled.operation_id) == (fire_at_ms, operation_id):
            return settled.answer
        if row.value.revision != expected_revision:
            return ScheduleChanged()
        tick = row.held_tick(fire_at_ms, lease_token)
        if tick is None:
            raise LeaseLostError(f"tick {fire_at_ms} of schedule {schedule_id!r}")
        decision = TickDecision(
            action=action,
            operation_id=operation_id,
            now_ms=now_ms,
            run_id=run_id,
            next_fire_at_ms=next_fire_at_ms,
            available_at_ms=available_at_ms,
        )
        return decision.settle(self._data, row, tick)


def _with_state_of(stored: Schedule, asked: Schedule) -> Schedule:
    """Take everything that is not the definition from the stored one."""
    return replace(
        asked,
        next_fire_at_ms=stored.next_fire_at_ms,
        last_fire_at_ms=stored.last_fire_at_ms,
        buffered_fire_at_ms=stored.buffered_fire_at_ms,
        previous_run_id=stored.previous_run_id,
        revision=stored.revision,
        created_at_ms=stored.created_at_ms,
        updated_at_ms=stored.updated_at_ms,
    )


def _changed(stored: Schedule, asked: Schedule) -> Schedule:
    timing_changes = asked.spec != stored.spec or (asked.enabled and not stored.enabled)
    return replace(
        _with_state_of(stored, asked),
        next_fire_at_ms=asked.next_fire_at_ms if timing_changes else stored.next_fire_at_ms,
        revision=stored.revision + 1,
        updated_at_ms=asked.updated_at_ms,
    )
