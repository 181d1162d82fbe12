"""The contract, with every write that may be combined sent by the statement for many: by cases of the driver's writes.

By default the first two cases of each clause, and all of those that the statements decide.
`WORKFLOW_CONTRACT_COMBINED=all` takes the whole contract, as `nox -s release` does.
"""

import os
from collections import Counter

import pytest
from workflow_contract_tests import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_test_support.harnesses.combining import CombiningStore
from workflow_test_support.harnesses.postgres import harness_on

CASES = [case for case in catalogue() if case.capability != "metered"]  # which this store does not declare
HOW_MANY = os.environ.get("WORKFLOW_CONTRACT_COMBINED", "some")
DECIDED = ("LOG-", "FENCE-", "OP-", "RUN-7", "PAYLOAD-")
"""Clauses, by their beginnings, of which the statements for many decide every word."""


def chosen() -> list[Case]:
    if HOW_MANY == "all":
        return CASES
    seen: Counter[str] = Counter()
    some = []
    for case in CASES:
        if any(clause.startswith(DECIDED) or seen[clause] < 2 for clause in case.clauses):
            some.append(case)
        seen.update(case.clauses)
    return some


@pytest.mark.parametrize("case", chosen(), ids=lambda case: case.id)
async def test_contract_holds_on_combined_writes(case: Case, dsn: str) -> None:
    await run_case(case, harness_on(dsn, store=CombiningStore))
