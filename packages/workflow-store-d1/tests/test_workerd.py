"""The demands on real D1: a batch is all or none, and of many claimers one gets each item."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from d1_verbs import BY_THE_DRIVER, ONE, ONE_TRIP, CountingDatabase, run, start
from workflow_runtime.errors import (
    LeaseLostError,
    LogConflictError,
    SchemaDamagedError,
    SchemaHalfAppliedError,
)
from workflow_runtime.store import NewEvent, Timer, TransactionWrite
from workflow_store_d1 import D1DatabaseError, D1Transaction, D1WorkflowStore
from workflow_test_support.servers.d1_server import D1Server
from workflow_test_support.servers.worker_database import WorkerD1Database

CLAIMERS = 20
OF_EACH_KIND = 125
Claim = Callable[[D1WorkflowStore], Awaitable[list[str]]]


@pytest.fixture
async def store(worker_database: WorkerD1Database) -> D1WorkflowStore:
    store = D1WorkflowStore(worker_database)
    await store.ensure_schema()
    return store


async def everything(database: WorkerD1Database) -> dict[str, list[Any]]:
    """Read every row of every table."""
    names = await database.prepare(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB '_cf_*'"
    ).all()
    tables = [row["name"] for row in names.results]
    results = await database.batch([database.prepare(f"SELECT * FROM {table}") for table in tables])
    return {table: result.results for table, result in zip(tables, results, strict=True)}


@pytest.fixture
async def scene(store: D1WorkflowStore) -> str:
    """A running run with a timer, an inbox entry and two events; gives its token."""
    token = await start(store, "running")
    await store.deliver_signal(run_id="running", signal_id="s", name="go", payload=ONE, now_ms=2)
    await store.append_events(
        run_id="running",
        lease_token=token,
        operation_id="first",
        expected_next_index=0,
        events=[NewEvent(kind="step", payload=ONE)] * 2,
        set_timers=[Timer(timer_id="t", fire_at_ms=9), Timer(timer_id="r0", fire_at_ms=9)],
        now_ms=3,
        lease_ms=10,
    )
    return token


REFUSED = {"stale token": LeaseLostError, "wrong length": LogConflictError, "ended": LeaseLostError}
WITHOUT_LENGTH = {"release", "timer"}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("work", BY_THE_DRIVER)
async def test_refused_write_changes_no_row(
    store: D1WorkflowStore, worker_database: WorkerD1Database, scene: str, work: str, why: str
) -> None:
    if why == "wrong length" and work in WITHOUT_LENGTH:
        why = "stale token"
    verb, values = BY_THE_DRIVER[work]
    if why == "ended":
        await store.terminate_run(run_id="running", now_ms=4)
    if work not in WITHOUT_LENGTH:
        values = values | {"taken_inbox": [1], "expected_next_index": 1 if why == "wrong length" else 2}
    before = await everything(worker_database)
    token = "stale" if why == "stale token" else scene
    with pytest.raises(REFUSED[why]):
        await getattr(store, verb)(run_id="running", lease_token=token, operation_id="o", **values)
    assert await everything(worker_database) == before


@pytest.mark.parametrize("lost", ["before the work", "during the work", "never, but a statement fails"])
async def test_refused_transaction_changes_no_row(
    store: D1WorkflowStore, worker_database: WorkerD1Database, scene: str, lost: str
) -> None:
    """The guard is part of the batch: where it does not hold, the rows of the business are not written either."""
    await worker_database.prepare("CREATE TABLE business (key TEXT NOT NULL)").run()
    seen: list[dict[str, list[Any]]] = []

    async def work(tx: D1Transaction) -> TransactionWrite:
        if lost == "during the work":
            await store.terminate_run(run_id="running", now_ms=4)
        tx.add("INSERT INTO business VALUES (?1)", "written")
        if lost.startswith("never"):
            tx.add("INSERT INTO business VALUES (?1)", None)
        seen.append(await everything(worker_database))
        return TransactionWrite(
            expected_next_index=2, events=(NewEvent(kind="step", payload=ONE),), taken_inbox=(1,), now_ms=5, lease_ms=10
        )

    if lost == "before the work":
        await store.terminate_run(run_id="running", now_ms=4)
        seen.append(await everything(worker_database))
    with pytest.raises(D1DatabaseError if lost.startswith("never") else LeaseLostError):
        await store.append_in_transaction(run_id="running", lease_token=scene, operation_id="o", work=work)
    assert await everything(worker_database) == seen[-1]


@pytest.fixture
async def claimers(d1: D1Server, store: D1WorkflowStore) -> AsyncIterator[list[CountingDatabase]]:
    """Databases of their own, all of which may be at work at once."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CLAIMERS))
    databases = [WorkerD1Database(d1.url, "DB") for _ in range(CLAIMERS)]
    yield [CountingDatabase(database) for database in databases]
    for database in databases:
        database.close()


