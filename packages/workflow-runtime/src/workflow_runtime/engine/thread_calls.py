"""The plain functions of a drive's steps, from the wait for a thread to their return."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..logs import get_logger
from .operations import Operation
from .running_step import RunningStep
from .step_info import StepAttempt

if TYPE_CHECKING:
    from .step_threads import StepThreads, ThreadCall

__all__ = ["ThreadCalls"]

logger = get_logger("workflow_runtime")


class ThreadCalls:
    """The plain functions of one drive that have a thread. Some of them outlive their attempts.

    Args:
        threads: Where they run; `None` in a Python without threads.
        on_end: Called when a function that outlived its attempt has returned.
    """

    def __init__(self, threads: StepThreads | None, on_end: Callable[[], None]) -> None:
        self._threads = threads
        self._on_end = on_end
        self._on_threads: dict[str, tuple[Operation, ThreadCall]] = {}

    @property
    def holding(self) -> bool:
        """True if a plain function runs whose step is yet to be recorded.

        Nobody can interrupt it, not even after its attempt has ended by a timeout. Whoever else would drive the run
        might run the step beside it.
        """
        calls = self._on_threads
        return bool(calls) and any(operation.pending for operation, _ in calls.values())

    async def call(self, step: RunningStep, attempt: StepAttempt, function: Callable[[], Any]) -> Any:
        """Call a step's plain function. It waits for its turn, and for the end of an earlier attempt's function."""
        if self._threads is None:
            return await asyncio.to_thread(function)  # the event loop there calls it at once
        step.plain = True
        call = step.call = await self._threads.begin(attempt.info().idempotency_key, function)
        self._on_threads[attempt.step_id] = step.operation, call
        try:
            result = await call.result()
        finally:
            if call.running:
                self._leave_behind(step.operation, call, attempt)
            else:
                self._on_threads.pop(attempt.step_id, None)
        step.plain = False  # what it has made may be a coroutine, which can be cancelled
        return result

    def _leave_behind(self, operation: Operation, call: ThreadCall, attempt: StepAttempt) -> None:
        call.when_over(lambda: self._end_of_leftover(operation, call))
        logger.warning(
            "run %r, step %r: its plain function cannot be interrupted and goes on, attempt %d is over",
            attempt.run_id, attempt.step_id, attempt.number,
        )  # fmt: skip

    def _end_of_leftover(self, operation: Operation, call: ThreadCall) -> None:
        _, latest = self._on_threads.get(operation.step_id, (None, None))
        if latest is call:  # not the one of the next attempt
            del self._on_threads[operation.step_id]
        self._on_end()
