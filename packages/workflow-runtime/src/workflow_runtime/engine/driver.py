"""Driving one claimed run: keep its lease, run its loop, and let it go, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import LeaseLostError, QueryLimitReachedError, StoreAccessError, StoreError
from ..metering.drive_budget import DriveBudget
from ..payloads import JsonText
from ..store import ClaimedRun
from .definition import Workflow
from .drive_loop import DriveLoop
from .drive_outcome import DriveOutcome
from .drive_parts import DriveParts
from .driver_settings import DriverSettings
from .lease_keeper import LeaseKeeper
from .shielding import run_shielded

__all__ = ["Driver"]

_LAST_GRACE_S = 0.5
"""The same for a drive that was cancelled, and has waited for its steps before."""
_CLEANUP_GRACE_S = 5.0
"""The longest that cancelled steps take to clean up before the driver stops waiting for them."""


class Driver:
    """The drive of one run, until the run ends, pauses, or is handed over. A worker makes one for each claim.

    Args:
        settings: What it shares with others.
        claim: The run.
        workflow: What the run is a run of.
        budget: How many queries it may send; any number when absent.
    """

    def __init__(
        self,
        *,
        settings: DriverSettings,
        claim: ClaimedRun,
        workflow: Workflow[Any, Any],
        budget: DriveBudget | None = None,
    ) -> None:
        self.on_waiting: Callable[[bool], None] = _ignore
        """Called with true when the drive waits for a step or a time, and with false when it makes its last write."""
        self._budget = budget or DriveBudget()
        self._parts = DriveParts(settings=settings, claim=claim, workflow=workflow, budget=self._budget)
        self._stop = self._parts.stop
        self._break_off = self._parts.break_off

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self._parts.writer.run_id

    @property
    def schedule_id(self) -> str | None:
        """Id of the schedule whose tick started the run."""
        return self._parts.claim.run.schedule_id

    @property
    def due_ms(self) -> int | None:
        """Time at which the paused run goes on by itself, if ever; milliseconds since the Unix epoch."""
        return self._parts.lease_end.due_ms

    @property
    def output(self) -> JsonText | None:
        """Recorded output of the run, if this drive has finished it."""
        return self._parts.run_end.output

    @property
    def nudged(self) -> bool:
        """True if it was asked to look at the inbox, and has not done so."""
        return self._parts.reader.nudged

    @property
    def stopping(self) -> bool:
        """True if it is about to hand the run over."""
        return self._stop.made

    @property
    def retried(self) -> int:
        """Number of attempts of steps that failed and are repeated."""
        return self._parts.settler.retried

    @property
    def refused_at(self) -> int | None:
        """Index in the log at which it would have taken more queries than it had; `None` when they sufficed."""
        return None if self._budget.refusal is None else self._parts.writer.next_index

    def stop(self, *, cancel_steps: bool = False) -> None:
        """Ask to hand the run over: no new step starts.

        Args:
            cancel_steps: Cancel the steps that are running instead of waiting for them; they run again elsewhere.
                A plain function that has begun cannot be cancelled: it is waited for all the same.
        """
        self._stop.make()
        if cancel_steps:
            self._parts.steps.interrupt()
        else:
            self._parts.steps.withdraw()
        self._parts.wake.set()

    def stop_with(self, event: asyncio.Event) -> None:
        """Start no new step once an event is set; `stop` follows."""
        self._stop.follow(event)

    def nudge(self) -> None:
        """Look at the inbox now: something may have been delivered."""
        self._parts.reader.nudge()

    async def drive(self) -> DriveOutcome:
        """Drive the run. To be called once.

        Raises:
            QueryLimitReachedError: A step, or reading the run, takes more queries than there are. The run was handed
                over, unless there were too few left even for that.
            StoreError: The store is away for longer than a write waits, or the run cannot be read. The lease runs
                out, and another worker takes the run.
        """
        with self._parts.watched.watched(), self._budget.opened(self._parts.progress):
            grace_s = _CLEANUP_GRACE_S
            try:
                async with self._keeper().keep(self._parts.lease):
                    return await self._drive_under_lease()
            except asyncio.CancelledError:
                grace_s = _LAST_GRACE_S
                raise
            finally:
                try:
                    await self._break_off.clean_up(grace_s)
                    self._parts.settler.drop_ended()
                finally:
                    self._parts.turns.call(self._parts.machine.suspend)

    def _keeper(self) -> LeaseKeeper:
        settings = self._parts.settings
        if settings.leases is not None:
            return settings.leases
        # The heartbeats of a drive with a limit count towards it: they need what its budget has opened here.
        return LeaseKeeper(renewer=self._parts.store, clock=settings.clock, lease_ms=settings.lease_ms)

    async def _drive_under_lease(self) -> DriveOutcome:
        try:
            return await self._drive_as_far_as_allowed()
        except LeaseLostError:
            return DriveOutcome.LOST
        except asyncio.CancelledError:
            await run_shielded(self._break_off.release_at_once())
            raise
        except Exception:
            await self._break_off.sit_out_threads()
            raise

    async def _drive_as_far_as_allowed(self) -> DriveOutcome:
        try:
            outcome = await DriveLoop(self._parts, self.on_waiting).run()
            if self._parts.check is not None:
                await self._parts.check.run()
        except QueryLimitReachedError as error:
            self._budget.refusal = error
            await self._break_off.release_unless_at_work()
            raise
        except StoreAccessError:
            # The run is not at fault, and an expired lease would count as a crash: release it.
            self._stop.make()
            with suppress(StoreError):
                await self._break_off.release_unless_at_work()
            raise
        if outcome is DriveOutcome.RELEASED and self._budget.refusal is not None:
            raise self._budget.refusal
        return outcome


def _ignore(waiting: bool) -> None:
    """Nobody wants to know."""
