"""What the contract tests need of the store: a fresh file for each case."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from workflow_contract_tests import StoreHarness
from workflow_store_sqlite3 import Sqlite3WorkflowStore, Transaction


@contextmanager
def harness() -> Iterator[StoreHarness]:
    """Yield a harness on a file that is gone afterwards."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "workflows.sqlite")
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE business (key TEXT PRIMARY KEY)")

        async def corrupt(run_id: str) -> None:
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE workflow_run_data SET input = '{' WHERE run_id = ?", (run_id,))

        async def write_business(transaction: Transaction, key: str) -> None:
            await transaction.execute("INSERT INTO business (key) VALUES (?)", (key,))

        async def read_business() -> list[str]:
            with closing(sqlite3.connect(path)) as db, db:
                return [key for (key,) in db.execute("SELECT key FROM business")]

        yield StoreHarness(
            lambda: Sqlite3WorkflowStore(path),
            contract_version="0.1",
            process_factory="workflow_store_sqlite3:Sqlite3WorkflowStore",
            process_arguments={"path": path},
            corrupt=corrupt,
            write_business=write_business,
            read_business=read_business,
            subject={"database": f"SQLite {sqlite3.sqlite_version}", "driver": "sqlite3", "synchronous": "FULL"},
        )
