"""What the demo asks of the store, beyond what the runtime does for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from workflow_runtime import WorkflowExecutionStore, decode_json
from workflow_runtime.store import Event, RunStatus, RunSummary

from audit_packages.evidence import Step
from audit_packages.workflows import audit_distribution, collect_reports

WORKFLOW_IDS = (audit_distribution.id, collect_reports.id)

_RUNS_PAGE = 200
_EVENTS_PAGE = 1_000


async def list_all_runs(
    store: WorkflowExecutionStore,
    *,
    workflow_ids: Sequence[str],
    statuses: Sequence[RunStatus] | None = None,
) -> AsyncIterator[RunSummary]:
    """List the runs of all pages."""
    cursor = None
    while True:
        page = await store.list_runs(limit=_RUNS_PAGE, cursor=cursor, statuses=statuses, workflow_ids=workflow_ids)
        for run in page.runs:
            yield run
        cursor = page.next_cursor
        if cursor is None:
            return


async def load_statuses(store: WorkflowExecutionStore) -> dict[str, str]:
    """Load the status of each run of the audit."""
    return {run.run_id: run.status.value async for run in list_all_runs(store, workflow_ids=WORKFLOW_IDS)}


async def load_recorded_steps(store: WorkflowExecutionStore, run_ids: Sequence[str]) -> dict[Step, int]:
    """Load from the event logs which execution of each step was recorded."""
    recorded: dict[Step, int] = {}
    for run_id in run_ids:
        for event in await _read_log(store, run_id):
            if event.kind == "step-completed" and event.step_id is not None and event.payload is not None:
                recorded[run_id, event.step_id] = decode_json(event.payload)["journal_line"]
    return recorded


async def _read_log(store: WorkflowExecutionStore, run_id: str) -> list[Event]:
    events: list[Event] = []
    while page := await store.read_events(run_id=run_id, limit=_EVENTS_PAGE, from_index=len(events)):
        events += page
    return events
