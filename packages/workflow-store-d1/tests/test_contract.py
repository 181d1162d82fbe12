"""The D1 store on a local SQLite file keeps the contract."""

from pathlib import Path

import pytest
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.catalogue import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_d1 import D1WorkflowStore
from workflow_test_support.harnesses.sqlite import harness_on


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> StoreHarness:
        return harness_on(tmp_path / "contract.db")


LARGE = 5_000_000
"""More than a row of D1's carries."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.id) for case in catalogue() if "PAYLOAD-3" in case.clauses]
)
async def test_a_file_carries_what_d1_does_not(case: Case, tmp_path: Path) -> None:
    """The clauses about the largest payload, with a larger one."""
    harness = harness_on(tmp_path / "contract.db", synchronous="NORMAL", max_payload_bytes=LARGE)
    async with D1WorkflowStore.open(tmp_path / "another.db", max_payload_bytes=LARGE) as store:
        assert store.capabilities.max_payload_bytes == LARGE
    await run_case(case, harness)
