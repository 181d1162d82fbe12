"""Stores with one fault each in what a claim of ticks takes and tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.errors import LeaseLostError
from workflow_runtime.store import BucketSkipped, BucketsRequested, NotFound
from workflow_store_memory import InMemoryWorkflowStore, ticks
from workflow_store_memory import schedules as schedules_role
from workflow_store_memory.data import InMemoryData, ScheduleRow, Tick
from workflow_store_memory.ticks import WaitingTicks

_waiting_ticks = ticks.waiting_ticks


def _found(find: Any) -> tuple[object, str, Any]:
    return schedules_role, "waiting_ticks", find


def _with_what_lies_ahead_of_all(data: InMemoryData, wanted: Sequence[str] | None, *, now_ms: int) -> WaitingTicks:
    """Find when anything at all is due next."""
    mine, all_of_them = _waiting_ticks(data, wanted, now_ms=now_ms), _waiting_ticks(data, None, now_ms=now_ms)
    return replace(mine, later_ms=all_of_them.later_ms)


@broken(
    "SCHEDULE-11",
    _found(_with_what_lies_ahead_of_all),
    words="ticks of other workflows are left alone",
    case="next_tick_is_told_to_its_workflow_only",
)
class TicksAheadOfOthersAreTold(Faulty):
    """The filter does not hold for the next due time."""


def _with_the_first_schedules_only(data: InMemoryData, wanted: Sequence[str] | None, *, now_ms: int) -> WaitingTicks:
    first: dict[str, int] = {}
    for _, row in sorted(data.schedules.items()):
        workflow_id, moment = row.value.workflow_id, row.due_tick_ms
        if (wanted is None or workflow_id in wanted) and moment is not None and moment > now_ms:
            first.setdefault(workflow_id, moment)
    return replace(_waiting_ticks(data, wanted, now_ms=now_ms), later_ms=list(first.values()))


@broken(
    "SCHEDULE-10",
    _found(_with_the_first_schedules_only),
    words="the earliest moment at which another tick of these workflows may be claimable",
    case="next_tick_is_told_to_its_workflow_only",
)
class FirstScheduleSpeaksForItsWorkflow(Faulty):
    """Of each workflow one schedule is looked at for the next due time."""


@broken(
    "SCHEDULE-10",
    words="or the present if the limit left ticks behind",
    case="tick_that_waits_is_told_to_its_workflow_only",
)
class FilteredClaimLeavesNothingBehind(Faulty):
    """A claim with a filter does not say that it has left ticks behind."""

    async def claim_due_schedule_buckets(self, **arguments: Any) -> Any:
        claims = await super().claim_due_schedule_buckets(**arguments)
        if arguments.get("workflow_ids") is None or claims.next_due_ms != arguments["now_ms"]:
            return claims
        return replace(claims, next_due_ms=None)


@broken(
    "SCHEDULE-11",
    words="`unclaimable` names up to 10 schedules that have one waiting",
    case="tick_that_waits_is_told_to_its_workflow_only",
)
class UnclaimableNamesOneWorkflow(Faulty):
    """Of several workflows that nobody here can run one is named."""

    async def claim_due_schedule_buckets(self, **arguments: Any) -> Any:
        claims = await super().claim_due_schedule_buckets(**arguments)
        rows = self._data.schedules
        first = {rows[name].value.workflow_id: name for name in reversed(claims.unclaimable)}
        workflows = sorted(first)[:1]
        named = tuple(name for name in claims.unclaimable if rows[name].value.workflow_id in workflows)
        return replace(claims, unclaimable=named)


def _leased_a_moment_longer(of: str) -> tuple[object, str, Any]:
    def is_leased(row: ScheduleRow, now_ms: int) -> bool:
        if row.lease is None or row.claimed is None:
            return False
        longer = 1 if _waits_as(row.claimed) == of else 0
        return row.lease.expires_at_ms + longer > now_ms

    return ScheduleRow, "is_leased", is_leased


def _waits_as(tick: Tick) -> str:
    return "in-turn" if tick.overlap == "buffer-all" else tick.source


@broken(
    "SCHEDULE-9",
    _leased_a_moment_longer("buffered"),
    words="one whose lease expired is, with a new token",
    case="claim_of_a_tick_ends_on_time",
)
class ClaimOfABufferedTickLastsLonger(Faulty):
    """The claim of a buffered tick ends a moment late."""


@broken(
    "SCHEDULE-9",
    _leased_a_moment_longer("in-turn"),
    words="one whose lease expired is, with a new token",
    case="claim_of_a_tick_ends_on_time",
)
class ClaimOfATickInTurnLastsLonger(Faulty):
    """The claim of a tick that waits for its turn ends a moment late."""


_first_tick = ScheduleRow.first_tick


def _first_tick_by_its_workflow(data: InMemoryData, wanted: Sequence[str] | None, *, now_ms: int) -> WaitingTicks:
    """Look at the high-water mark only where no schedule of the workflow is due."""
    found = _waiting_ticks(data, wanted, now_ms=now_ms)
    due = {row.value.workflow_id for tick, row in found.claimable if tick.source == "due"}
    again = [
        (Tick(fire_at_ms=moment, source="due", overlap=None), row)
        for _, row in sorted(data.schedules.items())
        if row.value.workflow_id in due and (moment := row.value.next_fire_at_ms) is not None
        if moment <= now_ms and row.due_tick_ms is None and row.value.enabled and not row.is_leased(now_ms)
    ]
    return replace(found, claimable=sorted([*found.claimable, *again], key=lambda item: item[0].fire_at_ms))


@broken(
    "SCHEDULE-12",
    _found(_first_tick_by_its_workflow),
    words="A due tick at or before the high-water mark is never claimed again",
    case="fired_moment_stays_fired_beside_another_schedule",
)
class FiredMomentComesWithANeighbour(Faulty):
    """A claim that takes a due tick takes those of its workflow that have fired already."""


def _request_with_the_next_moment(row: ScheduleRow, *, now_ms: int, previous_is_live: bool) -> Tick | None:
    tick = _first_tick(row, now_ms=now_ms, previous_is_live=previous_is_live)
    due = row.due_tick_ms
    if tick is None or tick.source != "requested" or due is None or due > tick.fire_at_ms:
        return tick
    return replace(tick, fire_at_ms=due, source="due")


@broken(
    "SCHEDULE-8",
    (ScheduleRow, "first_tick", _request_with_the_next_moment),
    words="also when the schedule is disabled and when its moment lies before the high-water mark or in the future",
    case="request_does_not_bring_the_next_tick_forward",
)
class RequestBringsTheNextTickForward(Faulty):
    """A request for a moment after the next tick has that one claimed before its time."""


@broken(
    "SCHEDULE-18",
    words="it comes after the requested ticks without",
    case="requests_of_two_schedules_are_apart",
)
class RequestsOfAllSchedulesAreOne(Faulty):
    """A request in turn goes first where another schedule has a request for the same moment."""

    async def claim_due_schedule_buckets(self, **arguments: Any) -> Any:
        rows = self._data.schedules
        for name, row in rows.items():
            asked = {moment for other, one in rows.items() if other != name for moment in one.requested}
            for moment in asked & row.requested.keys():
                if row.requested[moment].overlap == "buffer-all":
                    row.requested[moment] = replace(row.requested[moment], overlap=None)
        return await super().claim_due_schedule_buckets(**arguments)


def _live_only_as(*statuses: str) -> Any:
    """Return a way of finding that takes only some of the live runs for live."""

    def find(data: InMemoryData, wanted: Sequence[str] | None, *, now_ms: int) -> WaitingTicks:
        class Data:
            schedules = data.schedules

            @staticmethod
            def is_live(run_id: str | None) -> bool:
                run = None if run_id is None else data.runs.get(run_id)
                return run is not None and run.status in statuses

        return _waiting_ticks(Data, wanted, now_ms=now_ms)  # type: ignore[arg-type]  # all that it looks at

    return find


@broken(
    "SCHEDULE-9",
    _found(_live_only_as("queued", "paused")),
    words="its buffered one first, if its previous run is not live",
    case="due_tick_comes_before_what_waits_for_a_live_run",
)
class RunningRunIsNotLive(Faulty):
    """A claim takes the buffered tick first while the previous run is running."""


@broken(
    "SCHEDULE-9",
    _found(_live_only_as("queued", "running")),
    words="its buffered one first, if its previous run is not live",
    case="due_tick_comes_before_what_waits_for_a_live_run",
)
class PausedRunIsNotLive(Faulty):
    """A claim takes the buffered tick first while the previous run is paused."""


def _held_up_by_any_live_run(data: InMemoryData, wanted: Sequence[str] | None, *, now_ms: int) -> WaitingTicks:
    class Data:
        schedules = data.schedules

        @staticmethod
        def is_live(run_id: str | None) -> bool:
            return any(data.is_live(other) for other in data.runs)

    return _waiting_ticks(Data, wanted, now_ms=now_ms)  # type: ignore[arg-type]  # all that it looks at


@broken(
    "SCHEDULE-18",
    _found(_held_up_by_any_live_run),
    words="With `buffer-all` it is claimable only while the previous run is not live",
    case="live_runs_hide_no_tick_that_does_not_wait_for_them",
)
class AnyLiveRunHoldsUpATurn(Faulty):
    """A tick that waits for its turn waits for the runs of others too."""


class _SettlesWrongly(Faulty):
    """Does something to the requests of a schedule when a tick of it is settled."""

    def _requests(self, arguments: dict[str, Any]) -> dict[int, Any]:
        row = self._data.schedules.get(arguments["schedule_id"])
        return {} if row is None else row.requested


class RefusedStartTakesTheRequest(_SettlesWrongly):
    """A start that is refused takes the request along."""

    refusal = ""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        try:
            answer = await super().mark_schedule_bucket_started(**arguments)
        except LeaseLostError:
            if self.refusal == "lost":
                self._requests(arguments).pop(arguments["fire_at_ms"], None)
            raise
        if answer.kind == self.refusal:
            self._requests(arguments).pop(arguments["fire_at_ms"], None)
        return answer


@broken("SCHEDULE-14", words="The tick stays claimed", case="refused_start_leaves_the_request")
class StartBesideALiveRunTakesTheRequest(RefusedStartTakesTheRequest):
    """A start that is refused beside a live run takes the request along."""

    refusal = "overlapping"


@broken("SCHEDULE-17", words="the tick stays claimed", case="refused_start_leaves_the_request")
class StartBehindABufferedTickTakesTheRequest(RefusedStartTakesTheRequest):
    """A start that is refused behind a buffered tick takes the request along."""

    refusal = "behind"


@broken("SCHEDULE-16", words="nothing is written", case="refused_start_leaves_the_request")
class StartOfAnotherMomentTakesTheRequest(RefusedStartTakesTheRequest):
    """A start with the token of another tick takes the request along."""

    refusal = "lost"


@broken(
    "SCHEDULE-17",
    words="it takes the place of the buffered one, which then never starts",
    case="request_that_overtakes_a_buffered_tick_is_settled",
)
class OvertakingRequestStays(_SettlesWrongly):
    """A request that starts before a buffered tick stays requested."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        row = self._data.schedules.get(arguments["schedule_id"])
        buffered = None if row is None else row.value.buffered_fire_at_ms
        asked = dict(self._requests(arguments))
        answer = await super().mark_schedule_bucket_started(**arguments)
        moment = arguments["fire_at_ms"]
        if row is not None and answer.kind == "started" and buffered not in (None, moment) and moment in asked:
            row.requested[moment] = asked[moment]
        return answer


