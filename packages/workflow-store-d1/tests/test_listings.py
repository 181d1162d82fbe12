"""Listings and counts through the store, by every filter: what SQLite does for them, and that they are right."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pytest
from workflow_migrations import split_statements
from workflow_runtime.store import RunStatus, RunSummary, encode_run_cursor
from workflow_store_d1 import D1PreparedStatement, D1Result, D1WorkflowStore, get_migration_sql
from workflow_store_d1.database import D1Value

RUNS, MORE, TIMES = 4_000, 12_000, 2_000
"""Runs, those that finish besides, and moments at which they are created: two runs at each, and then eight."""


@dataclass(frozen=True, slots=True)
class Result:
    results: Sequence[Mapping[str, Any]]
    meta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Statement:
    database: CountedDatabase
    sql: str
    values: tuple[D1Value, ...] = ()

    def bind(self, *values: D1Value) -> Self:
        return type(self)(self.database, self.sql, values)

    async def all(self) -> Result:
        rows = self.database.connection.execute(self.sql, self.values).fetchall()
        self.database.statements += 1
        return Result([dict(row) for row in rows], {})

    async def run(self) -> Result:
        return await self.all()


class CountedDatabase:
    """A database in memory that counts the instructions of SQLite's machine."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self.statements = self.instructions = 0

    def prepare(self, sql: str) -> Statement:
        return Statement(self, sql)

    async def batch(self, statements: Sequence[D1PreparedStatement]) -> list[D1Result]:
        return [await statement.all() for statement in statements]

    def count(self) -> None:
        self.statements = self.instructions = 0
        self.connection.set_progress_handler(self._add, 1)

    def _add(self) -> int:
        self.instructions += 1
        return 0


AWAITED = '["signal","go","wait-%d",null]'
FEW_THINGS, MANY_THINGS = (f"[{','.join(AWAITED % number for number in range(count))}]" for count in (2, 60))
"""What paused runs wait for: a list that goes as it is, and one that is cut."""

FILL = f"""
WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {RUNS})
INSERT INTO workflow_event_locks (
    run_id, status, workflow_id, workflow_version, queue, priority, lease_number, next_index, inbox_seq,
    cancel_requested, crashes, awaiting, operation_id, operation_answer, created_at, updated_at
)
SELECT
    printf('%s-%05d', iif(n % 7, 'run', 'odd'), n),
    CASE n % 400 WHEN 7 THEN 'dead' WHEN 8 THEN 'errored' WHEN 9 THEN 'aborted' WHEN 10 THEN 'running'
        ELSE iif(n % 3 = 0, 'queued', iif(n % 3 = 1, 'paused', 'finished')) END,
    CASE WHEN n % 400 IN (11, 17) THEN 'rare' ELSE 'workflow-' || (n % 3) END, '1',
    CASE WHEN n % 400 IN (13, 17) THEN 'gpu' WHEN n % 5 = 0 THEN 'common' ELSE 'default' END,
    0, 0, 0, 0, 0, 0, iif(n % 2, '{FEW_THINGS}', '{MANY_THINGS}'), '', '{{}}', 1 + n % {TIMES}, n
FROM number
"""
CROWD = f"""
WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {MORE})
INSERT INTO workflow_event_locks (
    run_id, status, workflow_id, workflow_version, queue, priority, lease_number, next_index, inbox_seq,
    cancel_requested, crashes, awaiting, operation_id, operation_answer, created_at, updated_at
)
SELECT
    'crowd-' || n, 'finished', 'workflow-' || (n % 3), '1', 'default', 0, 0, 0, 0, 0, 0, '[]', '', '{{}}',
    1 + n % {TIMES}, n
FROM number
WHERE 1 + n % {TIMES} NOT BETWEEN 1500 AND 1520
"""
RUNS_OF_HEADS = """
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT run_id, workflow_id, workflow_version, queue, priority, created_at FROM workflow_event_locks
"""


def filled(*fills: str) -> CountedDatabase:
    database = CountedDatabase()
    for sql in (*split_statements(get_migration_sql()), *fills, RUNS_OF_HEADS):
        database.connection.execute(sql)
    return database


