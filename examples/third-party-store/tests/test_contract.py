"""The store keeps the contract: everything that certifying it takes."""

from pathlib import Path

import pytest
from jsonl_store import JsonlWorkflowStore
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> StoreHarness:
        path = str(tmp_path / "contract.jsonl")
        return StoreHarness(
            lambda: JsonlWorkflowStore(path),
            contract_version="0.1",
            process_factory="jsonl_store:JsonlWorkflowStore",
            process_arguments={"path": path},
            not_applicable={"corrupt": "the file holds commands, not rows: a damaged line stops the store as a whole"},
        )
