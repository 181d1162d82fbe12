"""The independence of two handles: a proxy for each around one store is no second worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["shared_handle"]

_MARKS = ("create_run", "claim_run", "append_events")
"""An object that has all of these is a store."""


def shared_handle(first: object, second: object) -> str | None:
    """Return the reason why two handles are not independent, `None` if they are."""
    if first is second:
        return "open_store gave the same object twice"
    stores = {id(store): store for store in _stores_behind(first)}
    for store in _stores_behind(second):
        if id(store) in stores:
            return f"open_store gave two objects around one {type(store).__name__}"
    return None


def _stores_behind(handle: object) -> Iterator[Any]:
    """Yield the handle, the stores that it holds, and those whose bound methods it hands out."""
    yield handle
    for held in (*_attributes(handle), *_owners_of_methods(handle)):
        if held is not handle and _is_store(held):
            yield held


def _attributes(handle: object) -> Iterator[Any]:
    yield from getattr(handle, "__dict__", {}).values()
    for kind in type(handle).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__"):
                yield getattr(handle, name, None)


def _owners_of_methods(handle: object) -> Iterator[Any]:
    for name in _MARKS:
        yield getattr(getattr(handle, name, None), "__self__", None)


def _is_store(value: object) -> bool:
    return not isinstance(value, type) and all(hasattr(type(value), name) for name in _MARKS)
