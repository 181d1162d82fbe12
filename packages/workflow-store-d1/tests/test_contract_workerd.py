"""The D1 store on the D1 of workerd, through a Worker's binding, keeps the contract."""

from collections.abc import AsyncIterator
from contextlib import closing

import pytest
from workflow_contract_tests import Case, StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_test_support.harnesses.d1_server import binding_harness_on
from workflow_test_support.servers.case_database import CaseDatabase
from workflow_test_support.servers.d1_server import D1Server
from workflow_test_support.servers.worker_database import WorkerD1Database


@pytest.fixture(scope="module")
def tables() -> CaseDatabase:
    return CaseDatabase()


class TestContract(StoreContract):
    @pytest.fixture
    async def harness(self, d1: D1Server, tables: CaseDatabase, case: Case) -> AsyncIterator[StoreHarness]:
        with closing(WorkerD1Database(d1.url, "DB")) as database:
            await tables.afresh(database, with_tables=not case.fresh)
            async with binding_harness_on(d1.url, database) as harness:
                yield harness
