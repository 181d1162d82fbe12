"""Stores with one fault each that shows only when two calls meet: what a call read is stale when it writes."""

from __future__ import annotations

import asyncio
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.store import (
    TERMINAL_STATUSES,
    Buffered,
    CancelRequested,
    Duplicate,
    NotWaiting,
    Requeued,
    RunRecord,
    RunStatus,
    Terminated,
)
from workflow_store_memory.data import Run
from workflow_store_memory.records import run_record


class Gapped(Faulty):
    """What these stores share: between their look and their write others come in."""

    def run(self, arguments: dict[str, Any]) -> Run | None:
        """The stored run that a call is about; none if the id is no id."""
        return super().run(arguments) if isinstance(arguments["run_id"], str) else None

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
        run, now_ms = self.run(arguments), arguments["now_ms"]
        free = run is not None and isinstance(now_ms, int) and (run.claimable_at_ms or 0) <= now_ms
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
        if answer.kind == "requeued":
            self._requeued().add(arguments["run_id"])
        return Requeued() if dead and arguments["run_id"] in self._requeued() else answer

    def _requeued(self) -> set[str]:
        """The runs that were requeued before, through any handle."""
        requeued: set[str] = self._data.__dict__.setdefault("requeued", set())
        return requeued


@broken("CANCEL-4")
class TerminationThatCameTooLateSaysOtherwise(Gapped):
    """A run that finishes meanwhile is reported as terminated."""

    async def terminate_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        live = run is not None and run.status not in TERMINAL_STATUSES
        await self.gap()
        answer = await super().terminate_run(**arguments)
        return Terminated() if live else answer


@broken("TIMER-1", words="The timer is durable", case="end_of_a_lease_and_timer_at_once")
class PauseLosesTheTimersOfTheMeantime(Gapped):
    """A pause writes the run's timers as it has read them, so one that was set meanwhile is lost."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        known = set() if run is None else set(run.timers)
        await self.gap()
        late = set() if run is None else set(run.timers) - known
        removed = [*arguments.get("removed_timers", ()), *late]
        return await super().mark_run_paused(**(arguments | {"removed_timers": removed}))


@broken("CANCEL-4", words="its timers are gone, in one unit", case="end_of_a_lease_and_timer_at_once")
class TerminationLeavesTheTimersOfTheMeantime(Gapped):
    """A termination removes the timers that it has read, so one that was set meanwhile stays."""

    async def terminate_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        known = set() if run is None else set(run.timers)
        await self.gap()
        late = {} if run is None else {name: timer for name, timer in run.timers.items() if name not in known}
        answer = await super().terminate_run(**arguments)
        if run is not None:
            run.timers |= late
        return answer


@broken("RETAIN-1", words="Every trace", case="deletion_and_write_at_once")
class DeletionLeavesTheTimersOfTheMeantime(Gapped):
    """A deletion removes the timers that it has read, so one that was set meanwhile is there for the next run."""

    left: dict[str, Any] = {}  # noqa: RUF012  # by the id of the run

    async def delete_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        known = set() if run is None else set(run.timers)
        await self.gap()
        if run is not None:
            self.left[run.run_id] = {name: timer for name, timer in run.timers.items() if name not in known}
        return await super().delete_run(**arguments)

    async def create_run(self, **arguments: Any) -> Any:
        answer = await super().create_run(**arguments)
        run = self.run(arguments)
        if run is not None:
            run.timers |= self.left.pop(run.run_id, {})
        return answer


@broken(
    "CANCEL-1",
    words="any other run that was asked before answers `duplicate`",
    case="calls_for_one_run_that_meet_act_once",
)
class TwoAreToldThatTheyAsked(Gapped):
    """Of two requests at once for a run that nobody drives both are answered as the first one."""

    async def cancel_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        first = run is not None and run.status is not RunStatus.RUNNING and not run.cancel_requested
        await self.gap()
        answer = await super().cancel_run(**arguments)
        return CancelRequested(inbox_seq=answer.inbox_seq) if first and isinstance(answer, Duplicate) else answer


_EQUAL_REQUESTS = (
    ("deliver_signal", "SIGNAL-2", "A known `signal_id` answers `duplicate`"),
    ("deliver_approval", "APPROVAL-2", "another decision answers `already-decided`"),
    ("deliver_retry", "SIGNAL-7", "As SIGNAL-1 to SIGNAL-4"),
    ("cancel_run", "CANCEL-1", "any other run that was asked before answers `duplicate`"),
)


def _refusing(verb: str) -> Any:
    async def refuse(self: Gapped, **arguments: Any) -> Any:
        run = self.run(arguments)
        was_empty = run is not None and run.inbox_seq == 0
        await self.gap()
        answer = await getattr(Faulty, verb)(self, **arguments)
        if run is None or not was_empty or answer.kind not in {"duplicate", "already-decided"}:
            return answer
        return NotWaiting(status=run.status)

    return refuse


for _verb, _clause, _words in _EQUAL_REQUESTS:
    _members = {
        _verb: _refusing(_verb),
        "__doc__": f"`{_verb}` refuses a request that was not known when it looked, and is when it writes.",
    }
    broken(_clause, words=_words, case="equal_requests_at_once")(
        type(f"EqualRequestMeanwhileIsRefusedBy{_verb.title().replace('_', '')}", (Gapped,), _members)
    )


@broken("SIGNAL-5", words="nothing is written unless the answer is `delivered`", case="conditional_deliveries_at_once")
class RefusalIsOfTheMomentBefore(Gapped):
    """A delivery that comes second is refused with the status that the run had before the first."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        found = None if run is None else run.status
        await self.gap()
        answer = await super().deliver_signal(**arguments)
        return NotWaiting(status=found) if found is RunStatus.PAUSED and answer.kind == "not-waiting" else answer


