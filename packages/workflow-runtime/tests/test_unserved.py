"""Runs that wait and that nobody here takes: they are told, once in a while, whatever they wait in."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import Context, RunStatus, StoreAccessError, workflow
from workflow_runtime.hosting import render_summary, sweep_summary

if TYPE_CHECKING:
    from conftest import Lab

MINUTE = timedelta(minutes=1)


@workflow(id="known")
async def known(ctx: Context, _: Any) -> None:
    """Ends at once."""


@workflow(id="sleeps", version="2")
async def sleeps(ctx: Context, _: Any) -> None:
    """Is in another version than the runtime that looks knows."""
    await ctx.sleep(MINUTE)


@workflow(id="sleeps", version="1")
async def older(ctx: Context, _: Any) -> None:
    """Is the version that it knows."""


async def leave(lab: Lab, status: RunStatus) -> None:
    """Leave a run that is claimable now, or soon, in this status."""
    runtime = lab.runtime(sleeps)
    await runtime.start_run(sleeps, run_id="run", queue="far")
    if status is RunStatus.PAUSED:
        await runtime.sweep()
    elif status is RunStatus.RUNNING:
        await lab.claim("run", owner="dead")
    assert await lab.status("run") is status
    lab.clock.advance(MINUTE)


@pytest.mark.parametrize("status", [RunStatus.QUEUED, RunStatus.PAUSED, RunStatus.RUNNING])
async def test_sweep_reports_what_it_does_not_take(
    lab: Lab, status: RunStatus, caplog: pytest.LogCaptureFixture
) -> None:
    """After a minute, with the kind, one run and since when; and nothing is touched."""
    await leave(lab, status)
    runtime = lab.runtime(known, older)
    lab.advance(seconds=59)
    if status is RunStatus.PAUSED:
        assert (await runtime.sweep()).unserved == ()
    lab.advance(seconds=60)
    before = lab.picture()
    report = await runtime.sweep()
    [runs] = report.unserved
    assert (runs.status, runs.workflow_id, runs.workflow_version) == (status, "sleeps", "2")
    assert (runs.queue, runs.first_run_id) == ("far", "run")
    assert runs.due_at_ms < lab.clock.now_ms() - 60_000
    assert f"runs that are '{status}', of workflow 'sleeps' version '2' in queue 'far'" in caplog.text
    assert '"first_run_id": "run"' in render_summary(sweep_summary(report))
    assert lab.picture() == before


@pytest.mark.parametrize("status", [RunStatus.QUEUED, RunStatus.PAUSED, RunStatus.RUNNING])
async def test_whoever_takes_them_has_nothing_to_report(lab: Lab, status: RunStatus) -> None:
    """Neither before it has taken them, when it has no room, nor afterwards."""
    await leave(lab, status)
    lab.clock.advance(2 * MINUTE)
    assert (await lab.runtime(sleeps).sweep(limit=0)).unserved == ()
    assert (await lab.runtime(sleeps).sweep()).unserved == ()


async def test_queue_that_is_not_served(lab: Lab) -> None:
    await lab.runtime(known).start_run(known, run_id="run", queue="far")
    lab.clock.advance(2 * MINUTE)
    [runs] = (await lab.runtime(known, queues=["near"]).sweep()).unserved
    assert (runs.queue, runs.first_run_id) == ("far", "run")


async def test_runs_of_one_kind_are_told_once_and_few_kinds_in_all(lab: Lab) -> None:
    """However many wait."""
    runtime = lab.runtime(known)
    for number in range(40):
        await runtime.start_run(known, queue=f"q{number % 20:02}", run_id=f"run-{number:02}")
        lab.advance(milliseconds=1)
    lab.clock.advance(2 * MINUTE)
    unserved = (await lab.runtime(older).sweep()).unserved
    assert [runs.first_run_id for runs in unserved] == [f"run-{number:02}" for number in range(10)]


async def test_worker_tells_after_a_minute_and_then_now_and_then(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """Ten minutes lie between two looks; an idle worker pays for nothing more."""
    await leave(lab, RunStatus.QUEUED)
    store = lab.tapped()
    async with lab.working(lab.runtime(known, store=store)):
        for _ in range(44):
            lab.advance(seconds=30)
            await asyncio.sleep(0.003)
        assert 2 <= store.calls.count("list_pending_runs") <= 3
    assert "of workflow 'sleeps' version '2'" in caplog.text


async def test_error_of_the_look_is_no_matter_of_the_runs(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the sweep and the worker go on."""
    store = lab.tapped()

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "list_pending_runs":
            raise StoreAccessError("no grant")

    store.before = fail
    runtime = lab.runtime(known, store=store)
    await runtime.start_run(known, run_id="run")
    assert (await runtime.sweep()).outcomes == {"finished": 1}
    assert "cannot look for runs that wait for other workers" in caplog.text
