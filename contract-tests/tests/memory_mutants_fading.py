"""Stores with one fault each in what they remember: it fades with time, with number, or with what comes after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.store import BucketsRequested, Buffered, RunStatus
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore
from workflow_store_memory import claims as memory_claims
from workflow_store_memory.data import Run, ScheduleRow

_DAY_MS = 86_400_000
_OUTLIVES = "last_operation_outlives"
_REVIVED = "last_operation_outlives_death_and_revival"
_TICKS = "all_requested_ticks_are_kept"
_INBOX = "inbox_of_more_than_a_thousand"
_LOG = "log_of_several_thousand"
_FOLLOWING = "following_goes_on_after"

Fade = Callable[[Run, str, int], None]


def _title(verb: str) -> str:
    return "".join(part.title() for part in verb.split("_"))


def _last_hundred(run: Run, kind: str, now_ms: int) -> None:
    of_kind = [key for key in run.deliveries if key[0] == kind]
    for key in of_kind[:-100]:
        del run.deliveries[key]


def _last_day(run: Run, kind: str, now_ms: int) -> None:
    old = [key for key, entry in run.deliveries.items() if entry.received_at_ms < now_ms - _DAY_MS]
    for key in old:
        if key[0] == kind:
            del run.deliveries[key]


def _last_thousand_of_all(run: Run, kind: str, now_ms: int) -> None:
    known = list(run.deliveries)
    for key in known[: len(known) // 2]:
        if key[0] == kind and len(known) > 100:
            del run.deliveries[key]


def _until_taken(run: Run, kind: str, now_ms: int) -> None:
    taken = [key for key, entry in run.deliveries.items() if entry.inbox_seq not in run.untaken]
    for key in taken:
        if key[0] == kind:
            del run.deliveries[key]


def _until_the_end(run: Run, kind: str, now_ms: int) -> None:
    if run.status.is_terminal:
        for key in [key for key in run.deliveries if key[0] == kind]:
            del run.deliveries[key]


def _fading(verb: str, kind: str, fade: Fade) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is not None and type(arguments["now_ms"]) is int:
            fade(run, kind, arguments["now_ms"])
        return await getattr(InMemoryWorkflowStore, verb)(self, **arguments)

    return call


_FADES: dict[str, tuple[str, Fade]] = {
    "LastHundred": ("of the last hundred", _last_hundred),
    "LastDay": ("of the last day", _last_day),
    "NewerHalf": ("of the newer half", _last_thousand_of_all),
    "UntilTaken": ("that nobody has taken", _until_taken),
    "UntilTheEnd": ("of a run that has not ended", _until_the_end),
}
_KINDS = (
    ("deliver_signal", "signal", "SIGNAL-2", "A known `signal_id` answers `duplicate`", _INBOX),
    ("deliver_approval", "approval", "APPROVAL-2", "is decided once", "deliveries_are_known_for_ever"),
    ("deliver_retry", "retry", "SIGNAL-7", "known by its `retry_id`", "deliveries_are_known_for_ever"),
    (
        "cancel_run",
        "cancel",
        "CANCEL-1",
        "any other run that was asked before answers `duplicate`",
        "request_to_cancel_is_known_for_ever",
    ),
)
for _verb, _kind, _clause, _words, _case in _KINDS:
    for _name, (_which, _fade) in _FADES.items():
        if _kind == "cancel" and _name in {
            "LastHundred",
            "NewerHalf",
            "UntilTheEnd",
        }:  # there is one, and `finished` comes first
            continue
        _told = {"__doc__": f"`{_verb}` knows only what was delivered {_which}.", _verb: _fading(_verb, _kind, _fade)}
        broken(_clause, words=_words, case=_case)(type(f"{_title(_verb)}Knows{_name}", (Faulty,), _told))


# Long inboxes and logs.


@broken("SIGNAL-6", words="but at least one when there is one", case=_INBOX)
class InboxIsReadToAThousand(Faulty):
    """`read_inbox` sees the first thousand entries."""

    async def read_inbox(self, **arguments: Any) -> Any:
        return tuple(entry for entry in await super().read_inbox(**arguments) if entry.inbox_seq <= 1_000)


@broken("SIGNAL-4", words="without gaps", case=_INBOX)
class InboxNumbersEndAtAThousand(Faulty):
    """The thousand and first entry has the number of the thousandth."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        answer = await super().deliver_signal(**arguments)
        if isinstance(answer, Buffered) and answer.inbox_seq > 1_000:
            return replace(answer, inbox_seq=1_000)
        return answer


