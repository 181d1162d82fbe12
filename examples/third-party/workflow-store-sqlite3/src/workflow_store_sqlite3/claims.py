"""Claims: one run by its id, or the next ones of a kind."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from sqlite3 import Connection, Row

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    SILENT_CLAIMS_PER_CRASH,
    ClaimBatch,
    Claimed,
    ClaimedRun,
    ClaimResult,
    CorruptRecordError,
    Lease,
    NotClaimable,
    NotFound,
    RunStatus,
    RunSummary,
    WorkflowVersion,
)

from .heads import end_run, find_head, set_head
from .rows import as_json, entry, read_run, select_events, select_inbox, select_timers, summary

# The time in `claimable_at_ms` means the same for queued runs, running ones and paused ones: so do these.
_MATCHING = """
    status = :status
    AND (:workflows IS NULL OR (workflow_id, workflow_version) IN (
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:workflows)
    ))
    AND (:queues IS NULL OR queue IN (SELECT value FROM json_each(:queues)))
"""
_NEXT_RUNS = f"""
    SELECT workflow_runs.*, awaited
    FROM workflow_runs JOIN workflow_run_data USING (run_id)
    WHERE {_MATCHING} AND claimable_at_ms <= :now_ms
    ORDER BY priority DESC, claimable_at_ms, run_id
    LIMIT :limit
"""
_NEXT_TIME = f"""
    SELECT min(claimable_at_ms)
    FROM workflow_runs
    WHERE {_MATCHING} AND run_id NOT IN (SELECT value FROM json_each(:claimed))
