"""The page about migration tools is true: each tool runs on a fresh database, again, and fails in the middle."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
import workflow_store_d1
import workflow_store_postgres
from workflow_migrations import Migration
from workflow_runtime.errors import SchemaBehindError, SchemaHalfAppliedError, SchemaMissingError
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import program

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
        path = os.pathsep.join([str(self.folder), *(entry for entry in sys.path if entry)])
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, said
        return said

    def alembic(self, *words: str, status: int = 0) -> str:
        return self.run(sys.executable, "-m", "alembic", *words, status=status)

    def django(self, *words: str, status: int = 0) -> str:
        return self.run(sys.executable, "-m", "django", *words, "--settings=settings", status=status)

    async def open(self) -> PostgresWorkflowStore | SQLiteWorkflowStore:
        if self.is_postgres:
            url = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
            return await PostgresWorkflowStore.connect(url)
        return await SQLiteWorkflowStore.open(str(self.url.database))

    async def recorded(self) -> list[str]:
        """Return the migrations that the tables say were applied."""
        engine = sa.create_engine(self.url)
        with engine.connect() as connection:
            found = connection.execute(sa.text("SELECT migration_id FROM workflow_schema_migrations ORDER BY 1"))
            names = [str(name) for (name,) in found]
        engine.dispose()
        return names

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


async def test_psql(postgres: Project) -> None:
    script = workflow_store_postgres.get_migration_sql()
    file = postgres.write("all.sql", script)
    broken = postgres.write("broken.sql", script.replace("COMMIT;", "SELECT 1 / 0;\n\nCOMMIT;", 1))
    dsn = postgres.url.set(drivername="postgresql").render_as_string(hide_password=False)
    psql = (program("psql"), "-X", "-v", "ON_ERROR_STOP=1", dsn)
    assert "division by zero" in postgres.run(*psql, "-f", broken, status=3)
    assert not await postgres.has_tables()
    postgres.run(*psql, "-f", file)
    assert await postgres.has_tables()
    assert "already exists" in postgres.run(*psql, "-f", file, status=3)
    assert await postgres.has_tables()
    assert "already exists" in postgres.run(program("psql"), "-X", dsn, "-f", file, status=0), "the page warns of it"


def test_each_documented_psql_stops_at_an_error() -> None:
    root = Path(__file__).parents[1]
    texts = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("packages/*/*.md")]
    texts += root.glob("packages/*/src/*/migrations/*.sql")
    lines = [line for path in texts for line in path.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if re.search(r"\bpsql\b.* -f ", line)]
    assert found
    assert [line for line in found if "ON_ERROR_STOP=1" not in line] == []


async def test_sqlite_script(sqlite: Project) -> None:
    script = workflow_store_d1.get_migration_sql(transaction=True)

    def apply(text: str) -> None:
        with closing(sqlite3.connect(str(sqlite.url.database))) as connection:
            connection.executescript(text)

    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        apply(script.replace("COMMIT;", "SELECT * FROM nowhere; COMMIT;", 1))
    assert not await sqlite.has_tables()
    apply(script)
    assert await sqlite.has_tables()
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        apply(script)
    assert await sqlite.has_tables()


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


async def test_alembic_applies_the_tables(postgres: Project) -> None:
    first, *later = workflow_store_postgres.get_migrations()
    start_alembic(postgres)
    write_revisions(postgres, [first])
    revision = postgres.folder / f"migrations/versions/{first.migration_id}.py"
    text = revision.read_text()
    revision.write_text(text.replace("def downgrade", "    raise RuntimeError('in the middle')\n\n\ndef downgrade"))
    assert "in the middle" in postgres.alembic("upgrade", "head", status=1)
    assert not await postgres.has_tables()
    revision.write_text(text)
    postgres.alembic("upgrade", "head")
    assert await postgres.recorded() == [first.migration_id]
    write_revisions(postgres, [first, *later])
    for _ in range(2):
        postgres.alembic("upgrade", "head")
        assert await postgres.recorded() == [one.migration_id for one in (first, *later)]
        assert await postgres.has_tables()
    assert generated(postgres) == ["op.create_table('orders'"]
    assert "hold your runs" in postgres.alembic("downgrade", "base", status=1)
    assert await postgres.has_tables()


async def test_alembic_builds_an_index_again_that_failed(postgres: Project) -> None:
    migrations = workflow_store_postgres.get_migrations()[:3]
    start_alembic(postgres)
    write_revisions(postgres, migrations)
    revision = postgres.folder / f"migrations/versions/{migrations[2].migration_id}.py"
    text = revision.read_text()
    last = "            op.execute(statement)\n"
    assert last in text
    revision.write_text(text.replace(last, last + "            1 / ('CREATE' not in statement)\n"))
    assert "division by zero" in postgres.alembic("upgrade", "head", status=1)
    assert await postgres.recorded() == [one.migration_id for one in migrations[:2]]
    revision.write_text(text)
    postgres.alembic("upgrade", "head")
    assert await postgres.recorded() == [one.migration_id for one in migrations]
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


async def test_django_applies_the_tables(project: Project) -> None:
    package = workflow_store_postgres if project.is_postgres else workflow_store_d1
    first, *later = package.get_migrations()
    start_django(project)
    write_django_migrations(project, [first])
    file = project.folder / "flows/migrations/0001_tables.py"
    text = file.read_text()
    fails = "\n\ndef fail(*_):\n    raise RuntimeError('in the middle')\n"
    broken = text.replace("ours.statements])]", "ours.statements]), migrations.RunPython(fail)]")
    assert broken != text
    file.write_text(broken.replace("\n\nclass Migration", fails + "\n\nclass Migration"))
    assert "in the middle" in project.django("migrate", status=1)
    assert not await project.has_tables()
    file.write_text(text)
    project.django("migrate")
    assert await project.recorded() == [first.migration_id]
    write_django_migrations(project, [first, *later])
    project.django("migrate")
    assert await project.recorded() == [one.migration_id for one in (first, *later)]
    assert await project.has_tables()
    assert "No migrations to apply" in project.django("migrate")
    assert "No changes detected" in project.django("makemigrations", "--check")
    assert "IrreversibleError" in project.django("migrate", "flows", "zero", status=1)
    assert await project.has_tables()


@pytest.mark.parametrize("package", [workflow_store_d1, workflow_store_postgres], ids=["d1", "postgres"])
def test_no_statement_holds_what_a_tool_takes_for_a_parameter(package: object) -> None:
    """`op.execute` of Alembic reads `:name`, and psycopg reads `%s`."""
    statements = [text for migration in package.get_migrations() for text in migration.statements]  # type: ignore[attr-defined]
    assert statements
    assert [text for text in statements if sa.text(text)._bindparams or re.search(r"%[sb(]", text)] == []
