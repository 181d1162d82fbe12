"""Listings and counts among many runs in a SQLite file, beside those among a few, as ratios in one run.

    python benchmarks/sqlite_listings.py [--runs N] [--check]

There are as many rare ones in both files. With `--check` it exits with 1 when a page takes more than three times as
long among many. What is walked is not held to that: docs/operations.md says which filters are.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from workflow_migrations import split_statements
from workflow_runtime.store import RunStatus
from workflow_store_d1 import D1WorkflowStore, SQLiteWorkflowStore, get_migration_sql

FEW = 20_000
PAGE = 50
CALLS = 40
COUNTS = 3
BUDGET = 3.0
"""How many times a page may take what it takes among a few: the trees are higher, and further from the processor."""

# Nearly all have finished. As many of the rare ones in both files.
FILL = """
WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < :runs - 1),
placed AS (SELECT n, n / (:runs / 2000) AS place, n % (:runs / 2000) AS within FROM number)
INSERT INTO workflow_event_locks (
    run_id, status, workflow_id, workflow_version, queue, priority, lease_token, lease_number, next_index, inbox_seq,
    cancel_requested, crashes, awaiting, operation_id, operation_answer, created_at, updated_at, finished_at
)
SELECT
    printf('%s-%08d', iif(within = 5 AND place % 10 = 0, 'odd', 'run'), n),
    CASE
        WHEN within > 3 THEN 'finished' WHEN within = 1 THEN 'queued' WHEN within = 2 THEN 'paused'
        WHEN within = 3 THEN iif(place % 100 = 0, 'dead', 'errored') ELSE iif(place % 50 = 0, 'running', 'finished')
    END,
    iif(within = 6 AND place % 10 = 0, 'rare', 'workflow-' || (n % 8)), '1',
    iif(within = 7 AND place % 10 = 0, 'gpu', 'default'), 0, iif(within = 0 AND place % 50 = 0, 't' || n, NULL),
    1, 3, 1, 0, 0, '[]', 'o', '{}', n + 1, n + 1, iif(within = 3 OR within > 3, n + 1, NULL)
FROM placed
"""
RUNS = """
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT run_id, workflow_id, workflow_version, queue, priority, created_at FROM workflow_event_locks ORDER BY run_id
"""

FILTERS: dict[str, dict[str, Any]] = {
    "everything": {},
    **{f"status {status}": {"statuses": [status]} for status in RunStatus if status is not RunStatus.ABORTED},
    "what has not finished": {"statuses": [one for one in RunStatus if one is not RunStatus.FINISHED]},
    "a common workflow": {"workflow_ids": ["workflow-1"]},
    "a rare workflow": {"workflow_ids": ["rare"]},
    "both": {"workflow_ids": ["workflow-1", "rare"]},
    "paused, of a workflow": {"statuses": [RunStatus.PAUSED], "workflow_ids": ["workflow-1"]},
    "a queue": {"queues": ["gpu"]},
    "a rare prefix": {"run_id_prefix": "odd-"},
    "a common prefix": {"run_id_prefix": "run-"},
    "a common prefix, dead": {"run_id_prefix": "run-", "statuses": [RunStatus.DEAD]},
}

WALKED = {"paused, of a workflow"}
"""It reads all paused runs, which lie far apart where there are many others."""


def fill(path: Path, runs: int) -> None:
    """Write the tables and so many runs."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for statement in split_statements(get_migration_sql()):
            connection.execute(statement)
        connection.execute(FILL, {"runs": runs})
        connection.execute(RUNS)
        connection.execute("COMMIT")


async def quickest_ms(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """Return the quickest of some calls, in milliseconds: what else the machine does only slows them."""
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        await call()
        times.append((time.perf_counter() - started) * 1e3)
    return min(times)


async def compare(few: D1WorkflowStore, many: D1WorkflowStore) -> bool:
    """Print a line for each question. Return True if all pages are within their budgets."""
    print(f"{'':<24}{'page, few':>10}{'many':>8}{'newest, few':>13}{'many':>8}{'runs':>11}{'count, many':>13}")
    kept = True
    for what, wanted in FILTERS.items():
        pages = [
            await quickest_ms(lambda s=store, d=descending, w=wanted: s.list_runs(limit=PAGE, descending=d, **w), CALLS)  # type: ignore[misc]
            for descending in (False, True)
            for store in (few, many)
        ]
        found = sum((await many.count_runs(**wanted)).values())
        count = await quickest_ms(lambda w=wanted: many.count_runs(**w), COUNTS)  # type: ignore[misc]
        print(
            f"{what:<24}{pages[0]:10.2f}{pages[1]:8.2f}{pages[2]:13.2f}{pages[3]:8.2f}{found:11,}{count:13.2f}",
            flush=True,
        )
        if what not in WALKED and max(pages[1] / pages[0], pages[3] / pages[2]) > BUDGET:
            print(f"{'':<24}above its budget of {BUDGET:.1f} times")
            kept = False
    return kept


async def main() -> int:
    """Fill two files, ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a page is above its budget")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("few.db", "many.db")]
        for path, runs in zip(paths, (FEW, options.runs), strict=True):
            fill(path, runs)
        async with SQLiteWorkflowStore.open(paths[0]) as few, SQLiteWorkflowStore.open(paths[1]) as many:
            kept = await compare(few, many)
    return 0 if kept or not options.check else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
