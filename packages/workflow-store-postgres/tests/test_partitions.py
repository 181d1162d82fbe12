"""The log in partitions: the script that divides and joins it, and what finds it divided."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from workflow_migrations import (
    DEFAULT_TABLES,
    PARTITION_COUNTS,
    Migration,
    TableNames,
    checksum,
    partition_name,
    quote_identifier,
)
from workflow_runtime import Context, RunStatus, StartRun, WorkflowRuntime, workflow
from workflow_runtime.errors import ConfigurationError, SchemaDamagedError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent
from workflow_store_postgres import (
    PostgresWorkflowStore,
    exclude_workflow_tables,
    get_migration_sql,
    get_migrations,
    get_partition_sql,
    online,
    schema,
)
from workflow_store_postgres.__main__ import main
from workflow_test_support.servers.postgres_databases import new_database
from workflow_test_support.servers.postgres_server import program
from workflow_test_support.workloads import odd_names

FIRST, *_ = (migration.migration_id for migration in get_migrations())
CATALOGUE = """
SELECT
    relation.relname, relation.relkind::text, relation.reloptions,
    relation.relowner::regrole::text, relation.relacl::text,
    attribute.attnum, attribute.attname, format_type(attribute.atttypid, attribute.atttypmod), attribute.attnotnull,
    attribute.attcollation, attribute.attacl::text, attribute.attstorage::text, attribute.attcompression::text,
    CASE WHEN relation.relkind = 'i' THEN pg_get_indexdef(relation.oid) END
FROM pg_class AS relation
INNER JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid AND attribute.attnum > 0
WHERE relation.relnamespace = 'public'::regnamespace
ORDER BY relation.relname, attribute.attnum
"""
ROWS = "SELECT count(*), md5(string_agg(event::text, '|' ORDER BY run_id, event_index)) FROM {} AS event"
PARTS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass ORDER BY 1"
INDEXES = """
SELECT relation.relname AS of, part.relname AS name, index.indisvalid
FROM pg_index AS index
INNER JOIN pg_class AS part ON part.oid = index.indexrelid
INNER JOIN pg_class AS relation ON relation.oid = index.indrelid
WHERE relation.relname LIKE 'workflow_events%' AND NOT index.indisprimary
ORDER BY 1, 2
"""
RECORDS = "SELECT migration_id FROM workflow_schema_migrations ORDER BY migration_id"

# What a later release might add to the log: an index that is built beside writers.
BY_KIND = """
DROP INDEX CONCURRENTLY IF EXISTS workflow_events_by_kind;
CREATE INDEX CONCURRENTLY workflow_events_by_kind ON workflow_events (kind, created_at);
INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES ('0005_online_by_kind', 'workflow-store-postgres', '0.3.0', '0.1.0', NULL, 1);
"""
NEXT = Migration(
    migration_id="0005_online_by_kind", number=5, sql=BY_KIND, checksum=checksum(BY_KIND), oldest_code="0.1.0"
)


@pytest.fixture
async def admin(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
def next_release(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def upgrade() -> None:
        migrations = (*get_migrations(), NEXT)
        monkeypatch.setattr(schema, "get_migrations", lambda: migrations)

    return upgrade


@pytest.fixture
async def divided(admin: asyncpg.Connection) -> None:
    await admin.execute(get_partition_sql(4))


async def parts(admin: asyncpg.Connection, table: str = "workflow_events") -> list[str]:
    return [row[0] for row in await admin.fetch(PARTS, table)]


async def rows(admin: asyncpg.Connection, table: str = "workflow_events") -> tuple[Any, ...]:
    return tuple(await admin.fetchrow(ROWS.format(table)))


def run(*words: Any, text: str | None = None) -> str:
    """Run a program."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Real time is the subject: the server builds, waits and ends when it likes."""
    async with asyncio.timeout(30):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
        return found


