"""The contract, with every write that may be combined sent by the statement for many: by cases of the driver's writes.

By default the first two cases of each clause, and all of those that the statements decide.
`WORKFLOW_CONTRACT_COMBINED=all` takes the whole contract, as `nox -s release` does.
"""

import os

import pytest
from workflow_contract_tests import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_test_support.harnesses.combining import CombiningStore
from workflow_test_support.harnesses.postgres import harness_on
from workflow_test_support.some_cases import some_cases

CASES = [case for case in catalogue() if case.capability != "metered"]  # which this store does not declare
DECIDED = ("LOG-", "FENCE-", "OP-", "RUN-7", "PAYLOAD-")
"""Clauses, by their beginnings, of which the statements for many decide every word."""
CHOSEN = CASES if os.environ.get("WORKFLOW_CONTRACT_COMBINED") == "all" else some_cases(CASES, each=2, decided=DECIDED)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.id)
async def test_contract_holds_on_combined_writes(case: Case, dsn: str) -> None:
    await run_case(case, harness_on(dsn, store=CombiningStore))
