"""The parent's part while the workers work: it starts the runs, decides the approvals and shows progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workflow_runtime import WorkflowExecutionStore, WorkflowRuntime
from workflow_runtime.store import TERMINAL_STATUSES, RunStatus

from audit_packages.environment import Distribution
from audit_packages.steps import COLLECT_RUN_ID
from audit_packages.store_queries import WORKFLOW_IDS, list_all_runs
from audit_packages.summary import Progress
from audit_packages.workflows import audit_distribution, collect_reports
from audit_packages.workforce import Workforce

_POLL_S = 0.1


async def start_runs(
    runtime: WorkflowRuntime, distributions: Sequence[Distribution], chunk: int, report_file: Path
) -> None:
    """Start the collecting run, then one run per distribution.

    Raises:
        ValueError: The store has one of them already.
    """
    wanted: list[tuple[Any, dict[str, Any], str]] = [
        (collect_reports, {"expected": len(distributions), "report_file": str(report_file)}, COLLECT_RUN_ID)
    ]
    for distribution in distributions:
        dist_info = distribution.dist_info
        facts = {"label": distribution.label, "dist_info": str(dist_info), "site": str(dist_info.parent)}
        wanted.append((audit_distribution, {**facts, "chunk": chunk}, distribution.run_id))
    for workflow, facts, run_id in wanted:
        handle = await runtime.start_run(workflow, facts, run_id=run_id)
        if not handle.created:
            raise ValueError(f"the store has a run {run_id!r} already; give an empty one")


async def conduct(
    *,
    store: WorkflowExecutionStore,
    runtime: WorkflowRuntime,
    workforce: Workforce,
    show: Callable[[Progress], None],
    timeout_s: float,
) -> None:
    """Keep the workers staffed and decide what waits for a decision.

    Returns when every run has ended, when one has ended badly (the collecting run would wait for ever), or when the
    time is up. Which of these it was, the verdict sees from the runs.
    """
    deadline = time.monotonic() + timeout_s
    approvals = 0
    while time.monotonic() < deadline:
        workforce.replace_killed()
        approvals += await _decide_approvals(store, runtime)
        counts = await store.count_runs(workflow_ids=WORKFLOW_IDS)
        ended, runs = sum(counts.get(status, 0) for status in TERMINAL_STATUSES), sum(counts.values())
        show(Progress(ended=ended, runs=runs, approvals=approvals, kills=len(workforce.killed)))
        if ended == runs or ended != counts.get(RunStatus.FINISHED, 0):
            return
        await asyncio.sleep(_POLL_S)


async def _decide_approvals(store: WorkflowExecutionStore, runtime: WorkflowRuntime) -> int:
    decided = 0
    async for summary in list_all_runs(store, statuses=[RunStatus.PAUSED], workflow_ids=[audit_distribution.id]):
        run = await store.load_run(run_id=summary.run_id)
        for awaited in run.awaited if run is not None else ():
            if awaited.kind == "approval":
                answer = await runtime.deliver_approval(
                    summary.run_id, awaited.name, approved=True, decided_by="demo", comment="planted by the demo"
                )
                decided += answer.kind in {"delivered", "buffered"}
    return decided
