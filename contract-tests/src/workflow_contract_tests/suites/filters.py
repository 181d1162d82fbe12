"""LIST, CLAIM, RETAIN and SCHEDULE: every filter with every other one, in both directions."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from workflow_runtime.store import RunStatus, RunSummary, WorkflowVersion

from ..cases import clause
from ..harness import StoreHarness
from ..samples import LEASE_MS, MANY, event
from ..scenarios import create, start, start_waiting, unchanged
from ..settings import SEED
from ..ticking import claim_ticks, end_run, request, settle, upsert
from ..verbs import CLAIM_PENDING_RUNS, CLAIM_VERBS, ClaimVerb

_WORKFLOWS = ("w", "v", "W")
_QUEUES = ("q", "p")
_RUNS = 40


async def _populate(h: StoreHarness) -> list[RunSummary]:
    """Create runs of every status, workflow and queue at few different times; return them as they are listed."""
    chosen = random.Random(SEED)
    for number in range(_RUNS):
        run_id = f"{chosen.choice('aAb')}{number % 4}-{number}"
        facts: dict[str, Any] = {"workflow_id": chosen.choice(_WORKFLOWS), "queue": chosen.choice(_QUEUES)}
        match number % 7:
            case 0:
                await create(h, run_id, **facts)
            case 1:
                await start(h, run_id, **facts)
            case 2:
                await start_waiting(h, run_id=run_id, **facts)
            case 3:
                await (await start(h, run_id, **facts)).finish()
            case 4:
                await (await start(h, run_id, **facts)).fail(parked=True)
            case 5:
                await (await start(h, run_id, **facts)).fail()
            case _:
                await create(h, run_id, **facts)
                await h.store.terminate_run(run_id=run_id, now_ms=h.now_ms)
        h.advance(number % 3 // 2)
    runs = (await h.store.list_runs(limit=MANY)).runs
    assert len(runs) == _RUNS
    assert list(runs) == sorted(runs, key=lambda run: (run.created_at_ms, run.run_id))
    return list(runs)


def _values(runs: list[RunSummary]) -> dict[str, list[Any]]:
    """Return values of each filter: one that matches little, one that matches much, one that matches nothing."""
    times = sorted({run.created_at_ms for run in runs})
    early, late = times[len(times) // 4], times[len(times) * 3 // 4]
    return {
        "statuses": [[RunStatus.FINISHED], [RunStatus.QUEUED, RunStatus.DEAD, RunStatus.PAUSED], []],
        "workflow_ids": [["w"], ["v", "W", "none"], []],
        "queues": [["q"], ["p", "q"], []],
        "run_id_prefix": ["a", "b1", "none"],
        "created_from_ms": [late, early, times[-1] + 1],
        "created_before_ms": [early, late, times[0]],
    }


def _matches(run: RunSummary, filters: dict[str, Any]) -> bool:
    checks: dict[str, Callable[[Any], bool]] = {
        "statuses": lambda wanted: run.status in wanted,
        "workflow_ids": lambda wanted: run.workflow_id in wanted,
        "queues": lambda wanted: run.queue in wanted,
        "run_id_prefix": run.run_id.startswith,
        "created_from_ms": lambda at_ms: run.created_at_ms >= at_ms,
        "created_before_ms": lambda at_ms: run.created_at_ms < at_ms,
    }
    return all(checks[name](wanted) for name, wanted in filters.items())


def _plans(values: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield each filter alone, each pair of them, and a sample of larger combinations."""
    for name, of_name in values.items():
        yield from ({name: value} for value in of_name)
    for one, other in itertools.combinations(values, 2):
        for first, second in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (1, 2)):
            yield {one: values[one][first], other: values[other][second]}
    chosen = random.Random(SEED)
    for count in (3, 3, 3, 4, 4, 5, 6, 6):
        yield {name: chosen.choice(values[name][:2]) for name in chosen.sample(sorted(values), count)}


