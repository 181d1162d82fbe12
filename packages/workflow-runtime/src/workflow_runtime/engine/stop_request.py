"""The request to end a drive before its time."""

from __future__ import annotations

__all__ = ["StopRequest"]


class StopRequest:
    """The request to hand a run over. A stopping worker makes it, or a drive that cannot go on.

    Once it is made, no new step starts, and a store that is away is given up after some seconds.
    """

    def __init__(self) -> None:
        self.made: bool = False

    def make(self) -> None:
        """Ask for the run to be handed over."""
        self.made = True
