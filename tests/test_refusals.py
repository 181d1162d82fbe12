"""The page about refusals is true: each is provoked on a real database, and its message is the page's."""

import asyncio
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import workflow_runtime.errors
import workflow_store_d1
import workflow_store_postgres
from workflow_migrations import Migration, checksum
from workflow_runtime.errors import WorkflowError
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore
from workflow_store_postgres.schema import SchemaInTransaction
from workflow_test_support.servers.postgres_databases import at_database
from workflow_test_support.workloads import tanstack

PAGE = (Path(__file__).parents[1] / "docs" / "refusals.md").read_text(encoding="utf-8")
ENTRY = re.compile(
    r"^### (?P<title>[^\n]+)\n\n`(?P<error>\w+)` of (?P<calls>[^.]+?)(?:, on (?P<store>Postgres|SQLite))?\.\n\n"
    r"```text\n(?P<message>.+?)\n```\n\n\S",
    re.MULTILINE | re.DOTALL,
)
CALL = re.compile(r"`([^`]+)`|(opening a store)")
WAIT = timedelta(seconds=0.3)
SPECIAL = {"place": r"(?:looked in schema '[^']+'; )?", "with": "(?: with psql)?"}


@dataclass(frozen=True)
class Entry:
    """A refusal as the page has it."""

    title: str
    error: type[WorkflowError]
    calls: frozenset[str]
    stores: tuple[str, ...]
    message: re.Pattern[str]


def entries() -> Iterator[Entry]:
    for found in ENTRY.finditer(PAGE):
        parts = re.split(r"<(\w+)>", found["message"])
        fixed = [re.escape(text) for text in parts[::2]]
        free = [SPECIAL.get(name, ".+?") for name in parts[1::2]]
        pattern = "".join(text + one for text, one in zip(fixed, [*free, ""], strict=True))
        yield Entry(
            title=found["title"],
            error=getattr(workflow_runtime.errors, found["error"]),
            calls=frozenset(name or opening for name, opening in CALL.findall(found["calls"])),
            stores=(found["store"],) if found["store"] else ("Postgres", "SQLite"),
            message=re.compile(pattern, re.DOTALL),
        )


ENTRIES = {entry.title: entry for entry in entries()}


class Database:
    """A database, as a scene leaves it, and the options of the store that meets it."""

    def __init__(self, store: str, place: str, monkeypatch: pytest.MonkeyPatch, stack: AsyncExitStack) -> None:
        self.is_postgres = store == "Postgres"
        self.package: Any = workflow_store_postgres if self.is_postgres else workflow_store_d1
        self.place = place
        self.monkeypatch = monkeypatch
        self.stack = stack
        self.options: dict[str, Any] = {}
        self.is_closed = False

    async def connect(self, **options: Any) -> asyncpg.Connection:
        connection = await asyncpg.connect(self.place, **options)
        self.stack.push_async_callback(connection.close)
        return connection

    async def execute(self, sql: str) -> None:
        if self.is_postgres:
            await (await self.connect()).execute(sql)
            return
        with closing(sqlite3.connect(self.place)) as connection:
            connection.executescript(sql)

    async def migrate(self, to_id: str | None = None) -> None:
        await self.execute(self.package.get_migration_sql(to_id=to_id, transaction=not self.is_postgres))

    def opening(self) -> Any:
        if self.is_postgres:
            return PostgresWorkflowStore.connect(self.place, **self.options)
        return SQLiteWorkflowStore.open(self.place, **self.options)

    async def call(self, name: str) -> None:
        if name == "opening a store":
            await (await self.opening()).close()
            return
        store = await self.opening()
        try:
            if self.is_closed:
                await store.close()
            waits = {"lock_timeout": WAIT} if self.is_postgres else {}
            calls: dict[str, Callable[[], Awaitable[None]]] = {
                "check_schema()": store.check_schema,
                "check_schema(deep=True)": lambda: store.check_schema(deep=True),
                "ensure_schema()": lambda: store.ensure_schema(**waits),
                "ensure_schema(contract=True)": lambda: store.ensure_schema(contract=True, **waits),
            }
            await calls[name]()
        finally:
            await store.close()


