"""The migration files are the schema; `ensure_schema` and `check_schema` tell whose tables they meet."""

import asyncio
import re
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from workflow_migrations import Migration, TableNames, checksum, quote_identifier, render_migrations, split_statements
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
)
from workflow_runtime.metering import meter_queries
from workflow_store_d1 import D1Result, D1WorkflowStore, get_migration_sql, get_migrations, schema
from workflow_store_d1.local import LocalD1Database
from workflow_test_support.workloads import tanstack

OpenStore = Callable[..., Awaitable[D1WorkflowStore]]
OpenDatabase = Callable[..., Awaitable[LocalD1Database]]

CATALOGUE = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
RECORDS = "SELECT migration_id, package_name, checksum FROM workflow_schema_migrations ORDER BY migration_id"

SHIPPED = [migration.migration_id for migration in get_migrations()]

TANSTACK = tanstack.script("sqlite")

# What a later release might add.
NEXT = Migration(
    migration_id="0007_expand_add_note",
    number=7,
    sql="""
ALTER TABLE workflow_runs ADD COLUMN note TEXT;
INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, checksum, applied_at)
VALUES ('0007_expand_add_note', 'workflow-store-d1', '0.3.0', NULL, 1);
""",
    checksum=checksum("0007"),
)


def read(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def run_script(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


# What that release no longer uses.
LAST = Migration(
    migration_id="0008_contract_drop_version",
    number=8,
    sql="""
ALTER TABLE workflow_runs DROP COLUMN workflow_version;
INSERT INTO workflow_schema_migrations
    (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES ('0008_contract_drop_version', 'workflow-store-d1', '0.3.0', '0.3.0', NULL, 1);
""",
    checksum=checksum("0008"),
)


@pytest.fixture
def next_release(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def upgrade() -> None:
        migrations = (*get_migrations(), NEXT)
        monkeypatch.setattr(schema, "get_migrations", lambda: migrations)

    return upgrade


async def test_ensure_schema_may_be_repeated(store: D1WorkflowStore, path: Path) -> None:
    before = read(path, CATALOGUE)
    await store.ensure_schema()
    await store.check_schema()
    assert read(path, CATALOGUE) == before


async def test_ensure_schema_records_what_was_applied(store: D1WorkflowStore, path: Path) -> None:
    assert read(path, RECORDS) == [(one.migration_id, "workflow-store-d1", one.checksum) for one in get_migrations()]


async def test_file_as_it_is_gives_the_same_tables(store: D1WorkflowStore, path: Path, tmp_path: Path) -> None:
    by_hand = tmp_path / "by-hand.db"
    run_script(by_hand, get_migration_sql())
    assert read(by_hand, CATALOGUE) == read(path, CATALOGUE)
    assert read(by_hand, RECORDS) == [(one, "workflow-store-d1", None) for one in SHIPPED]
    async with D1WorkflowStore.open(by_hand) as opened:
        await opened.check_schema()
        await opened.ensure_schema()
        await opened.check_schema()


def test_scripts_come_from_the_shipped_file() -> None:
    folder = resources.files("workflow_store_d1").joinpath("migrations")
    for migration_id in SHIPPED:
        assert get_migration_sql(ids=[migration_id]) == folder.joinpath(f"{migration_id}.sql").read_text(
            encoding="utf-8"
        )
    renamed = get_migration_sql({"runs": "audit_runs"})
    assert 'CREATE INDEX "audit_runs_created" ON "audit_runs" (created_at, run_id)' in renamed
    code = "\n".join(line for line in renamed.splitlines() if not line.startswith("--"))
    assert "workflow_runs" not in code


async def test_store_renders_its_own_table_names(open_store: OpenStore) -> None:
    store = await open_store(tables={"runs": "audit_runs"})
    assert store.get_migration_sql() == get_migration_sql({"runs": "audit_runs"})
    assert store.get_migration_sql({}) == get_migration_sql()
    assert store.get_migrations() == get_migrations()


def test_scripts_for_tools_are_chosen_by_id() -> None:
    migration = get_migrations({"runs": "audit_runs"})[0]
    assert get_migration_sql({"runs": "audit_runs"}, ids=["0000_workflow_store"]) == migration.sql
    assert split_statements(migration.sql) == migration.statements
    script = get_migration_sql({"runs": "audit_runs"}, to_id="0000_workflow_store", transaction=True)
    assert split_statements(script) == ("BEGIN IMMEDIATE", *migration.statements, "COMMIT")
    with pytest.raises(ConfigurationError, match="there is no migration '0009_x'; there are 0000_workflow_store"):
        get_migration_sql(ids=["0009_x"])


async def test_applying_the_file_twice_changes_nothing(path: Path) -> None:
    run_script(path, get_migration_sql())
    before = read(path, CATALOGUE)
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        run_script(path, get_migration_sql())
    assert read(path, CATALOGUE) == before


async def test_processes_at_once_apply_it_once(path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from workflow_store_d1 import D1WorkflowStore\n"
        "async def main():\n"
        "    async with D1WorkflowStore.open(sys.argv[1]) as store:\n"
        "        sys.stdin.readline()\n"
        "        await asyncio.gather(*(store.ensure_schema() for _ in range(3)))\n"
        "        await store.check_schema()\n"
        "asyncio.run(main())\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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
    assert [row[0] for row in read(path, RECORDS)] == SHIPPED


class Overtaken:
    """A database in which another process applies the migrations just before our first batch that writes."""

    def __init__(self, database: LocalD1Database, other: D1WorkflowStore) -> None:
        self.prepare = database.prepare
        self._database = database
        self._other = other
        self.overtaken = 0

    async def batch(self, statements: Sequence[Any]) -> Sequence[D1Result]:
        if "CREATE TABLE" in statements[0].sql:
            self.overtaken += 1
            await self._other.ensure_schema()
        return await self._database.batch(statements)


async def test_who_loses_the_race_reads_the_plan_again(open_database: OpenDatabase, open_store: OpenStore) -> None:
    database, other = await open_database(), await open_store()
    overtaken = Overtaken(database, other)
    store = D1WorkflowStore(overtaken)
    await store.ensure_schema()
    await store.check_schema()
    assert overtaken.overtaken == 1


async def test_migration_that_fails_for_good_is_reported_and_leaves_nothing(
    store: D1WorkflowStore, path: Path, next_release: Callable[[], None]
) -> None:
    next_release()
    run_script(path, "ALTER TABLE workflow_runs ADD COLUMN note INTEGER")
    with pytest.raises(StoreOperationError, match="duplicate column"):
        await store.ensure_schema()
    assert [row[0] for row in read(path, RECORDS)] == SHIPPED


async def test_missing_tables(open_store: OpenStore) -> None:
    store = await open_store()
    with pytest.raises(SchemaMissingError, match="ensure_schema"):
        await store.check_schema()


async def test_older_database_is_behind_until_it_is_upgraded(
    store: D1WorkflowStore, path: Path, next_release: Callable[[], None]
) -> None:
    next_release()
    with pytest.raises(SchemaBehindError, match="ensure_schema") as refused:
        await store.check_schema()
    assert refused.value.missing == ("0007_expand_add_note",)
    await store.ensure_schema()
    await store.check_schema()
    assert read(path, RECORDS)[-1] == ("0007_expand_add_note", "workflow-store-d1", NEXT.checksum)


async def test_record_of_a_file_that_was_applied_by_hand_stays_without_a_checksum(
    path: Path, open_store: OpenStore, next_release: Callable[[], None]
) -> None:
    """Nobody took it, and that of the next migration is another one."""
    run_script(path, get_migration_sql())
    next_release()
    store = await open_store()
    await store.ensure_schema()
    await store.check_schema()
    assert [row[2] for row in read(path, RECORDS)] == [*(None for _ in SHIPPED), NEXT.checksum]


def release_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    migrations = (*get_migrations(), NEXT, LAST)
    monkeypatch.setattr(schema, "get_migrations", lambda: migrations)


async def test_tables_in_use_are_contracted_only_when_that_is_asked_for(
    path: Path, store: D1WorkflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs of the release before may still run: they need what a contract migration takes away."""
    release_with_both(monkeypatch)
    for _ in range(2):
        await store.ensure_schema()
        await store.check_schema()
        assert [row[0] for row in read(path, RECORDS)] == [*SHIPPED, NEXT.migration_id]
    await store.ensure_schema(contract=True)
    await store.check_schema()
    assert [row[2] for row in read(path, RECORDS)][-2:] == [NEXT.checksum, LAST.checksum]


async def test_new_tables_get_every_migration(
    path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_with_both(monkeypatch)
    store = await open_store()
    await store.ensure_schema()
    assert [row[0] for row in read(path, RECORDS)][-2:] == [NEXT.migration_id, LAST.migration_id]


async def test_tables_that_another_release_makes_meanwhile_are_in_use(
    path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the first batch an earlier program creates the tables, and may run on them."""
    of_the_other = get_migration_sql()
    release_with_both(monkeypatch)
    store = await open_store()
    database = store._sender.database
    send = database.batch

    async def send_after_the_other(statements: Any) -> Any:
        monkeypatch.setattr(database, "batch", send)
        run_script(path, of_the_other)
        return await send(statements)

    monkeypatch.setattr(database, "batch", send_after_the_other)
    await store.ensure_schema()
    assert [row[0] for row in read(path, RECORDS)] == [*SHIPPED, NEXT.migration_id]


async def test_contracted_tables_refuse_the_release_before(
    path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        release_with_both(patch)
        await (await open_store()).ensure_schema()
    with pytest.raises(SchemaAheadError, match="upgrade workflow-store-d1") as refused:
        await (await open_store()).check_schema()
    assert refused.value.unknown == (NEXT.migration_id, LAST.migration_id)


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
async def test_newer_database_is_ahead(store: D1WorkflowStore, path: Path, call: str) -> None:
    run_script(path, NEXT.sql)
    with pytest.raises(SchemaAheadError, match="upgrade workflow-store-d1") as refused:
        await getattr(store, call)()
    assert refused.value.unknown == ("0007_expand_add_note",)


AS_OF = "UPDATE workflow_schema_migrations SET oldest_code = '{}' WHERE migration_id = '0007_expand_add_note'"


@pytest.mark.parametrize("oldest_code", ["0.2.0", "0.2", "0.1.9"])
async def test_older_code_runs_on_a_newer_database_that_allows_it(
    store: D1WorkflowStore, path: Path, oldest_code: str
) -> None:
    """A rolling deploy migrates first, and a rollback does not migrate back: the old program starts all the same."""
    run_script(path, NEXT.sql + AS_OF.format(oldest_code))
    await store.check_schema()
    await store.ensure_schema()
    await store.count_runs()


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
@pytest.mark.parametrize("oldest_code", ["0.2.1", "0.3.0", "1", "0.10"])
async def test_code_that_is_too_old_hears_what_it_needs(
    store: D1WorkflowStore, path: Path, oldest_code: str, call: str
) -> None:
    run_script(path, NEXT.sql + AS_OF.format(oldest_code))
    needed = f"upgrade workflow-store-d1 to {oldest_code} or later; this is 0.2.0"
    with pytest.raises(SchemaAheadError, match=re.escape(needed)):
        await getattr(store, call)()


async def test_file_says_what_it_records(store: D1WorkflowStore, path: Path) -> None:
    said = [one.oldest_code for one in get_migrations()]
    assert said == ["0.1.0", "0.1.0", "0.1.0", "0.1.0", "0.2.0", "0.1.0", "0.1.0"]
    assert read(path, "SELECT oldest_code FROM workflow_schema_migrations ORDER BY migration_id") == [
        (one,) for one in said
    ]


async def test_look_at_tables_that_fit_is_one_statement(store: D1WorkflowStore) -> None:
    """Hosts with few queries open a runtime for each call."""
    with meter_queries() as meter:
        await store.check_schema()
    assert (meter.queries, meter.requests) == (1, 1)


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
async def test_edited_migration_is_refused(store: D1WorkflowStore, path: Path, call: str) -> None:
    run_script(path, "UPDATE workflow_schema_migrations SET checksum = 'another'")
    with pytest.raises(SchemaError, match="0000_workflow_store was applied with another text"):
        await getattr(store, call)()


STATEMENTS = get_migrations()[0].statements
RECORD_TABLE = STATEMENTS[0]


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
@pytest.mark.parametrize("names", [{}, {"runs": 'odd "runs"', "schema_migrations": "MIGRATIONS"}], ids=["names", "odd"])
async def test_migration_that_stopped_in_the_middle_is_told_of(
    path: Path, open_store: OpenStore, names: dict[str, str], call: str
) -> None:
    """After each statement but the last: it is told from tables of others, and what the error says mends it."""
    statements = get_migrations(names)[0].statements
    store = await open_store(tables=names)
    for done in range(1, len(statements)):
        run_script(path, ";".join(statements[:done]))
        before = read(path, CATALOGUE)
        with pytest.raises(SchemaHalfAppliedError, match="Drop them, unless something has used them") as refused:
            await getattr(store, call)()
        assert read(path, CATALOGUE) == before
        assert names.get("schema_migrations", "workflow_schema_migrations") in refused.value.tables
        for table in refused.value.tables:
            run_script(path, f"DROP TABLE {quote_identifier(table)}")
    assert read(path, CATALOGUE) == []
    await store.ensure_schema()
    await store.check_schema()


# A later migration that a tool without a transaction left in the middle.
SEVERAL = Migration(
    migration_id="0007_expand_several",
    number=7,
    sql="""
ALTER TABLE workflow_runs ADD COLUMN note TEXT;
UPDATE workflow_runs SET note = 'none' WHERE note IS NULL;
CREATE INDEX workflow_runs_note ON workflow_runs (note);
DROP INDEX workflow_runs_created;
INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, checksum, applied_at)
VALUES ('0007_expand_several', 'workflow-store-d1', '0.3.0', NULL, 1);
""",
    checksum=checksum("0007"),
)
DONE = {1: 1, 2: 1, 3: 3, 4: 4}
"""Statements of it that are known to be done, by how many were sent: an UPDATE leaves no trace that we know."""


@pytest.mark.parametrize("names", [{}, {"runs": 'odd "runs"', "schema_migrations": "MIGRATIONS"}], ids=["names", "odd"])
@pytest.mark.parametrize("sent", DONE)
async def test_later_migration_that_stopped_in_the_middle_says_what_is_left(
    path: Path, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, names: dict[str, str], sent: int
) -> None:
    store = await open_store(tables=names)
    await store.ensure_schema()
    migrations = (*get_migrations(), SEVERAL)
    monkeypatch.setattr(schema, "get_migrations", lambda: migrations)
    (rendered,) = render_migrations([SEVERAL], TableNames.of(names))
    run_script(path, ";".join(rendered.statements[:sent]))
    before = read(path, CATALOGUE)
    with pytest.raises(SchemaUnrecordedError, match="0007_expand_several") as told:
        await store.ensure_schema()
    assert read(path, CATALOGUE) == before
    assert told.value.left == rendered.statements[DONE[sent] :]
    run_script(path, str(told.value).partition("\n\n")[2])
    await store.ensure_schema()
    await store.check_schema(deep=True)


@pytest.mark.parametrize("number", range(1, len(SHIPPED)))
async def test_shipped_migration_whose_record_is_missing_says_so(
    path: Path, open_store: OpenStore, number: int
) -> None:
    run_script(path, get_migration_sql(to_id=SHIPPED[number - 1]))
    *changes, record = get_migrations()[number].statements
    run_script(path, ";".join(changes))
    store = await open_store()
    with pytest.raises(SchemaUnrecordedError, match="only its record is missing") as told:
        await store.ensure_schema(contract=True)
    assert told.value.left == (record,)
    run_script(path, told.value.left[0])
    await store.ensure_schema(contract=True)
    await store.check_schema(deep=True)
    assert [row[0] for row in read(path, RECORDS)] == SHIPPED


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
@pytest.mark.parametrize(
    ("script", "table"),
    [
        (TANSTACK, "workflow_schema_migrations"),
        ("CREATE TABLE workflow_timers (id INTEGER)", "workflow_timers"),
        ("CREATE TABLE Workflow_Timers (id INTEGER)", "Workflow_Timers"),
        ("CREATE VIEW workflow_runs AS SELECT 1", "workflow_runs"),
        ("CREATE TABLE workflow_schema_migrations (id INTEGER)", "workflow_schema_migrations"),
        (
            get_migration_sql() + "UPDATE workflow_schema_migrations SET package_name = 'workflow-store-other'",
            "workflow_schema_migrations",
        ),
        (f"{RECORD_TABLE}; CREATE TABLE workflow_timers (id INTEGER)", "workflow_timers"),
        (f"{RECORD_TABLE}; CREATE VIEW workflow_runs AS SELECT 1", "workflow_runs"),
    ],
)
async def test_tables_of_others_are_refused_and_not_touched(
    path: Path, open_store: OpenStore, script: str, table: str, call: str
) -> None:
    run_script(path, script)
    before = read(path, CATALOGUE)
    store = await open_store()
    with pytest.raises(ForeignTablesError) as refused:
        await getattr(store, call)()
    assert refused.value.table == table
    assert read(path, CATALOGUE) == before


@pytest.mark.parametrize("call", ["check_schema", "ensure_schema"])
async def test_tables_of_tanstack_are_refused_with_every_row_left_as_it_was(
    path: Path, open_store: OpenStore, call: str
) -> None:
    """All nine have our names. They are refused too while the one that says whose they are, and more, are missing."""
    run_script(path, TANSTACK)
    store = await open_store()

    def everything() -> tuple[list[tuple[Any, ...]], list[list[tuple[Any, ...]]]]:
        return read(path, CATALOGUE), [read(path, f"SELECT * FROM {table}") for (table,) in read(path, TABLES)]

    for table in [None, *tanstack.COLUMNS]:
        if table is not None:
            run_script(path, f"DROP TABLE {table}")
        before = everything()
        assert all(before[1]), "each has a row"
        if table == [*tanstack.COLUMNS][-1]:
            break
        with pytest.raises(ForeignTablesError) as refused:
            await getattr(store, call)()
        assert refused.value.table in tanstack.COLUMNS
        assert everything() == before


@pytest.mark.parametrize("names", [{}, {"runs": 'odd "runs"', "signal_deliveries": "INBOX"}], ids=["names", "odd"])
async def test_deep_check_passes_on_what_the_migrations_make(
    path: Path, open_store: OpenStore, names: dict[str, str], next_release: Callable[[], None]
) -> None:
    """Also when an earlier release looks at the tables of a later one, and beside columns and indexes of others."""
    store = await open_store(tables=names)
    await store.ensure_schema()
    await store.check_schema(deep=True)
    run_script(path, "CREATE INDEX mine ON workflow_timers (fire_at); ALTER TABLE workflow_timers ADD COLUMN mine TEXT")
    next_release()
    with pytest.raises(SchemaBehindError):
        await store.check_schema(deep=True)
    await store.ensure_schema()
    await store.check_schema(deep=True)


INBOX = """DROP TABLE workflow_signal_deliveries; CREATE TABLE workflow_signal_deliveries (
    run_id TEXT NOT NULL, inbox_seq INTEGER NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    delivery_id TEXT NOT NULL, received_at INTEGER NOT NULL, taken INTEGER NOT NULL, payload_bytes INTEGER NOT NULL,
    payload TEXT, PRIMARY KEY (run_id, inbox_seq));
CREATE INDEX workflow_signal_deliveries_untaken
    ON workflow_signal_deliveries (run_id, inbox_seq, payload_bytes) WHERE taken = 0"""
TIMERS_OF = "DROP TABLE workflow_timers; CREATE TABLE workflow_timers (run_id TEXT NOT NULL, timer_id TEXT NOT NULL, "


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
            "DROP INDEX workflow_runs_created; CREATE UNIQUE INDEX workflow_runs_created ON workflow_runs (created_at)",
            "index 'workflow_runs_created' of 'workflow_runs' is unique",
        ),
        (f"{TIMERS_OF} fire_at TEXT NOT NULL)", "column 'fire_at' of 'workflow_timers' is TEXT, not INTEGER"),
        (f"{TIMERS_OF} fire_at INTEGER)", "column 'fire_at' of 'workflow_timers' may be NULL"),
        (INBOX, "table 'workflow_signal_deliveries' lacks the unique constraint on run_id,kind,delivery_id"),
    ],
)
async def test_deep_check_names_what_somebody_has_changed(
    store: D1WorkflowStore, path: Path, damage: str, problem: str
) -> None:
    run_script(path, damage)
    await store.check_schema()  # a worker that starts trusts the record
    with pytest.raises(SchemaDamagedError) as told:
        await store.check_schema(deep=True)
    assert told.value.problems == (problem,)


async def test_deep_check_names_all_of_it(store: D1WorkflowStore, path: Path) -> None:
    run_script(path, "DROP TABLE workflow_timers; DROP INDEX workflow_runs_created")
    with pytest.raises(SchemaDamagedError) as told:
        await store.check_schema(deep=True)
    assert len(told.value.problems) == 2
