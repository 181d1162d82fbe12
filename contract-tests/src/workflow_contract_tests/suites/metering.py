"""METER: queries are counted before they are sent, and none is sent beyond the limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from workflow_runtime.errors import QueryLimitReachedError
from workflow_runtime.metering import QueryMeter, meter_queries
from workflow_runtime.store import (
    MAX_BULK_RUNS,
    MAX_HEARTBEAT_LEASES,
    NewEvent,
    QueryCosts,
    RunStatus,
    SignalToDeliver,
    SupportsTransactions,
    TransactionWrite,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..levels import SCHEDULE_VERBS
from ..samples import LEASE_MS, event
from ..scenarios import create, create_arguments, run_to_create, start, start_full, start_waiting, unchanged
from ..ticking import claim_tick, has_schedules, request, schedule_arguments, settle, upsert
from ..verbs import (
    CLAIM_DUE_TIMERS,
    CLAIM_PENDING_RUNS,
    CLAIM_VERBS,
    RELEASE_RUN_LEASE,
    SCHEDULE_TIMER,
    WRITES_WITH_EVENTS,
    ClaimVerb,
    LeaseVerb,
)

_MANY_EVENTS = 101
"""More events than any database takes in one statement."""

Call = Callable[[], Awaitable[Any]]


def _costs(h: StoreHarness) -> QueryCosts:
    costs = h.store.capabilities.metered
    assert costs is not None, "the store does not declare what its calls cost"
    return costs


async def _metered(call: Call, what: str, *, at_most: int) -> QueryMeter:
    """Make a call, assert that it takes at most so many queries, and return its meter."""
    with meter_queries() as meter:
        await call()
    assert meter.queries > 0, f"{what} counted no query"
    assert meter.queries <= at_most, f"{what} took {meter.queries} queries, declared are {at_most}"
    assert 0 < meter.requests <= meter.queries, f"{what} counted {meter.requests} round trips"
    return meter


def _from_outside(h: StoreHarness, run_id: str) -> dict[str, Call]:
    """Return every call that needs no lease and no claimed tick, by its verb."""
    store, now_ms = h.store, h.now_ms
    run: dict[str, Any] = {"run_id": run_id}
    timed = run | {"now_ms": now_ms}
    claim = timed | {"owner": "w", "lease_ms": LEASE_MS, "max_crashes": 3}
    many = [run_id, *(f"other-{number}" for number in range(MAX_BULK_RUNS - 1))]
    return {
        "load_run": lambda: store.load_run(**run),
        "load_execution": lambda: store.load_execution(**run),
        "read_events": lambda: store.read_events(**run, limit=10),
        "read_inbox": lambda: store.read_inbox(**run, limit=10),
        "read_clock": store.read_clock,
        "check_schema": store.check_schema,
        "get_run_timeline": lambda: store.get_run_timeline(**run),
        "list_runs": lambda: store.list_runs(limit=10),
        "count_runs": store.count_runs,
        "list_pending_runs": lambda: store.list_pending_runs(now_ms=now_ms, limit=10),
        "list_schedules": lambda: store.list_schedules(limit=10),
        "create_run": lambda: store.create_run(**create_arguments(h)),
        "deliver_signal": lambda: store.deliver_signal(**timed, signal_id=h.new_id("s"), name="go", payload=None),
        "deliver_approval": lambda: store.deliver_approval(**timed, approval_id=h.new_id("a"), approved=True),
        "deliver_retry": lambda: store.deliver_retry(**timed, retry_id=h.new_id("r")),
        "cancel_run": lambda: store.cancel_run(**timed),
        "claim_run": lambda: store.claim_run(**claim),
        "requeue_run": lambda: store.requeue_run(**timed),
        "fork_run": lambda: store.fork_run(
            **timed, new_run_id=h.new_id("fork"), from_index=0, event=event("1"), operation_id=h.new_id("op")
        ),
        "terminate_run": lambda: store.terminate_run(**timed),
        "cancel_runs": lambda: store.cancel_runs(run_ids=many, now_ms=now_ms),
        "terminate_runs": lambda: store.terminate_runs(run_ids=many, now_ms=now_ms),
        "requeue_runs": lambda: store.requeue_runs(run_ids=many, now_ms=now_ms),
        "retry_runs": lambda: store.retry_runs(run_ids=many, event=NewEvent(kind="retried"), now_ms=now_ms),
        "create_runs": lambda: store.create_runs(
            runs=[run_to_create(h, one) for one in (*many[1:], run_id)], now_ms=now_ms
        ),
        "deliver_signals": lambda: store.deliver_signals(
            signals=[SignalToDeliver(run_id=one, signal_id=h.new_id("s"), name="go") for one in many], now_ms=now_ms
        ),
        "retry_run": lambda: store.retry_run(
            **timed, event=NewEvent(kind="retried"), statuses=[RunStatus.ABORTED, RunStatus.ERRORED]
        ),
        "upsert_schedule": lambda: store.upsert_schedule(**schedule_arguments(h, "metered")),
        "request_schedule_buckets": lambda: store.request_schedule_buckets(
            schedule_id="metered", fire_times_ms=[now_ms], now_ms=now_ms
        ),
        "list_requested_buckets": lambda: store.list_requested_buckets(schedule_id="metered", limit=10),
        "get_schedule": lambda: store.get_schedule(schedule_id="metered"),
        "delete_schedule": lambda: store.delete_schedule(schedule_id="metered"),
        "prune_runs": lambda: store.prune_runs(finished_before_ms=now_ms, limit=10),
        "delete_run": lambda: store.delete_run(**timed, force=True),
    }


_READS = frozenset({"load_run", "read_events", "read_inbox", "read_clock", "check_schema"})


@clause("METER-1", "METER-4", capability="metered")
async def every_call_counts_and_costs_what_is_declared(h: StoreHarness) -> None:
    """Each call of the contract counts a query or more, and none counts more than is declared."""
    costs = _costs(h)
    left_out = frozenset() if await has_schedules(h) else SCHEDULE_VERBS
    for verb, call in _from_outside(h, (await create(h)).run_id).items():
        if verb in left_out:
            continue
        bound = costs.read if verb in _READS else costs.claim if verb == "claim_run" else costs.call
        await _metered(call, verb, at_most=bound)


@clause("METER-1", "METER-4", each=CLAIM_VERBS, capability="metered")
async def claims_cost_the_same_however_many_runs_they_take(h: StoreHarness, verb: ClaimVerb) -> None:
    """A claim of twenty runs with logs, inboxes and timers takes no more than is declared."""
    for _ in range(20):
        holder = await start_full(h)
        if verb is CLAIM_PENDING_RUNS:
            await holder.release()
        elif verb is CLAIM_DUE_TIMERS:
            await holder.pause(timers={"due": h.now_ms + 1}, seen_inbox_seq=holder.seen + 1)
    h.advance(2 * LEASE_MS)
    await _metered(lambda: verb.call(h), verb.name, at_most=_costs(h).claim)


@clause("METER-4", each=WRITES_WITH_EVENTS, capability="metered")
async def writes_cost_what_is_declared(h: StoreHarness, verb: LeaseVerb) -> None:
    """A driver's write of many events that changes all it can takes no more than is declared, nor does its repeat."""
    holder, costs = await start_full(h), _costs(h)
    many = [event(str(number)) for number in range(_MANY_EVENTS)]
    arguments = verb.everything(holder, events=many)
    write = verb.of(h.store)
    for what in (verb.name, f"the repeat of {verb}"):
        await _metered(lambda: write(**arguments), what, at_most=costs.write_of(_MANY_EVENTS))


