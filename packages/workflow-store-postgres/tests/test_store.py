"""The store as a whole: opening, closing, misuse."""

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, cast

import asyncpg
import pytest
from workflow_runtime import WorkflowRuntime
from workflow_runtime.errors import ConfigurationError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import WorkflowExecutionStore
from workflow_store_postgres import PostgresWorkflowStore
from workflow_store_sql import load_queries

if TYPE_CHECKING:
    from conftest import Scenes

QUERIES = load_queries("workflow_store_postgres")


def as_contract(store: PostgresWorkflowStore) -> WorkflowExecutionStore:
    """Whether the store keeps the Protocol is for the type checker to say."""
    return store


async def test_store_is_opened_by_await_or_by_async_with(dsn: str) -> None:
    store = await PostgresWorkflowStore.connect(dsn)
    async with store as entered:
        assert entered is store
        await store.check_schema()
    async with PostgresWorkflowStore.connect(dsn) as store:
        await as_contract(store).check_schema()


async def test_own_pool_is_as_the_options_say(dsn: str, database: asyncpg.Connection) -> None:
    sessions = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1"
    own_pid = database.get_server_pid()
    async with PostgresWorkflowStore.connect(dsn):
        assert [row[0] for row in await database.fetch(sessions, own_pid)] == ["workflow-store-postgres"]
    options: dict[str, Any] = {"min_size": 3, "max_size": 3, "server_settings": {"application_name": "mine"}}
    async with PostgresWorkflowStore.connect(dsn, **options):
        assert [row[0] for row in await database.fetch(sessions, own_pid)] == ["mine"] * 3


async def test_clock_is_the_databases(store: PostgresWorkflowStore) -> None:
    before = time.time_ns() // 1_000_000
    clock = await store.read_clock()
    assert before - 1 <= clock <= time.time_ns() // 1_000_000 + 1


async def test_lease_tokens_come_from_the_injected_source(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=1) as pool:
        store = PostgresWorkflowStore(pool, new_token=lambda: "the token")
        created = await store.create_run(
            run_id="a",
            workflow_id="w",
            workflow_version="1",
            input=JsonText("1"),
            operation_id="o",
            now_ms=1,
            owner="w",
            lease_ms=5,
        )
        assert created.kind == "created"
        assert created.claim is not None
        assert created.claim.lease.token == "the token"


async def test_pausing_does_not_write_a_large_input_again(scenes: "Scenes", database: asyncpg.Connection) -> None:
    lease = await scenes.running("a", input=scenes.json("x" * 1_000_000))
    before = await database.fetchval("SELECT pg_current_wal_insert_lsn()")
    await scenes.pause("a", lease)
    written = await database.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::pg_lsn)", before)
    assert written < 100_000


@pytest.mark.parametrize("name", QUERIES)
def test_comment_names_every_parameter(name: str) -> None:
    query = QUERIES[name]
    used = {number for number in range(1, 40) if f"${number}:" in query.sql}
    assert used == set(range(1, len(query.parameters) + 1))


def test_import_opens_no_connection_and_brings_no_other_store() -> None:
    code = (
        "import sys, workflow_store_postgres; print(sorted(m for m in sys.modules if m.startswith('workflow_store')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "d1" not in done.stdout
    assert "memory" not in done.stdout


SECRET = "postgresql://ann:s3cret@db.example/app"  # an example


@pytest.mark.parametrize("pool", [SECRET, SECRET.encode(), None, 5, asyncpg.Connection])
def test_store_of_something_else_says_how_to_make_one(pool: Any) -> None:
    """A DSN, above all, of which nothing is repeated."""
    with pytest.raises(ConfigurationError, match=r"PostgresWorkflowStore\.connect") as refusal:
        PostgresWorkflowStore(pool)
    assert not any(part in str(refusal.value) for part in ("s3cret", "ann", "db.example"))


async def test_store_that_is_not_open_says_so() -> None:
    """As itself, and as the store of a runtime; no part of the DSN is told."""
    opening: Any = PostgresWorkflowStore.connect(SECRET)
    with pytest.raises(ConfigurationError, match=r"`async with PostgresWorkflowStore\.connect") as refusal:
        await opening.ensure_schema()
    assert "example" not in str(refusal.value)
    with pytest.raises(ConfigurationError, match="the store is not open yet: write `async with"):
        WorkflowRuntime(store=opening, workflows=[])


async def test_number_for_a_duration() -> None:
    """Says what to write."""
    pool: Any = asyncpg.create_pool(SECRET)
    with pytest.raises(ConfigurationError, match=r"acquire_timeout must be a timedelta above zero, such as timedelta"):
        PostgresWorkflowStore(pool, acquire_timeout=cast("Any", 3))
