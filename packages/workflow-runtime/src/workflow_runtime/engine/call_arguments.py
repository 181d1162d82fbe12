"""The arguments of a handler's durable calls, checked and in the engine's units."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import UnionType
from typing import Any, get_origin, is_typeddict

from ..durations import check_duration
from ..errors import InvalidArgumentError
from ..ids import plain_text
from ..retry import MAX_DELAY, RetryPolicy

__all__ = ["checkable_class", "checked_retry", "deadline", "duration_ms", "name_of_step", "timeout_s"]


def checkable_class(expected: Any) -> type[Any]:
    """Return the class that `isinstance` can ask for: `dict` for `dict[str, int]` and for a `TypedDict`.

    Raises:
        InvalidArgumentError: There is no such class.
    """
    found = dict if is_typeddict(expected) else get_origin(expected) or expected
    try:
        isinstance(None, found)
    except TypeError:
        found = None
    if not isinstance(found, type) or found is UnionType:
        raise InvalidArgumentError("type", f"must be a class, not {expected!r}")
    return found


def name_of_step(function: Callable[..., Any]) -> str:
    """Return the default id of a step; any function has one, however it came by its name."""
    try:
        name = plain_text("name", function.__name__)
        if name and name.isascii() and "\0" not in name:
            return name
        name = name.replace("\0", "?")
    except Exception:  # noqa: BLE001  # a `functools.partial` has none, and __getattr__ may be the user's code
        return "step"
    return name.encode("utf-8", "replace").decode() or "step"


def checked_retry(retry: RetryPolicy | None) -> RetryPolicy | None:
    """Return a policy for retries, or its absence.

    Raises:
        InvalidArgumentError: It is something else.
    """
    given: object = retry
    if given is not None and not isinstance(given, RetryPolicy):
        raise InvalidArgumentError("retry", f"must be a RetryPolicy, as RetryPolicy(max_attempts=3), not {given!r}")
    return retry


def duration_ms(argument: str, duration: timedelta) -> int:
    """Return a time to wait in milliseconds; 0 for a negative one.

    Raises:
        InvalidArgumentError: It is no duration, or longer than any wait may be.
    """
    duration = check_duration(argument, duration)
    if duration > MAX_DELAY:
        raise InvalidArgumentError(argument, f"must be at most {MAX_DELAY.days} days, not {duration.days}")
    return max(0, duration // timedelta(milliseconds=1))


def timeout_s(timeout: timedelta | None) -> float | None:
    """Return the timeout of an attempt in seconds. Raises as `duration_ms`."""
    return None if timeout is None else duration_ms("timeout", timeout) / 1000


def deadline(argument: str, timeout: timedelta | None) -> Callable[[int], int] | None:
    """Return what finds the deadline (ms) of a wait that begins now (ms); `None` when it has none."""
    if timeout is None:
        return None
    timeout_ms = duration_ms(argument, timeout)
    return lambda now_ms: now_ms + timeout_ms
