"""The sources of a worker's work, and what they answer when they are asked."""

from __future__ import annotations

from typing import Literal, TypeAlias

from .frozen_value import Value, value

__all__ = ["RUN_SOURCES", "SOURCES", "Answer", "Source"]

Source: TypeAlias = Literal["ticks", "stale", "timers", "pending"]
"""Ticks of schedules; runs whose lease has expired, whose timer is due, that are queued."""

RUN_SOURCES: tuple[Source, ...] = ("stale", "timers", "pending")
SOURCES: tuple[Source, ...] = ("ticks", *RUN_SOURCES)


@value
class Answer(Value):
    """The answer of one source."""

    next_due_ms: int | None
    """Time of what is left there; milliseconds since the Unix epoch."""
    found: bool = False
    """True if it had something. What is due and was not given waits for somebody else, or cannot be read."""
    failed: bool = False
    """True if the store could not be asked, and may be before long."""