@broken(
    "SCHEDULE-18",
    words="none of these ticks is ever dropped for another one",
    case="tick_in_turn_is_put_back_beside_a_later_buffered_one",
)
class TickInTurnGivesWayToALaterOne(_SettlesWrongly):
    """A tick that waits for its turn is skipped when a later one is buffered."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        row = self._data.schedules.get(arguments["schedule_id"])
        buffered = None if row is None else row.value.buffered_fire_at_ms
        answer = await super().mark_schedule_bucket_started(**arguments)
        later = buffered is not None and buffered > arguments["fire_at_ms"]
        if answer.kind == "buffered" and later and arguments["fire_at_ms"] in self._requests(arguments):
            del self._requests(arguments)[arguments["fire_at_ms"]]
            return BucketSkipped()
        return answer


def _told_when_it_ran_out(row: ScheduleRow, now_ms: int) -> list[int]:
    moments = [] if row.due_tick_ms is None or row.due_tick_ms <= now_ms else [row.due_tick_ms]
    return moments if row.lease is None else [*moments, row.lease.expires_at_ms]


def _with_the_last_end(data: InMemoryData, wanted: Sequence[str] | None, *, now_ms: int) -> WaitingTicks:
    found = _waiting_ticks(data, wanted, now_ms=now_ms)
    ends = {row.lease.expires_at_ms for row in data.schedules.values() if row.lease is not None}
    told = [moment for moment in found.later_ms if moment in ends]
    return replace(found, later_ms=[*(m for m in found.later_ms if m not in ends), *sorted(told)[-1:]])


@broken(
    "SCHEDULE-10",
    _found(_with_the_last_end),
    words="when the claim of a tick that is not in this answer runs out",
    case="first_claim_that_runs_out_is_told",
)
class LastClaimThatRunsOutIsTold(Faulty):
    """Of several claims the one that runs out last is told."""


@broken(
    "SCHEDULE-10",
    (ticks, "_later_ms", _told_when_it_ran_out),
    words="when the claim of a tick that is not in this answer runs out",
    case="claim_that_ran_out_wakes_nobody",
)
class ClaimThatRanOutIsTold(Faulty):
    """The end of a claim is told after it has come."""


def _plain_request_hides(row: ScheduleRow, *, now_ms: int, previous_is_live: bool) -> Tick | None:
    tick = _first_tick(row, now_ms=now_ms, previous_is_live=previous_is_live)
    if tick is None or tick.source != "requested" or not previous_is_live:
        return tick
    return None if any(one.overlap == "buffer-all" for one in row.requested.values()) else tick


@broken(
    "SCHEDULE-18",
    (ScheduleRow, "first_tick", _plain_request_hides),
    words="it comes after the requested ticks without",
    case="request_in_turn_holds_up_no_other_request",
)
class RequestInTurnHoldsUpOthers(Faulty):
    """Beside a live run a request in turn holds up the plain ones."""


@broken("SCHEDULE-7", words="nothing of it fires", case="deletion_spares_the_other_schedules")
class DeletionTakesTheRequestsOfAll(Faulty):
    """The requests of all schedules go with the one that is deleted."""

    async def delete_schedule(self, **arguments: Any) -> Any:
        answer = await super().delete_schedule(**arguments)
        for row in self._data.schedules.values():
            row.requested.clear()
        return answer


@broken(
    "SCHEDULE-16",
    words="a token that is not the tick's current one raises `LeaseLostError`",
    case="late_settlements_and_claims_at_once",
)
class TokenIsComparedTooEarly(Faulty):
    """A token that was the tick's when it was looked at counts as such, whoever has claimed the tick since."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        row = self._data.schedules.get(arguments["schedule_id"])
        holds = row is not None and row.lease is not None and row.lease.token == arguments["lease_token"]
        await asyncio.sleep(0.001)
        try:
            return await super().mark_schedule_bucket_started(**arguments)
        except LeaseLostError:
            if holds and arguments["action"] == "skip":
                return BucketSkipped()
            raise


