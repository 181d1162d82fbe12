"""The migration files are the schema; `ensure_schema` and `check_schema` tell whose tables they meet."""

import asyncio
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from workflow_migrations import (
    DEFAULT_TABLES,
    Migration,
    TableNames,
    checksum,
    quote_identifier,
    render_migrations,
    split_statements,
)
from workflow_runtime.errors import (
    ConfigurationError,
    ForeignTablesError,
    SchemaAheadError,
    SchemaBehindError,
    SchemaDamagedError,
    SchemaError,
    SchemaHalfAppliedError,
    SchemaMissingError,
    SchemaUnrecordedError,
    StoreOperationError,
    StoreUnavailableError,
)
from workflow_store_postgres import PostgresWorkflowStore, get_migration_sql, get_migrations, schema
from workflow_test_support.servers.postgres_server import program
from workflow_test_support.workloads import tanstack

SHIPPED = [migration.migration_id for migration in get_migrations()]

CATALOGUE = """
SELECT
    relation.relname AS relation,
    relation.relkind::text AS kind,
    relation.reloptions AS options,
    attribute.attnum AS number,
    attribute.attname AS name,
    format_type(attribute.atttypid, attribute.atttypmod) AS type,
    attribute.attnotnull AS required,
    attribute.attcollation AS collation,
    CASE WHEN relation.relkind = 'i' THEN pg_get_indexdef(relation.oid) END AS index
FROM pg_class AS relation
INNER JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid AND attribute.attnum > 0
WHERE relation.relnamespace = 'public'::regnamespace
ORDER BY relation.relname, attribute.attnum
"""
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
RECORDS = "SELECT migration_id, package_name, checksum FROM workflow_schema_migrations ORDER BY migration_id"

TANSTACK = tanstack.script("postgres")

# What a later release might add.
NEXT = Migration(
    migration_id="0005_expand_add_note",
    number=5,
    sql="""
BEGIN;
ALTER TABLE workflow_runs ADD COLUMN note text;
INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, checksum, applied_at)
VALUES ('0005_expand_add_note', 'workflow-store-postgres', '0.3.0', NULL, 1);
COMMIT;
""",
    checksum=checksum("0005"),
)

RUN: dict[str, Any] = {
    "run_id": "a",
    "workflow_id": "w",
    "workflow_version": "1",
    "input": "{}",
    "operation_id": "o",
    "now_ms": 1,
}

OTHER_NAMES = {
    "schema_migrations": 'odd "migrations"',
    "runs": "Runs",
    "run_states": "select",
    "event_locks": "a" * 63,
    "events": "é" * 31,
    "signal_deliveries": "workflow_events",
}


