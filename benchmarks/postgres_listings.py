"""Listings and counts among many runs on a real PostgreSQL: the first call, the hundredth, and the plan of the latter.

    python benchmarks/postgres_listings.py [--runs N] [--tenants N] [--plans] [--check]

All calls go over one connection: after five calls of a statement the server keeps one plan for all values. With
`--check` it exits with 1 when the hundredth call of a page takes more than 5 times as long as reading as many runs by
their ids; 12 times by a prefix, which is planned anew at each call, and reads all runs that have it where they are few.
With a queue for each of some tenants a page of what is common looks at the first run of each queue: 50 times as long.
Ten million runs take 10 GB and some minutes to write.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from workflow_runtime.store import RunStatus
from workflow_store_postgres import PostgresWorkflowStore, get_migration_sql
from workflow_test_support.servers.postgres_server import postgres_dsn

PAGE = 50
CALLS = 100
LATE = 20
"""So many of the last calls give the median that stands for the hundredth."""
BUDGET = 5.0
"""The most that a page takes, in reads of as many runs by their ids: a machine may be slow."""
BUDGET_BY_PREFIX = 12.0
BUDGET_OF_LANES = 50.0
"""The same for what waits in the queues of many tenants."""

# Nearly all have finished. The other statuses, one workflow and one queue are rare.
FILL = """
INSERT INTO workflow_event_locks (
    run_id, status, workflow_id, workflow_version, queue, priority, due_at, lease_number, next_index, inbox_seq,
    cancel_requested, crashes, awaiting, operation_id, operation_answer, created_at, updated_at, finished_at
)
SELECT
    'run-' || lpad(n::text, 8, '0'),
    CASE
        WHEN n % 20000 = 7 THEN 'dead' WHEN n % 5000 = 3 THEN 'running' WHEN n % 1000 = 1 THEN 'errored'
        WHEN n % 1000 = 2 THEN 'aborted' WHEN n % 50 = 4 THEN 'queued' WHEN n % 50 = 5 THEN 'paused' ELSE 'finished'
    END,
    CASE WHEN n % 10000 = 11 THEN 'rare' ELSE 'workflow-' || n % 8 END, '1',
    CASE
        WHEN n % 10000 = 17 THEN 'gpu' WHEN $TENANTS > 0 THEN 'tenant-' || (n / 8) % greatest($TENANTS, 1)
        ELSE 'default'
    END, 0, n, 1, 3, 1, false, 0, '[]', 'o', '{}', n, n,
    CASE WHEN n % 50 NOT IN (4, 5) AND n % 5000 <> 3 THEN n END
