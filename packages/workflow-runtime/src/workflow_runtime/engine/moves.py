"""The next move of a driver, decided from facts alone, without a store, a clock or an event loop."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

__all__ = ["DriveState", "Move", "StepWork", "next_move"]


class StepWork(Enum):
    """The state of a drive's steps."""

    RUNNING = auto()
    """A step runs, or its plain function still has a thread."""
    STARTABLE = auto()
    """None runs, and at least one waits for nothing but being started."""
    NONE = auto()
    """None runs, and none can be started now."""


class DriveState(Protocol):
    """The facts that decide what a driver does next, once everything has been settled.

    Each is looked up when a case asks for it: most moves are decided by the first few.
    """

    @property
    def broken(self) -> bool:
        """True if something went wrong that says nothing about the run.

        Ctrl-C in a step, say, or a commit whose outcome is unknown.
        """

    @property
    def lease_lost(self) -> bool:
        """True if another worker has the run."""

    @property
    def called_from_thread(self) -> bool:
        """True if a thread has called back into the handler's event loop."""

    @property
    def draft_full(self) -> bool:
        """True if the next write takes no more."""

    @property
    def draft_empty(self) -> bool:
        """True if there is nothing to write."""

    @property
    def transaction_open(self) -> bool:
        """True if a transactional step runs that can still commit."""

    @property
    def handler_ended(self) -> bool:
        """True if the handler has ended, in whatever way."""

    @property
    def step_ended(self) -> bool:
        """True if a step has ended that is not settled yet."""

    @property
    def step_work(self) -> StepWork:
        """State of the steps."""

    @property
    def budget_low(self) -> bool:
        """True if the queries that are left allow no new step, for now."""

    @property
    def stopping(self) -> bool:
        """True if the driver was asked to hand the run over."""

    @property
    def can_wake(self) -> bool:
        """True if a timer or something from outside can wake the handler."""


class Move(Enum):
    """The next thing for a driver to do."""

    RAISE = auto()
    """Raise what went wrong. The run is not to blame."""
    LEAVE = auto()
    """End the drive without a write: another worker has the run."""
    REFUSE_THREAD = auto()
    """End the run with an error, because a thread has called back."""
    WRITE = auto()
    """Write the draft, and read what came into the inbox."""
    END_RUN = auto()
    """Write how the handler has ended."""
    SETTLE = auto()
    """Only let take effect what has happened since."""
    WORK = auto()
    """Write the draft, start steps, and wait for something to happen."""
    RELEASE = auto()
    """Write the draft and hand the run over to any worker."""
    PAUSE = auto()
    """Write the draft and end the lease until something wakes the run."""
    REFUSE_DEADLOCK = auto()
    """End the run with an error, because nothing could ever wake it."""


# The cases, in the order in which they are looked at. The first one that fits decides.
#
# The drive cannot go on:
#  1. Something is broken: raise it. Whatever else seems to be true may not be.
#  2. The lease is lost: leave. Every write would be refused.
#  3. A thread has called back: end the run with an error. A replay could not repeat that.
#
# There is something to do at once, or a step to wait for:
#  4. The draft is full: write it, and settle what found no room. But not while a transaction is open: the write might
#     wait for the connection that the transaction holds, and the transaction takes the draft along.
#  5. The handler has ended: end the run. Steps that still run are given up.
#  6. A step has ended since the settling, and the draft has room: settle it before anything waits.
#  7. A step runs: go on working. Its end, a timer or news is the next thing to settle.
#
# No step runs:
#  8. The query budget is low: hand the run over. But first write the draft: more was kept back for it than it takes,
#     and what is left over may be enough for another step.
#  9. A step can be started: start it. But a driver that stops hands the run over instead.
# 10. Something can wake the handler: pause the run.
# 11. Nothing can: end the run with an error, or it would wait for ever.


def next_move(state: DriveState) -> Move:
    """Return what a driver does next, once everything that has happened is settled."""
    return _move_off(state) or _move_at_once(state) or _move_without_steps(state)


def _move_off(state: DriveState) -> Move | None:
    if state.broken:  # 1
        return Move.RAISE
    if state.lease_lost:  # 2
        return Move.LEAVE
    return Move.REFUSE_THREAD if state.called_from_thread else None  # 3


def _move_at_once(state: DriveState) -> Move | None:
    if state.draft_full and not state.transaction_open:  # 4
        return Move.WRITE
    if state.handler_ended:  # 5
        return Move.END_RUN
    if state.step_ended and not state.draft_full:  # 6
        return Move.SETTLE
    return Move.WORK if state.step_work is StepWork.RUNNING else None  # 7


def _move_without_steps(state: DriveState) -> Move:
    if state.budget_low:  # 8
        return Move.RELEASE if state.draft_empty else Move.WORK
    if state.step_work is StepWork.STARTABLE:  # 9
        return Move.RELEASE if state.stopping else Move.WORK
    return Move.PAUSE if state.can_wake else Move.REFUSE_DEADLOCK  # 10, 11