Scene = Callable[[Database], Awaitable[None]]
SCENES: list[tuple[str, Scene]] = []
IDS = [migration.migration_id for migration in workflow_store_d1.get_migrations()]
FIRST, EXPAND = IDS[:2]


def scene(title: str) -> Callable[[Scene], Scene]:
    def add(function: Scene) -> Scene:
        SCENES.append((title, function))
        return function

    return add


@scene("No tables")
async def nothing(database: Database) -> None: ...


@scene("Migrations are missing")
async def old(database: Database) -> None:
    await database.migrate(FIRST)


NEWER = """
INSERT INTO workflow_schema_migrations
    (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES ('0099_contract_much', '{}', '9.0.0', {}, NULL, 1)
"""


async def newer(database: Database, oldest_code: str) -> None:
    await database.migrate()
    await database.execute(NEWER.format(database.package.__name__.replace("_", "-"), oldest_code))


@scene("The database is newer and says what it needs")
async def newer_with_version(database: Database) -> None:
    await newer(database, "'9.0.0'")


@scene("The database is newer and does not say what it needs")
async def newer_without_version(database: Database) -> None:
    await newer(database, "NULL")


@scene("The first migration stopped in the middle")
async def half(database: Database) -> None:
    await database.execute(";".join(database.package.get_migrations()[0].statements[:3]))


@scene("Only the record of a later migration is missing")
async def unrecorded(database: Database) -> None:
    await database.migrate(FIRST)
    await database.execute(database.package.get_migrations()[1].statements[0])


@scene("A later migration stopped in the middle")
async def unfinished(database: Database) -> None:
    name = database.package.__name__.replace("_", "-")
    number = len(database.package.get_migrations())
    migration_id = f"{number:04}_expand_note"
    sql = f"""
    ALTER TABLE workflow_runs ADD COLUMN note text;
    CREATE INDEX workflow_runs_note ON workflow_runs (note);
    {NEWER.format(name, "'0.1.0'").replace("0099_contract_much", migration_id)};
    """
    later = Migration(migration_id=migration_id, number=number, sql=sql, checksum=checksum(sql))
    migrations = (*database.package.get_migrations(), later)
    await database.migrate()
    await database.execute(later.statements[0])
    database.monkeypatch.setattr(database.package.schema, "get_migrations", lambda: migrations)


@scene("Another package's record")
async def another_package(database: Database) -> None:
    await database.migrate()
    await database.execute("UPDATE workflow_schema_migrations SET package_name = 'another'")


@scene("A record of another shape")
async def tanstack_workflow(database: Database) -> None:
    await database.execute(tanstack.script("postgres" if database.is_postgres else "sqlite"))


@scene("Tables without a record")
async def table(database: Database) -> None:
    await database.execute("CREATE TABLE workflow_timers (id INTEGER)")


@scene("Tables without a record")
async def view(database: Database) -> None:
    await database.execute("CREATE VIEW workflow_runs AS SELECT 1 AS run_id")


@scene("Tables without a record")
async def sequence_or_index(database: Database) -> None:
    if database.is_postgres:
        await database.execute(
            "CREATE SEQUENCE workflow_runs; CREATE TABLE a (b int); CREATE INDEX workflow_events ON a (b)"
        )
    else:
        await database.migrate()
        await database.execute("DROP TABLE workflow_schema_migrations")


@scene("Another table beside an empty record")
async def beside(database: Database) -> None:
    await database.execute(database.package.get_migrations()[0].statements[0])
    await database.execute("CREATE TABLE workflow_timers (id INTEGER)")


@scene("Another table beside an empty record")
async def view_beside(database: Database) -> None:
    await database.execute(database.package.get_migrations()[0].statements[0])
    await database.execute("CREATE VIEW workflow_runs AS SELECT 1 AS run_id")


@scene("An edited migration")
async def edited(database: Database) -> None:
    await database.migrate()
    await database.execute(f"UPDATE workflow_schema_migrations SET checksum = 'x' WHERE migration_id = '{EXPAND}'")


