"""The first steps of most cases: create a run, claim it, leave it waiting, look at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from workflow_runtime.store import (
    ClaimBatch,
    Claimed,
    Created,
    RunRecord,
    RunStatus,
    RunSummary,
    RunToCreate,
    Timer,
    WorkflowExecutionStore,
)

from .harness import StoreHarness
from .holder import LeaseHolder
from .samples import LEASE_MS, MANY

__all__ = [
    "bring",
    "claim",
    "claim_due",
    "claim_pending",
    "claim_stale",
    "create",
    "create_arguments",
    "observe",
    "park",
    "record",
    "run_to_create",
    "show_life",
    "start",
    "start_full",
    "start_waiting",
    "unchanged",
]


def create_arguments(h: StoreHarness, **overrides: Any) -> dict[str, Any]:
    """Return arguments with which `create_run` works."""
    return {
        "run_id": h.new_id("run"),
        "workflow_id": "orders",
        "workflow_version": "1",
        "input": '{"n":1}',
        "operation_id": h.new_id("op"),
        "now_ms": h.now_ms,
    } | overrides


def run_to_create(h: StoreHarness, run_id: str | None = None, **overrides: Any) -> RunToCreate:
    """Return a run with which `create_runs` works."""
    arguments = create_arguments(h, **overrides) | ({} if run_id is None else {"run_id": run_id})
    del arguments["now_ms"]
    return RunToCreate(**arguments)


async def create(h: StoreHarness, run_id: str | None = None, **overrides: Any) -> RunRecord:
    """Create a queued run."""
    arguments = create_arguments(h, **overrides) | ({} if run_id is None else {"run_id": run_id})
    answer = await h.store.create_run(**arguments)
    assert isinstance(answer, Created), f"create_run of a new id answered {answer.kind}"
    assert answer.claim is None, "a creation without a lease brought a claim"
    return answer.run


async def record(h: StoreHarness, run_id: str) -> RunRecord:
    """Return the stored run, read through the second handle."""
    run = await h.second.load_run(run_id=run_id)
    assert run is not None, f"run {run_id!r} is gone"
    return run


async def start(h: StoreHarness, run_id: str | None = None, **overrides: Any) -> LeaseHolder:
    """Create a run and claim it in the same unit."""
    lease = {"owner": "worker-1", "lease_ms": LEASE_MS}
    named = {} if run_id is None else {"run_id": run_id}
    answer = await h.store.create_run(**create_arguments(h, **(lease | overrides | named)))
    assert isinstance(answer, Created), f"create_run of a new id answered {answer.kind}"
    assert answer.claim is not None, "create_run with owner and lease_ms brought no claim"
    return LeaseHolder.of(h, answer.claim)


async def start_full(h: StoreHarness, run_id: str | None = None, **overrides: Any) -> LeaseHolder:
    """Start a run with an event, an inbox entry and a timer `old`, so that every write changes something."""
    holder = await start(h, run_id, **overrides)
    await holder.append('"e0"', set_timers=[Timer(timer_id="old", fire_at_ms=h.now_ms + 10**7)])
    await holder.signal("go", "s1")
    return holder


async def start_waiting(
    h: StoreHarness,
    *,
    signals: Sequence[str] = ("go",),
    approvals: Sequence[str] = (),
    timers: Mapping[str, int] | None = None,
    **overrides: Any,
) -> LeaseHolder:
    """Start a run and pause it. It waits for a signal unless the arguments name something else."""
    holder = await start(h, **overrides)
    paused = await holder.pause(signals=signals, approvals=approvals, timers=timers)
    assert paused.status is RunStatus.PAUSED, f"a run with an empty inbox was paused as {paused.status}"
    return holder


async def claim(
    h: StoreHarness, run_id: str, *, store: WorkflowExecutionStore | None = None, **overrides: Any
) -> LeaseHolder:
    """Claim a run that is claimable."""
    store = store or h.store
    arguments: dict[str, Any] = {"run_id": run_id, "owner": "worker-2", "lease_ms": LEASE_MS, "now_ms": h.now_ms}
    answer = await store.claim_run(**({"max_crashes": MANY} | arguments | overrides))
    assert isinstance(answer, Claimed), f"claim_run of a claimable run answered {answer}"
    return LeaseHolder.of(h, answer.claim, store)


async def claim_pending(
    h: StoreHarness, *, store: WorkflowExecutionStore | None = None, **overrides: Any
) -> ClaimBatch:
    """Claim queued runs that are due."""
    return await (store or h.store).claim_pending_runs(**(_claim_arguments(h) | overrides))


async def claim_stale(h: StoreHarness, *, store: WorkflowExecutionStore | None = None, **overrides: Any) -> ClaimBatch:
    """Claim runs whose leases have expired."""
    return await (store or h.store).claim_stale_runs(**({"max_crashes": MANY} | _claim_arguments(h) | overrides))


async def claim_due(h: StoreHarness, *, store: WorkflowExecutionStore | None = None, **overrides: Any) -> ClaimBatch:
    """Claim paused runs that have a due timer."""
    return await (store or h.store).claim_due_timers(**(_claim_arguments(h) | overrides))


def _claim_arguments(h: StoreHarness) -> dict[str, Any]:
    return {"owner": "worker-3", "lease_ms": LEASE_MS, "now_ms": h.now_ms, "limit": MANY}


async def show_life(*holders: LeaseHolder) -> None:
    """Renew leases without making them longer, so that their end counts as a crash."""
    for holder in holders:
        await holder.heartbeat(now_ms=0, lease_ms=1)


async def park(h: StoreHarness, *holders: LeaseHolder, **overrides: Any) -> ClaimBatch:
    """Make runs dead by their first crash. Their leases must be over by then."""
    await show_life(*holders)
    return await claim_stale(h, **({"max_crashes": 1} | overrides))


async def bring(h: StoreHarness, run_id: str, status: str) -> None:
    """Bring a queued run into another status in which it is live."""
    if status != "queued":
        holder = await claim(h, run_id)
        if status == "paused":
            await holder.pause(signals=["go"])
    assert (await record(h, run_id)).status == status


async def observe(h: StoreHarness, *run_ids: str) -> dict[str, Any]:
    """Return everything that a store shows of some runs."""
    seen: dict[str, Any] = {}
    for run_id in run_ids:
        execution = await h.second.load_execution(run_id=run_id, history_limit=10_000, history_bytes=10**9)
        timeline = None if execution is None else await h.second.get_run_timeline(run_id=run_id, limit=10_000)
        seen[run_id] = (execution, timeline)
    return seen


@asynccontextmanager
async def unchanged(h: StoreHarness, *run_ids: str, after: str = "the call") -> AsyncIterator[None]:
    """Assert that nothing of these runs changes in the block."""
    before, listed = await observe(h, *run_ids), await _listed(h, *run_ids)
    yield
    now = await observe(h, *run_ids)
    for run_id in run_ids:
        assert now[run_id] == before[run_id], f"{after} changed {run_id}:\n{before[run_id]}\nbecame\n{now[run_id]}"
    assert await _listed(h, *run_ids) == listed, f"{after} changed what is listed"


async def _listed(h: StoreHarness, *run_ids: str) -> list[RunSummary]:
    try:
        page = await h.second.list_runs(limit=MANY)
    except NotImplementedError:  # an author writes one verb after the other, and this one has cases of its own
        return []
    return [run for run in page.runs if run.run_id in run_ids]
