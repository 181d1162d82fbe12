"""The list of everything that a store is put through, one case for each rule, and how a body gets on it."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .clauses import CLAUSES

if TYPE_CHECKING:
    from .harness import StoreHarness

__all__ = ["NEEDS", "Body", "Capability", "Case", "Need", "catalogue", "check_coverage", "clause"]

Need = Literal["processes", "corrupt"]
NEEDS: tuple[Need, ...] = ("processes", "corrupt")
"""What a harness may lack: opening the store in a child process, and damaging a stored row."""

Capability = Literal["heartbeats", "metered", "notify", "subscribe", "transactions"]
"""What a store may leave undeclared in its `capabilities`; cases of one that is not declared do not apply."""

Body: TypeAlias = "Callable[[StoreHarness], Awaitable[None]]"


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
    fresh: bool = False
    """The body starts before the harness has called `ensure_schema`."""

    @property
    def id(self) -> str:
        """The first clause and the name: how reports and pytest call the case."""
        return f"{self.clauses[0]}-{self.name}"


_cases: list[Case] = []


def clause(
    *clauses: str,
    each: Iterable[str] | None = None,
    needs: Sequence[Need] = (),
    capability: Capability | None = None,
    fresh: bool = False,
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Put a body on the list.

    Args:
        clauses: The ids of the clauses that it tests.
        each: Makes one case for each of these words, which the body takes as its second argument.
        needs: What the harness must be able to do.
        capability: What the store must declare.
        fresh: The body wants a store whose tables nobody has made yet.
    """

    def register(body: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        rule = (body.__doc__ or "").strip().partition("\n")[0]
        if not rule or not clauses:
            raise TypeError(f"{body.__name__} needs a clause and a docstring that says the rule")

        def add(name: str, bound: Body) -> None:
            case = Case(
                name=name,
                clauses=clauses,
                rule=rule,
                body=bound,
                needs=tuple(needs),
                capability=capability,
                fresh=fresh,
            )
            _cases.append(case)

        if each is None:
            add(body.__name__, body)
        else:
            for word in each:
                add(f"{body.__name__}-{word}", _bind(body, word))
        return body

    return register


def _bind(body: Callable[..., Awaitable[None]], word: str) -> Body:
    bound: Any = functools.partial(_call_with_word, body, word)
    return bound  # type: ignore[no-any-return]  # a partial of a coroutine function


async def _call_with_word(body: Callable[..., Awaitable[None]], word: str, harness: StoreHarness) -> None:
    await body(harness, word)


@functools.cache
def catalogue() -> tuple[Case, ...]:
    """Load every suite and give all cases, in the order of the contract's clauses.

    Raises:
        RuntimeError: A clause has no case, a case cites an unknown clause, or two cases have one id.
    """
    from . import suites  # noqa: PLC0415  # pytest must be able to register its assertion rewriting first

    for module in pkgutil.iter_modules(suites.__path__, f"{suites.__name__}."):
        importlib.import_module(module.name)
    order = {clause_id: position for position, clause_id in enumerate(CLAUSES)}
    check_coverage(_cases)
    return tuple(sorted(_cases, key=lambda case: (order[case.clauses[0]], case.name)))


def check_coverage(cases: Sequence[Case]) -> None:
    """Refuse a list of cases that does not fit the contract."""
    cited = {clause_id for case in cases for clause_id in case.clauses}
    if unknown := sorted(cited - set(CLAUSES)):
        raise RuntimeError(f"cases cite clauses that the contract does not have: {', '.join(unknown)}")
    if missing := sorted(set(CLAUSES) - cited):
        raise RuntimeError(f"clauses without a case: {', '.join(missing)}")
    names = [case.id for case in cases]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise RuntimeError(f"two cases have one id: {', '.join(doubles)}")
