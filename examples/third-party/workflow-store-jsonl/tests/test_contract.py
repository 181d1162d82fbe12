"""The store keeps the contract: everything that certifying it takes."""

from collections.abc import Iterator

import pytest
from jsonl_harness import harness as make_harness
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self) -> Iterator[StoreHarness]:
        with make_harness() as harness:
            yield harness
