"""The D1 store on a local SQLite file."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from workflow_contract_tests import Statements, StoreHarness
from workflow_migrations import TableNames, render_sql
from workflow_store_d1 import D1DatabaseError, D1WorkflowStore, SQLiteTransaction
from workflow_store_d1.retries import Retries


async def open_watched(path: Path, statements: Statements, **options: Any) -> D1WorkflowStore:
    """Open a handle whose statements, and batches of them, can be disturbed. It does not wait between two attempts."""
    store = await D1WorkflowStore.open(path, **options)
    database: Any = store.database
    execute = database.execute

    async def watched(batch: Any, *, begin: str | None) -> Any:
        return await statements.send(lambda: execute(batch, begin=begin))

    database.execute = watched
    store._sender._retries = Retries(first_wait=timedelta(0))  # noqa: SLF001  # users need no such thing
    return store


def harness_on(path: Path, **options: Any) -> StoreHarness:
    """Return a harness on a new file.

    Args:
        path: The file, which is not there yet.
        options: Further arguments of `D1WorkflowStore.open`.
    """
    names = TableNames.of(options.get("tables"))
    cut_input = render_sql("UPDATE workflow_run_states SET input = '{\"cut' WHERE run_id = ?", names)

    async def corrupt(run_id: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(cut_input, (run_id,))

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
        process_arguments={"path": str(path), "tables": options.get("tables")},
        corrupt=corrupt,
        write_business=write_business,
        read_business=read_business,
        statements=statements,
        subject={"database": f"SQLite {sqlite3.sqlite_version}", "journal_mode": "WAL", "synchronous": "FULL"},
    )


@contextmanager
def harness() -> Iterator[StoreHarness]:
    """Make a harness on a file in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="contract-") as folder:
        yield harness_on(Path(folder) / "contract.db")
