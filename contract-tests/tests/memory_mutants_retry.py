"""Stores with one fault each in what operators say to runs that have ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.store import Delivered, Duplicate, NotRetryable, Requeued, Retried, RunStatus
from workflow_store_memory.data import Run


@broken("SIGNAL-7")
class OnlyTimersAreHurried(Faulty):
    """A run that is paused without a timer is not woken by a wish to retry."""

    async def deliver_retry(self, **arguments: Any) -> Any:
        answer = await super().deliver_retry(**arguments)
        run = self.run(arguments)
        if run is not None and isinstance(answer, Delivered) and not run.timers:
            run.make_paused(arguments["now_ms"])
        return answer


class FaultyBulk(Faulty):
    """Deals with many runs by the verbs for one, as they are here."""

    async def cancel_runs(self, **arguments: Any) -> Any:
        return await self._each(self.cancel_run, arguments)

    async def terminate_runs(self, **arguments: Any) -> Any:
        return await self._each(self.terminate_run, arguments)

    async def requeue_runs(self, **arguments: Any) -> Any:
        return await self._each(self.requeue_run, arguments)

    async def retry_runs(self, **arguments: Any) -> Any:
        return await self._each(self.retry_run, arguments)

    async def _each(self, verb: Any, arguments: dict[str, Any]) -> Any:
        rest = {name: value for name, value in arguments.items() if name != "run_ids"}
        return {run_id: await verb(run_id=run_id, **rest) for run_id in arguments["run_ids"]}


@broken("BULK-1")
class BulkTerminationHasNoReason(Faulty):
    """The reason is lost where many runs are ended at once."""

    async def terminate_runs(self, **arguments: Any) -> Any:
        return await super().terminate_runs(**(arguments | {"reason": None}))


@broken("BULK-1")
class UnknownIdsAreLeftOut(Faulty):
    """Only runs that are there are answered for."""

    async def cancel_runs(self, **arguments: Any) -> Any:
        answers = await super().cancel_runs(**arguments)
        return {run_id: answer for run_id, answer in answers.items() if answer.kind != "not-found"}


@broken("BULK-2")
class SecondCallerIsToldTheSame(FaultyBulk):
    """A run is looked at in one unit and changed in the next: two callers requeue it."""

    async def requeue_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        dead = run is not None and run.status is RunStatus.DEAD
        await asyncio.sleep(0)
        answer = await super().requeue_run(**arguments)
        return Requeued() if dead else answer


@broken("BULK-3")
class NoBoundForMany(FaultyBulk):
    """Any number of ids is taken, and a bad one is noticed when its turn comes."""


@broken("FINISH-4")
class ParkedRunIsErrored(Faulty):
    """A driver's parking ends the run."""

    async def mark_run_errored(self, **arguments: Any) -> Any:
        return await super().mark_run_errored(**(arguments | {"parked": False}))


@broken("FINISH-4")
class ParkedRunLosesItsTimers(Faulty):
    """The timers of a parked run are removed, as if it had ended."""

    async def mark_run_errored(self, **arguments: Any) -> Any:
        await super().mark_run_errored(**arguments)
        run = self.run(arguments)
        if run is not None and run.status is RunStatus.DEAD:
            run.timers.clear()


@broken("DEAD-1")
class RequeuedRunKeepsItsReason(Faulty):
    """A run that was parked still says why when it lives again."""

    async def requeue_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        reason = None if run is None else run.reason
        answer = await super().requeue_run(**arguments)
        if run is not None:
            run.reason = reason
        return answer


@broken("RETRY-1")
class RetriedRunKeepsItsError(Faulty):
    """A run that lives again still shows the error of its former life."""

    async def retry_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        error = None if run is None else run.error
        answer = await super().retry_run(**arguments)
        if run is not None:
            run.error = error
        return answer


@broken("RETRY-1")
class RetryIsNotWritten(Faulty):
    """The run is queued again, and nothing in its log says so."""

    async def retry_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        answer = await super().retry_run(**arguments)
        if run is not None and isinstance(answer, Retried):
            run.events.pop()
        return answer


@broken("RETRY-1")
class RetryIsTwoUnits(Faulty):
    """The run is looked at in one unit and changed in the next: two callers retry one end."""

    async def retry_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        ended = run is not None and run.status in arguments.get("statuses", (RunStatus.ERRORED, RunStatus.DEAD))
        await asyncio.sleep(0)
        answer = await super().retry_run(**arguments)
        if isinstance(answer, NotRetryable) and run is not None and ended:
            run.append((arguments["event"],), (), arguments["now_ms"])
            return Retried(index=run.next_index - 1)
        return answer


@broken("RETRY-2")
class AnyEndIsRetried(Faulty):
    """`statuses` is ignored."""

    async def retry_run(self, **arguments: Any) -> Any:
        any_end = (RunStatus.ERRORED, RunStatus.DEAD, RunStatus.ABORTED)
        return await super().retry_run(**(arguments | {"statuses": any_end}))


