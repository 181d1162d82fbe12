"""Stores with one fault each in claims, leases and sweeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.store import (
    MAX_HEARTBEAT_LEASES,
    Duplicate,
    LeaseBusy,
    LeaseLost,
    LeaseLostError,
    LeaseRenewal,
    LeaseResult,
    RunStatus,
)
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_memory import claims as memory_claims
from workflow_store_memory.data import Run

_first_due = memory_claims._first_due


def _first_due_late(waiting: Any, *, now_ms: int, limit: int) -> Any:
    return _first_due(waiting, now_ms=now_ms - 1, limit=limit)


@broken("CLAIM-1")
class LeaseEndsOneMillisecondLate(Faulty):
    """`claim_run` takes the end of a lease for its last moment."""

    async def claim_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        lease = None if run is None else run.lease
        if run is not None and lease is not None and lease.expires_at_ms == arguments["now_ms"]:
            run.lease = replace(lease, expires_at_ms=lease.expires_at_ms + 1)
            answer = await super().claim_run(**arguments)
            after = self.current(run.run_id).lease
            if after is not None and after.token == lease.token:
                run.lease = lease
            return answer
        return await super().claim_run(**arguments)


@broken("LEASE-1", (memory_claims, "_first_due", _first_due_late))
class SweepIsOneMillisecondLate(Faulty):
    """Sweeps find what was due a millisecond ago."""


@broken("CLAIM-2")
class ClaimBringsNoInbox(Faulty):
    """A claim by id comes with the history only."""

    async def claim_run(self, **arguments: Any) -> Any:
        answer = await super().claim_run(**arguments)
        claim = getattr(answer, "claim", None)
        return answer if claim is None else replace(answer, claim=replace(claim, inbox=()))


@broken("CLAIM-3")
class PendingListIsByAge(Faulty):
    """`list_pending_runs` shows the runs in another order than a claim takes them."""

    async def list_pending_runs(self, **arguments: Any) -> Any:
        return tuple(reversed(await super().list_pending_runs(**arguments)))


@broken("CLAIM-4")
class TwoClaimersGetOneRun(Faulty):
    """A sweep chooses its runs in one unit and claims them in the next."""

    async def claim_pending_runs(self, **arguments: Any) -> Any:
        queued = [run for run in self._data.runs.values() if run.status is RunStatus.QUEUED]
        await asyncio.sleep(0.001)
        for run in queued[: arguments["limit"]]:
            if run.status is RunStatus.RUNNING:
                run.status, run.lease = RunStatus.QUEUED, None
        return await super().claim_pending_runs(**arguments)


def _first_due_by_age(waiting: Any, *, now_ms: int, limit: int) -> Any:
    runs = [(at_ms, run) for at_ms, run in waiting if at_ms <= now_ms]
    return [run for _, run in sorted(runs, key=lambda item: (item[0], item[1].run_id))[:limit]]


@broken("CLAIM-5", (memory_claims, "_first_due", _first_due_by_age))
class PriorityIsIgnored(Faulty):
    """Claims are in order of time alone."""


@broken("CLAIM-6")
class EmptyFilterMatchesAll(Faulty):
    """An empty list of queues is taken for no filter."""

    async def claim_pending_runs(self, **arguments: Any) -> Any:
        return await super().claim_pending_runs(**(arguments | {"queues": arguments.get("queues") or None}))


@broken("CLAIM-6")
class VersionIsIgnored(Faulty):
    """A worker gets every version of its workflows."""

    async def claim_due_timers(self, **arguments: Any) -> Any:
        wanted = arguments.get("workflows")
        if wanted:
            ids = {version.workflow_id for version in wanted}
            stored = self._data.runs.values()
            arguments["workflows"] = [
                replace(wanted[0], workflow_id=run.workflow_id, version=run.workflow_version)
                for run in stored
                if run.workflow_id in ids
            ]
        return await super().claim_due_timers(**arguments)


def _without_next_due(verb: str) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        return replace(await getattr(InMemoryWorkflowStore, verb)(self, **arguments), next_due_ms=None)

    return call


@broken("CLAIM-7")
class NextDueIsUnknown(Faulty):
    """A claim never says when the next run is due."""

    claim_pending_runs = _without_next_due("claim_pending_runs")


def _queued_for_nobody(run: Run, now_ms: int) -> None:
    run.status, run.lease, run.finished_at_ms = RunStatus.QUEUED, None, None
    run.available_at_ms = 2**53 - 1
    run.updated_at_ms = now_ms


@broken("CLAIM-9", (Run, "make_queued", _queued_for_nobody))
class QueuedRunIsNeverClaimed(Faulty):
    """A run that is queued again has no time at which anybody would find it."""


_renew_lease = Run.renew_lease


def _renew_exactly(run: Run, expires_at_ms: int) -> Any:
    assert run.lease is not None
    run.lease = replace(run.lease, expires_at_ms=expires_at_ms)
    return run.lease


@broken("LEASE-1", (Run, "renew_lease", _renew_exactly))
class HeartbeatShortens(Faulty):
    """A late heartbeat moves the end of a lease back."""


@broken("LOG-3")
class AppendShortens(Faulty):
    """An append that asks for a shorter lease gets it."""

    async def append_events(self, **arguments: Any) -> Any:
        answer = await super().append_events(**arguments)
        run = self.current(arguments["run_id"])
        assert run.lease is not None
        end = arguments["now_ms"] + arguments["lease_ms"]
        run.lease = replace(run.lease, expires_at_ms=end)
        return replace(answer, lease_expires_at_ms=end)


@broken("OP-1")
class RepeatPromisesANewLease(Faulty):
    """A repeated append answers with a lease that nobody has renewed."""

    async def append_events(self, **arguments: Any) -> Any:
        answer = await super().append_events(**arguments)
        return replace(answer, lease_expires_at_ms=arguments["now_ms"] + arguments["lease_ms"])


@broken("LEASE-2")
class HeartbeatIsProgress(Faulty):
    """A heartbeat touches the run as if somebody had written it."""

    async def heartbeat_run_lease(self, **arguments: Any) -> Any:
        answer = await super().heartbeat_run_lease(**arguments)
        self.current(arguments["run_id"]).updated_at_ms = arguments["now_ms"]
        return answer


@broken("DEAD-2")
class DeadRunLosesItsTimers(Faulty):
    """A run that becomes dead is cleaned up like one that has ended."""

    async def claim_stale_runs(self, **arguments: Any) -> Any:
        answer = await super().claim_stale_runs(**arguments)
        for run_id in answer.dead:
            self.current(run_id).timers.clear()
        return answer


@broken("CLAIM-7")
class OwnLeasesCount(Faulty):
    """A claim of stale runs says when the leases that it has just given run out."""

    async def claim_stale_runs(self, **arguments: Any) -> Any:
        answer = await super().claim_stale_runs(**arguments)
        ends = [claim.lease.expires_at_ms for claim in answer.claims]
        known = [] if answer.next_due_ms is None else [answer.next_due_ms]
        return replace(answer, next_due_ms=min(ends + known, default=None))


def _passing_over(verb: str) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        return await getattr(InMemoryWorkflowStore, verb)(self, **arguments | {"limit": min(arguments["limit"], 3)})

    return call


@broken("CLAIM-10")
class ClaimIsShy(Faulty):
    """A claim brings three runs at most, whatever its limit."""

    claim_pending_runs = _passing_over("claim_pending_runs")


@broken("CLAIM-10")
class ContendedClaimSaysThatNothingIsDue(Faulty):
    """A claim that meets another one brings nothing, and does not say that more is due."""

    _at_it = False

    async def claim_pending_runs(self, **arguments: Any) -> Any:
        kind = type(self)
        if kind._at_it:
            answer = await super().claim_pending_runs(**arguments | {"limit": 0})
            return replace(answer, next_due_ms=None)
        kind._at_it = True
        try:
            await asyncio.sleep(0.001)
            return await super().claim_pending_runs(**arguments)
        finally:
            kind._at_it = False


@broken("LEASE-2")
class HeartbeatEchoesTheClock(Faulty):
    """The answer to a heartbeat gives the caller's own time for the store's."""

    async def heartbeat_run_lease(self, **arguments: Any) -> Any:
        return replace(await super().heartbeat_run_lease(**arguments), store_clock_ms=arguments["now_ms"])


class _Beats(Faulty):
    """Changes what `heartbeat_run_leases` answers, or does."""

    async def heartbeat_run_leases(self, **arguments: Any) -> Any:
        return self.changed(await super().heartbeat_run_leases(**arguments), arguments)

    def changed(self, answers: Any, arguments: Any) -> Any:
        raise NotImplementedError


@broken("LEASE-4", words="in the order of `leases`", case="answers_are_in_the_order_of_the_leases")
class RenewalsAreSorted(_Beats):
    """The answers come in the order of the run ids."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        pairs = zip(arguments["leases"], answers, strict=True)
        return tuple(answer for _, answer in sorted(pairs, key=lambda pair: pair[0]))