@pytest.fixture
async def empty(empty_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A plain connection to a database without our tables."""
    connection = await asyncpg.connect(empty_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def store(empty_dsn: str) -> AsyncIterator[PostgresWorkflowStore]:
    async with PostgresWorkflowStore.connect(empty_dsn) as store:
        yield store


# What that release no longer uses.
LAST = Migration(
    migration_id="0006_contract_drop_version",
    number=6,
    sql="""
BEGIN;
ALTER TABLE workflow_runs DROP COLUMN workflow_version;
INSERT INTO workflow_schema_migrations
    (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES ('0006_contract_drop_version', 'workflow-store-postgres', '0.3.0', '0.3.0', NULL, 1);
COMMIT;
""",
    checksum=checksum("0006"),
)


@pytest.fixture
def next_release(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def upgrade() -> None:
        migrations = (*get_migrations(), NEXT)
        monkeypatch.setattr(schema, "get_migrations", lambda: migrations)

    return upgrade


def run_program(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


async def read(connection: asyncpg.Connection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.fetch(sql)]


async def works(store: PostgresWorkflowStore) -> bool:
    """Take a run through its life, so that every table is used."""
    await store.create_run(**RUN)
    await store.deliver_signal(run_id="a", signal_id="s", name="go", payload=None, now_ms=1)
    (claim,) = (await store.claim_pending_runs(owner="w", lease_ms=5, now_ms=5, limit=1)).claims
    await store.schedule_timer(
        run_id="a", lease_token=claim.lease.token, operation_id="t", timer_id="t", fire_at_ms=9, now_ms=5
    )
    await store.get_run_timeline(run_id="a")
    await store.claim_due_schedule_buckets(owner="w", lease_ms=5, now_ms=5, limit=1)
    return (await store.delete_run(run_id="a", now_ms=5, force=True)).kind == "deleted"


async def test_ensure_schema_may_be_repeated(store: PostgresWorkflowStore, empty: asyncpg.Connection) -> None:
    await store.ensure_schema()
    before = await read(empty, CATALOGUE)
    await store.ensure_schema()
    await store.check_schema()
    assert await read(empty, CATALOGUE) == before
    recorded = [(one.migration_id, "workflow-store-postgres", one.checksum) for one in get_migrations()]
    assert await read(empty, RECORDS) == recorded


async def test_file_as_it_is_gives_the_same_tables(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, dsn: str
) -> None:
    """The database of `dsn` was made by the script."""
    await store.ensure_schema()
    by_hand = await asyncpg.connect(dsn)
    await by_hand.execute("DROP TABLE business")  # the tests' own
    assert await read(by_hand, CATALOGUE) == await read(empty, CATALOGUE)
    assert await read(by_hand, RECORDS) == [(one, "workflow-store-postgres", None) for one in SHIPPED]
    await by_hand.close()
    async with PostgresWorkflowStore.connect(dsn) as opened:
        await opened.check_schema()
        await opened.ensure_schema()


async def test_psql_runs_the_shipped_file_and_leaves_nothing_when_it_fails(
    empty_dsn: str, empty: asyncpg.Connection, store: PostgresWorkflowStore
) -> None:
    with resources.as_file(resources.files("workflow_store_postgres") / "migrations") as folder:
        psql: list[str | Path] = [program("psql"), "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", empty_dsn]
        for migration_id in SHIPPED:
            psql += ["-f", folder / f"{migration_id}.sql"]
        await empty.execute("CREATE TABLE workflow_timers (id integer)")
        done = await asyncio.to_thread(run_program, psql)
        assert done.returncode
        assert "already exists" in done.stderr
        assert [
            name for (name,) in await read(empty, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ] == ["workflow_timers"]
        await empty.execute("DROP TABLE workflow_timers")
        done = await asyncio.to_thread(run_program, psql)
    assert (done.returncode, done.stderr.count("ERROR")) == (0, 0), done.stderr
    await store.check_schema(deep=True)
    assert await works(store)


def test_scripts_come_from_the_shipped_file() -> None:
    folder = resources.files("workflow_store_postgres").joinpath("migrations")
    for migration_id in SHIPPED:
        assert get_migration_sql(ids=[migration_id]) == folder.joinpath(f"{migration_id}.sql").read_text(
            encoding="utf-8"
        )
    renamed = get_migration_sql("app", {"runs": "audit_runs"})
    assert 'CREATE INDEX "audit_runs_created" ON "app"."audit_runs" (created_at, run_id)' in renamed


def test_scripts_for_tools_are_chosen_by_id() -> None:
    migration = get_migrations("app", {"runs": "audit_runs"})[0]
    assert get_migration_sql("app", {"runs": "audit_runs"}, ids=["0000_workflow_store"]) == migration.sql
    script = get_migration_sql("app", {"runs": "audit_runs"}, to_id="0000_workflow_store", transaction=False)
    assert split_statements(script)[1:] == migration.statements[1:]
    assert split_statements(script)[0].endswith(migration.statements[0])
    assert migration.sql.count("BEGIN;") == 1
    assert not {"BEGIN", "COMMIT"} & set(script.replace(";", "").split())
    with pytest.raises(ConfigurationError, match="there is no migration '0009_x'; there are 0000_workflow_store"):
        get_migration_sql(ids=["0009_x"])


async def test_store_renders_its_own_names(empty_dsn: str) -> None:
    async with PostgresWorkflowStore.connect(empty_dsn, schema="app", tables={"runs": "audit_runs"}) as store:
        assert store.get_migration_sql() == get_migration_sql("app", {"runs": "audit_runs"})
        assert store.get_migration_sql("other", {}) == get_migration_sql("other")
        assert store.get_migrations() == get_migrations()


@pytest.mark.parametrize("place", [None, "app", 'Odd "schema"; --', "s" * 63])
async def test_other_names_and_schemas_work(empty_dsn: str, empty: asyncpg.Connection, place: str | None) -> None:
    async with PostgresWorkflowStore.connect(empty_dsn, schema=place, tables=OTHER_NAMES) as store:
        await store.ensure_schema()
        await store.ensure_schema()
        await store.check_schema()
        assert await works(store)
    names = await read(empty, f"SELECT tablename FROM pg_tables WHERE schemaname = '{place or 'public'}'")
    assert {name for (name,) in names} == {*(DEFAULT_TABLES.by_key() | OTHER_NAMES).values()}


async def test_two_stores_share_a_database(empty_dsn: str) -> None:
    async with (
        PostgresWorkflowStore.connect(empty_dsn) as here,
        PostgresWorkflowStore.connect(empty_dsn, schema="there") as there,
        PostgresWorkflowStore.connect(empty_dsn, tables={k: f"x_{v}" for k, v in DEFAULT_TABLES.by_key().items()}) as x,
    ):
        for store in (here, there, x):
            await store.ensure_schema()
        await here.create_run(**RUN)
        assert await there.load_run(run_id="a") is None
        assert await x.load_run(run_id="a") is None


async def test_search_path_does_not_matter_when_the_schema_is_given(empty_dsn: str, empty: asyncpg.Connection) -> None:
    await empty.execute("CREATE SCHEMA decoy")
    await empty.execute("SET search_path = decoy")
    await empty.execute(TANSTACK)
    settings = {"search_path": "decoy"}
    async with PostgresWorkflowStore.connect(empty_dsn, schema="app", server_settings=settings) as store:
        await store.ensure_schema()
        await store.check_schema()
        assert await works(store)


TIMERS = """DROP TABLE workflow_timers;
CREATE TABLE workflow_timers (fire_at bigint NOT NULL, run_id text, timer_id text, PRIMARY KEY (run_id, timer_id));
"""
LATER = replace(NEXT, sql=NEXT.sql.replace("INSERT", TIMERS + "INSERT", 1), checksum=checksum("later"))


async def test_tables_are_found_along_the_search_path(
    empty_dsn: str, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the path leads to tables, no second set is made before them, and an upgrade finds them too."""
    await empty.execute("CREATE SCHEMA first; CREATE SCHEMA second")
    async with PostgresWorkflowStore.connect(empty_dsn, schema="second") as store:
        await store.ensure_schema()
    async with PostgresWorkflowStore.connect(empty_dsn, server_settings={"search_path": "first, second"}) as store:
        await store.check_schema()
        await store.ensure_schema()
        assert await works(store)
        migrations = (*get_migrations(), LATER)
        monkeypatch.setattr(schema, "get_migrations", lambda: migrations)
        with pytest.raises(SchemaBehindError, match="looked in schema 'second'"):
            await store.check_schema()
        await store.ensure_schema()
        await store.check_schema()
    places = "SELECT DISTINCT schemaname::text FROM pg_tables WHERE tablename LIKE 'workflow%'"
    assert await read(empty, places) == [("second",)]


async def test_table_of_the_apps_that_hides_ours_is_refused(empty_dsn: str, empty: asyncpg.Connection) -> None:
    """The store's statements would meet the first table of a name: half of a set here and half of it there."""
    await empty.execute("CREATE SCHEMA first; CREATE TABLE first.workflow_timers (id int); CREATE SCHEMA second")
    async with PostgresWorkflowStore.connect(empty_dsn, schema="second") as store:
        await store.ensure_schema()
    async with PostgresWorkflowStore.connect(empty_dsn, server_settings={"search_path": "first, second"}) as store:
        for call in (store.check_schema, store.ensure_schema):
            with pytest.raises(ForeignTablesError, match=r"'workflow_timers'.*looked in schema 'first'"):
                await call()


async def test_messages_say_where_was_looked(empty_dsn: str, empty: asyncpg.Connection) -> None:
    await empty.execute("CREATE SCHEMA here")
    async with PostgresWorkflowStore.connect(empty_dsn, server_settings={"search_path": "nowhere, here"}) as store:
        with pytest.raises(SchemaMissingError, match=r"looked in schema 'here'; run `workflow-store-postgres migrate`"):
            await store.check_schema()
    async with PostgresWorkflowStore.connect(empty_dsn, schema="there") as store:
        with pytest.raises(SchemaMissingError, match="looked in schema 'there'"):
            await store.check_schema()


async def test_search_path_decides_when_no_schema_is_given(empty_dsn: str, empty: asyncpg.Connection) -> None:
    await empty.execute("CREATE SCHEMA app")
    async with PostgresWorkflowStore.connect(empty_dsn, server_settings={"search_path": "app"}) as store:
        await store.ensure_schema()
        assert await works(store)
    assert await empty.fetchval("SELECT to_regclass('app.workflow_runs')") is not None
    async with PostgresWorkflowStore.connect(empty_dsn, server_settings={"search_path": "nowhere"}) as store:
        with pytest.raises(ConfigurationError, match="search_path"):
            await store.ensure_schema()


@pytest.mark.parametrize("name", ["", "a\0b", "s" * 64, "\ud800", 5])
async def test_unusable_schema_is_refused(empty_dsn: str, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        await PostgresWorkflowStore.connect(empty_dsn, schema=name)
    with pytest.raises(ConfigurationError, match="tables"):
        await PostgresWorkflowStore.connect(empty_dsn, tables={"runs": "x" * 64})


async def test_processes_at_once_apply_it_once(empty_dsn: str, empty: asyncpg.Connection) -> None:
    code = (
        "import asyncio, sys\n"
        "from workflow_store_postgres import PostgresWorkflowStore\n"
        "async def main():\n"
        "    async with PostgresWorkflowStore.connect(sys.argv[1]) as store:\n"
        "        sys.stdin.readline()\n"
        "        await asyncio.gather(*(store.ensure_schema() for _ in range(3)))\n"
        "        await store.check_schema()\n"
        "asyncio.run(main())\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_dsn], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        outcomes = await asyncio.gather(*(asyncio.to_thread(p.communicate, "go\n", 60) for p in processes))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [(process.returncode, errors) for process, (_, errors) in zip(processes, outcomes, strict=True)] == [
        (0, "")
    ] * 4
    assert [row[0] for row in await read(empty, RECORDS)] == SHIPPED


async def test_who_waits_too_long_for_a_migration_is_told_for_whom(
    empty_dsn: str, store: PostgresWorkflowStore
) -> None:
    async with PostgresWorkflowStore.connect(empty_dsn, server_settings={"application_name": "the deploy"}) as other:
        async with other._sender.transaction() as connection:
            key = await schema.SchemaInTransaction(other._sender, connection, None).lock_key()
            assert await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", key)
            with pytest.raises(
                StoreUnavailableError, match=r"waited 0\.2 s for another migration, of process \d+ \(the dep"
            ):
                await store.ensure_schema(lock_timeout=timedelta(milliseconds=200))
            waiting = asyncio.create_task(store.ensure_schema())
            await asyncio.sleep(0.1)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 20)


async def test_migration_behind_an_open_report_lets_the_others_go_on(
    empty_dsn: str,
    store: PostgresWorkflowStore,
    empty: asyncpg.Connection,
    next_release: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It waits for a table in short tries, says for whom, and is done when the report is. Real time is the subject."""
    await store.ensure_schema()
    report = await asyncpg.connect(empty_dsn, server_settings={"application_name": "the report"})
    try:
        transaction = report.transaction()
        await transaction.start()
        await report.fetch("SELECT 1 FROM workflow_runs")
        next_release()
        with pytest.raises(StoreUnavailableError, match=r"waited 1 s for whoever uses.*\(the report, .*, idle in tran"):
            await store.ensure_schema(lock_timeout=timedelta(seconds=1))
        caplog.clear()
        migrating = asyncio.create_task(store.ensure_schema())
        passing = asyncio.create_task(short_transactions(empty_dsn))
        longest = 0.0
        for number in range(30):
            begun = time.monotonic()
            await store.create_run(**(RUN | {"run_id": f"run-{number}"}))
            longest = max(longest, time.monotonic() - begun)
            await asyncio.sleep(0.1)
        assert longest < 2, "a migration that waits for a report holds up everybody else"
        assert not migrating.done()
        assert [row[0] for row in await read(empty, RECORDS)] == SHIPPED
        passing.cancel()
        await transaction.rollback()
        await asyncio.wait_for(migrating, 20)
    finally:
        await report.close()
    assert len(await read(empty, RECORDS)) == len(SHIPPED) + 1
    [told] = [record.getMessage() for record in caplog.records if "a migration waits for" in record.getMessage()]
    assert "the report" in told
    assert "passing by" not in told, "who is done in a moment holds nobody up"


async def short_transactions(dsn: str) -> None:
    """Use the table for a tenth of a second, again and again."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "passing by"})
    try:
        while True:
            async with connection.transaction():
                await connection.fetch("SELECT 1 FROM workflow_runs")
                await asyncio.sleep(0.1)
    finally:
        await connection.close(timeout=5)


async def test_migration_that_fails_is_reported_and_leaves_nothing(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, next_release: Callable[[], None]
) -> None:
    await store.ensure_schema()
    next_release()
    await empty.execute("ALTER TABLE workflow_runs ADD COLUMN note integer")
    with pytest.raises(StoreOperationError, match="already exists"):
        await store.ensure_schema()
    assert [row[0] for row in await read(empty, RECORDS)] == SHIPPED


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_database_that_cannot_store_every_id_is_refused_at_the_start(
    empty_dsn: str, empty: asyncpg.Connection, encoding: str
) -> None:
    name = f"workflow_test_{encoding.lower()}_{os.getpid()}"
    await empty.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        dsn = empty_dsn.rpartition("/")[0] + f"/{name}"
        async with PostgresWorkflowStore.connect(dsn) as store:
            for call in (store.check_schema, store.ensure_schema):
                with pytest.raises(SchemaError, match=f"stores text as {encoding}.*ENCODING 'UTF8'"):
                    await call()
    finally:
        await empty.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_missing_tables(store: PostgresWorkflowStore) -> None:
    with pytest.raises(SchemaMissingError, match="ensure_schema"):
        await store.check_schema()


async def test_older_database_is_behind_until_it_is_upgraded(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, next_release: Callable[[], None]
) -> None:
    await store.ensure_schema()
    next_release()
    with pytest.raises(SchemaBehindError, match="ensure_schema") as refused:
        await store.check_schema()
    assert refused.value.missing == ("0005_expand_add_note",)
    await store.ensure_schema()
    await store.check_schema()
    assert (await read(empty, RECORDS))[-1] == ("0005_expand_add_note", "workflow-store-postgres", NEXT.checksum)
    assert await works(store), "statements prepared before the change still work"


async def test_record_of_a_file_that_was_applied_by_hand_stays_without_a_checksum(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, next_release: Callable[[], None]
) -> None:
    """Nobody took it, and that of the next migration is another one."""
    await empty.execute(get_migration_sql(transaction=False))
    next_release()
    await store.ensure_schema()
    await store.check_schema()
    assert [row[2] for row in await read(empty, RECORDS)] == [*(None for _ in SHIPPED), NEXT.checksum]


def release_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    migrations = (*get_migrations(), NEXT, LAST)
    monkeypatch.setattr(schema, "get_migrations", lambda: migrations)


async def test_tables_in_use_are_contracted_only_when_that_is_asked_for(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs of the release before may still run: they need what a contract migration takes away."""
    await store.ensure_schema()
    release_with_both(monkeypatch)
    for _ in range(2):
        await store.ensure_schema()
        await store.check_schema()
        assert [row[0] for row in await read(empty, RECORDS)] == [*SHIPPED, NEXT.migration_id]
    await store.ensure_schema(contract=True)
    await store.check_schema()
    assert [row[2] for row in await read(empty, RECORDS)][-2:] == [NEXT.checksum, LAST.checksum]


async def test_new_tables_get_every_migration(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_with_both(monkeypatch)
    await store.ensure_schema()
    assert [row[0] for row in await read(empty, RECORDS)][-2:] == [NEXT.migration_id, LAST.migration_id]


async def test_tables_that_another_release_makes_meanwhile_are_in_use(
    empty_dsn: str,
    store: PostgresWorkflowStore,
    empty: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Between the look and the lock an earlier program creates the tables, and may run on them."""
    of_the_other = get_migration_sql(transaction=False)
    release_with_both(monkeypatch)
    async with PostgresWorkflowStore.connect(empty_dsn) as other, other._sender.transaction() as connection:
        key = await schema.SchemaInTransaction(other._sender, connection, None).lock_key()
        assert await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", key)
        caplog.set_level(logging.INFO, "workflow_store_postgres")
        waiting = asyncio.create_task(store.ensure_schema())
        async with asyncio.timeout(20):  # until it has looked and waits: real time is the subject
            while "a migration waits for another migration" not in caplog.text:
                await asyncio.sleep(0.01)
        await connection.execute(of_the_other)
    await asyncio.wait_for(waiting, 20)
    assert [row[0] for row in await read(empty, RECORDS)] == [*SHIPPED, NEXT.migration_id]


async def test_contracted_tables_refuse_the_release_before(
    store: PostgresWorkflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        release_with_both(patch)
        await store.ensure_schema()
    with pytest.raises(SchemaAheadError, match="upgrade workflow-store-postgres") as refused:
        await store.check_schema()
    assert refused.value.unknown == (NEXT.migration_id, LAST.migration_id)


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
async def test_newer_database_is_ahead(store: PostgresWorkflowStore, empty: asyncpg.Connection, call: str) -> None:
    await store.ensure_schema()
    await empty.execute(NEXT.sql)
    with pytest.raises(SchemaAheadError, match="upgrade workflow-store-postgres") as refused:
        await getattr(store, call)()
    assert refused.value.unknown == ("0005_expand_add_note",)


AS_OF = "UPDATE workflow_schema_migrations SET oldest_code = '{}' WHERE migration_id = '0005_expand_add_note'"


@pytest.mark.parametrize("oldest_code", ["0.2.0", "0.2", "0.1.9"])
async def test_older_code_runs_on_a_newer_database_that_allows_it(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, oldest_code: str
) -> None:
    """A rolling deploy migrates first, and a rollback does not migrate back: the old program starts all the same."""
    await store.ensure_schema()
    await empty.execute(NEXT.sql + AS_OF.format(oldest_code))
    await store.check_schema()
    await store.ensure_schema()
    assert await works(store)


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
@pytest.mark.parametrize("oldest_code", ["0.2.1", "0.3.0", "1", "0.10"])
async def test_code_that_is_too_old_hears_what_it_needs(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, oldest_code: str, call: str
) -> None:
    await store.ensure_schema()
    await empty.execute(NEXT.sql + AS_OF.format(oldest_code))
    needed = f"upgrade workflow-store-postgres to {oldest_code} or later; this is 0.2.0"
    with pytest.raises(SchemaAheadError, match=re.escape(needed)):
        await getattr(store, call)()


async def test_file_says_what_it_records(store: PostgresWorkflowStore, empty: asyncpg.Connection) -> None:
    await store.ensure_schema()
    said = [one.oldest_code for one in get_migrations()]
    assert said == ["0.1.0", "0.1.0", "0.1.0", "0.1.0", "0.2.0"]
    oldest = await read(empty, "SELECT oldest_code FROM workflow_schema_migrations ORDER BY migration_id")
    assert oldest == [(one,) for one in said]


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
async def test_edited_migration_is_refused(store: PostgresWorkflowStore, empty: asyncpg.Connection, call: str) -> None:
    await store.ensure_schema()
    await empty.execute("UPDATE workflow_schema_migrations SET checksum = 'another'")
    with pytest.raises(SchemaError, match="0000_workflow_store was applied with another text"):
        await getattr(store, call)()


STATEMENTS = get_migrations()[0].statements
RECORD_TABLE = STATEMENTS[0]


async def test_migration_that_stopped_in_the_middle_is_told_of(
    store: PostgresWorkflowStore, empty: asyncpg.Connection
) -> None:
    """psql without `--single-transaction`, on a file whose BEGIN was taken out. What the error says mends it."""
    for done in range(1, len(STATEMENTS)):
        for statement in STATEMENTS[:done]:
            await empty.execute(statement)
        before = await read(empty, CATALOGUE)
        with pytest.raises(SchemaHalfAppliedError, match="Drop them, unless something has used them") as refused:
            await store.check_schema()
        with pytest.raises(SchemaHalfAppliedError):
            await store.ensure_schema()
        assert await read(empty, CATALOGUE) == before
        await empty.execute(f"DROP TABLE {', '.join(map(quote_identifier, refused.value.tables))}")
    await store.ensure_schema()
    await store.check_schema()


# A later migration that a tool without a transaction left in the middle.
SEVERAL = Migration(
    migration_id="0005_expand_several",
    number=5,
    sql="""
BEGIN;
ALTER TABLE workflow_runs ADD COLUMN note text;
UPDATE workflow_runs SET note = 'none' WHERE note IS NULL;
CREATE INDEX workflow_runs_note ON workflow_runs (note);
DROP INDEX workflow_runs_created;
INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, checksum, applied_at)
VALUES ('0005_expand_several', 'workflow-store-postgres', '0.3.0', NULL, 1);
COMMIT;
""",
    checksum=checksum("0005"),
)
DONE = {1: 1, 2: 1, 3: 3, 4: 4}
"""Statements of it that are known to be done, by how many were sent: an UPDATE leaves no trace that we know."""


@pytest.mark.parametrize(("place", "names"), [("public", {}), ('Odd "schema"', OTHER_NAMES)], ids=["names", "odd"])
@pytest.mark.parametrize("sent", DONE)
async def test_later_migration_that_stopped_in_the_middle_says_what_is_left(
    empty_dsn: str,
    empty: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    names: dict[str, str],
    sent: int,
) -> None:
    (rendered,) = render_migrations([SEVERAL], TableNames.of(names), schema=place)
    async with PostgresWorkflowStore.connect(empty_dsn, schema=None if not names else place, tables=names) as store:
        await store.ensure_schema()
        migrations = (*get_migrations(), SEVERAL)
        monkeypatch.setattr(schema, "get_migrations", lambda: migrations)
        await empty.execute(";".join(rendered.statements[:sent]))
        before = await read(empty, CATALOGUE)
        with pytest.raises(SchemaUnrecordedError, match="0005_expand_several") as told:
            await store.ensure_schema()
        assert await read(empty, CATALOGUE) == before
        assert told.value.left == rendered.statements[DONE[sent] :]
        await empty.execute(str(told.value).partition("\n\n")[2])
        await store.ensure_schema()
        await store.check_schema(deep=True)


@pytest.mark.parametrize("number", [1, 4], ids=["expand", "contract"])
async def test_shipped_migration_whose_record_is_missing_says_so(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, number: int
) -> None:
    """An index that was built online is recorded: see test_online_migrations."""
    await empty.execute(get_migration_sql(to_id=SHIPPED[number - 1], transaction=False))
    await empty.execute(";".join(get_migrations()[number].statements[:-1]))
    with pytest.raises(SchemaUnrecordedError, match="only its record is missing") as told:
        await store.ensure_schema(contract=True)
    assert told.value.left == get_migrations("public")[number].statements[-1:]
    await empty.execute(told.value.left[0])
    await store.ensure_schema(contract=True)
    await store.check_schema(deep=True)
    assert [row[0] for row in await read(empty, RECORDS)] == SHIPPED


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
@pytest.mark.parametrize(
    ("script", "table"),
    [
        (TANSTACK, "workflow_schema_migrations"),
        ("CREATE TABLE workflow_timers (id integer)", "workflow_timers"),
        ("CREATE VIEW workflow_runs AS SELECT 1", "workflow_runs"),
        ("CREATE SEQUENCE workflow_runs", "workflow_runs"),
        ("CREATE TABLE workflow_schema_migrations (id integer)", "workflow_schema_migrations"),
        (
            get_migration_sql(transaction=False)
            + "UPDATE workflow_schema_migrations SET package_name = 'workflow-store-other'",
            "workflow_schema_migrations",
        ),
        (f"{RECORD_TABLE}; CREATE TABLE workflow_timers (id integer)", "workflow_timers"),
        (f"{RECORD_TABLE}; CREATE VIEW workflow_runs AS SELECT 1", "workflow_runs"),
        (f"{RECORD_TABLE}; CREATE SEQUENCE workflow_runs", "workflow_runs"),
    ],
)
async def test_tables_of_others_are_refused_and_not_touched(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, script: str, table: str, call: str
) -> None:
    await empty.execute(script)
    before = await read(empty, CATALOGUE)
    with pytest.raises(ForeignTablesError) as refused:
        await getattr(store, call)()
    assert refused.value.table == table
    assert await read(empty, CATALOGUE) == before


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
async def test_tables_of_tanstack_are_refused_with_every_row_left_as_it_was(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, call: str
) -> None:
    """All nine have our names. They are refused too while the one that says whose they are, and more, are missing."""
    await empty.execute(TANSTACK)

    async def everything() -> tuple[list[tuple[Any, ...]], list[list[tuple[Any, ...]]]]:
        rows = [await read(empty, f"SELECT * FROM {table}") for (table,) in await read(empty, TABLES)]
        return await read(empty, CATALOGUE), rows

    for table in [None, *tanstack.COLUMNS]:
        if table is not None:
            await empty.execute(f"DROP TABLE {table}")
        before = await everything()
        assert all(before[1]), "each has a row"
        if table == [*tanstack.COLUMNS][-1]:
            break
        with pytest.raises(ForeignTablesError) as refused:
            await getattr(store, call)()
        assert refused.value.table in tanstack.COLUMNS
        assert await everything() == before


async def test_role_that_may_not_create_passes_when_there_is_nothing_to_do(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE ROLE app_worker")
    try:
        await connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app_worker")
        async with PostgresWorkflowStore.connect(dsn, server_settings={"role": "app_worker"}) as store:
            await store.ensure_schema()
            await store.check_schema()
            assert await works(store)
    finally:
        await connection.execute("DROP OWNED BY app_worker")
        await connection.execute("DROP ROLE app_worker")
        await connection.close()


@pytest.mark.parametrize("place", [None, "Odd schema"])
async def test_deep_check_passes_on_what_the_migrations_make(
    empty_dsn: str, empty: asyncpg.Connection, place: str | None, next_release: Callable[[], None]
) -> None:
    """Also under odd names, after an upgrade, and beside columns and indexes of others."""
    async with PostgresWorkflowStore.connect(empty_dsn, schema=place, tables=OTHER_NAMES) as store:
        await store.ensure_schema()
        await store.check_schema(deep=True)
        next_release()
        with pytest.raises(SchemaBehindError):
            await store.check_schema(deep=True)
        await store.ensure_schema()
        await store.check_schema(deep=True)
        table = f"{quote_identifier(place or 'public')}.{quote_identifier(OTHER_NAMES['runs'])}"
        await empty.execute(f"ALTER TABLE {table} ADD COLUMN mine text; CREATE INDEX mine ON {table} (mine)")
        await store.check_schema(deep=True)
        await empty.execute(f"ALTER TABLE {table} DROP COLUMN queue")
        with pytest.raises(SchemaDamagedError, match="lacks the column 'queue'"):
            await store.check_schema(deep=True)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("DROP TABLE workflow_timers", "table 'workflow_timers' is missing"),
        ("ALTER TABLE workflow_runs DROP COLUMN priority", "table 'workflow_runs' lacks the column 'priority'"),
        (
            "DROP INDEX workflow_runs_created; CREATE INDEX workflow_runs_created ON workflow_runs (run_id, queue)",
            "index 'workflow_runs_created' of 'workflow_runs' is on run_id,queue, not on created_at,run_id",
        ),
        ("DROP INDEX workflow_runs_created", "table 'workflow_runs' lacks the index 'workflow_runs_created'"),
        (
            "DROP INDEX workflow_runs_created; CREATE UNIQUE INDEX workflow_runs_created ON workflow_runs (run_id)",
            "index 'workflow_runs_created' of 'workflow_runs' is unique",
        ),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'workflow_runs_created'::regclass",
            "index 'workflow_runs_created' of 'workflow_runs' is not valid: drop it and create it again",
        ),
        (
            "ALTER TABLE workflow_timers ALTER COLUMN fire_at TYPE integer",
            "column 'fire_at' of 'workflow_timers' is integer, not bigint",
        ),
        (
            "ALTER TABLE workflow_timers ALTER COLUMN fire_at DROP NOT NULL",
            "column 'fire_at' of 'workflow_timers' may be NULL",
        ),
        (
            "ALTER TABLE workflow_events ALTER COLUMN payload SET NOT NULL",
            "column 'payload' of 'workflow_events' may not be NULL",
        ),
        (
            "ALTER TABLE workflow_signal_deliveries DROP CONSTRAINT workflow_signal_deliveries_once",
            "table 'workflow_signal_deliveries' lacks the unique constraint on run_id,kind,delivery_id",
        ),
    ],
)
async def test_deep_check_names_what_somebody_has_changed(
    store: PostgresWorkflowStore, empty: asyncpg.Connection, damage: str, problem: str
) -> None:
    await store.ensure_schema()
    await empty.execute(damage)
    await store.check_schema()  # a worker that starts trusts the record
    with pytest.raises(SchemaDamagedError, match="looked in schema 'public'") as told:
        await store.check_schema(deep=True)
    assert told.value.problems == (problem,)
