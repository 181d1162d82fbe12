"""The D1 store on a local SQLite file."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from workflow_contract_tests import StoreHarness
from workflow_store_d1 import D1WorkflowStore, SQLiteTransaction


def harness_on(path: Path, **options: Any) -> StoreHarness:
    """Return a harness on a new file.

    Args:
        path: The file, which is not there yet.
        options: Further arguments of `D1WorkflowStore.open`.
    """

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
        lambda: D1WorkflowStore.open(path, **options),
        contract_version="0.1",
        process_factory="workflow_store_d1:D1WorkflowStore.open",
        process_arguments={"path": str(path)},
        corrupt=corrupt,
        write_business=write_business,
        read_business=read_business,
        subject={"database": f"SQLite {sqlite3.sqlite_version}", "journal_mode": "WAL", "synchronous": "FULL"},
    )


@contextmanager
def harness() -> Iterator[StoreHarness]:
    """Give a harness on a file in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="contract-") as folder:
        yield harness_on(Path(folder) / "contract.db")
