"""Statements that had to wait for the head decide by what is there then, not by what was before.

Each test holds the row by a transaction of its own, lets the store's call queue up behind it, and only then commits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from workflow_runtime.errors import LeaseLostError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Awaited, NewEvent, RunToCreate, SignalToDeliver, Timer
from workflow_store_postgres import PostgresWorkflowStore

if TYPE_CHECKING:
    from conftest import Scenes

ONE = JsonText("1")
GO = Awaited(kind="signal", name="go", step_id="wait")

Behind = Callable[..., Any]


@pytest.fixture
async def behind(dsn: str, database: asyncpg.Connection) -> AsyncIterator[Behind]:
    """`async with behind(call, ...)`: the calls wait for the head of run `a` until the block has done its own writes.

    The block gets a store whose calls are part of the transaction that holds the row.
    """
    holder = await asyncpg.connect(dsn)

    @asynccontextmanager
    async def wait_behind(*calls: Awaitable[Any]) -> AsyncIterator[tuple[PostgresWorkflowStore, list[Any]]]:
        answers: list[Any] = []
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("SELECT 1 FROM workflow_event_locks WHERE run_id = 'a' FOR UPDATE")
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until_waiting(database, len(tasks))
        held = PostgresWorkflowStore(PoolOfOne(holder), listen=False)
        yield held, answers
        await held.close()  # or its notices would go out later, on the connection that commits
        await transaction.commit()
        answers += await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)

    yield wait_behind
    await holder.close()


class PoolOfOne:
    """A pool that lends the connection which is in the transaction."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def acquire(self, *, timeout: float | None = None) -> asyncpg.Connection:
        return self._connection

    async def release(self, connection: asyncpg.Connection, *, timeout: float | None = None) -> None:
        assert connection is self._connection


async def until_waiting(database: asyncpg.Connection, count: int) -> None:
    async with asyncio.timeout(20):
        while (
            await database.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            < count
        ):
            await asyncio.sleep(0.005)


def signal(store: PostgresWorkflowStore, signal_id: str = "s", **options: Any) -> Awaitable[Any]:
    values: dict[str, Any] = {"run_id": "a", "signal_id": signal_id, "name": "go", "payload": ONE, "now_ms": 5}
    return store.deliver_signal(**values | options)


def pause(store: PostgresWorkflowStore, token: str, **options: Any) -> Awaitable[Any]:
    values: dict[str, Any] = {
        "run_id": "a",
        "lease_token": token,
        "operation_id": "pause",
        "expected_next_index": 0,
        "seen_inbox_seq": 0,
        "now_ms": 5,
        "awaited": [GO],
    }
    return store.mark_run_paused(**values | options)


async def test_delivery_that_commits_while_a_pause_waits_is_not_missed(scenes: "Scenes", behind: Behind) -> None:
    lease = await scenes.running("a")
    async with behind(pause(scenes.store, lease.token)) as (holder, answers):
        assert (await signal(holder)).kind == "buffered"
    assert answers[0].status == "queued"
    claimed = await scenes.store.claim_run(run_id="a", owner="w", lease_ms=1, now_ms=5, max_crashes=3)
    assert claimed.kind == "claimed"
    assert [entry.delivery_id for entry in claimed.claim.inbox] == ["s"]


async def test_delivery_that_waits_for_a_pause_wakes_the_run(scenes: "Scenes", behind: Behind) -> None:
    lease = await scenes.running("a")
    async with behind(signal(scenes.store)) as (holder, answers):
        assert (await pause(holder, lease.token)).status == "paused"
    assert answers[0].kind == "delivered"
    run = await scenes.store.load_run(run_id="a")
    assert run is not None
    assert (run.status, run.due_at_ms) == ("queued", 5)