class Writer:
    """A store and runs under its leases, which go on from where they are."""

    def __init__(self, store: PostgresWorkflowStore, runs: int = 20) -> None:
        self.store = store
        self.lengths = {f"run-{number}": 0 for number in range(runs)}
        self._tokens: dict[str, str] = {}

    async def start(self) -> None:
        for run_id in self.lengths:
            created = await self.store.create_run(
                run_id=run_id, workflow_id="w", workflow_version="1", input=JsonText("1"), operation_id="o", now_ms=1,
                owner="worker", lease_ms=10_000,
            )  # fmt: skip
            assert created.kind == "created"
            assert created.claim is not None
            self._tokens[run_id] = created.claim.lease.token

    async def append(self) -> None:
        """Append an event to the log of each run: at once, so that some share a statement."""
        await asyncio.gather(*map(self._append, self.lengths))

    async def _append(self, run_id: str) -> None:
        index = self.lengths[run_id]
        await self.store.append_events(
            run_id=run_id, lease_token=self._tokens[run_id], operation_id=f"o{index}", expected_next_index=index,
            events=[NewEvent(kind="step", step_id=f"s{index}", payload=JsonText(f'"{run_id} {index}"'))],
            now_ms=1, lease_ms=10_000,
        )  # fmt: skip
        self.lengths[run_id] += 1

    async def check(self) -> None:
        """Read every log in each way there is."""
        for run_id, length in self.lengths.items():
            wanted = [f'"{run_id} {index}"' for index in range(length)]
            page = await self.store.read_events(run_id=run_id, from_index=0, limit=1_000)
            assert [event.payload for event in page] == wanted
            execution = await self.store.load_execution(run_id=run_id)
            assert execution is not None
            assert [event.payload for event in execution.history] == wanted


# The script.


@pytest.mark.parametrize("partitions", [0, 3, 512, -2, True, 2.5])
def test_other_numbers_are_refused(partitions: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"partitions: .* is not one of 1, 2, 4, 8, 16, 32, 64, 128, 256"):
        get_partition_sql(partitions)


def test_each_partition_has_a_name_of_its_own() -> None:
    """Within 63 bytes, and apart from every table and index: whatever the tables are called."""
    for chosen in (DEFAULT_TABLES, TableNames.of(odd_names.TABLES), TableNames(events="e" * 63, runs="e" * 60 + "_p2")):
        names = [partition_name(chosen, count, number) for count in PARTITION_COUNTS for number in range(count)]
        assert len(set(names)) == len(names)
        assert max(len(name.encode()) for name in names) <= 63
        assert not set(names) & set(chosen.by_key().values())
    assert partition_name(DEFAULT_TABLES, 16, 3) == "workflow_events_p16_03"


@pytest.mark.parametrize("place", [None, odd_names.SCHEMA])
async def test_log_is_divided_and_divided_otherwise_and_joined(dsn: str, place: str | None) -> None:
    """Beside an open store, whose statements are prepared, and with names of the user's own."""
    tables = None if place is None else odd_names.TABLES
    table = "workflow_events"
    if place is not None:
        table = f"{quote_identifier(place)}.{quote_identifier(TableNames.of(tables).events)}"
    admin = await asyncpg.connect(dsn)
    async with PostgresWorkflowStore.connect(dsn, schema=place, tables=tables, max_size=2) as store:
        await store.ensure_schema(contract=True)
        writer = Writer(store)
        await writer.start()
        for partitions in (None, 4, 16, 1, 2):
            for _ in range(3):
                await writer.append()
                await writer.check()
            if partitions is not None:
                before = await rows(admin, table)
                await admin.execute(get_partition_sql(partitions, place, tables))
                assert await rows(admin, table) == before
                assert len(await parts(admin, table)) == (partitions if partitions > 1 else 0)
            await store.ensure_schema(contract=True)
            await store.check_schema(deep=True)
        for run_id in writer.lengths:
            assert (await store.delete_run(run_id=run_id, now_ms=1, force=True)).kind == "deleted"
        assert (await rows(admin, table))[0] == 0
    await admin.close()


