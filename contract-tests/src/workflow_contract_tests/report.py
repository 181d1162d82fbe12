"""The report on a store: the verdict on each level and the result of each case, for people and for machines."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .clauses import CLAUSES
from .levels import LEVELS, Level
from .measurements import Bench
from .settings import SCALE, SEED
from .verdict import LevelVerdict, Outcome, catalogue_hash, judge

__all__ = ["CaseResult", "Outcome", "Report", "Way", "hash_of"]

Way = Literal["in child processes", "in process"]


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
    fault_points: int = 0
    """The number of points at which it disturbed a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results of one certification."""

    store: str
    contract_version: str
    suite_version: str
    python_version: str
    seconds: float
    results: tuple[CaseResult, ...]
    capabilities: tuple[str, ...] = ()
    """The capabilities that the store declared."""
    distribution: str | None = None
    """The distribution that the store came from."""
    distribution_version: str | None = None
    subject: Mapping[str, str] = field(default_factory=dict)
    """The author's words on what was examined: the database, the driver, their versions, settings."""
    platform: str = field(default_factory=platform.platform)
    scale: float = SCALE
    seed: int = SEED
    way: Way = "in process"
    """The place where the cases ran. In process, a store that ends the process takes the verdict with it."""
    objections: tuple[str, ...] = ()
    """Reasons to certify nothing, whatever passed."""
    roles: tuple[Level, ...] = LEVELS
    """The levels that somebody asked for. The verdict is about these."""
    bench: Bench | None = None
    """The measurements, if there are any. No verdict depends on them."""

    @property
    def levels(self) -> tuple[LevelVerdict, ...]:
        """The verdict on each level."""
        objections = self.objections
        if self.scale < 1:
            objections = (*objections, f"races ran at scale {self.scale:g}, and a verdict needs 1")
        outcomes = [(result.id, result.outcome) for result in self.results]
        verdicts = judge(outcomes, capabilities=self.capabilities, objections=objections)
        return tuple(verdict if verdict.level in self.roles else verdict.left_out() for verdict in verdicts)

    @property
    def certified(self) -> bool:
        """True if the store is certified for `core` and refused for no other level.

        Where levels were asked for, each of them must be certified.
        """
        statuses = {verdict.level: verdict.status for verdict in self.levels}
        if self.roles != LEVELS:
            return {statuses[level] for level in self.roles} == {"certified"}
        return statuses["core"] == "certified" and "not certified" not in statuses.values()

    def of(self, *outcomes: Outcome) -> tuple[CaseResult, ...]:
        """Return the results with one of these outcomes."""
        return tuple(result for result in self.results if result.outcome in outcomes)

    def failed_clauses(self) -> tuple[str, ...]:
        """Return the clauses that a failed case cites, in the order of the contract."""
        failed = {clause_id for result in self.of("failed", "not-run") for clause_id in result.clauses}
        return tuple(clause_id for clause_id in CLAUSES if clause_id in failed)

    def summary(self) -> str:
        """Return the verdict in one line."""
        outcomes: tuple[Outcome, ...] = ("passed", "failed", "not-written", "not-run", "not-applicable")
        counts = ", ".join(f"{len(self.of(one))} {one.replace('-', ' ')}" for one in outcomes if self.of(one))
        verdict = "certified" if self.certified else "NOT certified"
        scope = "" if self.roles == LEVELS else f"{', '.join(self.roles)} of "
        return (
            f"{self.store}: {verdict} for {scope}contract {self.contract_version}: {len(CLAUSES)} clauses, "
            f"{len(self.results)} cases ({counts or 'nothing ran'}) in {self.seconds:.1f} s"
        )

    def as_markdown(self) -> str:
        """Return the verdicts, the facts and the table, with the failures in full below it."""
        lines = [f"# {self.summary()}", "", *(f"- {verdict}" for verdict in self.levels), ""]
        lines += ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in self.facts().items()), ""]
        lines += ["| case | clauses | outcome | ms | rule |", "|---|---|---|---|---|"]
        lines += [_row(result) for result in self.results]
        lines += _details("Failed", self.of("failed", "not-run"))
        lines += _details("Not written", self.of("not-written"))
        lines += _details("Not applicable", self.of("not-applicable"))
        if self.bench is not None:
            lines += ["", "## Bench", "", *self.bench.lines()]
        return "\n".join(lines) + "\n"

    def facts(self) -> dict[str, str]:
        """Return what the verdict is about, by name."""
        distribution = f"{self.distribution or 'no distribution'} {self.distribution_version or ''}".strip()
        return {
            "store": f"{self.store} ({distribution})",
            **self.subject,
            "capabilities": ", ".join(self.capabilities) or "none",
            "contract": self.contract_version,
            "contract tests": self.suite_version,
            "scale, seed": f"{self.scale:g}, {self.seed}",
            "examined": self.way,
            "fault points": f"{sum(result.fault_points for result in self.results):,}",
            "Python": f"{self.python_version} on {self.platform}",
        }

    def as_json(self) -> str:
        """Return everything, with the verdict and a hash of all of it, as JSON."""
        document = asdict(self) | {
            "certified": self.certified,
            "levels": {verdict.level: asdict(verdict) for verdict in self.levels},
            "failed_clauses": self.failed_clauses(),
            "catalogue": catalogue_hash(),
        }
        return json.dumps(document | {"hash": hash_of(document)}, indent=2)


def hash_of(document: Mapping[str, Any]) -> str:
    """Return the hash of a report's document, whatever `hash` it says itself."""
    counted = {name: value for name, value in document.items() if name != "hash"}
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _row(result: CaseResult) -> str:
    cells = (
        result.id,
        ", ".join(result.clauses),
        result.outcome if result.outcome == "passed" else f"**{result.outcome}**",
        f"{result.seconds * 1000:.0f}",
        _cell(result.rule),
    )
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _details(title: str, results: Iterable[CaseResult]) -> list[str]:
    lines: list[str] = []
    for result in results:
        lines += ["", f"### {result.id}", "", "```text", (result.problem or "").rstrip(), "```"]
    return ["", f"## {title}", *lines] if lines else []
