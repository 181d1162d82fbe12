"""Schedules and their ticks."""

from __future__ import annotations

from collections.abc import Sequence

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

from .creation import creation_answer, creation_id
from .database import D1PreparedStatement, Row
from .role import Role

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
        statement = self._session.statement
        before, _, after = await self._session.batch(
            [
                statement("upsert_schedule.before", schedule_id),
                statement("upsert_schedule.schedule", schedule_id, *definition, next_fire_at_ms, spec, input, now_ms),
                statement("upsert_schedule.after", schedule_id),
            ]
        )
        schedule = self._read.schedule(after[0])
        if not before:
            return ScheduleUpserted(kind="created", schedule=schedule)
        unchanged = before[0]["revision"] == schedule.revision
        return ScheduleUpserted(kind="unchanged" if unchanged else "updated", schedule=schedule)

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
        statement = self._session.statement
        _, deleted = await self._session.batch(
            [
                statement("delete_schedule.buckets", schedule_id),
                statement("delete_schedule.schedule", schedule_id),
            ]
        )
        return Deleted() if deleted else NotFound()

    @checked
    async def claim_due_schedule_buckets(self, *, owner: str, lease_ms: int, now_ms: int, limit: int) -> BucketClaims:
        token = self._session.new_token()
        statement = self._session.statement
        _, claimed, due = await self._session.batch(
            [
                statement("claim_due_schedule_buckets.buckets", owner, token, now_ms + lease_ms, now_ms, limit),
                statement("claim_due_schedule_buckets.claimed", token, now_ms),
                statement("claim_due_schedule_buckets.next_due", token, now_ms),
            ]
        )
        buckets = tuple(self._read.claimed_bucket(row) for row in claimed)
        return BucketClaims(buckets=buckets, next_due_ms=due[0]["next_due"])

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
        fence = (schedule_id, fire_at_ms, lease_token, expected_revision)
        outcome = "skipped" if run_id is None else "started"
        statement = self._session.statement
        before, *_ = await self._session.batch(
            [
                statement("mark_schedule_bucket_started.before", schedule_id, fire_at_ms),
                *self._start(fence, run_id, operation_id, now_ms),
                statement("mark_schedule_bucket_started.schedule", *fence, next_fire_at_ms, now_ms),
                statement("mark_schedule_bucket_started.older_buckets", *fence),
                statement("mark_schedule_bucket_started.bucket", *fence, outcome, run_id, operation_id),
            ]
        )
        if not before:
            return ScheduleChanged()
        if before[0]["outcome"] is not None and before[0]["operation_id"] == operation_id:
            return _marked(before[0])
        if before[0]["revision"] != expected_revision:
            return ScheduleChanged()
        if before[0]["lease_token"] != lease_token:
            raise LeaseLostError(f"tick {fire_at_ms} of schedule {schedule_id!r}")
        return BucketSkipped() if run_id is None else BucketStarted(run_id=run_id)

    def _start(
        self, fence: tuple[str, int, str, int], run_id: str | None, operation_id: str, now_ms: int
    ) -> Sequence[D1PreparedStatement]:
        if run_id is None:
            return ()
        statement = self._session.statement
        operation = (creation_id(operation_id), creation_answer(None))
        return (
            statement("mark_schedule_bucket_started.run", *fence, run_id, now_ms),
            statement("mark_schedule_bucket_started.state", *fence, run_id),
            statement("mark_schedule_bucket_started.head", *fence, run_id, now_ms, *operation),
        )


def _marked(bucket: Row) -> BucketStarted | BucketSkipped:
    """Answer a repeat of the call that marked the tick as the first time."""
    return BucketSkipped() if bucket["outcome"] == "skipped" else BucketStarted(run_id=bucket["run_id"])