async def test_joined_log_is_as_if_it_had_never_been_divided(admin: asyncpg.Connection) -> None:
    before = await admin.fetch(CATALOGUE)
    await admin.execute(get_partition_sql(8))
    assert await admin.fetch(CATALOGUE) != before
    await admin.execute(get_partition_sql(1))
    assert await admin.fetch(CATALOGUE) == before


async def test_log_is_found_and_stays_where_the_search_path_leads(admin: asyncpg.Connection) -> None:
    """Its new table is not made in another schema, which comes first."""
    await admin.execute("CREATE SCHEMA mine; SET search_path = mine, public")
    await admin.execute(get_partition_sql(2))
    assert await parts(admin, "public.workflow_events") == ["workflow_events_p2_0", "workflow_events_p2_1"]
    assert await admin.fetchval("SHOW search_path") == "mine, public"


async def test_what_belongs_to_the_log_is_kept(admin: asyncpg.Connection) -> None:
    """Its owner, rights, storage parameters and comments; nobody gets more than he had, be it by default."""
    await admin.execute("""
        CREATE ROLE app_reader; CREATE ROLE app_writer; CREATE ROLE "App owner";
        GRANT CREATE ON SCHEMA public TO "App owner";
        ALTER TABLE workflow_events OWNER TO "App owner";
        GRANT SELECT, INSERT, DELETE ON workflow_events TO app_writer WITH GRANT OPTION;
        GRANT SELECT (run_id, kind) ON workflow_events TO app_reader;
        ALTER TABLE workflow_events SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.01);
        ALTER TABLE workflow_events SET (toast.autovacuum_enabled = false);
        COMMENT ON TABLE workflow_events IS 'the log';
        COMMENT ON COLUMN workflow_events.kind IS 'what happened';
        ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app_reader;
        ALTER DEFAULT PRIVILEGES FOR ROLE "App owner" GRANT ALL ON TABLES TO app_reader;
    """)
    try:
        before = await admin.fetch(CATALOGUE)
        for partitions in (2, 4):
            await admin.execute(get_partition_sql(partitions))
            for part in await parts(admin):
                kept = await admin.fetchrow(
                    "SELECT part.relowner::regrole::text, part.relacl::text, part.reloptions, toast.reloptions"
                    " FROM pg_class AS part INNER JOIN pg_class AS toast ON toast.oid = part.reltoastrelid"
                    " WHERE part.oid = $1::text::regclass",
                    part,
                )
                assert "app_reader" not in (kept[1] or "")
                parameters = ["fillfactor=90", "autovacuum_vacuum_scale_factor=0.01"], ["autovacuum_enabled=false"]
                assert (kept[0], *kept[2:]) == ('"App owner"', *parameters)
            assert await rights(admin, before) == await rights(admin, await admin.fetch(CATALOGUE))
            comments = (
                "SELECT obj_description('workflow_events'::regclass), col_description('workflow_events'::regclass, 5)"
            )
            assert tuple(await admin.fetchrow(comments)) == ("the log", "what happened")
        await admin.execute(get_partition_sql(1))
        assert await rights(admin, before) == await rights(admin, await admin.fetch(CATALOGUE))
    finally:
        await admin.execute("""
            ALTER TABLE workflow_events OWNER TO CURRENT_USER;
            DROP OWNED BY app_reader, app_writer, "App owner"; DROP ROLE app_reader, app_writer, "App owner"
        """)


async def rights(admin: asyncpg.Connection, catalogue: list[asyncpg.Record]) -> set[tuple[Any, ...]]:
    """Return who may do what with the log, by a look at the catalogue."""
    found = set()
    for row in catalogue:
        if row["relname"] == "workflow_events":
            found |= {(row["attname"], row["relowner"], row["attacl"], item) for item in sorted_items(row["relacl"])}
    return found


def sorted_items(acl: str | None) -> list[str]:
    return sorted((acl or "").strip("{}").split(","))


