"""Each verb is one statement and, on a pool of the store's own, one round trip: counted on the wire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Never

import asyncpg
import pytest
from verb_calls import BATCH, BY_THE_DRIVER, ONE, ONE_TRIP, named, prepare, run, start, until_quiet
from verb_table import BUDGET, verb_costs
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_runtime.store import (
    MAX_BULK_RUNS,
    NewEvent,
    RunStatus,
    RunToCreate,
    SignalToDeliver,
    StoreError,
)
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.relays.postgres_wire import Wire, wire_to
from workflow_test_support.servers.postgres_databases import new_database

NEXT_TRANSACTION = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
"""A transaction that only reads gets no number."""

OF_MANY: dict[str, tuple[str, dict[str, Any]]] = {
    "heartbeats": ("heartbeat_run_leases", {"leases": [("a", "token")], "lease_ms": 10, "now_ms": 5}),
    "starts": (
        "create_runs",
        {
            "runs": [RunToCreate(run_id="a", workflow_id="w", workflow_version="1", input=ONE, operation_id="o")],
            "now_ms": 5,
        },
    ),
    "signals": (
        "deliver_signals",
        {"signals": [SignalToDeliver(run_id="queued", signal_id="many", name="go", payload=ONE)], "now_ms": 5},
    ),
    "cancels": ("cancel_runs", {"run_ids": ["paused"], "now_ms": 5}),
    "terminates": ("terminate_runs", {"run_ids": ["paused"], "now_ms": 5}),
    "requeues": ("requeue_runs", {"run_ids": ["paused"], "now_ms": 5}),
    "retries": ("retry_runs", {"run_ids": ["paused"], "event": NewEvent(kind="retried"), "now_ms": 5}),
    "list some": ("list_runs", {"limit": 9, "statuses": [RunStatus.DEAD], "workflow_ids": ["w"], "queues": ["q"]}),
    "count some": ("count_runs", {"statuses": [RunStatus.DEAD], "workflow_ids": ["w"], "run_id_prefix": "a"}),
    "prune some": ("prune_runs", {"finished_before_ms": 5, "limit": 9, "workflow_ids": ["w"]}),
}
"""More calls, with lists among their parameters."""

UNFINISHED = "SELECT count(*) FROM workflow_event_locks WHERE status <> 'finished'"


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Wire]:
    async with wire_to(dsn) as wire:
        yield wire


@pytest.fixture
async def store(wire: Wire) -> AsyncIterator[PostgresWorkflowStore]:
    """One connection, so that a statement that was prepared is prepared for all."""
    async with PostgresWorkflowStore.connect(wire.dsn, max_size=1) as store:
        yield store


def counted(wire: Wire) -> tuple[int, int]:
    counts = (wire.trips, wire.statements)
    wire.reset()
    return counts


async def test_server_and_wire_count_one_statement_for_every_verb() -> None:
    costs = await verb_costs()
    assert len(costs) == len(ONE_TRIP) + len(BY_THE_DRIVER)
    assert [cost for cost in costs if (cost.executed, cost.sent, cost.trips) != (BUDGET, BUDGET, BUDGET)] == []


@pytest.mark.parametrize("work", ONE_TRIP)
async def test_call_is_one_statement_and_one_trip(store: PostgresWorkflowStore, wire: Wire, work: str) -> None:
    await prepare(store)
    verb, values = ONE_TRIP[work]
    await getattr(store, verb)(**named(values, "first"))  # prepares the statement
    await until_quiet(store)
    wire.reset()
    await getattr(store, verb)(**named(values, "second"))
    assert counted(wire) == (1, 1)


@pytest.mark.parametrize("work", BY_THE_DRIVER)
async def test_drivers_write_is_one_trip_and_its_repeat_two(
    store: PostgresWorkflowStore, wire: Wire, work: str
) -> None:
    verb, values = BY_THE_DRIVER[work]
    for run_id in ("first", "second"):
        token = await start(store, run_id)
        for expected in ((1, 1), (2, 2)):  # what wrote nothing is explained by a second statement
            await until_quiet(store)
            wire.reset()
            await getattr(store, verb)(run_id=run_id, lease_token=token, operation_id="o", **values)
            assert run_id == "first" or counted(wire) == expected


async def test_no_verb_has_a_new_connection_look_up_a_type(
    dsn: str, store: PostgresWorkflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that asyncpg does not know by itself, such as a list of numbers, costs each connection three statements."""
    looked_up: list[str] = []
    present = ""

    async def look_up(*_: object) -> Never:
        looked_up.append(present)
        raise asyncpg.InterfaceError("a type is looked up")

    await prepare(store)
    for number, (work, (verb, values)) in enumerate((ONE_TRIP | BY_THE_DRIVER | OF_MANY).items()):
        token = await start(store, f"run-{number}")
        held = {"run_id": f"run-{number}", "lease_token": token, "operation_id": "o"} if work in BY_THE_DRIVER else {}
        present = work
        async with PostgresWorkflowStore.connect(dsn, max_size=1, combine=False) as fresh:
            monkeypatch.setattr(asyncpg.Connection, "_introspect_types", look_up)
            with suppress(StoreError):
                await getattr(fresh, verb)(**named(values, f"new-{number}"), **held)
            monkeypatch.undo()
    assert looked_up == []


