"""Frozen, slotted, keyword-only dataclasses that are quick to define.

A dataclass compiles each of its methods on its own when its module is imported, and the contract has some fifty
value types: that was most of this package's import time. Comparing, hashing and printing are the same for all of
them, so they are written once, here, and only `__init__` is compiled for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

__all__ = ["Value", "value"]

T = TypeVar("T", bound="Value")


class Value:
    """The base of all values: equal when type and fields are equal."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return _fields(self) == _fields(other)

    def __hash__(self) -> int:
        return hash((type(self), *_fields(self)))

    def __repr__(self) -> str:
        names = type(self).__dataclass_fields__  # type: ignore[attr-defined]  # every subclass is a dataclass
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def _fields(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, name) for name in type(value).__dataclass_fields__)


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=True)
def value(cls: type[T]) -> type[T]:
    """Make a subclass of `Value` a frozen, slotted, keyword-only dataclass."""
    return dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False, match_args=False)(cls)
