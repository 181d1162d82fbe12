"""The repetition of a store call while the store is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from .errors import QueryLimitReachedError, StoreAccessError, StoreError

__all__ = ["failure_level", "may_pass", "try_again", "until_answered"]

T = TypeVar("T")

_RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses between the tries of one call. After the last one the call is given up, unless its caller has more patience.
"""


def may_pass(error: BaseException) -> bool:
    """Return whether an error is about the database and not about the call: it passes, or somebody mends it."""
    return isinstance(error, StoreAccessError) or (isinstance(error, StoreError) and error.retryable)


def failure_level(error: BaseException) -> int:
    """Return the level to log a failed drive or tick with: a warning if trying again later may be all it takes."""
    passes = isinstance(error, QueryLimitReachedError) or (isinstance(error, StoreError) and error.retryable)
    return logging.WARNING if passes else logging.ERROR


async def until_answered(
    call: Callable[[], Awaitable[T]],
    *,
    is_final: Callable[[StoreError], bool] = lambda error: not error.retryable,
    patience_s: Callable[[], float] = lambda: 0.0,
) -> T:
    """Repeat a call that may be repeated, some seconds long.

    Args:
        call: Makes one try.
        is_final: Whether an error is none to try again.
        patience_s: For how long, if that is more than some seconds; asked again before each try.

    Raises:
        StoreError: The store refuses, or is still away.
    """
    try:
        return await call()
    except StoreError as error:
        return await try_again(error, call, is_final=is_final, patience_s=patience_s)


async def try_again(
    error: StoreError,
    call: Callable[[], Awaitable[T]],
    *,
    is_final: Callable[[StoreError], bool],
    patience_s: Callable[[], float],
) -> T:
    """Repeat a call after its first try failed. See `until_answered`.

    Args:
        error: The error of the first try.
        call: Makes one try.
        is_final: Whether an error is none to try again.
        patience_s: For how long.

    Raises:
        StoreError: The store refuses, or is still away.
    """
    for delay_s in _delays_s(patience_s):
        if is_final(error):
            raise error
        await asyncio.sleep(delay_s)
        try:
            return await call()
        except StoreError as latest:
            error = latest
    raise error


def _delays_s(patience_s: Callable[[], float]) -> Iterator[float]:
    yield from _RETRY_DELAYS_S
    last_s, spent_s = _RETRY_DELAYS_S[-1], sum(_RETRY_DELAYS_S)
    while 0 < last_s <= patience_s() - spent_s:
        yield last_s
        spent_s += last_s