@broken("LEASE-4", words="named twice", case="answers_are_in_the_order_of_the_leases")
class LeaseIsAnsweredOnce(_Beats):
    """A lease that is named twice is answered once."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        return tuple(dict(zip(arguments["leases"], answers, strict=True)).values())


@broken("LEASE-4", words="also for a run", case="answers_are_in_the_order_of_the_leases")
class RunIsAnsweredOnce(_Beats):
    """The answers go by the run: an old token of it is renewed where a new one is."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        by_run = {run_id: answer for (run_id, _), answer in zip(arguments["leases"], answers, strict=True)}
        return tuple(by_run[run_id] for run_id, _ in arguments["leases"])


@broken("LEASE-4", words="whatever becomes of the others", case="answers_are_in_the_order_of_the_leases")
class LostLeaseKeepsTheOthersBack(_Beats):
    """One lease is lost, and all are."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        lost = any(isinstance(answer, LeaseLost) for answer in answers)
        return tuple(LeaseLost() for _ in answers) if lost else answers


@broken("LEASE-4", words="where that verb raises `LeaseLostError`", case="leases_are_renewed_as_one_by_one")
class LossOfOneOfManyIsRaised(_Beats):
    """A lost lease among many raises."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        if any(isinstance(answer, LeaseLost) for answer in answers):
            raise LeaseLostError("one of many")
        return answers


