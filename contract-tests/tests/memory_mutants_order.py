"""Stores with one fault each in what they put first: runs, ticks, events, inbox entries, timers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.store import RunPage
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_memory import claims as memory_claims
from workflow_store_memory import runs as memory_runs
from workflow_store_memory import schedules as memory_schedules
from workflow_store_memory import ticks as memory_ticks
from workflow_store_memory.data import Run, ScheduleRow

_DUE = "earliest_due_is_first_whatever_was_created_first"
_PRIORITY = "priorities_are_numbers"
_TIES = "ties_go_by_run_id"
_NUMBERS = "numbers_order_log_and_inbox"

Key = Callable[[int, Run], Any]
_KEYS: dict[str, tuple[str, str, str, Key]] = {
    "ByCreation": ("by creation", "then the earliest due", _DUE, lambda at, run: (-run.priority, run.created_at_ms)),
    "ByLastChange": (
        "by their last change",
        "then the earliest due",
        _DUE,
        lambda at, run: (-run.priority, run.updated_at_ms),
    ),
    "ById": ("by id", "then the earliest due", _DUE, lambda at, run: (-run.priority, run.run_id)),
    "LatestFirst": ("the latest first", "then the earliest due", _DUE, lambda at, run: (-run.priority, -at)),
    "ByLatestTimer": (
        "by the latest timer of each",
        "then the earliest due",
        _DUE,
        lambda at, run: (-run.priority, max((t.fire_at_ms for t in run.timers.values()), default=at - 2**53)),
    ),
    "ByPriorityAsText": (
        "by priority as text",
        "Greater priority first",
        _PRIORITY,
        lambda at, run: tuple(-ord(letter) for letter in str(run.priority)),
    ),
    "ByPriorityInAByte": (
        "by the last byte of the priority",
        "Greater priority first",
        _PRIORITY,
        lambda at, run: -((run.priority + 128) % 256),
    ),
    "ByClampedPriority": (
        "by priority from -128 to 127",
        "Greater priority first",
        _PRIORITY,
        lambda at, run: (-max(-128, min(127, run.priority)), at),
    ),
    "ByUnsignedPriority": (
        "by priority as a number without a sign",
        "Greater priority first",
        _PRIORITY,
        lambda at, run: -(run.priority % 65_536),
    ),
    "ByHowFarFromZero": (
        "by priority whatever its sign",
        "Greater priority first",
        _PRIORITY,
        lambda at, run: -abs(run.priority),
    ),
    "WithoutPriority": ("by time alone", "Greater priority first", _PRIORITY, lambda at, run: at),
    "TiesByCreation": (
        "with ties by creation",
        "then the run id",
        _TIES,
        lambda at, run: (-run.priority, at, run.created_at_ms),
    ),
    "TiesByLastChange": (
        "with ties by the last change",
        "then the run id",
        _TIES,
        lambda at, run: (-run.priority, at, run.updated_at_ms),
    ),
    "TiesByQueue": ("with ties by queue", "then the run id", _TIES, lambda at, run: (-run.priority, at, run.queue)),
    "TiesByLengthOfId": (
        "with ties by the length of the id",
        "then the run id",
        _TIES,
        lambda at, run: (-run.priority, at, len(run.run_id)),
    ),
}


def _first_by(key: Key) -> Callable[..., list[Run]]:
    def first_due(waiting: list[tuple[int, Run]], *, now_ms: int, limit: int) -> list[Run]:
        due = [(at_ms, run) for at_ms, run in waiting if at_ms <= now_ms]
        # The fault is only seen where it decides: what it leaves open goes by the contract.
        return [run for _, run in sorted(due, key=lambda item: (key(*item), item[0], item[1].run_id))][:limit]

    return first_due


def _sorting(verb: str, key: Key) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        with mock.patch.object(memory_claims, "_first_due", _first_by(key)):
            return await getattr(InMemoryWorkflowStore, verb)(self, **arguments)

    return call


for _verb, _clause in (
    ("claim_pending_runs", "CLAIM-5"),
    ("claim_stale_runs", "CLAIM-5"),
    ("claim_due_timers", "TIMER-2"),
    ("list_pending_runs", "CLAIM-3"),
):
    for _name, (_how, _words, _case, _key) in _KEYS.items():
        if _name == "ByLatestTimer" and _verb != "claim_due_timers":
            continue
        _told = {"__doc__": f"`{_verb}` takes runs {_how}.", _verb: _sorting(_verb, _key)}
        _title = "".join(part.title() for part in _verb.split("_"))
        _quoted = {"CLAIM-5": _words, "TIMER-2": "order, answer as CLAIM-4 to CLAIM-10", "CLAIM-3": "same order"}[
            _clause
        ]
        broken(_clause, words=_quoted, case=_case)(type(f"{_title}{_name}", (Faulty,), _told))


_make_queued = Run.make_queued


def _queue_in_its_old_place(run: Run, now_ms: int) -> None:
    before = run.available_at_ms
    _make_queued(run, now_ms)
    run.available_at_ms = min(before, now_ms)


@broken(
    "LEASE-3",
    (Run, "make_queued", _queue_in_its_old_place),
    words="due at once",
    case="requeued_runs_take_the_place_of_their_new_time",
)
class RequeuedRunKeepsItsOldPlace(Faulty):
    """A run that is queued again is due since its creation."""


def _clamped(verb: str) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        answer = await getattr(InMemoryWorkflowStore, verb)(self, **arguments)
        run = self._data.runs.get(arguments.get("new_run_id") or arguments.get("run_id") or "")
        if run is not None:
            run.priority = max(-128, min(127, run.priority))
        return answer

    return call


for _verb, _clause, _words, _case in (
    ("create_run", "RUN-1", "the given facts", _PRIORITY),
    ("mark_schedule_bucket_started", "SCHEDULE-13", "the run", "priorities_are_handed_on"),
    ("fork_run", "FORK-1", "priority", "priorities_are_handed_on"),
):
    _title = "".join(part.title() for part in _verb.split("_"))
    _told = {"__doc__": f"`{_verb}` keeps priorities in a byte.", _verb: _clamped(_verb)}
    broken(_clause, words=_words, case=_case)(type(f"{_title}ClampsPriority", (Faulty,), _told))


# Within one run.


def _inbox_by_time(run: Run) -> Any:
    return tuple(sorted(run.untaken.values(), key=lambda entry: entry.received_at_ms))


def _inbox_by_delivery_id(run: Run) -> Any:
    return tuple(sorted(run.untaken.values(), key=lambda entry: entry.delivery_id))


def _history_by_time(run: Run, **bounds: int) -> Any:
    return tuple(sorted(run.events, key=lambda event: event.created_at_ms))


def _timers_by_id(run: Run) -> Any:
    return tuple(sorted(run.timers.values(), key=lambda timer: timer.timer_id))


for _module, _whose in ((memory_claims, "Claimed"), (memory_runs, "Loaded")):
    _clause = "CLAIM-2" if _module is memory_claims else "RUN-7"
    for _part, _how, _replacement in (
        ("untaken_inbox", "InboxByTime", _inbox_by_time),
        ("untaken_inbox", "InboxByDeliveryId", _inbox_by_delivery_id),
        ("first_history", "HistoryByTime", _history_by_time),
    ):
        _told = {"__doc__": f"{_whose}: {_how}, not by number."}
        _quoted = "the untaken inbox" if _clause == "CLAIM-2" and "Inbox" in _how else ""
        _fault = (_module, _part, _replacement)
        broken(_clause, _fault, words=_quoted, case=_NUMBERS)(type(f"{_whose}{_how}", (Faulty,), _told))


@broken("TIMER-2", (Run, "pending_timers", property(_timers_by_id)), words="earliest first", case=_NUMBERS)
class TimersById(Faulty):
    """The due timers of a claim come by their ids."""


@broken("SIGNAL-6", case="pages_are_in_the_order_of_numbers")
class InboxPagesByTime(Faulty):
    """Pages of the inbox go by the times of arrival."""

    async def read_inbox(self, **arguments: Any) -> Any:
        whole = await super().read_inbox(**(arguments | {"limit": 10**6}))
        return tuple(sorted(whole, key=lambda entry: entry.received_at_ms))[: arguments["limit"]]


@broken("LOG-7", words="in order", case="pages_are_in_the_order_of_numbers")
class LogPagesByTime(Faulty):
    """Pages of the log go by the times of the events."""

    async def read_events(self, **arguments: Any) -> Any:
        page = await super().read_events(**arguments)
        return tuple(sorted(page, key=lambda event: event.created_at_ms))


@broken("FORK-1", words="first `from_index` events as they are", case="fork_takes_the_first_by_number")
class ForkTakesTheFirstByTime(Faulty):
    """A fork begins with the events of the earliest times."""

    async def fork_run(self, **arguments: Any) -> Any:
        source = self.current(arguments["run_id"])
        events = source.events
        source.events = sorted(events, key=lambda event: event.created_at_ms)
        try:
            return await super().fork_run(**arguments)
        finally:
            source.events = events


@broken("FORK-1", words="first `from_index` events as they are", case="fork_takes_the_first_by_number")
class ForkCopiesWithItsOwnTime(Faulty):
    """The events of a fork were all written when it was made."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer = await super().fork_run(**arguments)
        fork = self.current(arguments["new_run_id"])
        fork.events = [replace(event, created_at_ms=arguments["now_ms"]) for event in fork.events]
        return answer