async def test_start_of_a_run_that_is_there_reads_it_by_another_statement(
    store: PostgresWorkflowStore, wire: Wire
) -> None:
    for _ in range(2):
        await store.create_run(**run("queued"))
        wire.reset()
        assert (await store.create_run(**run("queued", operation_id="another"))).kind == "existing"
    assert counted(wire) == (2, 2)


async def test_heartbeat_is_one_statement(store: PostgresWorkflowStore, wire: Wire) -> None:
    token = await start(store, "a")
    for _ in range(2):
        wire.reset()
        await store.heartbeat_run_lease(run_id="a", lease_token=token, lease_ms=10, now_ms=5)
    assert counted(wire) == (1, 1)


async def test_heartbeats_of_many_are_one_statement(store: PostgresWorkflowStore, wire: Wire) -> None:
    leases = [(run_id, await start(store, run_id)) for run_id in ("a", "b", "c")]
    for _ in range(2):
        wire.reset()
        answers = await store.heartbeat_run_leases(leases=[*leases, ("d", "lost")], lease_ms=10, now_ms=5)
        assert [answer.kind for answer in answers] == ["renewed"] * 3 + ["lost"]
    assert counted(wire) == (1, 1)


async def test_many_are_created_by_one_statement(store: PostgresWorkflowStore, wire: Wire) -> None:
    """What of them is there already is read by another one."""
    for number in range(2):
        runs = [RunToCreate(**_facts(f"run-{number}-{place}")) for place in range(MAX_BULK_RUNS)]
        await until_quiet(store)
        wire.reset()
        answers = await store.create_runs(runs=runs, now_ms=1)
        assert {answer.kind for answer in answers} == {"created"}
    assert counted(wire) == (1, 1)
    for _ in range(2):
        runs = [RunToCreate(**_facts(f"run-1-{place}") | {"operation_id": "new"}) for place in range(MAX_BULK_RUNS)]
        await until_quiet(store)
        wire.reset()
        assert {answer.kind for answer in await store.create_runs(runs=runs, now_ms=1)} == {"existing"}
    assert counted(wire) == (2, 2)


def _facts(run_id: str) -> dict[str, Any]:
    return {name: value for name, value in run(run_id).items() if name != "now_ms"}


async def test_many_signals_are_delivered_by_one_statement(store: PostgresWorkflowStore, wire: Wire) -> None:
    runs = [RunToCreate(**_facts(f"run-{place}")) for place in range(20)]
    await store.create_runs(runs=runs, now_ms=1)
    for kind in ("buffered", "duplicate"):
        signals = [
            SignalToDeliver(run_id=f"run-{place % 20}", signal_id=f"{place}", name="go", payload=ONE)
            for place in range(MAX_BULK_RUNS)
        ]
        await until_quiet(store)
        wire.reset()
        answers = await store.deliver_signals(signals=signals, now_ms=1)
        assert {answer.kind for answer in answers} == {kind}
    assert counted(wire) == (1, 1)


async def test_tick_is_one_trip_to_claim_and_one_to_start(store: PostgresWorkflowStore, wire: Wire) -> None:
    for schedule_id in ("s", "t"):
        await store.upsert_schedule(**ONE_TRIP["upsert schedule"][1] | {"schedule_id": schedule_id})
        await until_quiet(store)
        wire.reset()
        (tick,) = (await store.claim_due_schedule_buckets(**BATCH)).buckets
        await store.mark_schedule_bucket_started(
            schedule_id=schedule_id,
            fire_at_ms=tick.fire_at_ms,
            lease_token=tick.lease.token,
            operation_id="o",
            expected_revision=1,
            action="start",
            run_id=f"ticked by {schedule_id}",
            now_ms=100,
        )
    assert counted(wire) == (2, 2)


async def test_claim_of_many_runs_is_one_statement(store: PostgresWorkflowStore, wire: Wire) -> None:
    for count in (1, 30):
        for number in range(count):
            await store.create_run(**run(f"{count}-{number}"))
        await until_quiet(store)
        wire.reset()
        claimed = await store.claim_pending_runs(**{**BATCH, "limit": count})
        assert len(claimed.claims) == count
    assert counted(wire) == (1, 1)


async def echo(value: Any) -> Any:
    return value


@workflow()
async def job(ctx: Context, number: int) -> int:
    return await ctx.step(echo, number)


