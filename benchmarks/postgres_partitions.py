"""The log in partitions beside the log in one table, with ten million events, as ratios of medians in one run.

    python benchmarks/postgres_partitions.py [--events N] [--partitions 1 16 64] [--pruned N]

Each kind of log has a schema of its own on one server, with the same rows, and calls take turns. The first divided log
is made of a plain one by the script for operators, which is timed; the others are filled. The data are in the folder
for temporary files: ten million events take two gigabytes for each kind, so set TMPDIR to a disk.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent, RunStatus, WorkflowVersion
from workflow_store_postgres import PostgresWorkflowStore, get_migration_sql, get_partition_sql
from workflow_store_sql import load_statements
from workflow_test_support.servers.postgres_server import LocalServer

EVENTS_A_RUN = 20
BATCH = 500
ROUNDS, CALLS = 20, 25
TOGETHER = 64
NOW_MS = 1_000_000
LATER_MS = 10**12
LEASE_MS = 60_000
DUE = 2_000
ONE = JsonText('{"text":"%s"}' % ("x" * 60))
WORKFLOWS = [WorkflowVersion(workflow_id="ship", version="1")]
SETTINGS = ("shared_buffers=512MB", "maintenance_work_mem=256MB", "max_wal_size=8GB", "autovacuum=off", "jit=off")

# Run ids are as random as those that a runtime makes. The first of them are queued and due, the others have ended.
FILL_HEADS = """
INSERT INTO workflow_event_locks (
    run_id, status, workflow_id, workflow_version, queue, priority, due_at, lease_number, next_index, inbox_seq,
    cancel_requested, crashes, awaiting, operation_id, operation_answer, created_at, updated_at, finished_at
)
SELECT
    md5(n::text), CASE WHEN n <= {due} THEN 'queued' ELSE 'finished' END, 'ship', '1', 'default', 0,
    CASE WHEN n <= {due} THEN n END, 1, {events}, 0, false, 0, '[]', 'o', '{{}}', n, n,
    CASE WHEN n > {due} THEN n END
FROM generate_series(1, {runs}) AS n;
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT run_id, workflow_id, workflow_version, queue, priority, created_at FROM workflow_event_locks;
INSERT INTO workflow_run_states (run_id, input) SELECT run_id, '{{"order":1}}' FROM workflow_event_locks;
"""
# As written by runs of which so many were under way at once.
FILL_EVENTS = """
INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
SELECT md5(n::text), i, 'step-completed', 'step-' || i, n, 71, ('{{"text":"' || repeat('x', 60) || '"}}')::json
FROM generate_series({first}, {last}) AS n CROSS JOIN generate_series(0, {events} - 1) AS i
ORDER BY n / {together}, i, n
"""
TAKE_BACK = """
UPDATE workflow_event_locks SET status = 'queued', lease_owner = NULL, lease_token = NULL, lease_expires_at = NULL
WHERE status = 'running' AND lease_owner = 'claimer'
"""
LEAVES = """
SELECT
    relation.oid::regclass::text AS name,
    pg_table_size(relation.oid) AS rows,
    pg_indexes_size(relation.oid) AS indexes
