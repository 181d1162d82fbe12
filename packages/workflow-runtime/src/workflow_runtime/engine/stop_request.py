"""The request to end a drive before its time."""

from __future__ import annotations

from ..errors import QueryLimitReachedError

__all__ = ["StopRequest"]


class StopRequest:
    """The request to hand a run over. A stopping worker makes it, or the first query that the allowance refuses.

    Once it is made, no new step starts, and a store that is away is given up after some seconds.
    """

    def __init__(self) -> None:
        self.made: bool = False
        self.refusal: QueryLimitReachedError | None = None
        """The error that the drive ends with, when a query was refused."""

    def make(self, because: QueryLimitReachedError | None = None) -> None:
        """Ask for the run to be handed over."""
        self.made = True
        self.refusal = because or self.refusal
