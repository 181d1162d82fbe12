"""The store over HTTP, whose answers get lost: what it did is recognised and done once."""

from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any

import pytest
from workflow_runtime import meter_queries
from workflow_runtime.errors import ConfigurationError, QueryLimitReachedError, StoreUnavailableError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Awaited, NewEvent, TransactionWrite
from workflow_store_d1 import D1WorkflowStore, Retries
from workflow_test_support.relays.http_relay import Relay, cut_before, gateway, lose_answer, relay_to
from workflow_test_support.servers.d1_rest import RestDatabase

ONE = JsonText("1")
HELD: dict[str, Any] = {"owner": "x", "lease_ms": 1_000}
BATCH: dict[str, Any] = {**HELD, "now_ms": 5_000, "limit": 2}
QUICK = Retries(attempts=5, first_wait=timedelta(milliseconds=1))


@pytest.fixture
async def relay(rest: RestDatabase) -> AsyncIterator[Relay]:
    async with relay_to(rest.base_url) as relay:
        yield relay


@pytest.fixture
async def store(rest: RestDatabase, relay: Relay) -> AsyncIterator[D1WorkflowStore]:
    arguments = {**rest.arguments, "base_url": relay.url, "retries": QUICK}
    async with D1WorkflowStore.connect_http(**arguments) as store:
        await store.ensure_schema()
        yield store


async def lost(relay: Relay, call: Awaitable[Any]) -> Any:
    """Make a call whose first two answers are lost in two ways, and which is then cut off; give the answer at last."""
    relay.next(lose_answer, gateway(502, forwarded=True), cut_before)
    answer = await call
    assert not relay.faults
    return answer


def run(run_id: str, **options: Any) -> dict[str, Any]:
    facts = {"workflow_id": "w", "workflow_version": "1", "input": ONE, "operation_id": "create", "now_ms": 1}
    return {"run_id": run_id, **facts, **options}


async def test_start_and_drivers_writes(store: D1WorkflowStore, relay: Relay) -> None:
    created = await lost(relay, store.create_run(**run("a", **HELD)))
    assert (created.kind, created.claim.lease.number) == ("created", 1)
    held: dict[str, Any] = {"run_id": "a", "lease_token": created.claim.lease.token}
    append = store.append_events(
        **held, operation_id="o", expected_next_index=0, events=[NewEvent(kind="k")], now_ms=2, lease_ms=1_000
    )
    assert (await lost(relay, append)).next_index == 1
    assert (await lost(relay, store.heartbeat_run_lease(**held, lease_ms=9, now_ms=3))).lease_expires_at_ms == 1_002
    finish = store.mark_run_finished(**held, operation_id="f", expected_next_index=1, output=ONE, now_ms=4)
    await lost(relay, finish)
    kept = await store.load_execution(run_id="a")
    assert kept is not None
    assert (kept.run.status, kept.run.next_index, len(kept.history)) == ("finished", 1, 1)


async def test_delivery(store: D1WorkflowStore, relay: Relay) -> None:
    created: Any = await store.create_run(**run("a", **HELD))
    await store.mark_run_paused(
        run_id="a",
        lease_token=created.claim.lease.token,
        operation_id="p",
        expected_next_index=0,
        seen_inbox_seq=0,
        now_ms=2,
        awaited=[Awaited(kind="signal", name="go", step_id="w")],
    )
    await lost(relay, store.deliver_signal(run_id="a", signal_id="s", name="go", payload=ONE, now_ms=3))
    await lost(relay, store.deliver_approval(run_id="a", approval_id="b", approved=False, now_ms=4))
    entries = await store.read_inbox(run_id="a", limit=9)
    assert [(entry.inbox_seq, entry.kind) for entry in entries] == [(1, "signal"), (2, "approval")]


async def test_claim(store: D1WorkflowStore, relay: Relay) -> None:
    for number in range(5):
        await store.create_run(**run(f"r{number}"))
    batch = await lost(relay, store.claim_pending_runs(**BATCH))
    assert [claim.run.run_id for claim in batch.claims] == ["r0", "r1"]
    one = await lost(relay, store.claim_run(run_id="r2", **HELD, now_ms=5_000, max_crashes=3))
    assert one.claim.lease.number == 1
    rest = await store.claim_pending_runs(**{**BATCH, "limit": 9})
    assert [claim.run.run_id for claim in rest.claims] == ["r3", "r4"]


async def test_tick(store: D1WorkflowStore, relay: Relay) -> None:
    await store.upsert_schedule(
        schedule_id="s", workflow_id="w", workflow_version="1", spec=ONE, input=ONE, now_ms=1, next_fire_at_ms=5
    )
    (tick,) = (await lost(relay, store.claim_due_schedule_buckets(**BATCH))).buckets
    settle = store.mark_schedule_bucket_started(
        schedule_id="s",
        fire_at_ms=5,
        lease_token=tick.lease.token,
        operation_id="o",
        expected_revision=1,
        action="start",
        run_id="ticked",
        next_fire_at_ms=99,
        now_ms=6,
    )
    assert (await lost(relay, settle)).kind == "started"
    assert [item.run_id for item in (await store.list_runs(limit=9)).runs] == ["ticked"]
    assert (await store.get_schedule(schedule_id="s")).next_fire_at_ms == 99


