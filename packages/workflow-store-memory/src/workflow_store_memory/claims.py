"""Claiming: the one way in which a worker gets hold of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    SILENT_CLAIMS_PER_CRASH,
    ClaimBatch,
    ClaimedRun,
    RunStatus,
    WorkflowVersion,
)

from .data import InMemoryData, Run
from .records import first_history, run_record, untaken_inbox

__all__ = ["Claim", "RunFilter", "claim_batch", "due_runs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """A filter of the runs that a worker can drive; `None` means any, an empty sequence none."""

    status: RunStatus
    workflows: Sequence[WorkflowVersion] | None
    queues: Sequence[str] | None

    def matches(self, run: Run) -> bool:
        """Return True if the run is one of them."""
        if run.status is not self.status or (self.queues is not None and run.queue not in self.queues):
            return False
        return self.workflows is None or any(
            run.workflow_id == wanted.workflow_id and run.workflow_version == wanted.version
            for wanted in self.workflows
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One call that claims: for which worker, for how long, and how much history comes along."""

    owner: str
    lease_ms: int
    now_ms: int
    history_limit: int = DEFAULT_HISTORY_EVENTS
    history_bytes: int = DEFAULT_HISTORY_BYTES
    max_crashes: int = 1
    """Matters only for a run that is taken from an expired lease."""

    def take(self, run: Run) -> ClaimedRun | None:
        """Claim a run that is due; `None` when that was one crash too many and the run is `dead` now."""
        if run.status is RunStatus.RUNNING:
            counts = run.silent_claims in {0, SILENT_CLAIMS_PER_CRASH}
            run.crashes += counts
            if run.crashes >= self.max_crashes:
                run.make_dead(self.now_ms)
                return None
            run.silent_claims = 1 if counts else run.silent_claims + 1
        else:
            run.silent_claims = 1
        lease = run.begin_lease(owner=self.owner, expires_at_ms=self.now_ms + self.lease_ms, now_ms=self.now_ms)
        return ClaimedRun(
            run=run_record(run),
            lease=lease,
            history=first_history(run, history_limit=self.history_limit, history_bytes=self.history_bytes),
            inbox=untaken_inbox(run),
            due_timers=tuple(timer for timer in run.pending_timers if timer.fire_at_ms <= self.now_ms),
        )


def due_runs(data: InMemoryData, runs: RunFilter, *, now_ms: int, limit: int) -> list[Run]:
    """Return the runs that a claim would take now, in its order."""
    return _first_due(_waiting(data, runs), now_ms=now_ms, limit=limit)


def claim_batch(data: InMemoryData, runs: RunFilter, claim: Claim, *, limit: int) -> ClaimBatch:
    """Claim the due runs, greatest priority first, then earliest due, then by id."""
    waiting = _waiting(data, runs)
    chosen = _first_due(waiting, now_ms=claim.now_ms, limit=limit)
    chosen_ids = {run.run_id for run in chosen}
    outcomes = [(run.run_id, claim.take(run)) for run in chosen]
    return ClaimBatch(
        claims=tuple(taken for _, taken in outcomes if taken is not None),
        next_due_ms=min((at_ms for at_ms, run in waiting if run.run_id not in chosen_ids), default=None),
        dead=tuple(run_id for run_id, taken in outcomes if taken is None),
    )


def _waiting(data: InMemoryData, runs: RunFilter) -> list[tuple[int, Run]]:
    """Pair each matching run that time alone makes claimable with that time."""
    matching = ((run.claimable_at_ms, run) for run in data.runs.values() if runs.matches(run))
    return [(at_ms, run) for at_ms, run in matching if at_ms is not None]


def _first_due(waiting: list[tuple[int, Run]], *, now_ms: int, limit: int) -> list[Run]:
    due = [(-run.priority, at_ms, run.run_id, run) for at_ms, run in waiting if at_ms <= now_ms]
    due.sort(key=lambda item: item[:3])
    return [run for *_, run in due[:limit]]
