"""Versions: a run stays on the one that it began with, and a worker gets only what it can run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import Context, RunStatus, UnknownWorkflowError, Workflow, workflow

if TYPE_CHECKING:
    from conftest import Lab


def declare(version: str, *previous: Workflow[Any, Any]) -> Workflow[Any, Any]:
    @workflow(id="order", version=version, previous_versions=previous)
    async def order(ctx: Context, _: Any) -> str:
        await ctx.wait_for_event("go")
        return f"version {version}"

    return order


async def test_run_continues_on_its_version(lab: Lab) -> None:
    """Through a deployment that brings two newer ones; new runs start on the newest."""
    first = declare("1")
    second = declare("2", first)
    third = declare("3", second)
    handles = []
    for number, current in enumerate((first, second, third)):
        runtime = lab.runtime(current)
        handles.append(await runtime.start_run("order", run_id=f"run-{number}"))
        await runtime.sweep()
    runtime = lab.runtime(third)
    for handle in handles:
        await runtime.deliver_signal(handle.run_id, "go")
    await runtime.sweep()
    assert [await handle.result() for handle in handles] == ["version 1", "version 2", "version 3"]


@pytest.mark.parametrize("source", ["pending", "timers", "stale"])
async def test_worker_without_the_version_does_not_get_the_run(lab: Lab, source: str) -> None:
    """Neither a queued one, nor a sleeping one, nor one whose worker died."""

    @workflow(id="order", version="1")
    async def first(ctx: Context, _: Any) -> None:
        await ctx.sleep_until(lab.clock.now())
        await ctx.wait_for_event("go", timeout=timedelta(seconds=1))

    runtime = lab.runtime(first)
    await runtime.start_run(first, run_id="run")
    if source == "timers":
        await runtime.sweep()
    elif source == "stale":
        await lab.claim("run")
    lab.advance(minutes=1)
    before = lab.picture()
    second, other = declare("2"), declare("1")
    assert (await lab.sweep(second)).total == 0
    assert (await lab.sweep()).total == 0
    assert lab.picture() == before
    report = await lab.sweep(declare("2", other))
    assert report.claimed[source] == 1


async def test_run_may_be_started_on_a_previous_version(lab: Lab) -> None:
    """By naming that very workflow."""
    first = declare("1")
    second = declare("2", first)
    handle = await lab.runtime(second).start_run(first, run_id="run")
    assert (await handle.load()).workflow_version == "1"


async def test_version_that_is_not_registered_cannot_be_started(lab: Lab) -> None:
    """Although its id is known."""
    with pytest.raises(UnknownWorkflowError):
        await lab.runtime(declare("2")).start_run(declare("1"))
    assert lab.data.runs == {}


async def test_runs_of_other_workflows_are_left_alone(lab: Lab) -> None:
    """A worker that knows one workflow leaves the others queued."""

    @workflow()
    async def mail(ctx: Context, _: Any) -> None: ...

    runtime = lab.runtime(declare("1"), mail)
    await runtime.start_run("order", run_id="order")
    await runtime.start_run("mail", run_id="mail")
    assert (await lab.sweep(mail)).total == 1
    assert await lab.status("order") is RunStatus.QUEUED
    assert await lab.status("mail") is RunStatus.FINISHED
