"""The workflows on the memory store, in one process, with the journal that the demo uses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from audit_packages.conductor import start_runs
from audit_packages.direct import audit_directly
from audit_packages.environment import Distribution, copy_environment
from audit_packages.journal import Journal, read_journal
from audit_packages.planting import plant_changes
from audit_packages.steps import COLLECT_RUN_ID, Workbench, workbench
from audit_packages.store_queries import load_recorded_steps, load_statuses
from audit_packages.workflows import APPROVAL_ID, audit_distribution, collect_reports
from workflow_runtime import RunStatus, TestClock, WorkflowRuntime
from workflow_runtime.testing import run_until_blocked
from workflow_store_memory import InMemoryWorkflowStore

Install = Callable[[str, dict[str, bytes]], Path]

CHUNK = 4


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[WorkflowRuntime]:
    journal = Journal(tmp_path / "journal")
    made = WorkflowRuntime(
        store=InMemoryWorkflowStore(), workflows=[audit_distribution, collect_reports], clock=TestClock()
    )
    token = workbench.set(Workbench(runtime=made, journal=journal))
    yield made
    workbench.reset(token)
    journal.close()


@pytest.fixture
def distributions(prefix: Path, tmp_path: Path, install: Install) -> list[Distribution]:
    sources = [
        install(name, {f"{name}/{i}.py": f"{name} {i}".encode() for i in range(count)})
        for name, count in (("broken", 43), ("small", 1))
    ]
    return copy_environment(prefix, sources, tmp_path / "copy", 1)


async def test_the_report_equals_the_direct_audit(
    runtime: WorkflowRuntime, distributions: list[Distribution], tmp_path: Path
) -> None:
    plant_changes(distributions[:1], 3, seed=1)
    await start_runs(runtime, distributions, CHUNK, tmp_path / "report.json")
    await run_until_blocked(runtime)
    assert await load_statuses(runtime.store) == {
        COLLECT_RUN_ID: "paused",
        "audit:broken": "paused",
        "audit:small": "finished",
    }
    await runtime.deliver_approval("audit:broken", APPROVAL_ID, approved=True)
    await run_until_blocked(runtime)
    assert await runtime.attach(COLLECT_RUN_ID).status() is RunStatus.FINISHED
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    for distribution, approved in zip(distributions, (True, None), strict=True):
        direct = audit_directly(distribution.dist_info)
        assert report[distribution.label] == {"distribution": distribution.label, "approved": approved, **direct}
    assert len(report["broken"]["findings"]) == 3


async def test_undisturbed_each_step_runs_once_and_its_record_names_its_journal_line(
    runtime: WorkflowRuntime, distributions: list[Distribution], tmp_path: Path
) -> None:
    await start_runs(runtime, distributions, CHUNK, tmp_path / "report.json")
    await run_until_blocked(runtime)
    recorded = await load_recorded_steps(runtime.store, list(await load_statuses(runtime.store)))
    begun = {
        (line.run_id, line.step_id): number
        for number, line in enumerate(read_journal(tmp_path / "journal"), start=1)
        if line.mark == "begin"
    }
    assert recorded == begun
    assert len(recorded) == (1 + 11 + 2) + (1 + 1 + 2) + 1
    assert ("audit:broken", "hash-40") in recorded


async def test_a_rejected_finding_is_reported_as_rejected(
    runtime: WorkflowRuntime, distributions: list[Distribution], tmp_path: Path
) -> None:
    plant_changes(distributions[:1], 1, seed=1)
    await start_runs(runtime, distributions, CHUNK, tmp_path / "report.json")
    await runtime.deliver_approval("audit:broken", APPROVAL_ID, approved=False)
    await run_until_blocked(runtime)
    assert (await runtime.attach("audit:broken").result())["approved"] is False


async def test_a_report_that_nobody_collects_fails_the_step(
    runtime: WorkflowRuntime, distributions: list[Distribution]
) -> None:
    """Without a collecting run the step is tried again, and the run does not end as if all were well."""
    distribution = distributions[1]
    dist_info = distribution.dist_info
    facts = {"label": "small", "dist_info": str(dist_info), "site": str(dist_info.parent), "chunk": CHUNK}
    await runtime.start_run(audit_distribution, facts, run_id="audit:small")
    await run_until_blocked(runtime)
    assert await runtime.attach("audit:small").status() is RunStatus.PAUSED
    retrying = [
        event
        for event in await runtime.store.read_events(run_id="audit:small", limit=100)
        if event.kind == "step-retrying"
    ]
    assert [event.step_id for event in retrying] == ["send_report"]


async def test_a_store_with_an_audit_in_it_is_refused(
    runtime: WorkflowRuntime, distributions: list[Distribution], tmp_path: Path
) -> None:
    await start_runs(runtime, distributions, CHUNK, tmp_path / "report.json")
    with pytest.raises(ValueError, match="has a run 'collect' already"):
        await start_runs(runtime, distributions, CHUNK, tmp_path / "report.json")
