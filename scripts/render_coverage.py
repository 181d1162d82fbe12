"""Write docs/contract-coverage.md: for each clause its words, the case that tests them and the mutants that break them.

Run it after a change of the contract, of a case or of a mutant: `python scripts/render_coverage.py`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "contract-coverage.md"
sys.path.insert(0, str(ROOT / "contract-tests" / "tests"))

from all_mutants import ALL_MUTANTS  # noqa: E402  # in the folder that was added above
from workflow_contract_tests import CLAUSES, catalogue  # noqa: E402

_SHOWN = 6
_HEAD = """# What the contract tests cover

<!-- Written by scripts/render_coverage.py from the cases and the mutants. Change those, then run it. -->

For each clause: its text, in bold the words that a mutant breaks by name; which case must catch those mutants; and the
other cases that cite the clause. A test breaks the store by each mutant and expects that case to fail. A mutant without
words breaks the clause as a whole, and any of its cases may catch it.

Words that are not bold are tested by the cases in the last line, and broken by the mutants without words, if at all:
look there first for what a store might still get wrong.
"""


def render_page() -> str:
    """Write the whole page."""
    by_clause: dict[str, list[Any]] = defaultdict(list)
    for mutant in ALL_MUTANTS:
        by_clause[mutant.clause].append(mutant)
    blocks = [_HEAD.rstrip()]
    for clause_id, text in CLAUSES.items():
        blocks += _render_clause(clause_id, text, by_clause[clause_id])
    return "\n\n".join(blocks) + "\n"


def _render_clause(clause_id: str, text: str, mutants: Sequence[Any]) -> Iterator[str]:
    yield f"## {clause_id}"
    yield f"> {_with_bold(text, {mutant.words for mutant in mutants})}"
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for mutant in mutants:
        groups[mutant.words, mutant.case].append(mutant.name)
    rows = [_row(words, case, names) for (words, case), names in sorted(groups.items(), reverse=True)]
    yield "\n".join(["| words | caught by | mutants |", "|---|---|---|", *rows])
    bodies = dict.fromkeys(case.name.partition("-")[0] for case in catalogue() if clause_id in case.clauses)
    others = [body for body in bodies if body not in {mutant.case for mutant in mutants}]
    if others:
        yield "Also: " + ", ".join(f"`{body}`" for body in others) + "."


def _row(words: str, case: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return f"| {words or 'the whole'} | {f'`{case}`' if case else 'any case'} | {shown} |"


def _with_bold(text: str, words: set[str]) -> str:
    """Set the words in bold that some mutant breaks by name; where they overlap, all of them together."""
    bold = [False] * len(text)
    for quoted in filter(None, words):
        begin = text.index(quoted)
        bold[begin : begin + len(quoted)] = [True] * len(quoted)
    parts: list[str] = []
    for place, letter in enumerate(text):
        before = place > 0 and bold[place - 1]
        parts.append(("**" if bold[place] != before else "") + letter)
    return "".join(parts) + ("**" if bold[-1] else "")


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
