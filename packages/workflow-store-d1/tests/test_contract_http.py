"""The D1 store keeps the contract over the HTTP API, on the D1 of workerd."""

from contextlib import closing

import pytest
from case_database import CaseDatabase
from workflow_contract_tests import Case, StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_d1 import D1Transaction, D1WorkflowStore
from workflow_test_support.servers.d1_rest import RestDatabase
from workflow_test_support.servers.d1_server import D1Server
from workflow_test_support.servers.worker_database import WorkerD1Database


@pytest.fixture(scope="module")
def tables() -> CaseDatabase:
    return CaseDatabase()


@pytest.fixture
async def rest(d1: D1Server, rest_server: RestDatabase, tables: CaseDatabase, case: Case) -> RestDatabase:
    """The REST API, with a database that has tables and no rows."""
    with closing(WorkerD1Database(d1.url, "REST")) as database:  # the same database by its binding
        await tables.afresh(database, with_tables=not case.fresh)
    return rest_server


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self, rest: RestDatabase) -> StoreHarness:

        async def corrupt(run_id: str) -> None:
            rest.run("UPDATE workflow_run_states SET input = '{\"cut' WHERE run_id = ?1", run_id)

        async def write_business(tx: D1Transaction, key: str) -> None:
            tx.add("INSERT INTO business VALUES (?1)", key)

        async def read_business() -> list[str]:
            return [row["key"] for row in rest.run("SELECT key FROM business")]

        return StoreHarness(
            lambda: D1WorkflowStore.connect_http(**rest.arguments),
            contract_version="0.1",
            process_factory="workflow_store_d1:D1WorkflowStore.connect_http",
            process_arguments=rest.arguments,
            corrupt=corrupt,
            write_business=write_business,
            read_business=read_business,
        )
