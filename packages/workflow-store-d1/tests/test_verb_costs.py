"""The cost of each verb on D1, by its own count: bounded, and the same among many other runs as among few."""

import asyncio

import pytest
from verb_costs import FEW, MANY, VerbCost, verb_costs
from workflow_test_support.servers.d1_server import D1Server
from workflow_test_support.servers.worker_database import open_empty

BUDGETS = {
    # statements, rows read, rows written
    "start": (4, 1, 8),
    "start and claim": (4, 1, 7),
    "start again": (4, 6, 0),
    "start many": (4, 50, 80),
    "load": (1, 2, 0),
    "load with history": (4, 11, 0),
    "claim": (6, 20, 2),
    "claim in vain": (6, 7, 0),
    "claim pending": (6, 52, 2),
    "claim stale": (6, 21, 2),
    "claim timers": (6, 54, 2),
    "find nothing pending": (6, 38, 0),
    "find nothing stale": (6, 14, 0),
    "find no timers": (6, 38, 0),
    "find no ticks": (3, 38, 0),
    "list pending": (1, 15, 0),
    "signal": (4, 7, 8),
    "signals": (4, 124, 45),
    "signal nobody": (4, 1, 0),
    "approval": (4, 6, 5),
    "inbox": (1, 2, 0),
    "cancel": (3, 5, 7),
    "terminate": (4, 5, 4),
    "requeue": (3, 4, 1),
    "retry": (5, 30, 6),
    "fork": (7, 13, 10),
    "delete": (7, 10, 3),
    "prune": (6, 70, 0),
    "events": (1, 5, 0),
    "list": (1, 22, 0),
    "list running": (1, 4, 0),
    "list paused": (1, 22, 0),
    "list what has not finished": (6, 66, 0),
    "list finished": (1, 78, 0),
    "list workflows": (2, 44, 0),
    "list a queue": (1, 2, 0),
    "count running": (2, 12, 0),
    "count a queue": (1, 4, 0),
    "timeline": (4, 9, 0),
    "clock": (1, 0, 0),
    "upsert schedule": (4, 2, 3),
    "request ticks": (3, 2, 0),
    "list schedules": (1, 11, 0),
    "list requested ticks": (1, 2, 0),
    "delete schedule": (2, 1, 0),
    "claim ticks": (3, 39, 0),
    "claim ticks of some workflows": (4, 54, 0),
    "append one": (3, 3, 3),
    "append with everything": (12, 418, 304),
    "pause": (4, 6, 6),
    "finish": (4, 5, 3),
    "fail": (4, 5, 4),
    "release": (2, 2, 3),
    "timer": (3, 3, 2),
    "heartbeat": (1, 2, 1),
    "heartbeat of many": (1, 5, 1),
    "start a tick": (6, 8, 9),
    "repeat an append": (3, 3, 0),
    "refuse an append": (4, 6, 0),
}
COUNTED_ONE_BY_ONE = {"count": 2, "list by prefix": 1}
"""What reads every run by its nature, or every one whose id begins alike, and how many rows for each of all at most."""

Costs = dict[str, VerbCost]


@pytest.fixture(scope="module")
def costs(d1: D1Server) -> tuple[Costs, Costs]:
    """The costs among few other runs and among many."""

    async def both() -> tuple[Costs, Costs]:
        async with open_empty(d1.url) as database:
            few = await verb_costs(database, FEW)
            await database.empty()
            return few, await verb_costs(database, MANY)

    return asyncio.run(both())


def test_verbs_stay_within_their_budgets(costs: tuple[Costs, Costs]) -> None:
    for among in costs:
        assert among.keys() == BUDGETS.keys() | COUNTED_ONE_BY_ONE.keys()
        found = {work: (cost.statements, cost.rows_read, cost.rows_written) for work, cost in among.items()}
        beyond = {
            work: (found[work], budget)
            for work, budget in BUDGETS.items()
            if any(cost > most for cost, most in zip(found[work], budget, strict=True))
        }
        assert beyond == {}


def test_no_verb_looks_at_the_runs_of_others(costs: tuple[Costs, Costs]) -> None:
    few, many = costs
    for work in BUDGETS:
        assert many[work].rows_read <= few[work].rows_read * 1.2 + 2, work
        assert many[work].rows_written == few[work].rows_written, work


def test_counting_reads_so_many_rows_for_each_run(costs: tuple[Costs, Costs]) -> None:
    for others, among in zip((FEW, MANY), costs, strict=True):
        for work, rows in COUNTED_ONE_BY_ONE.items():
            assert among[work].rows_read <= rows * (others + 3), work


def test_no_verb_comes_near_the_statements_of_an_invocation(costs: tuple[Costs, Costs]) -> None:
    """The free plan gives 50 queries to one: a claim of each kind and then a few steps, at least."""
    assert max(cost.statements for cost in costs[1].values()) <= 12
