"""A run that is to be created: what its statements are given, and what its creation is answered."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from workflow_runtime.store import (
    ClaimedRun,
    Created,
    CreateResult,
    Existing,
    Forked,
    ForkResult,
    InboxEntry,
    JsonText,
    Lease,
    NotForkable,
    NotFound,
    RunRecord,
    RunStatus,
    differing_fields,
    differing_fork,
)

from .rows import Row, RowReader

__all__ = ["Fork", "NewRun", "creation_answer", "creation_id", "new_lease"]


def creation_id(operation_id: str) -> str:
    """Return the operation that creates a run, as its head records it."""
    return f"create_run:{operation_id}"


def creation_answer(lease: Lease | None) -> str:
    """Return what the head must know to answer a repeat of the creation."""
    if lease is None:
        return "{}"
    return json.dumps(
        {"owner": lease.owner, "token": lease.token, "number": lease.number, "expires_at": lease.expires_at_ms},
        ensure_ascii=False,
    )


def new_lease(new_token: Callable[[], str], owner: str | None, lease_ms: int | None, now_ms: int) -> Lease | None:
    """Return the first lease of a run that `create_run` also claims; `None` without an owner."""
    if owner is None or lease_ms is None:
        return None
    return Lease(owner=owner, token=new_token(), number=1, expires_at_ms=now_ms + lease_ms)


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run as `create_run` was asked to create it."""

    run_id: str
    workflow_id: str
    workflow_version: str
    queue: str
    priority: int
    now_ms: int
    due_at_ms: int
    input: JsonText
    operation_id: str
    lease: Lease | None

    @property
    def status(self) -> RunStatus:
        """The status in which the run begins."""
        return RunStatus.QUEUED if self.lease is None else RunStatus.RUNNING

    @property
    def facts(self) -> tuple[str, str, str, str, int, int]:
        """The facts that never change: id, workflow, version, queue, priority and time of creation."""
        return (self.run_id, self.workflow_id, self.workflow_version, self.queue, self.priority, self.now_ms)

    @property
    def head(self) -> tuple[str | int | None, ...]:
        """The further values of the head: status, due time, lease, and the operation with its answer."""
        lease = self.lease
        return (
            self.status.value,
            self.due_at_ms,
            None if lease is None else lease.owner,
            None if lease is None else lease.token,
            0 if lease is None else lease.number,
            None if lease is None else lease.expires_at_ms,
            creation_id(self.operation_id),
            creation_answer(lease),
        )

    def created(self) -> Created:
        """Answer for the run that was just created."""
        return _created(self._record(), self.lease, ())

    async def taken(
        self, read: RowReader, head: Row, read_inbox: Callable[[], Awaitable[Sequence[Row]]]
    ) -> CreateResult:
        """Answer for an id that was taken, maybe by an earlier try of the same operation.

        Args:
            read: The store's codec.
            head: The run that has the id.
            read_inbox: Reads the first page of its inbox.
        """
        run = read.record(head)
        if head["operation_id"] == creation_id(self.operation_id):
            lease = _first_lease(head)
            inbox = () if lease is None else read.inbox(await read_inbox(), self.run_id)
            return _created(run, lease, inbox)
        differs = differing_fields(
            stored_workflow_id=run.workflow_id,
            stored_input=run.input,
            workflow_id=self.workflow_id,
            input=self.input,
        )
        return Existing(run=run, differs=differs)

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


@dataclass(frozen=True, slots=True)
class Fork:
    """A run as `fork_run` was asked to make it of another one."""

    run_id: str
    new_run_id: str
    from_index: int
    workflow_version: str | None
    operation_id: str

    @property
    def operation(self) -> str:
        """The operation as the head of the new run records it."""
        return f"fork_run:{self.operation_id}"

    def answer(self, read: RowReader, row: Row | None, source_length: int | None) -> ForkResult:
        """Answer the call.

        Args:
            read: The store's codec.
            row: The run that has the new id now, or `None`.
            source_length: The length of the other run's log; `None` when there is no such run.
        """
        if row is None:
            return NotFound() if source_length is None else NotForkable(next_index=source_length)
        run = read.record(row)
        if row["operation_id"] == self.operation:
            return Forked(run=run)
        differs = differing_fork(
            run, run_id=self.run_id, from_index=self.from_index, workflow_version=self.workflow_version
        )
        return Existing(run=run, differs=differs)


def _first_lease(head: Row) -> Lease | None:
    """Return the lease that came with the creation; whether it is still the current one is for the fence to say."""
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


def _created(run: RunRecord, lease: Lease | None, inbox: tuple[InboxEntry, ...]) -> Created:
    """Return the answer with the first claim: no driver has written, so there is no history and there are no timers."""
    claim = None
    if lease is not None:
        claim = ClaimedRun(run=run, lease=lease, history=(), inbox=inbox, due_timers=())
    return Created(run=run, claim=claim)
