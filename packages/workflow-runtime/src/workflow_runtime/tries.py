"""Repeating one call while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .errors import StoreError

__all__ = ["until_answered"]

T = TypeVar("T")

_RETRY_DELAYS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Between the tries of one call. After the last one it is given up."""


async def until_answered(
    call: Callable[[], Awaitable[T]], *, is_final: Callable[[StoreError], bool] = lambda error: False
) -> T:
    """Repeat a call that may be repeated, some seconds long.

    Args:
        call: Makes one try.
        is_final: Whether an error is none to try again, though it looks like one.

    Raises:
        StoreError: The store refuses, or is still away.
    """
    for delay_s in _RETRY_DELAYS_S:
        try:
            return await call()
        except StoreError as error:
            if not error.retryable or is_final(error):
                raise
            await asyncio.sleep(delay_s)
    return await call()
