"""The ways in which a drive ends."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["DriveOutcome"]


class DriveOutcome(StrEnum):
    """The end of a drive, as its report counts it."""

    FINISHED = "finished"
    ERRORED = "errored"
    ABORTED = "aborted"
    PAUSED = "paused"
    QUEUED = "queued"
    """Paused, but something arrived meanwhile: it is claimable at once."""
    DEAD = "dead"
    """Parked: it does not match its history, or that cannot be read."""
    RELEASED = "released"
    """Handed over, because the worker stops."""
    LOST = "lost"
    """Another worker has it."""
