"""Runs that begin with the first part of another run's log."""

from __future__ import annotations

from workflow_runtime.store import ForkResult, NewEvent, checked
from workflow_store_sql import Fork

from .store_role import StoreRole

__all__ = ["Forks"]


class Forks(StoreRole):
    """The verb `fork_run` of the role `RunLifecycleStore`."""

    @checked
    async def fork_run(
        self,
        *,
        run_id: str,
        new_run_id: str,
        from_index: int,
        event: NewEvent,
        operation_id: str,
        now_ms: int,
        workflow_version: str | None = None,
    ) -> ForkResult:
        fork = Fork(run_id, new_run_id, from_index, workflow_version, operation_id)
        values = (run_id, new_run_id, from_index, workflow_version, now_ms, fork.operation)
        with self._notices.about(new_run_id) as pending:
            written = (event.kind, event.step_id, event.payload, pending.by_statement)
            [row] = await self._sender.settled("fork_run", *values, *written)
            pending.wakes = row["wakes"]
        return fork.answer(self._read, None if row["run_id"] is None else row, row["source_length"])
