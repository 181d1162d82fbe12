"""The state of a drive as its parts have it at this moment."""

from __future__ import annotations

from .drive_parts import DriveParts
from .moves import StepWork

__all__ = ["LiveState"]


class LiveState:
    """The `DriveState` of a drive: each fact is looked up in the part that knows it.

    Args:
        parts: Those of the drive.
    """

    def __init__(self, parts: DriveParts) -> None:
        self._machine = parts.machine
        self._lease = parts.lease
        self._draft = parts.draft
        self._inbox = parts.inbox
        self._steps = parts.steps
        self._transactions = parts.transactions
        self._budget = parts.budget
        self._stop = parts.stop

    @property
    def broken(self) -> bool:
        """See `DriveState`, as for the rest."""
        return self._steps.fatal is not None or self._transactions.broken is not None

    @property
    def lease_lost(self) -> bool:  # noqa: D102  # as said above
        return self._lease.lost

    @property
    def called_from_thread(self) -> bool:  # noqa: D102
        return self._machine.loop.called_from is not None

    @property
    def draft_full(self) -> bool:  # noqa: D102
        return self._draft.full

    @property
    def draft_empty(self) -> bool:  # noqa: D102
        return self._draft.empty

    @property
    def transaction_open(self) -> bool:  # noqa: D102
        return self._steps.transaction_open

    @property
    def handler_ended(self) -> bool:  # noqa: D102
        return self._machine.outcome is not None

    @property
    def step_ended(self) -> bool:  # noqa: D102
        return bool(self._steps.ended)

    @property
    def step_work(self) -> StepWork:  # noqa: D102
        return self._steps.work

    @property
    def budget_low(self) -> bool:  # noqa: D102
        return self._budget.low

    @property
    def stopping(self) -> bool:  # noqa: D102
        return self._stop.made

    @property
    def can_wake(self) -> bool:  # noqa: D102
        return self._draft.timers.next_due() is not None or bool(self._inbox.waiting())
