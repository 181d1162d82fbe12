"""Runs that wait for a worker and that no worker of this runtime takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .clock import Clock
from .frozen_value import Value, value
from .logs import get_logger, one_line
from .store import RunStatus, RunSummary, WorkflowExecutionStore, WorkflowVersion

__all__ = ["UnservedRuns", "UnservedWatch"]

logger = get_logger("workflow_runtime")

_WAITED_MS = 60_000
"""A run that waits for so long does not just wait for the workers of another kind that serve it."""
_EVERY_MS = 600_000
_FIRST_MS = 60_000
_LOOKED_THROUGH = 100
_KEPT = 10


@value
class UnservedRuns(Value):
    """Runs of one kind that have waited for a worker for a minute, and that this runtime does not take."""

    status: RunStatus
    """`queued`; `paused`, and a timer is due; or `running`, and the lease is over."""
    workflow_id: str | None
    """`None`, like what follows, when so many runs are in this status that it was not among the first thousand."""
    workflow_version: str | None
    queue: str | None
    first_run_id: str | None
    """One that has waited for long."""
    due_at_ms: int
    """Since when that one has been waiting; milliseconds since the Unix epoch."""


class UnservedWatch:
    """A regular look for runs that no worker of this runtime takes, reported in the log.

    Of queued runs it looks through the first 100 that have waited for a minute, in the order of claims: where more than
    that wait for this very runtime, others are found when it has caught up.

    Args:
        store: Where runs live.
        clock: The runtime's.
        owner: As for claims, though nothing is claimed.
        workflows: What this runtime knows.
        queues: What it serves; `None` is all.
    """

    def __init__(
        self,
        *,
        store: WorkflowExecutionStore,
        clock: Clock,
        owner: str,
        workflows: Sequence[WorkflowVersion],
        queues: Sequence[str] | None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._workflows = frozenset(workflows)
        self._queues = queues
        self._next_ms = clock.now_ms() + _FIRST_MS

    @property
    def is_due(self) -> bool:
        """True if it is time to look."""
        return self._clock.now_ms() >= self._next_ms

    async def look(self) -> tuple[UnservedRuns, ...]:
        """Look, and log what is found.

        Raises:
            StoreError: The store is away, or refuses.
        """
        now_ms = self._clock.now_ms()
        self._next_ms = now_ms + _EVERY_MS
        before_ms = max(0, now_ms - _WAITED_MS)
        found = [
            *await self._queued(before_ms),
            *await self._others(RunStatus.PAUSED, self._store.claim_due_timers, before_ms),
            *await self._others(RunStatus.RUNNING, self._store.claim_stale_runs, before_ms, max_crashes=1),
        ]
        for runs in found:
            self._say(runs, now_ms)
        return tuple(found)

    async def _queued(self, before_ms: int) -> list[UnservedRuns]:
        waiting = await self._store.list_pending_runs(now_ms=before_ms, limit=_LOOKED_THROUGH)
        return self._unserved(waiting, before_ms)

    async def _others(
        self, status: RunStatus, claim: Callable[..., Any], before_ms: int, **more: Any
    ) -> list[UnservedRuns]:
        """Ask for no run, but since when the first of anybody waits; if that is long, whether it is one of ours."""
        nothing = {"owner": self._owner, "lease_ms": 1, "limit": 0, "now_ms": before_ms, **more}
        first_ms = (await claim(**nothing)).next_due_ms
        if first_ms is None or first_ms > before_ms:
            return []
        ours_ms = (await claim(**nothing, workflows=tuple(self._workflows), queues=self._queues)).next_due_ms
        if ours_ms is not None and ours_ms <= first_ms:
            return []
        page = await self._store.list_runs(limit=10 * _LOOKED_THROUGH, statuses=[status])
        unknown = UnservedRuns(
            status=status, workflow_id=None, workflow_version=None, queue=None, first_run_id=None, due_at_ms=first_ms
        )
        return self._unserved(page.runs, before_ms) or [unknown]

    def _unserved(self, waiting: Iterable[RunSummary], before_ms: int) -> list[UnservedRuns]:
        found: dict[tuple[str, str, str], UnservedRuns] = {}
        for run in waiting:
            since_ms = run.lease_expires_at_ms if run.status is RunStatus.RUNNING else run.due_at_ms
            if since_ms is not None and since_ms <= before_ms and not self._serves(run):
                kind = (run.workflow_id, run.workflow_version, run.queue)
                found.setdefault(kind, _unserved(run, since_ms))
        return list(found.values())[:_KEPT]

    def _serves(self, run: RunSummary) -> bool:
        version = WorkflowVersion(workflow_id=run.workflow_id, version=run.workflow_version)
        return version in self._workflows and (self._queues is None or run.queue in self._queues)

    def _say(self, runs: UnservedRuns, now_ms: int) -> None:
        knows = any(version.workflow_id == runs.workflow_id for version in self._workflows)
        logger.warning(
            "runs that are %r, of workflow %r version %r in queue %r, wait for a worker; this one %s: %r for %.0f s",
            str(runs.status),
            runs.workflow_id,
            runs.workflow_version,
            runs.queue,
            one_line("does not take that version or queue" if knows else "does not know that workflow"),
            runs.first_run_id,
            (now_ms - runs.due_at_ms) / 1000,
        )


def _unserved(run: RunSummary, since_ms: int) -> UnservedRuns:
    return UnservedRuns(
        status=run.status,
        workflow_id=run.workflow_id,
        workflow_version=run.workflow_version,
        queue=run.queue,
        first_run_id=run.run_id,
        due_at_ms=since_ms,
    )
