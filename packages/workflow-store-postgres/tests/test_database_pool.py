"""The pool that lends databases to tests: none of them sees what another has done."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from workflow_runtime.payloads import JsonText
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.database_pool import DatabasePool
from workflow_test_support.servers.postgres_databases import run_on

CHANGES = {
    "table": "CREATE TABLE more (n int)",
    "column": "ALTER TABLE workflow_runs ADD COLUMN more int",
    "type": "ALTER TABLE workflow_runs ALTER COLUMN priority TYPE int",
    "index": "CREATE INDEX more ON workflow_runs (queue)",
    "lost index": "DROP INDEX workflow_runs_created",
    "constraint": "ALTER TABLE workflow_runs ADD CHECK (priority < 1000)",
    "function": "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "schema": "CREATE SCHEMA more",
    "right": "REVOKE ALL ON workflow_runs FROM CURRENT_USER",
    "right on a column": "GRANT SELECT (run_id) ON workflow_runs TO PUBLIC",
    "storage": "ALTER TABLE workflow_runs SET (fillfactor = 50)",
    "row security": "ALTER TABLE workflow_runs ENABLE ROW LEVEL SECURITY",
    "statistics": "ANALYZE workflow_runs",
    "setting": "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''1MB''', current_database()); END$$",
    "migrations": "DELETE FROM workflow_schema_migrations",
    "trigger": (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER refuse BEFORE INSERT ON workflow_runs FOR EACH ROW EXECUTE FUNCTION refuse()"
    ),
    "size": "INSERT INTO business SELECT repeat(md5(n::text), 50) FROM generate_series(1, 20000) AS n",
}


@pytest.fixture
async def pool(server_dsn: str, template: str) -> AsyncIterator[DatabasePool]:
    pool = DatabasePool(server_dsn, template)
    yield pool
    await pool.close()


async def test_next_test_gets_the_same_database_without_rows(pool: DatabasePool) -> None:
    async with pool.database() as first, PostgresWorkflowStore.connect(first, listen=False) as store:
        await store.create_run(
            run_id="a",
            workflow_id="w",
            workflow_version="1",
            input=JsonText("1"),
            operation_id="o",
            now_ms=1,
            queue="q",
        )
    async with pool.database() as second, PostgresWorkflowStore.connect(second, listen=False) as store:
        assert second == first
        assert await store.load_run(run_id="a") is None
        await store.check_schema()


async def test_sessions_that_a_test_leaves_open_are_ended(pool: DatabasePool) -> None:
    """They may hold locks, and a transaction."""
    async with pool.database() as first:
        left = await asyncpg.connect(first)
        await left.execute("BEGIN; INSERT INTO business VALUES ('x'); LOCK TABLE workflow_runs")
    async with pool.database() as second:
        assert second == first
        await run_on(second, "BEGIN; LOCK TABLE workflow_runs NOWAIT")
    assert left.is_closed()


@pytest.mark.parametrize("what", CHANGES)
async def test_database_that_was_changed_is_not_lent_again(pool: DatabasePool, what: str) -> None:
    async with pool.database() as first:
        await run_on(first, CHANGES[what])
    async with pool.database() as second:
        assert second != first


async def test_database_that_is_gone_is_not_lent_again(pool: DatabasePool, server_dsn: str) -> None:
    async with pool.database() as first:
        await run_on(server_dsn, f"DROP DATABASE {first.rpartition('/')[2]} WITH (FORCE)")
    async with pool.database() as second:
        assert second != first