async def test_delivery_that_waits_for_its_twin_is_a_duplicate(scenes: "Scenes", behind: Behind) -> None:
    await scenes.waiting("a", "go")
    async with behind(signal(scenes.store), signal(scenes.store, "other")) as (holder, answers):
        assert (await signal(holder)).inbox_seq == 1
    assert [(answer.kind, answer.inbox_seq) for answer in answers] == [("duplicate", 1), ("buffered", 2)]


async def test_delivery_that_waits_for_the_end_of_the_run_is_too_late(scenes: "Scenes", behind: Behind) -> None:
    await scenes.queued("a")
    async with behind(signal(scenes.store)) as (holder, answers):
        await holder.terminate_run(run_id="a", now_ms=5)
    assert answers[0].kind == "finished"
    assert await scenes.store.read_inbox(run_id="a", limit=5) == ()


async def test_delivery_only_if_waiting_decides_after_its_wait(scenes: "Scenes", behind: Behind) -> None:
    await scenes.waiting("a", "go")
    async with behind(signal(scenes.store, only_if_waiting=True)) as (holder, answers):
        await holder.cancel_run(run_id="a", now_ms=5)
    assert (answers[0].kind, answers[0].status) == ("not-waiting", "queued")


async def test_second_request_to_cancel_waits_and_is_a_duplicate(scenes: "Scenes", behind: Behind) -> None:
    await scenes.queued("a")
    async with behind(scenes.store.cancel_run(run_id="a", now_ms=5)) as (holder, answers):
        await holder.cancel_run(run_id="a", now_ms=5)
    assert (answers[0].kind, answers[0].inbox_seq) == ("duplicate", 1)


async def test_pause_that_waits_for_a_new_timer_is_due_by_it(scenes: "Scenes", behind: Behind) -> None:
    lease = await scenes.running("a")
    timer: dict[str, Any] = {"lease_token": lease.token, "operation_id": "t", "timer_id": "t", "now_ms": 5}
    late = pause(scenes.store, lease.token, set_timers=[Timer(timer_id="u", fire_at_ms=90)])
    async with behind(late) as (holder, answers):
        await holder.schedule_timer(run_id="a", fire_at_ms=70, **timer)
    assert answers[0].status == "paused"
    run = await scenes.store.load_run(run_id="a")
    assert run is not None
    assert run.due_at_ms == 70


async def test_end_that_waits_for_a_new_timer_removes_it(
    scenes: "Scenes", behind: Behind, database: asyncpg.Connection
) -> None:
    lease = await scenes.running("a")
    end = scenes.store.mark_run_finished(
        run_id="a", lease_token=lease.token, operation_id="e", expected_next_index=0, output=ONE, now_ms=5
    )
    async with behind(end) as (holder, answers):
        await holder.schedule_timer(
            run_id="a", lease_token=lease.token, operation_id="t", timer_id="t", fire_at_ms=70, now_ms=5
        )
    assert answers == [None]
    assert await database.fetchval("SELECT count(*) FROM workflow_timers") == 0


@pytest.mark.parametrize("how", ["delete", "terminate"])
async def test_removal_that_waits_for_a_write_leaves_nothing_of_it(
    scenes: "Scenes", behind: Behind, database: asyncpg.Connection, how: str
) -> None:
    lease = await scenes.running("a")
    store = scenes.store
    removals: dict[str, Callable[[], Awaitable[Any]]] = {
        "delete": lambda: store.delete_run(run_id="a", now_ms=5, force=True),
        "terminate": lambda: store.terminate_run(run_id="a", now_ms=5),
    }
    async with behind(removals[how]()) as (holder, answers):
        await signal(holder)
        await pause(
            holder,
            lease.token,
            events=[NewEvent(kind="step", payload=ONE)],
            set_timers=[Timer(timer_id="t", fire_at_ms=70)],
        )
    assert answers[0].kind in {"deleted", "terminated"}
    assert await database.fetchval("SELECT count(*) FROM workflow_timers") == 0
    if how == "delete":
        for table in ("events", "signal_deliveries", "event_locks", "runs", "run_states"):
            assert await database.fetchval(f"SELECT count(*) FROM workflow_{table}") == 0


