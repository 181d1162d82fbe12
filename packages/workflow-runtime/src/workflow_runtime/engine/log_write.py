"""The value that each write of the engine carries into the log."""

from __future__ import annotations

from typing import NamedTuple

from ..store import NewEvent, Timer

__all__ = ["LogWrite"]


class LogWrite(NamedTuple):
    """Events, and what must become true together with them. Every write of a driver carries one."""

    events: tuple[NewEvent, ...] = ()
    taken_inbox: tuple[int, ...] = ()
    """The numbers of the inbox entries that the events account for."""
    set_timers: tuple[Timer, ...] = ()
    removed_timers: tuple[str, ...] = ()
