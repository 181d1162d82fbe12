"""`python verb_costs.py`: the statements and the rows, which D1 bills, of each verb, with few and many other runs.

The figures are D1's own (`meta`), as workerd counts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from d1_verbs import BATCH, BY_THE_DRIVER, ONE, ONE_TRIP, CountingDatabase, prepare
from workflow_runtime.errors import LeaseLostError
from workflow_runtime.store import NewEvent
from workflow_store_d1 import D1WorkflowStore
from workflow_test_support.servers.d1_server import d1_server
from workflow_test_support.servers.worker_database import WorkerD1Database, open_empty

__all__ = ["FEW", "MANY", "VerbCost", "verb_costs"]

FEW, MANY = 200, 2_000
"""How many other runs there are."""

_LATER = 10_000_000

_CROWD = (
    """
    INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
    SELECT 'other-' || n, iif(n % 2, 'w', 'w' || n % 8), '1', 'default', 0, n FROM crowd
    """,
    "INSERT INTO workflow_run_states (run_id, input) SELECT 'other-' || n, '1' FROM crowd",
    f"""
    INSERT INTO workflow_event_locks (
        run_id, workflow_id, workflow_version, queue, priority, created_at, updated_at, status, due_at, finished_at,
        lease_number, operation_id, operation_answer, next_index, inbox_seq, cancel_requested, crashes, awaiting
    )
    SELECT
        'other-' || n, iif(n % 2, 'w', 'w' || n % 8), '1', 'default', 0, n, n,
        CASE n % 3 WHEN 0 THEN 'queued' WHEN 1 THEN 'paused' ELSE 'finished' END,
        CASE WHEN n % 3 < 2 THEN {_LATER} + n END, CASE n % 3 WHEN 2 THEN {_LATER} + n END,
        1, 'o', '{{}}', 3, 2, 0, 0, '[["signal", "go", "wait", null]]'
    FROM crowd
    """,
    """
    INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
    SELECT 'other-' || n, place.value, 'step-completed', 'step', n, 1, '1' FROM crowd, json_each('[0, 1, 2]') AS place
    """,
    f"INSERT INTO workflow_timers SELECT 'other-' || n, 'timer', {_LATER} + n FROM crowd WHERE n % 3 = 1",
    """
    INSERT INTO workflow_signal_deliveries (
        run_id, inbox_seq, kind, name, delivery_id, received_at, taken, payload_bytes, payload
    )
    SELECT 'other-' || n, place.value, 'signal', 'go', place.value, n, place.value = 1, 1, '1'
    FROM crowd, json_each('[1, 2]') AS place
    """,
    f"""
    INSERT INTO workflow_schedules (
        schedule_id, workflow_id, workflow_version, overlap_policy, queue, priority, enabled, next_fire_at,
        last_fire_at, lease_number, revision, created_at, updated_at, spec, input
    )
    SELECT 'other-' || n, 'w', '1', 'skip', 'default', 0, n % 20 = 0, {_LATER} + n, 1, 1, 1, 1, 1, '1', '1'
    FROM crowd WHERE n % 10 = 0
    """,
)
_TABLES = {
    "workflow_runs": "run_id",
    "workflow_run_states": "run_id",
    "workflow_event_locks": "run_id",
    "workflow_events": "run_id",
    "workflow_timers": "run_id",
    "workflow_signal_deliveries": "run_id",
    "workflow_schedules": "schedule_id",
    "workflow_schedule_buckets": "schedule_id",
}


_OTHERS = (
    "heartbeat",
    "heartbeat of many",
    "retry",
    "list by prefix",
    "start a tick",
    "repeat an append",
    "refuse an append",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerbCost:
    """What one call of a verb cost."""

    statements: int
    rows_read: int
    rows_written: int


async def verb_costs(database: WorkerD1Database, others: int) -> dict[str, VerbCost]:
    """Make each call among so many other runs and give what it cost.

    Args:
        database: One without tables.
        others: How many other runs there are.
    """
    counting = CountingDatabase(database)
    store = D1WorkflowStore(counting)
    await store.ensure_schema()
    await database.batch([_crowd(database, sql, others) for sql in _CROWD])
    costs = {}
    for work in [*ONE_TRIP, *BY_THE_DRIVER, *_OTHERS]:
        await database.batch([database.prepare(_own(table, key)) for table, key in _TABLES.items()])
        async with _scene(store, counting, work) as (verb, values):
            with suppress(LeaseLostError):  # one of them is to be refused
                await getattr(store, verb)(**values)
        costs[work] = VerbCost(
            statements=counting.statements, rows_read=counting.rows_read, rows_written=counting.rows_written
        )
    return costs


def _crowd(database: WorkerD1Database, sql: str, others: int) -> Any:
    numbers = "WITH RECURSIVE crowd (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM crowd WHERE n < CAST(?1 AS INTEGER))"
    return database.prepare(numbers + sql).bind(others)


def _own(table: str, key: str) -> str:
    return f"DELETE FROM {table} WHERE {key} NOT GLOB 'other-*'"


@asynccontextmanager
async def _scene(
    store: D1WorkflowStore, counting: CountingDatabase, work: str
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Set the scene for a call, and count from there."""
    token = await prepare(store, counting)
    held: dict[str, Any] = {"run_id": "running", "lease_token": token}
    if work in ONE_TRIP:
        call = ONE_TRIP[work]
    elif work in BY_THE_DRIVER:
        verb, values = BY_THE_DRIVER[work]
        call = (verb, held | {"operation_id": "o"} | values)
    elif work == "heartbeat":
        call = ("heartbeat_run_lease", held | {"lease_ms": 10, "now_ms": 5})
    elif work == "heartbeat of many":
        leases = [("running", held["lease_token"]), ("other", "t")]
        call = ("heartbeat_run_leases", {"leases": leases, "lease_ms": 10, "now_ms": 5})
    elif work == "retry":
        verb, values = BY_THE_DRIVER["fail"]
        await getattr(store, verb)(**held, operation_id="o", **values)
        call = ("retry_run", {"run_id": "running", "event": NewEvent(kind="retried", payload=ONE), "now_ms": 6})
    elif work == "list by prefix":
        call = ("list_runs", {"limit": 10, "run_id_prefix": "other-19"})
    elif work == "start a tick":
        call = await _claimed_tick(store)
    else:
        verb, values = BY_THE_DRIVER["append one"]
        call = (verb, held | {"operation_id": "o"} | values)
        await getattr(store, verb)(**call[1])
        if work == "refuse an append":
            call = (verb, call[1] | {"operation_id": "another", "lease_token": "stale", "taken_inbox": [1]})
    counting.reset()
    yield call


async def _claimed_tick(store: D1WorkflowStore) -> tuple[str, dict[str, Any]]:
    await store.upsert_schedule(**ONE_TRIP["upsert schedule"][1])
    [tick] = (await store.claim_due_schedule_buckets(**BATCH)).buckets
    settled = {"fire_at_ms": tick.fire_at_ms, "lease_token": tick.lease.token, "expected_revision": 1}
    started = {"schedule_id": "s", "operation_id": "o", "action": "start", "run_id": "ticked", "now_ms": 100}
    return "mark_schedule_bucket_started", settled | started


async def main() -> None:
    with d1_server() as d1:
        async with open_empty(d1.url) as database:
            few = await verb_costs(database, FEW)
            await database.empty()
            many = await verb_costs(database, MANY)
    print(f"| work | statements | rows read among {FEW} runs | among {MANY} | rows written |")
    print("|---|---|---|---|---|")
    for work, cost in many.items():
        print(f"| {work} | {cost.statements} | {few[work].rows_read} | {cost.rows_read} | {cost.rows_written} |")


if __name__ == "__main__":
    asyncio.run(main())
