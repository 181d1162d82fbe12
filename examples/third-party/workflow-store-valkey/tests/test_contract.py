"""The store keeps the contract."""

import pytest
from valkey.asyncio import Valkey
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_valkey import ValkeyWorkflowStore


def make_harness(url: str, prefix: str) -> StoreHarness:
    async def corrupt(run_id: str) -> None:
        async with Valkey.from_url(url) as client:
            await client.execute_command("HSET", f"{prefix}run:{run_id}", "input", "{broken")

    return StoreHarness(
        lambda: ValkeyWorkflowStore(url, prefix=prefix),
        contract_version="0.1",
        process_factory="workflow_store_valkey:ValkeyWorkflowStore",
        process_arguments={"url": url, "prefix": prefix},
        corrupt=corrupt,
    )


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self, server_url: str, prefix: str) -> StoreHarness:
        return make_harness(server_url, prefix)