@broken("LOG-6", words="A taken inbox entry is never brought again", case=_INBOX)
class FewEntriesAreTaken(Faulty):
    """An append takes the first five hundred entries that it names."""

    async def append_events(self, **arguments: Any) -> Any:
        taken = tuple(arguments.get("taken_inbox", ()))[:500]
        return await super().append_events(**(arguments | {"taken_inbox": taken}))


def _inbox_to_a_thousand(run: Run) -> Any:
    return tuple(entry for entry in islice(run.untaken.values(), 1_000) if entry.inbox_seq <= 1_000)


@broken("LOG-6", (memory_claims, "untaken_inbox", _inbox_to_a_thousand), case=_INBOX)
class ClaimBringsTheFirstThousandEverReceived(Faulty):
    """A claim looks for untaken entries among the first thousand."""


@broken("LIST-5", words="at most `limit` events and `limit` inbox entries", case=_INBOX)
class TimelineShowsAThousandEntries(Faulty):
    """A timeline shows a thousand things, whatever was asked for."""

    async def get_run_timeline(self, **arguments: Any) -> Any:
        limit = min(arguments.get("limit", 1_000), 1_000)
        return await super().get_run_timeline(**(arguments | {"limit": limit}))


@broken("LOG-7", words="in order, without gaps", case=_LOG)
class LogIsReadToTwoThousand(Faulty):
    """`read_events` sees the first two thousand events."""

    async def read_events(self, **arguments: Any) -> Any:
        return tuple(event for event in await super().read_events(**arguments) if event.index < 2_000)


