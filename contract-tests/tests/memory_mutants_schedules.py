"""Stores with one fault each in schedules and their ticks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.store import BucketBuffered, RequestedBucket, Schedule, ScheduleUpserted
from workflow_store_memory import ticks
from workflow_store_memory.data import InMemoryData, ScheduleRow, Tick
from workflow_store_memory.ticks import TickDecision


class _OfSchedules(Faulty):
    def _row(self, arguments: dict[str, Any]) -> ScheduleRow | None:
        return self._data.schedules.get(arguments["schedule_id"])

    def _change(self, schedule_id: str, **changes: Any) -> Schedule:
        row = self._data.schedules[schedule_id]
        row.value = replace(row.value, **changes)
        return row.value


@broken("SCHEDULE-1")
class NewScheduleFiresAtOnce(_OfSchedules):
    """A new schedule is due now."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        answer = await super().upsert_schedule(**arguments)
        if answer.kind == "created":
            self._change(arguments["schedule_id"], next_fire_at_ms=arguments["now_ms"])
        return answer


@broken("SCHEDULE-2")
class ChangeKeepsTheClaim(_OfSchedules):
    """A claimed tick stays claimed when its schedule changes."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        row = self._row(arguments)
        held = None if row is None else (row.claimed, row.lease)
        answer = await super().upsert_schedule(**arguments)
        if row is not None and held is not None:
            row.claimed, row.lease = held
        return answer


@broken("SCHEDULE-2")
class UnchangedIsWritten(_OfSchedules):
    """The same definition again counts as a change."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        answer = await super().upsert_schedule(**arguments)
        if answer.kind != "unchanged":
            return answer
        schedule = self._change(arguments["schedule_id"], updated_at_ms=arguments["now_ms"])
        return ScheduleUpserted(kind="unchanged", schedule=schedule)


@broken("SCHEDULE-3")
class DeploySwallowsTheDueTick(_OfSchedules):
    """Any change takes over the next fire time."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        answer = await super().upsert_schedule(**arguments)
        if answer.kind != "updated":
            return answer
        fire_at_ms = arguments["next_fire_at_ms"]
        return replace(answer, schedule=self._change(arguments["schedule_id"], next_fire_at_ms=fire_at_ms))


@broken("SCHEDULE-3")
class EnablingKeepsTheOldTime(_OfSchedules):
    """A schedule that is enabled again fires for the time that it was off."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        row = self._row(arguments)
        before = None if row is None else row.value
        answer = await super().upsert_schedule(**arguments)
        if before is None or before.enabled or before.spec != arguments["spec"]:
            return answer
        schedule = self._change(arguments["schedule_id"], next_fire_at_ms=before.next_fire_at_ms)
        return replace(answer, schedule=schedule)


@broken("SCHEDULE-4")
class RevisionIsNotCompared(_OfSchedules):
    """A change meant for an older revision is written."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        if self._row(arguments) is not None:
            arguments.pop("expected_revision", None)
        return await super().upsert_schedule(**arguments)


@broken("SCHEDULE-4")
class ExpectedRevisionCreates(_OfSchedules):
    """A change of a schedule that is not there creates it."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        if self._row(arguments) is None:
            arguments.pop("expected_revision", None)
        return await super().upsert_schedule(**arguments)


@broken("SCHEDULE-5")
class UnknownScheduleIsNone(_OfSchedules):
    """An unknown schedule gives nothing instead of an error."""

    async def get_schedule(self, **arguments: Any) -> Any:
        row = self._row(arguments)
        return None if row is None else row.value


@broken("SCHEDULE-6")
class SchedulesArePagedByOffset(_OfSchedules):
    """A cursor counts the schedules that were shown."""

    async def list_schedules(self, *, limit: int, cursor: str | None = None) -> Any:
        page = await super().list_schedules(limit=10**6)
        begin = int(cursor or 0)
        shown = page.schedules[begin : begin + limit]
        more = len(page.schedules) > begin + limit
        return replace(page, schedules=shown, next_cursor=str(begin + limit) if more else None)


