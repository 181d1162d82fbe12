"""Schedules and their ticks."""

from __future__ import annotations

from workflow_runtime.errors import LeaseLostError, ScheduleNotFoundError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    DEFAULT_QUEUE,
    BucketClaims,
    BucketResult,
    BucketSkipped,
    BucketStarted,
    Deleted,
    DeleteScheduleResult,
    NotFound,
    OverlapPolicy,
    Schedule,
    ScheduleChanged,
    SchedulePage,
    ScheduleUpserted,
    checked,
    decode_schedule_cursor,
    encode_schedule_cursor,
)

from .claims import CLAIM_TRIES
from .creation import creation_answer, creation_id
from .role import Role
from .session import Row

__all__ = ["Schedules"]


class Schedules(Role):
    """Keeps `ScheduleStore`."""

    @checked
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
        enabled: bool = True,
    ) -> ScheduleUpserted:
        definition = (workflow_id, workflow_version, overlap_policy, queue, priority, bool(enabled))
        rows = await self._session.settled(
            "upsert_schedule", schedule_id, *definition, next_fire_at_ms, spec, input, now_ms
        )
        return ScheduleUpserted(kind=rows[0]["kind"], schedule=self._read.schedule(rows[0]))

    @checked
    async def get_schedule(self, *, schedule_id: str) -> Schedule:
        rows = await self._session.rows("get_schedule", schedule_id)
        if not rows:
            raise ScheduleNotFoundError(schedule_id)
        return self._read.schedule(rows[0])

    @checked
    async def list_schedules(self, *, limit: int, cursor: str | None = None) -> SchedulePage:
        after = "" if cursor is None else decode_schedule_cursor(cursor)
        # One more than asked for tells whether there is another page.
        rows = await self._session.rows("list_schedules", after, limit + 1)
        schedules = tuple(self._read.schedule(row) for row in rows[:limit])
        more = bool(schedules) and len(rows) > limit
        return SchedulePage(
            schedules=schedules, next_cursor=encode_schedule_cursor(schedules[-1].schedule_id) if more else None
        )

    @checked
    async def delete_schedule(self, *, schedule_id: str) -> DeleteScheduleResult:
        rows = await self._session.settled("delete_schedule", schedule_id)
        return Deleted() if rows else NotFound()

    @checked
    async def claim_due_schedule_buckets(self, *, owner: str, lease_ms: int, now_ms: int, limit: int) -> BucketClaims:
        rows = await self._session.settled_soon(
            "claim_due_schedule_buckets",
            owner,
            self._session.new_token(),
            now_ms + lease_ms,
            now_ms,
            limit,
            tries=CLAIM_TRIES,
        )
        buckets = tuple(self._read.claimed_bucket(row) for row in rows if row["schedule_id"] is not None)
        return BucketClaims(buckets=buckets, next_due_ms=rows[0]["next_due"])

    @checked
    async def mark_schedule_bucket_started(
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
        with self._notices.about(run_id) as telling:
            rows = await self._session.rows(
                "mark_schedule_bucket_started",
                schedule_id,
                fire_at_ms,
                lease_token,
                expected_revision,
                next_fire_at_ms,
                run_id,
                now_ms,
                operation_id,
                "skipped" if run_id is None else "started",
                creation_id(operation_id),
                creation_answer(None),
                telling.itself,
            )
            telling.hear(rows)
        if not rows:
            return ScheduleChanged()
        before = rows[0]
        if before["outcome"] is not None and before["operation_id"] == operation_id:
            return _marked(before)
        if before["revision"] != expected_revision:
            return ScheduleChanged()
        if before["lease_token"] != lease_token:
            raise LeaseLostError(f"tick {fire_at_ms} of schedule {schedule_id!r}")
        return BucketSkipped() if run_id is None else BucketStarted(run_id=run_id)


def _marked(bucket: Row) -> BucketStarted | BucketSkipped:
    """Answer a repeat of the call that marked the tick as the first time."""
    return BucketSkipped() if bucket["outcome"] == "skipped" else BucketStarted(run_id=bucket["run_id"])