class GappedSchedules(Gapped):
    """What these stores share that look at a schedule before they write it."""

    def revision(self, arguments: dict[str, Any]) -> int | None:
        """The revision of the stored schedule; `None` if there is none."""
        schedule_id = arguments["schedule_id"]
        row = self._data.schedules.get(schedule_id) if isinstance(schedule_id, str) else None
        return None if row is None else row.value.revision


@broken("SCHEDULE-4")
class RevisionIsComparedBeforeTheWrite(GappedSchedules):
    """All who expect one revision change it: each compares, and writes later."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        revision = self.revision(arguments)
        if revision is not None and revision == arguments.get("expected_revision"):
            await self.gap()
            del arguments["expected_revision"]
        return await super().upsert_schedule(**arguments)


@broken("SCHEDULE-1")
class ScheduleIsCreatedTwice(GappedSchedules):
    """Of two creations of one schedule both answer `created`, and the later one wins."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        free = self.revision(arguments) is None and isinstance(arguments["schedule_id"], str)
        if free and arguments.get("expected_revision") is None:
            await self.gap()
            self._data.schedules.pop(arguments["schedule_id"], None)
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
        """The runs that paused so far, through any handle."""
        pauses: list[str] = self._data.__dict__.setdefault("pauses", [])
        return pauses


@broken("RUN-6")
class LookGoesBackInTime(Gapped):
    """While an append is under way, a look shows the run as it was before the append that was answered last."""

    async def append_events(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is None:
            return await super().append_events(**arguments)
        self._under_way().append(run.run_id)
        try:
            await self.gap()
            before = run_record(run)
            answer = await super().append_events(**arguments)
            self._before()[run.run_id] = before
        finally:
            self._under_way().remove(run.run_id)
        return answer

    async def load_run(self, **arguments: Any) -> RunRecord | None:
        run = await super().load_run(**arguments)
        late = run is not None and run.run_id in self._under_way()
        return self._before().get(arguments["run_id"], run) if late else run

    def _under_way(self) -> list[str]:
        """The runs that appends are under way to, through any handle."""
        under_way: list[str] = self._data.__dict__.setdefault("under_way", [])
        return under_way

    def _before(self) -> dict[str, RunRecord]:
        """Each run as it was before the last append."""
        before: dict[str, RunRecord] = self._data.__dict__.setdefault("before", {})
        return before
