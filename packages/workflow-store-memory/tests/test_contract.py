"""The memory store keeps the contract."""

import pytest
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_test_support.harnesses import memory


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self) -> StoreHarness:
        return memory.harness()
