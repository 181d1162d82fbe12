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
from workflow_store_sql import Fence, answer_heartbeat, answer_heartbeat_groups, not_claimable

from .claims import Claim, filter_values
from .fenced_write import FencedWrite
from .rows import run_rows
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
        claim = Claim(self._sender, self._read, owner, now_ms + lease_ms, now_ms, history_limit, history_bytes)
        found = await claim.take_one(run_id, max_crashes)
        if found is None:
            return NotFound()
        if found["run_id"] is None:
            return not_claimable(
                self._read,
                run_id,
                status=found["before_status"],
                lease_expires_at=found["before_lease_expires_at"],
                due_at=found["before_due_at"],
            )
        if found["status"] == RunStatus.DEAD:
            return NotClaimable(status=RunStatus.DEAD, claimable_at_ms=None)
        return Claimed(claim=self._read.claimed_run(run_rows(found), history_limit))

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
        named = list(dict.fromkeys(leases))
        run_ids, tokens = zip(*named, strict=True)
        rows = await self._sender.rows("heartbeat_run_leases", run_ids, tokens, now_ms + lease_ms)
        answers = answer_heartbeat_groups(len(named), rows)
        if len(named) == len(leases):
            return answers
        by_lease = dict(zip(named, answers, strict=True))
        return tuple(by_lease[lease] for lease in leases)

    @checked
    async def release_run_lease(self, *, run_id: str, lease_token: str, operation_id: str, now_ms: int) -> None:
        write = FencedWrite(self._sender, Fence("release_run_lease", run_id, lease_token, operation_id))
        with self._notices.about(run_id) as pending:
            outcome = await write.commit("release_run_lease", now_ms, pending.by_statement)
            pending.wakes = outcome.wakes

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
        claim = Claim(self._sender, self._read, owner, now_ms + lease_ms, now_ms, history_limit, history_bytes)
        return await claim.take_many("claim_stale_runs", limit, *filter_values(workflows, queues), max_crashes)

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
        claim = Claim(self._sender, self._read, owner, now_ms + lease_ms, now_ms, history_limit, history_bytes)
        return await claim.take_many("claim_pending_runs", limit, *filter_values(workflows, queues))
