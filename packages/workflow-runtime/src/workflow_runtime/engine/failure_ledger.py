"""The failures of a run that a retry may take back: nothing that its handler asked for later can depend on them.

What was asked for later is in the log, or on its way there, and stays. So a failure that led to something stays as
well: a handler that has compensated for a payment must not see the payment succeed afterwards.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from .loop import HandlerTask

__all__ = ["FailureLedger"]


@dataclass(frozen=True, slots=True)
class _Failure:
    step_id: str
    task: asyncio.Task[object] | None
    """Task that asked for what failed."""
    moment: int
    tasks_made: int

    def answered_by(self, task: asyncio.Task[object] | None, moment: int) -> bool:
        """Return True if what this task asks for may be the consequence of the failure."""
        if moment == self.moment or not isinstance(task, HandlerTask) or not isinstance(self.task, HandlerTask):
            return True  # in the same turn in which the handler saw the failure
        if task.number > self.tasks_made:
            return True  # started later, by code that may have seen the failure
        if not _ended_by_error(self.task):
            return True  # caught, and perhaps passed to any other branch
        # It ended a task. The code that started the task may read it there; other branches do not.
        return self.task.descends_from(task)


class FailureLedger:
    """The failures of a run that nothing depends on so far. The machine keeps one."""

    def __init__(self) -> None:
        self.moment = 0
        """Counts the events that took effect: what is asked for before the next one may be in answer to this one."""
        self.cancelled: bool = False
        """True if the request to end took effect and nothing was asked for since."""
        self._open: list[_Failure] = []

    @property
    def step_ids(self) -> tuple[str, ...]:
        """Step ids of what failed, in the order of the log."""
        return tuple(failure.step_id for failure in self._open)

    def failed(self, step_id: str, task: asyncio.Task[object] | None, tasks_made: int) -> None:
        """Note that an operation fails now.

        Args:
            step_id: Which one.
            task: Who asked for it.
            tasks_made: How many tasks the handler has made so far.
        """
        self._open.append(_Failure(step_id, task, self.moment, tasks_made))

    def asked(self, task: asyncio.Task[object] | None) -> None:
        """Note that a task asks for something new."""
        self.cancelled = False
        if self._open:
            self._open = [failure for failure in self._open if not failure.answered_by(task, self.moment)]


def _ended_by_error(task: asyncio.Task[object]) -> bool:
    # Not `exception()`: that marks it as retrieved, and asyncio would not report an unretrieved one.
    return task.done() and task._exception is not None  # noqa: SLF001
