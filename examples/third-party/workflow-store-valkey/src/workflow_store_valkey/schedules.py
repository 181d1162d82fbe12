"""The role `ScheduleStore`: schedules and their ticks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

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
    ClaimedBucket,
    Deleted,
    DeleteScheduleResult,
    JsonText,
    Lease,
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
    checked,
    decode_schedule_cursor,
    encode_schedule_cursor,
    new_id,
)

from . import codec
from .server import Reply, Server


class Schedules:
    """The methods about schedules and their ticks."""

    _server: Server

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
        kind, row = await self._server.call(
            "upsert_schedule",
            schedule_id=schedule_id,
            workflow_id=workflow_id,
            workflow_version=workflow_version,
            spec=spec,
            input=input,
            next_fire_at_ms=next_fire_at_ms,
            now_ms=now_ms,
            overlap_policy=overlap_policy,
            queue=queue,
            priority=priority,
            enabled=None if enabled is None else int(enabled),
            expected_revision=expected_revision,
        )
        return ScheduleUpserted(kind=kind, schedule=_schedule(row) if row else None)

    @checked
    async def get_schedule(self, *, schedule_id: str) -> Schedule:
        row = await self._server.call("get_schedule", schedule_id=schedule_id)
        if not row:
            raise ScheduleNotFoundError(schedule_id)
        return _schedule(row)

    @checked
    async def list_schedules(self, *, limit: int, cursor: str | None = None) -> SchedulePage:
        after = None if cursor is None else decode_schedule_cursor(cursor)
        rows = await self._server.call("list_schedules", after=after, limit=limit + 1)
        schedules = tuple(_schedule(row) for row in rows[:limit])
        more = schedules and len(rows) > limit
        return SchedulePage(
            schedules=schedules, next_cursor=encode_schedule_cursor(schedules[-1].schedule_id) if more else None
        )

    @checked
    async def delete_schedule(self, *, schedule_id: str) -> DeleteScheduleResult:
        [kind] = await self._server.call("delete_schedule", schedule_id=schedule_id)
        return Deleted() if kind == "deleted" else NotFound()

    @checked
    async def request_schedule_buckets(
        self,
        *,
        schedule_id: str,
        fire_times_ms: Sequence[int],
        now_ms: int,
        overlap: RequestedOverlap | None = None,
    ) -> RequestBucketsResult:
        kind, *count = await self._server.call(
            "request_schedule_buckets",
            schedule_id=schedule_id,
            fire_times_ms=fire_times_ms,
            now_ms=now_ms,
            overlap=overlap,
        )
        return BucketsRequested(count=count[0]) if kind == "requested" else NotFound()

    @checked
    async def list_requested_buckets(
        self, *, schedule_id: str, limit: int, from_ms: int = 0
    ) -> tuple[RequestedBucket, ...]:
        rows = await self._server.call("list_requested_buckets", schedule_id=schedule_id, limit=limit, from_ms=from_ms)
        return tuple(_requested(fire_at_ms, text) for fire_at_ms, text in rows)

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
        claims, next_due_ms, unclaimable = await self._server.call(
            "claim_due_schedule_buckets",
            now_ms=now_ms,
            lease_ms=lease_ms,
            limit=limit,
            workflow_ids=workflow_ids,
            new_token=new_id(),
        )
        buckets = tuple(_claimed(row, previous_run_id, owner) for row, previous_run_id in claims)
        return BucketClaims(buckets=buckets, next_due_ms=next_due_ms, unclaimable=tuple(unclaimable))

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
        reply = await self._server.call(
            "mark_schedule_bucket_started",
            schedule_id=schedule_id,
            fire_at_ms=fire_at_ms,
            lease_token=lease_token,
            operation_id=operation_id,
            expected_revision=expected_revision,
            action=action,
            now_ms=now_ms,
            run_id=run_id,
            next_fire_at_ms=next_fire_at_ms,
            available_at_ms=available_at_ms,
        )
        if reply[0] == "lease-lost":
            raise LeaseLostError(f"tick {fire_at_ms} of schedule {schedule_id!r}")
        return _settled(reply)


def _schedule(row: Reply) -> Schedule:
    return codec.read_schedule(codec.read_row(row))


def _requested(fire_at_ms: int, text: str) -> RequestedBucket:
    requested_at_ms, overlap = text.split(" ")
    return RequestedBucket(
        fire_at_ms=fire_at_ms,
        overlap=cast("RequestedOverlap", overlap) if overlap else None,
        requested_at_ms=int(requested_at_ms),
    )


def _claimed(reply: Reply, previous_run_id: str | None, owner: str) -> ClaimedBucket:
    row: dict[str, Any] = dict(codec.read_row(reply))
    lease = Lease(
        owner=owner,
        token=row["claim_token"],
        number=int(row["claim_number"]),
        expires_at_ms=int(row["claim_expires_at_ms"]),
    )
    return ClaimedBucket(
        schedule=codec.read_schedule(row),
        fire_at_ms=int(row["claim_fire_at_ms"]),
        source=row["claim_source"],
        overlap_policy=row["claim_overlap"],
        overlapping_run_id=previous_run_id,
        lease=lease,
    )


def _settled(reply: Reply) -> BucketResult:
    match reply:
        case ["started", run_id]:
            return BucketStarted(run_id=run_id)
        case ["skipped", *_]:
            return BucketSkipped()
        case ["buffered", *_]:
            return BucketBuffered()
        case ["overlapping", run_id]:
            return BucketOverlapping(run_id=run_id)
        case ["behind", fire_at_ms]:
            return BucketBehind(fire_at_ms=fire_at_ms)
    return ScheduleChanged()
