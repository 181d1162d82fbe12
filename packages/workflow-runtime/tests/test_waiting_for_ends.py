"""Waiting for a run that does not end: what one is told about it."""

from __future__ import annotations

import asyncio
import logging
import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from workflow_runtime import (
    Context,
    InvalidArgumentError,
    ResultTimeoutError,
    RunFailedError,
    RunStatus,
    StoreUnavailableError,
    handles,
    workflow,
)
from workflow_runtime.store import CancelRequested

if TYPE_CHECKING:
    from conftest import Gate, Lab

SOON = timedelta(milliseconds=30)


@workflow(id="known")
async def known(ctx: Context, _: Any) -> None:
    """Asks somebody, with a deadline, and for an approval."""
    await asyncio.gather(ctx.wait_for_event("go", timeout=timedelta(hours=1)), ctx.approve("boss"))


@workflow(id="unknown")
async def unknown(ctx: Context, _: Any) -> None:
    """Is known to the runtime that starts it, and to no other."""


async def test_timeout_says_what_a_paused_run_waits_for(lab: Lab) -> None:
    """Since when, for which signal and approval, and when its timer is due."""
    runtime = lab.runtime(known)
    handle = await runtime.start_run(known, run_id="run")
    await runtime.sweep()
    with pytest.raises(ResultTimeoutError) as late:
        await handle.result(timeout=SOON)
    assert isinstance(late.value, TimeoutError)
    assert (late.value.run_id, late.value.status, late.value.held_by) == ("run", "paused", None)
    assert late.value.since == lab.clock.now()
    assert str(late.value) == (
        "run 'run' has not ended within 0.03 s: it is paused since 2030-01-01T00:00:00.000+00:00; it waits for "
        "signal 'go', approval 'boss', its timer at 2030-01-01T01:00:00.000+00:00"
    )
    copy = pickle.loads(pickle.dumps(late.value))  # our own
    assert (str(copy), copy.waits_for) == (str(late.value), late.value.waits_for)