async def _listed(h: StoreHarness, limit: int, **arguments: Any) -> list[RunSummary]:
    runs: list[RunSummary] = []
    cursor: str | None = None
    while True:
        page = await h.second.list_runs(limit=limit, cursor=cursor, **arguments)
        runs += page.runs
        cursor = page.next_cursor
        if cursor is None:
            return runs


@clause("LIST-1", "LIST-2", each=("ascending", "descending"))
async def pairs_of_filters_are_anded(h: StoreHarness, order: str) -> None:
    """Each filter with each other one gives the runs that match both, page by page, forwards and backwards."""
    everything = await _populate(h)
    for number, filters in enumerate(_plans(_values(everything))):
        await _check_listing(h, everything, order, filters, limit=(2, 7, MANY, MANY)[number % 4])


async def _check_listing(
    h: StoreHarness, everything: list[RunSummary], order: str, filters: dict[str, Any], *, limit: int
) -> None:
    backwards = order == "descending"
    expected = [run for run in everything if _matches(run, filters)][:: -1 if backwards else 1]
    found = await _listed(h, limit, descending=backwards, **filters)
    assert [run.run_id for run in found] == [run.run_id for run in expected], f"{order}, {limit} with {filters}"
    assert found == expected, f"{order} with {filters}"


@clause("LIST-4")
async def pairs_of_filters_are_counted(h: StoreHarness) -> None:
    """Each filter with each other one counts the runs that match both, and names no status without any."""
    everything = await _populate(h)
    for filters in _plans(_values(everything)):
        await _check_counts(h, everything, filters)


async def _check_counts(h: StoreHarness, everything: list[RunSummary], filters: dict[str, Any]) -> None:
    expected = Counter(run.status for run in everything if _matches(run, filters))
    assert dict(await h.second.count_runs(**filters)) == dict(expected), f"with {filters}"


_STATUS_SETS: tuple[list[RunStatus], ...] = (
    *([status] for status in RunStatus),
    [RunStatus.ERRORED, RunStatus.ABORTED, RunStatus.DEAD],
    [RunStatus.ABORTED, RunStatus.ERRORED],
    [RunStatus.DEAD, RunStatus.FINISHED],
    [RunStatus.QUEUED, RunStatus.PAUSED, RunStatus.RUNNING],
    [RunStatus.DEAD, RunStatus.DEAD],
)
"""Statuses that a store may have an index, and statements, of their own for."""


