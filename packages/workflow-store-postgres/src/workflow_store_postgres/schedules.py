"""Schedules and their ticks.

A bucket, in the names of the contract and of the tables, is one tick of a schedule. Settling a tick is called
`mark_schedule_bucket_started` after its usual action: to skip it, or to put it back, settles it as well.
"""

from __future__ import annotations

from collections.abc import Sequence

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

from .claims import CLAIM_TRIES
from .store_role import StoreRole

__all__ = ["Schedules"]


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
        values = (next_fire_at_ms, spec, input, now_ms, expected_revision)
        (row,) = await self._sender.settled("upsert_schedule", schedule_id, *definition, *values)
        if row["kind"] is None:
            return ScheduleUpserted(kind="conflict", schedule=None)
        if row["kind"] in {"created", "updated"}:
            self._notices.notify_of_anything()
        return ScheduleUpserted(kind=row["kind"], schedule=self._read.schedule(row))

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
        rows = await self._sender.settled("delete_schedule", schedule_id)
        return Deleted() if rows else NotFound()

    @checked
    async def request_schedule_buckets(
        self,
        *,
        schedule_id: str,
        fire_times_ms: Sequence[int],
        now_ms: int,
        overlap: RequestedOverlap | None = None,
    ) -> RequestBucketsResult:
        values = (schedule_id, list(map(str, fire_times_ms)), now_ms, overlap)
        rows = await self._sender.settled("request_schedule_buckets", *values)
        if not rows:
            return NotFound()
        self._notices.notify_of_anything()
        return BucketsRequested(count=rows[0]["requested"])

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
        rows = await self._sender.settled_soon(
            "claim_due_schedule_buckets",
            owner,
            self._sender.new_token(),
            now_ms + lease_ms,
            now_ms,
            limit,
            None if workflow_ids is None else list(workflow_ids),
            tries=CLAIM_TRIES,
        )
        return BucketClaims(
            buckets=tuple(self._read.claimed_bucket(row) for row in rows if row["schedule_id"] is not None),
            next_due_ms=rows[0]["next_due"],
            unclaimable=tuple(rows[0]["unclaimable"]),
        )

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
        with self._notices.about(run_id) as pending:
            rows = await self._sender.settled(
                "mark_schedule_bucket_started",
                *mark.values(),
                next_fire_at_ms,
                now_ms,
                operation_id,
                action,
                now_ms if available_at_ms is None else available_at_ms,
                creation_id(operation_id),
                creation_answer(None),
                pending.by_statement,
            )
            pending.read_answer(rows)
        if rows and rows[0]["outcome"] is not None:
            return mark.settled(rows[0]["outcome"])
        return mark.refused(rows[0] if rows else None, operation_id)
