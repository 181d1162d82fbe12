"""The request to end a drive before its time."""

from __future__ import annotations

import asyncio

__all__ = ["StopRequest"]


class StopRequest:
    """The request to hand a run over. A stopping worker makes it, or a drive that cannot go on.

    Once it is made, no new step starts, and a store that is away is given up after some seconds.
    """

    def __init__(self) -> None:
        self._made = False
        self._event: asyncio.Event | None = None

    @property
    def made(self) -> bool:
        """True if the run is to be handed over."""
        return self._made or (self._event is not None and self._event.is_set())

    def make(self) -> None:
        """Ask for the run to be handed over."""
        self._made = True

    def follow(self, event: asyncio.Event) -> None:
        """Count as made when an event is set: at once, and not only when somebody has noticed that."""
        self._event = event