async def test_timeout_says_who_drives_a_running_run(lab: Lab, gate: Gate) -> None:
    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        await ctx.step(gate.pass_through)

    runtime = lab.runtime(works, owner="worker-7")
    handle = await runtime.start_run(works, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        with pytest.raises(ResultTimeoutError, match="it is running by 'worker-7' since 2030"):
            await handle.result(timeout=SOON)
        gate.opened.set()


async def test_timeout_says_that_nobody_here_drives_the_run(lab: Lab) -> None:
    """As far as this runtime can tell: neither the workflow, nor the version, nor the queue."""
    await lab.runtime(unknown).start_run(unknown, run_id="run")
    await lab.runtime(known).start_run(known, run_id="elsewhere", queue="far")
    with pytest.raises(ResultTimeoutError, match=r"a worker from .*does not know workflow 'unknown' version '1'"):
        await lab.runtime(known).attach("run").result(timeout=SOON)
    with pytest.raises(ResultTimeoutError, match="does not serve queue 'far'"):
        await lab.runtime(known, queues=["near"]).attach("elsewhere").result(timeout=SOON)
    with pytest.raises(ResultTimeoutError) as late:
        await lab.runtime(known).attach("elsewhere").result(timeout=SOON)
    assert "a worker that can" not in str(late.value)


async def test_timeout_of_a_store_that_does_not_answer(lab: Lab) -> None:
    store = lab.tapped()
    runtime = lab.runtime(known, store=store)
    handle = await runtime.start_run(known, run_id="run")

    async def hang(verb: str, arguments: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    store.before = hang
    with pytest.raises(ResultTimeoutError, match="it could not be read in that time"):
        await handle.result(timeout=SOON)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "this runtime does not know workflow 'unknown' version '1'"),
        ({"queues": ["near"]}, "this runtime does not serve queue 'far'"),
    ],
)
async def test_cancel_says_that_nobody_here_ends_the_run(
    lab: Lab, options: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the answer and in the log; the request stands."""
    await lab.runtime(unknown).start_run(unknown, run_id="run", queue="far")
    runtime = lab.runtime(*([unknown] if options else [known]), **options)
    answer = await runtime.cancel_run("run")
    assert isinstance(answer, CancelRequested)
    assert (answer.status, answer.unserved) == (RunStatus.QUEUED, why)
    assert f"run 'run' was asked to end and waits for a worker: {why}" in caplog.text
    assert (await lab.load("run")).cancel_requested


async def test_cancel_of_a_run_that_is_served_says_nothing(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    runtime = lab.runtime(unknown)
    await runtime.start_run(unknown, run_id="run")
    answer = await runtime.cancel_run("run")
    assert isinstance(answer, CancelRequested)
    assert (answer.status, answer.unserved) == (RunStatus.QUEUED, None)
    assert caplog.text == ""
    assert (await runtime.cancel_run("run")).kind == "duplicate"
    await runtime.sweep()
    assert (await runtime.cancel_run("run", wait=SOON)).kind == "finished"
    assert (await runtime.cancel_run("nobody", wait=SOON)).kind == "not-found"


@pytest.mark.parametrize("again", [False, True])
async def test_cancel_can_wait_for_the_end(lab: Lab, again: bool) -> None:
    """It returns as soon as a worker has ended the run, also when the request was an earlier one's."""
    runtime = lab.runtime(known)
    await runtime.start_run(known, run_id="run")
    await runtime.sweep()
    if again:
        await runtime.cancel_run("run")
    waiting = asyncio.create_task(runtime.cancel_run("run", wait=timedelta(seconds=20)))
    await lab.until(lambda: lab.data.runs["run"].cancel_requested)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await runtime.sweep()
    answer = await waiting
    assert isinstance(answer, CancelRequested)
    assert answer.status is RunStatus.ABORTED


async def test_cancel_waits_no_longer_than_it_was_told(lab: Lab) -> None:
    runtime = lab.runtime(known)
    await runtime.start_run(known, run_id="run")
    answer = await runtime.cancel_run("run", wait=SOON)
    assert isinstance(answer, CancelRequested)
    assert answer.status is RunStatus.QUEUED


async def test_cancel_stands_though_the_run_cannot_be_read(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """What was acknowledged is told as it is."""
    store = lab.tapped()
    runtime = lab.runtime(known, store=store)
    await runtime.start_run(known, run_id="run")

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "load_run":
            raise StoreUnavailableError("restarting")

    store.before = fail
    assert await runtime.cancel_run("run") == CancelRequested(inbox_seq=1)
    assert "run 'run': asked to end, but it cannot be read" in caplog.text


@workflow(id="returns")
async def returns(ctx: Context, value: Any) -> Any:
    """Give what it gets, or raise it."""
    if value == "fails":
        raise ValueError("no")
    return value


async def test_output_of_a_run_that_was_driven_here_is_not_read_again(lab: Lab) -> None:
    """Two calls of the store for it. The value is the caller's own each time; another handle reads it."""
    store = lab.tapped()
    runtime = lab.runtime(returns, store=store)
    handle = await runtime.run_here(returns, {"a": []}, run_id="run")
    first = await handle.result()
    assert first == {"a": []}
    first["a"].append("changed")
    assert await handle.result(timeout=SOON) == {"a": []}
    assert store.calls == ["check_schema", "create_run", "mark_run_finished"]
    assert await runtime.attach("run").result() == {"a": []}
    with pytest.raises(InvalidArgumentError, match="timeout"):
        await handle.result(timeout=cast("Any", 5))
    assert await (await runtime.run_here(returns, None)).result() is None
    assert store.calls.count("load_run") == 1


async def test_only_an_output_is_kept(lab: Lab, gate: Gate) -> None:
    """A run that failed may be retried, one that waits goes on elsewhere, and one that was there is not driven."""

    @workflow(id="mended")
    async def mended(ctx: Context, _: Any) -> Any:
        if not gate.opened.is_set():
            raise ValueError("not yet")
        return await ctx.wait_for_event("go")

    runtime = lab.runtime(mended)
    handle = await runtime.run_here(mended, run_id="run")
    with pytest.raises(RunFailedError, match="not yet"):
        await handle.result()
    gate.opened.set()
    await runtime.retry_run("run")
    again = await runtime.run_here(mended, run_id="run")
    assert not again.created
    await runtime.sweep()
    with pytest.raises(ResultTimeoutError):
        await handle.result(timeout=SOON)
    await runtime.deliver_signal("run", "go", "gone")
    await runtime.sweep()
    assert [await handle.result(), await again.result()] == ["gone", "gone"]


@pytest.fixture
def polls_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for an end has read the run once, and does not look again by himself."""
    monkeypatch.setattr(handles, "_FIRST_POLL_S", 3_600.0)
    monkeypatch.setattr(handles, "_LAST_POLL_S", 3_600.0)


@pytest.mark.usefixtures("polls_never")
@pytest.mark.parametrize("value", ["fine", "fails"])
async def test_end_of_a_run_that_is_driven_here_is_known_at_once(lab: Lab, value: str) -> None:
    """To everybody in this runtime who waits for it, however the run ends, by two reads each."""
    store = lab.tapped()
    runtime = lab.runtime(returns, store=store)
    handle = await runtime.start_run(returns, value, run_id="run")
    waiting = [asyncio.ensure_future(one.ended()) for one in (handle, runtime.attach("run"))]
    async with asyncio.timeout(10):
        while store.calls.count("load_run") < 2:
            await asyncio.sleep(0.001)
        await runtime.sweep()
        ended = await asyncio.gather(*waiting)
    assert {run.status for run in ended} == {RunStatus.FINISHED if value == "fine" else RunStatus.ERRORED}
    assert store.calls.count("load_run") == 4
    assert not runtime._ends._awaited


@pytest.mark.usefixtures("polls_never")
async def test_end_that_comes_while_the_run_is_read_is_not_missed(lab: Lab) -> None:
    """The answer says that the run is running; by the time it is here, the run has ended."""
    store = lab.tapped()
    runtime = lab.runtime(returns, store=store)
    handle = await runtime.start_run(returns, "fine", run_id="run")

    before = store.after

    async def end_it(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "load_run":
            store.after = before
            await runtime.sweep()

    store.after = end_it
    assert await asyncio.wait_for(handle.result(), 10) == "fine"


@pytest.mark.usefixtures("polls_never")
async def test_terminated_run_wakes_who_waits_for_it(lab: Lab) -> None:
    runtime = lab.runtime(known)
    handle = await runtime.start_run(known, run_id="run")
    waiting = asyncio.ensure_future(handle.ended())
    await asyncio.sleep(0.01)
    await runtime.terminate_run("run")
    assert (await asyncio.wait_for(waiting, 10)).status is RunStatus.ABORTED


async def test_end_elsewhere_is_found_by_looking(lab: Lab) -> None:
    """Another runtime drives it."""
    handle = await lab.runtime(returns).start_run(returns, "there", run_id="run")
    waiting = asyncio.ensure_future(handle.result())
    await asyncio.sleep(0.01)
    await lab.runtime(returns).sweep()
    assert await asyncio.wait_for(waiting, 10) == "there"
