"""Waking runs by time."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    ClaimBatch,
    RunStatus,
    Timer,
    WorkflowVersion,
)

from .atomic import atomic
from .claims import Claim, RunFilter, claim_batch
from .data import NoAnswer
from .store_role import StoreRole

__all__ = ["Timers"]


class Timers(StoreRole):
    """The role `TimerStore`."""

    @atomic
    async def schedule_timer(
        self,
        *,
        run_id: str,
        lease_token: str,
        operation_id: str,
        timer_id: str,
        fire_at_ms: int,
        now_ms: int,
    ) -> None:
        """TIMER-1."""
        if self._repeated(run_id, operation_id, NoAnswer) is not None:
            return
        run = self._driven(run_id, lease_token)
        run.silent_claims = 0
        run.change_timers([Timer(timer_id=timer_id, fire_at_ms=fire_at_ms)], [])
        run.updated_at_ms = now_ms
        run.record(operation_id, NoAnswer())

    @atomic
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
        """TIMER-2, TIMER-3."""
        claim = Claim(
            owner=owner, lease_ms=lease_ms, now_ms=now_ms, history_limit=history_limit, history_bytes=history_bytes
        )
        paused = RunFilter(status=RunStatus.PAUSED, workflows=workflows, queues=queues)
        return claim_batch(self._data, paused, claim, limit=limit)
