"""The D1 store on a local SQLite file keeps the contract."""

import sqlite3
from collections.abc import Awaitable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from workflow_contract_tests import Statements, StoreHarness
from workflow_contract_tests.catalogue import Case, catalogue
from workflow_contract_tests.certification import run_case
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_store_d1 import D1DatabaseError, D1WorkflowStore, SQLiteTransaction
from workflow_store_d1.retries import Retries


def open_watched(path: Path, statements: Statements, **options: Any) -> Awaitable[D1WorkflowStore]:
    """Open a handle whose statements, and batches of them, can be disturbed. It does not wait between two attempts."""

    async def open_store() -> D1WorkflowStore:
        store = await D1WorkflowStore.open(path, **options)
        database: Any = store.database
        execute = database.execute

        async def watched(batch: Any, *, begin: str | None) -> Any:
            return await statements.send(lambda: execute(batch, begin=begin))

        database.execute = watched
        store._sender._retries = Retries(first_wait=timedelta(0))
        return store

    return open_store()


def harness_on(path: Path, **options: Any) -> StoreHarness:
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

    statements = Statements(lambda: D1DatabaseError("the file is away", unavailable=True, outcome_unknown=True))
    return StoreHarness(
        lambda: open_watched(path, statements, **options),
        contract_version="0.1",
        process_factory="workflow_store_d1:D1WorkflowStore.open",
        process_arguments={"path": str(path)},
        corrupt=corrupt,
        write_business=write_business,
        read_business=read_business,
        statements=statements,
    )


class TestContract(StoreContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> StoreHarness:
        return harness_on(tmp_path / "contract.db")


LARGE = 5_000_000
"""More than a row of D1's carries."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.id) for case in catalogue() if "PAYLOAD-3" in case.clauses]
)
async def test_a_file_carries_what_d1_does_not(case: Case, tmp_path: Path) -> None:
    """The clauses about the largest payload, with a larger one."""
    harness = harness_on(tmp_path / "contract.db", synchronous="NORMAL", max_payload_bytes=LARGE)
    async with D1WorkflowStore.open(tmp_path / "another.db", max_payload_bytes=LARGE) as store:
        assert store.capabilities.max_payload_bytes == LARGE
    await run_case(case, harness)
