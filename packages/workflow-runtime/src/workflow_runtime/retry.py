"""Retry policies of steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias, cast

from .durations import check_duration
from .errors import ConfigurationError, InvalidArgumentError

__all__ = ["MAX_DELAY", "NO_RETRY", "Backoff", "RetryPolicy", "exponential_backoff", "fixed_backoff"]

Backoff: TypeAlias = Callable[[int], timedelta]
"""The wait after attempt number n (from 1) has failed."""

MAX_DELAY = timedelta(days=3_650_000)
"""The longest wait of any kind, some 10,000 years: its end is still a time that every store carries."""


def exponential_backoff(initial: timedelta = timedelta(seconds=1), factor: float = 2.0) -> Backoff:
    """Wait `initial`, then `factor` times as long each time."""
    first_s = check_duration("initial", initial).total_seconds()
    # Bounded before the multiplication: 2.0 ** 2000 is an OverflowError, and max_delay cuts it anyway.
    return lambda attempt: timedelta(seconds=min(first_s * factor ** min(attempt - 1, 64), 1e9))


def fixed_backoff(delay: timedelta) -> Backoff:
    """Wait the same time after each attempt."""
    delay = check_duration("delay", delay)
    return lambda attempt: delay


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The number of attempts of a step, the pauses between them, and the errors that allow them.

    Waits are durable: a worker may go away meanwhile, and another one makes the next attempt.
    """

    max_attempts: int = 3
    """Attempts in all; 1 means no retry."""
    backoff: Backoff = field(default_factory=exponential_backoff)
    """The wait after each failed attempt. Any function of the attempt's number will do."""
    max_delay: timedelta = timedelta(minutes=10)
    """No wait is longer."""
    jitter: float = 0.1
    """Each wait varies by up to this part of itself, so that many runs do not come back at once."""
    retry_if: Callable[[Exception], bool] | None = None
    """Only errors for which this is true are tried again."""
    non_retryable: tuple[type[Exception], ...] = ()
    """Errors of these types are never tried again."""

    def __post_init__(self) -> None:
        if type(self.max_attempts) is not int or self.max_attempts < 1:
            raise InvalidArgumentError("max_attempts", f"must be an int of at least 1, not {self.max_attempts!r}")
        jitter: object = self.jitter
        if not isinstance(jitter, int | float) or not 0 <= self.jitter <= 1:
            raise InvalidArgumentError("jitter", f"must be from 0 to 1, not {self.jitter!r}")
        self._check_functions()
        object.__setattr__(self, "max_delay", check_duration("max_delay", self.max_delay))
        if not timedelta(0) <= self.max_delay <= MAX_DELAY:
            raise InvalidArgumentError("max_delay", f"must be from 0 to {MAX_DELAY.days} days, not {self.max_delay}")

    def _check_functions(self) -> None:
        backoff: object = self.backoff
        if not callable(backoff):
            problem = f"must be a function of the attempt's number, as fixed_backoff(...) gives, not {backoff!r}"
            raise InvalidArgumentError("backoff", problem)
        retry_if: object = self.retry_if
        if retry_if is not None and not callable(retry_if):
            raise InvalidArgumentError("retry_if", f"must be a function of the error, not {retry_if!r}")
        kinds: object = self.non_retryable
        if not isinstance(kinds, tuple) or not all(isinstance(k, type) and issubclass(k, BaseException) for k in kinds):
            raise InvalidArgumentError("non_retryable", f"must be a tuple of classes of errors, not {kinds!r}")

    def delay_after(self, attempt: int, error: BaseException, rng: random.Random) -> timedelta | None:
        """Return how long to wait before the next attempt, or `None` when there is none.

        Args:
            attempt: The number of the attempt that failed, from 1.
            error: What it raised.
            rng: For the jitter.
        """
        kind = type(error)  # isinstance() asks the error itself, which may raise
        if attempt >= self.max_attempts or issubclass(kind, _NEVER_RETRIED):
            return None
        # Rarely a BaseException (`sys.exit`): predicates on types or attributes work for it too.
        if issubclass(kind, self.non_retryable) or not self._wanted(cast("Exception", error)):
            return None
        delay = max(timedelta(0), min(check_duration("backoff", self.backoff(attempt)), self.max_delay))
        return min(delay * (1 + self.jitter * (2 * rng.random() - 1)), self.max_delay)

    def _wanted(self, error: Exception) -> bool:
        return self.retry_if is None or self.retry_if(error)


_NEVER_RETRIED = (InvalidArgumentError, ConfigurationError)
"""Only another program or another call helps. So it is with a result that cannot be written down, and with a function
that ended its transaction itself: what it committed would be committed once more."""

NO_RETRY = RetryPolicy(max_attempts=1)
"""One attempt, and that is it."""
