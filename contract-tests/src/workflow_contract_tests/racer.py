"""A child process in a race between processes. It opens the store, waits for the start and does one task.

It reads and writes lines of JSON on standard input and output. `children` is the other side.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import math
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from workflow_runtime.errors import LeaseLostError, LogConflictError
from workflow_runtime.ids import new_id
from workflow_runtime.payloads import JsonText, encode_json
from workflow_runtime.store import Awaited, ClaimBatch, ClaimedRun, Created, NewEvent, RunStatus, WorkflowExecutionStore

from .loading import load_object
from .races.histories import Wanderer
from .races.run_calls import RUN_CALLS, RunSubject
from .settings import SCALE

__all__ = ["TASKS", "open_store"]

Task = Callable[[WorkflowExecutionStore, dict[str, Any], random.Random], Awaitable[Any]]
_LEASE_MS = 600_000
_MEETING_S = 0.01
"""From one meeting of two processes to the next."""
_PATIENCE = round(1_500 * max(1.0, SCALE))
"""The looks at a run, a millisecond apart at least, until it counts as parked for good."""


@asynccontextmanager
async def open_store(factory: str, arguments: dict[str, Any]) -> AsyncIterator[WorkflowExecutionStore]:
    """Open the store as the harness's `process_factory` says: a store, an awaitable, or a context manager."""
    opened = load_object(factory)(**arguments)
    if inspect.isawaitable(opened):
        opened = await opened
    elif hasattr(opened, "__aenter__") and not hasattr(opened, "create_run"):
        async with opened as store:
            yield store
        return
    try:
        yield opened
    finally:
        close = getattr(opened, "close", None)
        if close is not None:
            await close()


