"""Stores with one fault each in how they compare ids: without case, as patterns, normalised, cut."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.store import WorkflowVersion
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

Same = Callable[[str, str], bool]


def _equal_as(change: Callable[[str], str]) -> Same:
    return lambda stored, asked: change(stored) == change(asked)


def _like(stored: str, asked: str) -> bool:
    pattern = re.escape(asked).replace("%", ".*").replace("_", ".")
    return re.fullmatch(pattern, stored, re.DOTALL) is not None


def _glob(stored: str, asked: str) -> bool:
    return re.fullmatch(re.escape(asked).replace("\\*", ".*"), stored, re.DOTALL) is not None


def _without_accents(text: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFD", text) if not unicodedata.combining(part))


def _as_number(text: str) -> str:
    return str(int(text)) if text.isascii() and text.isdigit() else text


_SAMES: dict[str, tuple[str, Same]] = {
    "Case": ("without case", _equal_as(str.casefold)),
    "Spaces": ("without spaces at the end", _equal_as(str.rstrip)),
    "Trimmed": ("without spaces at the beginning", _equal_as(str.lstrip)),
    "Composed": ("in a normal form", _equal_as(lambda text: unicodedata.normalize("NFC", text))),
    "Compatible": ("in a compatible form", _equal_as(lambda text: unicodedata.normalize("NFKC", text))),
    "Accents": ("without accents", _equal_as(_without_accents)),
    "Ignorable": ("without what is not seen", _equal_as(lambda text: text.replace("\u200b", ""))),
    "Numbers": ("as numbers where they are such", _equal_as(_as_number)),
    "Like": ("as patterns of LIKE", _like),
    "Glob": ("as patterns of GLOB", _glob),
    "Cut64": ("by their first 64 characters", _equal_as(lambda text: text[:64])),
    "Cut255": ("by their first 255 characters", _equal_as(lambda text: text[:255])),
    "Cut511": ("by their first 511 characters", _equal_as(lambda text: text[:511])),
}
_FEW = ("Case", "Cut255", "Like")
"""Those that are tried with every verb; the others with one verb for each kind of id."""


def _run_ids(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
    return store._data.runs


def _schedule_ids(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
    return store._data.schedules


def _deliveries(kind: str) -> Callable[[Faulty, dict[str, Any]], Iterable[str]]:
    def ids(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
        run = store.run(arguments)
        return () if run is None else [name for of_kind, name in run.deliveries if of_kind == kind]

    return ids


def _awaited(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
    run = store.run(arguments)
    return () if run is None else [awaited.name for awaited in run.awaited]


def _timers(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
    run = store.run(arguments)
    return () if run is None else run.timers


def _operation(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
    run = store._data.runs.get(arguments.get("new_run_id") or arguments["run_id"])
    return () if run is None or run.operation_id is None else [run.operation_id]


def _settled_operation(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
    row = store._data.schedules.get(arguments["schedule_id"])
    return () if row is None or row.settled is None else [row.settled.operation_id]


def _token(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
    run = store.run(arguments)
    return () if run is None or run.lease is None else [run.lease.token]


def _tick_token(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
    row = store._data.schedules.get(arguments["schedule_id"])
    return () if row is None or row.lease is None else [row.lease.token]


def _queues(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
    return {run.queue for run in store._data.runs.values()}


def _workflow_ids(store: Faulty, arguments: dict[str, Any]) -> Iterable[str]:
    of_runs = {run.workflow_id for run in store._data.runs.values()}
    return of_runs | {row.value.workflow_id for row in store._data.schedules.values()}


@dataclass(frozen=True)
class _Place:
    """One argument of one verb that is compared with something stored."""

    verb: str
    argument: str
    stored: Callable[[Faulty, dict[str, Any]], Iterable[str]]
    clause: str
    words: str
    case: str
    sames: tuple[str, ...] = _FEW


_ALL = tuple(_SAMES)
_SCHEDULES = "schedule_ids_are_told_apart"
_RUNS = "run_ids_are_told_apart"
_PLACES = [
    _Place("load_run", "run_id", _run_ids, "RUN-6", "`None` for an unknown id", _RUNS, _ALL),
    *(
        _Place(verb, "run_id", _run_ids, "ARG-1", "Ids", _RUNS)
        for verb in (
            *("load_execution", "read_events", "read_inbox", "get_run_timeline", "claim_run", "deliver_signal"),
            *("deliver_approval", "deliver_retry", "cancel_run", "terminate_run", "delete_run", "fork_run"),
            *("append_events", "heartbeat_run_lease", "release_run_lease", "schedule_timer", "mark_run_paused"),
            *("mark_run_finished", "mark_run_errored", "requeue_run", "retry_run"),
        )
    ),
    *(
        _Place(verb, "run_ids", _run_ids, "BULK-1", "unknown ids answer `not-found`", _RUNS)
        for verb in ("cancel_runs", "terminate_runs", "requeue_runs", "retry_runs")
    ),
    _Place("create_run", "run_id", _run_ids, "RUN-3", "A known `run_id`", "lookalike_runs_live_side_by_side", _ALL),
    _Place(
        "fork_run", "new_run_id", _run_ids, "FORK-4", "A known `new_run_id`", "lookalike_runs_live_side_by_side"
    ),
    *(
        _Place(verb, argument, stored, clause, "Only runs that match" if clause == "CLAIM-6" else "", case, sames)
        for verb, clause, sames in (
            ("claim_pending_runs", "CLAIM-6", _ALL),
            ("claim_stale_runs", "CLAIM-6", _FEW),
            ("claim_due_timers", "TIMER-2", _FEW),
            ("list_pending_runs", "CLAIM-3", _FEW),
        )
        for argument, stored in (("queues", _queues), ("workflows", _workflow_ids))
        for case in ("claims_tell_facts_apart",)
    ),
    *(
        _Place(verb, argument, stored, clause, "", "listings_tell_facts_apart")
        for verb, clause in (("list_runs", "LIST-1"), ("count_runs", "LIST-4"))
        for argument, stored in (("queues", _queues), ("workflow_ids", _workflow_ids))
    ),
    _Place("prune_runs", "workflow_ids", _workflow_ids, "RETAIN-3", "", "pruning_tells_workflows_apart", _ALL),
    _Place(
        "claim_due_schedule_buckets", "workflow_ids", _workflow_ids, "SCHEDULE-11", "ticks of other workflows",
        "lookalike_schedules_live_side_by_side",
    ),
    _Place(
        "deliver_signal", "signal_id", _deliveries("signal"), "SIGNAL-2", "A known `signal_id`",
        "delivered_ids_are_told_apart", _ALL,
    ),
    _Place(
        "deliver_approval", "approval_id", _deliveries("approval"), "APPROVAL-2", "An approval is decided once",
        "delivered_ids_are_told_apart", _ALL,
    ),
    _Place(
        "deliver_retry", "retry_id", _deliveries("retry"), "SIGNAL-7", "known by its `retry_id`",
        "delivered_ids_are_told_apart", _ALL,
    ),
    _Place(
        "deliver_signal", "name", _awaited, "SIGNAL-1", "A run paused waiting for `name`",
        "names_that_wake_are_told_apart", _ALL,
    ),
    _Place(
        "deliver_approval", "approval_id", _awaited, "APPROVAL-1", "a run paused waiting for `approval_id`",
        "names_that_wake_are_told_apart",
    ),
    _Place("schedule_timer", "timer_id", _timers, "TIMER-1", "", "timer_ids_are_told_apart", _ALL),
    _Place("append_events", "removed_timers", _timers, "LOG-3", "timers", "timer_ids_are_told_apart"),
    _Place("mark_run_paused", "removed_timers", _timers, "PAUSE-1", "timers", "timer_ids_are_told_apart"),
    _Place(
        "create_run", "operation_id", _operation, "RUN-5", "the same `operation_id`", "operation_ids_are_told_apart"
    ),
    _Place(
        "append_events", "operation_id", _operation, "OP-1", "with its `operation_id`", "operation_ids_are_told_apart",
        _ALL,
    ),
    _Place(
        "release_run_lease", "operation_id", _operation, "OP-1", "with its `operation_id`",
        "operation_ids_are_told_apart",
    ),
    *(
        _Place(verb, "lease_token", _token, "FENCE-1", "is not the run's current one", "tokens_are_told_apart", sames)
        for verb, sames in (
            ("append_events", ("Case", "Spaces", "Trimmed", "Like", "Ignorable")),
            ("heartbeat_run_lease", ("Case", "Like")),
            ("release_run_lease", ("Case", "Like")),
            ("schedule_timer", ("Case", "Like")),
            ("mark_run_paused", ("Case", "Like")),
            ("mark_run_finished", ("Case", "Like")),
            ("mark_run_errored", ("Case", "Like")),
        )
    ),
    *(
        _Place(verb, "schedule_id", _schedule_ids, clause, words, _SCHEDULES)
        for verb, clause, words in (
            ("get_schedule", "SCHEDULE-5", "for an unknown id"),
            ("delete_schedule", "SCHEDULE-7", ""),
            ("request_schedule_buckets", "SCHEDULE-8", "An unknown schedule answers `not-found`"),
            ("list_requested_buckets", "SCHEDULE-19", "empty for an unknown schedule"),
            ("upsert_schedule", "SCHEDULE-4", "for a schedule that is not there"),
            ("mark_schedule_bucket_started", "SCHEDULE-16", "a deleted schedule"),
        )
    ),
    _Place(
        "mark_schedule_bucket_started", "lease_token", _tick_token, "SCHEDULE-16", "a token that is not the",
        "tick_tokens_and_operations_are_told_apart", ("Case", "Like"),
    ),
    _Place(
        "mark_schedule_bucket_started", "operation_id", _settled_operation, "SCHEDULE-16",
        "Repeating the call that settled the tick", "tick_tokens_and_operations_are_told_apart",
    ),
]  # fmt: skip


def _confused(value: Any, stored: Iterable[str], same: Same) -> Any:
    """Take what is asked for to be what is stored, if that looks the same."""
    known = list(stored)
    if isinstance(value, str):
        return value if value in known else next((text for text in known if same(text, value)), value)
    if not isinstance(value, list | tuple):
        return value
    if all(isinstance(one, WorkflowVersion) for one in value):
        pairs = [(text, one.version) for one in value for text in known if same(text, one.workflow_id)]
        return [WorkflowVersion(workflow_id=text, version=version) for text, version in pairs]
    texts = [one for one in value if isinstance(one, str)]
    return [text for text in known if any(same(text, one) for one in texts)] if texts == list(value) else value


def _confusing(place: _Place, same: Same) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        if arguments.get(place.argument):
            value = arguments[place.argument]
            arguments[place.argument] = _confused(value, place.stored(self, arguments), same)
        return await getattr(InMemoryWorkflowStore, place.verb)(self, **arguments)

    return call


def _register(place: _Place, name: str) -> None:
    how, same = _SAMES[name]
    parts = [part.title() for part in f"{place.verb}_{place.argument}_{name}".split("_")]
    told = {"__doc__": f"`{place.verb}` compares `{place.argument}` {how}.", place.verb: _confusing(place, same)}
    broken(place.clause, words=place.words, case=place.case)(type("".join(parts), (Faulty,), told))


for _place in _PLACES:
    for _name in _place.sames:
        _register(_place, _name)


def _cutting(verb: str, length: int) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        if isinstance(arguments.get("owner"), str):
            arguments["owner"] = arguments["owner"][:length]
        return await getattr(InMemoryWorkflowStore, verb)(self, **arguments)

    return call


for _verb, _clause in (
    ("create_run", "RUN-2"),
    ("claim_run", "CLAIM-2"),
    ("claim_pending_runs", "CLAIM-2"),
    ("claim_stale_runs", "CLAIM-2"),
    ("claim_due_timers", "CLAIM-2"),
    ("claim_due_schedule_buckets", "ARG-1"),
):
    _parts = "".join(part.title() for part in _verb.split("_"))
    _told = {"__doc__": f"`{_verb}` keeps the first 64 characters of an owner.", _verb: _cutting(_verb, 64)}
    _case = "owners_of_ticks_come_back" if _clause == "ARG-1" else "owners_come_back"
    broken(_clause, case=_case)(type(f"{_parts}CutsOwners", (Faulty,), _told))


def _ignoring_case(self: Any, run_id: str | None) -> bool:
    live = {name.casefold() for name, run in self.runs.items() if not run.status.is_terminal}
    return run_id is not None and run_id.casefold() in live


@broken(
    "SCHEDULE-14",
    (InMemoryData, "is_live", _ignoring_case),
    words="while the previous run is live",
    case="previous_runs_are_told_apart",
)
class PreviousRunWithoutCase(Faulty):
    """The previous run of a schedule is looked up without case."""
