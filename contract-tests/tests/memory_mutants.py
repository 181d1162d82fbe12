"""Stores with one fault each in the lives of runs: fences, operations, the log, pausing, ending, claiming."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from mutant_catalogue import MEMORY_MUTANTS, broken
from workflow_runtime.errors import LeaseLostError, LogConflictError
from workflow_runtime.ids import new_id
from workflow_runtime.store import (
    DRIVER_VERBS,
    Buffered,
    Created,
    Duplicate,
    Existing,
    NotRequeueable,
    Requeued,
    Retried,
    RunStatus,
)
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_memory.data import Run
from workflow_store_memory.store_role import StoreRole

__all__ = ["MEMORY_MUTANTS", "Faulty"]


class Faulty(InMemoryWorkflowStore):
    """What faulty stores use to do their mischief."""

    def run(self, arguments: dict[str, Any]) -> Run | None:
        """The stored run that a call is about."""
        return self._data.runs.get(arguments["run_id"])

    def current(self, run_id: str) -> Run:
        """A stored run that is there."""
        return self._data.runs[run_id]


def _unfenced(verb: str) -> type[Faulty]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is not None and run.lease is not None:
            arguments["lease_token"] = run.lease.token
        return await getattr(InMemoryWorkflowStore, verb)(self, **arguments)

    name = "Unfenced" + "".join(part.title() for part in verb.split("_"))
    return type(name, (Faulty,), {verb: call, "__doc__": f"`{verb}` does not look at the token."})


for _verb in DRIVER_VERBS:
    broken("FENCE-1")(_unfenced(_verb))


@broken("FENCE-2")
class ExpiredHolderIsRefused(Faulty):
    """A lease that has expired is taken for a lost one, although nobody has the run."""

    async def append_events(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is not None and run.lease is not None and run.lease.expires_at_ms <= arguments["now_ms"]:
            raise LeaseLostError(run.run_id)
        return await super().append_events(**arguments)


def _begin_with_bare_number(run: Run, *, owner: str, expires_at_ms: int, now_ms: int) -> Any:
    run.generation = run.run_id
    return _begin_lease(run, owner=owner, expires_at_ms=expires_at_ms, now_ms=now_ms)


_begin_lease = Run.begin_lease


@broken("FENCE-3", (Run, "begin_lease", _begin_with_bare_number))
class TokenIsReusedAfterDelete(Faulty):
    """Tokens are made of the run id and a counter that begins again with a new record."""


def _never(self: StoreRole, run_id: str, operation_id: str, answer_type: type) -> Any:
    return None


@broken("OP-1", (StoreRole, "_repeated", _never))
class RepeatedOperationIsAppliedAgain(Faulty):
    """Operation ids are ignored."""


_repeated = StoreRole._repeated


def _only_while_leased(self: StoreRole, run_id: str, operation_id: str, answer_type: type) -> Any:
    run = self._data.runs.get(run_id)
    return None if run is None or run.lease is None else _repeated(self, run_id, operation_id, answer_type)


@broken("OP-1", (StoreRole, "_repeated", _only_while_leased))
class OperationIsForgottenWithTheLease(Faulty):
    """The last operation is looked up after the fence, so one that ended the lease cannot be repeated."""


def _begin_and_forget(run: Run, *, owner: str, expires_at_ms: int, now_ms: int) -> Any:
    run.operation_id = None
    return _begin_lease(run, owner=owner, expires_at_ms=expires_at_ms, now_ms=now_ms)


@broken("OP-2", (Run, "begin_lease", _begin_and_forget))
class OperationIsForgottenByAClaim(Faulty):
    """A claim by another clears the last operation."""


_receive = Run.receive


def _receive_and_forget(run: Run, **arguments: Any) -> Any:
    run.operation_id = None
    return _receive(run, **arguments)


@broken("OP-2", (Run, "receive", _receive_and_forget))
class OperationIsForgottenByADelivery(Faulty):
    """A delivery clears the last operation."""


_driven = StoreRole._driven


def _driven_anywhere(self: StoreRole, run_id: str, lease_token: str, expected_next_index: int | None = None) -> Run:
    return _driven(self, run_id, lease_token)


@broken("LOG-1", (StoreRole, "_driven", _driven_anywhere))
class AppendGoesAnywhere(Faulty):
    """The expected index is not compared with the length of the log."""


@broken("PAUSE-4", (StoreRole, "_driven", _driven_anywhere))
class PauseGoesAnywhere(Faulty):
    """A pause does not compare the expected index."""


@broken("FINISH-2", (StoreRole, "_driven", _driven_anywhere))
class FinishGoesAnywhere(Faulty):
    """A finish does not compare the expected index."""


@broken("LOG-2")
class AppendLeavesAPrefix(Faulty):
    """Events are written one after the other; what comes before a refused one stays."""

    async def append_events(self, **arguments: Any) -> Any:
        events = list(arguments["events"])
        for place, event in enumerate(events[:-1]):
            part = {"events": [event], "operation_id": f"{arguments['operation_id']}-{place}"}
            await super().append_events(**(arguments | part))
            arguments["expected_next_index"] += 1
        return await super().append_events(**(arguments | {"events": events[-1:]}))


@broken("LOG-3")
class CrashCountSurvivesProgress(Faulty):
    """An append does not set the crash count to zero."""

    async def append_events(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        crashes = 0 if run is None else run.crashes
        answer = await super().append_events(**arguments)
        self.current(arguments["run_id"]).crashes = crashes
        return answer


@broken("LOG-4")
class AppendKeepsTheNewsToItself(Faulty):
    """The answer to an append tells an inbox number of nothing and no cancellation."""

    async def append_events(self, **arguments: Any) -> Any:
        return replace(await super().append_events(**arguments), inbox_seq=0, cancel_requested=False)


@broken("LOG-5")
class AppendChecksTooEarly(Faulty):
    """The length of the log is compared in one unit and written to in another."""

    async def append_events(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is None or run.operation_id == arguments["operation_id"]:
            return await super().append_events(**arguments)
        if run.next_index != arguments["expected_next_index"]:
            raise LogConflictError(run.run_id, arguments["expected_next_index"], run.next_index)
        await asyncio.sleep(0.001)
        arguments["expected_next_index"] = run.next_index
        return await super().append_events(**arguments)


_append = Run.append


def _append_without_taking(run: Run, events: Any, taken_inbox: Any, now_ms: int) -> None:
    _append(run, events, (), now_ms)


@broken("LOG-6", (Run, "append", _append_without_taking))
class TakenEntriesComeAgain(Faulty):
    """Entries that an event accounts for stay in the inbox."""


@broken("LOG-7")
class PageIsUnbounded(Faulty):
    """`read_events` does not count bytes."""

    async def read_events(self, **arguments: Any) -> Any:
        return await super().read_events(**(arguments | {"max_bytes": 10**9}))


@broken("RUN-1")
class NewRunIsDueAtOnce(Faulty):
    """`available_at_ms` is ignored."""

    async def create_run(self, **arguments: Any) -> Any:
        return await super().create_run(**(arguments | {"available_at_ms": None}))


@broken("RUN-2")
class CreationAndClaimAreTwoUnits(Faulty):
    """Start-and-claim creates first and claims afterwards."""

    async def create_run(self, **arguments: Any) -> Any:
        lease = {name: arguments.pop(name, None) for name in ("owner", "lease_ms")}
        created = await super().create_run(**arguments)
        if lease["owner"] is None or created.kind != "created":
            return created
        claimed = await self.claim_run(
            run_id=arguments["run_id"], now_ms=arguments["now_ms"], max_crashes=9, owner=lease["owner"],
            lease_ms=lease["lease_ms"],
        )  # fmt: skip
        claim = getattr(claimed, "claim", None)
        return created if claim is None else Created(run=claim.run, claim=claim)


@broken("RUN-3")
class DifferencesAreNotTold(Faulty):
    """A creation under a known id never says what differs."""

    async def create_run(self, **arguments: Any) -> Any:
        answer = await super().create_run(**arguments)
        return Existing(run=answer.run, differs=()) if isinstance(answer, Existing) else answer


@broken("RUN-4")
class BothRacersCreate(Faulty):
    """Whether the id is free is looked up in one unit, and the run is written in another."""

    async def create_run(self, **arguments: Any) -> Any:
        if self.run(arguments) is None:
            await asyncio.sleep(0.001)
            self._data.runs.pop(arguments["run_id"], None)
        return await super().create_run(**arguments)


@broken("RUN-5")
class RepeatedCreationIsExisting(Faulty):
    """A creation repeated after a lost answer is told that the run is there already."""

    async def create_run(self, **arguments: Any) -> Any:
        return await super().create_run(**(arguments | {"operation_id": new_id()}))


@broken("RUN-6")
class LoadedRunIsCached(Faulty):
    """Each handle remembers the runs that it has loaded."""

    async def load_run(self, **arguments: Any) -> Any:
        cache = self.__dict__.setdefault("cache", {})
        if cache.get(arguments["run_id"]) is None:
            cache[arguments["run_id"]] = await super().load_run(**arguments)
        return cache[arguments["run_id"]]


@broken("RUN-7")
class ExecutionIsTorn(Faulty):
    """Run and history are read one after the other."""

    async def load_execution(self, **arguments: Any) -> Any:
        run = await self.load_run(run_id=arguments["run_id"])
        await asyncio.sleep(0)
        execution = await super().load_execution(**arguments)
        return execution if execution is None or run is None else replace(execution, run=run)


@broken("PAUSE-5")
class LongAwaitedListsAreCut(Faulty):
    """A run waits for the first thousand things only."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        awaited = tuple(arguments.get("awaited", ()))
        return await super().mark_run_paused(**(arguments | {"awaited": awaited[:1_000]}))


