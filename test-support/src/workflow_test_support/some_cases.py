"""A choice of the contract's cases, for stores whose statements other tests take through all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from workflow_contract_tests import Case

__all__ = ["some_cases"]


def some_cases(cases: Iterable[Case], *, each: int = 1, decided: tuple[str, ...] = ()) -> list[Case]:
    """Return the first cases of each clause: among them is each verb, and so each statement.

    Args:
        cases: All that the store has.
        each: How many of a clause.
        decided: Beginnings of clauses of which all cases are taken.
    """
    seen: Counter[str] = Counter()
    chosen = []
    for case in cases:
        if any(clause.startswith(decided) or seen[clause] < each for clause in case.clauses):
            chosen.append(case)
        seen.update(case.clauses)
    return chosen
