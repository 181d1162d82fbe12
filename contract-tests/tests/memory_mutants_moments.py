"""Stores with one fault each in how they keep moments, and in what they do when clocks disagree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.errors import LeaseLostError
from workflow_runtime.store import DRIVER_VERBS
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_memory import ticks as memory_ticks
from workflow_store_memory.data import Run, ScheduleRow

_OF_RUNS = "moments_of_runs_come_back"
_OF_LEASES = "leases_end_to_the_millisecond"
_OF_ENDS = "ends_and_creations_are_compared_to_the_millisecond"
_OF_TICKS = "ticks_are_due_to_the_millisecond"
_LATE_HOLDER = "holder_with_a_late_clock_is_heard"
_LATE_SENDER = "sender_with_a_late_clock_queues_the_run"
_LATE_SCHEDULE = "schedule_is_changed_and_settled_by_a_late_clock"

_ROUNDINGS: dict[str, tuple[str, Callable[[int], int]]] = {
    "Seconds": ("in seconds", lambda at_ms: at_ms // 1_000 * 1_000),
    "NextSecond": ("in seconds, rounded up", lambda at_ms: -(-at_ms // 1_000) * 1_000),
    "ThirtyTwoBits": ("in seconds of 31 bits", lambda at_ms: min(at_ms, 2**31 * 1_000 - 1)),
    "UnsignedBits": ("in seconds of 32 bits", lambda at_ms: min(at_ms, 2**32 * 1_000 - 1)),
    "Nanoseconds": ("in nanoseconds of 63 bits", lambda at_ms: min(at_ms, (2**63 - 1) // 10**6)),
    "Floats": ("in a float that has lost its last bits", lambda at_ms: at_ms if at_ms < 2**52 else at_ms // 4 * 4),
}


def _rounded(name: str, keep: Callable[[int], int], value: Any) -> Any:
    if name == "set_timers":
        return [replace(timer, fire_at_ms=_kept(keep, timer.fire_at_ms)) for timer in value]
    return _kept(keep, value)


def _kept(keep: Callable[[int], int], at_ms: Any) -> Any:
    # What is no moment is for the checks of the arguments to refuse.
    return keep(at_ms) if type(at_ms) is int and 0 <= at_ms < 2**53 else at_ms


def _rounding(verb: str, argument: str, keep: Callable[[int], int]) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        if argument in arguments:
            arguments[argument] = _rounded(argument, keep, arguments[argument])
        return await getattr(InMemoryWorkflowStore, verb)(self, **arguments)

    return call


_ROUNDED = (
    ("create_run", "available_at_ms", "RUN-1", "due at", _OF_RUNS),
    ("schedule_timer", "fire_at_ms", "TIMER-1", "is durable", _OF_RUNS),
    ("append_events", "set_timers", "TIMER-1", "is durable", _OF_RUNS),
    ("mark_run_paused", "set_timers", "TIMER-1", "due at its earliest timer", _OF_RUNS),
    ("upsert_schedule", "next_fire_at_ms", "SCHEDULE-10", "when the next one that lies ahead is due", _OF_TICKS),
    ("mark_schedule_bucket_started", "next_fire_at_ms", "SCHEDULE-13", "the next fire time", _OF_TICKS),
    ("request_schedule_buckets", "now_ms", "SCHEDULE-19", "a claimed one too", _OF_TICKS),
)
for _verb, _argument, _clause, _words, _case in _ROUNDED:
    for _name, (_how, _keep) in _ROUNDINGS.items():
        _title = "".join(part.title() for part in _verb.split("_"))
        _told = {"__doc__": f"`{_verb}` keeps `{_argument}` {_how}.", _verb: _rounding(_verb, _argument, _keep)}
        broken(_clause, words=_words, case=_case)(type(f"{_title}In{_name}", (Faulty,), _told))


_begin_lease = Run.begin_lease
_renew_lease = Run.renew_lease
_make_ended = Run.make_ended
_make_dead = Run.make_dead
_make_queued = Run.make_queued
_begin_tick_lease = ScheduleRow.begin_lease
_first_tick = ScheduleRow.first_tick
_is_leased = ScheduleRow.is_leased


def _begin_rounded(run: Run, *, owner: str, expires_at_ms: int, now_ms: int) -> Any:
    return _begin_lease(run, owner=owner, expires_at_ms=expires_at_ms // 1_000 * 1_000, now_ms=now_ms)


@broken("DEAD-2", (Run, "begin_lease", _begin_rounded), words="from an expired lease", case=_OF_LEASES)
class ClaimedLeaseEndsOnTheSecond(Faulty):
    """A lease that a claim begins ends on a whole second."""


def _renew_rounded(run: Run, expires_at_ms: int) -> Any:
    return _renew_lease(run, expires_at_ms // 1_000 * 1_000)


@broken("LOG-3", (Run, "renew_lease", _renew_rounded), words="to `now_ms` + `lease_ms`", case=_OF_LEASES)
class RenewedLeaseEndsOnTheSecond(Faulty):
    """An append renews the lease to a whole second."""


def _end_rounded(run: Run, status: Any, now_ms: int) -> None:
    _make_ended(run, status, now_ms // 1_000 * 1_000)


@broken("FINISH-1", (Run, "make_ended", _end_rounded), words="status `finished`", case=_OF_ENDS)
class EndIsKeptInSeconds(Faulty):
    """A run ends on a whole second."""


def _die_rounded(run: Run, now_ms: int) -> None:
    _make_dead(run, now_ms // 1_000 * 1_000)


@broken("FINISH-3", (Run, "make_dead", _die_rounded), case=_OF_ENDS)
class ParkingIsKeptInSeconds(Faulty):
    """A run is parked on a whole second."""


@broken("RETAIN-3", words="at that very moment", case=_OF_ENDS)
class PruningComparesSeconds(Faulty):
    """Runs that ended in the second of the limit are pruned too."""

    async def prune_runs(self, **arguments: Any) -> Any:
        limit = -(-arguments["finished_before_ms"] // 1_000) * 1_000
        return await super().prune_runs(**(arguments | {"finished_before_ms": limit}))


@broken("RETAIN-3", words="at that very moment", case=_OF_ENDS)
class PruningTakesTheLimitToo(Faulty):
    """A run that ended at the very limit is pruned."""

    async def prune_runs(self, **arguments: Any) -> Any:
        limit = arguments["finished_before_ms"] + 1
        return await super().prune_runs(**(arguments | {"finished_before_ms": limit}))


@broken("LIST-1", words="filters are ANDed", case=_OF_ENDS)
class ListingComparesSeconds(Faulty):
    """A listing from a time on begins with the second of that time."""

    async def list_runs(self, **arguments: Any) -> Any:
        begin = arguments.get("created_from_ms")
        return await super().list_runs(**(arguments | {"created_from_ms": begin and begin // 1_000 * 1_000}))


def _tick_shifted(by_ms: int) -> Any:
    def first_tick(row: ScheduleRow, *, now_ms: int, previous_is_live: bool) -> Any:
        return _first_tick(row, now_ms=now_ms + by_ms, previous_is_live=previous_is_live)

    return first_tick


@broken("SCHEDULE-9", (ScheduleRow, "first_tick", _tick_shifted(1)), words="the due", case=_OF_TICKS)
class TickIsDueOneMillisecondEarly(Faulty):
    """A tick is claimed a millisecond before its time."""


@broken("SCHEDULE-9", (ScheduleRow, "first_tick", _tick_shifted(-1)), words="the due", case=_OF_TICKS)
class TickIsDueOneMillisecondLate(Faulty):
    """A tick is claimed a millisecond after its time."""


def _leased_shifted(row: ScheduleRow, now_ms: int) -> bool:
    return _is_leased(row, now_ms - 1)


@broken("SCHEDULE-9", (ScheduleRow, "is_leased", _leased_shifted), words="one whose lease expired is", case=_OF_TICKS)
class ClaimOfATickEndsLate(Faulty):
    """A claim of a tick runs out a millisecond late."""


def _begin_tick_rounded(row: ScheduleRow, tick: Any, *, owner: str, expires_at_ms: int) -> Any:
    return _begin_tick_lease(row, tick, owner=owner, expires_at_ms=-(-expires_at_ms // 1_000) * 1_000)


@broken(
    "SCHEDULE-10",
    (ScheduleRow, "begin_lease", _begin_tick_rounded),
    words="when the claim of a tick",
    case=_OF_TICKS,
)
class ClaimOfATickEndsOnTheSecond(Faulty):
    """A claim of a tick runs out on a whole second."""


_later_ms = memory_ticks._later_ms


def _later_on_the_second(row: ScheduleRow, now_ms: int) -> list[int]:
    return [at_ms // 1_000 * 1_000 for at_ms in _later_ms(row, now_ms)]


@broken(
    "SCHEDULE-10",
    (memory_ticks, "_later_ms", _later_on_the_second),
    words="the earliest moment at which another tick",
    case=_OF_TICKS,
)
class NextTickIsToldInSeconds(Faulty):
    """The answer to a claim of ticks says when the next one is due, to the second."""


def _later_and_overdue(row: ScheduleRow, now_ms: int) -> list[int]:
    overdue = [row.due_tick_ms] if row.due_tick_ms is not None and row.is_leased(now_ms) else []
    return [*_later_ms(row, now_ms), *overdue]


@broken(
    "SCHEDULE-10",
    (memory_ticks, "_later_ms", _later_and_overdue),
    words="A tick that is due behind a claimed one is not told",
    case="tick_behind_a_claimed_one_is_not_told",
)
class TickBehindAClaimedOneIsTold(Faulty):
    """A claim of ticks says that more is due, while only settling the claimed tick brings it."""


# Late clocks.


def _deaf(verb: str, answer: Any = None) -> type[Faulty]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        run = self.run(arguments)
        at_ms = arguments["now_ms"]
        if run is not None and type(at_ms) is int and 0 <= at_ms < run.updated_at_ms:
            raise LeaseLostError(run.run_id)
        return await getattr(InMemoryWorkflowStore, verb)(self, **arguments)

    title = "".join(part.title() for part in verb.split("_"))
    doc = f"`{verb}` by a clock that is behind the run's last change is refused."
    return type(f"{title}MustNotBeLate", (Faulty,), {verb: call, "__doc__": doc})


for _verb in DRIVER_VERBS:
    broken("TIME-1", words="Time comes from the arguments", case=_LATE_HOLDER)(_deaf(_verb))


def _queue_not_before(run: Run, now_ms: int) -> None:
    _make_queued(run, max(now_ms, run.updated_at_ms))


for _clause, _words, _case in (
    ("SIGNAL-1", "due now", _LATE_SENDER),
    ("CANCEL-2", "A `paused` run becomes `queued`", _LATE_SENDER),
    ("DEAD-1", "due now", _LATE_SENDER),
    ("RETRY-1", "due now", _LATE_SENDER),
    ("TIME-1", "Time comes from the arguments", _LATE_HOLDER),
):
    _told = {"__doc__": "A run is not queued for a time before its last change."}
    _name = f"{_clause.title().replace('-', '')}QueuesAfterTheLastChange"
    broken(_clause, (Run, "make_queued", _queue_not_before), words=_words, case=_case)(type(_name, (Faulty,), _told))


@broken("CANCEL-2", words="whatever its time was", case=_LATE_SENDER)
class CancelledRunIsDueAfterItsCreation(Faulty):
    """A cancelled run that waited for its time is not due before it was created."""

    async def cancel_run(self, **arguments: Any) -> Any:
        answer = await super().cancel_run(**arguments)
        run = self.run(arguments)
        if run is not None:
            run.available_at_ms = max(run.available_at_ms, run.created_at_ms)
        return answer


@broken("SCHEDULE-2", words="one that changes something takes the next revision", case=_LATE_SCHEDULE)
class OlderDefinitionIsIgnored(Faulty):
    """The definition of the latest clock wins."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        row = self._data.schedules.get(arguments["schedule_id"])
        if row is not None and arguments["now_ms"] < row.value.updated_at_ms:
            return replace(await super().upsert_schedule(**arguments | _definition(row)), kind="unchanged")
        return await super().upsert_schedule(**arguments)


def _definition(row: ScheduleRow) -> dict[str, Any]:
    names = ("workflow_id", "workflow_version", "spec", "input", "overlap_policy", "queue", "priority", "enabled")
    return {name: getattr(row.value, name) for name in names}


@broken("SCHEDULE-13", words="are one unit", case=_LATE_SCHEDULE)
class RunOfATickIsNotBeforeItsTick(Faulty):
    """A run that a late clock starts is due at the tick's moment."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        later = max(arguments["now_ms"], arguments["fire_at_ms"])
        return await super().mark_schedule_bucket_started(**(arguments | {"now_ms": later}))


@broken("LEASE-1", words="Renewal never shortens", case="late_clock_neither_ends_nor_takes_what_lives")
class ClaimByIdIsOneMillisecondEarly(Faulty):
    """A claim by id takes what expires in the next millisecond."""

    async def claim_run(self, **arguments: Any) -> Any:
        early = _kept(lambda at_ms: min(at_ms + 1, 2**53 - 1), arguments["now_ms"])
        return await super().claim_run(**(arguments | {"now_ms": early}))
