"""Answers to claims and heartbeats, as pure functions of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from workflow_runtime.store import (
    ClaimBatch,
    ClaimedRun,
    CorruptRecordError,
    LeaseBusy,
    LeaseLost,
    LeaseLostError,
    LeaseRenewal,
    LeaseResult,
    NotClaimable,
    RunStatus,
)

from .rows import Row, RowReader, RunRows

__all__ = [
    "answer_heartbeat",
    "answer_heartbeat_groups",
    "answer_heartbeats",
    "claim_batch",
    "not_claimable",
    "read_claims",
]


def read_claims(
    read: RowReader, runs: Iterable[RunRows], history_limit: int
) -> tuple[list[ClaimedRun], list[CorruptRecordError]]:
    """Return the claimed runs; one that cannot be read is reported and keeps no other back."""
    claims, corrupt = [], []
    for rows in runs:
        try:
            claims.append(read.claimed_run(rows, history_limit))
        except CorruptRecordError as error:
            corrupt.append(error)
    return claims, corrupt


def claim_batch(
    read: RowReader, runs: Iterable[RunRows], *, history_limit: int, next_due_ms: int | None, dead: Iterable[str] = ()
) -> ClaimBatch:
    """Answer a claim of several runs.

    Args:
        read: The store's codec.
        runs: The rows of each claimed run.
        history_limit: The most events of the first page.
        next_due_ms: When the next run is due.
        dead: The runs that were parked instead.
    """
    claims, corrupt = read_claims(read, runs, history_limit)
    return ClaimBatch(claims=tuple(claims), next_due_ms=next_due_ms, corrupt=tuple(corrupt), dead=tuple(sorted(dead)))


def not_claimable(
    read: RowReader, run_id: str, *, status: str, lease_expires_at: int | None, due_at: int | None
) -> NotClaimable:
    """Answer `claim_run` for a run that cannot be claimed now, by its head."""
    stands = read.status(status, run_id)
    claimable_at_ms = None
    if stands is RunStatus.RUNNING:
        claimable_at_ms = lease_expires_at
    elif stands in {RunStatus.QUEUED, RunStatus.PAUSED}:
        claimable_at_ms = due_at
    return NotClaimable(status=stands, claimable_at_ms=claimable_at_ms)


def answer_heartbeat(run_id: str, rows: Sequence[Row]) -> LeaseRenewal:
    """Answer `heartbeat_run_lease`.

    Raises:
        LeaseLostError: No row was renewed.
    """
    if not rows:
        raise LeaseLostError(f"run {run_id!r}")
    [row] = rows
    return _renewal(row)


def answer_heartbeats(leases: Sequence[tuple[str, str]], rows: Iterable[Row]) -> tuple[LeaseResult, ...]:
    """Answer `heartbeat_run_leases`.

    Args:
        leases: Run ids with lease tokens.
        rows: One for each lease that is not lost.
    """
    answers = {(row["run_id"], row["lease_token"]): _renewal(row) for row in rows}
    lost = LeaseLost()
    return tuple(answers.get(lease, lost) for lease in leases)


def answer_heartbeat_groups(count: int, rows: Iterable[Row]) -> tuple[LeaseResult, ...]:
    """Answer `heartbeat_run_leases` where a row stands for all leases with the same answer.

    Args:
        count: Number of leases that were named.
        rows: `places` are their places among them, from 1 on, apart by commas. Where they are busy, `lease_expires_at`
            is null. Those that are in no row are lost.
    """
    answers: list[LeaseResult] = [LeaseLost()] * count
    for row in rows:
        answer = LeaseBusy() if row["lease_expires_at"] is None else _renewal(row)
        for place in row["places"].split(","):
            answers[int(place) - 1] = answer
    return tuple(answers)


def _renewal(row: Row) -> LeaseRenewal:
    return LeaseRenewal(
        lease_expires_at_ms=row["lease_expires_at"],
        inbox_seq=row["inbox_seq"],
        cancel_requested=bool(row["cancel_requested"]),
        store_clock_ms=row["clock"],
    )
