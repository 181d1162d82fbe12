"""The store keeps the contract: everything that certifying it takes."""

import pytest
from valkey_harness import harness as make_harness
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self) -> StoreHarness:
        return make_harness()