def _plans_of_statuses(values: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield each set of statuses alone, with each value of the other filters, and with a sample of several."""
    others = {name: of_name for name, of_name in values.items() if name != "statuses"}
    chosen = random.Random(SEED)
    for statuses in _STATUS_SETS:
        yield {"statuses": statuses}
        for name, of_name in others.items():
            yield from ({"statuses": statuses, name: value} for value in of_name[:2])
        for count in (2, 3, 5):
            several = {name: chosen.choice(others[name][:2]) for name in chosen.sample(sorted(others), count)}
            yield {"statuses": statuses, **several}


@clause("LIST-1", "LIST-2", each=("ascending", "descending"))
async def status_sets_are_listed(h: StoreHarness, order: str) -> None:
    """Each status, and those that belong together, are listed with each other filter, in small pages and both ways."""
    everything = await _populate(h)
    for number, filters in enumerate(_plans_of_statuses(_values(everything))):
        limit = (1, 2, 1, MANY)[number % 4] if len(filters) != 2 else 1
        await _check_listing(h, everything, order, filters, limit=limit)


@clause("LIST-4")
async def status_sets_are_counted(h: StoreHarness) -> None:
    """Each status, and those that belong together, are counted with each other filter."""
    everything = await _populate(h)
    for filters in _plans_of_statuses(_values(everything)):
        await _check_counts(h, everything, filters)


_LANES: tuple[dict[str, Any], ...] = (
    {},
    {"run_id_prefix": ""},
    {"run_id_prefix": "a"},
    {"statuses": [RunStatus.QUEUED]},
    {"statuses": [RunStatus.ERRORED]},
    {"statuses": [RunStatus.ABORTED, RunStatus.ERRORED]},
    {"statuses": [RunStatus.QUEUED, RunStatus.ERRORED]},
    {"workflow_ids": ["orders"]},
    {"queues": ["default"]},
)
"""Filters for which a store may walk through the runs of one status, workflow and queue at a time."""


@clause("LIST-1", "LIST-2", each=("ascending", "descending"))
async def pages_end_among_runs_that_are_alike(h: StoreHarness, order: str) -> None:
    """Of many runs of one status, workflow and queue, some created at one moment, pages show each, in their order."""
    for letter in "ba":
        for number in (2, 0, 3, 1):
            await create(h, f"{letter}-{number}")
            await (await start(h, f"{letter}-{number}-failed")).fail()
        h.advance(1)
    everything = list((await h.store.list_runs(limit=MANY)).runs)
    assert everything == sorted(everything, key=lambda run: (run.created_at_ms, run.run_id))
    for filters in _LANES:
        for limit in (1, 2):
            await _check_listing(h, everything, order, filters, limit=limit)


_TWICE: tuple[dict[str, Any], ...] = (
    {"statuses": [RunStatus.ERRORED] * 2},
    {"workflow_ids": ["orders"] * 2},
    {"queues": ["default"] * 2},
    {"statuses": [RunStatus.ERRORED] * 2, "workflow_ids": ["orders"] * 2, "queues": ["default"] * 2},
)


@clause("LIST-1", "LIST-4", each=("ascending", "descending"))
async def value_that_is_named_twice_lists_once(h: StoreHarness, order: str) -> None:
    """A status, workflow or queue that is named twice in a filter gives each of its runs once, and counts it once."""
    for number in range(3):
        await (await start(h, f"run-{number}")).fail()
    everything = list((await h.store.list_runs(limit=MANY)).runs)
    for filters, prefix in itertools.product(_TWICE, ({}, {"run_id_prefix": "run"})):
        for limit in (2, MANY):
            await _check_listing(h, everything, order, filters | prefix, limit=limit)
        await _check_counts(h, everything, filters | prefix)


# Claims.

_A1, _A2, _B1 = (WorkflowVersion(workflow_id=name, version=version) for name, version in ("a1", "a2", "b1"))
_GRID = [(version, queue) for version in (_A1, _A2, _B1) for queue in "xyz"]
_OF_WORKFLOWS: dict[str, list[WorkflowVersion] | None] = {
    "any": None,
    "none": [],
    "one": [_A2],
    "two": [_B1, _A1],
    "unknown": [WorkflowVersion(workflow_id="b", version="2")],
}
_OF_QUEUES: dict[str, list[str] | None] = {"any": None, "none": [], "one": ["y"], "two": ["z", "x"], "unknown": ["w"]}


@clause("CLAIM-6", "CLAIM-3", "CLAIM-7", "TIMER-2", each=CLAIM_VERBS)
async def pairs_of_filters_claim(h: StoreHarness, verb: ClaimVerb) -> None:
    """Each filter of workflows with each of queues takes the runs that match both, and says when the next is due."""
    begin = h.now_ms
    for workflows, queues in itertools.product(_OF_WORKFLOWS.values(), _OF_QUEUES.values()):
        if workflows is None and queues is None:
            continue
        due = await _fill_grid(h, verb, begin)
        filters: dict[str, Any] = {"workflows": workflows, "queues": queues}
        matching = [
            number
            for number, (version, queue) in enumerate(_GRID)
            if (workflows is None or version in workflows) and (queues is None or queue in queues)
        ]
        nothing = await verb.call(h, limit=0, **filters)
        first = min((due[number] for number in matching), default=None)
        assert (nothing.claims, nothing.next_due_ms) == ((), first), f"with {filters}"
        if verb is CLAIM_PENDING_RUNS:
            shown = await h.second.list_pending_runs(now_ms=h.now_ms, limit=MANY, **filters)
            assert sorted(run.run_id for run in shown) == sorted(f"run-{number}" for number in matching)
        batch = await verb.call(h, **filters)
        assert [c.run.run_id for c in batch.claims] == [f"run-{number}" for number in reversed(matching)]
        assert batch.next_due_ms is None, f"with {filters} nothing that matches is left"
        for taken in batch.claims:
            await h.store.delete_run(run_id=taken.run.run_id, now_ms=h.now_ms, force=True)


@clause("CLAIM-6", "CLAIM-4", "CLAIM-3", "TIMER-2", each=CLAIM_VERBS)
async def value_that_is_named_twice_claims_once(h: StoreHarness, verb: ClaimVerb) -> None:
    """A workflow version or a queue that is named twice in a filter gives each of its runs once."""
    begin = h.now_ms
    version = WorkflowVersion(workflow_id="a1", version="1")
    for filters in (
        {"workflows": [version] * 2},
        {"queues": ["x"] * 2},
        {"workflows": [version] * 2, "queues": ["x"] * 2},
    ):
        h.now_ms = begin
        names = [await verb.make_ready(h, begin + 1 + n, workflow_id="a1", queue="x") for n in range(3)]
        h.now_ms = begin + 10
        if verb is CLAIM_PENDING_RUNS:
            shown = await h.second.list_pending_runs(now_ms=h.now_ms, limit=MANY, **filters)
            assert [run.run_id for run in shown] == names, f"with {filters}"
        first = await verb.call(h, limit=2, **filters)
        rest = await verb.call(h, limit=MANY, **filters)
        assert [[c.run.run_id for c in batch.claims] for batch in (first, rest)] == [names[:2], names[2:]]
        assert first.next_due_ms is not None, f"with {filters}"
        assert first.next_due_ms <= h.now_ms, f"with {filters}"


async def _fill_grid(h: StoreHarness, verb: ClaimVerb, begin: int) -> dict[int, int]:
    """Make a run ready for each workflow version and queue that has none; the last ones are due first."""
    present = {run.run_id for run in (await h.store.list_runs(limit=MANY)).runs}
    h.now_ms = begin
    due = {number: begin + 1_000 - number for number in range(len(_GRID))}
    for number, (version, queue) in enumerate(_GRID):
        if f"run-{number}" not in present:
            facts = {"workflow_id": version.workflow_id, "workflow_version": version.version, "queue": queue}
            await verb.make_ready(h, due[number], run_id=f"run-{number}", **facts)
    h.now_ms = begin + 2_000
    return due


@clause("RETAIN-3")
async def pairs_of_filters_prune(h: StoreHarness) -> None:
    """Statuses with workflows, a time and a limit prune what matches all of them; an empty filter prunes nothing."""
    statuses: list[list[RunStatus] | None] = [[], [RunStatus.ERRORED], None, [RunStatus.ABORTED, RunStatus.DEAD]]
    workflows: list[list[str] | None] = [[], ["none"], ["b"], ["a", "c"], None]
    left = await _fill_with_ended(h)
    by_default = {RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED}
    for wanted, of_workflows in itertools.product(statuses, workflows):
        for before, limit in ((2, MANY), (3, 0), (MANY, 1), (MANY, MANY)):
            matching = [
                (ended, run_id)
                for run_id, (status, workflow_id, ended) in left.items()
                if ended < before
                and status in (by_default if wanted is None else wanted)
                and (of_workflows is None or workflow_id in of_workflows)
            ]
            gone = [run_id for _, run_id in sorted(matching)[:limit]]
            count = await h.second.prune_runs(
                finished_before_ms=_ENDS_MS + before, limit=limit, statuses=wanted, workflow_ids=of_workflows
            )
            assert count == len(gone), f"statuses {wanted}, workflows {of_workflows}, before {before}, limit {limit}"
            left = {run_id: facts for run_id, facts in left.items() if run_id not in gone}
            if gone:
                assert {run.run_id for run in (await h.store.list_runs(limit=MANY)).runs} == {*left, "alive"}
    assert left == {}


_ENDS_MS = 10**9
_ENDS = (RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED, RunStatus.DEAD)


async def _fill_with_ended(h: StoreHarness) -> dict[str, tuple[RunStatus, str, int]]:
    facts: dict[str, tuple[RunStatus, str, int]] = {}
    h.now_ms = _ENDS_MS - 1
    await start_waiting(h, run_id="alive", workflow_id="a")
    for number, (status, workflow_id) in enumerate(itertools.product(_ENDS, "abc")):
        run_id, ended = f"run-{number}", (number * 7) % 12
        await _end(h, run_id, status, workflow_id, ended)
        facts[run_id] = (status, workflow_id, ended)
    return facts


async def _end(h: StoreHarness, run_id: str, status: RunStatus, workflow_id: str, ended: int) -> None:
    """Create a run that ends in a status, so many milliseconds after the first moment."""
    h.now_ms = _ENDS_MS - 1
    holder = await start(h, run_id, workflow_id=workflow_id)
    now_ms = _ENDS_MS + ended
    if status is RunStatus.FINISHED:
        await holder.finish(now_ms=now_ms)
    else:
        how: dict[str, Any] = {"aborted": status is RunStatus.ABORTED, "parked": status is RunStatus.DEAD}
        await holder.fail(now_ms=now_ms, **how)


_PRUNINGS: tuple[tuple[int, int, list[RunStatus], list[str] | None], ...] = (
    (12, 3, [RunStatus.ERRORED], None),  # more may go than are old enough, and the next one is not
    (MANY, 2, [RunStatus.FINISHED], None),  # those of the other status are older
    (MANY, 2, [RunStatus.FINISHED], ["a"]),  # others have ended in between
    (112, 4, [RunStatus.ERRORED, RunStatus.FINISHED], ["b"]),
    (MANY, 3, [RunStatus.ERRORED, RunStatus.ERRORED, RunStatus.FINISHED], None),
    (MANY, MANY, [RunStatus.FINISHED], None),
)
"""Before, limit, statuses and workflows of prunings, one after the other."""


@clause("RETAIN-3", "RETAIN-1")
async def limit_takes_the_oldest_of_those_that_match(h: StoreHarness) -> None:
    """Among runs of several statuses and workflows the oldest go, with every trace, and the others keep theirs."""
    left = await _fill_with_traces(h)
    for before, limit, statuses, workflows in _PRUNINGS:
        matching = sorted(
            (ended, run_id)
            for run_id, (status, workflow_id, ended) in left.items()
            if ended < before and status in statuses and (workflows is None or workflow_id in workflows)
        )
        gone = [run_id for _, run_id in matching[:limit]]
        left = {run_id: facts for run_id, facts in left.items() if run_id not in gone}
        which = f"before {before}, limit {limit}, statuses {statuses}, workflows {workflows}"
        async with unchanged(h, *left, after=f"pruning others: {which}"):
            count = await h.second.prune_runs(
                finished_before_ms=_ENDS_MS + before, limit=limit, statuses=statuses, workflow_ids=workflows
            )
        assert count == len(gone), which
        for run_id in gone:
            await _assert_new(h, run_id, f"a run of that id after pruning {which}")


async def _fill_with_traces(h: StoreHarness) -> dict[str, tuple[RunStatus, str, int]]:
    facts: dict[str, tuple[RunStatus, str, int]] = {}
    h.now_ms = _ENDS_MS - 1
    for number, status in itertools.product(range(9), (RunStatus.ERRORED, RunStatus.FINISHED)):
        run_id, workflow_id = f"{status}-{number}", "b" if number % 3 else "a"
        ended = 10 * number + (100 if status is RunStatus.FINISHED else 0)
        holder = await start(h, run_id, workflow_id=workflow_id)
        await holder.signal("go", "s1")
        how = holder.finish if status is RunStatus.FINISHED else holder.fail
        await how(events=[event('"last"')], now_ms=_ENDS_MS + ended)
        facts[run_id] = (status, workflow_id, ended)
    return facts


async def _assert_new(h: StoreHarness, run_id: str, what: str) -> None:
    await create(h, run_id)
    execution = await h.second.load_execution(run_id=run_id)
    assert execution is not None
    assert (execution.run.status, execution.history, execution.inbox) == (RunStatus.QUEUED, (), ()), what
    await h.store.delete_run(run_id=run_id, now_ms=h.now_ms)


@clause("RETAIN-3")
async def oldest_go_first_whatever_their_status(h: StoreHarness) -> None:
    """Of two statuses and two workflows the runs go that ended first, not those of one and then of the other."""
    for (one, other), workflows in itertools.product(itertools.combinations(_ENDS, 2), (["a", "b"], None)):
        for ended, (status, workflow_id) in enumerate([(one, "a"), (other, "b"), (other, "b"), (one, "a")]):
            await _end(h, f"ended-{ended}", status, workflow_id, ended)
        for left in (["ended-2", "ended-3"], []):
            count = await h.second.prune_runs(
                finished_before_ms=_ENDS_MS + MANY, limit=2, statuses=[one, other], workflow_ids=workflows
            )
            assert count == 2, f"{one} and {other}, workflows {workflows}"
            found = sorted(run.run_id for run in (await h.store.list_runs(limit=MANY)).runs)
            assert found == left, f"{one} and {other}, workflows {workflows}"


_SOURCES = ("due", "requested", "buffered")


@clause("SCHEDULE-11", "SCHEDULE-9", "SCHEDULE-10")
async def workflows_filter_ticks_of_every_source(h: StoreHarness) -> None:
    """Ticks of each source are claimed by one workflow, by several, by any, and by none; the others are named."""
    twice = [*("w-due", "w-requested", "w-buffered") * 2]
    for wanted in ([], ["none"], ["w-due"], ["w-requested", "w-buffered"], ["w-buffered"], twice, None):
        for source in _SOURCES:
            await _make_tick(h, source)
        claims = await claim_ticks(h, workflow_ids=wanted)
        expected = {f"s-{source}" for source in _SOURCES if wanted is None or f"w-{source}" in wanted}
        others = {f"s-{source}" for source in _SOURCES} - expected
        assert {tick.schedule.schedule_id for tick in claims.buckets} == expected, f"with {wanted}"
        assert {(tick.schedule.schedule_id, f"s-{tick.source}") for tick in claims.buckets} == {
            (s, s) for s in expected
        }
        assert len(claims.buckets) == len(expected), f"with {wanted} a tick came twice"
        assert set(claims.unclaimable) == others, f"with {wanted}"
        for source in _SOURCES:
            await h.store.delete_schedule(schedule_id=f"s-{source}")
        h.advance(LEASE_MS)


async def _make_tick(h: StoreHarness, source: str) -> None:
    name, workflow_id = f"s-{source}", f"w-{source}"
    await upsert(h, name, workflow_id=workflow_id, next_fire_at_ms=h.now_ms if source == "due" else None)
    if source == "due":
        return
    await request(h, h.now_ms - 1, schedule_id=name)
    if source == "buffered":
        run_id = h.new_id("tick")
        await _settle_first(h, workflow_id, "start", run_id)
        await request(h, h.now_ms - 2, schedule_id=name)
        await _settle_first(h, workflow_id, "buffer", None)
        await end_run(h, run_id)


async def _settle_first(h: StoreHarness, workflow_id: str, action: str, run_id: str | None) -> None:
    (tick,) = (await claim_ticks(h, workflow_ids=[workflow_id])).buckets
    await settle(h, tick, action, run_id, next_fire_at_ms=None)