@broken("LOG-8")
class ManyTimersAreRemovedInPart(Faulty):
    """The first hundred of the timers to be removed are."""

    async def append_events(self, **arguments: Any) -> Any:
        removed = tuple(arguments.get("removed_timers", ()))
        return await super().append_events(**(arguments | {"removed_timers": removed[:100]}))


@broken("PAUSE-1")
class PauseForgetsTimers(Faulty):
    """A pause does not write the timers that it was given."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        return await super().mark_run_paused(**(arguments | {"set_timers": ()}))


@broken("PAUSE-1", words="due at its earliest timer", case="pause_is_due_at_the_earliest_timer_that_is_left")
class PauseCountsTheTimersThatItRemoves(Faulty):
    """A paused run is due at the earliest of its timers, and of those that its pause removed."""

    _removed: dict[str, int] = {}  # noqa: RUF012  # times by the id of the run

    async def mark_run_paused(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        timers = {} if run is None else dict(run.timers)
        times = [timers[name].fire_at_ms for name in arguments.get("removed_timers", ()) if name in timers]
        self._removed[arguments["run_id"]] = min(times, default=2**53)
        return await super().mark_run_paused(**arguments)

    async def load_run(self, **arguments: Any) -> Any:
        run = await super().load_run(**arguments)
        if run is None or run.status is not RunStatus.PAUSED or run.due_at_ms is None:
            return run
        return replace(run, due_at_ms=min(run.due_at_ms, self._removed[run.run_id]))


@broken("PAUSE-2")
class PauseIgnoresTheInbox(Faulty):
    """A pause parks the run whatever has arrived."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        return await super().mark_run_paused(**(arguments | {"seen_inbox_seq": 10**6}))


