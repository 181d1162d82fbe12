"""The list of all cases that certify a store."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Sequence

from .assertions import readable_assertions
from .cases import Case, registered_cases
from .clauses import CLAUSES

__all__ = ["Case", "catalogue", "check_coverage"]

_SUITES = f"{__package__}.suites"


@functools.cache
def catalogue() -> tuple[Case, ...]:
    """Load every suite and return all cases, in the order of the contract's clauses.

    Raises:
        RuntimeError: A clause has no case, a case cites an unknown clause, or two cases have one id.
    """
    # Not when this module is imported: pytest must be able to register its assertion rewriting first.
    with readable_assertions(str(__package__), "suites", "scenarios", "ticking"):
        suites = importlib.import_module(_SUITES)
        for module in pkgutil.iter_modules(suites.__path__, f"{_SUITES}."):
            importlib.import_module(module.name)
    order = {clause_id: position for position, clause_id in enumerate(CLAUSES)}
    cases = registered_cases()
    check_coverage(cases)
    return tuple(sorted(cases, key=lambda case: (order[case.clauses[0]], case.name)))


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
