"""Mutants: stores with one deliberate fault each, and the clause that must find it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock

from workflow_contract_tests import CaseResult, StoreHarness, catalogue, certify
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

__all__ = ["MEMORY_MUTANTS", "Mutant", "broken", "hunt", "memory_harness"]

NOT_APPLICABLE = {"processes": "one process is enough to show a fault", "corrupt": "nothing to damage"}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One fault."""

    name: str
    clause: str
    story: str
    harness: Callable[[], Any] = field(repr=False)
    words: str = ""
    """The words of the clause that it breaks, as they stand there; empty when it is about the whole clause."""
    case: str = ""
    """The body of the cases that must find it; empty when any case of the clause may."""


MEMORY_MUTANTS: list[Mutant] = []
S = TypeVar("S", bound=type[InMemoryWorkflowStore])


def memory_harness(store: type[InMemoryWorkflowStore]) -> StoreHarness:
    """A harness for the memory store or a faulty descendant of it."""
    data = InMemoryData()
    return StoreHarness(lambda: store(data=data), contract_version="0.1", not_applicable=NOT_APPLICABLE)


def broken(clause: str, *patches: tuple[object, str, Any], words: str = "", case: str = "") -> Callable[[S], S]:
    """Put a faulty store class on the list; its docstring tells the fault.

    Args:
        clause: What must find it.
        patches: Methods of the store's own parts that are replaced as long as the harness is in use.
        words: The words of the clause that it breaks.
        case: The body of the cases that must find it.
    """

    def register(store: S) -> S:
        @contextlib.contextmanager
        def harness() -> Iterator[StoreHarness]:
            with contextlib.ExitStack() as stack:
                for target, name, replacement in patches:
                    stack.enter_context(mock.patch.object(target, name, replacement))
                yield memory_harness(store)

        name = re.sub(r"(?<!^)(?=[A-Z])", "-", store.__name__).lower()
        story = (store.__doc__ or "").strip().partition("\n")[0]
        mutant = Mutant(name=name, clause=clause, story=story, harness=harness, words=words, case=case)
        MEMORY_MUTANTS.append(mutant)
        return store

    return register


def hunt(mutant: Mutant) -> CaseResult | None:
    """Run the cases that must find the mutant, until one fails; `None` when none does."""
    for case in catalogue():
        if mutant.clause in case.clauses and mutant.case in {"", case.name.partition("-")[0]}:
            caught = certify(mutant.harness, [case]).of("failed")
            if caught:
                return caught[0]
    return None
