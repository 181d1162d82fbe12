"""Runs that begin with the first part of another run's log."""

from __future__ import annotations

from workflow_runtime.store import Existing, Forked, ForkResult, NewEvent, NotForkable, NotFound, differing_fork

from .atomic import atomic
from .data import Run
from .records import run_record
from .store_role import StoreRole

__all__ = ["Forks"]


class Forks(StoreRole):
    """The verb `fork_run` of the role `RunLifecycleStore`."""

    @atomic
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
        """FORK-1 to FORK-4."""
        repeated = self._repeated(new_run_id, operation_id, Forked)
        if repeated is not None:
            return repeated
        existing = self._data.runs.get(new_run_id)
        if existing is not None:
            run = run_record(existing)
            differs = differing_fork(run, run_id=run_id, from_index=from_index, workflow_version=workflow_version)
            return Existing(run=run, differs=differs)
        source = self._data.runs.get(run_id)
        if source is None:
            return NotFound()
        if source.next_index < from_index:
            return NotForkable(next_index=source.next_index)
        fork = Run(
            run_id=new_run_id,
            generation=self._data.new_generation(),
            workflow_id=source.workflow_id,
            workflow_version=source.workflow_version if workflow_version is None else workflow_version,
            input=source.input,
            queue=source.queue,
            priority=source.priority,
            schedule_id=source.schedule_id,
            scheduled_at_ms=source.scheduled_at_ms,
            forked_from_run_id=run_id,
            forked_from_index=from_index,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            available_at_ms=now_ms,
            events=source.events[:from_index],
        )
        fork.append((event,), (), now_ms)
        self._data.runs[new_run_id] = fork
        self._data.notify(new_run_id)
        return fork.record(operation_id, Forked(run=run_record(fork)))
