"""The D1 store keeps the contract over the HTTP API, on the D1 of workerd."""

from contextlib import closing

import pytest
from workflow_contract_tests import Case, StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_test_support.harnesses.d1_server import rest_harness_on
from workflow_test_support.servers.case_database import CaseDatabase
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
        return rest_harness_on(rest)