@broken("RETRY-3")
class RetryForgetsTheInbox(Faulty):
    """What nobody took in the former life is thrown away."""

    async def retry_run(self, **arguments: Any) -> Any:
        answer = await super().retry_run(**arguments)
        run = self.run(arguments)
        if run is not None and isinstance(answer, Retried):
            run.untaken.clear()
        return answer


@broken("RETRY-3")
class RetryGivesTheOldLeaseBack(Faulty):
    """The token of the former life works again."""

    async def retry_run(self, **arguments: Any) -> Any:
        answer = await super().retry_run(**arguments)
        run = self.run(arguments)
        if run is not None and isinstance(answer, Retried):
            run.lease_number -= 1
        return answer


@broken("RETRY-4")
class RetriedRunIsStillAskedToEnd(Faulty):
    """A run that was cancelled and is retried is cancelled again."""

    async def retry_run(self, **arguments: Any) -> Any:
        answer = await super().retry_run(**arguments)
        run = self.run(arguments)
        if run is not None and isinstance(answer, Retried) and any(entry.kind == "cancel" for entry in run.inbox):
            run.cancel_requested = True
        return answer


@broken("RETRY-4")
class RetriedRunCannotBeCancelledAgain(Faulty):
    """The old request makes a new one a duplicate."""

    async def retry_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        known = None if run is None else run.deliveries.get(("cancel", "cancel"))
        answer = await super().retry_run(**arguments)
        if run is not None and known is not None:
            run.deliveries["cancel", "cancel"] = replace(known)
        return answer


_make_dead = Run.make_dead


def _die_with_a_reason(self: Run, now_ms: int) -> None:
    _make_dead(self, now_ms)
    self.reason = f"lost by {self.crashes} workers"


@broken("DEAD-2", (Run, "make_dead", _die_with_a_reason), words="and no reason", case="dead_run_keeps_what_it_has")
class DeadRunGetsAReason(Faulty):
    """A run that dies by its crashes gets a reason that nobody gave."""


@broken("DEAD-2", words="count towards `limit`", case="parking_respects_the_limit")
class DyingRunsDoNotCount(Faulty):
    """A claim makes up for each run that has died by another one."""

    async def claim_stale_runs(self, **arguments: Any) -> Any:
        batch = await super().claim_stale_runs(**arguments)
        more = await super().claim_stale_runs(**(arguments | {"limit": len(batch.dead)}))
        return replace(more, claims=batch.claims + more.claims, dead=batch.dead + more.dead)


@broken(
    "CANCEL-4",
    words="The error of a run that was parked stays",
    case="terminated_run_keeps_the_error_of_its_parking",
)
class TerminationForgetsTheError(Faulty):
    """A termination takes the error of a parked run away."""

    async def terminate_run(self, **arguments: Any) -> Any:
        answer = await super().terminate_run(**arguments)
        run = self.run(arguments)
        if run is not None and answer.kind == "terminated":
            run.error = None
        return answer


@broken("CANCEL-2", words="due at once, whatever its timers were", case="cancelled_pause_is_due_at_once")
class CancelledPauseIsDueSinceItsTimer(Faulty):
    """A paused run that is asked to end keeps the time of its timer."""

    async def cancel_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        timer_ms = run.due_at_ms if run is not None and run.status is RunStatus.PAUSED else None
        answer = await super().cancel_run(**arguments)
        if run is not None and timer_ms is not None:
            run.available_at_ms = timer_ms
        return answer


@broken("BULK-1", words="its answer is that verb's", case="many_requests_are_numbered_run_by_run")
class SecondRequestHasTheNumberOfAnother(Faulty):
    """Where many runs are asked to end again, each answer has the number of the first one."""

    async def cancel_runs(self, **arguments: Any) -> Any:
        answers = await super().cancel_runs(**arguments)
        known = [answer for answer in answers.values() if isinstance(answer, Duplicate)]
        return {run_id: known[0] if answer in known else answer for run_id, answer in answers.items()}


@broken("BULK-1", case="operations_of_one_name_keep_runs_apart")
class TerminationEndsWhatHasTheSameOperation(Faulty):
    """Runs are found by the id of their last operation as well."""

    async def terminate_runs(self, **arguments: Any) -> Any:
        known = {self.current(run_id).operation_id for run_id in arguments["run_ids"] if run_id in self._data.runs}
        alike = [run.run_id for run in self._data.runs.values() if run.operation_id in known - {None}]
        answers = await super().terminate_runs(**(arguments | {"run_ids": [*arguments["run_ids"], *alike]}))
        return {run_id: answers[run_id] for run_id in arguments["run_ids"]}


@broken(
    "RETRY-3",
    words="inbox entries that nobody took are as before",
    case="request_is_told_from_deliveries_of_its_name",
)
class RetryTakesWhatHasTheNameOfARequest(Faulty):
    """With the request to end of an aborted run goes whatever else was delivered under its id."""

    async def retry_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        answer = await super().retry_run(**arguments)
        if run is not None and isinstance(answer, Retried):
            for entry in [entry for entry in run.untaken.values() if entry.delivery_id == "cancel"]:
                if entry.kind != "cancel":
                    del run.untaken[entry.inbox_seq]
        return answer
