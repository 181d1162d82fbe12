"""The store leaves a user's pool as it was, and one connection is enough for it."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import asyncpg
from workflow_store_postgres import PostgresWorkflowStore


async def decode_json(connection: asyncpg.Connection) -> None:
    """What most programs do with json."""
    await connection.set_type_codec("json", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


async def test_closing_the_store_leaves_the_users_pool_open(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=1) as pool:
        await PostgresWorkflowStore(pool).close()
        assert await pool.fetchval("SELECT 1") == 1


async def test_users_pool_keeps_its_settings(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1, init=decode_json) as pool:
        store = PostgresWorkflowStore(pool)
        await store.ensure_schema()
        await store.read_clock()
        assert await pool.fetchval("SELECT '[1]'::json") == [1]


async def test_one_connection_serves_many_tasks(connect: Callable[..., Awaitable[PostgresWorkflowStore]]) -> None:
    store = await connect(max_size=1)
    clocks = await asyncio.wait_for(asyncio.gather(*(store.read_clock() for _ in range(50))), 20)
    await asyncio.wait_for(asyncio.gather(*(store.ensure_schema() for _ in range(5))), 20)
    assert len(clocks) == 50
