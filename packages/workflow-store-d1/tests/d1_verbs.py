"""The verbs as tests of their cost call them, and a database that counts what is asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Awaited, NewEvent, RunStatus, RunToCreate, SignalToDeliver, Timer
from workflow_store_d1 import D1Database, D1PreparedStatement, D1Result, D1WorkflowStore
from workflow_store_d1.database import D1Value

ONE = JsonText("1")


class CountedStatement:
    def __init__(self, database: CountingDatabase, inner: D1PreparedStatement) -> None:
        self._database = database
        self.inner = inner

    def bind(self, *values: D1Value) -> Self:
        return type(self)(self._database, self.inner.bind(*values))

    async def all(self) -> D1Result:
        [result] = self._database.count([await self.inner.all()])
        return result

    async def run(self) -> D1Result:
        [result] = self._database.count([await self.inner.run()])
        return result


class CountingDatabase:
    """Counts what would be a round trip each, the statements, and the rows that D1 bills, where it tells."""

    def __init__(self, inner: D1Database) -> None:
        self._inner = inner
        self.reset()

    def reset(self) -> None:
        self.trips = self.statements = self.rows_read = self.rows_written = 0

    def count(self, results: Sequence[D1Result]) -> Sequence[D1Result]:
        self.trips += 1
        self.statements += len(results)
        self.rows_read += sum(result.meta.get("rows_read", 0) for result in results)
        self.rows_written += sum(result.meta.get("rows_written", 0) for result in results)
        return results

    def prepare(self, sql: str) -> CountedStatement:
        return CountedStatement(self, self._inner.prepare(sql))

    async def batch(self, statements: Sequence[Any]) -> Sequence[D1Result]:
        return self.count(await self._inner.batch([statement.inner for statement in statements]))


def run(run_id: str, **options: Any) -> dict[str, Any]:
    facts = {"workflow_id": "w", "workflow_version": "1", "input": ONE, "operation_id": "create", "now_ms": 1}
    return {"run_id": run_id, **facts, **options}


NOT_FINISHED = [status for status in RunStatus if status is not RunStatus.FINISHED]
HELD: dict[str, Any] = {"owner": "w", "lease_ms": 10}
BATCH: dict[str, Any] = {**HELD, "now_ms": 100, "limit": 10}

ONE_TRIP: dict[str, tuple[str, dict[str, Any]]] = {
    "start": ("create_run", run("new")),
    "start and claim": ("create_run", run("new", **HELD)),
    "start again": ("create_run", run("queued", operation_id="another")),
    "start many": (
        "create_runs",
        {
            "runs": [
                RunToCreate(run_id=f"many-{number}", workflow_id="w", workflow_version="1", input=ONE, operation_id="o")
                for number in range(10)
            ],
            "now_ms": 1,
        },
    ),
    "load": ("load_run", {"run_id": "queued"}),
    "load with history": ("load_execution", {"run_id": "paused"}),
    "claim": ("claim_run", {"run_id": "queued", **HELD, "now_ms": 100, "max_crashes": 3}),
    "claim in vain": ("claim_run", {"run_id": "nobody", **HELD, "now_ms": 100, "max_crashes": 3}),
    "claim pending": ("claim_pending_runs", BATCH),
    "claim stale": ("claim_stale_runs", {**BATCH, "max_crashes": 3}),
    "claim timers": ("claim_due_timers", BATCH),
    "find nothing pending": ("claim_pending_runs", {**BATCH, "now_ms": 0}),
    "find nothing stale": ("claim_stale_runs", {**BATCH, "now_ms": 0, "max_crashes": 3}),
    "find no timers": ("claim_due_timers", {**BATCH, "now_ms": 0}),
    "find no ticks": ("claim_due_schedule_buckets", {**BATCH, "now_ms": 0}),
    "list pending": ("list_pending_runs", {"now_ms": 100, "limit": 10}),
    "signal": ("deliver_signal", {"run_id": "paused", "signal_id": "s", "name": "go", "payload": ONE, "now_ms": 5}),
    "signals": (
        "deliver_signals",
        {
            "signals": [
                SignalToDeliver(run_id=("paused", "queued")[number % 2], signal_id=f"s{number}", name="go", payload=ONE)
                for number in range(10)
            ],
            "now_ms": 5,
        },
    ),
    "signal nobody": ("deliver_signal", {"run_id": "no", "signal_id": "s", "name": "go", "payload": ONE, "now_ms": 5}),
    "approval": ("deliver_approval", {"run_id": "queued", "approval_id": "a", "approved": True, "now_ms": 5}),
    "inbox": ("read_inbox", {"run_id": "queued", "limit": 10}),
    "cancel": ("cancel_run", {"run_id": "queued", "now_ms": 5}),
    "terminate": ("terminate_run", {"run_id": "queued", "now_ms": 5}),
    "requeue": ("requeue_run", {"run_id": "queued", "now_ms": 5}),
    "fork": (
        "fork_run",
        {
            "run_id": "queued",
            "new_run_id": "{new}",
            "from_index": 0,
            "event": NewEvent(kind="f"),
            "operation_id": "o",
            "now_ms": 5,
        },
    ),
    "delete": ("delete_run", {"run_id": "queued", "now_ms": 5}),
    "prune": ("prune_runs", {"finished_before_ms": 500, "limit": 10}),
    "events": ("read_events", {"run_id": "paused", "limit": 10}),
    "list": ("list_runs", {"limit": 10}),
    "list running": ("list_runs", {"limit": 10, "statuses": [RunStatus.RUNNING]}),
    "list paused": ("list_runs", {"limit": 10, "statuses": [RunStatus.PAUSED]}),
    "list what has not finished": ("list_runs", {"limit": 10, "statuses": NOT_FINISHED}),
    "list finished": ("list_runs", {"limit": 10, "statuses": [RunStatus.FINISHED]}),
    "list workflows": ("list_runs", {"limit": 10, "workflow_ids": ["w", "w2"]}),
    "list a queue": ("list_runs", {"limit": 10, "queues": ["gpu"]}),
    "count running": ("count_runs", {"statuses": [RunStatus.RUNNING, RunStatus.DEAD]}),
    "count a queue": ("count_runs", {"queues": ["gpu"]}),
    "count": ("count_runs", {}),
    "timeline": ("get_run_timeline", {"run_id": "paused"}),
    "clock": ("read_clock", {}),
    "upsert schedule": (
        "upsert_schedule",
        {
            "schedule_id": "s",
            "workflow_id": "w",
            "workflow_version": "1",
            "spec": ONE,
            "input": ONE,
            "next_fire_at_ms": 5,
            "now_ms": 1,
        },
    ),
    "request ticks": ("request_schedule_buckets", {"schedule_id": "s", "fire_times_ms": [1, 2], "now_ms": 5}),
    "list schedules": ("list_schedules", {"limit": 10}),
    "list requested ticks": ("list_requested_buckets", {"schedule_id": "s", "limit": 10}),
    "delete schedule": ("delete_schedule", {"schedule_id": "s"}),
    "claim ticks": ("claim_due_schedule_buckets", BATCH),
    "claim ticks of some workflows": ("claim_due_schedule_buckets", {**BATCH, "workflow_ids": ["w"]}),
}

BY_THE_DRIVER: dict[str, tuple[str, dict[str, Any]]] = {
    "append one": (
        "append_events",
        {"events": [NewEvent(kind="step", payload=ONE)], "expected_next_index": 0, "lease_ms": 10, "now_ms": 5},
    ),
    "append with everything": (
        "append_events",
        {
            "events": [NewEvent(kind="step", payload=ONE)] * 101,
            "expected_next_index": 0,
            "lease_ms": 10,
            "now_ms": 5,
            "taken_inbox": list(range(1, 102)),
            "set_timers": [Timer(timer_id=f"t{number}", fire_at_ms=9) for number in range(101)],
            "removed_timers": [f"r{number}" for number in range(101)],
        },
    ),
    "pause": (
        "mark_run_paused",
        {
            "events": [NewEvent(kind="wait", payload=ONE)],
            "expected_next_index": 0,
            "seen_inbox_seq": 0,
            "now_ms": 5,
            "set_timers": [Timer(timer_id="t", fire_at_ms=9)],
            "awaited": [Awaited(kind="signal", name="go", step_id="w")],
        },
    ),
    "finish": ("mark_run_finished", {"expected_next_index": 0, "output": ONE, "now_ms": 5}),
    "fail": ("mark_run_errored", {"expected_next_index": 0, "error": ONE, "now_ms": 5}),
    "release": ("release_run_lease", {"now_ms": 5}),
    "timer": ("schedule_timer", {"timer_id": "t", "fire_at_ms": 9, "now_ms": 5}),
}


async def start(store: D1WorkflowStore, run_id: str) -> str:
    created = await store.create_run(**run(run_id, **HELD))
    assert created.kind == "created"
    assert created.claim is not None
    return created.claim.lease.token


async def prepare(store: D1WorkflowStore, database: CountingDatabase) -> str:
    """Make a queued, a paused and a running run; give the token of the last."""
    await store.create_run(**run("queued"))
    verb, values = BY_THE_DRIVER["pause"]
    await getattr(store, verb)(run_id="paused", lease_token=await start(store, "paused"), operation_id="p", **values)
    token = await start(store, "running")
    database.reset()
    return token