@broken("PAUSE-3")
class PauseLooksTooEarly(Faulty):
    """A pause looks at the inbox in one unit and parks the run in the next: a wake-up in between is lost."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is not None and run.inbox_seq == arguments["seen_inbox_seq"]:
            await asyncio.sleep(0.001)
            arguments["seen_inbox_seq"] = 10**6
        return await super().mark_run_paused(**arguments)


@broken("PAUSE-3")
class DeliveryLooksTooEarly(Faulty):
    """A delivery decides whether to wake the run before it writes: a pause in between is not woken."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is None or run.waits_for("signal", arguments["name"]) or run.status is not RunStatus.RUNNING:
            return await super().deliver_signal(**arguments)
        await asyncio.sleep(0.001)
        entry = run.receive(
            kind="signal",
            name=arguments["name"],
            delivery_id=arguments["signal_id"],
            payload=arguments["payload"],
            now_ms=arguments["now_ms"],
        )
        return Buffered(inbox_seq=entry.inbox_seq)


_make_ended = Run.make_ended


def _ended_with_timers(run: Run, status: RunStatus, now_ms: int) -> None:
    timers = dict(run.timers)
    _make_ended(run, status, now_ms)
    run.timers.update(timers)


@broken("FINISH-1", (Run, "make_ended", _ended_with_timers))
class FinishLeavesTimers(Faulty):
    """The timers of a run that has ended are left behind."""