FROM generate_series(1, $RUNS) AS n;
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT run_id, workflow_id, workflow_version, queue, priority, created_at FROM workflow_event_locks;
INSERT INTO workflow_run_states (run_id, input) SELECT run_id, '{"order":1}' FROM workflow_event_locks;
"""
BY_IDS = """
SELECT head.*, run.* FROM workflow_event_locks AS head JOIN workflow_runs AS run USING (run_id)
WHERE head.run_id = ANY($1::text[])
"""


def filters(runs: int) -> dict[str, dict[str, Any]]:
    """Return the filters by name."""
    middle = {"created_from_ms": runs // 2, "created_before_ms": runs // 2 + 1_000}
    return {
        "everything": {},
        **{f"status {status}": {"statuses": [status]} for status in RunStatus},
        "three statuses": {"statuses": [RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.PAUSED]},
        "a common workflow": {"workflow_ids": ["workflow-1"]},
        "a rare workflow": {"workflow_ids": ["rare"]},
        "errored, of a workflow": {"statuses": [RunStatus.ERRORED], "workflow_ids": ["workflow-1"]},
        "paused, of a workflow": {"statuses": [RunStatus.PAUSED], "workflow_ids": ["workflow-1"]},
        "what has not finished": {"statuses": [one for one in RunStatus if one is not RunStatus.FINISHED]},
        "finished and dead": {"statuses": [RunStatus.FINISHED, RunStatus.DEAD]},
        "a rare queue": {"queues": ["gpu"]},
        "a queue of a tenant": {"queues": ["tenant-7"]},
        "queued, of a tenant": {"queues": ["tenant-7"], "statuses": [RunStatus.QUEUED]},
        "finished, rare, in gpu": {"statuses": [RunStatus.FINISHED], "workflow_ids": ["rare"], "queues": ["gpu"]},
        "a short time": middle,
        "a short time, finished": {**middle, "statuses": [RunStatus.FINISHED]},
        "a rare prefix": {"run_id_prefix": "run-00001"},
        "a common prefix": {"run_id_prefix": "run-"},
        "a common prefix, dead": {"run_id_prefix": "run-", "statuses": [RunStatus.DEAD]},
    }


async def measure(call: Callable[[], Awaitable[object]], calls: int) -> tuple[float, float]:
    """Return how long the first call took, and the median of the last ones, in milliseconds."""
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        await call()
        times.append((time.perf_counter() - started) * 1e3)
    return times[0], statistics.median(times[-LATE:])


def budget(wanted: dict[str, Any], tenants: int) -> float:
    """Return how many times a page may take what reading as many runs by their ids takes."""
    waits = {RunStatus.QUEUED, RunStatus.PAUSED}.intersection(wanted.get("statuses", ()))
    if tenants and waits and "queues" not in wanted:
        return BUDGET_OF_LANES
    return BUDGET_BY_PREFIX if "run_id_prefix" in wanted else BUDGET


async def compare(store: PostgresWorkflowStore, connection: asyncpg.Connection, runs: int, tenants: int) -> bool:
    """Print a line for each question. Return True if all pages are within their budgets."""
    ids = [f"run-{number:08}" for number in range(1, runs, runs // PAGE)]
    _, empty_ms = await measure(store.read_clock, CALLS)
    _, by_ids_ms = await measure(lambda: connection.fetch(BY_IDS, ids), CALLS)
    print(f"{runs:,} runs; an empty question takes {empty_ms:.2f} ms, {PAGE} runs by their ids {by_ids_ms:.2f} ms\n")
    print(f"{'':<24}{'page, first':>12}{'100th':>9}{'newest, 100th':>15}{'runs':>9}{'count, first':>14}{'100th':>9}")
    kept = True
    for what, wanted in filters(runs).items():
        first, last = await measure(lambda w=wanted: store.list_runs(limit=PAGE, **w), CALLS)  # type: ignore[misc]
        _, newest = await measure(lambda w=wanted: store.list_runs(limit=PAGE, descending=True, **w), CALLS)  # type: ignore[misc]
        found = sum((await store.count_runs(**wanted)).values())
        count_first, count = await measure(lambda w=wanted: store.count_runs(**w), CALLS if found < 30_000 else LATE)  # type: ignore[misc]
        print(f"{what:<24}{first:12.2f}{last:9.2f}{newest:15.2f}{found:9,}{count_first:14.2f}{count:9.2f}", flush=True)
        budget_ms = by_ids_ms * budget(wanted, tenants)
        if max(last, newest) > budget_ms:
            print(f"{'':<24}above its budget of {budget_ms:.2f} ms")
            kept = False
    return kept


async def print_plans(connection: asyncpg.Connection, store: PostgresWorkflowStore) -> None:
    """Print the plans that hold for all values."""
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    page = "0, '', 9007199254740992, 51"
    for name, values in {
        "list_runs": page,
        "list_nearby_runs": f"ARRAY['finished'], NULL, NULL, {page}",
        "list_runs_in_lanes": f"ARRAY['errored'], ARRAY['workflow-1'], NULL, {page}",
        "count_runs": "ARRAY['running'], NULL, NULL, 0, 9007199254740992",
    }.items():
        await connection.execute(f"PREPARE {name} AS {store._sender.sql(name)}")  # noqa: SLF001  # its very text
        print(f"\n{name}")
        explain = "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF)"
        for row in await connection.fetch(f"{explain} EXECUTE {name}({values})"):
            print(f"  {row[0]}")


async def main() -> int:
    """Fill a database, ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, default=0, help="how many tenants have a queue of their own")
    parser.add_argument("--plans", action="store_true", help="print the plans that hold for all values")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a page is above its budget")
    options = parser.parse_args()
    with postgres_dsn() as dsn:
        connection = await asyncpg.connect(dsn)
        await connection.execute(get_migration_sql(transaction=False))
        await connection.execute(FILL.replace("$RUNS", str(options.runs)).replace("$TENANTS", str(options.tenants)))
        await connection.execute("VACUUM ANALYZE")
        async with PostgresWorkflowStore.connect(dsn, min_size=1, max_size=1, listen=False) as store:
            kept = await compare(store, connection, options.runs, options.tenants)
            if options.plans:
                await print_plans(connection, store)
        await connection.close()
    return 0 if kept or not options.check else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