@clause("METER-1", "METER-4", capability="metered")
async def small_writes_cost_what_is_declared(h: StoreHarness) -> None:
    """A heartbeat, a timer and a release take no more than is declared."""
    holder, costs = await start(h), _costs(h)
    await _metered(holder.heartbeat, "heartbeat_run_lease", at_most=costs.read)
    leases = [
        (holder.run_id, holder.token),
        *((f"other-{number}", "token") for number in range(MAX_HEARTBEAT_LEASES - 1)),
    ]
    many = partial(h.store.heartbeat_run_leases, leases=leases, lease_ms=LEASE_MS, now_ms=h.now_ms)
    for what, leases_of in (("one", leases[:1]), ("many", leases)):
        await _metered(partial(many, leases=leases_of), f"heartbeat_run_leases of {what}", at_most=costs.read)
    for verb, bound in ((SCHEDULE_TIMER, costs.write), (RELEASE_RUN_LEASE, costs.release)):
        await _metered(partial(verb.call, holder), verb.name, at_most=bound)


@clause("METER-1", "METER-4", capability="metered", schedules=True)
async def ticks_cost_what_is_declared(h: StoreHarness) -> None:
    """Claiming ticks, starting a run by one, putting one back and skipping one take no more than is declared."""
    await upsert(h, overlap_policy="allow", next_fire_at_ms=None)
    await request(h, *(h.now_ms + number for number in range(3)))
    costs = _costs(h)
    claim: dict[str, Any] = {
        "owner": "w",
        "lease_ms": LEASE_MS,
        "now_ms": h.now_ms,
        "limit": 1,
        "workflow_ids": ["other"],
    }
    await _metered(lambda: h.store.claim_due_schedule_buckets(**claim), "a claim of ticks", at_most=costs.claim)
    for action, run_id in (("start", h.new_id("run")), ("buffer", None), ("skip", None)):
        call = partial(settle, h, await claim_tick(h, limit=1), action, run_id)
        await _metered(call, f"to {action} a tick", at_most=costs.tick)