async def test_append_that_waits_for_its_twin_gets_its_answer(scenes: "Scenes", behind: Behind) -> None:
    lease = await scenes.running("a")
    append: dict[str, Any] = {
        "run_id": "a",
        "lease_token": lease.token,
        "operation_id": "o",
        "expected_next_index": 0,
        "events": [NewEvent(kind="step", payload=ONE)],
        "now_ms": 5,
        "lease_ms": 10_000_000,
    }
    async with behind(scenes.store.append_events(**append)) as (holder, answers):
        first = await holder.append_events(**append)
    assert answers == [first]
    assert len(await scenes.store.read_events(run_id="a", limit=5)) == 1


async def test_append_that_waits_for_a_steal_is_refused(scenes: "Scenes", behind: Behind) -> None:
    lease = await scenes.running("a")
    append = scenes.store.append_events(
        run_id="a",
        lease_token=lease.token,
        operation_id="o",
        expected_next_index=0,
        events=[NewEvent(kind="step")],
        now_ms=5,
        lease_ms=5,
    )
    async with behind(append) as (holder, answers):
        stolen = await holder.claim_stale_runs(
            owner="thief", lease_ms=5, now_ms=scenes.now_ms + scenes.lease_ms, limit=1, max_crashes=9
        )
        assert len(stolen.claims) == 1
    assert isinstance(answers[0], LeaseLostError)
    assert await scenes.store.read_events(run_id="a", limit=5) == ()


async def test_claim_by_id_that_waits_brings_the_newest_history(scenes: "Scenes", behind: Behind) -> None:
    lease = await scenes.running("a")
    await scenes.store.release_run_lease(run_id="a", lease_token=lease.token, operation_id="r", now_ms=5)
    claim: dict[str, Any] = {"run_id": "a", "owner": "w", "lease_ms": 5, "now_ms": 5, "max_crashes": 9}
    async with behind(scenes.store.claim_run(**claim)) as (holder, answers):
        taken = await holder.claim_run(**claim)
        token = taken.claim.lease.token
        await holder.append_events(
            run_id="a",
            lease_token=token,
            operation_id="o",
            expected_next_index=0,
            events=[NewEvent(kind="step", payload=ONE)],
            now_ms=5,
            lease_ms=5,
        )
        await signal(holder)
        await holder.release_run_lease(run_id="a", lease_token=token, operation_id="q", now_ms=5)
    claimed = answers[0].claim
    assert claimed.run.next_index == len(claimed.history) == 1
    assert claimed.run.inbox_seq == len(claimed.inbox) == 1
    assert claimed.lease.number == 3


async def test_sweep_goes_past_a_run_that_somebody_holds(scenes: "Scenes", database: asyncpg.Connection) -> None:
    for run_id in ("a", "b", "c"):
        await scenes.queued(run_id)
    async with database.transaction():
        await database.execute("SELECT 1 FROM workflow_event_locks WHERE run_id = 'a' FOR UPDATE")
        batch = await asyncio.wait_for(
            scenes.store.claim_pending_runs(owner="w", lease_ms=5, now_ms=scenes.now_ms, limit=2), 20
        )
        assert [claim.run.run_id for claim in batch.claims] == ["b", "c"]
        assert batch.next_due_ms == scenes.now_ms


async def test_creation_that_waits_for_its_twin_brings_the_stored_run(scenes: "Scenes", dsn: str) -> None:
    run: dict[str, Any] = {"run_id": "a", "workflow_id": "w", "workflow_version": "1", "input": ONE, "now_ms": 5}
    holder = await asyncpg.connect(dsn)
    transaction = holder.transaction()
    await transaction.start()
    await PostgresWorkflowStore(PoolOfOne(holder), listen=False).create_run(**run, operation_id="first")
    late = asyncio.ensure_future(scenes.store.create_run(**run, operation_id="second"))
    looker = await asyncpg.connect(dsn)
    await until_waiting(looker, 1)
    await transaction.commit()
    answer = await asyncio.wait_for(late, 20)
    assert (answer.kind, answer.run.run_id) == ("existing", "a")
    await looker.close()
    await holder.close()


