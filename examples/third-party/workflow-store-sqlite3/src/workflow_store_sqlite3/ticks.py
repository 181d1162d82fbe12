"""Ticks of schedules: claiming them, and settling what was claimed. A schedule has one claimed tick at most."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from sqlite3 import Connection, Row
from typing import Any

from workflow_runtime.store import (
    TERMINAL_STATUSES,
    BucketAction,
    BucketBehind,
    BucketBuffered,
    BucketClaims,
    BucketOverlapping,
    BucketResult,
    BucketSkipped,
    BucketSource,
    BucketStarted,
    ClaimedBucket,
    Lease,
    LeaseLostError,
    RequestedOverlap,
    ScheduleChanged,
)

from .heads import find_head, insert_run
from .rows import as_json
from .schedules import NO_CLAIM, find_schedule, schedule, set_schedule

REPLACING = ("cancel-previous", "terminate-previous")
"""Policies by which a tick of a later moment takes the place of a buffered one."""

# What each schedule without a claimed tick could give now: its buffered tick, else the earlier one of its due tick and
# its first requested one. A schedule is `live` while its previous run is, and `named` if the caller asks for it.
_WAITING = """
    WITH schedules AS (
        SELECT
            workflow_schedules.*,
            coalesce(runs.status IN ('queued', 'running', 'paused'), FALSE) AS live,
            :workflow_ids IS NULL
                OR workflow_schedules.workflow_id IN (SELECT value FROM json_each(:workflow_ids)) AS named
        FROM workflow_schedules LEFT JOIN workflow_runs AS runs ON runs.run_id = previous_run_id
    ),
    ticks AS (
        SELECT
            *,
            CASE WHEN NOT live THEN buffered_fire_at_ms END AS buffered_ms,
            CASE
                WHEN enabled AND next_fire_at_ms <= :now_ms AND next_fire_at_ms > coalesce(last_fire_at_ms, -1)
                THEN next_fire_at_ms
            END AS due_ms,
            (
                SELECT fire_at_ms
                FROM workflow_requested_ticks AS requested
                WHERE requested.schedule_id = schedules.schedule_id
                  AND NOT (live AND overlap IS 'buffer-all')
                ORDER BY overlap IS 'buffer-all', fire_at_ms
                LIMIT 1
            ) AS requested_ms
        FROM schedules
        WHERE claim_expires_at_ms IS NULL OR claim_expires_at_ms <= :now_ms
    ),
    waiting AS (
        SELECT *, coalesce(buffered_ms, min(due_ms, requested_ms), due_ms, requested_ms) AS tick_ms
        FROM ticks
    )
"""
_NEXT_TICKS = f"""
    {_WAITING}
    SELECT * FROM waiting WHERE tick_ms IS NOT NULL AND named ORDER BY tick_ms, schedule_id LIMIT :limit
"""
_OTHERS_WAITING = f"""
    {_WAITING}
    SELECT schedule_id FROM waiting WHERE tick_ms IS NOT NULL AND NOT named ORDER BY tick_ms, schedule_id LIMIT 10
"""
_NEXT_TIME = f"""
    {_WAITING}
    SELECT min(at_ms)
    FROM (
        SELECT :now_ms AS at_ms FROM waiting WHERE tick_ms IS NOT NULL AND named
        UNION ALL
        SELECT claim_expires_at_ms
        FROM schedules
        WHERE named AND claim_expires_at_ms > :now_ms AND schedule_id NOT IN (SELECT value FROM json_each(:claimed))
        UNION ALL
        SELECT next_fire_at_ms
        FROM schedules
        WHERE named AND enabled AND next_fire_at_ms > max(:now_ms, coalesce(last_fire_at_ms, -1))
    )