async def _ensure_schema(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> str:
    await store.ensure_schema()
    await store.check_schema()
    return "ready"


async def _create(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> dict[str, Any]:
    """Create a run of every id, in random order. Return the token of each creation that this process won."""
    answers: dict[str, Any] = {}
    for run_id in chosen.sample(order["run_ids"], len(order["run_ids"])):
        answer = await store.create_run(
            run_id=run_id,
            workflow_id="race",
            workflow_version="1",
            input=encode_json(order["owner"]),
            operation_id=new_id(),
            now_ms=order["now_ms"],
            owner=order["owner"],
            lease_ms=_LEASE_MS,
        )
        created = isinstance(answer, Created) and answer.claim is not None
        answers[run_id] = answer.claim.lease.token if created else None  # type: ignore[union-attr]  # created has it
    return answers


_CLAIMS: dict[str, Callable[[WorkflowExecutionStore, dict[str, Any]], Awaitable[ClaimBatch]]] = {
    "claim_pending_runs": lambda store, arguments: store.claim_pending_runs(**arguments),
    "claim_stale_runs": lambda store, arguments: store.claim_stale_runs(**arguments, max_crashes=1_000),
    "claim_due_timers": lambda store, arguments: store.claim_due_timers(**arguments),
}


async def _claim(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> list[str]:
    """Claim by the verb of the order until nothing is left. Return the ids of the runs."""
    arguments = {"owner": order["owner"], "lease_ms": _LEASE_MS, "now_ms": order["now_ms"]}
    claimed: list[str] = []
    while True:
        batch = await _CLAIMS[order["verb"]](store, arguments | {"limit": chosen.randint(1, 4)})
        if not batch.claims:
            return claimed
        claimed += [claim.run.run_id for claim in batch.claims]


async def _append(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> list[int]:
    """Append until so many appends succeeded, against others with the same token. Return their indexes."""
    won: list[int] = []
    index = 0
    while len(won) < order["count"]:
        try:
            answer = await store.append_events(
                run_id=order["run_id"],
                lease_token=order["token"],
                operation_id=new_id(),
                expected_next_index=index,
                events=[NewEvent(kind="race", payload=encode_json([order["owner"], part])) for part in range(2)],
                now_ms=order["now_ms"],
                lease_ms=_LEASE_MS,
            )
        except LogConflictError as conflict:
            index = conflict.actual_next_index
        else:
            won.append(index)
            index = answer.next_index
    return won


async def _deliver(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> dict[str, int]:
    """Deliver every signal, in random order. Return the inbox numbers of those that were new."""
    numbers: dict[str, int] = {}
    for signal_id in chosen.sample(order["signal_ids"], len(order["signal_ids"])):
        answer = await store.deliver_signal(
            run_id=order["run_id"],
            signal_id=signal_id,
            name="go",
            payload=encode_json(signal_id),
            now_ms=order["now_ms"],
        )
        if answer.kind in {"delivered", "buffered"}:
            numbers[signal_id] = answer.inbox_seq
    return numbers


async def _collect(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> int:
    """Move the inbox of the run to its log and pause, again and again, until it has all its signals."""
    taken = 0
    for _ in range(_PATIENCE):
        run = await store.load_run(run_id=order["run_id"])
        if run is None or run.status is RunStatus.FINISHED:
            break
        batch = await store.claim_pending_runs(
            owner=order["owner"], lease_ms=_LEASE_MS, now_ms=order["now_ms"], limit=1
        )
        for claim in batch.claims:
            taken += await _take(store, order, claim)
        await asyncio.sleep(0.001)
    return taken


async def _take(store: WorkflowExecutionStore, order: dict[str, Any], claim: ClaimedRun) -> int:
    common: dict[str, Any] = {
        "run_id": claim.run.run_id,
        "lease_token": claim.lease.token,
        "operation_id": new_id(),
        "expected_next_index": claim.run.next_index,
        "now_ms": order["now_ms"],
        "events": [NewEvent(kind="took", payload=entry.payload) for entry in claim.inbox],
        "taken_inbox": [entry.inbox_seq for entry in claim.inbox],
    }
    if claim.run.next_index + len(claim.inbox) >= order["count"]:
        await store.mark_run_finished(**common, output=JsonText("null"))
    else:
        await store.mark_run_paused(
            **common,
            seen_inbox_seq=claim.run.inbox_seq,
            awaited=[Awaited(kind="signal", name="go", step_id="wait")],
        )
    return len(claim.inbox)


async def _ticks(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> list[str]:
    """Claim due ticks and start their runs until none is left. Return the ids of the runs."""
    started: list[str] = []
    while True:
        claims = await store.claim_due_schedule_buckets(
            owner=order["owner"], lease_ms=_LEASE_MS, now_ms=order["now_ms"], limit=chosen.randint(1, 3)
        )
        if not claims.buckets:
            return started
        for tick in claims.buckets:
            run_id = f"{tick.schedule.schedule_id}@{tick.fire_at_ms}"
            next_ms = tick.fire_at_ms + 1 if tick.fire_at_ms < order["until_ms"] else None
            try:
                await store.mark_schedule_bucket_started(
                    schedule_id=tick.schedule.schedule_id,
                    fire_at_ms=tick.fire_at_ms,
                    lease_token=tick.lease.token,
                    operation_id=new_id(),
                    expected_revision=tick.schedule.revision,
                    action="start",
                    next_fire_at_ms=next_ms,
                    run_id=run_id,
                    now_ms=order["now_ms"],
                )
            except LeaseLostError:
                continue
            started.append(run_id)


async def _look(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> dict[str, Any]:
    """Return status and payloads of each run of the order, as this process finds them."""
    seen: dict[str, Any] = {}
    for run_id in order["run_ids"]:
        run = await store.load_run(run_id=run_id)
        log = await store.read_events(run_id=run_id, limit=1_000)
        seen[run_id] = None if run is None else [run.status.value, run.input, [event.payload for event in log]]
    return seen


async def _wander(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> dict[str, Any]:
    """Call verbs at random. Return the history of each run."""
    worker = Wanderer(order["owner"], store, order["now_ms"], chosen)
    await worker.wander(order["run_ids"], order["calls"])
    return {run_id: [dataclasses.asdict(one) for one in history] for run_id, history in worker.history.items()}


async def _meet(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> list[str]:
    """Make calls to runs, each at its moment, which is the same in the other process. Return the answers."""
    table = {call.name: call for call in RUN_CALLS}
    start_s = math.ceil(4 * time.time()) / 4
    answers = []
    for number, (name, subject) in enumerate(order["calls"]):
        moment_s = start_s + _MEETING_S * number + chosen.choice([0, 0.001]) * chosen.random()
        await asyncio.sleep(max(0, moment_s - time.time()))
        answers.append(await table[name].answer(store, RunSubject(**subject), order["caller"]))
    return answers


async def _work(store: WorkflowExecutionStore, order: dict[str, Any], chosen: random.Random) -> str:
    """Make calls to runs one after the other, and report each that was answered."""
    table = {call.name: call for call in RUN_CALLS}
    for name, subject in order["calls"]:
        await table[name].answer(store, RunSubject(**subject), 0)
        _send("done")
    return "done"


TASKS: dict[str, Task] = {
    "append": _append,
    "claim": _claim,
    "collect": _collect,
    "create": _create,
    "deliver": _deliver,
    "ensure_schema": _ensure_schema,
    "look": _look,
    "meet": _meet,
    "ticks": _ticks,
    "wander": _wander,
    "work": _work,
}


def _send(kind: str, value: Any = None) -> None:
    sys.stdout.write(json.dumps({"kind": kind, "value": value}) + "\n")
    sys.stdout.flush()


async def _main() -> None:
    order = json.loads(await asyncio.to_thread(sys.stdin.readline))
    async with open_store(order["factory"], order["arguments"]) as store:
        _send("ready")
        await asyncio.to_thread(sys.stdin.readline)
        _send("result", await TASKS[order["task"]](store, order, random.Random(order["seed"])))


if __name__ == "__main__":
    asyncio.run(_main())
