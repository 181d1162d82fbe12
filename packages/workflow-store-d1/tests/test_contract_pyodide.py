"""The D1 store keeps the contract in the Python of Cloudflare's Workers, on the binding, with real D1 behind.

`WORKFLOW_PYODIDE` says in which: a version of Pyodide and a form of the binding, as in `0.28.2:bare`. Other tests take
the same statements through the whole contract on real D1. So by default these are two cases of each clause, and all of
those that the binding decides; `WORKFLOW_CONTRACT_PYODIDE=all` takes the whole contract. So does this file when it is
started as a program, with such words as arguments; then it prints the table of all clauses.
"""

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from workflow_contract_tests import Case, CaseResult, Report, catalogue
from workflow_contract_tests import __version__ as suite_version
from workflow_runtime.store import CONTRACT_VERSION
from workflow_test_support.pyodide.program import Pyodide, PyodideError, Setting, open_pyodide
from workflow_test_support.some_cases import some_cases

ROOT = Path(__file__).parents[3]
DEFAULT = "314.0.6:wrapped"
"""What a Worker gets that follows Cloudflare's instructions today."""

PROGRAM = """
from contract_in_pyodide import serve
await serve(env.DB, emit, receive)
"""
PATIENCE_S = 90
"""Longer than the kit gives a case, so that it is the kit who says what hangs."""


class Examination:
    """Puts cases to a Pyodide, and to a fresh one where that has failed."""

    def __init__(self, form: str) -> None:
        version, _, binding = form.partition(":")
        assert binding in {"bare", "wrapped"}, f"{form!r} is not like {DEFAULT!r}"
        path = (ROOT / "contract-tests" / "src", ROOT / "test-support" / "src", Path(__file__).parent / "pyodide")
        self._setting = Setting(version=version, wrapped=binding == "wrapped", path=path)
        self._stack = ExitStack()
        self._running: Pyodide | None = None
        self.capabilities: set[str] = set()

    def __enter__(self) -> "Examination":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def examine(self, case: Case) -> CaseResult:
        """Run a case."""
        if self._running is None:
            self._running = self._stack.enter_context(open_pyodide(PROGRAM, self._setting))
        try:
            found: dict[str, Any] = self._running.ask(case.id, timeout_s=PATIENCE_S)
        except PyodideError:
            self._running = None
            self._stack.close()
            raise
        assert found.pop("store") in {"D1WorkflowStore", "unknown store"}
        self.capabilities.update(found.pop("capabilities"))
        return CaseResult(**found | {"clauses": tuple(found["clauses"])})


@pytest.fixture(scope="module")
def examination() -> Iterator[Examination]:
    with Examination(os.environ.get("WORKFLOW_PYODIDE", DEFAULT)) as examination:
        yield examination


DECIDED = ("PAYLOAD-", "ARG-", "ERROR-", "METER-", "CLAIM-8", "TX-")
"""Clauses, by their beginnings, of which the way through the binding decides every word."""
CHOSEN = (
    catalogue()
    if os.environ.get("WORKFLOW_CONTRACT_PYODIDE") == "all"
    else some_cases(catalogue(), each=2, decided=DECIDED)
)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CHOSEN])
def test_clause(case: Case, examination: Examination) -> None:
    result = examination.examine(case)
    assert (result.id, result.clauses) == (case.id, case.clauses)
    if result.outcome == "not-applicable":
        pytest.skip(f"not applicable: {result.problem}")
    assert result.outcome == "passed", result.problem


def certify(form: str) -> Report:
    """Run every case and give the verdict."""
    began = time.perf_counter()
    with Examination(form) as examination:
        results = tuple(examination.examine(case) for case in catalogue())
        capabilities = tuple(sorted(examination.capabilities))
    return Report(
        store=f"D1WorkflowStore in Pyodide {form}",
        contract_version=CONTRACT_VERSION,
        suite_version=suite_version,
        python_version=platform.python_version(),
        seconds=time.perf_counter() - began,
        results=results,
        capabilities=capabilities,
    )


if __name__ == "__main__":
    reports = [certify(form) for form in sys.argv[1:] or [DEFAULT]]
    for report in reports:
        print(report.as_markdown())
    for report in reports:
        print(report.summary())
    sys.exit(0 if all(report.certified for report in reports) else 1)