@broken("FINISH-3")
class AbortedIsErrored(Faulty):
    """`aborted` is ignored."""

    async def mark_run_errored(self, **arguments: Any) -> Any:
        return await super().mark_run_errored(**(arguments | {"aborted": False}))


@broken("CANCEL-1")
class CancelIsRepeated(Faulty):
    """Every request to cancel is a new entry."""

    async def cancel_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is not None:
            run.deliveries.pop(("cancel", "cancel"), None)
        return await super().cancel_run(**arguments)


@broken(
    "CANCEL-1",
    words="any other run that was asked before answers `duplicate`",
    case="duplicate_names_the_request_of_its_run",
)
class RequestIsFoundByItsIdAlone(Faulty):
    """The answer to a second request names whatever was delivered first with the id of a request."""

    async def cancel_run(self, **arguments: Any) -> Any:
        answer = await super().cancel_run(**arguments)
        if isinstance(answer, Duplicate):
            inbox = self.current(arguments["run_id"]).inbox
            return replace(answer, inbox_seq=next(e.inbox_seq for e in inbox if e.delivery_id == "cancel"))
        return answer


@broken("CANCEL-2", words="or since it was due if that was earlier", case="queued_run_is_due_at_once")
class CancelledRunLosesItsPlace(Faulty):
    """A queued run that is asked to end is due anew, behind those that became due meanwhile."""

    async def cancel_run(self, **arguments: Any) -> Any:
        answer = await super().cancel_run(**arguments)
        run = self.run(arguments)
        if run is not None and run.status is RunStatus.QUEUED:
            run.available_at_ms = arguments["now_ms"]
        return answer


@broken("CANCEL-2")
class CancelledRunWaitsForItsTime(Faulty):
    """A run queued for next week ends next week."""

    async def cancel_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        due = None if run is None else run.available_at_ms
        answer = await super().cancel_run(**arguments)
        if run is not None and run.status is RunStatus.QUEUED and due is not None:
            run.available_at_ms = due
        return answer


@broken("CANCEL-2")
class CancelledRunStaysParked(Faulty):
    """A paused run is not woken by a request to cancel."""

    async def cancel_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        paused = run is not None and run.status is RunStatus.PAUSED
        answer = await super().cancel_run(**arguments)
        if run is not None and paused:
            run.status = RunStatus.PAUSED
        return answer


@broken("CANCEL-3")
class CancelTakesTheLease(Faulty):
    """A request to cancel takes the run from its holder."""

    async def cancel_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is not None and run.status is RunStatus.RUNNING:
            run.make_queued(arguments["now_ms"])
        return await super().cancel_run(**arguments)


@broken("CANCEL-4", words="with the reason", case="operations_of_one_name_keep_runs_apart")
class TerminationGivesItsReasonToOthers(Faulty):
    """A termination writes its reason wherever there is one."""

    async def terminate_run(self, **arguments: Any) -> Any:
        answer = await super().terminate_run(**arguments)
        for run in self._data.runs.values():
            if run.reason is not None:
                run.reason = arguments.get("reason")
        return answer


@broken("CANCEL-4")
class TerminatedRunKeepsItsHolder(Faulty):
    """A terminated run can still be written to."""

    async def terminate_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        lease = None if run is None else run.lease
        answer = await super().terminate_run(**arguments)
        if run is not None and lease is not None:
            run.lease = lease
        return answer


@broken("DEAD-1")
class RequeuedRunKeepsItsCrashes(Faulty):
    """A run that is requeued dies of its next crash."""

    async def requeue_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        crashes = 0 if run is None else run.crashes
        answer = await super().requeue_run(**arguments)
        if run is not None:
            run.crashes = crashes
        return answer


@broken("DEAD-2")
class ClaimByIdNeverKills(Faulty):
    """`claim_run` ignores `max_crashes`."""

    async def claim_run(self, **arguments: Any) -> Any:
        return await super().claim_run(**(arguments | {"max_crashes": 10**6}))