@broken("LEASE-4", words="Without leases nothing happens", case="without_leases_nothing_happens")
class NoLeasesAreAnswered(_Beats):
    """A call without leases is answered as lost."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        return answers or (LeaseLost(),)


@broken("LEASE-4", words="dealt with as by `heartbeat_run_lease`", case="renewal_among_many_changes_nothing_else")
class RenewalAmongManyIsProgress(_Beats):
    """A renewal among many touches the run as if somebody had written it."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        for (run_id, _), answer in zip(arguments["leases"], answers, strict=True):
            if isinstance(answer, LeaseRenewal):
                self.current(run_id).updated_at_ms = arguments["now_ms"]
        return answers


@broken("LEASE-4", words="Its answer is that verb's", case="leases_are_renewed_as_one_by_one")
class RenewalAmongManyTellsNoCancel(_Beats):
    """The answer of a renewal among many does not say that the run was asked to end."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        return tuple(
            replace(answer, cancel_requested=False) if isinstance(answer, LeaseRenewal) else answer
            for answer in answers
        )


@broken("LEASE-4", words="dealt with as by `heartbeat_run_lease`", case="renewal_among_many_is_a_sign_of_life")
class RenewalAmongManyIsNoSignOfLife(Faulty):
    """A crash after a renewal among many is that of a driver of which nothing was heard."""

    async def heartbeat_run_leases(self, **arguments: Any) -> Any:
        runs = [run for run_id, _ in arguments["leases"] if (run := self._data.runs.get(run_id)) is not None]
        silent = [run.silent_claims for run in runs]
        answers = await super().heartbeat_run_leases(**arguments)
        for run, claims in zip(runs, silent, strict=True):
            run.silent_claims = claims
        return answers


@broken("LEASE-4", words="dealt with as by `heartbeat_run_lease`", case="no_renewal_among_many_shortens")
class RenewalAmongManyShortens(_Beats):
    """A late renewal among many moves the end of a lease back."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        end_ms = arguments["now_ms"] + arguments["lease_ms"]
        for (run_id, _), answer in zip(arguments["leases"], answers, strict=True):
            run = self._data.runs.get(run_id)
            if isinstance(answer, LeaseRenewal) and run is not None and run.lease is not None:
                run.lease = replace(run.lease, expires_at_ms=end_ms)
        return answers