@broken("LOG-1", words="if that is the length of the log", case=_LOG)
class LogEndsAtTwoThousand(Faulty):
    """An append to a long log answers, and leaves the log as it is."""

    async def append_events(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        answer = await super().append_events(**arguments)
        if run is not None:
            del run.events[2_000:]
        return answer


@broken("FORK-1", words="first `from_index` events as they are", case=_LOG)
class ForkCopiesAThousand(Faulty):
    """A fork takes the first thousand events over, and nothing of those behind them but their places."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer = await super().fork_run(**arguments)
        fork = self._data.runs.get(arguments["new_run_id"])
        if fork is not None:
            fork.events = [event if event.index < 1_000 else replace(event, payload=None) for event in fork.events]
        return answer


@broken("RUN-7", words="are of one moment", case="many_timers_and_awaited_things")
class ThousandTimersAreShown(Faulty):
    """`load_execution` shows a thousand timers."""

    async def load_execution(self, **arguments: Any) -> Any:
        execution = await super().load_execution(**arguments)
        return execution and replace(execution, timers=execution.timers[:1_000])


_take = memory_claims.Claim.take


def _take_with_few_timers(claim: Any, run: Run) -> Any:
    taken = _take(claim, run)
    return taken and replace(taken, due_timers=taken.due_timers[:1_000])


@broken(
    "TIMER-2",
    (memory_claims.Claim, "take", _take_with_few_timers),
    words="all its due timers",
    case="many_timers_and_awaited_things",
)
class ThousandTimersAreBrought(Faulty):
    """A claim brings a thousand due timers."""


@broken("PAUSE-1", words="the awaited list", case="many_timers_and_awaited_things")
class ThousandThingsAreAwaited(Faulty):
    """A run waits for the first thousand things."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        awaited = tuple(arguments.get("awaited", ()))[:1_000]
        return await super().mark_run_paused(**(arguments | {"awaited": awaited}))


# Ticks.


@broken("SCHEDULE-8", words="all or none are written", case=_TICKS)
class HundredTicksAreRequested(Faulty):
    """The first hundred of the moments are requested; the answer counts them all."""

    async def request_schedule_buckets(self, **arguments: Any) -> Any:
        moments = tuple(arguments["fire_times_ms"])
        answer = await super().request_schedule_buckets(**(arguments | {"fire_times_ms": moments[:100]}))
        left_out = len(set(moments[100:]))
        return BucketsRequested(count=answer.count + left_out) if isinstance(answer, BucketsRequested) else answer


@broken("SCHEDULE-19", case=_TICKS, words="Ordered by moment")
class HundredTicksAreListed(Faulty):
    """A listing of requested ticks has a hundred at most."""

    async def list_requested_buckets(self, **arguments: Any) -> Any:
        return (await super().list_requested_buckets(**arguments))[:100]


@broken("SCHEDULE-8", words="not settled yet is not requested twice", case=_TICKS)
class RequestsFadeInADay(Faulty):
    """A request that nobody has settled is forgotten after a day."""

    async def request_schedule_buckets(self, **arguments: Any) -> Any:
        row = self._data.schedules.get(arguments["schedule_id"])
        if row is not None and type(arguments["now_ms"]) is int:
            begin = arguments["now_ms"] - _DAY_MS
            row.requested = {at: one for at, one in row.requested.items() if one.requested_at_ms >= begin}
        return await super().request_schedule_buckets(**arguments)


@broken("SCHEDULE-9", words="the earliest of the due and the requested ones", case=_TICKS)
class OldRequestsAreNotClaimed(Faulty):
    """A claim passes over requests of more than a day ago."""

    async def claim_due_schedule_buckets(self, **arguments: Any) -> Any:
        if type(arguments["now_ms"]) is int:
            begin = arguments["now_ms"] - _DAY_MS
            for row in self._data.schedules.values():
                row.requested = {at: one for at, one in row.requested.items() if one.requested_at_ms >= begin}
        return await super().claim_due_schedule_buckets(**arguments)


_begin_lease = ScheduleRow.begin_lease


def _begin_and_forget(row: ScheduleRow, *arguments: Any, **named: Any) -> Any:
    row.settled = None
    return _begin_lease(row, *arguments, **named)


_SETTLED = "that tick is the last one that was settled"


@broken(
    "SCHEDULE-16",
    (ScheduleRow, "begin_lease", _begin_and_forget),
    words=_SETTLED,
    case="last_settlement_is_known_for_ever",
)
class NextClaimForgetsTheSettlement(Faulty):
    """A claim of the next tick clears the last settlement."""


class _OfSettlements(Faulty):
    def forget(self, data: InMemoryData, arguments: dict[str, Any]) -> None:
        raise NotImplementedError

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        self.forget(self._data, arguments)
        return await super().mark_schedule_bucket_started(**arguments)


@broken("SCHEDULE-16", words=_SETTLED, case="last_settlement_is_known_for_ever")
class OneSettlementOfAll(_OfSettlements):
    """Only the last settlement of all schedules is known."""

    def forget(self, data: InMemoryData, arguments: dict[str, Any]) -> None:
        for schedule_id, row in data.schedules.items():
            last = getattr(data, "last_settled", schedule_id)
            row.settled = row.settled if schedule_id == last else None
        data_with_mark: Any = data
        data_with_mark.last_settled = arguments["schedule_id"]


@broken("SCHEDULE-16", words=_SETTLED, case="last_settlement_is_known_for_ever")
class EndedRunForgetsTheSettlement(_OfSettlements):
    """A settlement is known while the run that it started is live."""

    def forget(self, data: InMemoryData, arguments: dict[str, Any]) -> None:
        for row in data.schedules.values():
            if not data.is_live(row.value.previous_run_id):
                row.settled = None


# Operations.


def _forget_of(run: Run | None) -> None:
    if run is not None:
        run.operation_id = None


def _forgetting(verb: str) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        answer = await getattr(InMemoryWorkflowStore, verb)(self, **arguments)
        for run_id in arguments.get("run_ids", ()) or (arguments.get("run_id"),):
            _forget_of(self._data.runs.get(run_id or ""))
        return answer

    return call


for _verb, _case in (
    ("terminate_run", _OUTLIVES),
    ("terminate_runs", _OUTLIVES),
    ("cancel_run", _OUTLIVES),
    ("cancel_runs", _OUTLIVES),
    ("deliver_signal", _OUTLIVES),
    ("deliver_approval", _OUTLIVES),
    ("deliver_retry", _OUTLIVES),
    ("fork_run", _OUTLIVES),
    ("requeue_run", _REVIVED),
    ("requeue_runs", _REVIVED),
    ("retry_run", _REVIVED),
    ("retry_runs", _REVIVED),
):
    _told = {"__doc__": f"`{_verb}` makes the store forget the run's last operation.", _verb: _forgetting(_verb)}
    broken("OP-2", words="Outside calls", case=_case)(type(f"{_title(_verb)}ForgetsTheOperation", (Faulty,), _told))


_make_dead = Run.make_dead


def _die_and_forget(run: Run, now_ms: int) -> None:
    if run.lease is not None and run.lease.expires_at_ms <= now_ms:
        _forget_of(run)
    _make_dead(run, now_ms)


@broken("OP-2", (Run, "make_dead", _die_and_forget), words="claims by others", case=_REVIVED)
class DeathForgetsTheOperation(Faulty):
    """A run that dies of a crash loses its last operation."""


class _OfOperations(Faulty):
    """Forgets operations before it looks for one."""

    def forget(self, data: InMemoryData) -> None:
        raise NotImplementedError

    def _repeated(self, run_id: str, operation_id: str, answer_type: type[Any]) -> Any:
        self.forget(self._data)
        return super()._repeated(run_id, operation_id, answer_type)


@broken("OP-2", words="do not make a store forget that operation", case=_OUTLIVES)
class HundredOperationsOfAllRuns(_OfOperations):
    """The operations of the last hundred runs are known."""

    def forget(self, data: InMemoryData) -> None:
        for run in list(data.runs.values())[:-100]:
            _forget_of(run)


@broken("OP-2", words="do not make a store forget that operation", case=_OUTLIVES)
class OperationsOfADay(_OfOperations):
    """The operation of a run that has not changed for a day is forgotten."""

    def forget(self, data: InMemoryData) -> None:
        for run in data.runs.values():
            if self.now_ms - run.updated_at_ms > _DAY_MS:
                _forget_of(run)

    now_ms = 0

    async def append_events(self, **arguments: Any) -> Any:
        self.now_ms = arguments["now_ms"]
        return await super().append_events(**arguments)


def _creating_forgetful(verb: str) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        run = self._data.runs.get(arguments.get("new_run_id") or arguments["run_id"])
        if run is not None and (run.lease_number or run.inbox):
            _forget_of(run)
        return await getattr(InMemoryWorkflowStore, verb)(self, **arguments)

    return call


for _verb, _clause, _words in (
    ("create_run", "RUN-5", "before any other write of a driver"),
    ("fork_run", "FORK-4", "before any write of a driver"),
):
    _told = {"__doc__": f"`{_verb}` is known until somebody claims or delivers.", _verb: _creating_forgetful(_verb)}
    broken(_clause, words=_words, case="creation_is_known_until_a_driver_writes")(
        type(f"{_title(_verb)}IsKnownForAMoment", (Faulty,), _told)
    )


# Following.


def _ending_at(*statuses: RunStatus) -> Callable[..., Any]:
    async def look(self: Faulty, **arguments: Any) -> Any:
        page = await InMemoryWorkflowStore._look_at_log(self, **arguments)
        ended = page is not None and page.status in statuses
        return replace(page, status=RunStatus.FINISHED) if page is not None and ended else page

    return look


for _status in (RunStatus.PAUSED, RunStatus.QUEUED):
    _told = {"__doc__": f"Following ends when the run is {_status}.", "_look_at_log": _ending_at(_status)}
    for _case in (_FOLLOWING, "following_outlives_pauses"):
        _class = type(f"FollowingEndsAt{_status.title()}{_case.title().replace('_', '')}", (Faulty,), dict(_told))
        broken("SUBSCRIBE-1", words="It ends when the run is terminal", case=_case)(_class)