@broken(
    "SCHEDULE-8",
    words="is not requested twice",
    case="request_for_nothing_new_changes_nothing",
)
class RepeatedRequestTakesTheTickAlong(Faulty):
    """A tick that waits for its turn is forgotten when it is requested once more, with another policy."""

    async def request_schedule_buckets(self, **arguments: Any) -> Any:
        row = self._data.schedules.get(arguments["schedule_id"])
        waiting = {} if row is None else dict(row.requested)
        answer = await super().request_schedule_buckets(**arguments)
        for moment in arguments["fire_times_ms"]:
            in_turn = moment in waiting and waiting[moment].overlap == "buffer-all"
            if row is not None and in_turn and arguments.get("overlap") != "buffer-all":
                row.requested.pop(moment, None)
        return answer


@broken("SCHEDULE-8", words="An unknown schedule answers `not-found`", case="unknown_schedule")
class UnknownScheduleIsThoughtToBeAnother(Faulty):
    """A request for an unknown schedule is answered as one for another that is there."""

    async def request_schedule_buckets(self, **arguments: Any) -> Any:
        answer = await super().request_schedule_buckets(**arguments)
        return BucketsRequested(count=0) if self._data.schedules and isinstance(answer, NotFound) else answer


_LOOKED_AT = 32
"""Schedules that a claim looks at beyond its limit."""