@broken("LEASE-4", words="Its answer is that verb's", case="renewals_among_many_tell_the_clock")
class RenewalAmongManyEchoesTheClock(_Beats):
    """The answer of a renewal among many gives the caller's own time for the store's."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        return tuple(
            replace(answer, store_clock_ms=arguments["now_ms"]) if isinstance(answer, LeaseRenewal) else answer
            for answer in answers
        )


@broken("LEASE-5", words="that nobody else writes to is never `busy`", case="nobody_is_busy_by_himself")
class FirstLeaseIsBusy(_Beats):
    """A call finds the first of many busy, whoever writes."""

    def changed(self, answers: Any, arguments: Any) -> Any:
        return (LeaseBusy(), *answers[1:]) if len(answers) > 1 else answers


@broken("LEASE-5", words="somebody is writing to the run", case="run_that_is_written_to_is_renewed_or_busy")
class WhoIsWrittenToIsLost(Faulty):
    """A run that somebody is writing to is taken for lost."""

    _writing: ClassVar[set[str]] = set()

    async def append_events(self, **arguments: Any) -> Any:
        self._writing.add(arguments["run_id"])
        try:
            await asyncio.sleep(0.001)
            return await super().append_events(**arguments)
        finally:
            self._writing.discard(arguments["run_id"])

    async def heartbeat_run_leases(self, **arguments: Any) -> Any:
        answers = await super().heartbeat_run_leases(**arguments)
        pairs = zip(arguments["leases"], answers, strict=True)
        return tuple(LeaseLost() if run_id in self._writing else answer for (run_id, _), answer in pairs)


@broken("LEASE-6", words="More than `MAX_HEARTBEAT_LEASES` leases", case="too_many_leases_and_bad_ones_are_refused")
class AnyNumberOfLeases(Faulty):
    """As many leases as are wanted are renewed by one call."""

    async def heartbeat_run_leases(self, **arguments: Any) -> Any:
        leases = arguments["leases"]
        answers: tuple[LeaseResult, ...] = ()
        for first in range(0, len(leases), MAX_HEARTBEAT_LEASES):
            chunk = arguments | {"leases": leases[first : first + MAX_HEARTBEAT_LEASES]}
            answers += await super().heartbeat_run_leases(**chunk)
        return answers


@broken("LEASE-6", words="before anything is renewed", case="too_many_leases_and_bad_ones_are_refused")
class LeasesAreCheckedOneByOne(Faulty):
    """A bad lease is refused after the good ones before it were renewed."""

    async def heartbeat_run_leases(self, **arguments: Any) -> Any:
        if len(arguments["leases"]) > MAX_HEARTBEAT_LEASES:
            return await super().heartbeat_run_leases(**arguments)
        answers: tuple[LeaseResult, ...] = ()
        for lease in arguments["leases"]:
            answers += await super().heartbeat_run_leases(**arguments | {"leases": [lease]})
        return answers


@broken("LEASE-3")
class ReleaseCountsACrash(Faulty):
    """Handing a run over brings it nearer to being dead."""

    async def release_run_lease(self, **arguments: Any) -> Any:
        await super().release_run_lease(**arguments)
        self.current(arguments["run_id"]).crashes += 1


@broken("CANCEL-1")
class CancelOfAnEndedRunIsADuplicate(Faulty):
    """A late request is told that it is known, not that the run has ended."""

    async def cancel_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        known = None if run is None else run.deliveries.get(("cancel", "cancel"))
        return await super().cancel_run(**arguments) if known is None else Duplicate(inbox_seq=known.inbox_seq)


@broken("DEAD-4", (memory_claims, "SILENT_CLAIMS_PER_CRASH", 1))
class LostClaimsCount(Faulty):
    """A claim whose answer was lost counts as a crash."""


@broken("DEAD-4", (memory_claims, "SILENT_CLAIMS_PER_CRASH", 10**9))
class KillersLiveForEver(Faulty):
    """A run that kills its workers before they say anything is never parked."""


@broken("DEAD-2")
class AppendIsNoSignOfLife(Faulty):
    """A driver that writes without an event, and dies, looks like a claim whose answer was lost."""

    async def append_events(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        silent = 0 if run is None else run.silent_claims
        answer = await super().append_events(**arguments)
        if run is not None and not arguments["events"]:
            run.silent_claims = silent
        return answer


@broken("CLAIM-7")
class WhoHasNoRoomLearnsNothing(Faulty):
    """A claim of nothing does not say what waits."""

    async def claim_stale_runs(self, **arguments: Any) -> Any:
        answer = await super().claim_stale_runs(**arguments)
        return answer if arguments["limit"] else replace(answer, next_due_ms=None)


def _first_due_of_a_few(waiting: Any, *, now_ms: int, limit: int) -> Any:
    few = sorted(waiting, key=lambda item: (-item[1].priority, item[0], item[1].run_id))[: limit + 32]
    return _first_due(few, now_ms=now_ms, limit=limit)


@broken(
    "CLAIM-10",
    (memory_claims, "_first_due", _first_due_of_a_few),
    words="It passes over none while no other call is under way",
    case="runs_in_front_keep_none_back",
)
class SweepLooksAtFewRuns(Faulty):
    """Sweeps look at the few most urgent runs, due or not."""


def _first_due_of_the_first_found(waiting: Any, *, now_ms: int, limit: int) -> Any:
    due = [item for item in waiting if item[0] <= now_ms]
    return _first_due(due[: limit + 32], now_ms=now_ms, limit=limit)


@broken(
    "CLAIM-5",
    (memory_claims, "_first_due", _first_due_of_the_first_found),
    words="exact within one claim",
    case="first_of_a_crowd_is_claimed_first",
)
class SweepChoosesAmongFewRuns(Faulty):
    """Sweeps put into order the runs that they happen to find first."""


def _first_due_of_the_latest(waiting: Any, *, now_ms: int, limit: int) -> Any:
    lanes: dict[Any, list[Any]] = {}
    for at_ms, run in sorted(waiting, key=lambda item: (item[0], item[1].run_id)):
        lane = (run.workflow_id, run.workflow_version, run.queue, run.priority)
        lanes.setdefault(lane, []).append((at_ms, run))
    few = [item for lane in lanes.values() for item in lane[: limit + 32]]
    few.sort(key=lambda item: (item[1].priority, item[0]), reverse=True)
    return _first_due(few[: limit + 32], now_ms=now_ms, limit=limit)


@broken(
    "CLAIM-5",
    (memory_claims, "_first_due", _first_due_of_the_latest),
    words="then the earliest due",
    case="first_of_a_crowd_is_claimed_first",
)
class SweepForgetsTheEarliestOfManyQueues(Faulty):
    """Sweeps find the first of each queue, and put into order the latest of these."""


def _first_due_of_many(waiting: Any, *, now_ms: int, limit: int) -> Any:
    return _first_due(waiting, now_ms=now_ms, limit=min(limit, (limit + 32) // 2))


@broken(
    "CLAIM-10",
    (memory_claims, "_first_due", _first_due_of_many),
    words="It passes over none while no other call is under way",
    case="first_of_a_crowd_is_claimed_first",
)
class LargeSweepIsNotFull(Faulty):
    """A sweep for many runs brings fewer than there are, and than it may."""


@broken("CLAIM-2", words="the due timers", case="claimed_timers_are_due_to_the_millisecond")
class TimerComesOneMillisecondLate(Faulty):
    """A claim from an expired lease brings the timers that were due a millisecond ago."""

    async def claim_stale_runs(self, **arguments: Any) -> Any:
        batch = await super().claim_stale_runs(**arguments)
        claims = [
            replace(claim, due_timers=tuple(t for t in claim.due_timers if t.fire_at_ms < arguments["now_ms"]))
            for claim in batch.claims
        ]
        return replace(batch, claims=tuple(claims))


@broken("CLAIM-2", words="the untaken inbox (its first page", case="first_page_of_an_inbox_begins_with_the_oldest")
class LargeInboxComesFromItsEnd(Faulty):
    """A claim from an expired lease brings the newest part of an inbox that is too large for one page."""

    async def claim_stale_runs(self, **arguments: Any) -> Any:
        batch = await super().claim_stale_runs(**arguments)
        return replace(batch, claims=tuple(replace(claim, inbox=claim.inbox[-2:]) for claim in batch.claims))


@broken("CLAIM-2", words="the untaken inbox", case="claim_is_of_one_moment")
class ClaimLooksAtTheInboxFirst(Faulty):
    """A claim by id brings the inbox as it was a moment before, and the number of the newest entry of now."""

    async def claim_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        before = () if run is None else tuple(run.untaken.values())
        await asyncio.sleep(0.001)
        answer = await super().claim_run(**arguments)
        claim = getattr(answer, "claim", None)
        return answer if claim is None else replace(answer, claim=replace(claim, inbox=before))


@broken("CLAIM-2", words="bounded as `ClaimedRun` says", case="first_page_of_an_inbox_begins_with_the_oldest")
class LargestEntriesAreNotBrought(Faulty):
    """A claim from an expired lease passes over entries that are larger than a page."""

    async def claim_stale_runs(self, **arguments: Any) -> Any:
        batch = await super().claim_stale_runs(**arguments)
        small = [tuple(entry for entry in claim.inbox if len(entry.payload or "") < 10**6) for claim in batch.claims]
        claims = [replace(claim, inbox=inbox) for claim, inbox in zip(batch.claims, small, strict=True)]
        return replace(batch, claims=tuple(claims))


@broken("RUN-7", words="inbox", case="first_page_of_an_inbox_begins_with_the_oldest")
class LargeInboxIsLoadedFromItsEnd(Faulty):
    """`load_execution` shows the newest part of an inbox that is too large for one page."""

    async def load_execution(self, **arguments: Any) -> Any:
        execution = await super().load_execution(**arguments)
        return None if execution is None else replace(execution, inbox=execution.inbox[-2:])
