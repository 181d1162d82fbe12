"""The verdict on each level: what passed, counted against the catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .cases import Case
from .catalogue import catalogue
from .levels import LEVEL_CAPABILITIES, LEVELS, Level, levels_of

__all__ = ["LevelStatus", "LevelVerdict", "Outcome", "catalogue_hash", "judge"]

Outcome = Literal["passed", "failed", "not-applicable", "not-run", "not-written"]
LevelStatus = Literal["certified", "not certified", "not declared", "not written", "not examined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelVerdict:
    """The verdict on one level. All or nothing: one case that did not pass is enough to refuse it."""

    level: Level
    status: LevelStatus
    cases: int
    """The cases of the catalogue that this store must pass."""
    passed: int
    reason: str = ""

    def left_out(self) -> LevelVerdict:
        """Return the verdict on a level that nobody asked for, whichever of its cases ran."""
        return replace(self, status="not examined", reason="")

    def __str__(self) -> str:
        said = f"{self.level}: {self.status}"
        counted = f"{self.passed} of {self.cases} cases passed" if self.status == "certified" else self.reason
        return f"{said} ({counted})" if counted else said


def judge(
    outcomes: Sequence[tuple[str, Outcome]], *, capabilities: Iterable[str], objections: Sequence[str] = ()
) -> tuple[LevelVerdict, ...]:
    """Return the verdict on each level.

    Args:
        outcomes: The id and the outcome of each case that was examined.
        capabilities: What the store declares. A case about anything else does not apply to it.
        objections: Reasons to certify nothing, whatever passed.
    """
    found = dict(outcomes)
    doubles = len(outcomes) - len(found)
    if doubles:
        objections = (*objections, f"{doubles} cases were reported twice")
    known = _Outcomes(found, frozenset(capabilities), tuple(objections))
    return tuple(known.verdict(level) for level in LEVELS)


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """The outcomes of one store, as its levels are judged by them."""

    found: Mapping[str, Outcome]
    capabilities: frozenset[str]
    objections: tuple[str, ...]

    def verdict(self, level: Level) -> LevelVerdict:
        due = [case for case in _cases_of(level) if not self._is_excused(case, level)]
        passed = sum(self.found.get(case.id) == "passed" for case in due)
        status, reason = self._status(level, due, passed)
        return LevelVerdict(level=level, status=status, cases=len(due), passed=passed, reason=reason)

    def _status(self, level: Level, due: Sequence[Case], passed: int) -> tuple[LevelStatus, str]:
        needed = LEVEL_CAPABILITIES.get(level, ())
        lacking = ", ".join(name for name in needed if name not in self.capabilities)
        if needed and self.capabilities.isdisjoint(needed):
            return "not declared", lacking
        if not any(case.id in self.found for case in _cases_of(level)):
            return "not examined", ""
        if passed < len(due):
            return self._shortfall(due)
        if lacking:
            return "not declared", lacking
        if self.objections or not passed:
            return "not certified", "; ".join(self.objections) or "nothing passed"
        return "certified", ""

    def _shortfall(self, due: Sequence[Case]) -> tuple[LevelStatus, str]:
        if {self.found.get(case.id) for case in due} == {"not-written"}:
            return "not written", ""
        outcomes = [self.found.get(case.id, "not-run") for case in due]
        words = {
            "failed": "failed",
            "not-written": "not written",
            "not-run": "did not run",
            "not-applicable": "left out without a reason",
        }
        counts = [f"{outcomes.count(one)} {said}" for one, said in words.items() if one in outcomes]
        return "not certified", f"of {len(due)} cases {', '.join(counts)}"

    def _is_excused(self, case: Case, level: Level) -> bool:
        """Return True if this store need not pass the case: what it is about is not declared, or cannot be tested."""
        if case.capability is not None and case.capability not in self.capabilities:
            return True
        outcome = self.found.get(case.id)
        if outcome == "not-applicable":
            return bool(case.needs)
        optional = level != "schedules" and "schedules" in levels_of(case)
        return optional and outcome == "not-written" and self._lacks_schedules()

    def _lacks_schedules(self) -> bool:
        return {self.found.get(case.id) for case in _cases_of("schedules")} <= {"not-written", "not-applicable"}


def _cases_of(level: Level) -> list[Case]:
    return [case for case in catalogue() if level in levels_of(case)]


def catalogue_hash() -> str:
    """Return a hash of the ids of all cases: two kits that differ in it examine different things."""
    return hashlib.sha256("\n".join(case.id for case in catalogue()).encode()).hexdigest()