@pytest.fixture(scope="module")
def few() -> Iterator[CountedDatabase]:
    database = filled(FILL)
    yield database
    database.connection.close()


@pytest.fixture(scope="module")
def crowded() -> Iterator[CountedDatabase]:
    database = filled(FILL, CROWD)
    yield database
    database.connection.close()


SHAPES: dict[str, dict[str, Any]] = {
    "everything": {},
    **{f"status {status}": {"statuses": [status]} for status in RunStatus},
    "what has not ended": {"statuses": [RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.PAUSED]},
    "what has not finished": {"statuses": [status for status in RunStatus if status != RunStatus.FINISHED]},
    "statuses named twice": {"statuses": [RunStatus.DEAD, RunStatus.PAUSED, RunStatus.DEAD, RunStatus.PAUSED]},
    "finished and dead": {"statuses": [RunStatus.FINISHED, RunStatus.DEAD]},
    "no status": {"statuses": []},
    "a common workflow": {"workflow_ids": ["workflow-1"]},
    "a rare workflow": {"workflow_ids": ["rare"]},
    "a common and a rare workflow": {"workflow_ids": ["workflow-1", "rare", "rare"]},
    "many workflows": {"workflow_ids": ["workflow-1", "rare", *(f"other-{number}" for number in range(9))]},
    "no workflow": {"workflow_ids": []},
    "paused, of a workflow": {"statuses": [RunStatus.PAUSED], "workflow_ids": ["workflow-1"]},
    "dead, of two workflows": {"statuses": [RunStatus.DEAD], "workflow_ids": ["workflow-1", "rare"]},
    "finished, of a rare workflow": {"statuses": [RunStatus.FINISHED], "workflow_ids": ["rare"]},
    "a rare queue": {"queues": ["gpu"]},
    "two queues": {"queues": ["gpu", "common"]},
    "the default queue": {"queues": ["default"]},
    "queues, the default one too": {"queues": ["default", "gpu"]},
    "paused, in a queue": {"statuses": [RunStatus.PAUSED], "queues": ["common"]},
    "a workflow in a queue": {"workflow_ids": ["rare"], "queues": ["gpu"]},
    "a rare prefix": {"run_id_prefix": "run-0012"},
    "a common prefix": {"run_id_prefix": "run-"},
    "any prefix": {"run_id_prefix": ""},
    "a whole id as the prefix": {"run_id_prefix": "run-00120"},
    "a prefix that nothing has": {"run_id_prefix": "nothing"},
    "a prefix of nothing, with the last of all characters": {"run_id_prefix": "\U0010ffff"},
    "a common prefix, dead": {"run_id_prefix": "run-", "statuses": [RunStatus.DEAD]},
    "another common prefix, dead and running": {
        "run_id_prefix": "run-0",
        "statuses": [RunStatus.DEAD, RunStatus.RUNNING],
    },
    "another common prefix, paused": {"run_id_prefix": "run-0", "statuses": [RunStatus.PAUSED]},
    "another common prefix, in a queue": {"run_id_prefix": "run-0", "queues": ["gpu"]},
    "a common prefix of a rare workflow": {"run_id_prefix": "run-", "workflow_ids": ["rare"]},
    "a short time": {"created_from_ms": 1_500, "created_before_ms": 1_520},
    "a short time, paused": {"created_from_ms": 1_500, "created_before_ms": 1_520, "statuses": [RunStatus.PAUSED]},
    "between two that are alike": {
        "created_from_ms": 411,
        "created_before_ms": 811,
        "statuses": [RunStatus.RUNNING, RunStatus.DEAD, RunStatus.ABORTED, RunStatus.PAUSED],
    },
    "a short time, of a workflow": {"created_from_ms": 412, "created_before_ms": 812, "workflow_ids": ["rare"]},
    "a short time, in a queue": {"created_from_ms": 1_500, "created_before_ms": 1_520, "queues": ["common"]},
}


