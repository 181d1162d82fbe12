"""The verdict of a pytest session: what passed of each contract class, counted against the catalogue."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

from .cases import Case
from .settings import SCALE
from .verdict import LevelVerdict, Outcome, judge

__all__ = ["leave_out", "watch"]

_LEFT_OUT = pytest.StashKey[Outcome]()
"""The outcome of a case that the kit itself leaves out."""


def leave_out(item: pytest.Item, outcome: Outcome, reason: str) -> NoReturn:
    """Skip a case that does not apply to the store, or whose verbs it does not have."""
    item.stash[_LEFT_OUT] = outcome
    pytest.skip(f"{outcome.replace('-', ' ')}: {reason}")


def watch(metafunc: pytest.Metafunc) -> None:
    """Count the cases of a class in this session."""
    config = metafunc.config
    if _SESSION not in config.stash:
        config.stash[_SESSION] = _SessionVerdict()
        config.pluginmanager.register(config.stash[_SESSION])
    config.stash[_SESSION].watch(metafunc.cls)


@dataclass
class _ClassVerdict:
    """The outcomes of one contract class, and the capabilities of its store."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    capabilities: set[str] = field(default_factory=set)

    def levels(self) -> tuple[LevelVerdict, ...]:
        objections = [f"races ran at scale {SCALE:g}"] if SCALE < 1 else []
        return judge(list(self.outcomes.items()), capabilities=self.capabilities, objections=objections)


class _SessionVerdict:
    """The hooks that count. A contract class registers them while it is collected."""

    def __init__(self) -> None:
        self._classes: dict[type, _ClassVerdict] = {}

    def watch(self, cls: type | None) -> None:
        if cls is not None:
            self._classes.setdefault(cls, _ClassVerdict())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        case = self._case(item)
        if case is not None:
            self._count(item, case, report)
        return report

    def _case(self, item: pytest.Item) -> Case | None:
        """Return the case of an item of a contract class."""
        if not isinstance(item, pytest.Function) or item.cls not in self._classes:
            return None
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")
        return case if isinstance(case, Case) else None

    def _count(self, item: pytest.Item, case: Case, report: pytest.TestReport) -> None:
        cls: Any = item.cls  # type: ignore[attr-defined]  # of a function
        found = self._classes[cls]
        left_out = item.stash.get(_LEFT_OUT, None)
        if report.skipped and left_out is None and not hasattr(report, "wasxfail"):
            if report.when == "setup" and cls.server_may_be_absent:
                return
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            report.outcome = "failed"
            report.longrepr = f"{reason}\nA case of the contract must run: no mark, fixture or store may skip it."
        if report.when == "call" or not report.passed:
            passed = report.passed and not hasattr(report, "wasxfail")
            outcome: Outcome = "passed" if passed else (left_out if report.skipped and left_out else "failed")
            if found.outcomes.get(case.id) != "failed":
                found.outcomes[case.id] = outcome
        harness = getattr(item, "funcargs", {}).get("harness")
        found.capabilities.update(getattr(harness, "declared", None) or ())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write for which levels each store is certified."""
        counted = {cls: found for cls, found in self._classes.items() if found.outcomes}
        if counted:
            terminalreporter.section("store contract")
        for cls, found in counted.items():
            terminalreporter.write_line(f"{cls.__name__}: {_verdict(found.levels())}")


def _verdict(levels: tuple[LevelVerdict, ...]) -> str:
    certified = [verdict.level for verdict in levels if verdict.status == "certified"]
    others = [str(verdict) for verdict in levels if verdict.status != "certified"]
    refused = any(verdict.status == "not certified" for verdict in levels) or levels[0].status != "certified"
    said = f"certified: {', '.join(certified)}" if certified else "certified for no level"
    return "; ".join(["not certified" if refused else said, *([said] if refused and certified else []), *others])


_SESSION = pytest.StashKey[_SessionVerdict]()
