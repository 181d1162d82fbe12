"""Answers that nobody can overlook: what they say about a call that changed nothing is raised when asked."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, get_args

import pytest
from workflow_runtime import (
    Context,
    Every,
    OutcomeError,
    RunConflictError,
    RunNotFoundError,
    RunStatus,
    Schedule,
    ScheduleNotFoundError,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.store import results

if TYPE_CHECKING:
    from conftest import Lab


@workflow()
async def waits(ctx: Context, _: Any) -> None:
    await ctx.wait_for_event("go")


_WITHIN = {"ClaimResult", "BucketResult", "LeaseResult"}
"""Answers to workers; they look at each of them."""

OUTSIDE = {
    name: get_args(getattr(results, name))
    for name in results.__all__
    if name.endswith("Result") and name not in _WITHIN
}


def test_every_answer_to_a_call_from_outside_can_be_asked() -> None:
    """Also those that somebody adds later."""
    assert len(OUTSIDE) >= 10
    for union, answers in OUTSIDE.items():
        for answer in answers:
            assert callable(getattr(answer, "raise_for_outcome", None)), f"{answer.__name__} of {union}"


_MADE: dict[str, Any] = {"status": RunStatus.RUNNING, "next_index": 3, "approved": True}

NAMELESS = [
    answer(**{name: _MADE[name] for name in names})
    for answer in sorted({answer for answers in OUTSIDE.values() for answer in answers}, key=lambda one: one.__name__)
    if (names := {field.name for field in dataclasses.fields(answer) if field.default is dataclasses.MISSING})
    <= _MADE.keys()
]
"""What stores answer themselves; only the runtime writes the run into it."""

REFUSING = {"not-found", "finished", "not-waiting", "not-requeueable", "not-retryable", "not-deletable", "not-forkable"}


@pytest.mark.parametrize("answer", NAMELESS, ids=lambda answer: answer.kind)
def test_an_answer_of_which_nothing_is_known_still_raises(answer: Any) -> None:
    if answer.kind not in REFUSING:
        assert answer.raise_for_outcome() is answer
        return
    with pytest.raises((OutcomeError, RunNotFoundError)) as raised:
        answer.raise_for_outcome()
    assert "None" not in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)  # our own


def test_all_refusals_were_tried() -> None:
    assert {answer.kind for answer in NAMELESS} >= REFUSING


Call = Callable[[WorkflowRuntime, str], Awaitable[Any]]

CALLS: dict[str, Call] = {
    "deliver_signal": lambda runtime, run_id: runtime.deliver_signal(run_id, "go"),
    "deliver_signal only_if_waiting": lambda runtime, run_id: runtime.deliver_signal(
        run_id, "go", only_if_waiting=True
    ),
    "deliver_approval": lambda runtime, run_id: runtime.deliver_approval(run_id, "ok", approved=True),
    "cancel_run": lambda runtime, run_id: runtime.cancel_run(run_id),
    "terminate_run": lambda runtime, run_id: runtime.terminate_run(run_id),
    "requeue_run": lambda runtime, run_id: runtime.requeue_run(run_id),
    "retry_run": lambda runtime, run_id: runtime.retry_run(run_id),
    "fork_run": lambda runtime, run_id: runtime.fork_run(run_id, 0),
}


@pytest.mark.parametrize("call", CALLS)
async def test_an_unknown_run_is_named(lab: Lab, call: str) -> None:
    answer = await CALLS[call](lab.runtime(waits), "nobody")
    assert answer.kind == "not-found"
    with pytest.raises(RunNotFoundError, match="'nobody'") as raised:
        answer.raise_for_outcome()
    assert raised.value.run_id == "nobody"


@pytest.mark.parametrize("call", CALLS)
async def test_a_run_that_has_finished_takes_nothing(lab: Lab, call: str) -> None:
    """What was to reach it never will; a fork of it is a matter of its own."""
    runtime = lab.runtime(waits)
    await runtime.start_run(waits, run_id="run")
    await runtime.deliver_signal("run", "go")
    await runtime.sweep()
    assert await lab.status("run") is RunStatus.FINISHED
    answer = await CALLS[call](runtime, "run")
    if call == "fork_run":
        assert answer.raise_for_outcome() is answer
        return
    with pytest.raises(OutcomeError, match=r"run 'run': .*finished.*nothing was changed") as raised:
        answer.raise_for_outcome()
    assert (raised.value.kind, raised.value.run_id) == (answer.kind, "run")


async def test_what_is_done_or_was_done_before_passes(lab: Lab) -> None:
    """A repeat after a lost answer is no error."""
    runtime = lab.runtime(waits)
    await runtime.start_run(waits, run_id="run")
    await runtime.sweep()
    for _ in range(2):
        (await runtime.deliver_signal("run", "other", signal_id="once")).raise_for_outcome()
        (await runtime.deliver_approval("run", "ok", approved=False)).raise_for_outcome()
        (await runtime.fork_run("run", 1, "fork")).raise_for_outcome()
    with pytest.raises(OutcomeError, match="the approval was refused before"):
        (await runtime.deliver_approval("run", "ok", approved=True)).raise_for_outcome()
    with pytest.raises(RunConflictError, match="from_index"):
        (await runtime.fork_run("run", 0, "fork")).raise_for_outcome()
    with pytest.raises(OutcomeError, match="its log has only 1 events"):
        (await runtime.fork_run("run", 9)).raise_for_outcome()
    assert (await runtime.fork_run("run", 1)).raise_for_outcome().run.forked_from_run_id == "run"
    (await runtime.cancel_run("run")).raise_for_outcome()
    (await runtime.cancel_run("run")).raise_for_outcome()
    await runtime.sweep()
    for call in (runtime.cancel_run, runtime.terminate_run):
        answer = await call("run")
        assert answer.kind == "finished"
        answer.raise_for_outcome()  # it has ended as it was to
    with pytest.raises(OutcomeError, match="aborted"):
        (await runtime.deliver_signal("run", "go")).raise_for_outcome()


async def test_a_schedule_that_is_not_there_is_named(lab: Lab) -> None:
    runtime = lab.runtime(waits)
    await runtime.schedules.create(Schedule(id="s", workflow=waits, when=Every(timedelta(hours=1))))
    (await runtime.schedules.delete("s")).raise_for_outcome()
    with pytest.raises(ScheduleNotFoundError, match="'s'"):
        (await runtime.schedules.delete("s")).raise_for_outcome()
