"""Claiming runs and keeping the claim."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    ClaimBatch,
    Claimed,
    ClaimResult,
    LeaseRenewal,
    LeaseResult,
    NotClaimable,
    NotFound,
    RunStatus,
    RunSummary,
    WorkflowVersion,
    checked,
)
from workflow_store_sql import Fence, answer_heartbeat, answer_heartbeats, not_claimable, read_claims

from .claims import Claim, filter_values, run_rows
from .fenced_write import FencedWrite
from .statement_sender import json_list
from .store_role import StoreRole

__all__ = ["Leases"]


class Leases(StoreRole):
    """The role `LeaseStore`."""

    @checked
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
        claim = Claim(self._sender, self._read, self._sender.new_token(), now_ms, history_limit, history_bytes)
        statement = self._sender.statement
        before, taken, *results = await self._sender.batch(
            [
                statement("claim_run.before", run_id),
                statement("claim_run.head", run_id, owner, claim.token, now_ms + lease_ms, now_ms, max_crashes),
                *claim.brought(),
            ]
        )
        if not before:
            return NotFound()
        claims, corrupt = read_claims(self._read, run_rows(results), history_limit)
        for error in corrupt:
            raise error
        if claims:  # by this try, or by an earlier one whose answer was lost
            return Claimed(claim=claims[0])
        if taken:
            return NotClaimable(status=RunStatus.DEAD, claimable_at_ms=None)
        return not_claimable(self._read, run_id, **before[0])

    @checked
    async def heartbeat_run_lease(self, *, run_id: str, lease_token: str, lease_ms: int, now_ms: int) -> LeaseRenewal:
        rows = await self._sender.rows("heartbeat_run_lease", run_id, lease_token, now_ms + lease_ms)
        return answer_heartbeat(run_id, rows)

    @checked
    async def heartbeat_run_leases(
        self, *, leases: Sequence[tuple[str, str]], lease_ms: int, now_ms: int
    ) -> tuple[LeaseResult, ...]:
        if not leases:
            return ()
        rows = await self._sender.rows("heartbeat_run_leases", json_list(leases), now_ms + lease_ms)
        return answer_heartbeats(leases, rows)

    @checked
    async def release_run_lease(self, *, run_id: str, lease_token: str, operation_id: str, now_ms: int) -> None:
        write = FencedWrite(self._sender, Fence("release_run_lease", run_id, lease_token, operation_id))
        write.add("release_run_lease.head", now_ms)
        await write.commit()

    @checked
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
        claim = Claim(self._sender, self._read, self._sender.new_token(), now_ms, history_limit, history_bytes)
        wanted = filter_values(workflows, queues)
        return await claim.take_many(
            "claim_stale_runs.heads",
            (owner, claim.token, now_ms + lease_ms, now_ms, limit, *wanted, max_crashes),
            "claim_stale_runs.next_due",
            (claim.token, *wanted),
        )

    @checked
    async def list_pending_runs(
        self,
        *,
        now_ms: int,
        limit: int,
        workflows: Sequence[WorkflowVersion] | None = None,
        queues: Sequence[str] | None = None,
    ) -> tuple[RunSummary, ...]:
        rows = await self._sender.rows("list_pending_runs", now_ms, limit, *filter_values(workflows, queues))
        return tuple(self._read.summary(row) for row in rows)

    @checked
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
        claim = Claim(self._sender, self._read, self._sender.new_token(), now_ms, history_limit, history_bytes)
        wanted = filter_values(workflows, queues)
        return await claim.take_many(
            "claim_pending_runs.heads",
            (owner, claim.token, now_ms + lease_ms, now_ms, limit, *wanted),
            "claim_pending_runs.next_due",
            wanted,
        )