async def test_transaction(store: D1WorkflowStore, relay: Relay, rest: RestDatabase) -> None:
    """The guard refuses the repeat, and the record tells that it is one: the business row is written once."""
    rest.run("CREATE TABLE business (key TEXT)")
    created: Any = await store.create_run(**run("a", **HELD))

    async def work(tx: Any) -> TransactionWrite:
        tx.add("INSERT INTO business VALUES (?1)", "paid")
        relay.next(lose_answer, gateway(502, forwarded=True), cut_before)
        return TransactionWrite(expected_next_index=0, events=(NewEvent(kind="k"),), now_ms=2, lease_ms=9)

    token = created.claim.lease.token
    done = await store.append_in_transaction(run_id="a", lease_token=token, operation_id="o", work=work)
    assert (done.next_index, relay.faults) == (1, {})
    assert rest.run("SELECT key FROM business") == [{"key": "paid"}]


async def test_what_is_not_recognised_says_so(store: D1WorkflowStore, relay: Relay) -> None:
    await store.create_run(**run("a"))
    relay.next(lose_answer)
    with pytest.raises(StoreUnavailableError, match="outcome is unknown"):
        await store.delete_run(run_id="a", now_ms=2)
    assert (await store.delete_run(run_id="a", now_ms=2)).kind == "not-found"


async def test_store_that_stays_away(store: D1WorkflowStore, relay: Relay) -> None:
    relay.always, relay.requests = gateway(503), 0
    with pytest.raises(StoreUnavailableError, match=r"HTTP 503.*outcome is unknown"):
        await store.create_run(**run("a"))
    assert relay.requests == QUICK.attempts


async def test_reads_are_repeated_by_one_of_the_two_only(store: D1WorkflowStore, relay: Relay) -> None:
    relay.always, relay.requests = gateway(503), 0
    with pytest.raises(StoreUnavailableError):
        await store.load_execution(run_id="a")
    assert relay.requests == QUICK.attempts


async def test_opened_by_await_with_tables_of_other_names(rest: RestDatabase) -> None:
    store = await D1WorkflowStore.connect_http(**rest.arguments, tables={"runs": "audit runs"})
    await store.ensure_schema()
    assert await store.read_clock() > 0
    await store.close()
    with pytest.raises(ConfigurationError, match="the store is closed"):
        await store.read_clock()
    assert rest.run("SELECT count(*) AS n FROM sqlite_master WHERE name = 'audit runs'") == [{"n": 1}]


async def test_wrong_token_is_the_stores_error(rest: RestDatabase) -> None:
    async with D1WorkflowStore.connect_http(**{**rest.arguments, "token": "0wrong0"}) as store:
        with pytest.raises(Exception, match="D1:Edit") as refused:
            await store.ensure_schema()
    assert type(refused.value).__name__ == "StoreAccessError"
    assert "0wrong0" not in str(refused.value)


async def test_heartbeats_have_a_connection_of_their_own(store: D1WorkflowStore) -> None:
    created: Any = await store.create_run(**run("a", **HELD))
    assert store.capabilities.heartbeats
    async with store.open_heartbeats() as beats:
        renewed = await beats.heartbeat_run_lease(
            run_id="a", lease_token=created.claim.lease.token, lease_ms=5_000, now_ms=2
        )
    assert renewed.lease_expires_at_ms == 5_002


async def test_what_the_database_repeats_by_itself_counts_too(store: D1WorkflowStore, relay: Relay) -> None:
    """No more is sent than the meter allows, whoever sends it again."""
    with meter_queries() as meter:
        relay.next(lose_answer, gateway(429))
        await store.read_clock()
        assert (meter.queries, meter.requests) == (3, 3)
        relay.next(gateway(429))
        await store.create_run(**run("a"))
    assert (meter.queries, meter.requests) == (3 + 2 * 4, 5)
    before = relay.requests
    relay.always = gateway(429)
    with meter_queries(2) as meter, pytest.raises(QueryLimitReachedError):
        await store.read_clock()
    assert (meter.queries, relay.requests - before) == (2, 2)


async def test_repeat_that_may_not_be_sent_leaves_open_what_came_before(store: D1WorkflowStore, relay: Relay) -> None:
    """The first answer was lost, the second try was told to wait, and the third is one too many."""
    relay.next(lose_answer, gateway(429))
    with meter_queries(8), pytest.raises(StoreUnavailableError, match="outcome is unknown"):
        await store.create_run(**run("a"))
    assert await store.load_run(run_id="a") is not None


async def test_statements_of_your_own_are_not_counted(store: D1WorkflowStore, relay: Relay) -> None:
    with meter_queries(0) as meter:
        relay.next(gateway(429))
        await store.database.prepare("SELECT 1").all()
    assert meter.queries == 0
