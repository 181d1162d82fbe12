"""The value that each write of the engine carries into the log."""

from __future__ import annotations

from dataclasses import dataclass

from ..store import NewEvent, Timer

__all__ = ["LogWrite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWrite:
    """Events, and what must become true together with them. Every write of a driver carries one."""

    events: tuple[NewEvent, ...] = ()
    taken_inbox: tuple[int, ...] = ()
    """The numbers of the inbox entries that the events account for."""
    set_timers: tuple[Timer, ...] = ()
    removed_timers: tuple[str, ...] = ()