@broken("SCHEDULE-7")
class DeletedScheduleStillFires(_OfSchedules):
    """A tick that was claimed before the deletion starts its run."""

    async def delete_schedule(self, **arguments: Any) -> Any:
        row = self._row(arguments)
        answer = await super().delete_schedule(**arguments)
        if row is not None:
            self._data.__dict__.setdefault("deleted", {})[arguments["schedule_id"]] = row
        return answer

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        deleted = self._data.__dict__.get("deleted", {}).get(arguments["schedule_id"])
        if deleted is not None:
            self._data.schedules.setdefault(arguments["schedule_id"], deleted)
        return await super().mark_schedule_bucket_started(**arguments)


@broken("SCHEDULE-7")
class NamesakeHasTheSameTokens(_OfSchedules):
    """The tokens of a schedule's ticks begin anew with each schedule of its id."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        answer = await super().upsert_schedule(**arguments)
        row = self._row(arguments)
        if row is not None:
            row.generation = arguments["schedule_id"]
        return answer


@broken("SCHEDULE-8")
class RequestIsHeldByTheHighWaterMark(_OfSchedules):
    """A request for a time that has passed is counted and dropped."""

    async def request_schedule_buckets(self, **arguments: Any) -> Any:
        answer = await super().request_schedule_buckets(**arguments)
        row = self._row(arguments)
        if row is not None and row.value.last_fire_at_ms is not None:
            last_ms = row.value.last_fire_at_ms
            row.requested = {moment: asked for moment, asked in row.requested.items() if moment > last_ms}
        return answer


@broken("SCHEDULE-8")
class RequestsAreCountedTwice(_OfSchedules):
    """The answer counts what waited already."""

    async def request_schedule_buckets(self, **arguments: Any) -> Any:
        answer = await super().request_schedule_buckets(**arguments)
        return replace(answer, count=len(arguments["fire_times_ms"])) if answer.kind == "requested" else answer


@broken("SCHEDULE-8")
class RequestIsLostBehindAClaim(_OfSchedules):
    """Settling a tick forgets every request for an earlier moment."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        answer = await super().mark_schedule_bucket_started(**arguments)
        row = self._row(arguments)
        if row is not None:
            settled_ms = arguments["fire_at_ms"]
            row.requested = {moment: asked for moment, asked in row.requested.items() if moment > settled_ms}
        return answer


@broken("SCHEDULE-9", (ScheduleRow, "is_leased", lambda row, now_ms: False))
class LeasedTickIsClaimedAgain(_OfSchedules):
    """A tick under a live lease is given to the next claimer."""


def _buffered_last(row: ScheduleRow, *, now_ms: int, previous_is_live: bool) -> Tick | None:
    waiting = _first_tick(row, now_ms=now_ms, previous_is_live=True)
    return waiting or _first_tick(row, now_ms=now_ms, previous_is_live=previous_is_live)


_first_tick = ScheduleRow.first_tick


@broken("SCHEDULE-9", (ScheduleRow, "first_tick", _buffered_last))
class BufferedTickComesLast(_OfSchedules):
    """A buffered tick is claimed when nothing else waits."""


@broken("SCHEDULE-10")
class ClaimDoesNotKnowTheLiveRun(_OfSchedules):
    """A claim never names the previous run."""

    async def claim_due_schedule_buckets(self, **arguments: Any) -> Any:
        claims = await super().claim_due_schedule_buckets(**arguments)
        return replace(claims, buckets=tuple(replace(b, overlapping_run_id=None) for b in claims.buckets))


@broken("SCHEDULE-10", (ticks, "_later_ms", lambda row, now_ms: []))
class NobodyIsWokenForATick(_OfSchedules):
    """The answer does not say when something is due."""


@broken("SCHEDULE-11")
class OthersHoldTheLimit(_OfSchedules):
    """The limit counts the ticks of other workflows."""

    async def claim_due_schedule_buckets(self, **arguments: Any) -> Any:
        wanted = arguments.pop("workflow_ids", None)
        claims = await super().claim_due_schedule_buckets(**arguments)
        if wanted is None:
            return claims
        for tick in claims.buckets:
            if tick.schedule.workflow_id not in wanted:
                self._data.schedules[tick.schedule.schedule_id].end_lease()
        mine = tuple(tick for tick in claims.buckets if tick.schedule.workflow_id in wanted)
        others = tuple(b.schedule.schedule_id for b in claims.buckets if b.schedule.workflow_id not in wanted)
        return replace(claims, buckets=mine, unclaimable=others[:10])


