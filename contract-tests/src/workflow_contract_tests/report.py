"""The verdict on a store, clause by clause, for people (Markdown) and for machines (JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from .clauses import CLAUSES

__all__ = ["CaseResult", "Outcome", "Report"]

Outcome = Literal["passed", "failed", "not-applicable", "not-run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """The result of one case."""

    id: str
    clauses: tuple[str, ...]
    rule: str
    outcome: Outcome
    seconds: float
    problem: str | None = None
    """The error, or the reason that it did not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results of one certification."""

    store: str
    contract_version: str
    suite_version: str
    python_version: str
    seconds: float
    results: tuple[CaseResult, ...]

    @property
    def certified(self) -> bool:
        """True if every clause was tested and every case passed, except those that are not applicable."""
        ran = {clause_id for result in self.results if result.outcome == "passed" for clause_id in result.clauses}
        excused = {clause_id for result in self.of("not-applicable") for clause_id in result.clauses}
        kept = all(result.outcome in {"passed", "not-applicable"} for result in self.results)
        return kept and bool(ran) and set(CLAUSES) <= ran | excused

    def of(self, *outcomes: Outcome) -> tuple[CaseResult, ...]:
        """Return the results with one of these outcomes."""
        return tuple(result for result in self.results if result.outcome in outcomes)

    def failed_clauses(self) -> tuple[str, ...]:
        """Return the clauses that a failed case cites, in the order of the contract."""
        failed = {clause_id for result in self.of("failed", "not-run") for clause_id in result.clauses}
        return tuple(clause_id for clause_id in CLAUSES if clause_id in failed)

    def summary(self) -> str:
        """Return the verdict in one line."""
        outcomes: tuple[Outcome, ...] = ("passed", "failed", "not-run", "not-applicable")
        counts = ", ".join(f"{len(self.of(one))} {one.replace('-', ' ')}" for one in outcomes if self.of(one))
        verdict = "certified" if self.certified else "NOT certified"
        return (
            f"{self.store}: {verdict} for contract {self.contract_version}: {len(CLAUSES)} clauses, "
            f"{len(self.results)} cases ({counts or 'nothing ran'}) in {self.seconds:.1f} s"
        )

    def as_markdown(self) -> str:
        """Return the table, with the failures in full below it."""
        lines = [f"# {self.summary()}", "", "| case | clauses | outcome | ms | rule |", "|---|---|---|---|---|"]
        lines += [_row(result) for result in self.results]
        lines += _details("Failed", self.of("failed", "not-run"))
        lines += _details("Not applicable", self.of("not-applicable"))
        return "\n".join(lines) + "\n"

    def as_json(self) -> str:
        """Return everything, with the verdict, as JSON."""
        document = asdict(self) | {"certified": self.certified, "failed_clauses": self.failed_clauses()}
        return json.dumps(document, indent=2)


def _row(result: CaseResult) -> str:
    cells = (
        result.id,
        ", ".join(result.clauses),
        result.outcome if result.outcome == "passed" else f"**{result.outcome}**",
        f"{result.seconds * 1000:.0f}",
        result.rule.replace("|", "\\|"),
    )
    return f"| {' | '.join(cells)} |"


def _details(title: str, results: Iterable[CaseResult]) -> list[str]:
    lines: list[str] = []
    for result in results:
        lines += ["", f"### {result.id}", "", "```text", (result.problem or "").rstrip(), "```"]
    return ["", f"## {title}", *lines] if lines else []
