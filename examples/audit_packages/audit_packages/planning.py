"""How the work is cut: copies of the environment, files in a chunk, and the journal lines at which workers die."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

PAGE = 1_000
"""Entries of a RECORD that one step returns: a payload stays far below what a store carries."""

SMALLEST_CHUNK = 4
LARGEST_CHUNK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the audit is cut into steps."""

    copies: int
    chunk: int
    """How many files one step hashes."""
    steps: int


def steps_of_audit(files: int, chunk: int) -> int:
    """Count the steps of one distribution's run: pages of the RECORD, chunks, the comparison and the report."""
    return ceil(files / PAGE) + ceil(files / chunk) + 2


def make_plan(file_counts: Sequence[int], minimum_steps: int, copies: int | None = None) -> Plan:
    """Choose the number of copies (unless given) and the largest chunk that still makes enough steps.

    Raises:
        ValueError: There is nothing to audit, or the given copies do not make enough steps.
    """
    if not file_counts:
        raise ValueError("there is no distribution to audit")
    copies = copies or ceil(minimum_steps / _steps(file_counts, SMALLEST_CHUNK))
    for chunk in range(LARGEST_CHUNK, 0, -1):
        steps = copies * _steps(file_counts, chunk) + 1  # one more writes the report
        if steps >= minimum_steps:
            return Plan(copies=copies, chunk=chunk, steps=steps)
    raise ValueError(f"{copies} copies of these files make fewer than {minimum_steps} steps; ask for more copies")


def _steps(file_counts: Sequence[int], chunk: int) -> int:
    return sum(steps_of_audit(files, chunk) for files in file_counts)


def spread_kills(steps: int, kills: int) -> tuple[int, ...]:
    """Spread kills evenly over the journal lines that `steps` steps write at least."""
    lines = 2 * steps
    return tuple(lines * number // (kills + 1) for number in range(1, kills + 1))
