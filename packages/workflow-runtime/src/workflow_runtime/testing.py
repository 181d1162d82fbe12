"""Help for the tests of applications: a clock that tests move, and runs that are driven to their end at once."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from .clock import TestClock
from .durations import check_duration
from .errors import NonDeterminismError
from .handles import RunHandle
from .runtime import WorkflowRuntime
from .store import RunRecord
from .sweep import SweepReport

__all__ = ["TestClock", "run_to_completion", "run_until_blocked"]

OutputT = TypeVar("OutputT")


async def run_until_blocked(
    runtime: WorkflowRuntime, *, max_sweeps: int = 1_000, check_replay: bool = False
) -> int | None:
    """Sweep until nothing is due any more, without moving the clock: ticks are fired and runs driven.

    Args:
        runtime: What drives them.
        max_sweeps: When to give up.
        check_replay: Drive each run a second time from its log, after everything that is written, and compare what
            its handler asks for and how it ends. Steps do not run again; plain code of the handler does.

    Returns:
        When there will be work again (milliseconds since the Unix epoch), or `None` when no clock brings any.

    Raises:
        AssertionError: There was still work after `max_sweeps` sweeps: a workflow goes round in circles.
        NonDeterminismError: With `check_replay`: names the first difference.
    """
    for _ in range(max_sweeps):
        with runtime._checking_replay(check_replay):  # noqa: SLF001  # of the same package
            report = await runtime.sweep()
        if check_replay:
            _raise_difference(report)
        if report.handled == 0:
            return report.next_due_ms
    raise AssertionError(f"there was still work after {max_sweeps} sweeps")


async def run_to_completion(
    runtime: WorkflowRuntime,
    handle: RunHandle[OutputT],
    clock: TestClock,
    *,
    limit: timedelta = timedelta(days=366),
    check_replay: bool = False,
) -> OutputT:
    """Drive a run to its end and give its output, moving the clock from one due time to the next.

    Other runs that are due are driven too: the run may wait for a signal from one of them.

    Args:
        runtime: Must use `clock`.
        handle: Which run.
        clock: Moved forward as far as needed.
        limit: How far it may be moved.
        check_replay: As for `run_until_blocked`: catches a handler that uses the time, random numbers, or what an
            earlier call has left behind.

    Raises:
        RunFailedError: The run ended as `errored`.
        RunAbortedError: It was cancelled or terminated, or is parked as `dead`.
        AssertionError: The run waits for something that no clock brings; says for what.
        NonDeterminismError: With `check_replay`: names the first difference.
    """
    last_ms = clock.now_ms() + check_duration("limit", limit) // timedelta(milliseconds=1)
    while True:
        next_due_ms = await run_until_blocked(runtime, check_replay=check_replay)
        run = await handle.load()
        if run.status.is_terminal:
            return await handle.result()
        due = [at_ms for at_ms in (run.due_at_ms, run.lease_expires_at_ms, next_due_ms) if at_ms is not None]
        due_ms = min((at_ms for at_ms in due if at_ms > clock.now_ms()), default=None)
        if due_ms is None or due_ms > last_ms:
            raise AssertionError(_stuck(run))
        clock.advance_to_ms(due_ms)


def _raise_difference(report: SweepReport) -> None:
    for failure in report.failures:
        if isinstance(failure.error, NonDeterminismError):
            raise failure.error


def _stuck(run: RunRecord) -> str:
    waits = ", ".join(f"{awaited.kind} {awaited.name!r}" for awaited in run.awaited) or "nothing"
    return f"run {run.run_id!r} is {run.status} and waits for {waits}"
