"""Schedules and their ticks.

A bucket, in the names of the contract and of the tables, is one tick of a schedule. Settling a tick is called
`mark_schedule_bucket_started` after its usual action: to skip it, or to put it back, settles it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from workflow_runtime.store import (
    DEFAULT_QUEUE,
    BucketAction,
    BucketClaims,
    BucketResult,
    BucketsRequested,
    Deleted,
    DeleteScheduleResult,
    JsonText,
    NotFound,
    OverlapPolicy,
    RequestBucketsResult,
    RequestedBucket,
    RequestedOverlap,
    Schedule,
    SchedulePage,
    ScheduleUpserted,
    checked,
)
from workflow_store_sql import (
    TickMark,
    creation_answer,
    creation_id,
    read_schedule,
    read_schedule_page,
    schedule_page_start,
)

from .database import D1PreparedStatement, Row
from .statement_sender import json_list
from .store_role import StoreRole

__all__ = ["Schedules"]

_MAX_UNCLAIMABLE = 10


class Schedules(StoreRole):
    """The role `ScheduleStore`."""

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
        statement = self._sender.statement
        before, _, _, after = await self._sender.batch(
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
        rows = await self._sender.rows("get_schedule", schedule_id)
        return read_schedule(self._read, schedule_id, rows)

    @checked
    async def list_schedules(self, *, limit: int, cursor: str | None = None) -> SchedulePage:
        # One more than asked for shows whether there is another page.
        rows = await self._sender.rows("list_schedules", schedule_page_start(cursor), limit + 1)
        return read_schedule_page(self._read, rows, limit)

    @checked
    async def delete_schedule(self, *, schedule_id: str) -> DeleteScheduleResult:
        statement = self._sender.statement
        _, deleted = await self._sender.batch(
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
        statement = self._sender.statement
        before, requested, _ = await self._sender.batch(
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
        rows = await self._sender.rows("list_requested_buckets", schedule_id, from_ms, limit)
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
        token, wanted = self._sender.new_token(), json_list(workflow_ids)
        lease = (owner, token, now_ms + lease_ms)
        statement = self._sender.statement
        _, claimed, due, *others = await self._sender.batch(
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
        return (self._sender.statement(name, now_ms, _MAX_UNCLAIMABLE, wanted),)

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
        mark = TickMark(schedule_id, fire_at_ms, lease_token, expected_revision, run_id)
        fence = mark.values()
        moved = (next_fire_at_ms, now_ms, operation_id, action)
        due_at_ms = now_ms if available_at_ms is None else available_at_ms
        statement = self._sender.statement
        before, *_, settled = await self._sender.batch(
            [
                statement("mark_schedule_bucket_started.before", schedule_id),
                *self._start(mark, operation_id, now_ms, due_at_ms),
                statement("mark_schedule_bucket_started.bucket", *fence, action),
                statement("mark_schedule_bucket_started.schedule", *fence, *moved),
            ]
        )
        if settled:
            return mark.settled(settled[0]["settled_outcome"])
        return mark.refused(before[0] if before else None, operation_id)

    def _start(self, mark: TickMark, operation_id: str, now_ms: int, due_at_ms: int) -> Sequence[D1PreparedStatement]:
        if mark.run_id is None:
            return ()
        fence = mark.values()
        statement = self._sender.statement
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
