"""The contract on tables whose names SQL takes only in quotes: a case of each clause, or all of them."""

import os
from pathlib import Path

import pytest
from workflow_contract_tests import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_test_support.harnesses.sqlite import harness_on
from workflow_test_support.some_cases import some_cases
from workflow_test_support.workloads import odd_names

CASES = [case for case in catalogue() if case.capability != "notify"]  # which this store does not declare
CHOSEN = CASES if os.environ.get("WORKFLOW_CONTRACT_NAMES") == "all" else some_cases(CASES)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.id)
async def test_contract_holds_on_odd_names(case: Case, tmp_path: Path) -> None:
    await run_case(case, harness_on(tmp_path / "contract.db", tables=odd_names.TABLES))