def _is_held(row: ScheduleRow, now_ms: int) -> bool:
    return row.is_leased(now_ms)


def _has_fired(row: ScheduleRow, now_ms: int) -> bool:
    return row.value.enabled and row.value.next_fire_at_ms is not None and row.due_tick_ms is None


def _is_disabled(row: ScheduleRow, now_ms: int) -> bool:
    return not row.value.enabled


def _is_buffered(row: ScheduleRow, now_ms: int) -> bool:
    return row.value.buffered_fire_at_ms is not None


def _crowded_out(in_the_way: Callable[[ScheduleRow, int], bool]) -> Callable[..., Any]:
    async def claim(self: Faulty, **arguments: Any) -> Any:
        crowd = sum(in_the_way(row, arguments["now_ms"]) for row in self._data.schedules.values())
        if crowd >= _LOOKED_AT + arguments["limit"]:
            arguments["limit"] = 0
        return await InMemoryWorkflowStore.claim_due_schedule_buckets(self, **arguments)

    return claim


for _in_the_way in (_is_held, _has_fired, _is_disabled, _is_buffered):
    _name = _in_the_way.__name__.rpartition("_")[2]
    _told = {
        "__doc__": f"A claim looks at some of the earliest schedules, and many of them are {_name}.",
        "claim_due_schedule_buckets": _crowded_out(_in_the_way),
    }
    broken(
        "SCHEDULE-9",
        words="Schedules whose tick is the earliest first",
        case="crowd_that_cannot_be_claimed_hides_no_tick",
    )(type(f"CrowdThatIs{_name.title()}HidesTicks", (Faulty,), _told))


