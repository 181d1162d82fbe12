"""A run that is to be created: what its statement is given, and what its creation is answered."""

from __future__ import annotations

import json
from dataclasses import dataclass

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import ClaimedRun, Created, InboxEntry, Lease, RunRecord, RunStatus

from .session import Row

__all__ = ["NewRun", "creation_answer", "creation_id", "first_claim", "first_lease"]


def creation_id(operation_id: str) -> str:
    """Say how the head records the operation that created its run."""
    return f"create_run:{operation_id}"


def creation_answer(lease: Lease | None) -> str:
    """Write down what the head must know to answer a repeat of the creation."""
    if lease is None:
        return "{}"
    return json.dumps(
        {"owner": lease.owner, "token": lease.token, "number": lease.number, "expires_at": lease.expires_at_ms},
        ensure_ascii=False,
    )


def first_lease(head: Row) -> Lease | None:
    """Read the lease that came with the creation; whether it is still the current one is for the fence to say."""
    answer = json.loads(head["operation_answer"])
    if not answer:
        return None
    current = head["lease_token"] == answer["token"]
    return Lease(
        owner=answer["owner"],
        token=answer["token"],
        number=answer["number"],
        expires_at_ms=head["lease_expires_at"] if current else answer["expires_at"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run as `create_run` was asked to create it."""

    run_id: str
    workflow_id: str
    workflow_version: str
    input: JsonText
    queue: str
    priority: int
    now_ms: int
    due_at_ms: int
    operation_id: str
    lease: Lease | None

    @property
    def status(self) -> RunStatus:
        """Where the run stands at first."""
        return RunStatus.QUEUED if self.lease is None else RunStatus.RUNNING

    def values(self) -> tuple[object, ...]:
        """Give the parameters of the statement that creates it."""
        lease = self.lease
        return (
            self.run_id,
            self.workflow_id,
            self.workflow_version,
            self.queue,
            self.priority,
            self.now_ms,
            self.status.value,
            self.due_at_ms,
            None if lease is None else lease.owner,
            None if lease is None else lease.token,
            0 if lease is None else lease.number,
            None if lease is None else lease.expires_at_ms,
            creation_id(self.operation_id),
            creation_answer(lease),
            self.input,
        )

    def created(self) -> Created:
        """Answer for the run that was just created."""
        run = self._record()
        return Created(run=run, claim=None if self.lease is None else first_claim(run, self.lease, ()))

    def _record(self) -> RunRecord:
        lease = self.lease
        return RunRecord(
            run_id=self.run_id,
            workflow_id=self.workflow_id,
            workflow_version=self.workflow_version,
            status=self.status,
            queue=self.queue,
            priority=self.priority,
            created_at_ms=self.now_ms,
            updated_at_ms=self.now_ms,
            finished_at_ms=None,
            due_at_ms=self.due_at_ms if lease is None else None,
            next_index=0,
            inbox_seq=0,
            cancel_requested=False,
            crashes=0,
            lease_owner=None if lease is None else lease.owner,
            lease_expires_at_ms=None if lease is None else lease.expires_at_ms,
            input=self.input,
            output=None,
            error=None,
            reason=None,
            awaited=(),
        )


def first_claim(run: RunRecord, lease: Lease, inbox: tuple[InboxEntry, ...]) -> ClaimedRun:
    """Put together the claim of a run that no driver has written to: it has no history and no timers."""
    return ClaimedRun(run=run, lease=lease, history=(), inbox=inbox, due_timers=())
