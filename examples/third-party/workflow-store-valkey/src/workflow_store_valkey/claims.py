"""The claims of `LeaseStore` and `TimerStore`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    ClaimBatch,
    Claimed,
    ClaimResult,
    CorruptRecordError,
    NotClaimable,
    NotFound,
    RunStatus,
    RunSummary,
    WorkflowVersion,
    checked,
    new_id,
)

from . import codec
from .server import Server


class Claims:
    """The methods by which workers get runs."""

    _server: Server

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
        match await self._server.call(
            "claim_run",
            run_id=run_id,
            owner=owner,
            lease_ms=lease_ms,
            now_ms=now_ms,
            max_crashes=max_crashes,
            history_limit=history_limit,
            history_bytes=history_bytes,
            inbox_limit=DEFAULT_HISTORY_EVENTS,
            new_token=new_id(),
        ):
            case ["claimed", claim]:
                return Claimed(claim=codec.read_claim(claim))
            case ["not-claimable", status, claimable_at_ms]:
                return NotClaimable(status=RunStatus(status), claimable_at_ms=claimable_at_ms)
        return NotFound()

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
        return await self._claim(
            RunStatus.QUEUED,
            owner=owner,
            lease_ms=lease_ms,
            now_ms=now_ms,
            limit=limit,
            workflows=workflows,
            queues=queues,
            history_limit=history_limit,
            history_bytes=history_bytes,
        )

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
        return await self._claim(
            RunStatus.RUNNING,
            owner=owner,
            lease_ms=lease_ms,
            now_ms=now_ms,
            limit=limit,
            max_crashes=max_crashes,
            workflows=workflows,
            queues=queues,
            history_limit=history_limit,
            history_bytes=history_bytes,
        )

    @checked
    async def claim_due_timers(
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
        return await self._claim(
            RunStatus.PAUSED,
            owner=owner,
            lease_ms=lease_ms,
            now_ms=now_ms,
            limit=limit,
            workflows=workflows,
            queues=queues,
            history_limit=history_limit,
            history_bytes=history_bytes,
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
        rows = await self._server.call(
            "list_pending_runs",
            now_ms=now_ms,
            limit=limit,
            workflows=workflows,
            queues=queues,
            columns=codec.SUMMARY_COLUMNS,
        )
        return tuple(codec.read_summary(dict(zip(codec.SUMMARY_COLUMNS, row, strict=True))) for row in rows)

    async def _claim(self, status: RunStatus, **arguments: Any) -> ClaimBatch:
        """Claim the first runs of one status whose time has come."""
        found, next_due_ms, dead = await self._server.call(
            "claim_runs", status=status, inbox_limit=DEFAULT_HISTORY_EVENTS, new_token=new_id(), **arguments
        )
        claims, corrupt = [], []
        for reply in found:
            try:
                claims.append(codec.read_claim(reply))
            except CorruptRecordError as error:
                corrupt.append(error)
        return ClaimBatch(claims=tuple(claims), next_due_ms=next_due_ms, corrupt=tuple(corrupt), dead=tuple(dead))
