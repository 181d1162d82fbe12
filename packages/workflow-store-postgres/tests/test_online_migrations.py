"""Migrations of tables that are in use: what expands, indexes that are built beside writers, and what contracts."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from workflow_migrations import quote_identifier
from workflow_runtime.errors import (
    ConfigurationError,
    SchemaAheadError,
    SchemaBehindError,
    StoreUnavailableError,
    WrongEnvironmentError,
)
from workflow_runtime.store import RunStatus
from workflow_store_postgres import PostgresWorkflowStore, get_migration_sql, get_migrations, online, schema
from workflow_test_support.workloads import odd_names

FIRST, EXPAND, FAILED, TERMINAL, CONTRACT = (migration.migration_id for migration in get_migrations())
EXPANDED = [FIRST, EXPAND]
ONLINE = [*EXPANDED, FAILED, TERMINAL]
EVERYTHING = [*ONLINE, CONTRACT]
RECORDS = "SELECT migration_id FROM workflow_schema_migrations ORDER BY migration_id"
INDEX = """
SELECT index.indexrelid, index.indisvalid
FROM pg_index AS index INNER JOIN pg_class AS relation ON relation.oid = index.indexrelid
WHERE relation.relname = $1
"""
RUN: dict[str, Any] = {"workflow_id": "w", "workflow_version": "1", "input": "1", "operation_id": "o", "now_ms": 1}


@pytest.fixture
async def admin(empty_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def store(empty_dsn: str) -> AsyncIterator[PostgresWorkflowStore]:
    async with PostgresWorkflowStore.connect(empty_dsn) as store:
        yield store


@pytest.fixture
async def old(admin: asyncpg.Connection) -> None:
    """The tables of the first release."""
    await admin.execute(get_migration_sql(to_id=FIRST, transaction=False))


async def recorded(admin: asyncpg.Connection) -> list[str]:
    return [row["migration_id"] for row in await admin.fetch(RECORDS)]


async def send_all(admin: asyncpg.Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        await admin.execute(statement)


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Real time is the subject: the server builds, waits and ends when it likes."""
    async with asyncio.timeout(30):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
        return found