FROM pg_class AS relation LEFT JOIN pg_inherits AS part ON part.inhrelid = relation.oid
WHERE 'workflow_events'::regclass IN (relation.oid, part.inhparent) AND relation.relkind = 'r'
"""
PLANNED = {
    "append_plain": ("r", "t", 0, "o", ["k"], [None], ["1"], 9, 5),
    "claim_pending_runs": (
        "w", "t", 9, NOW_MS, 1000, 10**6, 1000, 10**6, 10, ["ship"], ["1"], ["default"],
    ),
    "read_events": ("r", 0, 100, 1_000_000),
    "prune_runs": (4_000, ["finished"], None, BATCH),
}  # fmt: skip

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Log:
    """One kind of log."""

    partitions: int
    schema: str
    store: PostgresWorkflowStore
    alone: PostgresWorkflowStore
    """The same, without sharing statements."""
    connection: asyncpg.Connection

    @property
    def name(self) -> str:
        return "one table" if self.partitions == 1 else f"{self.partitions} partitions"


async def open_log(stack: AsyncExitStack, dsn: str, partitions: int) -> Log:
    schema = f"in_{partitions}"
    connection = await asyncpg.connect(dsn, server_settings={"search_path": schema})
    stack.push_async_callback(connection.close)
    await connection.execute(f"CREATE SCHEMA {schema}")
    await connection.execute(get_migration_sql(transaction=False))
    connect = PostgresWorkflowStore.connect
    store = await stack.enter_async_context(connect(dsn, schema=schema, listen=False, max_size=4))
    alone = await stack.enter_async_context(connect(dsn, schema=schema, listen=False, max_size=1, combine=False))
    return Log(partitions, schema, store, alone, connection)


async def fill(logs: Sequence[Log], runs: int) -> None:
    """Fill all logs alike, in turns; the first divided one is divided when it is full."""
    converted = next((log for log in logs if log.partitions > 1), None)
    for log in logs:
        await log.connection.execute(FILL_HEADS.format(runs=runs, events=EVENTS_A_RUN, due=DUE))
        if log.partitions > 1 and log is not converted:
            await log.connection.execute(get_partition_sql(log.partitions, log.schema))
    for first in range(1, runs + 1, 50_000):
        for log in logs:
            last = min(first + 49_999, runs)
            given = {"first": first, "last": last, "events": EVENTS_A_RUN, "together": TOGETHER}
            await log.connection.execute(FILL_EVENTS.format(**given))
    if converted is not None:
        began = time.perf_counter()
        await converted.connection.execute(get_partition_sql(converted.partitions, converted.schema))
        took = time.perf_counter() - began
        millions = runs * EVENTS_A_RUN / 1e6
        print(f"dividing one table into {converted.partitions}: {took:.0f} s, {took / millions:.1f} s a million events")
    for log in logs:
        await log.connection.execute("VACUUM ANALYZE")
    await logs[0].connection.execute("CHECKPOINT")


async def take_turns(what: str, calls: Mapping[str, Call], *, rounds: int = ROUNDS, after: Call | None = None) -> None:
    """Make the calls of each log in turn, and print medians beside the first log's."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            for number in range(CALLS):
                began = time.perf_counter()
                await call()
                if turn and (number or not after):
                    times[name].append(time.perf_counter() - began)
        if after is not None:
            await after()
    report(what, {name: statistics.median(of_one) for name, of_one in times.items()})


def report(what: str, medians: Mapping[str, float], unit: str = "ms", factor: float = 1e3) -> None:
    base = next(iter(medians.values()))
    shown = "  ".join(f"{name} {value * factor:.3g} {unit} ({value / base:.2f})" for name, value in medians.items())
    print(f"{what:<28} {shown}", flush=True)


async def start(store: PostgresWorkflowStore, run_id: str) -> str:
    created = await store.create_run(
        run_id=run_id, workflow_id="other", workflow_version="1", input=ONE, operation_id="o", now_ms=NOW_MS,
        owner="w", lease_ms=LEASE_MS,
    )  # fmt: skip
    assert created.kind == "created"
    assert created.claim is not None
    return created.claim.lease.token


async def appender(store: PostgresWorkflowStore, run_id: str) -> Call:
    token, indexes = await start(store, run_id), itertools.count()

    async def append() -> None:
        index = next(indexes)
        await store.append_events(
            run_id=run_id, lease_token=token, operation_id=f"o{index}", expected_next_index=index,
            events=[NewEvent(kind="step-completed", step_id=f"s{index}", payload=ONE)],
            now_ms=NOW_MS + index, lease_ms=LEASE_MS,
        )  # fmt: skip

    return append


async def together(store: PostgresWorkflowStore) -> Call:
    appends = [await appender(store, f"together-{number}") for number in range(TOGETHER)]

    async def append_all() -> None:
        await asyncio.gather(*(append() for append in appends))

    return append_all


def claimer(log: Log, limit: int) -> Call:
    async def claim() -> None:
        batch = await log.alone.claim_pending_runs(
            owner="claimer", lease_ms=LEASE_MS, now_ms=NOW_MS, limit=limit, workflows=WORKFLOWS
        )
        assert len(batch.claims) == limit
        assert all(len(one.history) == EVENTS_A_RUN for one in batch.claims)

    return claim


def reader(log: Log, ids: Sequence[str], verb: str, **given: Any) -> Call:
    following = itertools.cycle(ids)

    async def read() -> None:
        await getattr(log.alone, verb)(run_id=next(following), **given)

    return read


