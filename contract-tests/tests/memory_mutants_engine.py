"""Stores whose faults come to light in the life of a run: many verbs, many workers, days between them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.errors import LeaseLostError
from workflow_runtime.store import Appended, CancelRequested, Event, LeaseRenewal, RunStatus
from workflow_store_memory.data import InMemoryData

_DAY_MS = 86_400_000


@broken("FENCE-1", words="changes nothing", case="story_of_a_late_worker")
class LateEventsAreKept(Faulty):
    """What a worker appends whose run was taken over goes to the end of the log, lest anything be lost."""

    async def append_events(self, **arguments: Any) -> Any:
        try:
            return await super().append_events(**arguments)
        except LeaseLostError:
            run = self.current(arguments["run_id"])
            run.append(arguments["events"], (), arguments["now_ms"])
            return Appended(
                next_index=run.next_index,
                inbox_seq=run.inbox_seq,
                cancel_requested=False,
                lease_expires_at_ms=arguments["now_ms"] + 1,
            )


@broken(
    "DEAD-3",
    words="an event in any driver's write, or a pause, sets the count to zero",
    case="story_of_workers_that_die",
)
class PausesAreNoProgress(Faulty):
    """Only an append sets the count of crashes to zero: a run that always pauses dies of the crashes of a year."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        crashes = self.current(arguments["run_id"]).crashes
        answer = await super().mark_run_paused(**arguments)
        self.current(arguments["run_id"]).crashes = crashes
        return answer


@broken("CLAIM-2", words="the untaken inbox", case="story_of_workers_that_die")
class RecoveredRunsComeWithoutTheirInbox(Faulty):
    """A claim from an expired lease brings the log, and no inbox."""

    async def claim_stale_runs(self, **arguments: Any) -> Any:
        answer = await super().claim_stale_runs(**arguments)
        return replace(answer, claims=tuple(replace(claim, inbox=()) for claim in answer.claims))


@broken("CLAIM-7", words="`next_due_ms` is when the next matching run can be claimed", case="story_of_one_worker")
class NobodyWaitsLongerThanADay(Faulty):
    """What is due in more than a day is not told of."""

    async def claim_due_timers(self, **arguments: Any) -> Any:
        answer = await super().claim_due_timers(**arguments)
        is_far = answer.next_due_ms is not None and answer.next_due_ms > arguments["now_ms"] + _DAY_MS
        return replace(answer, next_due_ms=None) if is_far else answer


@broken("CANCEL-2", words="A `paused` run becomes `queued`", case="story_cancelled_while_it_waits")
class CancelledRunsSleepOn(Faulty):
    """A paused run that is asked to end stays paused as long as it has a timer, which will wake it anyway."""

    async def cancel_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        was_paused = run is not None and run.status is RunStatus.PAUSED and bool(run.timers)
        answer = await super().cancel_run(**arguments)
        if was_paused and isinstance(answer, CancelRequested):
            self.current(arguments["run_id"]).make_paused(arguments["now_ms"])
        return answer


@broken("CANCEL-3", words="heartbeat", case="story_cancelled_at_work")
class HeartbeatsDoNotTellOfTheEnd(Faulty):
    """Only appends tell of a request to end."""

    async def heartbeat_run_lease(self, **arguments: Any) -> Any:
        return _untold(await super().heartbeat_run_lease(**arguments))

    async def heartbeat_run_leases(self, **arguments: Any) -> Any:
        return tuple(map(_untold, await super().heartbeat_run_leases(**arguments)))


def _untold(answer: Any) -> Any:
    renewed = isinstance(answer, LeaseRenewal)
    return replace(answer, cancel_requested=False, inbox_seq=0) if renewed else answer


@broken("FORK-1", words="its first `from_index` events as they are", case="story_mended_and_forked")
class ForksForgetTheirSteps(Faulty):
    """The events of a fork's log say no longer which step they are of."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer = await super().fork_run(**arguments)
        if answer.kind == "forked":
            fork = self.current(arguments["new_run_id"])
            fork.events[:-1] = [replace(event, step_id=None) for event in fork.events[:-1]]
        return answer


def _is_running(data: InMemoryData, run_id: str | None) -> bool:
    run = None if run_id is None else data.runs.get(run_id)
    return run is not None and run.status in {RunStatus.RUNNING, RunStatus.QUEUED}


@broken(
    "SCHEDULE-14",
    (InMemoryData, "is_live", _is_running),
    words="while the previous run is live",
    case="story_on_a_schedule",
)
class SleepersAreNotLive(Faulty):
    """A previous run that is paused is in nobody's way."""


@broken("SUBSCRIBE-2", words="Waits for events that are not there yet", case="story_that_is_followed")
class FollowersLeaveAtAPause(Faulty):
    """Who follows a run is sent away when it pauses."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        answer = await super().mark_run_paused(**arguments)
        self._paused().add(arguments["run_id"])
        return answer

    def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        return self._until_pause(super().subscribe_events(run_id=run_id, from_index=from_index), run_id)

    async def _until_pause(self, events: AsyncGenerator[Event, None], run_id: str) -> AsyncGenerator[Event, None]:
        async for event in events:
            yield event
            if run_id in self._paused():  # before now, for a follower that lags behind
                return

    def _paused(self) -> set[str]:
        """The runs that paused so far, through any handle."""
        paused: set[str] = self._data.__dict__.setdefault("paused", set())
        return paused


@broken("NOTIFY-1", words="a delivery queues a run", case="story_of_a_woken_worker")
class WokenRunsAreNotTold(Faulty):
    """A signal that queues a run is delivered in silence."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        listeners, self._data.listeners = self._data.listeners, set()
        try:
            return await super().deliver_signal(**arguments)
        finally:
            self._data.listeners = listeners
