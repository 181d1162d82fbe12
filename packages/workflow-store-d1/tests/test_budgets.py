"""Each verb is one batch or one statement."""

from collections.abc import AsyncIterator

import pytest
from d1_verbs import BATCH, BY_THE_DRIVER, ONE_TRIP, CountingDatabase, prepare, run
from workflow_runtime.store import MAX_HEARTBEAT_LEASES
from workflow_store_d1 import D1WorkflowStore
from workflow_store_d1.local import LocalD1Database
from workflow_test_support.servers.worker_database import open_empty


@pytest.fixture(params=["local", "workerd"])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[CountingDatabase]:
    if request.param == "workerd":
        async with open_empty(request.getfixturevalue("d1").url) as worker_database:
            yield CountingDatabase(worker_database)
        return
    local = await LocalD1Database.open(":memory:")
    yield CountingDatabase(local)
    await local.close()


@pytest.fixture
async def store(database: CountingDatabase) -> D1WorkflowStore:
    store = D1WorkflowStore(database)
    await store.ensure_schema()
    database.reset()
    return store


@pytest.mark.parametrize("work", ONE_TRIP)
async def test_call_is_one_trip(store: D1WorkflowStore, database: CountingDatabase, work: str) -> None:
    await prepare(store, database)
    verb, values = ONE_TRIP[work]
    await getattr(store, verb)(**values)
    assert database.trips == 1


@pytest.mark.parametrize("work", BY_THE_DRIVER)
async def test_drivers_write_is_one_trip_and_so_is_its_repeat(
    store: D1WorkflowStore, database: CountingDatabase, work: str
) -> None:
    token = await prepare(store, database)
    verb, values = BY_THE_DRIVER[work]
    for trips in (1, 2):
        await getattr(store, verb)(run_id="running", lease_token=token, operation_id="o", **values)
        assert database.trips == trips


async def test_heartbeat_is_one_statement(store: D1WorkflowStore, database: CountingDatabase) -> None:
    token = await prepare(store, database)
    await store.heartbeat_run_lease(run_id="running", lease_token=token, lease_ms=10, now_ms=5)
    assert (database.trips, database.statements) == (1, 1)


async def test_heartbeats_of_many_are_one_statement(store: D1WorkflowStore, database: CountingDatabase) -> None:
    token = await prepare(store, database)
    leases = [("running", token), *((f"other-{number}", "t") for number in range(MAX_HEARTBEAT_LEASES - 1))]
    await store.heartbeat_run_leases(leases=leases, lease_ms=10, now_ms=5)
    assert (database.trips, database.statements) == (1, 1)


async def test_tick_is_one_trip_to_claim_and_one_to_start(store: D1WorkflowStore, database: CountingDatabase) -> None:
    await store.upsert_schedule(**ONE_TRIP["upsert schedule"][1])
    database.trips = 0
    (tick,) = (await store.claim_due_schedule_buckets(**BATCH)).buckets
    await store.mark_schedule_bucket_started(
        schedule_id="s",
        fire_at_ms=tick.fire_at_ms,
        lease_token=tick.lease.token,
        operation_id="o",
        expected_revision=1,
        action="start",
        run_id="ticked",
        now_ms=100,
    )
    assert database.trips == 2


async def test_claim_of_many_runs_is_as_many_statements_as_of_one(
    store: D1WorkflowStore, database: CountingDatabase
) -> None:
    counts = []
    for count in (1, 20):
        for number in range(count):
            await store.create_run(**run(f"{count}-{number}"))
        database.statements = 0
        claimed = await store.claim_pending_runs(**{**BATCH, "limit": count})
        assert len(claimed.claims) == count
        counts.append(database.statements)
    assert counts[0] == counts[1]