@broken("SUBSCRIBE-1", words="in order", case="followed_events_are_in_order")
class FollowerGetsEventsByTime(Faulty):
    """Each page that a follower gets is sorted by time."""

    async def _look_at_log(self, **arguments: Any) -> Any:
        page = await super()._look_at_log(**arguments)
        return page and replace(page, events=tuple(sorted(page.events, key=lambda event: event.created_at_ms)))


@broken("LIST-5", words="ordered by time", case="timeline_is_in_order_of_time")
class TimelineIsByKind(Faulty):
    """A timeline shows the log first and the inbox behind it."""

    async def get_run_timeline(self, **arguments: Any) -> Any:
        timeline = await super().get_run_timeline(**arguments)
        return replace(timeline, entries=tuple(sorted(timeline.entries, key=lambda entry: entry.source)))


# Several runs and schedules.


def _pruning(key: Callable[[Run], Any]) -> Callable[..., Any]:
    async def prune_runs(self: Faulty, **arguments: Any) -> int:
        whole = self._data.runs
        ended = sorted((run for run in whole.values() if run.finished_at_ms is not None), key=key)
        first = ended[: arguments["limit"]]
        self._data.runs = {run.run_id: run for run in first}
        try:
            count = await InMemoryWorkflowStore.prune_runs(self, **arguments)
        finally:
            gone = {run.run_id for run in first} - self._data.runs.keys()
            self._data.runs = {run_id: run for run_id, run in whole.items() if run_id not in gone}
        return count

    return prune_runs


