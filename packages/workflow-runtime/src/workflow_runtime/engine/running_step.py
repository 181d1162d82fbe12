"""A step while it runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .operations import Operation

if TYPE_CHECKING:
    from .step_threads import ThreadCall

__all__ = ["RunningStep"]


@dataclass(slots=True)
class RunningStep:
    """A step while an attempt of it runs as a task. The step tasks of a drive make one for each start."""

    operation: Operation
    task: asyncio.Task[None] = field(init=False)
    plain: bool = False
    """True if it is a plain function: that needs a thread."""
    call: ThreadCall | None = None
    """The plain function, once it waits for nothing but a thread."""
    over: bool = False
    """True if the attempt has ended and that is noted, though its task may still be there for a moment."""
    cancelled: bool = False
    cut_short: bool = True
    """True if it has neither a result nor failed, and is to be run again if it is still wanted."""

    def cancel(self) -> None:
        """Cancel it, unless that was done: a second cancellation would hit the step while it cleans up."""
        if not self.cancelled:
            self.cancelled = True
            self.task.cancel()

    def withdraw(self) -> bool:
        """Cancel a plain function that has not begun. Return whether it was one."""
        if self.plain and (self.call is None or self.call.take_back()):
            self.cancel()
            return True
        return False