"""


def claim_due_schedule_buckets(
    db: Connection, *, owner: str, lease_ms: int, now_ms: int, limit: int, workflow_ids: Sequence[str] | None = None
) -> BucketClaims:
    asked = {"now_ms": now_ms, "limit": limit, "workflow_ids": as_json(workflow_ids)}
    claims = [_claim_tick(db, row, owner, lease_ms, now_ms) for row in db.execute(_NEXT_TICKS, asked).fetchall()]
    claimed = as_json(claim.schedule.schedule_id for claim in claims)
    next_due_ms = db.execute(_NEXT_TIME, {**asked, "claimed": claimed}).fetchone()[0]
    others = tuple(row["schedule_id"] for row in db.execute(_OTHERS_WAITING, asked))
    return BucketClaims(buckets=tuple(claims), next_due_ms=next_due_ms, unclaimable=others)


def _claim_tick(db: Connection, row: Row, owner: str, lease_ms: int, now_ms: int) -> ClaimedBucket:
    schedule_id, fire_at_ms = row["schedule_id"], row["tick_ms"]
    source: BucketSource = "due" if fire_at_ms == row["due_ms"] else "requested"
    if row["buffered_ms"] is not None:
        source = "buffered"
    number: int = row["claim_number"] + 1
    lease = Lease(owner=owner, token=secrets.token_hex(16), number=number, expires_at_ms=now_ms + lease_ms)
    set_schedule(
        db,
        schedule_id,
        claimed_fire_at_ms=fire_at_ms,
        claimed_source=source,
        claim_token=lease.token,
        claim_number=number,
        claim_expires_at_ms=lease.expires_at_ms,
    )
    return ClaimedBucket(
        schedule=schedule(row),
        fire_at_ms=fire_at_ms,
        source=source,
        overlap_policy=_policy(db, row, fire_at_ms),
        overlapping_run_id=row["previous_run_id"] if row["live"] else None,
        lease=lease,
    )


def mark_schedule_bucket_started(
    db: Connection,
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
    row = find_schedule(db, schedule_id)
    if row is not None and row["last_operation_id"] == operation_id:
        return _answer(json.loads(row["last_answer"]))
    if row is None or row["revision"] != expected_revision:
        return ScheduleChanged()
    if row["claim_token"] != lease_token or row["claimed_fire_at_ms"] != fire_at_ms:
        raise LeaseLostError(f"tick {fire_at_ms} of schedule {schedule_id!r}")
    policy = _policy(db, row, fire_at_ms)
    answer: BucketResult = BucketSkipped()
    if action == "start":
        assert run_id is not None
        obstacle = _obstacle(db, row, policy, run_id)
        if obstacle is not None:
            return obstacle
        if find_head(db, run_id) is None:
            _insert_run(db, row, run_id, operation_id, now_ms, now_ms if available_at_ms is None else available_at_ms)
        set_schedule(db, schedule_id, previous_run_id=run_id)
        answer = BucketStarted(run_id=run_id)
    buffered_ms = _buffered_after(row, policy, action)
    if action == "buffer" and (policy == "buffer-all" or buffered_ms == fire_at_ms):
        answer = BucketBuffered()
    if action != "buffer" or policy != "buffer-all":
        _delete_request(db, schedule_id, fire_at_ms)
    if row["claimed_source"] == "due":
        set_schedule(db, schedule_id, next_fire_at_ms=next_fire_at_ms, last_fire_at_ms=fire_at_ms)
    facts = json.dumps({"kind": answer.kind} if run_id is None else {"kind": answer.kind, "run_id": run_id})
    settled = {"buffered_fire_at_ms": buffered_ms, "last_operation_id": operation_id, "last_answer": facts}
    set_schedule(db, schedule_id, **NO_CLAIM, **settled, updated_at_ms=now_ms)
    return answer


def _policy(db: Connection, row: Row, fire_at_ms: int) -> RequestedOverlap:
    """Return what a tick was requested with, or else the policy of its schedule."""
    requested = db.execute(
        "SELECT overlap FROM workflow_requested_ticks WHERE schedule_id = ? AND fire_at_ms = ?",
        (row["schedule_id"], fire_at_ms),
    ).fetchone()
    policy: RequestedOverlap = (requested and requested["overlap"]) or row["overlap_policy"]
    return policy


def _obstacle(
    db: Connection, row: Row, policy: RequestedOverlap, run_id: str
) -> BucketOverlapping | BucketBehind | None:
    """Return what keeps the claimed tick from starting: the previous run, or a buffered tick that goes first."""
    if policy == "allow":
        return None
    previous = find_head(db, row["previous_run_id"])
    if previous is not None and previous["run_id"] != run_id and previous["status"] not in TERMINAL_STATUSES:
        return BucketOverlapping(run_id=previous["run_id"])
    fire_at_ms, buffered_ms = row["claimed_fire_at_ms"], row["buffered_fire_at_ms"]
    if buffered_ms in {None, fire_at_ms} or (policy in REPLACING and fire_at_ms > buffered_ms):
        return None
    return BucketBehind(fire_at_ms=buffered_ms)


def _buffered_after(row: Row, policy: RequestedOverlap, action: BucketAction) -> int | None:
    """Return the moment that is buffered when the claimed tick is settled."""
    fire_at_ms: int = row["claimed_fire_at_ms"]
    buffered_ms: int | None = row["buffered_fire_at_ms"]
    if buffered_ms == fire_at_ms:
        buffered_ms = None
    if action == "buffer" and policy != "buffer-all":
        if buffered_ms is None:
            return fire_at_ms
        return buffered_ms if policy == "buffer-one" else max(buffered_ms, fire_at_ms)
    # A tick that starts in spite of a buffered one takes its place, but with `allow` they do not mind each other.
    return None if action == "start" and policy != "allow" else buffered_ms


def _insert_run(db: Connection, row: Row, run_id: str, operation_id: str, now_ms: int, due_ms: int) -> None:
    facts = {name: row[name] for name in ("workflow_id", "workflow_version", "queue", "priority", "schedule_id")}
    insert_run(
        db,
        run_id,
        row["input"],
        now_ms=now_ms,
        claimable_at_ms=due_ms,
        last_operation_id=operation_id,
        scheduled_at_ms=row["claimed_fire_at_ms"],
        **facts,
    )


def _delete_request(db: Connection, schedule_id: str, fire_at_ms: int) -> None:
    moment = (schedule_id, fire_at_ms)
    db.execute("DELETE FROM workflow_requested_ticks WHERE schedule_id = ? AND fire_at_ms = ?", moment)


def _answer(facts: dict[str, Any]) -> BucketResult:
    """Make the answer of a tick that was settled before."""
    kinds: dict[str, Any] = {"started": BucketStarted, "skipped": BucketSkipped, "buffered": BucketBuffered}
    result: BucketResult = kinds[facts["kind"]](**facts)
    return result
