"""Somebody ends the store's session in the middle of a verb: it says so, works again, and repeats are safe."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from workflow_runtime.errors import StoreUnavailableError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent, RunToCreate, SignalToDeliver, WorkflowExecutionStore
from workflow_store_postgres import PostgresWorkflowStore

ONE = JsonText("1")
VICTIM = "victim"
HELD: dict[str, Any] = {"owner": "w", "lease_ms": 10}
CLAIM: dict[str, Any] = {**HELD, "now_ms": 100, "limit": 10}
ROUNDS = 6
LONGEST_DELAY_S = 0.003

TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'victim'
"""
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'victim' AND wait_event_type = 'Lock'
"""
TABLES = """
SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables WHERE schemaname = 'public'
"""

Prepare = Callable[["Stage"], Awaitable[dict[str, Any]]]


class Stage:
    """Makes what a call needs, through a store that nobody disturbs; each time anew."""

    def __init__(self, store: PostgresWorkflowStore) -> None:
        self.store = store
        self._numbers = itertools.count()

    def new(self) -> str:
        return f"n{next(self._numbers)}"

    def creation(self, **options: Any) -> dict[str, Any]:
        facts = {"workflow_id": "w", "workflow_version": "1", "input": ONE, "operation_id": "create", "now_ms": 1}
        return {"run_id": self.new(), **facts, **options}

    async def queued(self) -> dict[str, Any]:
        values = self.creation()
        await self.store.create_run(**values)
        return {"run_id": values["run_id"]}

    async def held(self, **more: Any) -> dict[str, Any]:
        values = self.creation(**HELD)
        created = await self.store.create_run(**values)
        assert created.kind == "created"
        assert created.claim is not None
        return {"run_id": values["run_id"], "lease_token": created.claim.lease.token, **more}

    async def due_timer(self) -> None:
        held = await self.held(operation_id="t")
        await self.store.schedule_timer(**held, timer_id="t", fire_at_ms=9, now_ms=5)
        await self.store.mark_run_paused(
            **held | {"operation_id": "p"}, expected_next_index=0, seen_inbox_seq=0, now_ms=5
        )

    def schedule(self) -> dict[str, Any]:
        facts = {"workflow_id": "w", "workflow_version": "1", "spec": ONE, "input": ONE, "now_ms": 1}
        return {"schedule_id": self.new(), "next_fire_at_ms": 5, **facts}

    async def scheduled(self) -> str:
        values = self.schedule()
        await self.store.upsert_schedule(**values)
        schedule_id: str = values["schedule_id"]
        return schedule_id

    async def requested_ticks(self) -> dict[str, Any]:
        return {"schedule_id": await self.scheduled(), "fire_times_ms": [1, 2], "now_ms": 5}

    async def claimed_tick(self) -> dict[str, Any]:
        schedule_id = await self.scheduled()
        batch = await self.store.claim_due_schedule_buckets(owner="w", lease_ms=10, now_ms=100, limit=100)
        [tick] = [tick for tick in batch.buckets if tick.schedule.schedule_id == schedule_id]
        return {
            "schedule_id": schedule_id,
            "fire_at_ms": tick.fire_at_ms,
            "lease_token": tick.lease.token,
            "operation_id": "o",
            "expected_revision": 1,
            "action": "start",
            "run_id": self.new(),
            "now_ms": 100,
        }


def just(**values: Any) -> Prepare:
    async def prepare(stage: Stage) -> dict[str, Any]:
        return values

    return prepare


def queued(**values: Any) -> Prepare:
    async def prepare(stage: Stage) -> dict[str, Any]:
        return await stage.queued() | values

    return prepare


def held(**values: Any) -> Prepare:
    async def prepare(stage: Stage) -> dict[str, Any]:
        return await stage.held(**values)

    return prepare


def after(make: Callable[[Stage], Awaitable[Any]], **values: Any) -> Prepare:
    async def prepare(stage: Stage) -> dict[str, Any]:
        await make(stage)
        return values

    return prepare


async def create(stage: Stage) -> dict[str, Any]:
    return stage.creation(**HELD)


async def create_many(stage: Stage) -> dict[str, Any]:
    ids = [*(stage.new() for _ in range(3)), (await stage.queued())["run_id"]]
    facts: dict[str, Any] = {"workflow_id": "w", "workflow_version": "1", "input": ONE}
    return {"runs": [RunToCreate(run_id=run_id, operation_id=f"o-{run_id}", **facts) for run_id in ids], "now_ms": 5}


async def deliver_many(stage: Stage) -> dict[str, Any]:
    runs = [await stage.queued() for _ in range(3)]
    return {"signals": [SignalToDeliver(**run, signal_id="s", name="go", payload=ONE) for run in runs], "now_ms": 5}


async def upsert(stage: Stage) -> dict[str, Any]:
    return stage.schedule()


async def drop_schedule(stage: Stage) -> dict[str, Any]:
    return {"schedule_id": await stage.scheduled()}


VERBS: dict[str, Prepare] = {
    "create_run": create,
    "load_run": queued(),
    "load_execution": queued(),
    "mark_run_paused": held(operation_id="o", expected_next_index=0, seen_inbox_seq=0, now_ms=5),
    "mark_run_finished": held(operation_id="o", expected_next_index=0, output=ONE, now_ms=5),
    "mark_run_errored": held(operation_id="o", expected_next_index=0, error=ONE, now_ms=5),
    "cancel_run": queued(now_ms=5),
    "terminate_run": queued(now_ms=5),
    "requeue_run": queued(now_ms=5),
    "retry_run": queued(event=NewEvent(kind="retried"), now_ms=5),
    "fork_run": queued(new_run_id="f", from_index=0, event=NewEvent(kind="f"), operation_id="o", now_ms=5),
    "create_runs": create_many,
    "deliver_signals": deliver_many,
    "cancel_runs": just(run_ids=["a"], now_ms=5),
    "terminate_runs": just(run_ids=["a"], now_ms=5),
    "requeue_runs": just(run_ids=["a"], now_ms=5),
    "retry_runs": just(run_ids=["a"], event=NewEvent(kind="retried"), now_ms=5),
    "delete_run": queued(now_ms=5),
    "prune_runs": just(finished_before_ms=500, limit=10),
    "append_events": held(
        operation_id="o", expected_next_index=0, events=[NewEvent(kind="step", payload=ONE)], lease_ms=10, now_ms=5
    ),
    "read_events": queued(limit=10),
    "claim_run": queued(**HELD, now_ms=100, max_crashes=9),
    "heartbeat_run_lease": held(lease_ms=20, now_ms=5),
    "heartbeat_run_leases": just(leases=[("a", "t")], lease_ms=20, now_ms=5),
    "release_run_lease": held(operation_id="o", now_ms=5),
    "claim_stale_runs": after(Stage.held, **CLAIM, max_crashes=9),
    "list_pending_runs": after(Stage.queued, now_ms=100, limit=10),
    "claim_pending_runs": after(Stage.queued, **CLAIM),
    "schedule_timer": held(operation_id="o", timer_id="t", fire_at_ms=9, now_ms=5),
    "claim_due_timers": after(Stage.due_timer, **CLAIM),
    "deliver_signal": queued(signal_id="s", name="go", payload=ONE, now_ms=5),
    "deliver_retry": queued(retry_id="r", now_ms=5),
    "deliver_approval": queued(approval_id="a", approved=True, now_ms=5),
    "read_inbox": queued(limit=10),
    "upsert_schedule": upsert,
    "get_schedule": drop_schedule,
    "list_schedules": after(Stage.scheduled, limit=10),
    "list_requested_buckets": just(schedule_id="s", limit=10),
    "delete_schedule": drop_schedule,
    "request_schedule_buckets": Stage.requested_ticks,
    "claim_due_schedule_buckets": after(Stage.scheduled, **CLAIM),
    "mark_schedule_bucket_started": Stage.claimed_tick,
    "list_runs": after(Stage.queued, limit=10),
    "get_run_timeline": queued(),
    "count_runs": after(Stage.queued),
    "ensure_schema": just(),
    "check_schema": just(),
    "read_clock": just(),
}
WITHOUT_TABLES = {"read_clock"}


@pytest.fixture
def stage(store: PostgresWorkflowStore) -> Stage:
    return Stage(store)


@pytest.fixture
async def victim(dsn: str) -> AsyncIterator[PostgresWorkflowStore]:
    settings = {"application_name": VICTIM}
    async with PostgresWorkflowStore.connect(dsn, max_size=1, server_settings=settings) as store:
        yield store


async def repeated(store: PostgresWorkflowStore, verb: str, values: dict[str, Any]) -> Any:
    """Call until there is an answer; nothing else than `StoreUnavailableError` may be in its place."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await getattr(store, verb)(**values)
            except StoreUnavailableError:
                await asyncio.sleep(0.01)


