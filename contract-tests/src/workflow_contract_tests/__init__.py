"""Tests that certify a store: the clauses of the store contract, for anyone to point at their own store.

With pytest: subclass `workflow_contract_tests.pytest_suite.StoreContract`.
Without: the command `workflow-certify module:harness_factory`, or `certify(harness_factory)` in this process.
"""

from ._version import __version__
from .cases import Case
from .catalogue import catalogue
from .certification import certify, certify_async
from .clauses import CLAUSES
from .harness import HarnessError, StoreHarness
from .report import CaseResult, Report
from .statements import Statements

__all__ = [
    "CLAUSES",
    "Case",
    "CaseResult",
    "HarnessError",
    "Report",
    "Statements",
    "StoreHarness",
    "__version__",
    "catalogue",
    "certify",
    "certify_async",
]