async def measure_calls(logs: Sequence[Log], ids: Sequence[str]) -> None:
    async def take_back() -> None:
        for log in logs:
            await log.connection.execute(TAKE_BACK)
            await log.connection.execute("VACUUM workflow_event_locks")

    await take_turns("append, alone", {log.name: await appender(log.alone, "alone") for log in logs})
    await take_turns(f"append, {TOGETHER} at once", {log.name: await together(log.store) for log in logs}, rounds=6)
    for limit in (1, 10):
        calls = {log.name: claimer(log, limit) for log in logs}
        await take_turns(f"claim {limit} with history", calls, rounds=8, after=take_back)
    calls = {log.name: reader(log, ids, "read_events", from_index=0, limit=100) for log in logs}
    await take_turns("read_events", calls)
    calls = {log.name: reader(log, ids, "load_execution") for log in logs}
    await take_turns("load_execution", calls)


async def measure_planning(logs: Sequence[Log]) -> None:
    for name, values in PLANNED.items():
        times: dict[str, list[float]] = {log.name: [] for log in logs}
        for _, log in itertools.product(range(15), logs):
            times[log.name].append(await planning_s(log, name, values))
        report(f"planning {name}", {of: statistics.median(some) for of, some in times.items()})


async def planning_s(log: Log, name: str, values: Sequence[Any]) -> float:
    """Return how long the server plans a statement for its values, the catalogue being known."""
    sql = load_statements("workflow_store_postgres")[name]
    await log.connection.execute("SET plan_cache_mode = force_custom_plan")
    await log.connection.execute(f"PREPARE planned AS {sql}")
    given = ", ".join(map(literal, values))
    rows = await log.connection.fetch(f"EXPLAIN (SUMMARY) EXECUTE planned({given})")
    await log.connection.execute("DEALLOCATE planned; RESET plan_cache_mode")
    [line] = [row[0] for row in rows if row[0].startswith("Planning Time")]
    return float(line.split()[2]) / 1e3


def literal(value: Any) -> str:
    if isinstance(value, list):
        return f"ARRAY[{', '.join(map(literal, value))}]::text[]"
    return "NULL" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


async def measure_pruning(logs: Sequence[Log], pruned: int) -> None:
    times: dict[str, float] = dict.fromkeys((log.name for log in logs), 0.0)
    for _ in range(pruned // BATCH):
        for log in logs:
            began = time.perf_counter()
            count = await log.store.prune_runs(finished_before_ms=LATER_MS, statuses=[RunStatus.FINISHED], limit=BATCH)
            times[log.name] += time.perf_counter() - began
            assert count == BATCH
    report(f"prune {pruned:,} runs", times, "s", 1)
    await logs[0].connection.execute("CHECKPOINT")
    whole: dict[str, float] = {}
    for log in logs:
        parts = [await vacuum_s(log, leaf["name"]) for leaf in await log.connection.fetch(LEAVES)]
        whole[log.name] = sum(parts)
        print(f"  vacuum of {log.name}: longest {max(parts):.2f} s, median {statistics.median(parts):.2f} s")
    report("vacuum of all, one by one", whole, "s", 1)


async def vacuum_s(log: Log, table: str) -> float:
    began = time.perf_counter()
    await log.connection.execute(f"VACUUM (PARALLEL 0) {table}")
    return time.perf_counter() - began


async def show_sizes(logs: Sequence[Log]) -> None:
    for log in logs:
        leaves = await log.connection.fetch(LEAVES)
        rows, indexes = (sum(leaf[name] for leaf in leaves) / 1e6 for name in ("rows", "indexes"))
        largest = max(leaf["indexes"] for leaf in leaves) / 1e6
        print(f"  {log.name}: rows {rows:.0f} MB, indexes {indexes:.0f} MB, the largest of them {largest:.0f} MB")


async def compare(dsn: str, events: int, kinds: Sequence[int], pruned: int) -> None:
    runs = events // EVENTS_A_RUN
    async with AsyncExitStack() as stack:
        logs = [await open_log(stack, dsn, partitions) for partitions in kinds]
        began = time.perf_counter()
        await fill(logs, runs)
        print(f"{events:,} events of {runs:,} runs in each, filled in {time.perf_counter() - began:.0f} s", flush=True)
        await show_sizes(logs)
        rows = await logs[0].connection.fetch(
            "SELECT run_id FROM workflow_event_locks TABLESAMPLE SYSTEM (1) LIMIT 5000"
        )
        await measure_planning(logs)
        await measure_calls(logs, [row[0] for row in rows])
        await measure_pruning(logs, min(pruned, runs - DUE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--pruned", type=int, default=100_000, help="runs that are pruned")
    given = parser.parse_args()
    with LocalServer(*SETTINGS) as server:
        asyncio.run(compare(server.dsn, given.events, given.partitions, given.pruned))


if __name__ == "__main__":
    main()