async def check_repeat(store: PostgresWorkflowStore, verb: str, values: dict[str, Any], answer: Any) -> None:
    """Once more: an operation gives its first answer, a delivery is known, and nothing is written."""
    if verb in {"create_runs", "deliver_signals"}:
        again = await getattr(store, verb)(**values)
        kinds = ["created"] * 3 + ["existing"] if verb == "create_runs" else ["duplicate"] * 3
        assert [one.kind for one in again] == kinds
        return
    if "operation_id" not in values and not verb.startswith("deliver_"):
        return
    run = await store.load_run(run_id=values["run_id"])
    again = await getattr(store, verb)(**values)
    if verb in {"deliver_signal", "deliver_retry"}:
        assert {answer.kind, again.kind} <= {"buffered", "duplicate"}
        assert again.kind == "duplicate"
    elif verb == "deliver_approval":
        assert again.kind == "already-decided"
    else:
        assert again == answer
    assert await store.load_run(run_id=values["run_id"]) == run


def test_every_verb_is_here() -> None:
    protocol = {name for name in dir(WorkflowExecutionStore) if not name.startswith("_")}
    assert protocol - {"capabilities", "get_migrations", "get_migration_sql"} == set(VERBS)


@pytest.mark.real_time
@pytest.mark.parametrize("verb", VERBS)
async def test_session_ends_at_any_moment(
    stage: Stage, victim: PostgresWorkflowStore, database: asyncpg.Connection, verb: str
) -> None:
    randoms = random.Random(verb)

    async def terminate() -> None:
        await asyncio.sleep(randoms.uniform(0, LONGEST_DELAY_S))
        await database.fetchval(TERMINATE)

    for _ in range(ROUNDS):
        values = await VERBS[verb](stage)
        await repeated(victim, "read_clock", {})
        answer, _ = await asyncio.gather(repeated(victim, verb, values), terminate())
        await check_repeat(stage.store, verb, values, answer)


@pytest.mark.real_time
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in WITHOUT_TABLES])
async def test_session_ends_while_the_verb_waits_inside_the_server(
    stage: Stage, victim: PostgresWorkflowStore, database: asyncpg.Connection, verb: str
) -> None:
    values = await VERBS[verb](stage)
    async with asyncio.timeout(30):
        async with database.transaction():
            await database.execute(f"LOCK TABLE {await database.fetchval(TABLES)}")
            call = asyncio.create_task(getattr(victim, verb)(**values))
            while not await database.fetchval(WAITING):
                await database.execute("SELECT pg_stat_clear_snapshot()")
                await asyncio.sleep(0.01)
            await database.fetchval(TERMINATE)
            with pytest.raises(StoreUnavailableError):
                await call
        answer = await repeated(victim, verb, values)
    await check_repeat(stage.store, verb, values, answer)
