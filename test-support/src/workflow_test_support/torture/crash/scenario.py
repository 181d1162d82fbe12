"""One story with everything in it: steps, a retry, sleeps, a signal, an approval, a timeout, cancellations, a failure.

`play` is what an application's process does from its start: it sends every call from outside (with the ids it
always uses) and drives what is due. Played again by a new process it must end in the same outcome, wherever the
process before it died.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from workflow_runtime import (
    NO_RETRY,
    Context,
    RetryPolicy,
    TestClock,
    WaitTimeoutError,
    WorkflowExecutionStore,
    WorkflowRuntime,
    fixed_backoff,
    step_info,
    workflow,
)
from workflow_runtime.store import RunStatus
from workflow_store_d1 import SQLiteTransaction
from workflow_test_support.torture.journal import note

RUNS = ("order", "cancelled-asleep", "cancelled-queued", "failing")
_BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
_LIFETIME = timedelta(days=10)
"""Time between the clocks of two processes: every lease of the former one has run out."""


def note_step() -> None:
    info = step_info()
    note("step", run=info.run_id, step=info.step_id, attempt=info.attempt, key=info.idempotency_key)


def reserve(item: str) -> dict[str, Any]:
    note_step()
    return {"reserved": item}


async def charge(amount: int) -> int:
    note_step()
    if step_info().attempt == 1:
        raise ConnectionError("the bank does not answer")
    return amount


async def book(tx: SQLiteTransaction, item: str) -> int:
    """Write a row whose number is the result: a row without its record, or twice, would show."""
    await tx.execute("INSERT INTO ledger (entry) VALUES (?1)", f"book {item}")
    tx.add("INSERT INTO ledger (entry) VALUES (?1)", f"bill {item}")
    [counted] = await tx.fetch("SELECT count(*) AS entries FROM ledger")
    return int(counted["entries"])


def ensure_ledger(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS ledger (number INTEGER PRIMARY KEY, entry TEXT NOT NULL)")


def read_ledger(path: Path) -> list[list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        return [list(row) for row in connection.execute("SELECT number, entry FROM ledger ORDER BY number")]


async def pack(item: str) -> str:
    note_step()
    return f"packed {item}"


async def label(item: str) -> str:
    note_step()
    return f"label for {item}"


async def undo() -> str:
    note_step()
    return "undone"


async def break_down() -> None:
    note_step()
    raise ValueError("this never works")


@workflow(id="order", retry=RetryPolicy(max_attempts=2, backoff=fixed_backoff(timedelta(minutes=5))))
async def order(ctx: Context, item: str) -> dict[str, Any]:
    reserved = await ctx.step(reserve, item)
    charged = await ctx.step(charge, 42)
    await ctx.sleep(timedelta(hours=1))
    paid = await ctx.wait_for_event("paid")
    booked = await ctx.transaction("book", book, item)
    packed, labelled, again_booked = await asyncio.gather(
        ctx.step(pack, item), ctx.step(label, item), ctx.transaction("book-again", book, f"{item} again")
    )
    approval = await ctx.approve("ship")
    try:
        await ctx.wait_for_event("objection", timeout=timedelta(hours=2))
    except WaitTimeoutError:
        await ctx.emit("shipped", {"item": item})
    again = await ctx.wait_for_event("paid")
    return {
        "reserved": reserved,
        "charged": charged,
        "paid": paid,
        "booked": [booked, again_booked],
        "packed": packed,
        "labelled": labelled,
        "approved": [approval.approved, approval.decided_by],
        "again": again,
    }


@workflow(id="cancellable")
async def cancellable(ctx: Context, name: str) -> None:
    await ctx.step(reserve, name)
    try:
        await ctx.sleep(timedelta(days=300))
    finally:
        await ctx.step(undo)


@workflow(id="failing", retry=NO_RETRY)
async def failing(ctx: Context, name: str) -> None:
    await ctx.step(reserve, name)
    await ctx.step(break_down)


async def play(store: WorkflowExecutionStore, process: int) -> None:
    """Do what the application does, from the top.

    Args:
        store: Where the runs live; what kills this process is wrapped around it.
        process: Which process of this story this is, from 0.
    """
    clock = TestClock(_BEGIN + process * _LIFETIME)
    runtime = WorkflowRuntime(store=store, workflows=[order, cancellable, failing], clock=clock)
    await runtime.start_run(order, "book", run_id="order")
    await runtime.start_run(cancellable, "a", run_id="cancelled-asleep")
    far = _BEGIN + timedelta(days=200)
    await runtime.start_run(cancellable, "b", run_id="cancelled-queued", start_at=far)
    await runtime.start_run(failing, "c", run_id="failing")
    await drive(runtime, clock, timedelta(minutes=10))
    await _acknowledged(runtime.cancel_run("cancelled-asleep", reason="changed my mind"), "cancelled-asleep", "cancel")
    await _acknowledged(runtime.cancel_run("cancelled-queued"), "cancelled-queued", "cancel")
    await _signal(runtime, "paid", "first", {"by": "card", "\x00": None})
    await _signal(runtime, "paid", "second", None)
    await _signal(runtime, "paid", "first", {"by": "card", "\x00": None})
    await drive(runtime, clock, timedelta(hours=2))
    approval = runtime.deliver_approval("order", "ship", approved=True, decided_by="ann")
    await _acknowledged(approval, "order", "ship")
    await drive(runtime, clock, timedelta(hours=4))
    note("played", process=process)


async def _signal(runtime: WorkflowRuntime, name: str, signal_id: str, payload: Any) -> None:
    await _acknowledged(runtime.deliver_signal("order", name, payload, signal_id=signal_id), "order", signal_id)


async def _acknowledged(call: Any, run_id: str, delivery_id: str) -> None:
    answer = await call
    note("acknowledged", run=run_id, delivery=delivery_id, kind=answer.kind)


async def drive(runtime: WorkflowRuntime, clock: TestClock, duration: timedelta) -> None:
    """Sweep for that long, moving the clock from one due time to the next."""
    ends_ms = clock.now_ms() + duration // timedelta(milliseconds=1)
    for _ in range(200):
        report = await runtime.sweep()
        assert not report.failures, report.failures
        assert not report.tick_failures, report.tick_failures
        if report.total:
            continue
        if report.next_due_ms is None or report.next_due_ms > ends_ms:
            clock.advance_to_ms(ends_ms)
            return
        clock.advance_to_ms(report.next_due_ms)
    raise AssertionError("there was still work after 200 sweeps")


async def note_recorded_steps(store: WorkflowExecutionStore) -> None:
    """Write down which steps were recorded before this process did anything: none of them may run again."""
    for run_id in RUNS:
        for event in await store.read_events(run_id=run_id, limit=1_000):
            if event.kind in {"step-completed", "step-failed"}:
                note("recorded", run=run_id, step=event.step_id)


async def prepare(path: Path) -> None:
    ensure_ledger(path)


async def outcome(store: WorkflowExecutionStore, path: Path) -> dict[str, Any]:
    """Describe how the story ended, in what every telling must share."""
    ended: dict[str, Any] = {}
    for run_id in RUNS:
        run = await store.load_run(run_id=run_id)
        assert run is not None, run_id
        events = await store.read_events(run_id=run_id, limit=1_000)
        assert [event.index for event in events] == list(range(run.next_index)), "the log has gaps"
        results = [(e.kind, e.step_id, e.payload) for e in events if e.kind in _ONCE]
        assert len({(kind, step) for kind, step, _ in results}) == len(results), "something is recorded twice"
        assert run.status in {RunStatus.FINISHED, RunStatus.ERRORED, RunStatus.ABORTED}, f"{run_id} is {run.status}"
        ended[run_id] = {
            "status": run.status,
            "output": run.output,
            "error": run.error,
            "reason": run.reason,
            "results": sorted(results, key=str),
        }
    return ended | {"ledger": read_ledger(path)}


def find_problems(ended: Any, expected: Any, journal: list[dict[str, Any]]) -> list[str]:
    """Return differences from the undisturbed story, and acknowledged signals that have not arrived."""
    problems = [] if ended == expected else [f"another outcome: {ended}"]
    received = sum(kind == "signal-received" for kind, _, _ in expected["order"]["results"])
    signals = {line["delivery"] for line in journal if line["what"] == "acknowledged" and line["run"] == "order"}
    if received != len(signals - {"ship"}):
        problems.append(f"acknowledged {signals}, but {received} were received")
    return problems


_ONCE = {"step-completed", "step-failed", "signal-received", "approval-received", "cancel-requested", "emitted"}