async def test_sweep_leaves_a_run_that_moved_on_since_it_began(
    scenes: "Scenes", dsn: str, database: asyncpg.Connection
) -> None:
    """The claim is held up after it has read the run as of its beginning, and before it locks it."""
    lease = await scenes.running("a")
    await scenes.store.release_run_lease(run_id="a", lease_token=lease.token, operation_id="r", now_ms=5)
    await database.execute("SELECT pg_advisory_lock(1)")
    async with PostgresWorkflowStore.connect(dsn, max_size=1) as slow:
        place = "SELECT candidate.run_id FROM candidate"
        sql = slow._sender.sql("claim_pending_runs")
        assert sql.count(place) == 1
        held_up = sql.replace(place, f"{place} WHERE (SELECT pg_advisory_xact_lock(1)) IS NOT NULL")
        slow._sender._sql = {"claim_pending_runs": held_up}
        late = asyncio.ensure_future(slow.claim_pending_runs(owner="w", lease_ms=5, now_ms=5, limit=1))
        await until_waiting(database, 1)
        again = await scenes.store.claim_run(run_id="a", owner="v", lease_ms=5, now_ms=5, max_crashes=9)
        assert again.kind == "claimed"
        await scenes.append("a", again.claim.lease, 0, [ONE])
        token = again.claim.lease.token
        await scenes.store.release_run_lease(run_id="a", lease_token=token, operation_id="q", now_ms=5)
        await database.execute("SELECT pg_advisory_unlock(1)")
        batch = await asyncio.wait_for(late, 20)
    assert batch.corrupt == ()
    (claim,) = batch.claims
    assert (claim.run.next_index, len(claim.history), claim.lease.number) == (1, 1, 3)


@pytest.mark.parametrize("held", [("a",), ("a", "c")])
async def test_heartbeats_of_many_wait_for_nobody(
    scenes: "Scenes", database: asyncpg.Connection, held: tuple[str, ...]
) -> None:
    """Heads that somebody holds are busy, and the others are renewed at once; free again, they are renewed too."""
    leases = [("a", "old"), *[(run_id, (await scenes.running(run_id)).token) for run_id in "abc"]]
    beats: dict[str, Any] = {"leases": leases, "lease_ms": 10**6, "now_ms": scenes.now_ms}
    async with database.transaction():
        await database.execute("SELECT 1 FROM workflow_event_locks WHERE run_id = ANY($1) FOR UPDATE", held)
        answers = await asyncio.wait_for(scenes.store.heartbeat_run_leases(**beats), 20)
        kinds = ["busy" if run_id in held else "renewed" for run_id in "abc"]
        assert [answer.kind for answer in answers] == ["lost", *kinds]
        assert [await long_leased(scenes, run_id) for run_id in "abc"] == [run_id not in held for run_id in "abc"]
    answers = await scenes.store.heartbeat_run_leases(**beats)
    assert [answer.kind for answer in answers] == ["lost", "renewed", "renewed", "renewed"]
    assert [await long_leased(scenes, run_id) for run_id in "abc"] == [True] * 3


