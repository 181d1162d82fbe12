"""A batch whose answer was lost is repeated where the store recognises it, and only there."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from workflow_runtime.errors import StoreOperationError, StoreUnavailableError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent, RunToCreate, SignalToDeliver, TransactionWrite
from workflow_store_d1 import D1DatabaseError, D1Result, D1WorkflowStore
from workflow_store_d1.local import LocalD1Database, LocalStatement
from workflow_store_d1.retries import Retries

ONE = JsonText("1")


class Waits:
    """What was waited, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


class LosingDatabase:
    """Applies what it gets, and loses so many of the next answers."""

    def __init__(self, inner: LocalD1Database) -> None:
        self._inner = inner
        self.lose = 0
        self.sent = 0

    def prepare(self, sql: str) -> Any:
        return LosingStatement(self, self._inner.prepare(sql))

    async def batch(self, statements: Sequence[Any]) -> Sequence[D1Result]:
        answer: Sequence[D1Result] = await self.send(
            lambda: self._inner.batch([statement.inner for statement in statements])
        )
        return answer

    async def send(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self.sent += 1
        answer = await call()
        if self.lose:
            self.lose -= 1
            raise D1DatabaseError("Network connection lost.", unavailable=True, outcome_unknown=True)
        return answer


class LosingStatement:
    def __init__(self, database: LosingDatabase, inner: LocalStatement) -> None:
        self._database = database
        self.inner = inner

    def bind(self, *values: Any) -> "LosingStatement":
        return LosingStatement(self._database, self.inner.bind(*values))

    async def all(self) -> D1Result:
        answer: D1Result = await self._database.send(self.inner.all)
        return answer

    async def run(self) -> D1Result:
        return await self.all()


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
async def database(open_database: Callable[[], Awaitable[LocalD1Database]]) -> LosingDatabase:
    return LosingDatabase(await open_database())


@pytest.fixture
async def store(database: LosingDatabase, waits: Waits) -> D1WorkflowStore:
    store = D1WorkflowStore(database, retries=Retries(attempts=3, sleep=waits.sleep))
    await store.ensure_schema()
    return store


def run(run_id: str, **options: Any) -> dict[str, Any]:
    facts = {"workflow_id": "w", "workflow_version": "1", "input": ONE, "operation_id": "create", "now_ms": 1}
    return {"run_id": run_id, **facts, **options}


HELD: dict[str, Any] = {"owner": "x", "lease_ms": 1_000}
BATCH: dict[str, Any] = {**HELD, "now_ms": 5_000, "limit": 2}


async def lost(database: LosingDatabase, call: Awaitable[Any], trips: int = 2) -> Any:
    """Make a call whose first answer is lost; give the second one."""
    database.lose, sent = 1, database.sent
    answer = await call
    assert (database.lose, database.sent - sent) == (0, trips)
    return answer


async def start(store: D1WorkflowStore, run_id: str = "a", **options: Any) -> str:
    created: Any = await store.create_run(**run(run_id, **HELD, **options))
    token: str = created.claim.lease.token
    return token


async def hear_of(store: D1WorkflowStore, run_id: str, token: str) -> None:
    """Give a sign of life, so that the end of the lease counts as a crash."""
    await store.heartbeat_run_lease(run_id=run_id, lease_token=token, lease_ms=1, now_ms=0)


async def statuses(store: D1WorkflowStore) -> dict[str, str]:
    return {item.run_id: item.status for item in (await store.list_runs(limit=100)).runs}


async def test_start_with_claim(store: D1WorkflowStore, database: LosingDatabase) -> None:
    created = await lost(database, store.create_run(**run("a", **HELD)), trips=3)  # a repeat reads the inbox too
    assert created.kind == "created"
    await store.mark_run_finished(
        run_id="a",
        lease_token=created.claim.lease.token,
        operation_id="f",
        expected_next_index=0,
        output=ONE,
        now_ms=2,
    )


async def test_drivers_write(store: D1WorkflowStore, database: LosingDatabase) -> None:
    token = await start(store)
    held: dict[str, Any] = {"run_id": "a", "lease_token": token}
    append = store.append_events(
        **held, operation_id="o", expected_next_index=0, events=[NewEvent(kind="k")], now_ms=2, lease_ms=1_000
    )
    assert (await lost(database, append)).next_index == 1
    renewal = await lost(database, store.heartbeat_run_lease(**held, lease_ms=2_000, now_ms=2))
    assert renewal.lease_expires_at_ms == 2_002
    leases = [(held["run_id"], held["lease_token"]), ("b", "t")]
    renewed, gone = await lost(database, store.heartbeat_run_leases(leases=leases, lease_ms=3_000, now_ms=2))
    assert (renewed.lease_expires_at_ms, gone.kind) == (3_002, "lost")
    pause = store.mark_run_paused(**held, operation_id="p", expected_next_index=1, seen_inbox_seq=0, now_ms=3)
    assert (await lost(database, pause)).next_index == 1
    assert len(await store.read_events(run_id="a", limit=10)) == 1


async def test_transaction(store: D1WorkflowStore, database: LosingDatabase) -> None:
    await store.database.prepare("CREATE TABLE business (key TEXT)").run()
    token, calls = await start(store), 0

    async def work(tx: Any) -> TransactionWrite:
        nonlocal calls
        calls += 1
        tx.add("INSERT INTO business VALUES (?1)", "paid")
        database.lose = 1
        return TransactionWrite(expected_next_index=0, events=(NewEvent(kind="k"),), now_ms=2, lease_ms=1_000)

    done = await store.append_in_transaction(run_id="a", lease_token=token, operation_id="o", work=work)
    assert (done.next_index, calls, database.lose) == (1, 1, 0)
    assert len((await store.database.prepare("SELECT * FROM business").all()).results) == 1


async def test_deliveries(store: D1WorkflowStore, database: LosingDatabase) -> None:
    await store.create_run(**run("a"))
    signal = store.deliver_signal(run_id="a", signal_id="s", name="go", payload=ONE, now_ms=2)
    assert (await lost(database, signal)).kind == "duplicate"
    approval = await lost(database, store.deliver_approval(run_id="a", approval_id="b", approved=True, now_ms=2))
    assert (approval.kind, approval.approved) == ("already-decided", True)
    assert (await lost(database, store.cancel_run(run_id="a", now_ms=2))).kind == "duplicate"
    assert [entry.inbox_seq for entry in await store.read_inbox(run_id="a", limit=10)] == [1, 2, 3]
    assert (await lost(database, store.terminate_run(run_id="a", now_ms=2))).kind == "finished"


async def test_many_at_once(store: D1WorkflowStore, database: LosingDatabase) -> None:
    await store.create_run(**run("known"))
    facts = {name: value for name, value in run("a").items() if name not in {"run_id", "now_ms"}}
    runs = [RunToCreate(run_id=run_id, **facts | {"operation_id": run_id}) for run_id in ("b", "known", "a")]
    created = await lost(database, store.create_runs(runs=runs, now_ms=1))
    assert [answer.kind for answer in created] == ["created", "existing", "created"]
    signals = [SignalToDeliver(run_id=run_id, signal_id="s", name="go", payload=ONE) for run_id in ("a", "b", "c")]
    delivered = await lost(database, store.deliver_signals(signals=signals, now_ms=2))
    assert [answer.kind for answer in delivered] == ["duplicate", "duplicate", "not-found"]
    assert [entry.inbox_seq for entry in await store.read_inbox(run_id="a", limit=10)] == [1]


@pytest.mark.parametrize("stale", [False, True])
async def test_claim_of_one_run(store: D1WorkflowStore, database: LosingDatabase, stale: bool) -> None:
    if stale:
        await hear_of(store, "a", await start(store))
    else:
        await store.create_run(**run("a"))
    claim = store.claim_run(run_id="a", **HELD, now_ms=5_000, max_crashes=9)
    claimed = await lost(database, claim)
    assert (claimed.kind, claimed.claim.run.crashes) == ("claimed", int(stale))
    assert claimed.claim.lease.number == 1 + stale


async def test_claim_of_one_run_that_parks_it(store: D1WorkflowStore, database: LosingDatabase) -> None:
    await hear_of(store, "a", await start(store))
    answer = await lost(database, store.claim_run(run_id="a", **HELD, now_ms=5_000, max_crashes=1))
    assert (answer.kind, answer.status) == ("not-claimable", "dead")


async def many(store: D1WorkflowStore, verb: str) -> dict[str, Any]:
    """Make five runs that a claim can take, in an order; give what it needs besides."""
    for number in range(5):
        if verb == "claim_pending_runs":
            await store.create_run(**run(f"r{number}"))
            continue
        token = await start(store, f"r{number}")
        if verb == "claim_due_timers":
            facts: dict[str, Any] = {"run_id": f"r{number}", "lease_token": token, "now_ms": 2}
            await store.schedule_timer(**facts, operation_id="t", timer_id="t", fire_at_ms=9)
            await store.mark_run_paused(**facts, operation_id="p", expected_next_index=0, seen_inbox_seq=0)
    return {"max_crashes": 9} if verb == "claim_stale_runs" else {}


@pytest.mark.parametrize("verb", ["claim_pending_runs", "claim_stale_runs", "claim_due_timers"])
@pytest.mark.parametrize("answers_lost", [1, 2])
async def test_claim_of_many_runs(
    store: D1WorkflowStore, database: LosingDatabase, verb: str, answers_lost: int
) -> None:
    """The repeat takes nothing more and brings what the first try took."""
    more = await many(store, verb)
    database.lose = answers_lost
    batch = await getattr(store, verb)(**BATCH, **more)
    assert [claim.run.run_id for claim in batch.claims] == ["r0", "r1"]
    assert database.lose == 0
    held = [item for item in (await store.list_runs(limit=9)).runs if item.lease_expires_at_ms == 6_000]
    assert [item.run_id for item in held] == ["r0", "r1"]
    rest = await getattr(store, verb)(**{**BATCH, "limit": 9}, **more)
    assert [claim.run.run_id for claim in rest.claims] == ["r2", "r3", "r4"]


async def test_claim_whose_lost_try_parked_runs(store: D1WorkflowStore, database: LosingDatabase) -> None:
    """They are dead once and for all, and the repeat takes others; it does not name them again."""
    for run_id in ("a", "b"):
        await hear_of(store, run_id, await start(store, run_id))
    batch = await lost(database, store.claim_stale_runs(**BATCH, max_crashes=1))
    assert (batch.claims, batch.dead) == ((), ())
    assert set((await statuses(store)).values()) == {"dead"}


async def schedule(store: D1WorkflowStore, schedule_id: str, **options: Any) -> Any:
    facts = {"workflow_id": "w", "workflow_version": "1", "spec": ONE, "input": ONE, "now_ms": 1, "next_fire_at_ms": 5}
    return await store.upsert_schedule(**{"schedule_id": schedule_id, **facts, **options})


async def test_ticks(store: D1WorkflowStore, database: LosingDatabase) -> None:
    for number in range(4):
        await schedule(store, f"s{number}")
    claims = await lost(database, store.claim_due_schedule_buckets(**BATCH))
    assert [tick.schedule.schedule_id for tick in claims.buckets] == ["s0", "s1"]
    started = await lost(
        database,
        store.mark_schedule_bucket_started(
            schedule_id="s0",
            fire_at_ms=5,
            lease_token=claims.buckets[0].lease.token,
            operation_id="o",
            expected_revision=1,
            action="start",
            run_id="ticked",
            now_ms=6,
        ),
    )
    assert started.kind == "started"
    rest = await store.claim_due_schedule_buckets(**{**BATCH, "limit": 9})
    assert [tick.schedule.schedule_id for tick in rest.buckets] == ["s2", "s3"]


async def test_schedule_without_a_revision(store: D1WorkflowStore, database: LosingDatabase) -> None:
    upserted = await lost(database, schedule(store, "s"))
    assert (upserted.kind, upserted.schedule.revision) == ("unchanged", 1)


async def test_schema(database: LosingDatabase, waits: Waits) -> None:
    store = D1WorkflowStore(database, retries=Retries(sleep=waits.sleep))
    for _ in range(2):
        database.lose = 2
        await store.ensure_schema()
    await store.check_schema()


NOT_REPEATED: dict[str, Callable[[D1WorkflowStore], Awaitable[Any]]] = {
    "upsert_schedule": lambda store: schedule(store, "s", input=JsonText("2"), expected_revision=1),
    "request_schedule_buckets": lambda store: store.request_schedule_buckets(
        schedule_id="s", fire_times_ms=[1], now_ms=2
    ),
    "requeue_run": lambda store: store.requeue_run(run_id="a", now_ms=2),
    "requeue_runs": lambda store: store.requeue_runs(run_ids=["a"], now_ms=2),
    "retry_runs": lambda store: store.retry_runs(run_ids=["a"], event=NewEvent(kind="retried"), now_ms=2),
    "retry_run": lambda store: store.retry_run(run_id="a", event=NewEvent(kind="retried"), now_ms=2),
    "delete_run": lambda store: store.delete_run(run_id="a", now_ms=2),
    "delete_schedule": lambda store: store.delete_schedule(schedule_id="s"),
    "prune_runs": lambda store: store.prune_runs(finished_before_ms=9, limit=1),
}


@pytest.mark.parametrize("verb", NOT_REPEATED)
async def test_not_recognised_and_not_repeated(store: D1WorkflowStore, database: LosingDatabase, verb: str) -> None:
    await store.create_run(**run("a"))
    await schedule(store, "s")
    database.lose, database.sent = 1, 0
    with pytest.raises(StoreUnavailableError, match="outcome is unknown"):
        await NOT_REPEATED[verb](store)
    assert database.sent == 1


async def test_given_up_the_outcome_is_still_unknown(
    store: D1WorkflowStore, database: LosingDatabase, waits: Waits
) -> None:
    database.lose, database.sent = 99, 0
    with pytest.raises(StoreUnavailableError, match="outcome is unknown"):
        await store.create_run(**run("a"))
    assert (database.sent, len(waits.seconds)) == (3, 2)


async def test_refusal_is_not_repeated(store: D1WorkflowStore, database: LosingDatabase) -> None:
    await store.database.prepare("ALTER TABLE workflow_timers RENAME COLUMN fire_at TO at").run()
    database.sent = 0
    with pytest.raises(StoreOperationError):
        await store.load_execution(run_id="a")
    assert database.sent == 1
