"""The contract tests for pytest: a class that the author of a store subclasses."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

# What is imported already keeps its plain assertions, and pytest would warn.
if _asserting := {f"{__package__}.{name}" for name in ("suites", "scenarios", "ticking")} - sys.modules.keys():
    pytest.register_assert_rewrite(*_asserting)

from .cases import Case
from .catalogue import catalogue
from .clauses import CLAUSES
from .examination import NotDeclaredError, excuse, is_unwritten, run_case
from .harness import StoreHarness
from .levels import levels_of
from .pytest_verdict import leave_out, watch

__all__ = ["StoreContract"]

_KEPT = ("pytest_generate_tests", "test_clause", "test_suite_is_whole")
"""The names that a subclass may not change."""


class StoreContract:
    """All cases of the store contract as test items, for the author of a store to subclass.

    A subclass adds one fixture, `harness`, which gives a `StoreHarness` with fresh data, and changes nothing else.
    A clause that the store is known to break goes into `xfail_clauses` with the reason. Its cases must then fail,
    and the report shows them. A case that is skipped in any other way fails: by a mark, in a fixture, or by the store.
    The summary of the session says for which levels the store is certified.
    """

    xfail_clauses: ClassVar[Mapping[str, str]] = {}
    """Clause ids (all their cases) or case ids that are known to fail, each with the reason."""

    server_may_be_absent: ClassVar[bool] = False
    """True if the fixture may skip where its server cannot be had. The summary then says that nothing is certified."""

    without_schedules: ClassVar[bool] = False
    """True if the verbs of schedules are not written. Their cases then do not fail, but show as not written."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Raise an error when a subclass changes what is tested."""
        super().__init_subclass__(**kwargs)
        for name in _KEPT:
            if getattr(cls, name) is not vars(StoreContract)[name]:
                raise TypeError(f"{cls.__name__} overrides {name}; only the fixture `harness` is yours to write")
        known = {*CLAUSES, *(case.id for case in catalogue())}
        for key, reason in cls.xfail_clauses.items():
            if key not in known:
                raise TypeError(f"{cls.__name__}.xfail_clauses names {key!r}, which is no clause and no case")
            if not reason.strip():
                raise TypeError(f"{cls.__name__}.xfail_clauses must say why {key} fails")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Register this class with the session, which counts what passes. pytest calls it while it collects."""
        watch(metafunc)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in catalogue()])
    async def test_clause(self, case: Case, harness: StoreHarness, request: pytest.FixtureRequest) -> None:
        """Run one case against the store."""
        for key in (case.id, *case.clauses):
            if key in self.xfail_clauses:
                request.applymarker(pytest.mark.xfail(reason=f"{key}: {self.xfail_clauses[key]}", strict=True))
                break
        excused = excuse(case, harness)
        if excused is not None:
            outcome, reason = excused
            if outcome == "not-applicable":
                leave_out(request.node, outcome, reason)
            pytest.fail(reason, pytrace=False)
        try:
            await run_case(case, harness)
            if harness.fault_points:
                sys.stdout.write(f"{harness.fault_points} fault points\n")
        except NotDeclaredError as error:
            leave_out(request.node, "not-applicable", str(error))
        except Exception as error:
            if not (self.without_schedules and "schedules" in levels_of(case) and is_unwritten(error)):
                raise
            leave_out(request.node, "not-written", repr(error))

    def test_suite_is_whole(self) -> None:
        """Assert that the subclass still has every case, also when it was changed after its definition."""
        mark = next(mark for mark in StoreContract.test_clause.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]  # set by pytest's decorator
        assert [parameter.id for parameter in mark.args[1]] == [case.id for case in catalogue()]
        for name in _KEPT:
            assert getattr(type(self), name) is vars(StoreContract)[name], f"{name} was replaced"