@pytest.mark.parametrize("partitions", [None, 2])
@pytest.mark.parametrize(
    ("obstacle", "told"),
    [
        ("CREATE INDEX mine ON {} (kind)", "the index mine"),
        ("ALTER TABLE {} ADD CONSTRAINT mine CHECK (event_index >= 0)", "the constraint mine"),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER mine AFTER INSERT ON {} FOR EACH ROW EXECUTE FUNCTION f()",
            "the trigger mine",
        ),
        ("CREATE VIEW mine AS SELECT run_id FROM {}", "the view or rule of mine"),
        ("CREATE RULE mine AS ON UPDATE TO {} DO INSTEAD NOTHING", "the view or rule of workflow_events"),
        ("CREATE PUBLICATION mine FOR TABLE {}", "the publication mine"),
        ("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", "row security"),
        ("ALTER TABLE {} REPLICA IDENTITY FULL", "a replica identity of its own"),
    ],
)
async def test_what_would_be_lost_is_refused(
    admin: asyncpg.Connection, obstacle: str, told: str, partitions: int | None
) -> None:
    if partitions is not None:
        await admin.execute(get_partition_sql(partitions))
    transaction = admin.transaction()
    await transaction.start()
    await admin.execute(obstacle.format("workflow_events"))
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=f"the log has .*{told}"):
        await admin.execute(get_partition_sql(16, transaction=False))
    await transaction.rollback()


@pytest.mark.parametrize("whose", ["DATABASE", "ROLE", "SESSION"])
async def test_snapshots_that_would_show_an_empty_log_are_refused(admin: asyncpg.Connection, whose: str) -> None:
    """Where transactions keep their snapshot by default: those that wait for the log would have one without it."""
    place = await admin.fetchval("SELECT quote_ident(current_database())")
    set_by = {"DATABASE": f"ALTER DATABASE {place}", "ROLE": "ALTER ROLE CURRENT_USER", "SESSION": ""}[whose]
    await admin.execute(f"{set_by} SET default_transaction_isolation = 'repeatable read'")
    try:
        with pytest.raises(
            asyncpg.ObjectNotInPrerequisiteStateError, match="transactions are repeatable read here"
        ) as no:
            await admin.execute(get_partition_sql(4))
        await admin.execute("ROLLBACK")
        assert no.value.hint is not None
        await admin.execute("SET workflow.programs = stopped")
        await admin.execute(get_partition_sql(4))
        assert len(await parts(admin)) == 4
    finally:
        await admin.execute(f"{set_by} RESET default_transaction_isolation" if set_by else "SELECT 1")


async def test_script_gives_up_behind_a_transaction_that_stays_open(dsn: str, admin: asyncpg.Connection) -> None:
    """Everybody else would wait behind it."""
    other = await asyncpg.connect(dsn)
    transaction = other.transaction()
    await transaction.start()
    await other.fetch("SELECT * FROM workflow_events")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await admin.execute(get_partition_sql(4).replace("lock_timeout = '2s'", "lock_timeout = '20ms'"))
    await transaction.rollback()
    await other.close()
    await admin.execute("ROLLBACK")
    assert await parts(admin) == []
    await admin.execute(get_partition_sql(4))


async def test_tool_without_a_transaction_gets_nowhere(admin: asyncpg.Connection) -> None:
    """Each statement by itself would leave the log in the middle."""
    before = await admin.fetch(CATALOGUE)
    script = get_partition_sql(4, transaction=False)
    begin, _, rest = script.partition("LOCK TABLE")
    await admin.execute(begin)
    with pytest.raises(asyncpg.NoActiveSQLTransactionError):
        await admin.execute("LOCK TABLE" + rest.partition(";")[0])
    assert await admin.fetch(CATALOGUE) == before
    async with admin.transaction():
        await admin.execute(script)
    assert len(await parts(admin)) == 4


