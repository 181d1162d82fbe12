"""Stores with one fault each in filters: dropped beside another one, taken for none, heeded in one direction."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.store import RunPage, RunSummary, encode_run_cursor
from workflow_store_memory import InMemoryWorkflowStore

_LISTED = "pairs_of_filters_are_anded"
_COUNTED = "pairs_of_filters_are_counted"
_CLAIMED = "pairs_of_filters_claim"
_PRUNED = "pairs_of_filters_prune"
_OF_TICKS = "workflows_filter_ticks_of_every_source"
_LIST_FILTERS = ("statuses", "workflow_ids", "queues", "run_id_prefix", "created_from_ms", "created_before_ms")

Change = Callable[[dict[str, Any]], dict[str, Any]]


def _given(arguments: dict[str, Any], name: str) -> bool:
    return arguments.get(name) is not None


def _dropped(name: str, beside: str) -> Change:
    """Drop one filter where another one is given too."""
    return lambda arguments: arguments | ({name: None} if _given(arguments, beside) else {})


def _dropped_for_one_workflow(name: str) -> Change:
    """Drop a filter where one workflow is asked for: a statement of its own forgot it."""
    return lambda arguments: arguments | ({name: None} if len(arguments.get("workflow_ids") or ()) == 1 else {})


def _dropped_backwards(name: str) -> Change:
    return lambda arguments: arguments | ({name: None} if arguments.get("descending") else {})


def _empty_is_none(name: str) -> Change:
    return lambda arguments: arguments | ({name: None} if arguments.get(name) in ([], ()) else {})


def _first_only(name: str) -> Change:
    return lambda arguments: arguments | ({name: list(arguments[name])[:1]} if arguments.get(name) else {})


def _changing(verb: str, change: Change) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        return await getattr(InMemoryWorkflowStore, verb)(self, **change(arguments))

    return call


def _register(verb: str, clause: str, case: str, words: str, story: str, change: Change) -> None:
    told = {"__doc__": f"`{verb}` {story}.", verb: _changing(verb, change)}
    name = _titled(f"{verb}_{story}".replace("`", "").replace(" ", "_"))
    broken(clause, words=words, case=case)(type(name, (Faulty,), told))


def _titled(name: str) -> str:
    return "".join(part.title() for part in name.split("_"))


for _one, _other in itertools.permutations(_LIST_FILTERS, 2):
    _story = f"forgets `{_one}` beside `{_other}`"
    _register("list_runs", "LIST-1", _LISTED, "filters are ANDed", _story, _dropped(_one, _other))
for _one, _other in itertools.combinations(_LIST_FILTERS, 2):
    _story = f"forgets `{_one}` beside `{_other}`"
    _register("count_runs", "LIST-4", _COUNTED, "a full listing", _story, _dropped(_one, _other))
for _one in _LIST_FILTERS:
    _story = f"forgets `{_one}` backwards"
    _register("list_runs", "LIST-1", _LISTED, "filters are ANDed", _story, _dropped_backwards(_one))
    if _one != "workflow_ids":
        _story = f"forgets `{_one}` of a single workflow"
        _register("list_runs", "LIST-1", _LISTED, "filters are ANDed", _story, _dropped_for_one_workflow(_one))
        _register("count_runs", "LIST-4", _COUNTED, "a full listing", _story, _dropped_for_one_workflow(_one))
for _one in ("statuses", "workflow_ids", "queues"):
    for _verb, _clause, _case, _words in (
        ("list_runs", "LIST-1", _LISTED, "filters are ANDed"),
        ("count_runs", "LIST-4", _COUNTED, "a full listing"),
    ):
        _register(_verb, _clause, _case, _words, f"takes an empty `{_one}` for none", _empty_is_none(_one))
        _register(_verb, _clause, _case, _words, f"looks at the first of `{_one}`", _first_only(_one))

_SETS_LISTED = "status_sets_are_listed"
_SETS_COUNTED = "status_sets_are_counted"
_FAILED = {"aborted", "dead", "errored"}


def _of_failed(arguments: dict[str, Any]) -> bool:
    return bool(arguments.get("statuses")) and set(arguments["statuses"]) <= _FAILED


def _dropped_of_failed(name: str) -> Change:
    """Drop a filter where only runs that failed are asked for: a statement of its own forgot it."""
    return lambda arguments: arguments | ({name: None} if _of_failed(arguments) else {})


def _unknown_alone(status: str) -> Change:
    return lambda arguments: arguments | ({"statuses": []} if arguments.get("statuses") == [status] else {})


for _one in _LIST_FILTERS[1:]:
    _story = f"forgets `{_one}` of runs that failed"
    _register("list_runs", "LIST-1", _SETS_LISTED, "filters are ANDed", _story, _dropped_of_failed(_one))
    _register("count_runs", "LIST-4", _SETS_COUNTED, "a full listing", _story, _dropped_of_failed(_one))
_register(
    *("list_runs", "LIST-1", _SETS_LISTED, "Ordered by `(created_at_ms, run_id)`"),
    "lists runs that failed forwards only",
    lambda arguments: arguments | ({"descending": False} if _of_failed(arguments) else {}),
)
for _one in ("dead", "errored", "aborted", "running"):
    for _verb, _clause, _case, _words in (
        ("list_runs", "LIST-1", _SETS_LISTED, "filters are ANDed"),
        ("count_runs", "LIST-4", _SETS_COUNTED, "a full listing"),
    ):
        _register(
            *(_verb, _clause, _case, _words, f"does not know the status `{_one}` alone"),
            _unknown_alone(_one),
        )

for _verb, _clause, _words in (
    ("claim_pending_runs", "CLAIM-6", "Only runs that match `workflows` and `queues`"),
    ("claim_stale_runs", "CLAIM-6", "Only runs that match `workflows` and `queues`"),
    ("claim_due_timers", "TIMER-2", "filters"),
    ("list_pending_runs", "CLAIM-3", "Same runs"),
):
    for _one, _other in (("workflows", "queues"), ("queues", "workflows")):
        _register(_verb, _clause, _CLAIMED, _words, f"forgets `{_one}` beside `{_other}`", _dropped(_one, _other))
        _register(_verb, _clause, _CLAIMED, _words, f"takes an empty `{_one}` for none", _empty_is_none(_one))
        _register(_verb, _clause, _CLAIMED, _words, f"looks at the first of `{_one}`", _first_only(_one))

_NAMED = "only runs that are in a named status"
for _one, _other in (("statuses", "workflow_ids"), ("workflow_ids", "statuses")):
    _register("prune_runs", "RETAIN-3", _PRUNED, _NAMED, f"forgets `{_one}` beside `{_other}`", _dropped(_one, _other))
for _one in ("statuses", "workflow_ids"):
    _register("prune_runs", "RETAIN-3", _PRUNED, _NAMED, f"takes an empty `{_one}` for none", _empty_is_none(_one))
    _register("prune_runs", "RETAIN-3", _PRUNED, _NAMED, f"looks at the first of `{_one}`", _first_only(_one))


@broken("RETAIN-3", words="at most `limit`", case=_PRUNED)
class PruningOneWorkflowHasNoLimit(Faulty):
    """Pruning the runs of some workflows takes all of them."""

    async def prune_runs(self, **arguments: Any) -> Any:
        if _given(arguments, "workflow_ids") and arguments["limit"] != 0:
            arguments["limit"] = 10**6
        return await super().prune_runs(**arguments)


@broken("RETAIN-3", words=_NAMED, case=_PRUNED)
class DeadRunsArePrunedByDefault(Faulty):
    """Without statuses all that is terminal is pruned, where workflows are named."""

    async def prune_runs(self, **arguments: Any) -> Any:
        if _given(arguments, "workflow_ids") and arguments.get("statuses") is None:
            arguments["statuses"] = ["finished", "errored", "aborted", "dead"]
        return await super().prune_runs(**arguments)


for _one, _change in (("takes an empty", _empty_is_none), ("looks at the first of", _first_only)):
    _register(
        "claim_due_schedule_buckets", "SCHEDULE-11", _OF_TICKS, "With `workflow_ids`, ticks of other workflows",
        f"{_one} `workflow_ids`", _change("workflow_ids"),
    )  # fmt: skip


def _unfiltered(*sources: str) -> Callable[..., Any]:
    async def claim(self: Faulty, **arguments: Any) -> Any:
        wanted = arguments.get("workflow_ids")
        if wanted:
            rows = self._data.schedules.values()
            extra = [row.value.workflow_id for row in rows if _source(row) in sources]
            arguments["workflow_ids"] = [*wanted, *extra]
        return await InMemoryWorkflowStore.claim_due_schedule_buckets(self, **arguments)

    return claim


def _source(row: Any) -> str:
    if row.value.buffered_fire_at_ms is not None:
        return "buffered"
    return "requested" if row.requested else "due"


for _source_name in ("due", "requested", "buffered"):
    _told = {
        "__doc__": f"A claim of ticks of some workflows takes every {_source_name} one.",
        "claim_due_schedule_buckets": _unfiltered(_source_name),
    }
    broken("SCHEDULE-11", words="ticks of other workflows are left alone", case=_OF_TICKS)(
        type(f"Every{_source_name.title()}TickIsClaimed", (Faulty,), _told)
    )


_OLDEST = "limit_takes_the_oldest_of_those_that_match"


@broken("RETAIN-3", words="at most `limit`, oldest first", case=_OLDEST)
class YoungRunsFillTheLimit(Faulty):
    """Where more may go than are old enough, the next ones go too."""

    async def prune_runs(self, **arguments: Any) -> Any:
        if 1 < arguments["limit"] < 10:
            arguments["finished_before_ms"] += 9
        return await super().prune_runs(**arguments)


@broken("RETAIN-3", words="at most `limit`, oldest first", case=_OLDEST)
class LimitCountsRunsOfOtherWorkflows(Faulty):
    """The oldest runs are chosen before the workflows are looked at."""

    async def prune_runs(self, **arguments: Any) -> Any:
        wanted = arguments.get("workflow_ids")
        if wanted is not None and 1 < arguments["limit"] < 10:
            before, statuses = arguments["finished_before_ms"], arguments.get("statuses") or ()
            ended = sorted(
                (run.finished_at_ms, run.workflow_id)
                for run in self._data.runs.values()
                if run.status in statuses and run.finished_at_ms is not None and run.finished_at_ms < before
            )
            arguments["limit"] = sum(workflow_id in wanted for _, workflow_id in ended[: arguments["limit"]])
        return await super().prune_runs(**arguments)


@broken("RETAIN-3", words="at most `limit`, oldest first", case=_OLDEST)
class StatusThatIsNamedTwiceCountsTwice(Faulty):
    """A status that is named twice takes twice as much of the limit."""

    async def prune_runs(self, **arguments: Any) -> Any:
        statuses = arguments.get("statuses") or ()
        if len(set(statuses)) < len(statuses):
            arguments["limit"] = (arguments["limit"] + 1) // 2
        return await super().prune_runs(**arguments)


@broken("RETAIN-1", words="Every trace", case=_OLDEST)
class PruningSeveralStatusesKeepsEvents(Faulty):
    """Where several statuses are named, the logs of what goes stay, for the next run of that id."""

    async def prune_runs(self, **arguments: Any) -> Any:
        before = {run_id: tuple(run.events) for run_id, run in self._data.runs.items()}
        count = await super().prune_runs(**arguments)
        if len(arguments.get("statuses") or ()) > 1:
            self._kept = getattr(self, "_kept", {}) | {
                run_id: events for run_id, events in before.items() if run_id not in self._data.runs
            }
        return count

    async def load_execution(self, **arguments: Any) -> Any:
        execution = await super().load_execution(**arguments)
        kept = getattr(self, "_kept", {}).get(arguments["run_id"])
        return execution if execution is None or not kept else replace(execution, history=kept)


def _one_after_another(name: str) -> Callable[..., Any]:
    """Prune for each value of a filter in its turn, until the limit is reached."""

    async def prune_runs(self: Faulty, **arguments: Any) -> int:
        count = 0
        for value in arguments.get(name) or [None]:
            of_one = arguments | ({} if value is None else {name: [value]}) | {"limit": arguments["limit"] - count}
            count += await InMemoryWorkflowStore.prune_runs(self, **of_one)
        return count

    return prune_runs


for _one in ("statuses", "workflow_ids"):
    _told = {"__doc__": f"Pruning takes each of `{_one}` in its turn.", "prune_runs": _one_after_another(_one)}
    broken("RETAIN-3", words="oldest first", case="oldest_go_first_whatever_their_status")(
        type(_titled(f"{_one}_are_pruned_in_turn"), (Faulty,), _told)
    )


_ALIKE = "pages_end_among_runs_that_are_alike"


def _listed_lane_by_lane(key: Callable[[RunSummary], Any]) -> Callable[..., Any]:
    """List by lanes: of the runs of one status, workflow and queue take as many as a page needs, in an order."""

    async def list_runs(self: Faulty, *, limit: int, **arguments: Any) -> RunPage:
        rest = (await InMemoryWorkflowStore.list_runs(self, limit=10**6, **arguments)).runs
        lanes = defaultdict[tuple[str, str, str], list[RunSummary]](list)
        for run in rest:
            lanes[run.status, run.workflow_id, run.queue].append(run)
        kept = {run.run_id for lane in lanes.values() for run in sorted(lane, key=key)[: limit + 1]}
        runs = [run for run in rest if run.run_id in kept]
        more = len(runs) > limit > 0
        return RunPage(
            runs=tuple(runs[:limit]),
            next_cursor=encode_run_cursor(runs[limit - 1].created_at_ms, runs[limit - 1].run_id) if more else None,
        )

    return list_runs


_LANE_ORDERS: dict[str, tuple[str, Callable[[RunSummary], Any]]] = {
    "ByIdAlone": ("the ids alone", lambda run: run.run_id),
    "OldestFirst": ("creation, oldest first in both directions", lambda run: (run.created_at_ms, run.run_id)),
    "NewestFirst": ("creation, newest first in both directions", lambda run: -run.created_at_ms),
    "WithTiesBackwards": (
        "creation, with ties by id backwards",
        lambda run: (run.created_at_ms, [-ord(letter) for letter in run.run_id]),
    ),
}
for _name, (_order, _lane_key) in _LANE_ORDERS.items():
    _told = {"__doc__": f"A page is cut from lanes by {_order}.", "list_runs": _listed_lane_by_lane(_lane_key)}
    broken("LIST-1", words="Ordered by `(created_at_ms, run_id)`", case=_ALIKE)(
        type(f"LanesAreCut{_name}", (Faulty,), _told)
    )


_TWICE_LISTED = "value_that_is_named_twice_lists_once"
_TWICE_CLAIMED = "value_that_is_named_twice_claims_once"


def _named_twice(arguments: dict[str, Any], name: str) -> bool:
    values = arguments.get(name) or ()
    return len(set(values)) < len(values)


def _listed_twice(name: str) -> Callable[..., Any]:
    async def list_runs(self: Faulty, **arguments: Any) -> RunPage:
        page = await InMemoryWorkflowStore.list_runs(self, **arguments)
        if not _named_twice(arguments, name):
            return page
        twice = [run for run in page.runs for _ in range(2)][: arguments["limit"]]
        return replace(page, runs=tuple(twice))

    return list_runs


def _counted_twice(name: str) -> Callable[..., Any]:
    async def count_runs(self: Faulty, **arguments: Any) -> Any:
        counts = await InMemoryWorkflowStore.count_runs(self, **arguments)
        return {status: 2 * count for status, count in counts.items()} if _named_twice(arguments, name) else counts

    return count_runs


for _one in ("statuses", "workflow_ids", "queues"):
    for _verb, _clause, _words, _fault in (
        ("list_runs", "LIST-1", "filters are ANDed", _listed_twice),
        ("count_runs", "LIST-4", "a full listing", _counted_twice),
    ):
        _told = {"__doc__": f"`{_verb}` takes a value that `{_one}` names twice for two.", _verb: _fault(_one)}
        broken(_clause, words=_words, case=_TWICE_LISTED)(
            type(_titled(f"{_verb}_{_one}_named_twice"), (Faulty,), _told)
        )


def _counts_in_the_limit(verb: str, name: str) -> Callable[..., Any]:
    """Take a run of a value that is named twice for two of those that the limit allows."""

    async def claim(self: Faulty, **arguments: Any) -> Any:
        if _named_twice(arguments, name):
            arguments["limit"] = (arguments["limit"] + 1) // 2
        return await getattr(InMemoryWorkflowStore, verb)(self, **arguments)

    return claim


for _verb, _clause, _words in (
    ("claim_pending_runs", "CLAIM-6", "Only runs that match `workflows` and `queues`"),
    ("claim_stale_runs", "CLAIM-6", "Only runs that match `workflows` and `queues`"),
    ("claim_due_timers", "TIMER-2", "filters"),
):
    for _one in ("workflows", "queues"):
        _told = {
            "__doc__": f"`{_verb}` counts a run of a value that `{_one}` names twice as two.",
            _verb: _counts_in_the_limit(_verb, _one),
        }
        broken(_clause, words=_words, case=_TWICE_CLAIMED)(
            type(_titled(f"{_verb}_{_one}_named_twice"), (Faulty,), _told)
        )