"""


def claim_run(
    db: Connection,
    *,
    run_id: str,
    owner: str,
    lease_ms: int,
    now_ms: int,
    max_crashes: int,
    history_limit: int = DEFAULT_HISTORY_EVENTS,
    history_bytes: int = DEFAULT_HISTORY_BYTES,
) -> ClaimResult:
    head = find_head(db, run_id)
    if head is None:
        return NotFound()
    due_ms = head["claimable_at_ms"]
    if due_ms is None or due_ms > now_ms:
        return NotClaimable(status=RunStatus(head["status"]), claimable_at_ms=due_ms)
    if _count_crash(db, head, max_crashes, now_ms):
        return NotClaimable(status=RunStatus.DEAD, claimable_at_ms=None)
    lease = take_lease(db, run_id, owner=owner, lease_ms=lease_ms, now_ms=now_ms)
    pages = {"history_limit": history_limit, "history_bytes": history_bytes}
    return Claimed(claim=claimed_run(db, run_id, lease, now_ms=now_ms, **pages))


def list_pending_runs(
    db: Connection,
    *,
    now_ms: int,
    limit: int,
    workflows: Sequence[WorkflowVersion] | None = None,
    queues: Sequence[str] | None = None,
) -> tuple[RunSummary, ...]:
    asked = {**_filters(RunStatus.QUEUED, workflows, queues), "now_ms": now_ms, "limit": limit}
    return tuple(summary(row) for row in db.execute(_NEXT_RUNS, asked))


def claim_pending_runs(
    db: Connection,
    *,
    owner: str,
    lease_ms: int,
    now_ms: int,
    limit: int,
    workflows: Sequence[WorkflowVersion] | None = None,
    queues: Sequence[str] | None = None,
    history_limit: int = DEFAULT_HISTORY_EVENTS,
    history_bytes: int = DEFAULT_HISTORY_BYTES,
) -> ClaimBatch:
    asked = {**_filters(RunStatus.QUEUED, workflows, queues), "now_ms": now_ms, "limit": limit}
    return _claim_next(db, asked, owner, lease_ms, history_limit, history_bytes)


def claim_due_timers(
    db: Connection,
    *,
    owner: str,
    lease_ms: int,
    now_ms: int,
    limit: int,
    workflows: Sequence[WorkflowVersion] | None = None,
    queues: Sequence[str] | None = None,
    history_limit: int = DEFAULT_HISTORY_EVENTS,
    history_bytes: int = DEFAULT_HISTORY_BYTES,
) -> ClaimBatch:
    asked = {**_filters(RunStatus.PAUSED, workflows, queues), "now_ms": now_ms, "limit": limit}
    return _claim_next(db, asked, owner, lease_ms, history_limit, history_bytes)


def claim_stale_runs(
    db: Connection,
    *,
    owner: str,
    lease_ms: int,
    now_ms: int,
    limit: int,
    max_crashes: int,
    workflows: Sequence[WorkflowVersion] | None = None,
    queues: Sequence[str] | None = None,
    history_limit: int = DEFAULT_HISTORY_EVENTS,
    history_bytes: int = DEFAULT_HISTORY_BYTES,
) -> ClaimBatch:
    asked = {**_filters(RunStatus.RUNNING, workflows, queues), "now_ms": now_ms, "limit": limit}
    return _claim_next(db, asked, owner, lease_ms, history_limit, history_bytes, max_crashes)


def take_lease(db: Connection, run_id: str, *, owner: str, lease_ms: int, now_ms: int) -> Lease:
    """Make `owner` the holder of a run, by a token that nobody ever had."""
    token, expires_at_ms = secrets.token_hex(16), now_ms + lease_ms
    number = db.execute(
        """
        UPDATE workflow_runs
        SET status = 'running', claimable_at_ms = ?, updated_at_ms = ?,
            lease_owner = ?, lease_token = ?, lease_number = lease_number + 1, lease_heard = 0
        WHERE run_id = ?
        RETURNING lease_number
        """,
        (expires_at_ms, now_ms, owner, token, run_id),
    ).fetchone()[0]
    return Lease(owner=owner, token=token, number=number, expires_at_ms=expires_at_ms)


def claimed_run(
    db: Connection,
    run_id: str,
    lease: Lease,
    *,
    now_ms: int,
    history_limit: int = DEFAULT_HISTORY_EVENTS,
    history_bytes: int = DEFAULT_HISTORY_BYTES,
) -> ClaimedRun:
    """Read what the holder needs to begin."""
    return ClaimedRun(
        run=read_run(db, run_id),
        lease=lease,
        history=select_events(db, run_id, from_index=0, limit=history_limit, max_bytes=history_bytes),
        inbox=tuple(entry(row) for row in select_inbox(db, run_id, limit=DEFAULT_HISTORY_EVENTS)),
        due_timers=select_timers(db, run_id, until_ms=now_ms),
    )


def _claim_next(
    db: Connection,
    asked: dict[str, object],
    owner: str,
    lease_ms: int,
    history_limit: int,
    history_bytes: int,
    max_crashes: int = 1,
) -> ClaimBatch:
    now_ms: int = asked["now_ms"]  # type: ignore[assignment]  # a time
    claims: list[ClaimedRun] = []
    corrupt: list[CorruptRecordError] = []
    dead: list[str] = []
    heads = db.execute(_NEXT_RUNS, asked).fetchall()
    for head in heads:
        run_id = head["run_id"]
        if _count_crash(db, head, max_crashes, now_ms):
            dead.append(run_id)
            continue
        lease = take_lease(db, run_id, owner=owner, lease_ms=lease_ms, now_ms=now_ms)
        pages = {"history_limit": history_limit, "history_bytes": history_bytes}
        try:
            claims.append(claimed_run(db, run_id, lease, now_ms=now_ms, **pages))
        except CorruptRecordError as error:
            corrupt.append(error)
    claimed = as_json(head["run_id"] for head in heads)
    next_due_ms = db.execute(_NEXT_TIME, {**asked, "claimed": claimed}).fetchone()[0]
    return ClaimBatch(claims=tuple(claims), next_due_ms=next_due_ms, corrupt=tuple(corrupt), dead=tuple(dead))


def _count_crash(db: Connection, head: Row, max_crashes: int, now_ms: int) -> bool:
    """Count what an expired lease tells of its holder; park the run and return True when that was once too often."""
    if head["status"] != RunStatus.RUNNING:
        set_head(db, head["run_id"], silent_claims=0)
        return False
    silent: int = 0 if head["lease_heard"] else head["silent_claims"] + 1
    crashes: int = head["crashes"] + (silent % SILENT_CLAIMS_PER_CRASH == 0)
    set_head(db, head["run_id"], crashes=crashes, silent_claims=silent)
    if crashes < max_crashes:
        return False
    end_run(db, head["run_id"], RunStatus.DEAD, now_ms=now_ms)
    return True


def _filters(
    status: RunStatus, workflows: Sequence[WorkflowVersion] | None, queues: Sequence[str] | None
) -> dict[str, object]:
    pairs = None if workflows is None else [(workflow.workflow_id, workflow.version) for workflow in workflows]
    return {"status": status, "workflows": as_json(pairs), "queues": as_json(queues)}