@clause("METER-1", capability="metered")
async def tasks_count_for_whom_they_work(h: StoreHarness) -> None:
    """Calls that are made at once by several tasks all count, in every block around them and in no other."""
    with meter_queries() as outer:
        with meter_queries() as inner:
            await asyncio.gather(*(create(h) for _ in range(5)))
        once = await _metered(lambda: h.store.create_run(**create_arguments(h)), "create_run", at_most=_costs(h).call)
    with meter_queries() as other:
        pass
    assert (inner.queries, outer.queries, other.queries) == (5 * once.queries, 6 * once.queries, 0)


@clause("METER-1", "METER-2", capability="metered")
async def nothing_is_done_without_queries(h: StoreHarness) -> None:
    """With a limit of 0 queries every call is refused, and nothing has happened."""
    holder = await start_waiting(h, timers={"due": h.now_ms})
    async with unchanged(h, holder.run_id, after="a call that must not be sent"):
        with meter_queries(max_queries=0) as meter:
            for name, call in _from_outside(h, holder.run_id).items():
                with refused(QueryLimitReachedError, f"{name} without a query to send"):
                    await call()
            for verb in CLAIM_VERBS:
                with refused(QueryLimitReachedError, f"{verb} without a query to send"):
                    await verb.call(h)
    assert (meter.queries, meter.requests, meter.limit_reached) == (0, 0, True)
    assert len((await h.second.list_runs(limit=10)).runs) == 1, "a creation that must not be sent was done"


@clause("METER-2", each=[*WRITES_WITH_EVENTS, SCHEDULE_TIMER, RELEASE_RUN_LEASE], capability="metered")
async def write_is_sent_as_a_whole_or_not_at_all(h: StoreHarness, verb: LeaseVerb) -> None:
    """A write with one query too few has done nothing, and succeeds under the same operation id with enough of them."""
    twin, holder = await start_full(h), await start_full(h)
    write = verb.of(h.store)
    twins = verb.everything(twin)
    needed = (await _metered(lambda: write(**twins), verb.name, at_most=_costs(h).write_of(2))).queries
    arguments = verb.everything(holder)
    for allowed in range(needed):
        async with unchanged(h, holder.run_id, after=f"{verb} with {allowed} queries"):
            with meter_queries(allowed), refused(QueryLimitReachedError, f"{verb} with {allowed} queries"):
                await write(**arguments)
    with meter_queries(needed):
        await write(**arguments)


@clause("METER-1", "METER-2", "METER-4", capability="metered")
async def transaction_counts_the_statements_of_its_function(h: StoreHarness) -> None:
    """Queries of a transaction's function count, and nothing of it stays when they are too many."""
    if not h.store.capabilities.transactions:
        return  # no transactions, so nothing to count
    holder, costs = await start_full(h), _costs(h)

    async def work(tx: Any) -> TransactionWrite:
        for number in range(3):
            await h.write_business(tx, f"row-{number}")
        return TransactionWrite(
            expected_next_index=holder.next_index, events=(event("1"),), now_ms=h.now_ms, lease_ms=LEASE_MS
        )

    def call() -> Awaitable[Any]:
        return cast("SupportsTransactions", h.store).append_in_transaction(
            run_id=holder.run_id, lease_token=holder.token, operation_id="transaction", work=work
        )

    async with unchanged(h, holder.run_id, after="a transaction that is refused"):
        with meter_queries(4), refused(QueryLimitReachedError, "a transaction with 4 queries"):
            await call()
    assert await h.read_business() == []
    meter = await _metered(call, "append_in_transaction", at_most=costs.write_of(1) + costs.call + 3)
    assert meter.queries > 4
    assert len(await h.read_business()) == 3


@clause("METER-3", capability="metered")
async def rows_are_those_that_the_database_tells_of(h: StoreHarness) -> None:
    """If the store counts rows, a creation has written some, and a read has read some and written none."""
    with meter_queries() as created:
        run_id = (await create(h)).run_id
    with meter_queries() as looked:
        await h.store.load_run(run_id=run_id)
    told = created.rows_read + created.rows_written + looked.rows_read + looked.rows_written
    if told:
        assert created.rows_written > 0, f"a creation wrote {created.rows_written} rows"
        assert looked.rows_read > 0, f"a look at a run read {looked.rows_read} rows"
        assert looked.rows_written == 0, f"a look at a run wrote {looked.rows_written} rows"
