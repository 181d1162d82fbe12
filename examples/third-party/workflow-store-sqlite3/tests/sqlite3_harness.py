"""What the contract tests need of the store: a fresh file for each case."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from workflow_contract_tests import StoreHarness
from workflow_store_sqlite3 import Sqlite3WorkflowStore


@contextmanager
def harness() -> Iterator[StoreHarness]:
    """Yield a harness on a file that is gone afterwards."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "workflows.sqlite")

        async def corrupt(run_id: str) -> None:
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE workflow_run_data SET input = '{' WHERE run_id = ?", (run_id,))

        yield StoreHarness(
            lambda: Sqlite3WorkflowStore(path),
            contract_version="0.1",
            process_factory="workflow_store_sqlite3:Sqlite3WorkflowStore",
            process_arguments={"path": path},
            corrupt=corrupt,
            subject={"database": f"SQLite {sqlite3.sqlite_version}", "driver": "sqlite3", "synchronous": "FULL"},
        )
