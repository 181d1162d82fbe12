"""The end of a lease in good order, while the run goes on."""

from __future__ import annotations

from ..store import Awaited, RunStatus
from .draft_writer import DraftWriter
from .drive_outcome import DriveOutcome
from .history import OperationKind
from .inbox import Inbox
from .log_draft import LogDraft
from .operations import Operation
from .run_writer import RunWriter

__all__ = ["LeaseEnd"]


class LeaseEnd:
    """The end of a lease by a pause or by a release. Each method makes the last write of the drive.

    Args:
        writer: Makes it.
        draft: What is to be written before, or with it.
        drafts: Writes what is to be written before.
        inbox: Knows what the run waits for.
    """

    def __init__(self, *, writer: RunWriter, draft: LogDraft, drafts: DraftWriter, inbox: Inbox) -> None:
        self._writer = writer
        self._draft = draft
        self._drafts = drafts
        self._inbox = inbox
        self.due_ms: int | None = None
        """Earliest time that the run was paused for; milliseconds since the Unix epoch."""

    async def pause(self) -> DriveOutcome:
        """Pause the run until its inbox or a timer wakes it."""
        while self._draft.timers.overfull:
            await self._drafts.write()
        awaited = [_awaited(operation) for operation in self._inbox.waiting()]
        first, seen = self._draft.timers.next_due(), self._inbox.seen_seq
        self.due_ms = None if first is None else first.until_ms
        paused = await self._writer.pause(self._draft.write(), seen_inbox_seq=seen, awaited=awaited)
        return DriveOutcome.PAUSED if paused.status is RunStatus.PAUSED else DriveOutcome.QUEUED

    async def release(self) -> DriveOutcome:
        """Hand the run over to any worker."""
        await self._drafts.write_all()
        await self._writer.release()
        return DriveOutcome.RELEASED


def _awaited(operation: Operation) -> Awaited:
    return Awaited(
        kind="signal" if operation.kind is OperationKind.WAIT else "approval",
        name=operation.name,
        step_id=operation.step_id,
        until_ms=operation.until_ms,
    )