_PRUNE_KEYS: dict[str, Callable[[Run], Any]] = {
    "ByCreation": lambda run: run.created_at_ms,
    "ByLastChange": lambda run: run.updated_at_ms,
    "ById": lambda run: run.run_id,
    "NewestFirst": lambda run: -(run.finished_at_ms or 0),
}
for _name, _prune_key in _PRUNE_KEYS.items():
    _told = {"__doc__": f"Runs are pruned in another order: {_name}.", "prune_runs": _pruning(_prune_key)}
    broken("RETAIN-3", words="oldest first", case="oldest_end_is_pruned_first")(
        type(f"Pruned{_name}", (Faulty,), _told)
    )


def _listing(key: Callable[[Any], Any]) -> Callable[..., Any]:
    async def list_runs(self: Faulty, **arguments: Any) -> RunPage:
        whole = await InMemoryWorkflowStore.list_runs(self, **(arguments | {"limit": 10**6, "cursor": None}))
        runs = sorted(whole.runs, key=key, reverse=arguments.get("descending", False))
        begin = int(arguments.get("cursor") or 0)
        end = begin + arguments["limit"]
        return RunPage(runs=tuple(runs[begin:end]), next_cursor=str(end) if end < len(runs) else None)

    return list_runs


_LIST_KEYS: dict[str, Callable[[Any], Any]] = {
    "ById": lambda run: run.run_id,
    "ByLastChange": lambda run: (run.updated_at_ms, run.run_id),
    "ByPriority": lambda run: (run.created_at_ms, run.priority),
    "ByDueTime": lambda run: (run.created_at_ms, run.due_at_ms or 0),
    "TiesByIdBackwards": lambda run: (run.created_at_ms, [-ord(letter) for letter in run.run_id]),
}
for _name, _list_key in _LIST_KEYS.items():
    _told = {"__doc__": f"Runs are listed in another order: {_name}.", "list_runs": _listing(_list_key)}
    broken("LIST-1", words="Ordered by `(created_at_ms, run_id)`", case="listing_goes_by_creation_alone")(
        type(f"Listed{_name}", (Faulty,), _told)
    )


