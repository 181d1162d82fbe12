"""The D1 store on the D1 of workerd, through a Worker's binding, keeps the contract."""

from collections.abc import AsyncIterator

import pytest
from case_database import CaseDatabase
from workflow_contract_tests import Case, StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_d1 import D1Transaction, D1WorkflowStore
from workflow_test_support.servers.d1_server import D1Server
from workflow_test_support.servers.worker_database import WorkerD1Database


@pytest.fixture(scope="module")
def tables() -> CaseDatabase:
    return CaseDatabase()


class TestContract(StoreContract):
    @pytest.fixture
    async def harness(self, d1: D1Server, tables: CaseDatabase, case: Case) -> AsyncIterator[StoreHarness]:
        worker_database = WorkerD1Database(d1.url, "DB")
        await tables.afresh(worker_database, with_tables=not case.fresh)
        handles = [worker_database]

        def open_store() -> D1WorkflowStore:
            handles.append(WorkerD1Database(d1.url, "DB"))
            return D1WorkflowStore(handles[-1])

        async def corrupt(run_id: str) -> None:
            cut = worker_database.prepare("UPDATE workflow_run_states SET input = '{\"cut' WHERE run_id = ?1")
            await cut.bind(run_id).run()

        async def write_business(tx: D1Transaction, key: str) -> None:
            tx.add("INSERT INTO business VALUES (?1)", key)

        async def read_business() -> list[str]:
            return [row["key"] for row in (await worker_database.prepare("SELECT key FROM business").all()).results]

        yield StoreHarness(
            open_store,
            contract_version="0.1",
            process_factory="workflow_test_support.servers.worker_database:open_store",
            process_arguments={"url": d1.url, "name": "DB"},
            corrupt=corrupt,
            write_business=write_business,
            read_business=read_business,
        )
        for handle in handles:
            handle.close()
