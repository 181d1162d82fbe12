"""The memory store keeps the contract."""

import pytest
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self) -> StoreHarness:
        data = InMemoryData()
        return StoreHarness(
            lambda: InMemoryWorkflowStore(data=data),
            contract_version="0.1",
            not_applicable={
                "processes": "a memory store lives in one process",
                "corrupt": "it keeps frozen values, which nothing can damage behind its back",
            },
        )
