"""The parts of one drive, put together."""

from __future__ import annotations

import asyncio
from typing import Any

from ..metering.drive_budget import DriveBudget, DriveProgress
from ..store import ClaimedRun, WorkflowExecutionStore
from ..watch import WatchedDrive
from .break_off import BreakOff
from .definition import Workflow
from .draft_writer import DraftWriter
from .driver_settings import DriverSettings
from .handler_turns import HandlerTurns
from .held_lease import HeldLease
from .inbox import Inbox
from .inbox_reader import InboxReader
from .lease_end import LeaseEnd
from .log_draft import LogDraft
from .machine import Machine
from .replay import Replay
from .replay_check import ReplayCheck
from .run_end import RunEnd
from .run_handler import RunHandler
from .run_writer import RunWriter
from .settler import Settler
from .step_attempts import StepAttempts
from .step_tasks import StepTasks
from .step_transactions import StepTransactions
from .stop_request import StopRequest

__all__ = ["DriveParts"]


class DriveParts:
    """Everything that one drive consists of. A driver and its loop share it.

    It is put together from below: each part knows only some of those that are made before it.

    Args:
        settings: What all drivers share.
        claim: The run.
        workflow: What the run is a run of.
        budget: How many queries the drive may send.
    """

    def __init__(
        self, *, settings: DriverSettings, claim: ClaimedRun, workflow: Workflow[Any, Any], budget: DriveBudget
    ) -> None:
        self.settings: DriverSettings = settings
        self.claim: ClaimedRun = claim
        self.workflow: Workflow[Any, Any] = workflow
        self.budget: DriveBudget = budget
        self.store: WorkflowExecutionStore = budget.wrap(settings.store)
        self.wake: asyncio.Event = asyncio.Event()
        self.stop: StopRequest = StopRequest()
        self.draft: LogDraft = LogDraft(budget.max_events)
        self.inbox: Inbox = Inbox()
        self._make_lease()
        self._make_machine()
        self._make_steps()
        self._make_turns()
        self._make_writes()
        self._make_ends()

    def progress(self) -> DriveProgress:
        """Return how far the drive is, for its budget."""
        return DriveProgress(
            unrecorded_steps=self.steps.unrecorded,
            draft_events=None if self.draft.empty else len(self.draft.events),
            next_index=self.writer.next_index,
        )

    def _make_lease(self) -> None:
        settings, claim = self.settings, self.claim
        self.lease: HeldLease = HeldLease(
            claim=claim, clock=settings.clock, lease_ms=settings.lease_ms, on_news=self.wake.set
        )
        self.writer: RunWriter = RunWriter(
            store=self.store,
            lease=self.lease,
            next_index=claim.run.next_index,
            clock=settings.clock,
            stop=self.stop,
        )
        self.reader: InboxReader = InboxReader(store=self.store, lease=self.lease, inbox=self.inbox, wake=self.wake)

    def _make_machine(self) -> None:
        self._handler = RunHandler(self.settings, self.claim.run, self.workflow)
        self._traced = self._handler.traced_machine() if self.settings.checks_replay else None
        self.machine: Machine = self._traced or self._handler.machine()

    def _make_steps(self) -> None:
        settings = self.settings
        self.transactions: StepTransactions = StepTransactions(
            writer=self.writer, machine=self.machine, draft=self.draft
        )
        attempts = StepAttempts(
            run=self.claim.run,
            codec=settings.codec,
            max_payload_bytes=settings.store.capabilities.max_payload_bytes,
            transactions=self.transactions,
        )
        self.steps: StepTasks = StepTasks(
            attempts=attempts,
            transactions=self.transactions,
            threads=settings.threads,
            budget=self.budget,
            stop=self.stop,
            on_change=self.wake.set,
        )
        self.settler: Settler = Settler(
            machine=self.machine,
            draft=self.draft,
            inbox=self.inbox,
            steps=self.steps,
            clock=settings.clock,
            rng=settings.rng,
        )

    def _make_turns(self) -> None:
        run_id, store = self.claim.run.run_id, self.store
        self.watched: WatchedDrive = WatchedDrive(self.settings.watch, run_id, self.workflow.id, self.steps.step_of)
        self.turns: HandlerTurns = HandlerTurns(self.watched)
        self.replay: Replay = Replay(
            claim=self.claim,
            store=store,
            writer=self.writer,
            machine=self.machine,
            handler=self._handler,
            turns=self.turns,
            watched=self.watched,
        )
        self.check: ReplayCheck | None = None
        if self._traced is not None:
            self.check = ReplayCheck(first=self._traced, handler=self._handler, turns=self.turns, store=store)

    def _make_writes(self) -> None:
        self.drafts: DraftWriter = DraftWriter(writer=self.writer, draft=self.draft, check=self.check)

    def _make_ends(self) -> None:
        self.run_end: RunEnd = RunEnd(
            workflow_id=self.workflow.id,
            machine=self.machine,
            codec=self.settings.codec,
            max_payload_bytes=self.settings.store.capabilities.max_payload_bytes,
            writer=self.writer,
            draft=self.draft,
        )
        self.lease_end: LeaseEnd = LeaseEnd(writer=self.writer, draft=self.draft, drafts=self.drafts, inbox=self.inbox)
        self.break_off: BreakOff = BreakOff(
            writer=self.writer, steps=self.steps, transactions=self.transactions, stop=self.stop, wake=self.wake
        )