@scene("A gap")
async def gap(database: Database) -> None:
    await database.migrate()
    await database.execute(f"DELETE FROM workflow_schema_migrations WHERE migration_id = '{EXPAND}'")


@scene("Tables that somebody has changed")
async def damaged(database: Database) -> None:
    await database.migrate()
    await database.execute("DROP INDEX workflow_runs_created; DROP TABLE workflow_timers")


async def in_production(database: Database, environment: str | None) -> None:
    await database.migrate()
    await database.execute("UPDATE workflow_schema_migrations SET environment = 'production'")
    database.options["environment"] = environment


@scene("Another environment")
async def another_environment(database: Database) -> None:
    await in_production(database, "staging")


@scene("A store without an environment")
async def no_environment(database: Database) -> None:
    await in_production(database, None)


@scene("An encoding that cannot hold every text")
async def encoding(database: Database) -> None:
    name = f"workflow_test_refusals_{os.getpid()}"
    await database.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    server = await database.connect()
    database.stack.push_async_callback(server.execute, f"DROP DATABASE {name} WITH (FORCE)")
    database.place = at_database(database.place, name)


@scene("Another migration that does not end")
async def another_migration(database: Database) -> None:
    connection = await database.connect(server_settings={"application_name": "the deploy"})
    async with PostgresWorkflowStore.connect(database.place) as store, store._sender.transaction() as lent:
        key = await SchemaInTransaction(store._sender, lent, None).lock_key()
    await connection.execute("BEGIN")
    assert await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", key)


@scene("A transaction in the way of a change")
async def report(database: Database) -> None:
    await database.migrate(FIRST)
    connection = await database.connect(server_settings={"application_name": "the report"})
    await connection.execute("BEGIN; SELECT * FROM workflow_schema_migrations")


@scene("An index that another process builds")
async def builder(database: Database) -> None:
    await database.migrate(EXPAND)
    writer, other, observer = [await database.connect() for _ in range(3)]
    await writer.execute("BEGIN; UPDATE workflow_event_locks SET crashes = crashes")
    building = asyncio.create_task(other.execute(database.package.get_migrations()[2].statements[1]))

    async def end() -> None:
        await writer.execute("ROLLBACK")
        with suppress(asyncpg.PostgresError):
            await building

    database.stack.push_async_callback(end)
    async with asyncio.timeout(30):  # real time is the subject
        while not await observer.fetchval("SELECT to_regclass('workflow_event_locks_failed') IS NOT NULL"):
            await asyncio.sleep(0.02)


@scene("A file that another process writes to")
async def locked(database: Database) -> None:
    await database.migrate(FIRST)
    database.options["busy_timeout"] = WAIT
    await (await database.opening()).close()  # which turns the file over to a write-ahead log
    writer = sqlite3.connect(database.place, isolation_level=None)
    database.stack.callback(writer.close)
    writer.execute("BEGIN IMMEDIATE")


ROLE = f"refused_{os.getpid()}"


