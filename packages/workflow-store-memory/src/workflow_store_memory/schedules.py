"""Schedules and their ticks."""

from __future__ import annotations

from dataclasses import replace

from workflow_runtime.errors import LeaseLostError, ScheduleNotFoundError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    DEFAULT_QUEUE,
    BucketClaims,
    BucketResult,
    BucketSkipped,
    BucketStarted,
    ClaimedBucket,
    Created,
    Deleted,
    DeleteScheduleResult,
    NotFound,
    OverlapPolicy,
    Schedule,
    ScheduleChanged,
    SchedulePage,
    ScheduleUpserted,
    decode_schedule_cursor,
    encode_schedule_cursor,
)

from .data import Bucket, InMemoryData, Run, ScheduleRow
from .records import run_record
from .role import Role, unit

__all__ = ["Schedules"]


class Schedules(Role):
    """Keeps `ScheduleStore`."""

    @unit
    def upsert_schedule(
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
        enabled: bool = True,
    ) -> ScheduleUpserted:
        """SCHEDULE-1, SCHEDULE-2."""
        asked = Schedule(
            schedule_id=schedule_id,
            workflow_id=workflow_id,
            workflow_version=workflow_version,
            spec=spec,
            input=input,
            overlap_policy=overlap_policy,
            queue=queue,
            priority=priority,
            enabled=enabled,
            next_fire_at_ms=next_fire_at_ms,
            last_fire_at_ms=None,
            revision=1,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        row = self._data.schedules.get(schedule_id)
        if row is None:
            self._data.schedules[schedule_id] = ScheduleRow(value=asked)
            return ScheduleUpserted(kind="created", schedule=asked)
        if _same_definition(row.value, asked):
            return ScheduleUpserted(kind="unchanged", schedule=row.value)
        row.value = replace(
            asked,
            last_fire_at_ms=row.value.last_fire_at_ms,
            revision=row.value.revision + 1,
            created_at_ms=row.value.created_at_ms,
        )
        return ScheduleUpserted(kind="updated", schedule=row.value)

    @unit
    def get_schedule(self, *, schedule_id: str) -> Schedule:
        """SCHEDULE-3."""
        row = self._data.schedules.get(schedule_id)
        if row is None:
            raise ScheduleNotFoundError(schedule_id)
        return row.value

    @unit
    def list_schedules(self, *, limit: int, cursor: str | None = None) -> SchedulePage:
        """SCHEDULE-4."""
        after = "" if cursor is None else decode_schedule_cursor(cursor)
        ids = sorted(schedule_id for schedule_id in self._data.schedules if schedule_id > after)
        page = ids[:limit]
        return SchedulePage(
            schedules=tuple(self._data.schedules[schedule_id].value for schedule_id in page),
            next_cursor=encode_schedule_cursor(page[-1]) if page and len(ids) > limit else None,
        )

    @unit
    def delete_schedule(self, *, schedule_id: str) -> DeleteScheduleResult:
        """SCHEDULE-5."""
        if self._data.schedules.pop(schedule_id, None) is None:
            return NotFound()
        return Deleted()

    @unit
    def claim_due_schedule_buckets(self, *, owner: str, lease_ms: int, now_ms: int, limit: int) -> BucketClaims:
        """SCHEDULE-6, SCHEDULE-9."""
        waiting = _waiting_ticks(self._data)
        due = sorted(tick for tick, claimable_at_ms in waiting.items() if claimable_at_ms <= now_ms)[:limit]
        others = [claimable_at_ms for tick, claimable_at_ms in waiting.items() if tick not in due]
        buckets = []
        for fire_at_ms, schedule_id in due:
            row = self._data.schedules[schedule_id]
            bucket = row.buckets.setdefault(fire_at_ms, Bucket(generation=self._data.new_generation()))
            lease = bucket.begin_lease(owner=owner, expires_at_ms=now_ms + lease_ms)
            buckets.append(ClaimedBucket(schedule=row.value, fire_at_ms=fire_at_ms, lease=lease))
        return BucketClaims(buckets=tuple(buckets), next_due_ms=min(others, default=None))

    @unit
    def mark_schedule_bucket_started(
        self,
        *,
        schedule_id: str,
        fire_at_ms: int,
        lease_token: str,
        operation_id: str,
        expected_revision: int,
        next_fire_at_ms: int | None,
        run_id: str | None,
        now_ms: int,
    ) -> BucketResult:
        """SCHEDULE-7 to SCHEDULE-9."""
        row = self._data.schedules.get(schedule_id)
        if row is None:
            return ScheduleChanged()
        bucket = row.buckets.get(fire_at_ms)
        if bucket is not None and bucket.answer is not None and bucket.operation_id == operation_id:
            return bucket.answer
        if row.value.revision != expected_revision:
            return ScheduleChanged()
        if bucket is None or bucket.lease is None or bucket.lease.token != lease_token:
            raise LeaseLostError(f"tick {fire_at_ms} of schedule {schedule_id!r}")
        if run_id is not None:
            _start(self._data, row.value, run_id, operation_id, now_ms)
        last_fire_at_ms = max(fire_at_ms, row.value.last_fire_at_ms or 0)
        row.value = replace(
            row.value, next_fire_at_ms=next_fire_at_ms, last_fire_at_ms=last_fire_at_ms, updated_at_ms=now_ms
        )
        return bucket.mark(operation_id, BucketSkipped() if run_id is None else BucketStarted(run_id=run_id))


def _same_definition(stored: Schedule, asked: Schedule) -> bool:
    as_stored = replace(
        asked,
        next_fire_at_ms=stored.next_fire_at_ms,
        last_fire_at_ms=stored.last_fire_at_ms,
        revision=stored.revision,
        created_at_ms=stored.created_at_ms,
        updated_at_ms=stored.updated_at_ms,
    )
    return as_stored == stored


def _waiting_ticks(data: InMemoryData) -> dict[tuple[int, str], int]:
    """Say of each schedule's next tick, as `(fire_at_ms, schedule_id)`, when it can be claimed."""
    waiting = {}
    for schedule_id, row in data.schedules.items():
        fire_at_ms = row.next_tick_ms
        if fire_at_ms is not None:
            bucket = row.buckets.get(fire_at_ms)
            leased_until_ms = 0 if bucket is None or bucket.lease is None else bucket.lease.expires_at_ms
            waiting[fire_at_ms, schedule_id] = max(fire_at_ms, leased_until_ms)
    return waiting


def _start(data: InMemoryData, schedule: Schedule, run_id: str, operation_id: str, now_ms: int) -> None:
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
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        available_at_ms=now_ms,
    )
    data.runs[run_id] = run
    data.tell(run_id)
    run.record(operation_id, Created(run=run_record(run), claim=None))
