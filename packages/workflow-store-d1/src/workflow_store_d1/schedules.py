"""Schedules and their ticks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from workflow_runtime.errors import LeaseLostError, ScheduleNotFoundError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    DEFAULT_QUEUE,
    BucketAction,
    BucketBehind,
    BucketBuffered,
    BucketClaims,
    BucketOverlapping,
    BucketResult,
    BucketSkipped,
    BucketsRequested,
    BucketStarted,
    Deleted,
    DeleteScheduleResult,
    NotFound,
    OverlapPolicy,
    RequestBucketsResult,
    RequestedBucket,
    RequestedOverlap,
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
from .session import json_list

__all__ = ["Schedules"]

_MAX_UNCLAIMABLE = 10


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
        enabled: bool | None = None,
        expected_revision: int | None = None,
    ) -> ScheduleUpserted:
        definition = (workflow_id, workflow_version, overlap_policy, queue, priority, enabled)
        values = (schedule_id, *definition, next_fire_at_ms, spec, input, now_ms, expected_revision)
        statement = self._session.statement
        before, _, _, after = await self._session.batch(
            [
                statement("upsert_schedule.before", schedule_id),
                statement("upsert_schedule.created", *values),
                statement("upsert_schedule.changed", *values),
                statement("upsert_schedule.after", schedule_id),
            ],
            recognised=expected_revision is None,
        )
        if not after:
            return ScheduleUpserted(kind="conflict", schedule=None)
        schedule = self._read.schedule(after[0])
        return ScheduleUpserted(kind=_upserted(before, schedule, expected_revision), schedule=schedule)

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
            ],
            recognised=False,
        )
        return Deleted() if deleted else NotFound()

    @checked
    async def request_schedule_buckets(
        self,
        *,
        schedule_id: str,
        fire_times_ms: Sequence[int],
        now_ms: int,
        overlap: RequestedOverlap | None = None,
    ) -> RequestBucketsResult:
        statement = self._session.statement
        before, requested, _ = await self._session.batch(
            [
                statement("request_schedule_buckets.before", schedule_id),
                statement("request_schedule_buckets.buckets", schedule_id, json_list(fire_times_ms), now_ms, overlap),
                statement("request_schedule_buckets.schedule", schedule_id),
            ],
            recognised=False,
        )
        return BucketsRequested(count=len(requested)) if before else NotFound()

    @checked
    async def list_requested_buckets(
        self, *, schedule_id: str, limit: int, from_ms: int = 0
    ) -> tuple[RequestedBucket, ...]:
        rows = await self._session.rows("list_requested_buckets", schedule_id, from_ms, limit)
        return tuple(self._read.requested_bucket(row) for row in rows)

    @checked
    async def claim_due_schedule_buckets(
        self,
        *,
        owner: str,
        lease_ms: int,
        now_ms: int,
        limit: int,
        workflow_ids: Sequence[str] | None = None,
    ) -> BucketClaims:
        token, wanted = self._session.new_token(), json_list(workflow_ids)
        lease = (owner, token, now_ms + lease_ms)
        statement = self._session.statement
        _, claimed, due, *others = await self._session.batch(
            [
                statement("claim_due_schedule_buckets.schedules", *lease, now_ms, limit, wanted),
                statement("claim_due_schedule_buckets.claimed", token),
                statement("claim_due_schedule_buckets.next_due", token, now_ms, wanted),
                *self._unclaimable(wanted, now_ms),
            ]
        )
        return BucketClaims(
            buckets=tuple(self._read.claimed_bucket(row) for row in claimed),
            next_due_ms=due[0]["next_due"],
            unclaimable=tuple(row["schedule_id"] for rows in others for row in rows),
        )

    def _unclaimable(self, wanted: str | None, now_ms: int) -> Sequence[D1PreparedStatement]:
        if wanted is None:
            return ()
        name = "claim_due_schedule_buckets.unclaimable"
        return (self._session.statement(name, now_ms, _MAX_UNCLAIMABLE, wanted),)

    @checked
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
        fence = (schedule_id, fire_at_ms, lease_token, expected_revision, run_id)
        moved = (next_fire_at_ms, now_ms, operation_id, action)
        due_at_ms = now_ms if available_at_ms is None else available_at_ms
        statement = self._session.statement
        before, *_, settled = await self._session.batch(
            [
                statement("mark_schedule_bucket_started.before", schedule_id),
                *self._start(fence, operation_id, now_ms, due_at_ms),
                statement("mark_schedule_bucket_started.bucket", *fence, action),
                statement("mark_schedule_bucket_started.schedule", *fence, *moved),
            ]
        )
        if settled:
            return _answer(settled[0]["settled_outcome"], run_id)
        if not before:
            return ScheduleChanged()
        return _refusal(before[0], schedule_id, fire_at_ms, operation_id, lease_token, expected_revision, run_id)

    def _start(
        self, fence: tuple[str, int, str, int, str | None], operation_id: str, now_ms: int, due_at_ms: int
    ) -> Sequence[D1PreparedStatement]:
        if fence[-1] is None:
            return ()
        statement = self._session.statement
        operation = (creation_id(operation_id), creation_answer(None))
        return (
            statement("mark_schedule_bucket_started.run", *fence, now_ms),
            statement("mark_schedule_bucket_started.state", *fence),
            statement("mark_schedule_bucket_started.head", *fence, now_ms, *operation, due_at_ms),
        )


def _upserted(
    before: Sequence[Row], schedule: Schedule, expected_revision: int | None
) -> Literal["created", "updated", "unchanged", "conflict"]:
    if not before:
        return "created"
    if before[0]["revision"] != schedule.revision:
        return "updated"
    return "unchanged" if expected_revision in (None, schedule.revision) else "conflict"


def _refusal(
    before: Row,
    schedule_id: str,
    fire_at_ms: int,
    operation_id: str,
    lease_token: str,
    expected_revision: int,
    run_id: str | None,
) -> BucketResult:
    """Say why nothing was written."""
    if (before["settled_fire_at"], before["settled_operation_id"]) == (fire_at_ms, operation_id):
        return _answer(before["settled_outcome"], before["previous_run_id"])
    if before["revision"] != expected_revision:
        return ScheduleChanged()
    if (before["tick_at"], before["lease_token"]) != (fire_at_ms, lease_token):
        raise LeaseLostError(f"tick {fire_at_ms} of schedule {schedule_id!r}")
    if before["live_run_id"] in (None, run_id):
        return BucketBehind(fire_at_ms=before["buffered_fire_at"])
    return BucketOverlapping(run_id=before["live_run_id"])


def _answer(outcome: str, run_id: str | None) -> BucketResult:
    """Say what became of a tick; the last run that was started is that of the last tick, if that started one."""
    if outcome == "started" and run_id is not None:
        return BucketStarted(run_id=run_id)
    return BucketBuffered() if outcome == "buffered" else BucketSkipped()
