"""One call of each verb, with the scene that it needs: for counting what verbs cost."""

import asyncio
from typing import Any

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Awaited, NewEvent, Timer
from workflow_store_postgres import PostgresWorkflowStore

__all__ = ["BATCH", "BY_THE_DRIVER", "HELD", "ONE", "ONE_TRIP", "named", "prepare", "run", "start", "until_quiet"]

ONE = JsonText("1")


def run(run_id: str, **options: Any) -> dict[str, Any]:
    facts = {"workflow_id": "w", "workflow_version": "1", "input": ONE, "operation_id": "create", "now_ms": 1}
    return {"run_id": run_id, **facts, **options}


HELD: dict[str, Any] = {"owner": "w", "lease_ms": 10}
BATCH: dict[str, Any] = {**HELD, "now_ms": 100, "limit": 10}

ONE_TRIP: dict[str, tuple[str, dict[str, Any]]] = {
    "start": ("create_run", run("{new}")),
    "start and claim": ("create_run", run("{new}", **HELD)),
    "load": ("load_run", {"run_id": "queued"}),
    "load with history": ("load_execution", {"run_id": "paused"}),
    "claim": ("claim_run", {"run_id": "queued", **HELD, "now_ms": 100, "max_crashes": 9}),
    "claim in vain": ("claim_run", {"run_id": "nobody", **HELD, "now_ms": 100, "max_crashes": 3}),
    "claim pending": ("claim_pending_runs", BATCH),
    "claim stale": ("claim_stale_runs", {**BATCH, "max_crashes": 9}),
    "claim timers": ("claim_due_timers", BATCH),
    "list pending": ("list_pending_runs", {"now_ms": 100, "limit": 10}),
    "signal": (
        "deliver_signal",
        {"run_id": "paused", "signal_id": "{new}", "name": "go", "payload": ONE, "now_ms": 5},
    ),
    "signal again": (
        "deliver_signal",
        {"run_id": "queued", "signal_id": "s", "name": "go", "payload": ONE, "now_ms": 5},
    ),
    "signal nobody": ("deliver_signal", {"run_id": "no", "signal_id": "s", "name": "go", "payload": ONE, "now_ms": 5}),
    "approval": ("deliver_approval", {"run_id": "queued", "approval_id": "{new}", "approved": True, "now_ms": 5}),
    "inbox": ("read_inbox", {"run_id": "queued", "limit": 10}),
    "cancel": ("cancel_run", {"run_id": "queued", "now_ms": 5}),
    "terminate": ("terminate_run", {"run_id": "queued", "now_ms": 5}),
    "requeue": ("requeue_run", {"run_id": "queued", "now_ms": 5}),
    "retry": ("retry_run", {"run_id": "ended", "event": NewEvent(kind="retried", payload=ONE), "now_ms": 5}),
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
    "settle a tick in vain": (
        "mark_schedule_bucket_started",
        {
            "schedule_id": "s",
            "fire_at_ms": 5,
            "lease_token": "t",
            "operation_id": "o",
            "expected_revision": 1,
            "action": "skip",
            "now_ms": 5,
        },
    ),
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


async def start(store: PostgresWorkflowStore, run_id: str) -> str:
    created = await store.create_run(**run(run_id, **HELD))
    assert created.kind == "created"
    assert created.claim is not None
    return created.claim.lease.token


async def prepare(store: PostgresWorkflowStore) -> None:
    """Make a queued, an ended and a paused run."""
    await store.create_run(**run("queued"))
    verb, values = BY_THE_DRIVER["fail"]
    await getattr(store, verb)(run_id="ended", lease_token=await start(store, "ended"), operation_id="e", **values)
    verb, values = BY_THE_DRIVER["pause"]
    await getattr(store, verb)(run_id="paused", lease_token=await start(store, "paused"), operation_id="p", **values)


async def until_quiet(store: PostgresWorkflowStore) -> None:
    """Let what the last calls left to be told be told, so that the next one tells by itself."""
    async with asyncio.timeout(10):
        while not store._notices.quiet:
            await asyncio.sleep(0.005)


def named(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: name if value == "{new}" else value for key, value in values.items()}
