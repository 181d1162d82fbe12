"""Frozen, slotted, keyword-only dataclasses that are quick to define.

A dataclass compiles each of its methods on its own when its module is imported, and the contract has some sixty value
types: that was most of this package's import time. What is the same for all of them is written once, here, and the
`__init__` of each is compiled when its first value is made. Few processes ever need them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, fields
from inspect import Signature, signature
from typing import Any, ClassVar, NoReturn, TypeVar, dataclass_transform

__all__ = ["Value", "value"]

T = TypeVar("T", bound="Value")


class _ValueSignature:
    """The signature of a value's class, for `help` and `inspect.signature`: `__init__` shows it after its first use."""

    def __get__(self, instance: object, owner: type[Value]) -> Signature:
        made = signature(_compile_init(owner))
        return made.replace(parameters=[*made.parameters.values()][1:])


class Value:
    """The base of all values: equal when type and fields are equal."""

    __slots__ = ()
    __signature__: ClassVar[_ValueSignature] = _ValueSignature()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return _fields(self) == _fields(other)

    def __hash__(self) -> int:
        return hash((type(self), *_fields(self)))

    def __repr__(self) -> str:
        names = type(self).__dataclass_fields__  # type: ignore[attr-defined]  # every subclass is a dataclass
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    # As `dataclass` does it: by default a copy and a pickle would assign to the fields.

    def __getstate__(self) -> tuple[Any, ...]:
        return _fields(self)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for field, content in zip(fields(self), state, strict=True):  # type: ignore[arg-type]  # likewise
            object.__setattr__(self, field.name, content)


def _fields(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, name) for name in type(value).__dataclass_fields__)


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=True)
def value(cls: type[T]) -> type[T]:
    """Make a subclass of `Value` a frozen, slotted, keyword-only dataclass."""
    made = dataclass(slots=True, kw_only=True, init=False, eq=False, repr=False, match_args=False)(cls)

    def init(self: T, **contents: Any) -> None:
        compiled = _compile_init(made)
        setattr(made, "__init__", compiled)  # noqa: B010  # mypy lets nobody assign to a method
        compiled(self, **contents)

    setattr(made, "__init__", init)  # noqa: B010  # likewise
    return made


def _compile_init(cls: type[Any]) -> Callable[..., None]:
    """Compile the `__init__` that `dataclass` would have compiled for a frozen class, but for the assignments.

    `object.__setattr__`, which that one uses, takes more than twice as long as the setter of a slot.
    """
    of_class: tuple[Field[Any], ...] = fields(cls)
    words = ["self", *(["*"] if of_class else []), *(f"{field.name}{_default(field)}" for field in of_class)]
    lines = [f" set_{field.name}(self, {field.name})" for field in of_class]
    lines += [" self.__post_init__()"] if hasattr(cls, "__post_init__") else []
    names: dict[str, Any] = {f"default_{field.name}": field.default for field in of_class}
    names |= {f"set_{field.name}": getattr(cls, field.name).__set__ for field in of_class}
    source = "\n".join([f"def __init__({', '.join(words)}):", *(lines or [" pass"])])
    exec(source, names)  # noqa: S102  # the names are those of a class body
    init: Callable[..., None] = names["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {field.name: field.type for field in of_class} | {"return": None}
    return init


def _default(field: Field[Any]) -> str:
    assert field.default_factory is MISSING, "a value has no mutable defaults"
    return "" if field.default is MISSING else f"=default_{field.name}"
