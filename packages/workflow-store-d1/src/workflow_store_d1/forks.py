"""Runs that begin with the first part of another run's log."""

from __future__ import annotations

from workflow_runtime.store import ForkResult, NewEvent, checked
from workflow_store_sql import answer_fork

from .role import Role

__all__ = ["Forks"]


class Forks(Role):
    """Keeps `fork_run` of `RunLifecycleStore`."""

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
        statement = self._session.statement
        fork, version = (run_id, new_run_id, from_index), (workflow_version, now_ms)
        written = (event.kind, event.step_id, now_ms, len(event.payload or ""), event.payload)
        operation = f"fork_run:{operation_id}"
        source, *_, stored = await self._session.batch(
            [
                statement("fork_run.source", run_id),
                statement("fork_run.run", *fork, *version),
                statement("fork_run.state", *fork),
                statement("fork_run.events", *fork),
                statement("fork_run.event", *fork, *written),
                statement("fork_run.head", *fork, *version, operation),
                statement("create_run.before", new_run_id),
            ]
        )
        return answer_fork(
            self._read,
            stored[0] if stored else None,
            operation=operation,
            run_id=run_id,
            from_index=from_index,
            workflow_version=workflow_version,
            source_length=source[0]["next_index"] if source else None,
        )