async def test_psql_and_the_command(dsn: str, admin: asyncpg.Connection, capsys: pytest.CaptureFixture[str]) -> None:
    """From the script to a check, and back to one table."""

    async def call(*words: str) -> tuple[int, str]:
        status = await asyncio.to_thread(main, words)
        return status, capsys.readouterr().out

    psql = [program("psql"), "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", dsn, "-f", "-"]
    for partitions in (4, 1):
        status, script = await call("sql", "--partition-events", str(partitions))
        assert (status, script.rstrip("\n")) == (0, get_partition_sql(partitions).rstrip("\n"))
        await asyncio.to_thread(run, *psql, text=script)
        assert len(await parts(admin)) == (4 if partitions == 4 else 0)
        assert (await call("check", "--deep", "--dsn", dsn))[0] == 0
        assert "this release can run on these tables" in (await call("status", "--dsn", dsn))[1]
        assert (await call("repair", "--checksum", FIRST, "--yes", "--dsn", dsn))[0] == 0
        assert (await call("plan", "--phase", "contract", "--exit-code", "--dsn", dsn))[0] == 0, "nothing is missing"
    assert (await call("sql", "--partition-events", "4", "--ids", FIRST))[0] == 2
    assert "BEGIN;" not in (await call("sql", "--partition-events", "4", "--no-transaction"))[1]


def test_no_migration_adds_to_the_log_what_the_script_would_refuse() -> None:
    """Whoever adds an index or a constraint to the log teaches the script to keep it."""
    statements = [statement for migration in get_migrations() for statement in migration.statements]
    of_log = [one for one in statements if re.search(r"\b(ON|TABLE) workflow_events\b", one)]
    assert [re.findall(r"^(?:CREATE|ALTER) \w+", one, re.MULTILINE) for one in of_log] == [["CREATE TABLE"]]


# What finds it divided.


async def test_tables_of_the_first_release_are_divided_and_upgraded(empty_dsn: str) -> None:
    admin = await asyncpg.connect(empty_dsn)
    await admin.execute(get_migration_sql(to_id=FIRST, transaction=False))
    await admin.execute(get_partition_sql(4))
    await admin.close()
    async with PostgresWorkflowStore.connect(empty_dsn) as store:
        await store.ensure_schema(contract=True)
        await store.check_schema(deep=True)
        writer = Writer(store)
        await writer.start()
        await writer.append()
        await writer.check()