_waiting_ticks = memory_ticks.waiting_ticks


def _waiting_by(key: Callable[[Any], Any]) -> Callable[..., Any]:
    def waiting(*arguments: Any, **named: Any) -> Any:
        found = _waiting_ticks(*arguments, **named)
        return replace(found, claimable=sorted(found.claimable, key=key))

    return waiting


_TICK_KEYS: dict[str, Callable[[Any], Any]] = {
    "BySchedule": lambda item: item[1].value.schedule_id,
    "ByCreation": lambda item: item[1].value.created_at_ms,
    "ByText": lambda item: str(item[0].fire_at_ms),
    "DueOnesFirst": lambda item: (item[0].source != "due", item[0].fire_at_ms),
}
for _name, _tick_key in _TICK_KEYS.items():
    _told = {"__doc__": f"Ticks of several schedules come in another order: {_name}."}
    broken(
        "SCHEDULE-9",
        (memory_schedules, "waiting_ticks", _waiting_by(_tick_key)),
        words="Schedules whose tick is the earliest first",
        case="earliest_tick_is_first_whatever_the_schedule",
    )(type(f"Ticks{_name}", (Faulty,), _told))


def _requested_by(key: Callable[[Any], Any]) -> Callable[[ScheduleRow], Any]:
    def first(row: ScheduleRow) -> Any:
        return min(row.requested.values(), key=lambda one: (one.overlap == "buffer-all", key(one)), default=None)

    return first


_REQUEST_KEYS: dict[str, Callable[[Any], Any]] = {
    "ByText": lambda one: str(one.fire_at_ms),
    "AsRequested": lambda one: one.requested_at_ms,
}
for _name, _request_key in _REQUEST_KEYS.items():
    for _clause, _words, _case in (
        ("SCHEDULE-9", "the earliest of the due and the requested ones", "earliest_request_is_first"),
        ("SCHEDULE-18", "after the requested ticks without", "those_that_wait_for_their_turn_come_by_moment"),
    ):
        _told = {"__doc__": f"Requested ticks are claimed in another order: {_name}."}
        _class = type(f"{_clause.title().replace('-', '')}Requests{_name}", (Faulty,), _told)
        broken(_clause, (ScheduleRow, "_first_requested", _requested_by(_request_key)), words=_words, case=_case)(
            _class
        )


def _listed_requests(key: Callable[[Any], Any]) -> Callable[..., Any]:
    async def list_requested_buckets(self: Faulty, **arguments: Any) -> Any:
        whole = await InMemoryWorkflowStore.list_requested_buckets(self, **(arguments | {"limit": 10**6}))
        return tuple(sorted(whole, key=key))[: arguments["limit"]]

    return list_requested_buckets


for _name, _request_key in _REQUEST_KEYS.items():
    _told = {"__doc__": f"Requested ticks are listed in another order: {_name}."}
    _told["list_requested_buckets"] = _listed_requests(_request_key)
    broken("SCHEDULE-19", words="Ordered by moment", case="earliest_request_is_first")(
        type(f"ListedRequests{_name}", (Faulty,), _told)
    )
