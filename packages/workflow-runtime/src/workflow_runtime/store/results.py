"""The answers to claims and to calls from outside: unions of values that carry a `kind`.

An answer to a call from outside can be ignored, and often is. So each of them has `raise_for_outcome()`, which gives
the answer back when what was asked for is done or will be, and raises when it never will.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NoReturn, Self, TypeAlias, TypeVar

from ..errors import OutcomeError, RunConflictError, RunNotFoundError, ScheduleNotFoundError
from ..frozen_value import Value, value
from .values import ClaimedRun, LeaseRenewal, RunRecord, RunStatus, Schedule

__all__ = [
    "AlreadyDecided",
    "AlreadyFinished",
    "BucketBehind",
    "BucketBuffered",
    "BucketOverlapping",
    "BucketResult",
    "BucketSkipped",
    "BucketStarted",
    "BucketsRequested",
    "Buffered",
    "CancelRequested",
    "CancelResult",
    "ClaimResult",
    "Claimed",
    "CreateManyResult",
    "CreateResult",
    "Created",
    "CreatedOfMany",
    "DeleteResult",
    "DeleteScheduleResult",
    "Deleted",
    "DeliverApprovalResult",
    "DeliverRetryResult",
    "DeliverSignalResult",
    "Delivered",
    "Duplicate",
    "Existing",
    "ExistingOfMany",
    "ForkResult",
    "Forked",
    "LeaseBusy",
    "LeaseLost",
    "LeaseResult",
    "NotClaimable",
    "NotDeletable",
    "NotForkable",
    "NotFound",
    "NotRequeueable",
    "NotRetryable",
    "NotWaiting",
    "RequestBucketsResult",
    "RequeueResult",
    "Requeued",
    "Retried",
    "RetryResult",
    "ScheduleChanged",
    "ScheduleUpserted",
    "TerminateResult",
    "Terminated",
    "about",
]


class Done(Value):
    """The base of answers that say: it is done, or will be, or was before."""

    __slots__ = ()

    def raise_for_outcome(self) -> Self:
        """Return this answer."""
        return self


@value
class NotFound(Value):
    """There is no such run or schedule."""

    kind: Literal["not-found"] = "not-found"
    run_id: str | None = None
    """Id of the run. The runtime fills it in, for the error."""
    schedule_id: str | None = None
    """Id of the schedule, likewise."""

    def raise_for_outcome(self) -> NoReturn:
        """Raise `RunNotFoundError` or `ScheduleNotFoundError`."""
        if self.schedule_id is not None:
            raise ScheduleNotFoundError(self.schedule_id)
        raise RunNotFoundError(self.run_id)


@value
class AlreadyFinished(Value):
    """The run has reached a terminal status; the call changed nothing."""

    kind: Literal["finished"] = "finished"
    status: RunStatus
    run_id: str | None = None
    """Id of the run. The runtime fills it in, for the error."""
    wanted: RunStatus | None = None
    """The status that the call was to bring about, if there is one; the runtime writes it here."""

    def raise_for_outcome(self) -> Self:
        """Raise `OutcomeError`, unless the run has ended as the call wanted it to."""
        if self.status is self.wanted:
            return self
        raise OutcomeError(self.kind, self.run_id, f"it has ended as {self.status}")


@value
class Created(Done):
    """The run was created by this operation (or by this operation's lost first try)."""

    kind: Literal["created"] = "created"
    run: RunRecord
    claim: ClaimedRun | None
    """Present when the call asked for a lease."""


@value
class Existing(Value):
    """A run of that id is there already; nothing changed."""

    kind: Literal["existing"] = "existing"
    run: RunRecord
    differs: tuple[str, ...]
    """Names of the arguments that differ from what is stored: of `workflow_id` and `input`; of a fork's `run_id`,
    `from_index` and `workflow_version`.
    """

    def raise_for_outcome(self) -> Self:
        """Raise `RunConflictError`, unless the run is what the call asked for."""
        if self.differs:
            raise RunConflictError(self.run.run_id, self.differs)
        return self


@value
class CreatedOfMany(Done):
    """One run of many was created by this operation (or by this operation's lost first try)."""

    kind: Literal["created"] = "created"


@value
class ExistingOfMany(Value):
    """A run of the id of one of many is there already; nothing changed."""

    kind: Literal["existing"] = "existing"
    run_id: str
    differs: tuple[str, ...]
    """Names of the arguments that differ from what is stored: of `workflow_id` and `input`."""

    def raise_for_outcome(self) -> Self:
        """Raise `RunConflictError`, unless the run is what the call asked for."""
        if self.differs:
            raise RunConflictError(self.run_id, self.differs)
        return self


@value
class Forked(Done):
    """The new run was created by this operation (or by this operation's lost first try)."""

    kind: Literal["forked"] = "forked"
    run: RunRecord
    """The new run."""


@value
class NotForkable(Value):
    """The log is not as long as the part that was asked for; nothing was written."""

    kind: Literal["not-forkable"] = "not-forkable"
    next_index: int
    """The length of the log."""
    run_id: str | None = None
    """Id of the run. The runtime fills it in, for the error."""

    def raise_for_outcome(self) -> NoReturn:
        """Raise `OutcomeError`."""
        raise OutcomeError(self.kind, self.run_id, f"its log has only {self.next_index} events")


@value
class Claimed(Value):
    """The caller holds the lease."""

    kind: Literal["claimed"] = "claimed"
    claim: ClaimedRun


@value
class NotClaimable(Value):
    """The run is not due, has ended, or is held by somebody."""

    kind: Literal["not-claimable"] = "not-claimable"
    status: RunStatus
    claimable_at_ms: int | None
    """Time at which it becomes claimable unless something happens before: its due time, or the end of the lease."""


@value
class LeaseLost(Value):
    """Somebody else may have the run, or it has ended: the lease is worth nothing any more."""

    kind: Literal["lost"] = "lost"


@value
class LeaseBusy(Value):
    """Somebody is writing to the run at this moment. Nothing has changed; another call may renew the lease."""

    kind: Literal["busy"] = "busy"


@value
class Delivered(Done):
    """Durable, and the run was paused waiting for it: it is queued now."""

    kind: Literal["delivered"] = "delivered"
    inbox_seq: int


@value
class Buffered(Done):
    """Durable; the run takes it when it asks for it."""

    kind: Literal["buffered"] = "buffered"
    inbox_seq: int


@value
class Duplicate(Done):
    """That id was delivered to this run before; nothing changed."""

    kind: Literal["duplicate"] = "duplicate"
    inbox_seq: int


@value
class AlreadyDecided(Value):
    """The approval has been decided before; nothing changed."""

    kind: Literal["already-decided"] = "already-decided"
    approved: bool
    """The decision that stands."""
    run_id: str | None = None
    """Id of the run. The runtime fills it in, for the error."""
    asked: bool | None = None
    """The decision that the call brought; the runtime writes it here."""

    def raise_for_outcome(self) -> Self:
        """Raise `OutcomeError` if the decision that stands is not the one that the call brought."""
        if self.asked in {None, self.approved}:
            return self
        raise OutcomeError(self.kind, self.run_id, f"the approval was {'given' if self.approved else 'refused'} before")


@value
class NotWaiting(Value):
    """`only_if_waiting` was asked for and the run does not wait for this now; nothing changed."""

    kind: Literal["not-waiting"] = "not-waiting"
    status: RunStatus
    run_id: str | None = None
    """Id of the run. The runtime fills it in, for the error."""

    def raise_for_outcome(self) -> NoReturn:
        """Raise `OutcomeError`."""
        raise OutcomeError(self.kind, self.run_id, f"it is {self.status} and does not wait for this")


@value
class CancelRequested(Done):
    """The request is durable; the run ends when a worker has driven its handler to the end."""

    kind: Literal["requested"] = "requested"
    inbox_seq: int
    status: RunStatus | None = None
    """Status of the run when `WorkflowRuntime.cancel_run` returned. A store leaves it empty."""
    unserved: str | None = None
    """Reason why no worker of the runtime that was asked will end the run; another runtime's may. A store leaves it
    empty.
    """


@value
class Terminated(Done):
    """The run is `aborted` from now on; its driver is fenced off."""

    kind: Literal["terminated"] = "terminated"


@value
class Requeued(Done):
    """The run is queued again, with a crash count of zero."""

    kind: Literal["requeued"] = "requeued"


@value
class NotRequeueable(Value):
    """Only a `dead` run can be requeued."""

    kind: Literal["not-requeueable"] = "not-requeueable"
    status: RunStatus
    run_id: str | None = None
    """Id of the run. The runtime fills it in, for the error."""

    def raise_for_outcome(self) -> NoReturn:
        """Raise `OutcomeError`."""
        raise OutcomeError(self.kind, self.run_id, f"only a dead run can be requeued, it is {self.status}")


@value
class Retried(Done):
    """The run is queued again; its log goes on after the event of the retry."""

    kind: Literal["retried"] = "retried"
    index: int
    """Index of that event in the log."""


@value
class NotRetryable(Value):
    """The run has not ended in one of the statuses that were asked for."""

    kind: Literal["not-retryable"] = "not-retryable"
    status: RunStatus
    run_id: str | None = None
    """Id of the run. The runtime fills it in, for the error."""

    def raise_for_outcome(self) -> NoReturn:
        """Raise `OutcomeError`."""
        raise OutcomeError(self.kind, self.run_id, f"it is {self.status}")


@value
class Deleted(Done):
    """Every trace is gone."""

    kind: Literal["deleted"] = "deleted"


@value
class NotDeletable(Value):
    """The run is under a live lease and `force` was not given."""

    kind: Literal["not-deletable"] = "not-deletable"
    status: RunStatus
    run_id: str | None = None
    """Id of the run. The runtime fills it in, for the error."""

    def raise_for_outcome(self) -> NoReturn:
        """Raise `OutcomeError`."""
        raise OutcomeError(self.kind, self.run_id, "somebody drives it")


@value
class ScheduleUpserted(Value):
    """The schedule is as asked (`unchanged`: nothing was written), or `conflict`: it is of another revision."""

    kind: Literal["created", "updated", "unchanged", "conflict"]
    schedule: Schedule | None
    """Schedule as it is stored now; `None` when a revision was expected and there is no such schedule."""


@value
class BucketsRequested(Done):
    """The ticks will be claimed."""

    kind: Literal["requested"] = "requested"
    count: int
    """Number of ticks that were not waiting already."""


@value
class BucketStarted(Value):
    """The tick's run is there and the schedule has moved on."""

    kind: Literal["started"] = "started"
    run_id: str


@value
class BucketSkipped(Value):
    """The tick was marked without a run and the schedule has moved on."""

    kind: Literal["skipped"] = "skipped"


@value
class BucketBuffered(Value):
    """The tick waits for the end of the previous run, and the schedule has moved on."""

    kind: Literal["buffered"] = "buffered"


@value
class BucketOverlapping(Value):
    """The previous run is live, so nothing was started; nothing was written."""

    kind: Literal["overlapping"] = "overlapping"
    run_id: str


@value
class BucketBehind(Value):
    """Another tick was put back before this one and goes first, so nothing was started; nothing was written."""

    kind: Literal["behind"] = "behind"
    fire_at_ms: int
    """The tick that goes first."""


@value
class ScheduleChanged(Value):
    """The schedule was changed or deleted after the claim; nothing was written."""

    kind: Literal["schedule-changed"] = "schedule-changed"


A = TypeVar("A", bound=Value)


def about(answer: A, **facts: Any) -> A:
    """Write into an answer what its error will have to name, as far as it has fields for it."""
    known = {name: fact for name, fact in facts.items() if name in type(answer).__dataclass_fields__}  # type: ignore[attr-defined]  # every value is a dataclass
    return replace(answer, **known) if known else answer  # type: ignore[type-var]  # likewise


CreateResult: TypeAlias = Created | Existing
CreateManyResult: TypeAlias = CreatedOfMany | ExistingOfMany
ForkResult: TypeAlias = Forked | Existing | NotForkable | NotFound
ClaimResult: TypeAlias = Claimed | NotClaimable | NotFound
LeaseResult: TypeAlias = LeaseRenewal | LeaseLost | LeaseBusy
DeliverSignalResult: TypeAlias = Delivered | Buffered | Duplicate | NotWaiting | AlreadyFinished | NotFound
DeliverRetryResult: TypeAlias = Delivered | Buffered | Duplicate | AlreadyFinished | NotFound
DeliverApprovalResult: TypeAlias = Delivered | Buffered | AlreadyDecided | NotWaiting | AlreadyFinished | NotFound
CancelResult: TypeAlias = CancelRequested | Duplicate | AlreadyFinished | NotFound
TerminateResult: TypeAlias = Terminated | AlreadyFinished | NotFound
RequeueResult: TypeAlias = Requeued | NotRequeueable | NotFound
RetryResult: TypeAlias = Retried | NotRetryable | NotFound
DeleteResult: TypeAlias = Deleted | NotDeletable | NotFound
DeleteScheduleResult: TypeAlias = Deleted | NotFound
RequestBucketsResult: TypeAlias = BucketsRequested | NotFound
BucketResult: TypeAlias = (
    BucketStarted | BucketSkipped | BucketBuffered | BucketOverlapping | BucketBehind | ScheduleChanged
)
