"""A case of the contract tests, and the decorator that makes one of a body."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, overload

from .harness import Need, StoreHarness

__all__ = ["Body", "Capability", "Case", "clause", "registered_cases"]

T = TypeVar("T")

Capability = Literal["durable", "heartbeats", "metered", "notify", "subscribe", "transactions"]
"""An optional ability, as `StoreCapabilities` names it. Its cases do not apply to a store that does not declare it."""

Body: TypeAlias = Callable[[StoreHarness], Awaitable[None]]
BodyOfEach: TypeAlias = Callable[[StoreHarness, T], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test: a body, and the clauses that it holds a store to."""

    name: str
    clauses: tuple[str, ...]
    rule: str
    """The rule in one sentence: the body's docstring."""
    body: Body = field(repr=False)
    needs: tuple[Need, ...] = ()
    capability: Capability | None = None
    schedules: bool = False
    """The body is about schedules, though its first clause is not."""
    fresh: bool = False
    """The body starts before the harness has called `ensure_schema`."""

    @property
    def id(self) -> str:
        """The name of the case in reports and in pytest: the first clause and its own name."""
        return f"{self.clauses[0]}-{self.name}"


_cases: list[Case] = []


def registered_cases() -> tuple[Case, ...]:
    """Return the cases of the suites that have been imported so far."""
    return tuple(_cases)


@overload
def clause(
    *clauses: str,
    each: None = None,
    needs: Sequence[Need] = (),
    capability: Capability | None = None,
    schedules: bool | Container[str] = False,
    fresh: bool = False,
) -> Callable[[Body], Body]: ...


@overload
def clause(
    *clauses: str,
    each: Iterable[T],
    needs: Sequence[Need] = (),
    capability: Capability | None = None,
    schedules: bool | Container[str] = False,
    fresh: bool = False,
) -> Callable[[BodyOfEach[T]], BodyOfEach[T]]: ...


def clause(
    *clauses: str,
    each: Iterable[Any] | None = None,
    needs: Sequence[Need] = (),
    capability: Capability | None = None,
    schedules: bool | Container[str] = False,
    fresh: bool = False,
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Register a body as a case.

    Args:
        clauses: The ids of the clauses that it tests.
        each: Makes one case for each of these. The body takes it as its second argument; its text ends the name.
        needs: What the harness must be able to do.
        capability: What the store must declare.
        schedules: True for a body about schedules whose first clause is not; with `each`, the names of those that are.
        fresh: The body wants a store whose tables nobody has made yet.
    """

    def register(body: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        rule = (body.__doc__ or "").strip().partition("\n")[0]
        if not rule or not clauses:
            raise TypeError(f"{body.__name__} needs a clause and a docstring that says the rule")

        def add(name: str, bound: Body, item: str = "") -> None:
            case = Case(
                name=name,
                clauses=clauses,
                rule=rule,
                body=bound,
                needs=tuple(needs),
                capability=capability,
                schedules=schedules if isinstance(schedules, bool) else item in schedules,
                fresh=fresh,
            )
            _cases.append(case)

        if each is None:
            add(body.__name__, body)
        else:
            for item in each:
                add(f"{body.__name__}-{item}", functools.partial(_call_with_item, body, item), str(item))
        return body

    return register


async def _call_with_item(body: BodyOfEach[Any], item: object, harness: StoreHarness) -> None:
    await body(harness, item)
