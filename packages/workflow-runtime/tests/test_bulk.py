"""Many runs at once: by filter, in batches, with progress; each run as by the call for one."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import NO_RETRY, BulkReport, Context, InvalidArgumentError, RunStatus, WorkflowRuntime, workflow
from workflow_runtime.store import BulkStore

if TYPE_CHECKING:
    from conftest import Lab

broken: set[str] = set()


async def act(name: str) -> str:
    if name in broken:
        raise ConnectionError(name)
    return name


@workflow(id="failing", retry=NO_RETRY)
async def failing(ctx: Context, name: str) -> str:
    return await ctx.step(act, name)


@workflow(id="sleeping")
async def sleeping(ctx: Context, _: Any) -> None:
    await ctx.sleep(timedelta(hours=1))


@pytest.fixture
async def runtime(lab: Lab) -> WorkflowRuntime:
    broken.clear()
    return lab.runtime(failing, sleeping)


async def _errored(runtime: WorkflowRuntime, count: int, name: str = "pay", **options: Any) -> None:
    broken.add(name)
    for number in range(count):
        await runtime.start_run(failing, name, run_id=f"{name}-{number:04}", **options)
    await runtime.sweep(limit=10_000)
    broken.discard(name)


async def test_retry_by_filter_takes_what_matches_and_nothing_else(lab: Lab, runtime: WorkflowRuntime) -> None:
    await _errored(runtime, 450)
    await _errored(runtime, 3, "other")
    seen: list[tuple[int, bool]] = []

    async def progress(report: BulkReport) -> None:
        seen.append((report.total, report.more))

    report = await runtime.retry_runs(run_id_prefix="pay-", reason="mended", on_progress=progress)
    assert (report.outcomes, report.total, report.more) == ({"retried": 450}, 450, False)
    assert seen == [(200, True), (400, True), (450, False)]
    await runtime.sweep(limit=10_000)
    assert dict(await lab.store().count_runs()) == {RunStatus.FINISHED: 450, RunStatus.ERRORED: 3}
    assert (await runtime.retry_runs(run_id_prefix="pay-")).total == 0


async def test_limit_leaves_the_rest_and_says_so(lab: Lab, runtime: WorkflowRuntime) -> None:
    await _errored(runtime, 5)
    report = await runtime.retry_runs(limit=3)
    assert (report.outcomes, report.more) == ({"retried": 3}, True)
    counts = dict(await lab.store().count_runs())
    assert counts == {RunStatus.QUEUED: 3, RunStatus.ERRORED: 2}
    assert (await runtime.retry_runs(limit=2)).more is False
    assert (await runtime.retry_runs(limit=0)).total == 0
    with pytest.raises(InvalidArgumentError, match="limit"):
        await runtime.retry_runs(limit=-1)


async def test_runs_that_end_wrongly_again_are_not_retried_by_the_same_call(lab: Lab, runtime: WorkflowRuntime) -> None:
    """A call has an end, however quickly the workers are done with what it gives them."""
    await _errored(runtime, 250)
    broken.add("pay")

    async def work(report: BulkReport) -> None:
        await runtime.sweep(limit=10_000)

    report = await runtime.retry_runs(on_progress=work)
    assert report.outcomes == {"retried": 250}
    assert dict(await lab.store().count_runs()) == {RunStatus.ERRORED: 250}


async def test_each_filter(lab: Lab, runtime: WorkflowRuntime) -> None:
    await _errored(runtime, 2, "a", queue="slow")
    lab.advance(hours=1)
    noon = datetime.fromtimestamp(lab.clock.now_ms() / 1000, UTC)
    await _errored(runtime, 3, "b")
    for filters, expected in (
        ({"queues": ["slow"]}, 2),
        ({"created_from": noon}, 3),
        ({"created_before": noon}, 2),
        ({"workflow_ids": ["failing"], "queues": ["default"]}, 3),
        ({"workflow_ids": ["sleeping"]}, 0),
        ({"statuses": [RunStatus.DEAD]}, 0),
    ):
        report = await runtime.retry_runs(**filters)
        assert report.total == expected, filters
        await runtime.terminate_runs()
        for run in (await lab.store().list_runs(limit=9)).runs:
            lab.data.runs[run.run_id].status = RunStatus.ERRORED
    with pytest.raises(InvalidArgumentError, match="is no filter"):
        await runtime.retry_runs(workflows=["failing"])  # type: ignore[call-arg]
    with pytest.raises(InvalidArgumentError, match="created_from"):
        await runtime.retry_runs(created_from=datetime(2030, 1, 1))  # noqa: DTZ001


async def test_cancel_terminate_and_requeue(lab: Lab, runtime: WorkflowRuntime) -> None:
    for number in range(6):
        await runtime.start_run(sleeping, run_id=f"run-{number}")
    await runtime.sweep()
    assert (await runtime.cancel_runs(limit=3, reason="no longer wanted")).outcomes == {"requested": 3}
    assert (await runtime.cancel_runs(limit=4)).outcomes == {"duplicate": 3, "requested": 1}
    await runtime.sweep()
    assert (await lab.load("run-0")).reason == "no longer wanted"
    assert (await runtime.terminate_runs(reason="at once")).outcomes == {"terminated": 2}
    assert dict(await lab.store().count_runs()) == {RunStatus.ABORTED: 6}
    assert (await lab.load("run-5")).reason == "at once"
    assert (await runtime.retry_runs(statuses=[RunStatus.ABORTED])).outcomes == {"retried": 6}
    for number in range(6):
        lab.data.runs[f"run-{number}"].make_dead(lab.clock.now_ms())
    assert (await runtime.requeue_runs()).outcomes == {"requeued": 6}
    assert (await runtime.requeue_runs()).total == 0


async def test_every_verb_for_many_is_reached(lab: Lab, runtime: WorkflowRuntime) -> None:
    """A new verb of the contract's role must not be forgotten here."""
    methods = {name: method for name, method in vars(BulkStore).items() if inspect.isfunction(method)}
    verbs = [name for name, method in methods.items() if "run_ids" in inspect.signature(method).parameters]
    assert verbs
    for verb in verbs:
        store = lab.tapped()
        other = lab.runtime(failing, store=store)
        await _errored(runtime, 1, f"x{verb}")
        await getattr(other, verb)(statuses=list(RunStatus)) if verb != "retry_runs" else await other.retry_runs()
        assert verb in store.calls