@broken("SCHEDULE-11")
class OthersAreNotNamed(_OfSchedules):
    """Ticks that nobody here can run are not reported."""

    async def claim_due_schedule_buckets(self, **arguments: Any) -> Any:
        return replace(await super().claim_due_schedule_buckets(**arguments), unclaimable=())


@broken(
    "SCHEDULE-12",
    (ScheduleRow, "due_tick_ms", property(lambda row: row.value.next_fire_at_ms if row.value.enabled else None)),
)
class TickFiresAgain(_OfSchedules):
    """The high-water mark is kept and not looked at."""


@broken("SCHEDULE-13")
class RunAndMarkAreTwoUnits(_OfSchedules):
    """The tick's run is started, and the schedule does not move on."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        row = self._row(arguments)
        kept = None if row is None else row.value
        answer = await super().mark_schedule_bucket_started(**arguments)
        if row is not None and kept is not None:
            row.value = kept
        return answer


@broken("SCHEDULE-13")
class RequestedTickMovesOn(_OfSchedules):
    """Settling any tick takes over the next fire time."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        answer = await super().mark_schedule_bucket_started(**arguments)
        if answer.kind in {"started", "skipped", "buffered"}:
            self._change(arguments["schedule_id"], next_fire_at_ms=arguments.get("next_fire_at_ms"))
        return answer


@broken("SCHEDULE-13")
class RunIsAvailableAtOnce(_OfSchedules):
    """Jitter is not heeded."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        return await super().mark_schedule_bucket_started(**arguments | {"available_at_ms": None})


@broken("SCHEDULE-14", (TickDecision, "_overlaps", lambda decision, data, schedule, policy: False))
class RunsOverlap(_OfSchedules):
    """The policy is stored and never looked at."""


@broken("SCHEDULE-14", (InMemoryData, "is_live", lambda data, run_id: run_id in data.runs))
class EndedRunBlocks(_OfSchedules):
    """A previous run counts as live for as long as its record is there."""


@broken("SCHEDULE-14")
class RefusedStartSettles(_OfSchedules):
    """A start that would overlap gives the tick back."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        answer = await super().mark_schedule_bucket_started(**arguments)
        row = self._row(arguments)
        if answer.kind == "overlapping" and row is not None:
            row.end_lease()
        return answer


@broken("SCHEDULE-15", (TickDecision, "_put_back", lambda decision, row, tick, policy: BucketBuffered()))
class BufferKeepsTheLast(_OfSchedules):
    """With `buffer-one` a later tick replaces the buffered one."""


@broken("SCHEDULE-15")
class BufferedTickDoesNotWait(_OfSchedules):
    """A tick that is put back is requested again."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        answer = await super().mark_schedule_bucket_started(**arguments)
        row = self._row(arguments)
        if answer.kind == "buffered" and row is not None:
            moment = arguments["fire_at_ms"]
            row.requested[moment] = RequestedBucket(fire_at_ms=moment, overlap=None, requested_at_ms=0)
        return answer


@broken("SCHEDULE-16")
class TickIsNotFenced(_OfSchedules):
    """A tick may be settled with any token."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        row = self._row(arguments)
        if row is not None and row.lease is not None:
            arguments["lease_token"] = row.lease.token
        return await super().mark_schedule_bucket_started(**arguments)


@broken("SCHEDULE-16")
class RevisionOfTheClaimIsIgnored(_OfSchedules):
    """A mark goes with any revision."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        row = self._row(arguments)
        revision = arguments["expected_revision"] if row is None else row.value.revision
        return await super().mark_schedule_bucket_started(**arguments | {"expected_revision": revision})


@broken("SCHEDULE-16")
class SettledTickIsForgotten(_OfSchedules):
    """A repeat of the call that settled the tick is refused."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        answer = await super().mark_schedule_bucket_started(**arguments)
        row = self._row(arguments)
        if row is not None:
            row.settled = None
        return answer


