"""Runs that begin with the first part of another run's log."""

from __future__ import annotations

from workflow_runtime.store import (
    Existing,
    Forked,
    ForkResult,
    NewEvent,
    NotForkable,
    NotFound,
    checked,
    differing_fork,
)

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
        operation = f"fork_run:{operation_id}"
        fork = (run_id, new_run_id, from_index, workflow_version, now_ms, operation)
        with self._notices.about(new_run_id) as telling:
            written = (event.kind, event.step_id, event.payload, telling.itself)
            [row] = await self._session.settled("fork_run", *fork, *written)
            telling.wakes = row["wakes"]
        if row["run_id"] is None:
            length = row["source_length"]
            return NotFound() if length is None else NotForkable(next_index=length)
        run = self._read.record(row)
        if row["operation_id"] == operation:
            return Forked(run=run)
        differs = differing_fork(run, run_id=run_id, from_index=from_index, workflow_version=workflow_version)
        return Existing(run=run, differs=differs)
