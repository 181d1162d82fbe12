"""Servers, roles and databases that are set up otherwise than one expects."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from workflow_runtime.errors import (
    ConfigurationError,
    SchemaMissingError,
    StoreOperationError,
    StoreUnavailableError,
)
from workflow_runtime.payloads import JsonText
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import LocalServer
from workflow_test_support.servers.postgres_standby import Standby

if TYPE_CHECKING:
    from conftest import Scenes

ONE = JsonText("1")
NEW: dict[str, Any] = {
    "run_id": "a",
    "workflow_id": "w",
    "workflow_version": "1",
    "input": ONE,
    "operation_id": "create",
    "now_ms": 1,
}
SIGNAL: dict[str, Any] = {"run_id": "a", "signal_id": "s", "name": "go", "payload": ONE, "now_ms": 5}
TAKES_NO_WRITES = "takes no writes: a standby"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[LocalServer, LocalServer]]:
    """A server, and another that follows it."""
    with LocalServer() as primary, Standby(primary) as standby:
        yield primary, standby


@pytest.fixture
async def stores(
    pair: tuple[LocalServer, LocalServer],
) -> AsyncIterator[tuple[PostgresWorkflowStore, PostgresWorkflowStore]]:
    primary, standby = pair
    async with (
        PostgresWorkflowStore.connect(primary.dsn) as writer,
        PostgresWorkflowStore.connect(standby.dsn) as reader,
    ):
        yield writer, reader


@pytest.mark.real_time
async def test_standby_by_mistake(stores: tuple[PostgresWorkflowStore, PostgresWorkflowStore]) -> None:
    """It says so to whoever writes, and answers whoever reads."""
    writer, standby = stores
    with pytest.raises(StoreUnavailableError, match=TAKES_NO_WRITES):
        await standby.ensure_schema()
    with pytest.raises(SchemaMissingError):
        await standby.check_schema()
    await writer.ensure_schema()
    await writer.create_run(**NEW)
    async with asyncio.timeout(60):
        while not await has_run(standby):
            await asyncio.sleep(0.01)
    await standby.ensure_schema()
    await standby.check_schema()
    assert [item.run_id for item in (await standby.list_runs(limit=5)).runs] == ["a"]
    assert await standby.get_run_timeline(run_id="a") == await writer.get_run_timeline(run_id="a")
    assert await standby.read_clock() > 0
    for write in (
        standby.create_run(**NEW | {"run_id": "b"}),
        standby.deliver_signal(**SIGNAL),
        standby.claim_pending_runs(owner="w", lease_ms=10, limit=1, now_ms=5),
        standby.prune_runs(finished_before_ms=5, limit=5),
    ):
        with pytest.raises(StoreUnavailableError, match=TAKES_NO_WRITES) as refused:
            await write
        assert refused.value.retryable  # a failover behind a fixed name passes


async def has_run(store: PostgresWorkflowStore) -> bool:
    try:
        return await store.load_run(run_id="a") is not None
    except SchemaMissingError:
        return False


async def test_tables_cannot_be_made_where_nothing_may_be_written(empty_dsn: str) -> None:
    settings = {"default_transaction_read_only": "on"}
    async with PostgresWorkflowStore.connect(empty_dsn, server_settings=settings) as store:
        with pytest.raises(StoreUnavailableError, match=TAKES_NO_WRITES):
            await store.ensure_schema()


async def test_database_that_was_set_to_take_no_writes(
    scenes: "Scenes", dsn: str, database: asyncpg.Connection
) -> None:
    await scenes.queued("a")
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with PostgresWorkflowStore.connect(dsn) as store:
        with pytest.raises(StoreUnavailableError, match=TAKES_NO_WRITES):
            await store.cancel_run(run_id="a", now_ms=5)
        assert await store.load_run(run_id="a") is not None


async def test_session_that_was_idle_in_a_transaction_for_too_long(dsn: str) -> None:
    """Only a migration has a transaction of several statements. Its session ends, and the next call gets another."""
    settings = {"idle_in_transaction_session_timeout": "50"}
    async with PostgresWorkflowStore.connect(dsn, max_size=1, server_settings=settings) as store:

        async def dawdle() -> None:
            async with store._sender.transaction() as connection:
                await asyncio.sleep(0.5)
                await connection.fetchval("SELECT 1")

        with pytest.raises(StoreUnavailableError):
            await dawdle()
        assert (await store.create_run(**NEW)).kind == "created"


@pytest.mark.parametrize("of_whom", ["DATABASE", "ROLE"])
async def test_search_path_of_a_database_or_a_role_is_followed(empty_dsn: str, of_whom: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    name = await connection.fetchval("SELECT current_database()")
    whose = {"DATABASE": f"DATABASE {name}", "ROLE": f"ROLE postgres IN DATABASE {name}"}[of_whom]
    try:
        await connection.execute("CREATE SCHEMA here; CREATE SCHEMA there")
        await connection.execute(f"ALTER {whose} SET search_path = here")
        async with PostgresWorkflowStore.connect(empty_dsn) as store:
            await store.ensure_schema()
            await store.create_run(**NEW)
        assert await connection.fetchval("SELECT count(*) FROM here.workflow_runs") == 1
        await connection.execute(f"ALTER {whose} SET search_path = there")
        async with PostgresWorkflowStore.connect(empty_dsn) as store:
            with pytest.raises(SchemaMissingError):
                await store.load_run(run_id="a")
        await connection.execute(f"ALTER {whose} SET search_path = ''")
        async with PostgresWorkflowStore.connect(empty_dsn, schema="here") as store:
            await store.ensure_schema()
            assert (await store.deliver_signal(**SIGNAL)).kind == "buffered"
        async with PostgresWorkflowStore.connect(empty_dsn) as store:
            with pytest.raises(ConfigurationError, match="search_path"):
                await store.check_schema()
    finally:
        await connection.execute(f"ALTER {whose} RESET search_path")
        await connection.close()


@pytest.mark.parametrize(
    ("grants", "call"),
    [
        ([], "read"),
        (["USAGE ON SCHEMA"], "read"),
        (["USAGE ON SCHEMA", "SELECT ON ALL TABLES IN SCHEMA"], "write"),
    ],
    ids=["no-schema", "no-select", "no-insert"],
)
async def test_missing_grant_is_named(empty_dsn: str, grants: list[str], call: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    role = f"worker_of_{await connection.fetchval('SELECT current_database()')}"
    await connection.execute(f"CREATE ROLE {role}")
    try:
        async with PostgresWorkflowStore.connect(empty_dsn, schema="workflows") as owner:
            await owner.ensure_schema()
        for grant in grants:
            await connection.execute(f"GRANT {grant} workflows TO {role}")
        async with PostgresWorkflowStore.connect(
            empty_dsn, schema="workflows", server_settings={"role": role}
        ) as store:
            with pytest.raises(StoreOperationError, match="needs USAGE on the schema and SELECT, INSERT, UPDATE"):
                await (store.load_run(run_id="a") if call == "read" else store.create_run(**NEW))
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()


async def test_full_disk_passes_when_somebody_frees_space(
    scenes: "Scenes", store: PostgresWorkflowStore, database: asyncpg.Connection
) -> None:
    """The server's own code for it, raised by a trigger: a disk that is really full needs rights on the machine."""
    await scenes.queued("a")
    await database.execute(
        "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
    )
    await database.execute(
        "CREATE TRIGGER disk_full BEFORE INSERT ON workflow_signal_deliveries EXECUTE FUNCTION disk_full()"
    )
    with pytest.raises(StoreUnavailableError, match=r"53100\); free space"):
        await store.deliver_signal(**SIGNAL)
    assert (await store.load_run(run_id="a")) is not None
    await database.execute("DROP TRIGGER disk_full ON workflow_signal_deliveries")
    assert (await store.deliver_signal(**SIGNAL)).kind == "buffered"
