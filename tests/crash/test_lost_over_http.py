"""A story over D1's HTTP API, once for each of its batches: that batch's answer is lost, or it is never sent.

`WORKFLOW_CRASH_POINTS` says how many batches are taken; `release` takes all.
Claims lie between the writes, and the application repeats nothing itself: what it sees is the undisturbed story.
"""

import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from workflow_runtime import Context, TestClock, WorkflowRuntime, workflow
from workflow_store_d1 import D1Transaction, D1WorkflowStore, Retries
from workflow_test_support.relays.http_relay import Fault, cut_before, lose_answer, relay_to
from workflow_test_support.servers.d1_rest import RestDatabase, rest_database

_BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
_POINTS = os.environ.get("WORKFLOW_CRASH_POINTS", "24")
_SEED = int(os.environ.get("WORKFLOW_CRASH_SEED", "1"))
_QUICK = Retries(first_wait=timedelta(milliseconds=1))
_calls: list[str] = []


async def reserve(item: str) -> str:
    _calls.append(item)
    return f"reserved {item}"


async def book(tx: D1Transaction, item: str) -> str:
    tx.add("INSERT INTO ledger (entry) VALUES (?1)", item)
    return f"booked {item}"


@workflow(id="order")
async def order(ctx: Context, item: str) -> list[Any]:
    reserved = await ctx.step(reserve, item)
    await ctx.sleep(timedelta(hours=1))
    paid = await ctx.wait_for_event("paid")
    return [reserved, paid, await ctx.transaction("book", book, item)]


@pytest.fixture(scope="module")
def rest() -> Iterator[RestDatabase]:
    with rest_database() as database:
        yield database


async def play(rest: RestDatabase, fault: Fault | None = None, point: int | None = None) -> tuple[Any, int]:
    """Tell the story with a fault at one of its batches; give how it ended, and how many batches it took."""
    rest.drop_everything()
    rest.run("CREATE TABLE ledger (number INTEGER PRIMARY KEY, entry TEXT)")
    _calls.clear()
    async with relay_to(rest.base_url) as relay:
        if fault is not None and point is not None:
            relay.faults[point] = fault
        arguments = {**rest.arguments, "base_url": relay.url, "retries": _QUICK}
        async with D1WorkflowStore.connect_http(**arguments) as store:
            await store.ensure_schema()
            await drive(store)
            ended = await outcome(store, rest)
        assert not relay.faults, "the story ended before its point"
        return ended, relay.requests


async def drive(store: D1WorkflowStore) -> None:
    clock = TestClock(_BEGIN)
    runtime = WorkflowRuntime(store=store, workflows=[order], clock=clock)
    await runtime.start_run(order, "book", run_id="order")
    await sweep(runtime)
    await runtime.deliver_signal("order", "paid", {"by": "card"}, signal_id="first")
    await sweep(runtime)
    clock.advance(timedelta(hours=2))
    await sweep(runtime)


async def sweep(runtime: WorkflowRuntime) -> None:
    for _ in range(10):
        report = await runtime.sweep()
        assert not report.failures, report.failures
        if not report.total:
            return
    raise AssertionError("there was still work after 10 sweeps")


async def outcome(store: D1WorkflowStore, rest: RestDatabase) -> Any:
    execution = await store.load_execution(run_id="order")
    assert execution is not None
    run = execution.run
    log = [(event.index, event.kind, event.step_id, event.payload) for event in execution.history]
    ledger = rest.run("SELECT number, entry FROM ledger")
    return run.status, run.output, run.crashes, run.inbox_seq, log, execution.inbox, execution.timers, ledger, [*_calls]


def sample(points: range) -> list[int]:
    """Choose the points that are taken, anew for each seed."""
    if _POINTS == "all" or int(_POINTS) >= len(points):
        return list(points)
    return sorted(random.Random(_SEED).sample(points, int(_POINTS)))


@pytest.mark.parametrize("fault", [lose_answer, cut_before], ids=["answer lost", "never sent"])
async def test_fault_at_each_batch_changes_nothing(rest: RestDatabase, fault: Fault) -> None:
    expected, count = await play(rest)
    assert expected[0] == "finished"
    assert len(expected[-2]) == len(expected[-1]) == 1
    points = sample(range(1, count + 1))
    print(f"{len(points)} of {count} batches")
    for point in points:
        ended, _ = await play(rest, fault, point)
        assert ended == expected, f"batch {point}"
