"""The clauses of the contract, read from its docstrings, so that the two cannot drift apart."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping

from workflow_runtime.store import protocol

__all__ = ["CLAUSES", "parse_clauses"]

_CLAUSE = re.compile(r"^(?P<indent> *)(?P<id>[A-Z]+-\d+): (?P<text>.+)$")


def parse_clauses(docstring: str) -> dict[str, str]:
    """Return the clauses of one docstring by their ids.

    Args:
        docstring: Cleaned of its common indentation. A clause begins with its id and a colon; deeper
            indented lines continue it.
    """
    found: dict[str, str] = {}
    current, indent = "", 0
    for line in docstring.splitlines():
        start = _CLAUSE.match(line)
        if start is not None:
            current, indent = start["id"], len(start["indent"])
            if current in found:
                raise ValueError(f"clause {current} is written twice in one docstring")
            found[current] = start["text"].strip()
        elif current and line.strip() and len(line) - len(line.lstrip()) > indent:
            found[current] += " " + line.strip()
        else:
            current = ""
    return found


def _docstrings() -> Iterator[str]:
    for role in vars(protocol).values():
        if not inspect.isclass(role) or role.__module__ != protocol.__name__:
            continue
        for member in (role, *vars(role).values()):
            text = getattr(member, "__doc__", None)
            if text and (member is role or inspect.isfunction(member) or isinstance(member, property)):
                yield inspect.cleandoc(text)


def _read_contract() -> dict[str, str]:
    clauses: dict[str, str] = {}
    for docstring in _docstrings():
        for clause_id, text in parse_clauses(docstring).items():
            if clause_id in clauses:
                raise ValueError(f"clause {clause_id} is written in two docstrings")
            clauses[clause_id] = text
    if not clauses:
        raise RuntimeError("the contract has no clauses: Python runs without docstrings (-OO)")
    return clauses


CLAUSES: Mapping[str, str] = _read_contract()
"""Every clause of the contract, by its id."""
