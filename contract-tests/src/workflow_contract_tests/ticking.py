"""The first steps of cases about schedules: create a schedule, request, claim and settle its ticks.

A bucket, in the names of the contract, is one tick of a schedule. Settling a tick is called
`mark_schedule_bucket_started` after its usual action: to skip it, or to put it back, settles it as well.
"""

from __future__ import annotations

from typing import Any

from workflow_runtime.store import (
    BucketClaims,
    BucketsRequested,
    BucketStarted,
    ClaimedBucket,
    RequestedOverlap,
    Schedule,
    ScheduleUpserted,
    WorkflowExecutionStore,
)

from .harness import StoreHarness
from .samples import LEASE_MS, MANY

__all__ = [
    "HOUR",
    "claim_tick",
    "claim_ticks",
    "end_run",
    "get_schedule",
    "has_schedules",
    "request",
    "schedule_arguments",
    "settle",
    "settle_arguments",
    "start_tick",
    "upsert",
]

HOUR = 3_600_000


def schedule_arguments(h: StoreHarness, schedule_id: str = "nightly", **overrides: Any) -> dict[str, Any]:
    """Return arguments of `upsert_schedule` for a schedule that is due now."""
    arguments = {
        "schedule_id": schedule_id,
        "workflow_id": "report",
        "workflow_version": "3",
        "spec": '{"cron":"0 2 * * *"}',
        "input": '{"a":1}',
        "next_fire_at_ms": h.now_ms,
        "now_ms": h.now_ms,
    }
    return arguments | overrides


async def upsert(h: StoreHarness, schedule_id: str = "nightly", **overrides: Any) -> ScheduleUpserted:
    """Create a schedule that is due now, or change it."""
    return await h.store.upsert_schedule(**schedule_arguments(h, schedule_id, **overrides))


async def get_schedule(h: StoreHarness, schedule_id: str = "nightly") -> Schedule:
    """Return the stored schedule."""
    return await h.second.get_schedule(schedule_id=schedule_id)


async def has_schedules(h: StoreHarness) -> bool:
    """Return False if the verb that lists schedules is not written: cases of `core` then leave schedules out."""
    try:
        await h.store.list_schedules(limit=0)
    except NotImplementedError:
        return False
    except AttributeError:
        if hasattr(h.store, "list_schedules"):
            raise
        return False
    return True


async def request(
    h: StoreHarness, *fire_times_ms: int, schedule_id: str = "nightly", overlap: RequestedOverlap | None = None
) -> int:
    """Request ticks of a schedule and return how many of them are new."""
    answer = await h.store.request_schedule_buckets(
        schedule_id=schedule_id, fire_times_ms=fire_times_ms, now_ms=h.now_ms, overlap=overlap
    )
    assert isinstance(answer, BucketsRequested), f"a request to a schedule that is there answered {answer}"
    return answer.count


async def claim_ticks(
    h: StoreHarness, *, store: WorkflowExecutionStore | None = None, **overrides: Any
) -> BucketClaims:
    """Claim ticks."""
    arguments: dict[str, Any] = {"owner": "worker-1", "lease_ms": LEASE_MS, "now_ms": h.now_ms, "limit": MANY}
    return await (store or h.second).claim_due_schedule_buckets(**(arguments | overrides))


async def claim_tick(h: StoreHarness, **overrides: Any) -> ClaimedBucket:
    """Claim a tick. Exactly one must be claimable."""
    ticks = (await claim_ticks(h, **overrides)).buckets
    assert len(ticks) == 1, f"expected one tick, got {ticks}"
    return ticks[0]


def settle_arguments(
    h: StoreHarness, tick: ClaimedBucket, action: str, run_id: str | None = None, **overrides: Any
) -> dict[str, Any]:
    """Return arguments that settle a claimed tick."""
    return {
        "schedule_id": tick.schedule.schedule_id,
        "fire_at_ms": tick.fire_at_ms,
        "lease_token": tick.lease.token,
        "operation_id": h.new_id("op"),
        "expected_revision": tick.schedule.revision,
        "action": action,
        "run_id": run_id,
        "next_fire_at_ms": tick.fire_at_ms + HOUR,
        "now_ms": h.now_ms,
    } | overrides


async def settle(h: StoreHarness, tick: ClaimedBucket, action: str, run_id: str | None = None, **overrides: Any) -> Any:
    """Settle a claimed tick."""
    return await h.store.mark_schedule_bucket_started(**settle_arguments(h, tick, action, run_id, **overrides))


async def start_tick(h: StoreHarness, run_id: str, **overrides: Any) -> ClaimedBucket:
    """Claim a tick and start its run. Exactly one must be claimable."""
    tick = await claim_tick(h)
    answer = await settle(h, tick, "start", run_id, **overrides)
    assert answer == BucketStarted(run_id=run_id), f"a tick that nothing stands in the way of answered {answer}"
    return tick


async def end_run(h: StoreHarness, *run_ids: str) -> None:
    """Terminate runs."""
    for run_id in run_ids:
        await h.second.terminate_run(run_id=run_id, now_ms=h.now_ms)
