"""The contract on tables whose names SQL takes only in quotes: a case of each clause, or all of them."""

import os
from pathlib import Path

import pytest
from workflow_contract_tests import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_test_support.harnesses.sqlite import harness_on
from workflow_test_support.workloads import odd_names

CASES = [case for case in catalogue() if case.capability != "notify"]  # which this store does not declare
HOW_MANY = os.environ.get("WORKFLOW_CONTRACT_NAMES", "some")


def chosen() -> list[Case]:
    """Return all cases, or the first of each clause: among them is each verb, and so each statement."""
    if HOW_MANY == "all":
        return CASES
    first: dict[str, Case] = {}
    for case in CASES:
        for clause in case.clauses:
            first.setdefault(clause, case)
    return list(dict.fromkeys(first.values()))


@pytest.mark.parametrize("case", chosen(), ids=lambda case: case.id)
async def test_contract_holds_on_odd_names(case: Case, tmp_path: Path) -> None:
    await run_case(case, harness_on(tmp_path / "contract.db", tables=odd_names.TABLES))