def matches(run: RunSummary, filters: dict[str, Any]) -> bool:
    return (
        run.status in filters.get("statuses", [run.status])
        and run.workflow_id in filters.get("workflow_ids", [run.workflow_id])
        and run.queue in filters.get("queues", [run.queue])
        and run.run_id.startswith(filters.get("run_id_prefix", ""))
        and filters.get("created_from_ms", 0) <= run.created_at_ms < filters.get("created_before_ms", 2**53)
    )


async def listed(store: D1WorkflowStore, limit: int, **filters: Any) -> list[RunSummary]:
    runs: list[RunSummary] = []
    cursor: str | None = None
    while True:
        page = await store.list_runs(limit=limit, cursor=cursor, **filters)
        runs += page.runs
        if (cursor := page.next_cursor) is None:
            return runs


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("what", SHAPES)
async def test_pages_and_counts_are_those_of_the_full_listing(
    few: CountedDatabase, what: str, descending: bool
) -> None:
    store = D1WorkflowStore(few)
    everything = await listed(store, RUNS, descending=descending)
    assert len(everything) == RUNS
    expected = [run for run in everything if matches(run, SHAPES[what])]
    limit = 300 if len(expected) > 100 else 2
    assert await listed(store, limit, descending=descending, **SHAPES[what]) == expected
    counts = await store.count_runs(**SHAPES[what])
    assert counts == {status: count for status in RunStatus if (count := sum(run.status is status for run in expected))}


PAGE = 50
LOOKS_AT_OTHERS = {"a common prefix", "a prefix of nothing, with the last of all characters"}
"""Where more than 1,000 runs begin so, a page is found among all runs; what nothing follows has no end to look up."""


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("what", sorted(SHAPES.keys() - LOOKS_AT_OTHERS))
async def test_pages_cost_the_same_however_many_others_finished(
    few: CountedDatabase, crowded: CountedDatabase, what: str, descending: bool
) -> None:
    """The first page, and one in the middle."""
    for cursor in (None, encode_run_cursor(TIMES // 2, "run-")):
        costs = []
        for database in (few, crowded):
            database.count()
            page = {"limit": PAGE, "cursor": cursor, "descending": descending} | SHAPES[what]
            await D1WorkflowStore(database).list_runs(**page)
            costs.append(database.instructions)
        assert costs[1] <= 1.1 * costs[0] + 20 * PAGE, costs


COUNTED_ONE_BY_ONE = {
    *(
        "everything",
        "status finished",
        "finished and dead",
        "a common workflow",
        "a common and a rare workflow",
        "many workflows",
    ),
    *("the default queue", "queues, the default one too", "any prefix", *LOOKS_AT_OTHERS - {"a common prefix"}),
}
"""Their counts have more to count."""


@pytest.mark.parametrize("what", sorted(SHAPES.keys() - COUNTED_ONE_BY_ONE))
async def test_counts_cost_the_same_however_many_others_finished(
    few: CountedDatabase, crowded: CountedDatabase, what: str
) -> None:
    costs = []
    for database in (few, crowded):
        database.count()
        await D1WorkflowStore(database).count_runs(**SHAPES[what])
        costs.append(database.instructions)
    assert costs[1] <= 1.1 * costs[0] + 100, costs


@pytest.mark.parametrize(
    ("filters", "statements"),
    [
        ({}, 1),
        ({"statuses": []}, 0),
        ({"statuses": [RunStatus.PAUSED, RunStatus.DEAD, RunStatus.PAUSED]}, 2),
        ({"workflow_ids": [f"workflow-{number}" for number in range(10)]}, 10),
        ({"workflow_ids": [f"workflow-{number}" for number in range(11)]}, 1),
        ({"queues": [f"queue-{number}" for number in range(11)]}, 1),
        ({"run_id_prefix": "run-0012"}, 2),
    ],
)
async def test_a_page_takes_few_statements(few: CountedDatabase, filters: dict[str, Any], statements: int) -> None:
    """One for each index that it walks, and one by which it finds out whether a prefix is rare."""
    few.count()
    await D1WorkflowStore(few).list_runs(limit=5, **filters)
    assert few.statements == statements
