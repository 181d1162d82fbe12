"""docs/errors-to-raise.md is true: what the engine does on an error that a store raises."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime import Context, RunStatus, SweepReport, WorkflowRuntime, store, workflow
from workflow_runtime.store import (
    CorruptRecordError,
    LeaseLostError,
    LogConflictError,
    RunRecord,
    StoreAccessError,
    StoreOperationError,
    StoreUnavailableError,
)
from workflow_store_memory import InMemoryWorkflowStore

PAGE = Path(__file__).parents[1] / "docs" / "errors-to-raise.md"


@workflow()
async def pay(ctx: Context, amount: int) -> int:
    return amount


class FailingStore(InMemoryWorkflowStore):
    """A store that raises an error, some times or always, when a run finishes."""

    def __init__(self, error: Exception, times: int = 1_000) -> None:
        super().__init__()
        self.error = error
        self.times = times
        self.operations: list[str] = []

    async def mark_run_finished(self, **arguments: Any) -> None:
        self.operations.append(arguments["operation_id"])
        if len(self.operations) <= self.times:
            raise self.error
        await super().mark_run_finished(**arguments)


async def drive(failing: InMemoryWorkflowStore) -> tuple[SweepReport, RunRecord]:
    """Sweep a run once; return the report, and where the run stands."""
    runtime = WorkflowRuntime(store=failing, workflows=[pay], lease=timedelta(seconds=2))
    await runtime.start_run(pay, 5, run_id="order-1")
    report = await runtime.sweep(limit=1)
    run = await failing.load_run(run_id="order-1")
    assert run is not None
    return report, run


async def due_at(failing: InMemoryWorkflowStore, run_id: str) -> int:
    """When the run is due: the runtime's clock may be some milliseconds ahead of the store's."""
    run = await failing.load_run(run_id=run_id)
    assert run is not None
    assert run.due_at_ms is not None
    return run.due_at_ms


async def test_write_to_an_unavailable_store_is_made_again_under_its_operation_id() -> None:
    failing = FailingStore(StoreUnavailableError("restarting"), times=2)
    report, run = await drive(failing)

    assert (run.status, report.failed) == (RunStatus.FINISHED, 0)
    assert len(failing.operations) == 3
    assert len(set(failing.operations)) == 1


@pytest.mark.parametrize(
    "error", [StoreOperationError("no such function"), LogConflictError("order-1", 0, 1), KeyError("row")], ids=repr
)
async def test_error_that_does_not_pass_ends_the_drive_and_the_lease_runs_out(error: Exception) -> None:
    failing = FailingStore(error)
    report, run = await drive(failing)

    assert len(failing.operations) == 1
    assert [failure.error for failure in report.failures] == [error]
    assert run.status is RunStatus.RUNNING, "the run was released, and would be driven again at once"


async def test_refused_access_is_tried_again_and_then_releases_the_run() -> None:
    failing = FailingStore(StoreAccessError("no grant"))
    report, run = await drive(failing)

    assert len(failing.operations) > 1
    assert report.failed == 1
    assert (run.status, run.crashes) == (RunStatus.QUEUED, 0)


async def test_lost_lease_is_no_failure() -> None:
    failing = FailingStore(LeaseLostError("run 'order-1'"))
    report, _ = await drive(failing)

    assert len(failing.operations) == 1
    assert (dict(report.outcomes), report.failed) == ({"lost": 1}, 0)


async def test_log_that_cannot_be_read_parks_the_run() -> None:
    class UnreadableStore(InMemoryWorkflowStore):
        async def read_events(self, **arguments: Any) -> Any:
            raise CorruptRecordError("events", "order-1/0", "no JSON")

        async def claim_pending_runs(self, **arguments: Any) -> Any:
            return await super().claim_pending_runs(**(arguments | {"history_limit": 0}))

    unreadable = UnreadableStore()
    runtime = WorkflowRuntime(store=unreadable, workflows=[pay], lease=timedelta(seconds=2))
    await runtime.start_run(pay, 5, run_id="order-1")
    claim = await unreadable.claim_run(
        run_id="order-1", owner="before", lease_ms=1_000, now_ms=await due_at(unreadable, "order-1"), max_crashes=3
    )
    assert claim.kind == "claimed"
    lease = claim.claim.lease
    await unreadable.append_events(
        run_id="order-1",
        lease_token=lease.token,
        operation_id="1",
        expected_next_index=0,
        events=[store.NewEvent(kind="run-started")],
        now_ms=lease.expires_at_ms - 1_000,
        lease_ms=1_000,
    )
    await unreadable.release_run_lease(
        run_id="order-1", lease_token=lease.token, operation_id="2", now_ms=lease.expires_at_ms - 1_000
    )

    await asyncio.sleep(0.01)  # a runtime's clock may be a millisecond behind the store's
    await runtime.sweep()
    run = await unreadable.load_run(run_id="order-1")
    assert run is not None
    assert run.status is RunStatus.DEAD
    assert "no JSON" in (run.reason or "")


def test_page_tells_what_the_engine_does_on_each_error() -> None:
    """The rows begin with the errors; the root of all of them is none to raise."""
    text = PAGE.read_text(encoding="utf-8")
    [table] = re.findall(r"^## What the engine does\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    told = {name for cell in cells for name in re.findall(r"`(\w+Error)`", cell)}
    raised = {name for name in store.__all__ if name.endswith("Error")}

    assert told == raised - {"WorkflowError"}
