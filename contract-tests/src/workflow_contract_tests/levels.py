"""The levels of the verdict, and the levels of each case."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Literal

from workflow_runtime.store import ScheduleStore

from .cases import Capability, Case

__all__ = ["LEVELS", "LEVEL_CAPABILITIES", "SCHEDULE_VERBS", "Level", "levels_of"]

Level = Literal["core", "schedules", "live", "transactional", "durable"]
LEVELS: tuple[Level, ...] = ("core", "schedules", "live", "transactional", "durable")
"""The parts of the contract that a store is certified for, each on its own."""

LEVEL_CAPABILITIES: Mapping[Level, tuple[Capability, ...]] = {
    "live": ("subscribe", "notify"),
    "transactional": ("transactions",),
    "durable": ("durable",),
}
"""The capabilities that a store declares to be asked for a level. The other levels need none."""

_LEVEL_OF = {capability: level for level, needed in LEVEL_CAPABILITIES.items() for capability in needed}

SCHEDULE_VERBS = frozenset(
    name for name, member in vars(ScheduleStore).items() if inspect.isfunction(member) and not name.startswith("_")
)
"""The verbs that a store without schedules lacks."""


def levels_of(case: Case) -> tuple[Level, ...]:
    """Return the levels that a case decides: the one of its capability, and `schedules` if it is about them.

    Heartbeats and metering have no level of their own: for a store that declares them they are part of `core`.
    """
    optional = None if case.capability is None else _LEVEL_OF.get(case.capability)
    if case.schedules or case.clauses[0].startswith("SCHEDULE-"):
        return ("schedules",) if optional is None else (optional, "schedules")
    return (optional or "core",)
