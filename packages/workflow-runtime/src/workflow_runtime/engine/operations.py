"""Durable operations while they are pending, as the handler asked for them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..payloads import JsonText
from ..retry import RetryPolicy
from .history import OperationKind

__all__ = ["UNKNOWN_TIMER", "Operation", "StepCall"]

UNKNOWN_TIMER = -1
"""No time that a timer fires at: it is set again, and when nobody waits any more it is removed."""


@dataclass(slots=True, kw_only=True)
class StepCall:
    """The function of a step, and how to run it."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retry: RetryPolicy
    timeout_s: float | None
    context: contextvars.Context
    """The handler's context at the call, so that tracing and the like go on inside the step."""
    transactional: bool = False
    """True if it commits together with its record."""


@dataclass(slots=True, kw_only=True)
class Operation:
    """One durable operation: what was asked, and what the log says about it so far."""

    step_id: str
    kind: OperationKind
    future: asyncio.Future[Any]
    """Belongs to the handler's loop; resolved only by an event."""
    task: asyncio.Task[Any] | None = None
    """Task that asked for it."""
    # What was asked:
    step: StepCall | None = None
    name: str = ""
    """Name of the signal, the approval, or the emitted event."""
    value: JsonText | None = None
    """To record (value, emit)."""
    until: Callable[[int], int] | None = None
    """Function from the present (ms) to the deadline (ms); `None` without a deadline."""
    # What the log says:
    started: bool = False
    until_ms: int | None = None
    """The recorded deadline: of a sleep, a wait, or the pause before a step's next attempt."""
    failed_attempts: int = 0
    # Which of its timers is in the store; `UNKNOWN_TIMER` when one may be:
    timer_set_ms: int | None = field(default=None)

    @property
    def pending(self) -> bool:
        """True if the handler still waits for it. A cancelled branch does not."""
        return not self.future.done()

    def begin_anew(self) -> None:
        """Be as if it had just been asked for: with all attempts to come, with its whole time to wait."""
        self.started = False
        self.until_ms = self.timer_set_ms = None
        self.failed_attempts = 0

    @property
    def transactional(self) -> bool:
        """True if it is a step that commits together with its record."""
        return self.step is not None and self.step.transactional
