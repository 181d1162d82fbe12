"""The queries of a drive, measured against what its steps and its draft will take."""

from __future__ import annotations

from .allowance import Allowance
from .log_draft import LogDraft
from .step_tasks import StepTasks

__all__ = ["DriveBudget"]


class DriveBudget:
    """The rest of a drive's allowance, beyond the record of its steps and the end of the drive.

    Args:
        allowance: How many queries there are.
        steps: Each of them takes a write.
        draft: The next write.
    """

    def __init__(self, *, allowance: Allowance, steps: StepTasks, draft: LogDraft) -> None:
        self.low: bool = False
        """True if so few queries are left that nothing new is begun, for the time being."""
        self._allowance = allowance
        self._steps = steps
        self._draft = draft

    def measure(self) -> None:
        """Set `low`."""
        if self._allowance.limited:
            self.low = not self._allowance.covers_unit(self._steps.unrecorded)

    def keep_back(self) -> None:
        """Keep what it takes to write the draft, to record the steps and to hand the run over."""
        if not self._allowance.limited:
            return  # most drives, several times for each step
        self._allowance.keep_back(
            unrecorded_steps=self._steps.unrecorded,
            unwritten_events=None if self._draft.empty else len(self._draft.events),
        )

    def startable_steps(self) -> int | None:
        """Return how many more steps may start; `None` means any number."""
        return self._allowance.startable_steps(self._steps.unrecorded)

    def covers_end(self) -> bool:
        """Return whether the draft and an end of the run can be written."""
        return self._allowance.covers_write(len(self._draft.events) + 1)

    def require_unit(self) -> None:
        """Raise when a full draft could not be written.

        Raises:
            QueryLimitReachedError: So few queries are left.
        """
        self._allowance.require_unit()