@broken(
    "SCHEDULE-11",
    words="ticks of other workflows are left alone and hold nothing up",
    case="crowd_that_cannot_be_claimed_hides_no_tick",
)
class CrowdOfOtherWorkflowsHidesTicks(Faulty):
    """A claim looks at some of the earliest ticks, whatever their workflows."""

    async def claim_due_schedule_buckets(self, **arguments: Any) -> Any:
        wanted, now_ms = arguments.get("workflow_ids"), arguments["now_ms"]
        due, mine = (len(_waiting_ticks(self._data, one, now_ms=now_ms).claimable) for one in (None, wanted))
        if due - mine >= _LOOKED_AT + arguments["limit"]:
            arguments["limit"] = 0
        return await super().claim_due_schedule_buckets(**arguments)


def _latest_of_a_crowd(data: InMemoryData, wanted: Sequence[str] | None, *, now_ms: int) -> WaitingTicks:
    found = _waiting_ticks(data, wanted, now_ms=now_ms)
    claimable = list(found.claimable)
    kept = claimable if len(claimable) <= _LOOKED_AT else claimable[-_LOOKED_AT:]
    return replace(found, claimable=kept)


@broken(
    "SCHEDULE-9",
    _found(_latest_of_a_crowd),
    words="Schedules whose tick is the earliest first",
    case="earliest_of_a_crowd_are_claimed_first",
)
class LatestOfACrowdAreLookedAt(Faulty):
    """Where many ticks are due, a claim looks at the latest of them."""


@broken(
    "TIMER-2",
    words="`next_due_ms` is the earliest timer of another paused run",
    case="waits_without_a_time_hide_no_timer",
)
class WaitWithoutATimeHidesTimers(Faulty):
    """No timer is told where another paused run waits without one."""

    async def claim_due_timers(self, **arguments: Any) -> Any:
        batch = await super().claim_due_timers(**arguments)
        waits = any(run.status == "paused" and not run.timers for run in self._data.runs.values())
        return replace(batch, next_due_ms=None) if waits else batch
