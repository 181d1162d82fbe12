"""Repeats of a call to the database, with backoff; the caller says which errors allow one.

D1 over HTTP repeats what certainly was not done (`was_not_done`) and what only reads. A batch of the store is repeated
also when its outcome is unknown (`is_unknown`), because the store recognises its own batches: see `statement_sender`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from workflow_runtime.store import InvalidArgumentError, check_duration

from .database import D1DatabaseError

__all__ = ["Retries", "is_unknown", "was_not_done"]

T = TypeVar("T")


def _draw() -> float:
    # Looked up when it is called: what a Worker imports before its first request must not draw yet.
    return random.random()  # noqa: S311  # jitter


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Exponential backoff with full jitter: each wait is a random part of a bound that doubles.

    Raises:
        InvalidArgumentError: No attempt at all, or a wait that is negative.
    """

    attempts: int = 4
    """The most times that a call is made; 1 repeats nothing."""
    first_wait: timedelta = timedelta(milliseconds=200)
    """The bound of the first wait."""
    longest_wait: timedelta = timedelta(seconds=5)
    """Upper bound of the pauses, before jitter."""
    longest_told_wait: timedelta = timedelta(seconds=60)
    """The longest wait that is kept of one that the database asks for."""
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    """Waits so many seconds."""
    random: Callable[[], float] = _draw
    """Function that returns a number from 0 to 1."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidArgumentError("attempts", f"must be at least 1, not {self.attempts}")
        for name in ("first_wait", "longest_wait", "longest_told_wait"):
            if check_duration(name, getattr(self, name)) < timedelta(0):
                raise InvalidArgumentError(name, "must not be negative")

    async def run(self, call: Callable[[], Awaitable[T]], may_repeat: Callable[[D1DatabaseError], bool]) -> T:
        """Make a call until it is answered, cannot be repeated, or was made often enough.

        Args:
            call: Makes one attempt.
            may_repeat: Whether this error allows another.

        Raises:
            D1DatabaseError: That of the last attempt. Its outcome is unknown if that of any attempt is.
        """
        unknown = False
        for attempt in range(1, self.attempts + 1):
            try:
                return await call()
            except D1DatabaseError as error:
                unknown = unknown or error.outcome_unknown
                if attempt == self.attempts or not may_repeat(error):
                    error.outcome_unknown = unknown and error.unavailable
                    raise
                wait_s = self._wait_s(attempt, error.retry_after)
            await self.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _wait_s(self, attempt: int, told: timedelta | None) -> float:
        bound: timedelta = min(self.first_wait * (1 << attempt - 1), self.longest_wait)
        least = timedelta(0) if told is None else min(told, self.longest_told_wait)
        # The jitter goes on top: other callers were asked to wait as long.
        return (least + bound * self.random()).total_seconds()


def was_not_done(error: D1DatabaseError) -> bool:
    """Return True if the call had no effect and may succeed later."""
    return error.unavailable and not error.outcome_unknown


def is_unknown(error: D1DatabaseError) -> bool:
    """Return True if the call may have had its effect."""
    return error.outcome_unknown