@broken("SCHEDULE-17", (TickDecision, "_goes_first", lambda decision, schedule, tick, policy: None))
class LaterTickOvertakes(_OfSchedules):
    """A tick starts before the one that waits when the run has ended in time for it."""


@broken(
    "SCHEDULE-17",
    (
        TickDecision,
        "_goes_first",
        lambda decision, schedule, tick, policy: (
            None if schedule.buffered_fire_at_ms == tick.fire_at_ms else schedule.buffered_fire_at_ms
        ),
    ),
)
class NewerTickWaitsToo(_OfSchedules):
    """The buffered tick goes first where it should be replaced, or should hold up nobody."""


@broken("SCHEDULE-17", (ticks, "_NEWEST_WAITS", frozenset()))
class ReplacedTickStartsLater(_OfSchedules):
    """With `cancel-previous` the one that waits goes before a newer one."""


@broken("SCHEDULE-18", (ScheduleRow, "policy_of", lambda row, tick: row.value.overlap_policy))
class RequestedPolicyIsForgotten(_OfSchedules):
    """Only the schedule's own policy is looked at."""


@broken("SCHEDULE-18")
class WaitingTickIsDropped(_OfSchedules):
    """A tick that waits for its turn is no longer requested once it was put back."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        answer = await super().mark_schedule_bucket_started(**arguments)
        row = self._row(arguments)
        if answer.kind == "buffered" and row is not None:
            row.requested.pop(arguments["fire_at_ms"], None)
        return answer


@broken(
    "SCHEDULE-18",
    (
        ScheduleRow,
        "_first_requested",
        lambda row: min(row.requested.values(), key=lambda one: one.fire_at_ms, default=None),
    ),
)
class WaitingTicksHoldUpOthers(_OfSchedules):
    """A requested tick is not claimed while an earlier one waits for a run."""


@broken("SCHEDULE-19")
class SettledRequestIsListed(_OfSchedules):
    """What was requested once is listed for ever."""

    async def request_schedule_buckets(self, **arguments: Any) -> Any:
        answer = await super().request_schedule_buckets(**arguments)
        row = self._row(arguments)
        kept = self._data.__dict__.setdefault("kept", {})
        kept.setdefault(arguments["schedule_id"], {}).update({} if row is None else row.requested)
        return answer

    async def list_requested_buckets(self, **arguments: Any) -> Any:
        known = self._data.__dict__.get("kept", {}).get(arguments["schedule_id"], {})
        moments = sorted(moment for moment in known if moment >= arguments.get("from_ms", 0))
        return tuple(known[moment] for moment in moments[: arguments["limit"]])


_settle = ScheduleRow.settle


def _settle_and_keep_the_request(self: ScheduleRow, tick: Tick, operation_id: str, answer: Any) -> Any:
    asked = self.requested.get(tick.fire_at_ms)
    _settle(self, tick, operation_id, answer)
    if asked is not None and isinstance(answer, BucketBuffered):
        self.requested[tick.fire_at_ms] = asked
    return answer


@broken(
    "SCHEDULE-18",
    (ScheduleRow, "settle", _settle_and_keep_the_request),
    words="`buffer` ends the request",
    case="buffered_tick_forgets_what_was_requested_with_it",
)
class BufferedTickStaysRequested(_OfSchedules):
    """A requested tick that is put back waits twice: as the buffered one, and as requested."""


def _goes_first_also_to_itself(self: TickDecision, schedule: Schedule, tick: Tick, policy: str) -> int | None:
    return None if policy == "allow" else schedule.buffered_fire_at_ms


@broken(
    "SCHEDULE-17",
    (TickDecision, "_goes_first", _goes_first_also_to_itself),
    words="it is not behind itself",
    case="buffered_tick_that_is_requested_is_not_behind_itself",
)
class BufferedTickIsBehindItself(_OfSchedules):
    """A request for the buffered moment is told that the buffered tick goes first."""