@asynccontextmanager
async def open_report(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that has written to the head table and stays open: who builds an index of it waits for the end."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "monthly report"})
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("UPDATE workflow_event_locks SET crashes = crashes WHERE run_id = 'none'")
        yield connection
        await transaction.rollback()
    finally:
        await connection.close()


@pytest.mark.usefixtures("old")
async def test_tables_in_use_are_expanded_and_indexed_and_contracted_on_request(
    store: PostgresWorkflowStore, admin: asyncpg.Connection
) -> None:
    with pytest.raises(SchemaBehindError) as behind:
        await store.check_schema()
    assert behind.value.missing == (EXPAND,), "nothing else is needed"
    await store.ensure_schema(online=False)
    assert await recorded(admin) == EXPANDED
    await store.check_schema(deep=True)
    for _ in range(2):
        await store.ensure_schema()
        assert await recorded(admin) == ONLINE
        await store.check_schema(deep=True)
    await store.ensure_schema(contract=True)
    assert await recorded(admin) == EVERYTHING
    await store.check_schema(deep=True)
    assert await admin.fetch(INDEX, "workflow_event_locks_ended") == []


@pytest.mark.usefixtures("old")
async def test_contracting_builds_indexes_first(store: PostgresWorkflowStore, admin: asyncpg.Connection) -> None:
    """What contracts takes away what an index was built in place of."""
    await store.ensure_schema(contract=True, online=False)
    assert await recorded(admin) == EVERYTHING


@pytest.mark.usefixtures("old")
async def test_a_statement_that_was_prepared_before_goes_on(
    store: PostgresWorkflowStore, admin: asyncpg.Connection
) -> None:
    """A program looks at the table of the migrations before and after it gets another column."""
    for _ in range(3):
        with pytest.raises(SchemaBehindError):
            await store.check_schema()
    await admin.execute(get_migration_sql(ids=[EXPAND], transaction=False))
    await store.check_schema()


@pytest.mark.usefixtures("old")
async def test_old_tables_serve_what_the_indexes_are_for(
    store: PostgresWorkflowStore, admin: asyncpg.Connection
) -> None:
    """New code on tables whose indexes are not there yet."""
    await store.ensure_schema(online=False)
    for run_id in ("a", "b"):
        await store.create_run(run_id=run_id, **RUN)
        await store.terminate_run(run_id=run_id, reason="no longer wanted", now_ms=2)
    page = await store.list_runs(limit=5, statuses=[RunStatus.ABORTED])
    assert [run.run_id for run in page.runs] == ["a", "b"]
    assert await store.prune_runs(statuses=[RunStatus.ABORTED], finished_before_ms=3, limit=1) == 1


@pytest.mark.usefixtures("old")
async def test_names_and_schemas_of_the_users_own(admin: asyncpg.Connection, empty_dsn: str) -> None:
    """From the first release to the last, where names have quotes, upper case, 63 bytes and reserved words."""
    place, tables = odd_names.SCHEMA, odd_names.TABLES
    await admin.execute(f"CREATE SCHEMA {quote_identifier(place)}")
    await admin.execute(get_migration_sql(place, tables, to_id=FIRST, transaction=False))
    async with PostgresWorkflowStore.connect(empty_dsn, schema=place, tables=tables) as store:
        await store.ensure_schema(contract=True)
        await store.check_schema(deep=True)
        for migration in get_migrations(place, tables)[1:]:
            with pytest.raises(asyncpg.PostgresError):  # it is there, or it is recorded
                await send_all(admin, migration.statements)
        await store.check_schema(deep=True)
    here = "SELECT count(*) FROM workflow_schema_migrations"
    assert await admin.fetchval(here) == 1, "the set of the same database with default names is another one"


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("options", [{"max_size": 1}, {"min_size": 0, "statement_cache_size": 0}])
async def test_any_pool_builds_indexes(
    empty_dsn: str, admin: asyncpg.Connection, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks how far the building is needs a connection too, and does without."""
    monkeypatch.setattr(online, "_LOOK_S", 0.01)
    async with PostgresWorkflowStore.connect(empty_dsn, listen=False, **options) as store:
        async with open_report(empty_dsn):
            building = asyncio.create_task(store.ensure_schema(contract=True))
            await until(lambda: admin.fetch(INDEX, "workflow_event_locks_failed"))
            await asyncio.sleep(0.2)
            assert not building.done()
        await asyncio.wait_for(building, 30)
        await store.check_schema(deep=True)
    assert await recorded(admin) == EVERYTHING


@pytest.mark.usefixtures("old")
async def test_index_that_was_built_in_part_is_dropped_and_built(
    store: PostgresWorkflowStore, admin: asyncpg.Connection, empty_dsn: str
) -> None:
    await store.ensure_schema(online=False)
    async with open_report(empty_dsn):
        building = asyncio.create_task(admin.execute(get_migrations()[2].statements[1]))
        async with asyncio.timeout(30):
            other = await asyncpg.connect(empty_dsn)
            while not await other.fetch(INDEX, "workflow_event_locks_failed"):
                await asyncio.sleep(0.02)
            await other.execute("SELECT pg_terminate_backend($1)", admin.get_server_pid())
        with pytest.raises(asyncpg.PostgresError):
            await building
    [left] = await other.fetch(INDEX, "workflow_event_locks_failed")
    assert not left["indisvalid"]
    await store.check_schema(deep=True)  # it is not recorded, and nobody needs it
    await store.ensure_schema()
    [built] = await other.fetch(INDEX, "workflow_event_locks_failed")
    assert built["indisvalid"]
    assert built["indexrelid"] != left["indexrelid"]
    assert await recorded(other) == ONLINE
    await other.close()


@pytest.mark.usefixtures("old")
async def test_index_that_is_built_and_not_recorded_is_recorded(
    store: PostgresWorkflowStore, admin: asyncpg.Connection
) -> None:
    """The process died between the two."""
    await store.ensure_schema(online=False)
    await send_all(admin, get_migrations()[2].statements[:-1])
    [before] = await admin.fetch(INDEX, "workflow_event_locks_failed")
    await store.ensure_schema()
    [after] = await admin.fetch(INDEX, "workflow_event_locks_failed")
    assert after == before
    assert await recorded(admin) == ONLINE


@pytest.mark.usefixtures("old")
async def test_index_that_another_builds_is_not_waited_for(
    store: PostgresWorkflowStore, admin: asyncpg.Connection, empty_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that starts needs no index. Who contracts does, and hears for whom it waits."""
    caplog.set_level(logging.INFO, "workflow_store_postgres")
    await store.ensure_schema(online=False)
    async with open_report(empty_dsn):
        first = asyncio.create_task(store.ensure_schema())
        await until(lambda: admin.fetch(INDEX, "workflow_event_locks_failed"))
        async with PostgresWorkflowStore.connect(empty_dsn) as second:
            await asyncio.wait_for(second.ensure_schema(), 10)
            assert "whoever builds the index of 0002_online_failed: process" in caplog.text
            await second.check_schema()
            with pytest.raises(StoreUnavailableError, match=r"waited 0\.3 s for whoever builds the index.*process"):
                await second.ensure_schema(contract=True, lock_timeout=timedelta(seconds=0.3))
        assert not first.done()
        [index] = await admin.fetch(INDEX, "workflow_event_locks_failed")
        assert not index["indisvalid"], "it is still being built, by the first"
    await asyncio.wait_for(first, 30)
    assert await recorded(admin) == ONLINE


@pytest.mark.usefixtures("old")
async def test_index_that_nobody_builds_any_more_is_built(
    store: PostgresWorkflowStore, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that began at once have ended each other's building: neither may leave it to the other."""
    build, tries = online._Building.build, list[str]()

    async def overtaken_once(building: online._Building) -> Any:
        tries.append(building.index.name)
        if len(tries) == 1:
            raise StoreUnavailableError("deadlock") from asyncpg.DeadlockDetectedError()
        return await build(building)

    monkeypatch.setattr(online._Building, "build", overtaken_once)
    await store.ensure_schema()
    assert tries == [f"workflow_event_locks_{name}" for name in ("failed", "failed", "terminal")]
    assert await recorded(admin) == ONLINE


@pytest.mark.usefixtures("old")
async def test_who_builds_says_how_far_it_is_and_whom_it_waits_for(
    store: PostgresWorkflowStore,
    admin: asyncpg.Connection,
    empty_dsn: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(online, "_LOOK_S", 0.05)
    caplog.set_level(logging.INFO, "workflow_store_postgres")
    async with open_report(empty_dsn):
        building = asyncio.create_task(store.ensure_schema())

        async def is_told() -> bool:
            return "it waits for process" in caplog.text and "monthly report" in caplog.text

        await until(is_told)
    await asyncio.wait_for(building, 30)
    assert "index workflow_event_locks_failed: waiting for writers before build" in caplog.text


@pytest.mark.usefixtures("old")
async def test_build_that_takes_too_long_leaves_nothing_behind(
    store: PostgresWorkflowStore, admin: asyncpg.Connection, empty_dsn: str
) -> None:
    """Its half would cost every writer, and help nobody."""
    await store.ensure_schema(online=False)
    reader = await asyncpg.connect(empty_dsn)
    try:
        transaction = reader.transaction(isolation="repeatable_read")
        await transaction.start()
        await reader.fetchval("SELECT 1")  # who builds an index waits for old snapshots; who drops it does not
        with pytest.raises(StoreUnavailableError, match="did not answer in time"):
            await store.ensure_schema(migration_timeout=timedelta(seconds=1))
        assert await admin.fetch(INDEX, "workflow_event_locks_failed") == []
        await transaction.rollback()
    finally:
        await reader.close()
    await store.ensure_schema()
    assert await recorded(admin) == ONLINE


@pytest.mark.usefixtures("old")
async def test_what_could_not_be_dropped_is_dropped_next_time(
    store: PostgresWorkflowStore, admin: asyncpg.Connection, empty_dsn: str
) -> None:
    await store.ensure_schema(online=False)
    async with open_report(empty_dsn):
        with pytest.raises(StoreUnavailableError, match="did not answer in time"):
            await store.ensure_schema(migration_timeout=timedelta(seconds=1))
        [left] = await admin.fetch(INDEX, "workflow_event_locks_failed")
        assert not left["indisvalid"], "the report is in the way of dropping it, too"
    await store.ensure_schema()
    assert await recorded(admin) == ONLINE
    await store.check_schema(deep=True)


MIGRATE = """
import asyncio, sys
from datetime import timedelta
from workflow_runtime.store import RunStatus
from workflow_store_postgres import PostgresWorkflowStore

async def main():
    async with PostgresWorkflowStore.connect(sys.argv[1]) as store:
        sys.stdin.readline()
        await store.ensure_schema(contract=sys.argv[2] == "contract")
        await store.check_schema()

asyncio.run(main())
"""


def migrating_process(dsn: str, kind: str = "online") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", MIGRATE, dsn, kind]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("old")
async def test_processes_at_once_apply_each_once(admin: asyncpg.Connection, empty_dsn: str) -> None:
    rounds = int(os.environ.get("WORKFLOW_MIGRATION_ROUNDS", "1"))
    processes = 16 if rounds > 1 else 4
    for number in range(rounds):
        if number:
            await admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            await admin.execute(get_migration_sql(to_id=FIRST, transaction=False))
        started = [migrating_process(empty_dsn, "contract") for _ in range(processes)]
        try:
            outcomes = await asyncio.gather(*(asyncio.to_thread(p.communicate, "go\n", 120) for p in started))
        finally:
            for process in started:
                process.kill()
                process.wait()
        assert [(p.returncode, errors) for p, (_, errors) in zip(started, outcomes, strict=True)] == [
            (0, "")
        ] * processes
        assert await recorded(admin) == EVERYTHING
        for name in ("workflow_event_locks_failed", "workflow_event_locks_terminal"):
            [index] = await admin.fetch(INDEX, name)
            assert index["indisvalid"]


STOP_BEFORE = """
import asyncio, os, signal, sys
from workflow_runtime.store import RunStatus
from workflow_store_postgres import PostgresWorkflowStore
from workflow_store_postgres.lent_connection import LentConnection

sent = 0
stop_at = int(sys.argv[2])

def counted(send):
    async def send_or_die(self, *arguments, **options):
        global sent
        sent += 1
        if sent == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return await send(self, *arguments, **options)
    return send_or_die

for name in ("execute", "fetch", "fetchval", "fetchrow", "begin", "commit"):
    setattr(LentConnection, name, counted(getattr(LentConnection, name)))

async def main():
    async with PostgresWorkflowStore.connect(sys.argv[1]) as store:
        await store.ensure_schema(contract=True)

asyncio.run(main())
"""


async def test_process_that_is_killed_at_any_statement_leaves_what_the_next_one_finishes(
    admin: asyncpg.Connection, empty_dsn: str
) -> None:
    """From the tables of the first release through each phase: before every call to the server, one process dies."""
    every = 1 if os.environ.get("WORKFLOW_CRASH_POINTS") == "all" else 9
    killed, number = 0, 1
    while True:
        await admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await admin.execute(get_migration_sql(to_id=FIRST, transaction=False))
        command = [sys.executable, "-c", STOP_BEFORE, empty_dsn, str(number)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        async with PostgresWorkflowStore.connect(empty_dsn) as store:
            await store.ensure_schema(contract=True)
            await store.check_schema(deep=True)
        assert await recorded(admin) == EVERYTHING
        number += every
    assert number > 60, "one process got through all of it"
    assert killed > 60 // every


# The environment.


async def test_new_tables_say_which_environment_they_belong_to(empty_dsn: str, admin: asyncpg.Connection) -> None:
    async with PostgresWorkflowStore.connect(empty_dsn, environment="production") as store:
        await store.ensure_schema()
        await store.ensure_schema()
        await store.check_schema()
    for other in (None, "staging"):
        async with PostgresWorkflowStore.connect(empty_dsn, environment=other) as store:
            for call in (store.check_schema, store.ensure_schema):
                with pytest.raises(WrongEnvironmentError, match=r"schema 'public'.*'production'") as refused:
                    await call()
                assert (refused.value.recorded, refused.value.expected) == ("production", other)
    await admin.execute("UPDATE workflow_schema_migrations SET environment = 'staging' WHERE migration_id LIKE '0000%'")
    async with PostgresWorkflowStore.connect(empty_dsn, environment="production") as store:
        with pytest.raises(WrongEnvironmentError, match="'staging'"):
            await store.check_schema()
    await admin.execute("UPDATE workflow_schema_migrations SET environment = 'staging'")
    async with PostgresWorkflowStore.connect(empty_dsn, environment="staging") as store:
        await store.check_schema()


@pytest.mark.usefixtures("old")
async def test_tables_in_use_are_not_marked_by_themselves(
    empty_dsn: str, admin: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Programs that do not say where they belong would be refused in the middle of a deploy."""
    async with PostgresWorkflowStore.connect(empty_dsn, environment="production") as store:
        await store.ensure_schema(contract=True)
        await store.check_schema()
        assert 'mark them with UPDATE "workflow_schema_migrations" SET environment' in caplog.text
        caplog.clear()
        await admin.execute("UPDATE workflow_schema_migrations SET environment = 'production'")
        await store.check_schema()
        assert not caplog.records


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x ", 5])
async def test_environment_that_is_no_name_is_refused(empty_dsn: str, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="environment"):
        await PostgresWorkflowStore.connect(empty_dsn, environment=name)


async def test_contracted_tables_refuse_the_release_that_needs_what_is_gone(
    store: PostgresWorkflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.ensure_schema()
    monkeypatch.setattr(schema, "__version__", "0.1.0")
    first = get_migrations()[:1]
    monkeypatch.setattr(schema, "get_migrations", lambda: first)
    with pytest.raises(SchemaAheadError, match=r"upgrade workflow-store-postgres to 0\.2\.0 or later; this is 0\.1\.0"):
        await store.check_schema()
