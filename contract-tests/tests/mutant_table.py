"""`python mutant_table.py`: prints which clause, and which case of it, caught each mutant."""

from __future__ import annotations

import sys

from all_mutants import ALL_MUTANTS
from mutant_catalogue import hunt


def main() -> int:
    """Hunt every mutant; 1 when one got away."""
    escaped = 0
    sys.stdout.write("| mutant | what is broken | clause | caught by |\n|---|---|---|---|\n")
    for mutant in ALL_MUTANTS:
        caught = hunt(mutant)
        escaped += caught is None
        case = "**nobody**" if caught is None else f"`{caught.id}`"
        sys.stdout.write(f"| {mutant.name} | {mutant.story} | {mutant.clause} | {case} |\n")
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
