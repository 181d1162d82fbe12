"""The same sequences on the memory store, a SQLite file and Postgres at once, answer by answer beside the model.

`WORKFLOW_MODEL_OPERATIONS` sets how many operations there are; each is made on all three stores.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from workflow_contract_tests.settings import SEED
from workflow_contract_tests.state_machine import Part, Player, Search, empty
from workflow_runtime.store import WorkflowExecutionStore
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.database_pool import DatabasePool

OPERATIONS = int(os.environ.get("WORKFLOW_MODEL_OPERATIONS", "2000"))
SHARES = 4
"""Tests for each part of the verbs, for the processes of a run to share."""

pytestmark = pytest.mark.timeout(3_600)


@pytest.fixture
async def stores(databases: DatabasePool, tmp_path: Path) -> AsyncIterator[dict[str, WorkflowExecutionStore]]:
    """The three, open."""
    async with (
        databases.database() as dsn,
        PostgresWorkflowStore.connect(dsn) as postgres,
        SQLiteWorkflowStore.open(tmp_path / "model.db", synchronous="NORMAL") as sqlite,
    ):
        await sqlite.ensure_schema()
        yield {"memory": InMemoryWorkflowStore(), "SQLite": sqlite, "Postgres": postgres}


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("part", ["runs", "schedules"])
async def test_three_stores_answer_as_the_model(
    stores: dict[str, WorkflowExecutionStore], part: Part, share: int
) -> None:
    @asynccontextmanager
    async def freshly() -> AsyncIterator[Sequence[Player]]:
        for store in stores.values():
            await empty(store, schedules=True)
        yield [Player(name, [store]) for name, store in stores.items()]

    operations = OPERATIONS // (2 * SHARES)
    search = Search(part=part, freshly=freshly, seed=SEED + share * 1_000_000, operations=operations)
    await search.run()
    assert search.played >= operations
    print(f"{search.played} operations in {search.sequences} sequences about {part}")