@pytest.mark.parametrize(
    ("concurrency", "combine", "budget"),
    [(1, False, 2.5), (16, False, 1.2), (64, False, 1.2), (1, True, 2.5), (16, True, 0.8), (64, True, 0.6)],
)
async def test_worker_sends_little_more_than_the_ends_of_its_jobs(
    dsn: str,
    database: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    concurrency: int,
    combine: bool,
    budget: float,
) -> None:
    """Counted where the store sends: what asyncpg asks on each new connection is no matter of the worker.

    Ends that are combined are fewer than the jobs.
    """
    jobs, sent = 400, 0
    async with PostgresWorkflowStore.connect(dsn, combine=combine) as store:
        runtime, stop = WorkflowRuntime(store=store, workflows=[job]), asyncio.Event()
        for number in range(jobs):
            await runtime.start_run(job, number)
        await until_quiet(store)
        fetch = store._sender._fetch

        async def counted_fetch(sql: str, values: Any) -> Any:
            nonlocal sent
            sent += 1
            return await fetch(sql, values)

        monkeypatch.setattr(store._sender, "_fetch", counted_fetch)
        working = asyncio.create_task(runtime.work(concurrency=concurrency, stop=stop, handle_signals=False))
        async with asyncio.timeout(60):
            while await database.fetchval(UNFINISHED):
                await asyncio.sleep(0.02)
        stop.set()
        await working
    print(f"concurrency {concurrency}: {sent / jobs:.2f} statements a job")
    assert sent <= budget * jobs
    assert sent > (jobs if concurrency == 1 or not combine else jobs / 64)


async def test_pool_of_the_users_adds_its_reset(dsn: str) -> None:
    async with wire_to(dsn) as wire, asyncpg.create_pool(wire.dsn, min_size=1, max_size=1) as pool:
        store = PostgresWorkflowStore(pool)
        await store.read_clock()
        wire.reset()
        await store.read_clock()
        assert counted(wire) == (2, 2)


async def test_without_statement_cache_the_statement_is_prepared_each_time(dsn: str) -> None:
    async with (
        wire_to(dsn) as wire,
        PostgresWorkflowStore.connect(wire.dsn, max_size=1, statement_cache_size=0) as store,
    ):
        await store.read_clock()
        wire.reset()
        await store.read_clock()
        assert counted(wire) == (2, 1)


async def test_no_statement_is_too_long_for_the_cache(store: PostgresWorkflowStore) -> None:
    """asyncpg does not keep longer ones."""
    assert max(len(sql) for sql in store._sender._sql.values()) < 15 * 1024


async def test_idle_polls_write_nothing(store: PostgresWorkflowStore, database: asyncpg.Connection) -> None:
    await prepare(store)
    await store.claim_pending_runs(**BATCH)
    idle: dict[str, Any] = {"owner": "w", "lease_ms": 10, "now_ms": 2, "limit": 10}

    async def transactions_that_wrote() -> int:
        before = await database.fetchval(NEXT_TRANSACTION)
        await store.claim_pending_runs(**idle)
        await store.claim_stale_runs(**idle, max_crashes=3)
        await store.claim_due_timers(**idle)
        await store.claim_due_schedule_buckets(**idle)
        written: int = await database.fetchval(NEXT_TRANSACTION) - before
        return written

    # The server's own vacuum may write meanwhile, but not every time.
    assert 0 in [await transactions_that_wrote() for _ in range(5)]


async def test_appends_and_renewals_are_hot_updates(server_dsn: str, template: str) -> None:
    """Neither moves the head to another page or touches its indexes. A new database: the server counts by table."""
    count = 1_000
    async with new_database(server_dsn, template) as dsn:
        async with PostgresWorkflowStore.connect(dsn) as store:
            token = await start(store, "a")
            for index in range(count):
                await store.append_events(
                    run_id="a",
                    lease_token=token,
                    operation_id=f"o{index}",
                    expected_next_index=index,
                    events=[NewEvent(kind="step", payload=ONE)],
                    now_ms=index,
                    lease_ms=10,
                )
                await store.heartbeat_run_lease(run_id="a", lease_token=token, lease_ms=20, now_ms=index)
        database = await asyncpg.connect(dsn)  # after the store's end: a session that ends hands in its counts
        updates = await _updates_of_heads(database, 2 * count)
        await database.close()
    assert updates["n_tup_hot_upd"] >= 0.98 * updates["n_tup_upd"], dict(updates)


async def _updates_of_heads(database: asyncpg.Connection, least: int) -> Any:
    async with asyncio.timeout(20):
        while True:
            counts = await database.fetchrow(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'workflow_event_locks'"
            )
            if counts["n_tup_upd"] >= least:
                return counts
            await asyncio.sleep(0.05)