async def test_heartbeat_among_many_leaves_a_run_that_was_taken_since_it_began(
    scenes: "Scenes", dsn: str, database: asyncpg.Connection
) -> None:
    """The call is held up after its beginning, and before it locks the run: it renews nothing of the new holder."""
    leases = [(run_id, (await scenes.running(run_id)).token) for run_id in ("a", "b")]
    await database.execute("SELECT pg_advisory_lock(1)")
    async with PostgresWorkflowStore.connect(dsn, max_size=1) as slow:
        place = "AS pair (run_id, lease_token, place)"
        sql = slow._sender.sql("heartbeat_run_leases")
        assert sql.count(place) == 1
        held_up = sql.replace(place, f"{place} WHERE (SELECT pg_advisory_xact_lock(1)) IS NOT NULL")
        slow._sender._sql = {"heartbeat_run_leases": held_up}
        late = asyncio.ensure_future(slow.heartbeat_run_leases(leases=leases, lease_ms=10**6, now_ms=scenes.now_ms))
        await until_waiting(database, 1)
        taken = await scenes.store.claim_run(
            run_id="a", owner="v", lease_ms=5, now_ms=scenes.now_ms + 10**5, max_crashes=9
        )
        assert taken.kind == "claimed"
        await database.execute("SELECT pg_advisory_unlock(1)")
        answers = await asyncio.wait_for(late, 20)
    assert [answer.kind for answer in answers] == ["busy", "renewed"]
    assert [await long_leased(scenes, run_id) for run_id in ("a", "b")] == [False, True]
    again = await scenes.store.heartbeat_run_leases(leases=leases, lease_ms=10**6, now_ms=scenes.now_ms)
    assert [answer.kind for answer in again] == ["lost", "renewed"]


def bulk_signals(*run_ids: str) -> list[SignalToDeliver]:
    return [SignalToDeliver(run_id=run_id, signal_id="s", name="go", payload=ONE) for run_id in run_ids]


async def inbox_of(store: PostgresWorkflowStore, run_id: str) -> list[tuple[int, str]]:
    return [(entry.inbox_seq, entry.delivery_id) for entry in await store.read_inbox(run_id=run_id, limit=99)]


async def test_deliveries_of_many_do_not_wait_with_one(
    scenes: "Scenes", database: asyncpg.Connection, behind: Behind
) -> None:
    """Somebody holds a head: the signals for others are there at once, and the call waits for that one alone."""
    for run_id in "abc":
        await scenes.waiting(run_id, "go")
    sent = bulk_signals("c", "a", "b", "a")
    async with behind(scenes.store.deliver_signals(signals=sent, now_ms=5)) as (holder, answers):
        assert [await inbox_of(scenes.store, run_id) for run_id in "abc"] == [[], [(1, "s")], [(1, "s")]]
        async with database.transaction():  # nothing of theirs is locked any more
            await database.execute("SELECT 1 FROM workflow_event_locks WHERE run_id IN ('b', 'c') FOR UPDATE NOWAIT")
        assert (await signal(holder, "other")).inbox_seq == 1
    assert [(answer.kind, answer.inbox_seq) for answer in answers[0]] == [
        ("delivered", 1),
        ("buffered", 2),
        ("delivered", 1),
        ("duplicate", 2),
    ]


async def test_deliveries_of_many_in_opposite_orders_do_not_wait_for_each_other(
    scenes: "Scenes", database: asyncpg.Connection, dsn: str
) -> None:
    """One statement is held up when it has locked its first head: another one goes past it, and comes back."""
    for run_id in "abc":
        await scenes.running(run_id)
    await database.execute("SELECT pg_advisory_lock(1)")
    async with PostgresWorkflowStore.connect(dsn, max_size=1) as slow:
        place = "FROM locked\n)"
        sql = slow._sender.sql("deliver_signals")
        assert sql.count(place) == 1
        held_up = sql.replace(place, "FROM locked WHERE pg_advisory_xact_lock(1) IS NOT NULL\n)")
        slow._sender._sql = {**slow._sender._sql, "deliver_signals": held_up}
        first = asyncio.ensure_future(slow.deliver_signals(signals=bulk_signals("a", "b"), now_ms=5))
        await until_waiting(database, 1)
        second = asyncio.ensure_future(scenes.store.deliver_signals(signals=bulk_signals("c", "b", "a"), now_ms=5))
        await until_waiting(database, 2)
        assert [await inbox_of(scenes.store, run_id) for run_id in "abc"] == [[], [(1, "s")], [(1, "s")]]
        await database.execute("SELECT pg_advisory_unlock(1)")
        answers = await asyncio.wait_for(asyncio.gather(first, second), 20)
    assert [[answer.kind for answer in told] for told in answers] == [
        ["buffered", "duplicate"],
        ["buffered", "buffered", "duplicate"],
    ]


