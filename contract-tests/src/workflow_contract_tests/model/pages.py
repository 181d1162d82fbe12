"""Pages that are bounded in number and in bytes of payload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

__all__ = ["page"]


class _HasPayload(Protocol):
    @property
    def payload(self) -> str | None: ...


T = TypeVar("T", bound=_HasPayload)


def page(items: Sequence[T], limit: int, max_bytes: int) -> tuple[T, ...]:
    """Return the first items within both bounds, but one at least when there is one and `limit` is not 0 (LOG-7)."""
    taken: list[T] = []
    size = 0
    for item in items[:limit]:
        size += len(item.payload or "")
        if taken and size > max_bytes:
            break
        taken.append(item)
    return tuple(taken)