async def test_of_twenty_claimers_one_gets_each_of_500_items(
    store: D1WorkflowStore, claimers: list[CountingDatabase]
) -> None:
    """Runs that are pending, stale or have a timer due, and ticks."""
    await asyncio.gather(*(make_due(store, number) for number in range(OF_EACH_KIND)))
    started = time.monotonic()
    claimed = await asyncio.gather(*(claim_all(D1WorkflowStore(database)) for database in claimers))
    took = time.monotonic() - started
    assert Counter(item for mine in claimed for item in mine) == {
        f"{kind}-{number}": 1 for kind in CLAIMS for number in range(OF_EACH_KIND)
    }
    shares = [len(mine) for mine in claimed]
    assert sum(share > 0 for share in shares) > CLAIMERS / 2, "they did not contend"
    trips = sum(database.trips for database in claimers)
    read, written = (sum(getattr(database, name) for database in claimers) for name in ("rows_read", "rows_written"))
    print(
        f"{CLAIMERS} claimers took {sum(shares)} items ({min(shares)} to {max(shares)} each) in {took:.1f} s: "
        f"{trips} batches, {read} rows read, {written} rows written"
    )


async def make_due(store: D1WorkflowStore, number: int) -> None:
    await store.create_run(**run(f"pending-{number}"))
    await start(store, f"stale-{number}")
    token = await start(store, f"timer-{number}")
    verb, values = BY_THE_DRIVER["pause"]
    await getattr(store, verb)(run_id=f"timer-{number}", lease_token=token, operation_id="p", **values)
    await store.upsert_schedule(**ONE_TRIP["upsert schedule"][1] | {"schedule_id": f"tick-{number}"})


AT: dict[str, Any] = {"owner": "w", "now_ms": 100, "lease_ms": 60_000, "limit": 3}


async def pending(store: D1WorkflowStore) -> list[str]:
    return [claim.run.run_id for claim in (await store.claim_pending_runs(**AT)).claims]


async def stale(store: D1WorkflowStore) -> list[str]:
    return [claim.run.run_id for claim in (await store.claim_stale_runs(**AT, max_crashes=9)).claims]


async def timers(store: D1WorkflowStore) -> list[str]:
    return [claim.run.run_id for claim in (await store.claim_due_timers(**AT)).claims]


async def ticks(store: D1WorkflowStore) -> list[str]:
    return [tick.schedule.schedule_id for tick in (await store.claim_due_schedule_buckets(**AT)).buckets]


CLAIMS: dict[str, Claim] = {"pending": pending, "stale": stale, "timer": timers, "tick": ticks}


async def claim_all(store: D1WorkflowStore) -> list[str]:
    """Claim of each kind in turn until there is nothing left of any."""
    claimed: list[str] = []
    while True:
        found = [item for claim in CLAIMS.values() for item in await claim(store)]
        if not found:
            return claimed
        claimed += found


async def test_schema_is_looked_at_closely(store: D1WorkflowStore, worker_database: WorkerD1Database) -> None:
    """D1 lets through what the check asks its catalogue for."""
    await store.check_schema(deep=True)
    await worker_database.prepare("DROP INDEX workflow_runs_created").run()
    with pytest.raises(SchemaDamagedError, match="lacks the index 'workflow_runs_created'"):
        await store.check_schema(deep=True)
    await worker_database.prepare("DELETE FROM workflow_schema_migrations").run()
    with pytest.raises(SchemaHalfAppliedError):
        await store.check_schema()
