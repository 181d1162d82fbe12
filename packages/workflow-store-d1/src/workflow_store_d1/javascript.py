"""Numbers as D1 has them: JavaScript's. What is bound becomes one, and what is read was one."""

from __future__ import annotations

import math
from typing import Any

from .database import D1Value

__all__ = ["EXACT", "as_bound", "as_bound_plainly", "as_read"]

EXACT = 2**53
"""The largest integer of which JavaScript's numbers know all smaller ones."""


def as_bound(value: D1Value) -> D1Value:
    """Return what D1 gets for a value: no integer, but a REAL, which a column of integers makes an integer again.

    An integer that JavaScript cannot have goes as text; so a column of integers stores it as it is.
    """
    if isinstance(value, int):
        return float(value) if -EXACT <= value <= EXACT else str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_bound_plainly(values: tuple[D1Value, ...], max_bytes: int) -> tuple[D1Value, ...] | None:
    """Return what D1 gets for values that are beyond doubt: ASCII texts, exact integers and nulls, as nearly all are.

    Args:
        values: To be bound.
        max_bytes: The largest text that the database carries.

    Returns:
        The values, or `None` if any of them needs a closer look.
    """
    bound: list[D1Value] = []
    for value in values:
        if type(value) is str:
            if not value.isascii() or len(value) > max_bytes:
                return None
            bound.append(value)
        elif type(value) is int and -EXACT <= value <= EXACT:
            bound.append(float(value))
        elif value is None:
            bound.append(None)
        else:
            return None
    return tuple(bound)


def as_read(value: Any) -> Any:
    """Return a value as D1 returns it: an integral number is an integer up to 2^53, and rounded beyond."""
    kind = type(value)
    if kind is int:
        return value if -EXACT <= value <= EXACT else _number(float(value))
    return _number(value) if kind is float else value


def _number(value: float) -> float | int | None:
    if value.is_integer() and -EXACT <= value <= EXACT:
        return int(value)
    return value if math.isfinite(value) else None