MEANWHILE: dict[str, tuple[Callable[["Scenes"], Awaitable[Any]], tuple[str, int | None]]] = {
    "delivered": (lambda scenes: signal(scenes.store, "s"), ("duplicate", 1)),
    "ended": (lambda scenes: scenes.store.terminate_run(run_id="a", now_ms=5), ("finished", None)),
    "deleted": (lambda scenes: scenes.store.delete_run(run_id="a", now_ms=5), ("not-found", None)),
}


@pytest.mark.parametrize("what", MEANWHILE)
async def test_delivery_among_many_knows_what_came_since_it_began(
    scenes: "Scenes", dsn: str, database: asyncpg.Connection, what: str
) -> None:
    """The call is held up after it has looked at the inbox, and before it locks the head."""
    for run_id in "ab":
        await scenes.waiting(run_id, "go")
    call, expected = MEANWHILE[what]
    await database.execute("SELECT pg_advisory_lock(1)")
    async with PostgresWorkflowStore.connect(dsn, max_size=1) as slow:
        place = "FROM wanted\n"
        sql = slow._sender.sql("deliver_signals")
        assert sql.count(place) == 1
        slowly = "FROM (SELECT * FROM wanted WHERE pg_advisory_xact_lock(1) IS NOT NULL) AS wanted\n"
        slow._sender._sql = {**slow._sender._sql, "deliver_signals": sql.replace(place, slowly)}
        late = asyncio.ensure_future(slow.deliver_signals(signals=bulk_signals("a", "b"), now_ms=5))
        await until_waiting(database, 1)
        await call(scenes)
        await database.execute("SELECT pg_advisory_unlock(1)")
        answers = await asyncio.wait_for(late, 20)
    told = [(answer.kind, getattr(answer, "inbox_seq", None)) for answer in answers]
    assert told == [expected, ("delivered", 1)]
    assert await inbox_of(scenes.store, "a") == ([(1, "s")] if what == "delivered" else [])


async def test_creations_of_many_in_opposite_orders_do_not_wait_for_each_other_for_ever(
    scenes: "Scenes", dsn: str, database: asyncpg.Connection
) -> None:
    """A call waits for an id that a transaction has created, and holds others that a second call wants."""
    runs = [
        RunToCreate(run_id=run_id, workflow_id="w", workflow_version="1", input=ONE, operation_id=f"o-{run_id}")
        for run_id in "abcd"
    ]
    holder = await asyncpg.connect(dsn)
    transaction = holder.transaction()
    await transaction.start()
    held = PostgresWorkflowStore(PoolOfOne(holder), listen=False)
    assert [answer.kind for answer in await held.create_runs(runs=runs[2:3], now_ms=5)] == ["created"]
    await held.close()
    first = asyncio.ensure_future(scenes.store.create_runs(runs=runs, now_ms=5))
    await until_waiting(database, 1)
    second = asyncio.ensure_future(
        scenes.store.create_runs(runs=[replace(run, operation_id="second") for run in runs[::-1]], now_ms=5)
    )
    await until_waiting(database, 2)
    await transaction.commit()
    answers = await asyncio.wait_for(asyncio.gather(first, second), 20)
    assert [answer.kind for answer in answers[0]] == ["created"] * 4
    assert [answer.kind for answer in answers[1]] == ["existing"] * 4
    deadlocks = await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0
    await holder.close()


async def long_leased(scenes: "Scenes", run_id: str) -> bool:
    """Return whether a run's lease was renewed for long."""
    run = await scenes.store.load_run(run_id=run_id)
    assert run is not None
    assert run.lease_expires_at_ms is not None
    return run.lease_expires_at_ms == scenes.now_ms + 10**6