@broken("DEAD-3")
class PauseIsNoProgress(Faulty):
    """A pause leaves the crash count as it was."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        crashes = 0 if run is None else run.crashes
        answer = await super().mark_run_paused(**arguments)
        if run is not None:
            run.crashes = crashes
        return answer


@broken("DEAD-3", words="an event in any driver's write", case="last_event_clears_the_count")
class LastEventIsNoProgress(Faulty):
    """The write that ends a run leaves the crash count as it was, with an event and without one."""

    async def mark_run_finished(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        crashes = 0 if run is None else run.crashes
        await super().mark_run_finished(**arguments)
        if run is not None:
            run.crashes = crashes


@broken("DEAD-3", words="an event in any driver's write", case="last_event_clears_the_count")
class EveryEndIsProgress(Faulty):
    """An error sets the crash count to zero, though the driver has written no event."""

    async def mark_run_errored(self, **arguments: Any) -> Any:
        await super().mark_run_errored(**arguments)
        self.current(arguments["run_id"]).crashes = 0


@broken("STATUS-1")
class PausedRunsAreRequeued(Faulty):
    """`requeue_run` works on a paused run."""

    async def requeue_run(self, **arguments: Any) -> Any:
        answer = await super().requeue_run(**arguments)
        return Requeued() if isinstance(answer, NotRequeueable) and answer.status is RunStatus.PAUSED else answer


@broken("RETAIN-1")
class DeletionLeavesTheInbox(Faulty):
    """The inbox of a deleted run is found again by its namesake."""

    async def delete_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        answer = await super().delete_run(**arguments)
        if run is not None and answer.kind == "deleted":
            self._data.__dict__.setdefault("graveyard", {})[run.run_id] = run
        return answer

    async def create_run(self, **arguments: Any) -> Any:
        answer = await super().create_run(**arguments)
        buried = self._data.__dict__.get("graveyard", {}).pop(arguments["run_id"], None)
        if buried is not None:
            self.current(arguments["run_id"]).deliveries.update(buried.deliveries)
        return answer


@broken("RETAIN-2")
class LiveRunsAreDeleted(Faulty):
    """A live lease does not protect a run from deletion."""

    async def delete_run(self, **arguments: Any) -> Any:
        return await super().delete_run(**(arguments | {"force": True}))


@broken("RETAIN-3")
class PruneTakesTheLiving(Faulty):
    """Pruning looks at the age of runs and not at their status."""

    async def prune_runs(self, **arguments: Any) -> Any:
        pruned = await super().prune_runs(**arguments)
        before = arguments["finished_before_ms"]
        living = [run for run in self._data.runs.values() if run.finished_at_ms is None and run.created_at_ms < before]
        for run in living[: arguments["limit"] - pruned]:
            del self._data.runs[run.run_id]
            pruned += 1
        return pruned


@broken("LOG-7", words="at most `max_bytes` of payload", case="bytes_of_each_event_count")
class EventOfARetryWeighsNothing(Faulty):
    """The event of a retry is not counted where a page is bounded."""

    async def retry_run(self, **arguments: Any) -> Any:
        answer = await super().retry_run(**arguments)
        if isinstance(answer, Retried):
            self._data.weightless = (arguments["run_id"], answer.index)  # type: ignore[attr-defined]  # its own
        return answer

    async def read_events(self, **arguments: Any) -> Any:
        run_id, index = getattr(self._data, "weightless", (None, 0))
        if run_id == arguments["run_id"] and "max_bytes" in arguments:
            payload = self.current(run_id).events[index].payload
            arguments["max_bytes"] += len(payload or "")
        return await super().read_events(**arguments)


@broken("OP-1", words="a run's last driver's write", case="operation_of_another_run_is_not_the_last_one")
class OperationIsKnownByItsIdAlone(Faulty):
    """The last write of any run makes a write of the same operation id a repeat."""

    async def release_run_lease(self, **arguments: Any) -> Any:
        done = self._data.__dict__.setdefault("released", {})
        if done.setdefault(arguments["operation_id"], arguments["run_id"]) != arguments["run_id"]:
            return
        await super().release_run_lease(**arguments)
