"""The cost of a verb in a large database against a small one, on a real PostgreSQL, as ratios of medians in one run.

    python benchmarks/postgres_scale.py [--large N] [--check]

Both databases live on one server, and the calls take turns, so that whatever else the machine does hurts both alike.
With `--check` it exits with 1 when a ratio is above its budget.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import asyncpg
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent, WorkflowVersion
from workflow_store_postgres import PostgresWorkflowStore, get_migration_sql
from workflow_test_support.servers.postgres_server import postgres_dsn

SMALL = 1_000
CALLS = 400
WARM_UP = 20
CLAIMED = 5
PAGE = 50
NOW_MS = 1_000_000
LATER_MS = 10 * NOW_MS
LEASE_MS = 60_000
ONE = JsonText('{"text":"%s"}' % ("x" * 290))
WORKFLOWS = [WorkflowVersion(workflow_id="ship", version="1")]

# Half paused with a timer, half queued. So many are due that every call finds some, the rest is for later.
FILL = """
INSERT INTO workflow_event_locks (
    run_id, status, workflow_id, workflow_version, queue, priority, due_at, lease_number, next_index, inbox_seq,
    cancel_requested, crashes, awaiting, operation_id, operation_answer, created_at, updated_at
)
SELECT
    'run-' || lpad(n::text, 8, '0'), CASE WHEN n % 2 = 0 THEN 'paused' ELSE 'queued' END, 'ship', '1', 'default', 0,
    CASE WHEN n <= {due} THEN n ELSE {later} + n END, 1, 1, 0, false, 0, '[]', 'o', '{{}}', n, n
FROM generate_series(1, {count}) AS n;
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT run_id, workflow_id, workflow_version, queue, priority, created_at FROM workflow_event_locks;
INSERT INTO workflow_run_states (run_id, input) SELECT run_id, '{{"order":1}}' FROM workflow_event_locks;
INSERT INTO workflow_events (run_id, event_index, kind, created_at, payload_bytes, payload)
SELECT run_id, 0, 'wait-started', 1, 2, '{{}}' FROM workflow_event_locks;
INSERT INTO workflow_timers (run_id, timer_id, fire_at)
SELECT run_id, 't', due_at FROM workflow_event_locks WHERE status = 'paused';
"""
DUE = SMALL // 2
# As if the claims had not been: what they took is due again.
TAKE_BACK = """
UPDATE workflow_event_locks
SET status = CASE WHEN right(run_id, 1)::integer % 2 = 0 THEN 'paused' ELSE 'queued' END,
    lease_owner = NULL, lease_token = NULL, lease_expires_at = NULL
WHERE status = 'running'
"""

Call = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Comparison:
    """Calls that take turns, and how long each took."""

    what: str
    budget: float
    calls: dict[str, Call]
    after: Call | None = None
    times: dict[str, list[float]] = field(default_factory=dict)

    async def measure(self) -> bool:
        """Make the calls, print the ratio, and tell whether it is within the budget."""
        for turn in range(WARM_UP + CALLS):
            for name, call in self.calls.items():
                started = time.perf_counter()
                await call()
                if turn >= WARM_UP:
                    self.times.setdefault(name, []).append(time.perf_counter() - started)
            if self.after is not None:
                await self.after()
        return self._report()

    def _report(self) -> bool:
        medians = {name: statistics.median(times) for name, times in self.times.items()}
        first, *_ = medians.values()
        *_, last = medians.values()
        kept = last <= self.budget * first
        figures = "  ".join(f"{name} {median * 1e3:.2f} ms" for name, median in medians.items())
        print(f"{self.what:<22} {last / first:5.2f} x of at most {self.budget:.1f} x   {figures}", flush=True)
        return kept


async def make(server: str, name: str, count: int) -> str:
    connection = await asyncpg.connect(server)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    dsn = server.rsplit("/", 1)[0] + f"/{name}"
    connection = await asyncpg.connect(dsn)
    await connection.execute(get_migration_sql(transaction=False))
    await connection.execute(FILL.format(count=count, due=DUE, later=LATER_MS))
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    return dsn


def claims(what: str, verb: str, databases: dict[str, tuple[PostgresWorkflowStore, asyncpg.Connection]]) -> Comparison:
    def call(store: PostgresWorkflowStore) -> Call:
        async def claim() -> None:
            batch = await getattr(store, verb)(
                owner="w", lease_ms=LEASE_MS, now_ms=NOW_MS, limit=CLAIMED, workflows=WORKFLOWS
            )
            assert len(batch.claims) == CLAIMED

        return claim

    async def take_back() -> None:
        for _, connection in databases.values():
            await connection.execute(TAKE_BACK)

    calls = {name: call(store) for name, (store, _) in databases.items()}
    return Comparison(what, budget=1.5, calls=calls, after=take_back)


async def pages(store: PostgresWorkflowStore) -> Comparison:
    cursor = None
    last = 1_000
    for _ in range(last - 1):
        cursor = (await store.list_runs(limit=PAGE, cursor=cursor)).next_cursor

    def call(at: str | None) -> Call:
        async def list_page() -> None:
            assert len((await store.list_runs(limit=PAGE, cursor=at)).runs) == PAGE

        return list_page

    return Comparison("list_runs", budget=1.2, calls={"page 1": call(None), f"page {last:,}": call(cursor)})


async def appends(store: PostgresWorkflowStore) -> Comparison:
    async def call(length: int) -> Call:
        run_id = f"log-{length}"
        created = await store.create_run(
            run_id=run_id, workflow_id="other", workflow_version="1", input=ONE, operation_id="o", now_ms=NOW_MS,
            owner="w", lease_ms=LEASE_MS,
        )  # fmt: skip
        assert created.kind == "created"
        assert created.claim is not None
        token, next_index = created.claim.lease.token, itertools.count()

        async def append() -> None:
            index = next(next_index)
            await store.append_events(
                run_id=run_id, lease_token=token, operation_id=f"o{index}", expected_next_index=index,
                events=[NewEvent(kind="step-completed", step_id=f"s{index}", payload=ONE)],
                now_ms=NOW_MS + index, lease_ms=LEASE_MS,
            )  # fmt: skip

        for _ in range(length):
            await append()
        return append

    lengths = (10, 1_000, 10_000)
    return Comparison("append_events", budget=1.2, calls={f"at {length:,}": await call(length) for length in lengths})


async def main(large: int) -> bool:
    with postgres_dsn() as server:
        async with AsyncExitStack() as stack:
            databases = {}
            for name, count in ((f"{SMALL:,}", SMALL), (f"{large:,}", large)):
                dsn = await make(server, f"scale_{count}", count)
                connection = await asyncpg.connect(dsn)
                stack.push_async_callback(connection.close)
                store = await stack.enter_async_context(PostgresWorkflowStore.connect(dsn, max_size=1))
                databases[name] = (store, connection)
            store, _ = databases[f"{large:,}"]
            kept = [
                await claims("claim_due_timers", "claim_due_timers", databases).measure(),
                await claims("claim_pending_runs", "claim_pending_runs", databases).measure(),
                await (await pages(store)).measure(),
                await (await appends(store)).measure(),
            ]
            return all(kept)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--large", type=int, default=1_000_000, help="runs in the large database")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a budget is exceeded")
    options = parser.parse_args()
    kept = asyncio.run(main(options.large))
    raise SystemExit(0 if kept or not options.check else 1)