@pytest.mark.usefixtures("divided")
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            "ALTER TABLE workflow_events DETACH PARTITION workflow_events_p4_2",
            "table 'workflow_events' lacks partitions: events of some runs have no place",
        ),
        (
            "DROP TABLE workflow_events_p4_0, workflow_events_p4_1, workflow_events_p4_2, workflow_events_p4_3",
            "table 'workflow_events' lacks partitions: events of some runs have no place",
        ),
        (
            "ALTER TABLE workflow_events DROP CONSTRAINT workflow_events_pkey",
            "table 'workflow_events' lacks its primary key",
        ),
        (
            "ALTER TABLE workflow_timers DROP CONSTRAINT workflow_timers_pkey",
            "table 'workflow_timers' lacks its primary key",
        ),
        ("ALTER TABLE workflow_events DROP COLUMN kind", "table 'workflow_events' lacks the column 'kind'"),
        (
            "ALTER TABLE workflow_events ALTER COLUMN payload SET NOT NULL",
            "column 'payload' of 'workflow_events' may not be NULL",
        ),
    ],
)
async def test_deep_check_finds_damage(
    dsn: str, admin: asyncpg.Connection, damage: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with PostgresWorkflowStore.connect(dsn) as store:
        await store.check_schema(deep=True)
        await admin.execute(damage)
        with pytest.raises(SchemaDamagedError) as told:
            await store.check_schema(deep=True)
        assert told.value.problems == (problem,)
    assert await asyncio.to_thread(main, ["check", "--deep", "--dsn", dsn]) == 1
    assert problem in capsys.readouterr().err


@pytest.mark.usefixtures("divided")
async def test_partitions_of_the_owners_own_making_pass(dsn: str, admin: asyncpg.Connection) -> None:
    """In thirds, whose sum is a hair less than one; their names do not matter."""
    await admin.execute(
        "DROP TABLE workflow_events_p4_0, workflow_events_p4_1, workflow_events_p4_2, workflow_events_p4_3"
    )
    for number in range(3):
        await admin.execute(
            f"CREATE TABLE mine_{number} PARTITION OF workflow_events FOR VALUES WITH (MODULUS 3, REMAINDER {number})"
        )
    async with PostgresWorkflowStore.connect(dsn) as store:
        await store.check_schema(deep=True)


async def test_alembic_leaves_partitions_alone(dsn: str, admin: asyncpg.Connection) -> None:
    """A migration that it generates would drop them else."""
    await admin.execute(get_partition_sql(4))
    engine = sa.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    names = await asyncio.to_thread(lambda: sa.inspect(engine).get_table_names())
    engine.dispose()
    assert {"workflow_events", *await parts(admin)} <= set(names)
    hooks = exclude_workflow_tables()
    assert [name for name in names if hooks.include_name(name, "table", {"schema_name": None})] == ["business"]


@pytest.mark.usefixtures("divided")
async def test_dump_is_restored_as_it_was(server_dsn: str, dsn: str, admin: asyncpg.Connection) -> None:
    async with PostgresWorkflowStore.connect(dsn) as store:
        writer = Writer(store)
        await writer.start()
        await writer.append()
        before, divided = await rows(admin), await parts(admin)
        dump = await asyncio.to_thread(run, program("pg_dump"), "--no-owner", dsn)
    async with new_database(server_dsn, "template0") as restored:
        quiet = [program("psql"), "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", restored]
        dump = dump.replace("SET transaction_timeout = 0;\n", "")  # which a server before 17 does not know
        await asyncio.to_thread(run, *quiet, text=dump)
        looked = await asyncpg.connect(restored)
        assert (await rows(looked), await parts(looked)) == (before, divided)
        async with PostgresWorkflowStore.connect(restored) as store:
            await store.check_schema(deep=True)
            writer.store = store
            await writer.append()
            await writer.check()
        await looked.execute(get_partition_sql(1))
        await looked.close()


# Indexes that are built beside writers.

ON_ALL = [
    ("workflow_events", "workflow_events_by_kind", True),
    *((f"workflow_events_p4_{number}", f"workflow_events_p4_{number}_by_kind", True) for number in range(4)),
]


async def indexes(admin: asyncpg.Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await admin.fetch(INDEXES)]


async def is_recorded(admin: asyncpg.Connection) -> bool:
    return bool((await admin.fetch(RECORDS))[-1]["migration_id"] == NEXT.migration_id)


@asynccontextmanager
async def open_report(dsn: str, sql: str) -> AsyncIterator[None]:
    """A transaction that has done something and stays open."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "monthly report"})
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(sql)
    try:
        yield
        await transaction.rollback()
    finally:
        await connection.close()


@pytest.mark.usefixtures("divided")
async def test_index_is_built_of_each_partition(
    dsn: str, admin: asyncpg.Connection, next_release: Callable[[], None]
) -> None:
    async with PostgresWorkflowStore.connect(dsn) as store:
        await Writer(store).start()
        next_release()
        await store.ensure_schema()
        assert await indexes(admin) == ON_ALL
        assert await is_recorded(admin)
        await store.check_schema(deep=True)
        await store.ensure_schema()
        await admin.execute(
            "DROP INDEX workflow_events_by_kind;"
            "CREATE INDEX workflow_events_by_kind ON ONLY workflow_events (kind, created_at)"
        )
        with pytest.raises(
            SchemaDamagedError, match="index 'workflow_events_by_kind' of 'workflow_events' is not valid"
        ):
            await store.check_schema(deep=True)


async def test_index_is_built_of_tables_with_names_of_the_users_own(
    empty_dsn: str, next_release: Callable[[], None]
) -> None:
    place, tables = odd_names.SCHEMA, odd_names.TABLES
    admin = await asyncpg.connect(empty_dsn)
    async with PostgresWorkflowStore.connect(empty_dsn, schema=place, tables=tables) as store:
        await store.ensure_schema(contract=True)
        await admin.execute(get_partition_sql(4, place, tables))
        next_release()
        await store.ensure_schema()
        await store.check_schema(deep=True)
    await admin.close()


@pytest.mark.usefixtures("divided")
async def test_what_was_left_in_the_middle_is_built_anew(
    dsn: str, admin: asyncpg.Connection, next_release: Callable[[], None]
) -> None:
    """Of a partition an index that is done, of another one in part, and of the whole one without all of its parts."""
    await admin.execute("""
        CREATE INDEX workflow_events_p4_0_by_kind ON workflow_events_p4_0 (kind, created_at);
        CREATE INDEX workflow_events_p4_1_by_kind ON workflow_events_p4_1 (kind, created_at);
        UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'workflow_events_p4_1_by_kind'::regclass;
        CREATE INDEX workflow_events_by_kind ON ONLY workflow_events (kind, created_at);
    """)
    done = await admin.fetchval("SELECT 'workflow_events_p4_0_by_kind'::regclass::oid")
    next_release()
    async with PostgresWorkflowStore.connect(dsn) as store:
        await store.ensure_schema()
        await store.check_schema(deep=True)
    assert await indexes(admin) == ON_ALL
    assert await admin.fetchval("SELECT 'workflow_events_p4_0_by_kind'::regclass::oid") == done


@pytest.mark.usefixtures("divided")
async def test_several_at_once_build_it_once(
    dsn: str, admin: asyncpg.Connection, next_release: Callable[[], None]
) -> None:
    next_release()

    async def migrate() -> None:
        async with PostgresWorkflowStore.connect(dsn) as store:
            await store.ensure_schema(contract=True)

    await asyncio.gather(*(migrate() for _ in range(4)))
    assert await indexes(admin) == ON_ALL
    assert await is_recorded(admin)


@pytest.mark.usefixtures("divided")
async def test_index_of_the_whole_waits_for_writers_and_holds_nobody_up(
    dsn: str, admin: asyncpg.Connection, next_release: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts are built; who makes the index of the whole tries for a moment, and again."""
    writes = (
        "INSERT INTO workflow_events (run_id, event_index, kind, created_at, payload_bytes) VALUES ('r', 1, 'k', 1, 0)"
    )
    next_release()
    build = online._Building.build

    async def build_last(building: online._Building) -> Any:
        state = await build(building)
        if building.index.name.endswith("p4_3_by_kind"):
            report.set()
            await opened.wait()
        return state

    report, opened = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(online._Building, "build", build_last)
    async with PostgresWorkflowStore.connect(dsn) as store:
        building = asyncio.create_task(store.ensure_schema(lock_timeout=timedelta(seconds=30)))
        await report.wait()
        async with open_report(dsn, writes):
            opened.set()
            waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'ShareLock'"
            await until(lambda: admin.fetch(waiting))
            await until(lambda: nothing(admin, waiting))
            assert not building.done()
            assert not await is_recorded(admin)
        await asyncio.wait_for(building, 30)
    assert await indexes(admin) == ON_ALL


async def nothing(admin: asyncpg.Connection, sql: str) -> bool:
    return not await admin.fetch(sql)


@pytest.mark.usefixtures("divided")
async def test_partitions_that_change_meanwhile_are_looked_at_again(
    dsn: str, admin: asyncpg.Connection, next_release: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is built while writers wait: neither what somebody has dropped, nor of partitions that are new."""
    next_release()
    build, built = online._Building.build, list[str]()

    async def build_and_interfere(building: online._Building) -> Any:
        state = await build(building)
        built.append(building.index.name)
        if building.index.name == "workflow_events_p4_3_by_kind" and len(built) == 4:
            await admin.execute("DROP INDEX workflow_events_p4_1_by_kind")
        return state

    monkeypatch.setattr(online._Building, "build", build_and_interfere)
    async with PostgresWorkflowStore.connect(dsn) as store:
        await store.ensure_schema(contract=True)
    assert built == [*(f"workflow_events_p4_{number}_by_kind" for number in range(4)), "workflow_events_p4_1_by_kind"]
    assert await indexes(admin) == ON_ALL


# Workers.


async def work(number: int) -> int:
    await asyncio.sleep(0.001)
    return number


@workflow(id="long")
async def long(ctx: Context, steps: int) -> int:
    return sum([await ctx.step(work, number) for number in range(steps)])


@pytest.mark.real_time
async def test_workers_go_on_while_the_log_is_divided_and_joined(dsn: str, admin: asyncpg.Connection) -> None:
    """Runs are claimed, and at their steps, all the time: none fails, and none loses or repeats an event."""
    async with PostgresWorkflowStore.connect(dsn) as store:
        runtime = WorkflowRuntime(store=store, workflows=[long])
        await runtime.start_runs(long, (StartRun(30, run_id=f"long-{number}") for number in range(60)))
        stop = asyncio.Event()
        worker = asyncio.create_task(runtime.work(concurrency=8, handle_signals=False, stop=stop))
        for partitions in (4, 16, 1):
            written = (await rows(admin))[0]
            await until(partial(more_than, admin, written + 100))
            await until(partial(divides, admin, partitions))

        async def all_finished() -> bool:
            return (await store.count_runs()).get(RunStatus.FINISHED) == 60

        await until(all_finished)
        stop.set()
        await worker
        for number in range(60):
            log = await store.read_events(run_id=f"long-{number}", from_index=0, limit=1_000)
            assert [event.index for event in log] == list(range(len(log)))
            assert await runtime.attach(f"long-{number}").result() == sum(range(30))


@workflow(id="asks")
async def asks(ctx: Context, whom: str) -> str:
    del whom
    return str(await ctx.wait_for_event("answer"))


@pytest.mark.real_time
async def test_long_script_stops_workers_and_nobody_who_starts_or_signals(
    dsn: str, admin: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers give up what waits for the log, again and again, and go on when it is there."""
    timeout = timedelta(seconds=0.3)
    async with PostgresWorkflowStore.connect(dsn, statement_timeout=timeout) as store:
        runtime = WorkflowRuntime(store=store, workflows=[long, asks], lease=timedelta(seconds=1))
        await runtime.start_run(asks, "ann", run_id="asks")
        await runtime.start_runs(long, (StartRun(30, run_id=f"long-{number}") for number in range(20)))
        stop = asyncio.Event()
        worker = asyncio.create_task(runtime.work(concurrency=8, handle_signals=False, stop=stop))
        await until(lambda: more_than(admin, 100))
        async with admin.transaction():
            await admin.execute(get_partition_sql(4, transaction=False))
            await runtime.start_run(long, 3, run_id="meanwhile")
            await runtime.deliver_signal("asks", "answer", "yes")
            assert await runtime.attach("meanwhile").status() in {"queued", "running"}

            async def some_gave_up() -> bool:
                return "did not answer in time" in caplog.text

            await until(some_gave_up)

        async def all_finished() -> bool:
            return (await store.count_runs()).get(RunStatus.FINISHED) == 22

        await until(all_finished)
        stop.set()
        await worker
        assert await runtime.attach("asks").result() == "yes"
        assert await runtime.attach("meanwhile").result() == 3
        assert {await runtime.attach(f"long-{number}").result() for number in range(20)} == {sum(range(30))}


async def more_than(admin: asyncpg.Connection, count: int) -> bool:
    return bool((await rows(admin))[0] > count)


async def divides(admin: asyncpg.Connection, partitions: int) -> bool:
    """Divide the log, and say whether that was possible: a worker may have had it for too long."""
    try:
        await admin.execute(get_partition_sql(partitions))
    except asyncpg.LockNotAvailableError:
        await admin.execute("ROLLBACK")
        return False
    return True
