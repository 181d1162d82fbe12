"""The D1 store on a local SQLite file keeps the contract."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_d1 import D1WorkflowStore, SQLiteTransaction


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> StoreHarness:
        path = str(tmp_path / "contract.db")

        async def corrupt(run_id: str) -> None:
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("UPDATE workflow_run_states SET input = '{\"cut' WHERE run_id = ?", (run_id,))

        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("CREATE TABLE business (key TEXT NOT NULL)")

        async def write_business(tx: SQLiteTransaction, key: str) -> None:
            await tx.execute("INSERT INTO business VALUES (?1)", key)

        async def read_business() -> list[str]:
            with closing(sqlite3.connect(path)) as db:
                return [key for (key,) in db.execute("SELECT key FROM business")]

        return StoreHarness(
            lambda: D1WorkflowStore.open(path),
            contract_version="0.1",
            process_factory="workflow_store_d1:D1WorkflowStore.open",
            process_arguments={"path": path},
            corrupt=corrupt,
            write_business=write_business,
            read_business=read_business,
        )
