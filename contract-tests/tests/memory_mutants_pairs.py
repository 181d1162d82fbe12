"""Stores with one fault each that shows only when two calls meet: what a call read is stale when it writes."""

from __future__ import annotations

import asyncio
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.store import (
    TERMINAL_STATUSES,
    Buffered,
    Requeued,
    RunStatus,
    Terminated,
)


class Gapped(Faulty):
    """What these stores share: between their look and their write others come in."""

    async def gap(self) -> None:
        """Let others in, as a database does between two statements."""
        await asyncio.sleep(0.001)

    async def claim_as_found(self, found: RunStatus, arguments: dict[str, Any]) -> Any:
        """Claim a run by its id; if it was in this status, then as if it still were."""
        run = self.run(arguments)
        if run is None or run.status is not found or (run.claimable_at_ms or 0) > arguments["now_ms"]:
            return await super().claim_run(**arguments)
        await self.gap()
        run.status, run.lease = found, None
        return await super().claim_run(**arguments)


@broken("CLAIM-4")
class QueuedRunIsClaimedTwiceById(Gapped):
    """`claim_run` of a queued run does not compare when it writes, so two claimers get it."""

    async def claim_run(self, **arguments: Any) -> Any:
        return await self.claim_as_found(RunStatus.QUEUED, arguments)


@broken("CLAIM-4")
class PausedRunIsClaimedTwiceById(Gapped):
    """`claim_run` of a paused run does not compare when it writes, so two claimers get it."""

    async def claim_run(self, **arguments: Any) -> Any:
        return await self.claim_as_found(RunStatus.PAUSED, arguments)


@broken("RETAIN-2")
class DeletionIgnoresAClaimMeanwhile(Gapped):
    """A run that was free a moment ago is deleted, although somebody has claimed it since."""

    async def delete_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        free = run is not None and (run.lease is None or run.lease.expires_at_ms <= arguments["now_ms"])
        await self.gap()
        return await super().delete_run(**(arguments | ({"force": True} if free else {})))


@broken("DEAD-1")
class RequeueAnswersTwice(Gapped):
    """Both of two requeues answer `requeued`."""

    async def requeue_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        dead = run is not None and run.status is RunStatus.DEAD
        await self.gap()
        answer = await super().requeue_run(**arguments)
        return Requeued() if dead else answer


@broken("CANCEL-4")
class TerminationThatCameTooLateSaysOtherwise(Gapped):
    """A run that finishes meanwhile is reported as terminated."""

    async def terminate_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        live = run is not None and run.status not in TERMINAL_STATUSES
        await self.gap()
        answer = await super().terminate_run(**arguments)
        return Terminated() if live else answer


@broken("SCHEDULE-4")
class RevisionIsComparedBeforeTheWrite(Gapped):
    """All who expect one revision change it: each compares, and writes later."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        row = self._data.schedules.get(arguments["schedule_id"])
        if row is not None and row.value.revision == arguments.get("expected_revision"):
            await self.gap()
            del arguments["expected_revision"]
        return await super().upsert_schedule(**arguments)


@broken("SCHEDULE-1")
class ScheduleIsCreatedTwice(Gapped):
    """Of two creations of one schedule both answer `created`, and the later one wins."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        schedule_id = arguments["schedule_id"]
        if schedule_id in self._data.schedules or arguments.get("expected_revision") is not None:
            return await super().upsert_schedule(**arguments)
        await self.gap()
        self._data.schedules.pop(schedule_id, None)
        return await super().upsert_schedule(**arguments)


@broken("CANCEL-1")
class ReleaseForgetsACancelMeanwhile(Gapped):
    """A release writes back the cancel flag that it has read."""

    async def release_run_lease(self, **arguments: Any) -> None:
        run = self.run(arguments)
        asked = run is not None and run.cancel_requested
        await self.gap()
        await super().release_run_lease(**arguments)
        if run is not None:
            run.cancel_requested = asked


@broken("APPROVAL-1")
class DecisionIsLostBesideAPause(Gapped):
    """A decision for one run is lost, though acknowledged, when another run pauses meanwhile."""

    _PAUSES = "pauses"

    async def mark_run_paused(self, **arguments: Any) -> Any:
        answer = await super().mark_run_paused(**arguments)
        self._pauses().append(arguments["run_id"])
        return answer

    async def deliver_approval(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        before = len(self._pauses())
        await self.gap()
        others = [run_id for run_id in self._pauses()[before:] if run_id != arguments["run_id"]]
        if run is None or not others:
            return await super().deliver_approval(**arguments)
        return Buffered(inbox_seq=run.inbox_seq + 1)

    def _pauses(self) -> list[str]:
        return self._data.__dict__.setdefault(self._PAUSES, [])
