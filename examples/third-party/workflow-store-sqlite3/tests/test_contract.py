"""The store keeps the contract, case by case under pytest. `workflow-certify` gives the verdict that counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlite3_harness import harness as fresh_harness
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract


class TestContract(StoreContract):
    """Every case of the contract as a test."""

    @pytest.fixture
    def harness(self) -> Iterator[StoreHarness]:
        """Yield what the command examines."""
        with fresh_harness() as harness:
            yield harness
