"""Waking runs by time."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    ClaimBatch,
    WorkflowVersion,
    checked,
)
from workflow_store_sql import Fence

from .claims import Claim, filter_values
from .fenced_write import FencedWrite
from .store_role import StoreRole

__all__ = ["Timers"]


class Timers(StoreRole):
    """The role `TimerStore`."""

    @checked
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
        write = FencedWrite(self._sender, Fence("schedule_timer", run_id, lease_token, operation_id))
        write.add("schedule_timer.timer", timer_id, fire_at_ms)
        write.add("schedule_timer.head", now_ms)
        await write.commit()

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
        claim = Claim(self._sender, self._read, self._sender.new_token(), now_ms, history_limit, history_bytes)
        wanted = filter_values(workflows, queues)
        return await claim.take_many(
            "claim_due_timers.heads",
            (owner, claim.token, now_ms + lease_ms, now_ms, limit, *wanted),
            "claim_due_timers.next_due",
            wanted,
        )
