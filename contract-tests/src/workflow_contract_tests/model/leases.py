"""Claiming runs: by id, and the three claims of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    SILENT_CLAIMS_PER_CRASH,
    ClaimBatch,
    Claimed,
    ClaimedRun,
    ClaimResult,
    Lease,
    NotClaimable,
    NotFound,
    RunStatus,
    RunSummary,
    WorkflowVersion,
)

from .driving import end_run
from .pages import page
from .state import ModelLease, Run, State

__all__ = ["LeaseVerbs", "claim_of", "give_lease"]

Filter: TypeAlias = Callable[[Run], bool]


class LeaseVerbs:
    """The verbs by which a worker gets runs."""

    state: State

    def claim_run(
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
        """Claim one run (CLAIM-1, CLAIM-2, DEAD-2)."""
        run = self.state.runs.get(run_id)
        if run is None:
            return NotFound()
        claimable_at_ms = _claimable_at(run)
        if claimable_at_ms is None or claimable_at_ms > now_ms:
            return NotClaimable(status=run.status, claimable_at_ms=claimable_at_ms)
        if run.status is RunStatus.RUNNING and _dies(run, max_crashes, now_ms):
            return NotClaimable(status=run.status, claimable_at_ms=None)
        give_lease(self.state, run, owner=owner, lease_ms=lease_ms, now_ms=now_ms)
        return Claimed(claim=claim_of(run, now_ms, history_limit, history_bytes))

    def list_pending_runs(
        self,
        *,
        now_ms: int,
        limit: int,
        workflows: Sequence[WorkflowVersion] | None = None,
        queues: Sequence[str] | None = None,
    ) -> tuple[RunSummary, ...]:
        """List the due queued runs (CLAIM-3)."""
        due = self._candidates(RunStatus.QUEUED, workflows, queues)
        return tuple(run.summary() for run in due if run.due_at_ms is not None and run.due_at_ms <= now_ms)[:limit]

    def claim_pending_runs(
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
        """Claim due queued runs (CLAIM-4 to CLAIM-7)."""
        return self._claim(
            RunStatus.QUEUED,
            workflows,
            queues,
            limit,
            now_ms,
            lambda run: self._take(run, owner, lease_ms, now_ms, history_limit, history_bytes),
        )

    def claim_due_timers(
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
        """Claim paused runs that have a due timer (TIMER-2)."""
        return self._claim(
            RunStatus.PAUSED,
            workflows,
            queues,
            limit,
            now_ms,
            lambda run: self._take(run, owner, lease_ms, now_ms, history_limit, history_bytes),
        )

    def claim_stale_runs(
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
        """Claim runs whose lease has expired, or park them (DEAD-2 to DEAD-4)."""

        def take(run: Run) -> ClaimedRun | None:
            if _dies(run, max_crashes, now_ms):
                return None
            return self._take(run, owner, lease_ms, now_ms, history_limit, history_bytes)

        return self._claim(RunStatus.RUNNING, workflows, queues, limit, now_ms, take)

    def _claim(
        self,
        status: RunStatus,
        workflows: Sequence[WorkflowVersion] | None,
        queues: Sequence[str] | None,
        limit: int,
        now_ms: int,
        take: Callable[[Run], ClaimedRun | None],
    ) -> ClaimBatch:
        """Take the first runs of a status that are due; one that is not taken has died."""
        candidates = self._candidates(status, workflows, queues)
        due = [run for run in candidates if (at_ms := _claimable_at(run)) is not None and at_ms <= now_ms]
        taken = [(run.run_id, take(run)) for run in due[:limit]]
        left = [at_ms for run in candidates if run not in due[:limit] and (at_ms := _claimable_at(run)) is not None]
        return ClaimBatch(
            claims=tuple(claim for _, claim in taken if claim is not None),
            next_due_ms=min(left, default=None),
            dead=tuple(run_id for run_id, claim in taken if claim is None),
        )

    def _candidates(
        self, status: RunStatus, workflows: Sequence[WorkflowVersion] | None, queues: Sequence[str] | None
    ) -> list[Run]:
        """Return the runs of a status that match, in the order of claims (CLAIM-5, CLAIM-6)."""
        matching = [
            run
            for run in self.state.runs.values()
            if run.status is status
            and (queues is None or run.queue in queues)
            and (
                workflows is None
                or WorkflowVersion(workflow_id=run.workflow_id, version=run.workflow_version) in workflows
            )
        ]
        return sorted(matching, key=lambda run: (-run.priority, _claimable_at(run) or 0, run.run_id))

    def _take(
        self, run: Run, owner: str, lease_ms: int, now_ms: int, history_limit: int, history_bytes: int
    ) -> ClaimedRun:
        give_lease(self.state, run, owner=owner, lease_ms=lease_ms, now_ms=now_ms)
        return claim_of(run, now_ms, history_limit, history_bytes)


def give_lease(state: State, run: Run, *, owner: str, lease_ms: int, now_ms: int) -> None:
    """Begin a new lease (FENCE-3)."""
    if run.status is not RunStatus.RUNNING:
        run.silent_claims = 0
    run.claims += 1
    run.lease = ModelLease(owner=owner, token=state.new_token(), expires_at_ms=now_ms + lease_ms)
    run.status, run.due_at_ms, run.updated_at_ms, run.awaited = RunStatus.RUNNING, None, now_ms, ()


def claim_of(
    run: Run,
    now_ms: int,
    history_limit: int = DEFAULT_HISTORY_EVENTS,
    history_bytes: int = DEFAULT_HISTORY_BYTES,
) -> ClaimedRun:
    """Return the claim of a run that has just got its lease (CLAIM-2)."""
    assert run.lease is not None
    return ClaimedRun(
        run=run.record(),
        lease=Lease(
            owner=run.lease.owner,
            token=run.lease.token,
            number=run.claims,
            expires_at_ms=run.lease.expires_at_ms,
        ),
        history=page(run.log, history_limit, history_bytes),
        inbox=page(run.inbox.untaken(), DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES),
        due_timers=run.due_timers(now_ms),
    )


def _claimable_at(run: Run) -> int | None:
    """Return when it can be claimed unless something happens before (CLAIM-1)."""
    return run.due_at_ms if run.lease is None else run.lease.expires_at_ms


def _dies(run: Run, max_crashes: int, now_ms: int) -> bool:
    """Count the crash of an expired holder, and park the run when it was one too many (DEAD-2, DEAD-4)."""
    assert run.lease is not None
    if run.lease.heard:
        run.silent_claims = 0
        run.crashes += 1
    else:
        run.silent_claims += 1
        run.crashes += run.silent_claims % SILENT_CLAIMS_PER_CRASH == 0
    if run.crashes < max_crashes:
        return False
    end_run(run, RunStatus.DEAD, now_ms)
    run.updated_at_ms = now_ms
    return True
