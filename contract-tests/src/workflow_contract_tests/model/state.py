"""The state of the model: plain objects without rules. The rules are in the modules of the verbs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    AWAITED_SHOWN,
    Awaited,
    BucketSource,
    Event,
    InboxEntry,
    OverlapPolicy,
    RequestedOverlap,
    RunRecord,
    RunStatus,
    RunSummary,
    Schedule,
    Timer,
)

__all__ = ["Inbox", "ModelLease", "Run", "ScheduleState", "State", "TickClaim", "Unsettled"]


class Unsettled(Exception):  # noqa: N818  # no error: the contract leaves this open
    """A call whose effect the contract leaves to the store, so that no comparison is possible after it."""

    def __init__(self, clause_id: str, freedom: str) -> None:
        self.clause_id = clause_id
        super().__init__(f"{clause_id}: {freedom}")


@dataclass
class ModelLease:
    """The lease of a run."""

    owner: str
    token: str
    expires_at_ms: int
    heard: bool = False
    """True once a heartbeat or a driver's write was accepted under it (DEAD-2)."""


@dataclass
class Inbox:
    """The inbox of a run. Entries stay when they are taken."""

    entries: list[InboxEntry] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    known: dict[tuple[str, str], int] = field(default_factory=dict)
    """Numbers of the entries by kind and delivery id, for SIGNAL-2, APPROVAL-2 and CANCEL-1."""

    def untaken(self, after_seq: int = 0) -> list[InboxEntry]:
        """Return what a claim brings (LOG-6)."""
        return [entry for entry in self.entries if entry.inbox_seq > after_seq and entry.inbox_seq not in self.taken]


@dataclass(kw_only=True)
class Run:
    """One run: head, payloads, log, inbox, timers, and the last write of its driver."""

    run_id: str
    workflow_id: str
    workflow_version: str
    input: JsonText
    queue: str
    priority: int
    created_at_ms: int
    updated_at_ms: int
    status: RunStatus = RunStatus.QUEUED
    due_at_ms: int | None = None
    finished_at_ms: int | None = None
    cancel_requested: bool = False
    crashes: int = 0
    silent_claims: int = 0
    """Claims in a row from a lease under which nothing was heard (DEAD-4)."""
    lease: ModelLease | None = None
    claims: int = 0
    output: JsonText | None = None
    error: JsonText | None = None
    reason: str | None = None
    awaited: tuple[Awaited, ...] = ()
    schedule_id: str | None = None
    scheduled_at_ms: int | None = None
    forked_from_run_id: str | None = None
    forked_from_index: int | None = None
    log: list[Event] = field(default_factory=list)
    inbox: Inbox = field(default_factory=Inbox)
    timers: dict[str, int] = field(default_factory=dict)
    last_operation: tuple[str, Any] | None = None
    """Operation id and answer of the last driver's write (OP-1)."""

    @property
    def first_timer_ms(self) -> int | None:
        """Time of the earliest timer."""
        return min(self.timers.values(), default=None)

    def has_expired(self, now_ms: int) -> bool:
        """Return True if somebody else may claim it from its holder (CLAIM-1)."""
        return self.status is RunStatus.RUNNING and self.lease is not None and self.lease.expires_at_ms <= now_ms

    def is_held(self, now_ms: int) -> bool:
        """Return True if it is under a live lease."""
        return self.status is RunStatus.RUNNING and not self.has_expired(now_ms)

    def due_timers(self, now_ms: float = float("inf")) -> tuple[Timer, ...]:
        """Return the timers whose time has come, earliest first."""
        due = sorted((fire_at_ms, timer_id) for timer_id, fire_at_ms in self.timers.items() if fire_at_ms <= now_ms)
        return tuple(Timer(timer_id=timer_id, fire_at_ms=fire_at_ms) for fire_at_ms, timer_id in due)

    def summary(self) -> RunSummary:
        """Return what listings show."""
        return RunSummary(**self._facts(), first_awaited=self.awaited[:AWAITED_SHOWN], awaited_count=len(self.awaited))

    def record(self) -> RunRecord:
        """Return what `load_run` shows."""
        return RunRecord(
            **self._facts(),
            first_awaited=self.awaited[:AWAITED_SHOWN],
            awaited_count=len(self.awaited),
            input=self.input,
            output=self.output,
            error=self.error,
            reason=self.reason,
            awaited=self.awaited,
            schedule_id=self.schedule_id,
            scheduled_at_ms=self.scheduled_at_ms,
            forked_from_run_id=self.forked_from_run_id,
            forked_from_index=self.forked_from_index,
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "workflow_id": self.workflow_id,
            "workflow_version": self.workflow_version,
            "status": self.status,
            "queue": self.queue,
            "priority": self.priority,
            "created_at_ms": self.created_at_ms,
            "updated_at_ms": self.updated_at_ms,
            "finished_at_ms": self.finished_at_ms,
            "due_at_ms": self.due_at_ms,
            "next_index": len(self.log),
            "inbox_seq": len(self.inbox.entries),
            "cancel_requested": self.cancel_requested,
            "crashes": self.crashes,
            "lease_owner": None if self.lease is None else self.lease.owner,
            "lease_expires_at_ms": None if self.lease is None else self.lease.expires_at_ms,
        }


