"""Claiming runs and keeping the claim."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    ClaimBatch,
    Claimed,
    ClaimResult,
    LeaseLost,
    LeaseLostError,
    LeaseRenewal,
    LeaseResult,
    NotClaimable,
    NotFound,
    RunStatus,
    RunSummary,
    WorkflowVersion,
)

from .atomic import atomic
from .claims import Claim, RunFilter, claim_batch, due_runs
from .data import NoAnswer
from .records import run_summary
from .store_role import StoreRole

__all__ = ["Leases"]


class Leases(StoreRole):
    """The role `LeaseStore`."""

    @atomic
    async def claim_run(
        self,
        *,
        run_id: str,
        owner: str,
        lease_ms: int,
        now_ms: int,
        max_crashes: int,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> ClaimResult:
        """CLAIM-1, CLAIM-2, DEAD-2."""
        run = self._data.runs.get(run_id)
        if run is None:
            return NotFound()
        claim = Claim(
            owner=owner,
            lease_ms=lease_ms,
            now_ms=now_ms,
            history_limit=history_limit,
            history_bytes=history_bytes,
            max_crashes=max_crashes,
        )
        claimable_at_ms = run.claimable_at_ms
        taken = None
        if claimable_at_ms is not None and claimable_at_ms <= now_ms:
            taken = claim.take(run)
        if taken is None:
            return NotClaimable(status=run.status, claimable_at_ms=run.claimable_at_ms)
        return Claimed(claim=taken)

    @atomic
    async def heartbeat_run_lease(self, *, run_id: str, lease_token: str, lease_ms: int, now_ms: int) -> LeaseRenewal:
        """LEASE-1, LEASE-2."""
        return self._renew(run_id, lease_token, now_ms + lease_ms)

    @atomic
    async def heartbeat_run_leases(
        self, *, leases: Sequence[tuple[str, str]], lease_ms: int, now_ms: int
    ) -> tuple[LeaseResult, ...]:
        """LEASE-4."""
        return tuple(self._renew_or_lose(run_id, token, now_ms + lease_ms) for run_id, token in leases)

    def _renew_or_lose(self, run_id: str, lease_token: str, expires_at_ms: int) -> LeaseResult:
        try:
            return self._renew(run_id, lease_token, expires_at_ms)
        except LeaseLostError:
            return LeaseLost()

    def _renew(self, run_id: str, lease_token: str, expires_at_ms: int) -> LeaseRenewal:
        run = self._driven(run_id, lease_token)
        lease = run.renew_lease(expires_at_ms)
        return LeaseRenewal(
            lease_expires_at_ms=lease.expires_at_ms,
            inbox_seq=run.inbox_seq,
            cancel_requested=run.cancel_requested,
            store_clock_ms=self._clock(),
        )

    @atomic
    async def release_run_lease(self, *, run_id: str, lease_token: str, operation_id: str, now_ms: int) -> None:
        """LEASE-3."""
        if self._repeated(run_id, operation_id, NoAnswer) is not None:
            return
        run = self._driven(run_id, lease_token)
        run.make_queued(now_ms)
        self._data.notify(run_id)
        run.record(operation_id, NoAnswer())

    @atomic
    async def claim_stale_runs(
        self,
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
        """DEAD-2."""
        claim = Claim(
            owner=owner,
            lease_ms=lease_ms,
            now_ms=now_ms,
            history_limit=history_limit,
            history_bytes=history_bytes,
            max_crashes=max_crashes,
        )
        running = RunFilter(status=RunStatus.RUNNING, workflows=workflows, queues=queues)
        return claim_batch(self._data, running, claim, limit=limit)

    @atomic
    async def list_pending_runs(
        self,
        *,
        now_ms: int,
        limit: int,
        workflows: Sequence[WorkflowVersion] | None = None,
        queues: Sequence[str] | None = None,
    ) -> tuple[RunSummary, ...]:
        """CLAIM-3."""
        queued = RunFilter(status=RunStatus.QUEUED, workflows=workflows, queues=queues)
        return tuple(run_summary(run) for run in due_runs(self._data, queued, now_ms=now_ms, limit=limit))

    @atomic
    async def claim_pending_runs(
        self,
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
        """CLAIM-4 to CLAIM-9."""
        claim = Claim(
            owner=owner, lease_ms=lease_ms, now_ms=now_ms, history_limit=history_limit, history_bytes=history_bytes
        )
        queued = RunFilter(status=RunStatus.QUEUED, workflows=workflows, queues=queues)
        return claim_batch(self._data, queued, claim, limit=limit)
