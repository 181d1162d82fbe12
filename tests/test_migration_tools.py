"""The page about migration tools is true: each tool makes new tables, upgrades, fails in the middle, and runs again."""

import asyncio
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
import workflow_store_d1
import workflow_store_postgres
from workflow_migrations import Migration, join_migrations
from workflow_runtime.errors import (
    SchemaBehindError,
    SchemaHalfAppliedError,
    SchemaMissingError,
    SchemaUnrecordedError,
    StoreOperationError,
)
from workflow_store_d1 import D1WorkflowStore, SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.d1_server import D1Server, d1_server
from workflow_test_support.servers.node_tools import wrangler
from workflow_test_support.servers.postgres_databases import run_aside
from workflow_test_support.servers.postgres_server import program
from workflow_test_support.servers.worker_database import WorkerD1Database, open_empty

PAGE = (Path(__file__).parents[1] / "docs" / "migration-tools.md").read_text(encoding="utf-8")
HOOKS, ALEMBIC_REVISION, DJANGO_MIGRATION = re.findall(r"^```py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
MODELS = """
import sqlalchemy as sa

metadata = sa.MetaData()
sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True))
"""
SETTINGS = """
SECRET_KEY = "of a test"
INSTALLED_APPS = ["shop", "flows"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {{"default": {database!r}}}
"""


class Project:
    """A folder in which commands run, and the database that they change."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = sa.make_url(url)
        self.is_postgres = self.url.get_backend_name() == "postgresql"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, encoding="utf-8")
        return path

    def run(self, *command: object, status: int = 0) -> str:
        """Run a command here; it must end with this status."""
        ended, said = self.tried(*command)
        assert ended == status, said
        return said

    def tried(self, *command: object, said_to_it: str | None = None) -> tuple[int, str]:
        """Run a command here, and return its status and what it printed."""
        path = os.pathsep.join([str(self.folder), *(entry for entry in sys.path if entry)])
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            input=said_to_it,
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def alembic(self, *words: str, status: int = 0) -> str:
        return self.run(sys.executable, "-m", "alembic", *words, status=status)

    def django(self, *words: str, status: int = 0) -> str:
        return self.run(sys.executable, "-m", "django", *words, "--settings=settings", status=status)

    async def open(self) -> PostgresWorkflowStore | SQLiteWorkflowStore:
        if self.is_postgres:
            url = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
            return await PostgresWorkflowStore.connect(url)
        return await SQLiteWorkflowStore.open(str(self.url.database))

    async def has_tables(self) -> bool:
        """Return True if the store finds everything, False if it finds nothing."""
        store = await self.open()
        try:
            await store.check_schema()
        except SchemaMissingError:
            return False
        finally:
            await store.close()
        return True


@pytest.fixture
def postgres(empty_dsn: str, tmp_path: Path) -> Project:
    return Project(tmp_path, empty_dsn.replace("postgresql://", "postgresql+psycopg://"))


@pytest.fixture
def sqlite(tmp_path: Path) -> Project:
    return Project(tmp_path, f"sqlite:///{tmp_path / 'app.db'}")


@pytest.fixture(params=["postgres", "sqlite"])
def project(request: pytest.FixtureRequest, postgres: Project, sqlite: Project) -> Project:
    return {"postgres": postgres, "sqlite": sqlite}[request.param]


# psql and sqlite3.


async def test_psql_goes_on_after_an_error_unless_it_is_told_otherwise(postgres: Project) -> None:
    file = postgres.write("all.sql", workflow_store_postgres.get_migration_sql())
    dsn = postgres.url.set(drivername="postgresql").render_as_string(hide_password=False)
    for said in ("", "already exists"):
        assert said in postgres.run(program("psql"), "-X", dsn, "-f", file, status=0), "the page warns of it"
    assert await postgres.has_tables()


def test_each_documented_psql_stops_at_an_error() -> None:
    root = Path(__file__).parents[1]
    texts = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("packages/*/*.md")]
    texts += root.glob("packages/*/src/*/migrations/*.sql")
    lines = [line for path in texts for line in path.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if re.search(r"\bpsql\b.* -f ", line)]
    assert found
    assert [line for line in found if "ON_ERROR_STOP=1" not in line] == []


# Alembic.


def start_alembic(project: Project) -> None:
    project.alembic("init", "migrations")
    project.write("models.py", MODELS)
    url = project.url.render_as_string(hide_password=False)
    ini = (project.folder / "alembic.ini").read_text()
    project.write("alembic.ini", re.sub(r"(?m)^sqlalchemy\.url = .*$", lambda _: f"sqlalchemy.url = {url}", ini))
    env = (project.folder / "migrations/env.py").read_text()
    arguments = r"\n +connection=connection, target_metadata=target_metadata\n +"
    configure = re.compile(rf"( +)context\.configure\({arguments}\)\n")
    env, count = configure.subn(lambda found: textwrap.indent(HOOKS, found[1]), env)
    assert count == 1
    env = env.replace("target_metadata = None", "from models import metadata as target_metadata")
    project.write("migrations/env.py", env)


def generated(project: Project) -> list[str]:
    """Return the operations of a revision that Alembic generates. It isn't kept."""
    before = set((project.folder / "migrations/versions").glob("*.py"))
    project.alembic("revision", "--autogenerate", "-m", "look")
    [made] = set((project.folder / "migrations/versions").glob("*.py")) - before
    text = made.read_text()
    made.unlink()
    return re.findall(r"op\.\w+\(\s*'\w+'", text.partition("def downgrade")[0])


async def test_alembic_generates_nothing_for_our_tables(project: Project) -> None:
    store = await project.open()
    await store.ensure_schema()
    await store.close()
    start_alembic(project)
    assert generated(project) == ["op.create_table('orders'"]
    env = (project.folder / "migrations/env.py").read_text()
    project.write("migrations/env.py", re.sub(r"include_\w+=hidden\.include_\w+,", "", env))
    assert "op.drop_table('workflow_runs'" in generated(project), "it would do so without the hooks, as the page says"


def write_revisions(project: Project, migrations: Sequence[Migration]) -> None:
    """Write a revision for each migration, as the page shows it."""
    for number, migration in enumerate(migrations):
        text = ALEMBIC_REVISION.replace("0000_workflow_store", migration.migration_id)
        text = text.replace("0a0000000001", f"0a000000000{number}")
        if number:
            text = text.replace("down_revision = None", f'down_revision = "0a000000000{number - 1}"')
        project.write(f"migrations/versions/{migration.migration_id}.py", text)


async def test_alembic_does_not_go_back(postgres: Project) -> None:
    start_alembic(postgres)
    write_revisions(postgres, workflow_store_postgres.get_migrations())
    postgres.alembic("upgrade", "head")
    assert "hold your runs" in postgres.alembic("downgrade", "base", status=1)
    assert await postgres.has_tables()


def test_alembic_writes_the_script_of_a_transaction(postgres: Project) -> None:
    start_alembic(postgres)
    write_revisions(postgres, workflow_store_postgres.get_migrations()[:2])
    sql = postgres.alembic("upgrade", "head", "--sql")
    assert "CREATE TABLE workflow_runs" in sql
    assert sql.count("COMMIT") <= 2


def test_alembic_on_sqlite_keeps_what_a_failed_revision_did(sqlite: Project) -> None:
    """So the page sends those who use SQLite to `ensure_schema`."""
    start_alembic(sqlite)
    failing = ALEMBIC_REVISION.replace("def downgrade", "    raise RuntimeError('in the middle')\n\n\ndef downgrade")
    sqlite.write("migrations/versions/first.py", failing.replace("store_postgres", "store_d1"))
    assert "in the middle" in sqlite.alembic("upgrade", "head", status=1)
    with closing(sqlite3.connect(str(sqlite.url.database))) as connection:
        assert ("workflow_runs",) in connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert "already exists" in sqlite.alembic("upgrade", "head", status=1)

    async def check() -> None:
        async with SQLiteWorkflowStore.open(str(sqlite.url.database)) as store:
            await store.check_schema()

    with pytest.raises(SchemaHalfAppliedError) as told:
        asyncio.run(check())
    with closing(sqlite3.connect(str(sqlite.url.database))) as connection:
        for table in told.value.tables:
            connection.execute(f"DROP TABLE {table}")
    sqlite.write("migrations/versions/first.py", ALEMBIC_REVISION.replace("store_postgres", "store_d1"))
    sqlite.alembic("upgrade", "head")
    with pytest.raises(SchemaBehindError):
        asyncio.run(check())


# Django.


def start_django(project: Project) -> None:
    url = project.url
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": url.database}
    if project.is_postgres:
        database = {"ENGINE": "django.db.backends.postgresql", "NAME": url.database, "USER": url.username or ""}
        database |= {"HOST": url.host or "", "PORT": str(url.port or ""), "PASSWORD": url.password or ""}
    project.write("settings.py", SETTINGS.format(database=database))
    for name in ("shop", "flows"):
        project.write(f"{name}/__init__.py", "")
        project.write(f"{name}/migrations/__init__.py", "")
    project.write("shop/models.py", "from django.db import models\n\n\nclass Order(models.Model):\n    pass\n")
    project.django("makemigrations", "shop")


def write_django_migrations(project: Project, migrations: Sequence[Migration]) -> None:
    for number, migration in enumerate(migrations):
        text = DJANGO_MIGRATION.replace("0000_workflow_store", migration.migration_id)
        if number:
            text = text.replace("dependencies = []", f'dependencies = [("flows", "000{number}_tables")]')
        if not project.is_postgres:
            text = text.replace("store_postgres", "store_d1")
        project.write(f"flows/migrations/000{number + 1}_tables.py", text)


async def test_django_does_not_go_back(project: Project) -> None:
    package = workflow_store_postgres if project.is_postgres else workflow_store_d1
    start_django(project)
    write_django_migrations(project, package.get_migrations())
    project.django("migrate")
    assert "IrreversibleError" in project.django("migrate", "flows", "zero", status=1)
    assert await project.has_tables()


@pytest.mark.parametrize("package", [workflow_store_d1, workflow_store_postgres], ids=["d1", "postgres"])
def test_no_statement_holds_what_a_tool_takes_for_a_parameter(package: object) -> None:
    """`op.execute` of Alembic reads `:name`, and psycopg reads `%s`."""
    statements = [text for migration in package.get_migrations() for text in migration.statements]  # type: ignore[attr-defined]
    assert statements
    assert [text for text in statements if sa.text(text)._bindparams or re.search(r"%[sb(]", text)] == []


# What each tool does: the table of the page.

MADE, FILES, MISSING = "made", "give it the new files", "applies what is missing"
NOTHING, NOTHING_OF_CALL = "nothing of its migration stays", "nothing of the call stays"
INDEX, STAYS = "nothing of its migration stays but an index", "what ran stays"
REFUSED, DONE = "refused, nothing changes", "nothing to do"
HOOKED, ALONE, NO = "leaves our tables alone, with the hooks", "leaves our tables alone", "–"

OUTCOMES = {
    ("psql", "Postgres"): (MADE, FILES, INDEX, REFUSED, NO),
    ("`get_migration_sql(transaction=False)`, asyncpg", "Postgres"): (MADE, FILES, NOTHING_OF_CALL, REFUSED, NO),
    ("Alembic", "Postgres"): (MADE, MISSING, INDEX, DONE, HOOKED),
    ("Django", "Postgres"): (MADE, MISSING, INDEX, DONE, ALONE),
    ("`ensure_schema(contract=True)`", "Postgres"): (MADE, MISSING, INDEX, DONE, NO),
    ("sqlite3, the shell", "SQLite"): (MADE, FILES, NOTHING, REFUSED, NO),
    ("`get_migration_sql(transaction=True)`, sqlite3 of Python", "SQLite"): (MADE, FILES, NOTHING, REFUSED, NO),
    ("Alembic", "SQLite"): (MADE, MISSING, STAYS, DONE, HOOKED),
    ("Django", "SQLite"): (MADE, MISSING, NOTHING, DONE, ALONE),
    ("`ensure_schema(contract=True)`", "SQLite"): (MADE, MISSING, NOTHING, DONE, NO),
    ("`wrangler d1 execute --file`", "D1"): (MADE, FILES, NOTHING, REFUSED, NO),
    ("`wrangler d1 migrations apply`", "D1"): (MADE, MISSING, NOTHING, DONE, NO),
    ("`ensure_schema(contract=True)`", "D1"): (MADE, MISSING, NOTHING, DONE, NO),
}
"""By tool and database: new tables, an upgrade of those of 0000, a failure in the middle, once more, autogeneration."""

BROKEN = {True: "CAST(1 / 0 AS text)", False: "json('{')"}
THERE = {
    True: """
        SELECT relname::text FROM pg_class WHERE relname LIKE 'workflow%'
        UNION ALL SELECT relation.relname || '.' || attname FROM pg_attribute
        INNER JOIN pg_class AS relation ON relation.oid = attrelid WHERE relation.relname = 'workflow_schema_migrations'
    """,
    False: """
        SELECT name FROM sqlite_master WHERE name LIKE 'workflow%'
        UNION ALL SELECT 'workflow_schema_migrations.' || name FROM pragma_table_info('workflow_schema_migrations')
    """,
}
RECORDS = "SELECT migration_id FROM workflow_schema_migrations ORDER BY migration_id"
ENVIRONMENT, FAILED = "workflow_schema_migrations.environment", "workflow_event_locks_failed"


class Tool:
    """A tool at work on a database of its own."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project = project
        self.is_postgres = project.is_postgres
        self.package: Any = workflow_store_postgres if self.is_postgres else workflow_store_d1
        self.monkeypatch = monkeypatch

    async def apply(self, known: Sequence[Migration], new: Sequence[Migration]) -> str:
        """Apply the new ones, or what is missing of all that are known. Return what a failure said, or nothing."""
        raise NotImplementedError

    async def autogenerate(self) -> str:
        return NO

    def close(self) -> None: ...

    def start_afresh(self) -> None:
        Path(str(self.project.url.database)).unlink()

    async def ask(self, sql: str) -> list[str]:
        engine = sa.create_engine(self.project.url)
        with engine.connect() as connection:
            names = [str(name) for (name,) in connection.execute(sa.text(sql))]
        engine.dispose()
        return names

    async def open(self) -> Any:
        return await self.project.open()

    def broken(self, migration: Migration) -> Migration:
        """Return a migration that fails where it is recorded."""
        before, insert, after = migration.sql.rpartition("INSERT INTO workflow_schema_migrations")
        fails = f"{insert} (migration_id) SELECT {BROKEN[self.is_postgres]};"
        return replace(migration, sql=before + fails + after.partition(";")[2])


class FileTool(Tool):
    """A tool that gets files."""

    def command(self, files: Sequence[Path]) -> Iterator[tuple[int, str]]:
        raise NotImplementedError

    async def apply(self, known: Sequence[Migration], new: Sequence[Migration]) -> str:
        files = [self.project.write(f"{one.migration_id}.sql", one.sql) for one in new]
        return next((said for status, said in self.command(files) if status), "")


class Psql(FileTool):
    def command(self, files: Sequence[Path]) -> Iterator[tuple[int, str]]:
        dsn = self.project.url.set(drivername="postgresql").render_as_string(hide_password=False)
        options = [word for file in files for word in ("-f", file)]
        yield self.project.tried(program("psql"), "-X", "-v", "ON_ERROR_STOP=1", dsn, *options)


class SQLiteShell(Tool):
    async def apply(self, known: Sequence[Migration], new: Sequence[Migration]) -> str:
        script = "".join(f"BEGIN IMMEDIATE;\n{one.sql}\nCOMMIT;\n" for one in new)
        status, said = self.project.tried("sqlite3", "-bail", self.project.url.database, said_to_it=script)
        return said if status else ""


class Driver(Tool):
    """The script of the getter, in one call of a driver."""

    def script(self, new: Sequence[Migration], *, transaction: bool) -> str:
        shipped = {one.migration_id: one for one in self.package.get_migrations()}
        if all(one == shipped[one.migration_id] for one in new):
            ids = [one.migration_id for one in new]
            return str(self.package.get_migration_sql(ids=ids, transaction=transaction))
        if self.is_postgres:
            return join_migrations(new, transaction=transaction)
        return "".join(f"BEGIN IMMEDIATE;\n{one.sql}\nCOMMIT;\n" for one in new)

    async def apply(self, known: Sequence[Migration], new: Sequence[Migration]) -> str:
        try:
            await self.send(new)
        except (asyncpg.PostgresError, sqlite3.Error) as error:
            return str(error)
        return ""

    async def send(self, new: Sequence[Migration]) -> None:
        if not self.is_postgres:
            with closing(sqlite3.connect(str(self.project.url.database))) as database:
                database.executescript(self.script(new, transaction=True))
            return
        dsn = self.project.url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(self.script(new, transaction=False))
        finally:
            await connection.close()


class Alembic(Tool):
    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(project, monkeypatch)
        start_alembic(project)

    async def apply(self, known: Sequence[Migration], new: Sequence[Migration]) -> str:
        write_revisions(self.project, known)
        for one in known:
            file = self.project.folder / f"migrations/versions/{one.migration_id}.py"
            text = file.read_text().replace("workflow_store_postgres", self.package.__name__)
            file.write_text(broken_text(text, one, "migration.statements"))
        status, said = self.project.tried(sys.executable, "-m", "alembic", "upgrade", "head")
        return said if status else ""

    async def autogenerate(self) -> str:
        return HOOKED if generated(self.project) == ["op.create_table('orders'"] else ""


class Django(Tool):
    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(project, monkeypatch)
        start_django(project)

    async def apply(self, known: Sequence[Migration], new: Sequence[Migration]) -> str:
        write_django_migrations(self.project, known)
        for number, one in enumerate(known, 1):
            file = self.project.folder / f"flows/migrations/000{number}_tables.py"
            file.write_text(broken_text(file.read_text(), one, "ours.statements"))
        status, said = self.project.tried(sys.executable, "-m", "django", "migrate", "--settings=settings")
        return said if status else ""

    async def autogenerate(self) -> str:
        return ALONE if "No changes detected" in self.project.django("makemigrations", "--check") else ""


def broken_text(text: str, migration: Migration, statements: str) -> str:
    """Return a revision that sends the statements of this migration, if it is a broken one."""
    last = migration.statements[-1]
    return text if "VALUES" in last else text.replace(statements, f"(*{statements}[:-1], {last!r})")


class EnsureSchema(Tool):
    async def apply(self, known: Sequence[Migration], new: Sequence[Migration]) -> str:
        store = await self.open()
        with self.monkeypatch.context() as patch:
            patch.setattr(self.package.schema, "get_migrations", lambda: tuple(known))
            try:
                await store.ensure_schema(contract=True)
            except StoreOperationError as error:
                return str(error)
            finally:
                await store.close()
        return ""


class EnsureSchemaOnD1(EnsureSchema):
    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(project, monkeypatch)
        self.database = WorkerD1Database(str(project.url.query["d1"]), "DB")

    async def open(self) -> Any:
        return D1WorkflowStore(self.database)

    async def ask(self, sql: str) -> list[str]:
        return [str(next(iter(row.values()))) for row in (await self.database.prepare(sql).all()).results]

    def close(self) -> None:
        self.database.close()


WRANGLER_SETTINGS = {
    "name": "app",
    "compatibility_date": "2026-01-01",
    "d1_databases": [{"binding": "DB", "database_name": "DB", "database_id": "00000000-0000-0000-0000-000000000001"}],
}


class WranglerExecute(FileTool):
    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(project, monkeypatch)
        project.write("wrangler.jsonc", json.dumps(WRANGLER_SETTINGS))
        (project.folder / "migrations").mkdir()

    def wrangle(self, *words: str) -> tuple[int, str]:
        try:
            said = 0, wrangler(self.project.folder, "d1", *words, "--local")
        except OSError as error:
            said = 1, str(error)
        [file] = (self.project.folder / ".wrangler/state/v3/d1/miniflare-D1DatabaseObject").glob("[0-9a-f]*.sqlite")
        self.project.url = sa.make_url(f"sqlite:///{file}")
        return said

    def command(self, files: Sequence[Path]) -> Iterator[tuple[int, str]]:
        if len(files) > 2:  # each call takes seconds, and these files are good
            files = [self.project.write("rest.sql", "".join(file.read_text() for file in files))]
        for file in files:
            yield self.wrangle("execute", "DB", "--file", file.name)


class WranglerMigrations(WranglerExecute):
    async def apply(self, known: Sequence[Migration], new: Sequence[Migration]) -> str:
        for one in known:
            self.project.write(f"migrations/{one.migration_id}.sql", one.sql)
        status, said = self.wrangle("migrations", "apply", "DB")
        return said if status else ""


TOOLS: dict[tuple[str, str], type[Tool]] = dict(
    zip(
        OUTCOMES,
        [
            *(Psql, Driver, Alembic, Django, EnsureSchema),
            *(SQLiteShell, Driver, Alembic, Django, EnsureSchema),
            *(WranglerExecute, WranglerMigrations, EnsureSchemaOnD1),
        ],
        strict=True,
    )
)


def test_page_has_the_table_of_what_each_tool_does() -> None:
    heads = ("Tool", "Database", "New tables", "Upgrade", "Failure in the middle", "Once more", "Autogeneration")
    lines = [f"| {' | '.join(row)} |" for row in (heads, *((*tool, *cells) for tool, cells in OUTCOMES.items()))]
    table = "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])
    assert f"\n\n{table}\n\n" in PAGE


@pytest.fixture(scope="module")
def d1() -> Iterator[D1Server]:
    with d1_server(("DB",)) as server:
        yield server


async def empty(d1: D1Server) -> None:
    async with open_empty(d1.url):
        pass


@pytest.fixture
def tool(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tool]:
    """The tool of the case, on an empty database."""
    name, database = request.param
    if name.startswith("sqlite3, the shell") and shutil.which("sqlite3") is None:
        pytest.skip("the shell of SQLite is not installed here")
    url = f"sqlite:///{tmp_path / 'app.db'}"
    if database == "Postgres":
        url = request.getfixturevalue("empty_dsn").replace("postgresql://", "postgresql+psycopg://")
    elif TOOLS[name, database] is EnsureSchemaOnD1:
        server: D1Server = request.getfixturevalue("d1")
        run_aside(empty(server))
        url = f"{url}?d1={server.url}"
    with closing(TOOLS[name, database](Project(tmp_path, url), monkeypatch)) as tool:
        yield tool


each_tool = pytest.mark.parametrize(
    ("tool", "outcome"),
    [pytest.param(key, outcome, id="-".join(key)) for key, outcome in OUTCOMES.items()],
    indirect=["tool"],
)


async def check_all(tool: Tool) -> None:
    assert await tool.ask(RECORDS) == [one.migration_id for one in tool.package.get_migrations()]
    store = await tool.open()
    try:
        await store.check_schema(deep=True)
    finally:
        await store.close()


@each_tool
async def test_tool_makes_new_tables(tool: Tool, outcome: tuple[str, ...]) -> None:
    _, _, failure, again, autogeneration = outcome
    migrations = tool.package.get_migrations()
    broken = tool.broken(migrations[0])
    assert await tool.apply([broken, *migrations[1:]], [broken])
    assert bool(await tool.ask(THERE[tool.is_postgres])) == (failure == STAYS)
    if failure == STAYS:
        assert "already exists" in await tool.apply(migrations, migrations)
        tool.start_afresh()
    assert await tool.apply(migrations, migrations) == ""
    await check_all(tool)
    before = await tool.ask(THERE[tool.is_postgres])
    said = await tool.apply(migrations, migrations)
    assert again == ((REFUSED if "already exists" in said else said) or DONE)
    assert await tool.ask(THERE[tool.is_postgres]) == before
    await check_all(tool)
    assert await tool.autogenerate() == autogeneration


HOW_FAR = {(1, False): NOTHING_OF_CALL, (2, False): NOTHING, (2, True): INDEX}
"""What stays of 0001 and a broken 0002, by the number of records, and by whether the index is there."""


@each_tool
async def test_tool_upgrades_tables(tool: Tool, outcome: tuple[str, ...]) -> None:
    _, upgrade, failure, again, _ = outcome
    first, expand, online, *_ = migrations = tool.package.get_migrations()
    assert await tool.apply([first], [first]) == ""
    broken = tool.broken(expand)
    assert await tool.apply([first, broken], [broken])
    assert (ENVIRONMENT in await tool.ask(THERE[tool.is_postgres])) == (failure == STAYS)
    if failure == STAYS:
        store = await tool.open()
        with pytest.raises(SchemaUnrecordedError) as told:
            await store.ensure_schema()
        await store.close()
        assert told.value.left == expand.statements[-1:], "the store has the way on"
        tool.start_afresh()
    broken = tool.broken(online)
    assert await tool.apply([first, expand, broken], [expand, broken])
    records = len(await tool.ask(RECORDS))
    stayed = HOW_FAR[records, FAILED in await tool.ask(THERE[tool.is_postgres])]
    assert stayed == (INDEX if failure == STAYS else failure)
    if failure == STAYS:
        assert "already exists" in await tool.apply(migrations, migrations)
        tool.start_afresh()
        assert await tool.apply([first], [first]) == ""
    assert await tool.apply(migrations, migrations[records:]) == ""
    await check_all(tool)
    assert upgrade == (FILES if again == REFUSED else MISSING)