@dataclass
class TickClaim:
    """The claim of a schedule's tick. A schedule has one at most (SCHEDULE-9)."""

    fire_at_ms: int
    source: BucketSource
    overlap: RequestedOverlap
    token: str
    expires_at_ms: int


@dataclass
class Request:
    """A requested tick that is not settled."""

    overlap: RequestedOverlap | None
    requested_at_ms: int


@dataclass(kw_only=True)
class ScheduleState:
    """One schedule with its ticks."""

    schedule_id: str
    workflow_id: str
    workflow_version: str
    spec: JsonText
    input: JsonText
    overlap_policy: OverlapPolicy
    queue: str
    priority: int
    enabled: bool
    next_fire_at_ms: int | None
    created_at_ms: int
    updated_at_ms: int
    revision: int = 1
    last_fire_at_ms: int | None = None
    buffered_fire_at_ms: int | None = None
    previous_run_id: str | None = None
    requests: dict[int, Request] = field(default_factory=dict)
    claim: TickClaim | None = None
    claims: int = 0
    settled: tuple[int, str, Any] | None = None
    """The last settled tick: moment, operation id and answer (SCHEDULE-16)."""

    def record(self) -> Schedule:
        """Return what `get_schedule` shows."""
        return Schedule(
            schedule_id=self.schedule_id,
            workflow_id=self.workflow_id,
            workflow_version=self.workflow_version,
            spec=self.spec,
            input=self.input,
            overlap_policy=self.overlap_policy,
            queue=self.queue,
            priority=self.priority,
            enabled=self.enabled,
            next_fire_at_ms=self.next_fire_at_ms,
            last_fire_at_ms=self.last_fire_at_ms,
            buffered_fire_at_ms=self.buffered_fire_at_ms,
            previous_run_id=self.previous_run_id,
            revision=self.revision,
            created_at_ms=self.created_at_ms,
            updated_at_ms=self.updated_at_ms,
        )

    def policy_of(self, fire_at_ms: int) -> RequestedOverlap:
        """Return the policy of a tick: the one requested with it, or else the schedule's (SCHEDULE-18)."""
        request = self.requests.get(fire_at_ms)
        return self.overlap_policy if request is None or request.overlap is None else request.overlap


class State:
    """Everything that the model holds."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.schedules: dict[str, ScheduleState] = {}
        self._tokens = itertools.count(1)

    def new_token(self) -> str:
        """Return a token that was never given before (FENCE-3)."""
        return f"token-{next(self._tokens)}"

    def live_run(self, run_id: str | None) -> str | None:
        """Return the id again if that run is there and not terminal."""
        run = None if run_id is None else self.runs.get(run_id)
        return None if run is None or run.status.is_terminal else run.run_id
