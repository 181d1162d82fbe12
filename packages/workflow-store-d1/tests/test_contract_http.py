"""The D1 store keeps the contract over the HTTP API, on the D1 of workerd."""

from collections.abc import Iterator

import pytest
from d1_rest import RestDatabase, rest_database
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_d1 import D1Transaction, D1WorkflowStore


@pytest.fixture(scope="module")
def server() -> Iterator[RestDatabase]:
    with rest_database() as database:
        yield database


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self, server: RestDatabase) -> StoreHarness:
        server.drop_everything()
        server.run("CREATE TABLE business (key TEXT NOT NULL)")

        async def corrupt(run_id: str) -> None:
            server.run("UPDATE workflow_run_states SET input = '{\"cut' WHERE run_id = ?1", run_id)

        async def write_business(tx: D1Transaction, key: str) -> None:
            tx.add("INSERT INTO business VALUES (?1)", key)

        async def read_business() -> list[str]:
            return [row["key"] for row in server.run("SELECT key FROM business")]

        return StoreHarness(
            lambda: D1WorkflowStore.connect_http(**server.arguments),
            contract_version="0.1",
            process_factory="workflow_store_d1:D1WorkflowStore.connect_http",
            process_arguments=server.arguments,
            corrupt=corrupt,
            write_business=write_business,
            read_business=read_business,
        )
