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
        cut, version = (run_id, new_run_id, from_index), (workflow_version, now_ms)
        written = (event.kind, event.step_id, now_ms, len(event.payload or ""), event.payload)
        statement = self._sender.statement
        source, *_, stored = await self._sender.batch(
            [
                statement("fork_run.source", run_id),
                statement("fork_run.run", *cut, *version),
                statement("fork_run.state", *cut),
                statement("fork_run.events", *cut),
                statement("fork_run.event", *cut, *written),
                statement("fork_run.head", *cut, *version, fork.operation),
                statement("create_run.before", new_run_id),
            ]
        )
        length = source[0]["next_index"] if source else None
        return fork.answer(self._read, stored[0] if stored else None, length)