async def as_role(database: Database, *grants: str) -> None:
    await database.execute(f"CREATE ROLE {ROLE}")
    admin = await database.connect()
    database.stack.push_async_callback(admin.execute, f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")
    for grant in ("REVOKE ALL ON SCHEMA public FROM PUBLIC", *grants):
        await admin.execute(grant)
    database.options["server_settings"] = {"role": ROLE}


@scene("No right to create")
async def no_create(database: Database) -> None:
    await as_role(database, f"GRANT USAGE ON SCHEMA public TO {ROLE}")


@scene("No right to create")
async def no_create_of_a_schema(database: Database) -> None:
    await as_role(database)
    database.options["schema"] = "workflows"


@scene("No right to change a table")
async def no_owner(database: Database) -> None:
    await database.migrate(FIRST)
    grants = (f"GRANT ALL ON SCHEMA public TO {ROLE}", f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")
    await as_role(database, *grants)


@scene("No right to read the record")
async def no_select(database: Database) -> None:
    await database.migrate()
    await as_role(database, f"GRANT USAGE ON SCHEMA public TO {ROLE}")


@scene("No right to read the record")
async def no_usage(database: Database) -> None:
    await database.migrate()
    await as_role(database)
    database.options["schema"] = "public"


@scene("No schema on the search path")
async def no_schema(database: Database) -> None:
    database.options["server_settings"] = {"search_path": "nowhere"}


@scene("A closed store")
async def closed(database: Database) -> None:
    database.is_closed = True


@scene("A name that SQLite keeps for itself")
async def reserved(database: Database) -> None:
    database.options["tables"] = {"runs": "sqlite_runs"}


@pytest.fixture
async def database(
    request: pytest.FixtureRequest, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_dsn: str
) -> AsyncIterator[Database]:
    place = empty_dsn if store == "Postgres" else str(tmp_path / "app.db")
    async with AsyncExitStack() as stack:
        yield Database(store, place, monkeypatch, stack)


@pytest.mark.parametrize(
    ("title", "provoke", "store"),
    [
        pytest.param(title, function, store, id=f"{function.__name__}-{store}")
        for title, function in SCENES
        for store in ENTRIES[title].stores
    ],
)
async def test_database_is_refused_in_the_words_of_the_page(title: str, provoke: Scene, database: Database) -> None:
    entry = ENTRIES[title]
    await provoke(database)
    for call in sorted(entry.calls):
        with pytest.raises(WorkflowError) as refused:
            await database.call(call)
        assert type(refused.value) is entry.error
        assert entry.message.fullmatch(str(refused.value)), str(refused.value)
    for call in ("check_schema()", "ensure_schema()"):
        if call not in entry.calls:
            try:
                await database.call(call)
            except WorkflowError as error:
                assert not entry.message.fullmatch(str(error)), f"{call} says so too"  # noqa: PT017  # it need not fail


# What no database is needed for.

ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "Names that cannot work": [
        {"tables": tables}
        for tables in (
            {"nope": "x"},
            {"runs": ""},
            {"runs": 5},
            {"runs": "a\0"},
            {"runs": "\ud800"},
            {"runs": "x" * 64},
            {"runs": "Workflow_Timers"},
        )
    ],
    "A schema that cannot work": [{"schema": name} for name in ("", "a\0", 5, "x" * 64, "\ud800")],
    "An environment that cannot work": [{"environment": name} for name in ("", " x", "a\nb", 5)],
    "An id that is not shipped": [{"ids": ["0099_x"]}, {"from_id": "0099_x"}, {"to_id": "0099_x"}],
}


@pytest.mark.parametrize(
    ("title", "arguments", "store"),
    [
        pytest.param(title, arguments, store, id=f"{title}-{number}-{store}")
        for title, several in ARGUMENTS.items()
        for number, arguments in enumerate(several)
        for store in ENTRIES[title].stores
    ],
)
async def test_arguments_are_refused_in_the_words_of_the_page(
    title: str, arguments: dict[str, Any], store: str, tmp_path: Path
) -> None:
    entry = ENTRIES[title]
    package: Any = workflow_store_postgres if store == "Postgres" else workflow_store_d1

    async def open_store() -> None:
        if store == "Postgres":
            await PostgresWorkflowStore.connect("postgresql://unused", **arguments)
        else:
            await SQLiteWorkflowStore.open(tmp_path / "app.db", **arguments)

    async def get(name: str) -> None:
        getattr(package, name.removesuffix("()"))(**arguments)

    for call in sorted(entry.calls):
        with pytest.raises(WorkflowError) as refused:
            await (open_store() if call == "opening a store" else get(call))
        assert type(refused.value) is entry.error
        assert entry.message.fullmatch(str(refused.value)), str(refused.value)


def test_every_entry_of_the_page_is_provoked() -> None:
    headings = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
    assert headings == [*ENTRIES], "each has its error, its calls, its message and what to do"
    assert {title for title, _ in SCENES} | {*ARGUMENTS} == {*ENTRIES}
