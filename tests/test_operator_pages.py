"""The pages for operators are true: their SQL, commands and numbers, on real servers, files and processes."""

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from workflow_runtime import (
    Context,
    Every,
    RunStatus,
    Schedule,
    StoreAccessError,
    StoreUnavailableError,
    TestClock,
    WaitTimeoutError,
    Workflow,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.__main__ import _CLOSE_S
from workflow_runtime.payloads import decode_json, encode_json
from workflow_runtime.runtime import DRAIN_TIMEOUT
from workflow_store_d1 import SQLiteWorkflowStore, get_migration_sql
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore, get_migrations, get_table_definitions
from workflow_test_support.servers.node_tools import wrangler
from workflow_test_support.servers.postgres_databases import run_aside, run_on
from workflow_test_support.servers.postgres_server import BINARIES_VARIABLE, LocalServer, free_port, program

pytestmark = pytest.mark.real_time

DOCS = Path(__file__).parents[1] / "docs"
PATIENCE_S = 60.0
TABLES = [f"workflows.{table.name}" for table in get_table_definitions()]


def blocks(page: str, language: str, heading: str | None = None) -> list[str]:
    """Return the blocks of a page in one language, or only those below one of its headings."""
    text = (DOCS / page).read_text(encoding="utf-8")
    if heading is not None:
        [text] = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.02)


[EMPTY_THE_TABLES] = blocks("backup-and-restore.md", "sql", "Production's data in staging")


def run_commands(commands: str, folder: Path, **environment: str) -> None:
    """Run the lines of a block as a shell does that stops at the first failure."""
    environment |= {"PATH": os.pathsep.join([str(program("pg_dump").parent), os.environ["PATH"]])}
    done = subprocess.run(
        ["sh", "-ec", commands],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def nothing(*_: object) -> None: ...


@workflow(id="busy")
async def busy(ctx: Context, steps: int) -> None:
    for _ in range(steps):
        await ctx.step(nothing)


@workflow(id="slow")
async def slow(ctx: Context, seconds: float) -> None:
    await ctx.step(asyncio.sleep, seconds)


@workflow(id="sleepy")
async def sleepy(ctx: Context, steps: int) -> None:
    for _ in range(steps):
        await ctx.step(nothing)
        await ctx.sleep(timedelta(milliseconds=30))


@workflow(id="ask")
async def ask(ctx: Context, hours: int) -> str:
    try:
        return str((await ctx.approve("boss", timeout=timedelta(hours=hours))).approved)
    except WaitTimeoutError:
        return "too late"


WORKFLOWS: list[Workflow[Any, Any]] = [busy, slow, sleepy, ask]


@asynccontextmanager
async def working(runtime: WorkflowRuntime, **options: Any) -> AsyncIterator[None]:
    worker = asyncio.create_task(runtime.work(handle_signals=False, **options))
    try:
        yield
    finally:
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker


# A SQLite file.


async def create(store: SQLiteWorkflowStore | PostgresWorkflowStore, run_id: str) -> None:
    await store.create_run(
        run_id=run_id,
        workflow_id="busy",
        workflow_version="1",
        input=encode_json(1),
        operation_id="create",
        now_ms=await store.read_clock(),
    )


def run_ids_in(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [run_id for (run_id,) in connection.execute("SELECT run_id FROM workflow_runs ORDER BY run_id")]


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the shell of SQLite is not installed here")
async def test_copies_of_an_open_file(tmp_path: Path) -> None:
    """A plain copy lacks the tables; the commands of the page bring everything."""
    async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
        await store.ensure_schema()
        await create(store, "first")
        # Another process copies: this one would give up its locks on the file when it closes a second handle.
        subprocess.run(["cp", "app.db", "plain.db"], cwd=tmp_path, check=True)
        run_commands(blocks("backup-and-restore.md", "console", "A SQLite file")[0], tmp_path)
        await create(store, "second")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        run_ids_in(tmp_path / "plain.db")
    for name in ("copy.db", "other.db"):
        assert run_ids_in(tmp_path / name) == ["first"]
        async with SQLiteWorkflowStore.open(tmp_path / name) as copy:
            await copy.check_schema(deep=True)


DIE = """
import asyncio, os, signal
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_runtime.payloads import decode_json, encode_json

async def main():
    store = await SQLiteWorkflowStore.open("app.db")
    await store.create_run(
        run_id="later", workflow_id="busy", workflow_version="1", input=encode_json(1), operation_id="create", now_ms=1
    )
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_stale_log_beside_a_restored_file(tmp_path: Path) -> None:
    """It spoils the restored file; without it the file is what was backed up."""
    async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
        await store.ensure_schema()
        await create(store, "early")
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute(f"VACUUM INTO '{tmp_path / 'backup.db'}'")
    subprocess.run([sys.executable, "-c", DIE], cwd=tmp_path, check=False, timeout=PATIENCE_S)
    assert (tmp_path / "app.db-wal").exists()
    shutil.copyfile(tmp_path / "backup.db", tmp_path / "app.db")
    spoilt = None
    with suppress(sqlite3.DatabaseError):
        spoilt = run_ids_in(tmp_path / "app.db")
    assert spoilt != ["early"]

    shutil.copyfile(tmp_path / "backup.db", tmp_path / "app.db")
    for ending in ("-wal", "-shm"):
        (tmp_path / f"app.db{ending}").unlink(missing_ok=True)
    assert run_ids_in(tmp_path / "app.db") == ["early"]
    async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
        await store.check_schema(deep=True)


async def test_wait_whose_deadline_has_passed_times_out_whatever_is_delivered() -> None:
    """A fork from before the wait waits anew."""
    clock, store = TestClock(), InMemoryWorkflowStore()
    runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS, clock=clock)
    await runtime.start_run(ask, 1, run_id="ask-1")
    await runtime.sweep()
    clock.advance(timedelta(hours=2))
    await runtime.deliver_approval("ask-1", "boss", approved=True, decided_by="ann")
    await runtime.fork_run("ask-1", 0, "ask-2")
    await runtime.sweep()
    assert await runtime.attach("ask-1").result() == "too late"
    await runtime.deliver_approval("ask-2", "boss", approved=True, decided_by="ann")
    await runtime.sweep()
    assert await runtime.attach("ask-2").result() == "True"


# A Postgres server that asks for passwords.


class PasswordServer(LocalServer):
    """A server that lets in `postgres` as it is, and everybody else with a password."""

    lines: tuple[str, ...] = ("host all postgres 127.0.0.1/32 trust", "host all all 127.0.0.1/32 scram-sha-256")

    def _make_data(self) -> None:
        super()._make_data()
        (self._data / "pg_hba.conf").write_text("".join(f"{line}\n" for line in self.lines))


class Site:
    """A database `app` with the roles of the page, and their passwords."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self.passwords: dict[str, str] = {}

    def dsn(self, role: str = "postgres", database: str = "app") -> str:
        password = f":{self.passwords[role]}" if role in self.passwords else ""
        return f"postgresql://{role}{password}@{self._server.address}/{database}"

    def dsn_without_password(self, role: str) -> str:
        return f"postgresql://{role}@{self._server.address}/app"

    async def set_password(self, role: str, password: str) -> None:
        await run_on(self.dsn(), f"ALTER ROLE {role} PASSWORD '{password}'")
        self.passwords[role] = password

    async def build(self) -> None:
        """Run the page's SQL, and what it says between."""
        make_roles, on_tables_that_exist, revoke = blocks("operations.md", "sql", "Roles and grants")
        await run_on(self.dsn(database="postgres"), "CREATE DATABASE app TEMPLATE template0")
        await run_on(self.dsn(), make_roles, *blocks("operations.md", "sql", "Change a password")[1:])
        for role in ("app_owner", "app_worker", "app_worker_b", "app_dashboard"):
            await self.set_password(role, f"first-{role}")
        async with PostgresWorkflowStore.connect(self.dsn("app_owner"), schema="workflows") as store:
            await store.ensure_schema()
        by_default = await self.rights()
        assert len(by_default) == 5 * len(TABLES)
        await run_on(self.dsn(), "REVOKE ALL ON ALL TABLES IN SCHEMA workflows FROM app_worker, app_dashboard")
        await run_on(self.dsn("app_owner"), on_tables_that_exist)
        assert await self.rights() == by_default
        await run_on(self.dsn("app_owner"), revoke)

    async def rights(self) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.dsn())
        try:
            found = await connection.fetch(
                "SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants "
                "WHERE table_schema = 'workflows' AND grantee <> 'app_owner' ORDER BY 1, 2, 3"
            )
        finally:
            await connection.close()
        return [tuple(row) for row in found]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with PasswordServer("wal_level=logical", "max_prepared_transactions=5") as server:
        site = Site(server)
        run_aside(site.build())
        yield site


@pytest.fixture
async def database(site: Site) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(site.dsn(), server_settings={"search_path": "workflows"})
    yield connection
    await connection.close()


@pytest.mark.parametrize("role", ["app_worker", "app_worker_b"])
async def test_worker_needs_no_more_than_the_page_grants(site: Site, role: str) -> None:
    """Steps, heartbeats, notices, transactions, schedules, administration."""

    async def pay(tx: asyncpg.Connection) -> None:
        await tx.fetchval("SELECT 1")

    @workflow(id="everything")
    async def everything(ctx: Context, _: None) -> None:
        await ctx.step(asyncio.sleep, 0.8)
        await ctx.transaction("pay", pay)
        await ctx.sleep(timedelta(milliseconds=10))
        await ctx.approve("boss")

    nightly = Schedule(id=f"nightly-{role}", workflow=everything, when=Every(timedelta(days=1)))
    async with PostgresWorkflowStore.connect(site.dsn(role), schema="workflows") as store:
        await store.ensure_schema()
        await store.check_schema(deep=True)
        lease = timedelta(seconds=1)
        runtime = WorkflowRuntime(store=store, workflows=[everything], schedules=[nightly], lease=lease)
        # With a notice, or not at all: nobody looks again within the test's patience.
        async with working(runtime, poll_interval=timedelta(minutes=10)):
            await runtime.materialize_schedules()
            run = await runtime.start_run(everything, run_id=f"run-{role}")
            assert not (await runtime.start_run(everything, run_id=f"run-{role}")).created
            for one in (run, await runtime.schedules.trigger(f"nightly-{role}")):

                async def waits(run_id: str = one.run_id) -> bool:
                    stored = await store.load_run(run_id=run_id)
                    return (
                        stored is not None
                        and stored.status is RunStatus.PAUSED
                        and any(one.kind == "approval" for one in stored.awaited)
                    )

                await until(waits)
                await runtime.deliver_approval(one.run_id, "boss", approved=True, decided_by="ann")
                await one.result(timeout=timedelta(seconds=PATIENCE_S))
        await runtime.fork_run(run.run_id, 0, f"fork-{role}")
        await runtime.terminate_run(f"fork-{role}")
        await runtime.schedules.delete(f"nightly-{role}")
        assert await store.prune_runs(finished_before_ms=await store.read_clock() + 1_000, limit=10) == 3


async def test_dashboard_reads_and_does_nothing_else(site: Site) -> None:
    async with PostgresWorkflowStore.connect(site.dsn("app_worker"), schema="workflows") as store:
        await create(store, "shown")
    async with PostgresWorkflowStore.connect(site.dsn("app_dashboard"), schema="workflows") as store:
        await store.check_schema(deep=True)
        assert [run.run_id for run in (await store.list_runs(limit=5)).runs] == ["shown"]
        assert (await store.count_runs())[RunStatus.QUEUED] == 1
        assert await store.load_run(run_id="shown") is not None
        assert await store.get_run_timeline(run_id="shown") is not None
        for write in (
            create(store, "refused"),
            store.terminate_run(run_id="shown", now_ms=1),
            store.delete_run(run_id="shown", now_ms=1),
        ):
            with pytest.raises(StoreAccessError, match="42501"):
                await write
    connection = await asyncpg.connect(site.dsn("app_dashboard"))
    try:
        for table in TABLES:
            await connection.fetch(f"SELECT * FROM {table} LIMIT 1")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"DELETE FROM {table}")
    finally:
        await connection.close()
    async with PostgresWorkflowStore.connect(site.dsn("app_worker"), schema="workflows") as store:
        await store.delete_run(run_id="shown", now_ms=await store.read_clock())


@pytest.mark.parametrize("listens", [True, False])
async def test_connections_of_a_busy_worker(site: Site, database: asyncpg.Connection, listens: bool) -> None:
    """The formula of the page, taken from the page."""
    [formula] = re.findall(r"^connections = (.*)$", (DOCS / "operations.md").read_text(encoding="utf-8"), re.MULTILINE)
    size = 3
    most = eval(re.sub(r"\([^)]*\)", "", formula), {"max_size": size}) - (not listens)
    options: dict[str, Any] = {"schema": "workflows", "max_size": size, "listen": listens}
    seen: set[int] = set()

    async def all_are_open() -> bool:
        seen.add(await database.fetchval("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_worker'"))
        return most in seen and len(done) == len(runs)

    async with PostgresWorkflowStore.connect(site.dsn("app_worker"), **options) as store:
        runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS, lease=timedelta(seconds=1))
        runs = [await runtime.start_run(busy, 20) for _ in range(30)] + [
            await runtime.start_run(slow, 1.5) for _ in range(30)
        ]
        done: list[None] = []

        async def wait_for_all() -> None:
            for run in runs:
                await run.ended(timeout=timedelta(seconds=PATIENCE_S))
                done.append(None)

        async with working(runtime, concurrency=60), asyncio.TaskGroup() as group:
            group.create_task(wait_for_all())
            group.create_task(until(all_are_open))
    assert max(seen) == most
    [count] = blocks("operations.md", "sql", "Pool sizes")
    assert await database.fetch(count)


# Passwords and TLS.


async def test_password_changes_under_a_worker(
    site: Site, database: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions go on, new ones need the new password, and a worker whose sessions are ended comes back with it."""
    code, end_sessions = (
        blocks("operations.md", "python", "Change a password")[0],
        blocks("operations.md", "sql", "Change a password")[0],
    )
    file = tmp_path / "password"
    file.write_text(site.passwords["app_worker"] + "\n")
    monkeypatch.setenv("PASSWORD_FILE", str(file))
    monkeypatch.setenv("DATABASE_URL", site.dsn_without_password("app_worker"))
    page: dict[str, Any] = {}
    exec(code, page)
    assert await page["read_the_clock"]() > 0

    options = {"password": page["read_password"], "schema": "workflows"}
    async with PostgresWorkflowStore.connect(os.environ["DATABASE_URL"], max_size=1, **options) as store:
        runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS, lease=timedelta(seconds=1))

        async def drives(seconds: float) -> None:
            await (await runtime.start_run(slow, seconds)).result(timeout=timedelta(seconds=PATIENCE_S))

        async with working(runtime):
            await drives(0.8)  # with its heartbeats
            await site.set_password("app_worker", "second")
            await drives(0)
            with pytest.raises(StoreAccessError, match="28P01"):
                await page["read_the_clock"]()
            file.write_text("second\n")
            assert await page["read_the_clock"]() > 0
            assert await database.fetch(end_sessions)
            await drives_in_the_end(drives)


async def drives_in_the_end(drives: Callable[[float], Awaitable[None]]) -> None:
    async def driven() -> bool:
        with suppress(StoreUnavailableError):  # as any client's call whose session was ended
            await drives(0.8)
            return True
        return False

    await until(driven)


async def test_password_file_is_read_for_each_connection(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.touch(0o600)

    async def connects() -> bool:
        file.write_text(f"*:*:*:app_worker:{site.passwords['app_worker']}\n")
        async with PostgresWorkflowStore.connect(
            site.dsn_without_password("app_worker"), passfile=file, min_size=0
        ) as store:
            before = await store.read_clock()
            await site.set_password("app_worker", "another")
            file.write_text("*:*:*:app_worker:another\n")
            await store._sender.connections.expire()
            return before <= await store.read_clock()

    assert await connects()


class TlsServer(PasswordServer):
    """A server that takes nothing but TLS."""

    lines = ("hostssl all all 127.0.0.1/32 trust",)

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = {"server.crt": certificate, "server.key": key}
        super().__init__("ssl=on")

    def _make_data(self) -> None:
        super()._make_data()
        owner = self._data.stat()
        for name, source in self._files.items():
            shutil.copyfile(source, self._data / name)
            (self._data / name).chmod(0o600)
            os.chown(self._data / name, owner.st_uid, owner.st_gid)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`right` is for 127.0.0.1, `wrong` is not; each is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("nothing here makes certificates: openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    for name, subject in (("right", "IP:127.0.0.1"), ("wrong", "DNS:elsewhere.example")):
        subprocess.run(
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -addext subjectAltName={subject} "
            f"-keyout {name}.key -out {name}.crt",
            shell=True,
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture(scope="module")
def tls_server(certificates: Path) -> Iterator[TlsServer]:
    """The builds of wheels come without OpenSSL, so the machine's own is taken if the tests' own cannot do it."""
    given = os.environ.get(BINARIES_VARIABLE)
    for folder in (given, *sorted(Path("/usr/lib/postgresql").glob("*/bin"))):
        with pytest.MonkeyPatch.context() as patched:
            if folder is not None:
                patched.setenv(BINARIES_VARIABLE, str(folder))
            server = TlsServer(certificates / "right.crt", certificates / "right.key")
            try:
                server.__enter__()
            except RuntimeError as error:
                if "SSL is not supported by this build" not in str(error):
                    raise
                continue
        try:
            yield server
        finally:
            server.__exit__()
        return
    pytest.skip("no PostgreSQL here was built with OpenSSL")


async def test_tls_with_a_certificate_that_is_looked_at(tls_server: TlsServer, certificates: Path) -> None:
    right = f"{tls_server.dsn}?sslmode=verify-full&sslrootcert={certificates / 'right.crt'}"
    context = ssl.create_default_context(cafile=str(certificates / "right.crt"))
    every = (PostgresWorkflowStore.connect(right), PostgresWorkflowStore.connect(tls_server.dsn, ssl=context))
    for opening in every:
        async with opening as store:
            await store.ensure_schema()
            runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS, lease=timedelta(seconds=1))
            async with working(runtime, poll_interval=timedelta(minutes=10)):
                run = await runtime.start_run(slow, 0.8)
                await run.result(timeout=timedelta(seconds=PATIENCE_S))
                encrypted = await store._sender.connections.fetch(
                    "SELECT ssl FROM pg_stat_ssl INNER JOIN pg_stat_activity USING (pid) "
                    "WHERE application_name = 'workflow-store-postgres'",
                    (),
                )
                assert [row["ssl"] for row in encrypted] == [True] * len(encrypted)
                assert len(encrypted) >= 3  # the statements', the listening one and that of the heartbeats
    async with PostgresWorkflowStore.connect(tls_server.dsn) as store:
        assert await store.read_clock() > 0, "asyncpg takes TLS without being asked, and does not look"


async def test_tls_that_does_not_fit(tls_server: TlsServer, certificates: Path) -> None:
    other_host = tls_server.dsn.replace("127.0.0.1", "localhost")
    for dsn, authority in ((tls_server.dsn, "wrong.crt"), (other_host, "right.crt")):
        with pytest.raises(StoreUnavailableError, match="SSLCertVerification"):
            await PostgresWorkflowStore.connect(f"{dsn}?sslmode=verify-full&sslrootcert={certificates / authority}")
    with pytest.raises(StoreAccessError, match="28000"):
        await PostgresWorkflowStore.connect(f"{tls_server.dsn}?sslmode=disable")


# What is to be watched.


@pytest.mark.parametrize(
    ("handler", "steps", "stated"), [(busy, 1, "none"), (busy, 5, "66"), (busy, 20, "90"), (sleepy, 5, "25")]
)
async def test_share_of_hot_updates(
    site: Site, database: asyncpg.Connection, handler: Workflow[int, None], steps: int, stated: str
) -> None:
    """The page's numbers, by the page's statement."""
    watch, _, tune = blocks("operations.md", "sql", "Vacuum")
    await database.execute(EMPTY_THE_TABLES)
    await database.execute("SELECT pg_stat_reset()")
    runs = 100
    async with PostgresWorkflowStore.connect(site.dsn("app_worker"), schema="workflows") as store:
        runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS)
        for _ in range(runs):
            await runtime.start_run(handler, steps)
        while (await store.count_runs()).get(RunStatus.FINISHED) != runs:
            await runtime.sweep(limit=10_000)
    shown: dict[str, Any] = {}

    async def all_is_counted() -> bool:  # a session hands in what it has counted when it ends
        shown.update({row["relname"]: row for row in await database.fetch(watch)})
        return bool(shown["workflow_event_locks"]["n_tup_upd"] > runs * steps)

    await until(all_is_counted)
    assert len(shown) == 4
    assert abs(shown["workflow_event_locks"]["hot_percent"] - (0 if stated == "none" else int(stated))) <= 5
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    assert stated in re.findall(r"^`hot_percent` of.*?\n\n", text, re.DOTALL | re.MULTILINE)[0]
    await database.execute(tune)
    await database.execute("REINDEX TABLE CONCURRENTLY workflow_event_locks")
    async with PostgresWorkflowStore.connect(site.dsn("app_worker"), schema="workflows") as store:
        await store.check_schema(deep=True)


async def test_what_holds_vacuum_back_is_named(site: Site, database: asyncpg.Connection) -> None:
    """A session, a slot and a prepared transaction, all of them forgotten."""
    _, statement, _ = blocks("operations.md", "sql", "Vacuum")
    other = await asyncpg.connect(site.dsn())
    try:
        await database.execute("CREATE TABLE public.scratch (n integer)")
        await database.fetch("SELECT pg_create_logical_replication_slot('forgotten_slot', 'pgoutput')")
        await other.execute("BEGIN; INSERT INTO public.scratch VALUES (1); PREPARE TRANSACTION 'forgotten one'")
        await other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await other.fetch("SELECT * FROM public.scratch")
        found = {row["what"]: row for row in await database.fetch(statement)}
        assert found["slot"]["which"] == "forgotten_slot"
        assert found["slot"]["state"] == "abandoned"
        assert found["prepared"]["which"] == "forgotten one"
        assert found["session"]["since"] >= timedelta(0)
    finally:
        await other.close()
        await database.execute("ROLLBACK PREPARED 'forgotten one'")
        await database.execute("SELECT pg_drop_replication_slot('forgotten_slot')")
        await database.execute("DROP TABLE public.scratch")


async def wait_a_while(store: SQLiteWorkflowStore | PostgresWorkflowStore) -> None:
    """Leave a run of each kind that can be claimed, one that cannot, and two of priority 0 that are older."""
    now_ms, hour_ms = await store.read_clock(), 3_600_000
    for run_id, priority, since_ms in (("old", 0, 5 * hour_ms), ("older", 0, 9 * hour_ms), ("new", 10, hour_ms)):
        await store.create_run(
            run_id=run_id,
            workflow_id="busy",
            workflow_version="1",
            queue="reports",
            priority=priority,
            input=encode_json(1),
            operation_id="create",
            now_ms=now_ms - since_ms,
        )
    runtime = WorkflowRuntime(store=store, workflows=[ask])
    await runtime.start_run(ask, 1, run_id="waits", priority=10, queue="reports")
    await runtime.sweep()


OLDEST = [("reports", 0, 2, 9), ("reports", 10, 1, 1)]


async def test_who_starves_on_postgres(site: Site, database: asyncpg.Connection) -> None:
    statement, _ = blocks("operations.md", "sql", "Priorities that starve")
    await database.execute(EMPTY_THE_TABLES)
    async with PostgresWorkflowStore.connect(site.dsn("app_worker"), schema="workflows") as store:
        await wait_a_while(store)
    rows = await database.fetch(statement)
    assert [(*tuple(row)[:3], row["oldest"] // timedelta(hours=1)) for row in rows] == OLDEST


async def test_who_starves_on_sqlite(tmp_path: Path) -> None:
    _, statement = blocks("operations.md", "sql", "Priorities that starve")
    async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
        await store.ensure_schema()
        await wait_a_while(store)
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        rows = connection.execute(statement).fetchall()
    assert [(*row[:3], row[3] // 3_600) for row in rows] == OLDEST


# Dumps, and copies for staging.


@pytest.fixture
async def production(site: Site, database: asyncpg.Connection) -> AsyncIterator[str]:
    """DSN of a database with runs that wait or have ended, a tick that was asked for, and a table of its own."""
    await database.execute(EMPTY_THE_TABLES)
    await database.execute("CREATE TABLE IF NOT EXISTS public.customers AS SELECT 'ann' AS name")
    async with PostgresWorkflowStore.connect(site.dsn("app_worker"), schema="workflows") as store:
        runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS)
        await runtime.start_run(busy, 1, run_id="ended")
        await runtime.start_run(ask, 1, run_id="waits")
        await runtime.sweep()
        await runtime.start_run(busy, 1, run_id="queued")
        hourly = Schedule(id="hourly", workflow=busy, when=Every(timedelta(hours=1)), input=1)
        await runtime.schedules.create(hourly)
        await runtime.schedules.trigger("hourly")
    yield site.dsn()
    await database.execute("DROP TABLE public.customers")


@pytest.fixture
async def copy(site: Site) -> AsyncIterator[str]:
    """DSN of an empty database."""
    await run_on(site.dsn(database="postgres"), "CREATE DATABASE copy TEMPLATE template0")
    yield site.dsn(database="copy")
    await run_on(site.dsn(database="postgres"), "DROP DATABASE copy WITH (FORCE)")


DUMP, RESTORE = blocks("backup-and-restore.md", "console", "Postgres")
[DUMP_WITHOUT_RUNS] = blocks("backup-and-restore.md", "console", "Production's data in staging")


async def test_dump_brings_everything(site: Site, production: str, copy: str, tmp_path: Path) -> None:
    """Tables, grants and settings: a worker goes on with what it finds."""
    run_commands(DUMP + RESTORE, tmp_path, DATABASE_URL=production, NEW_DATABASE_URL=copy)
    async with PostgresWorkflowStore.connect(site.dsn("app_worker", "copy"), schema="workflows") as store:
        await store.check_schema(deep=True)
        assert dict(await store.count_runs()) == {"finished": 1, "paused": 1, "queued": 1}
        runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS)
        await runtime.deliver_approval("waits", "boss", approved=True, decided_by="ann")
        report = await runtime.sweep()
        assert report.outcomes == {"finished": 3}
        assert report.ticks == {"started": 1}


async def test_dump_without_runs(site: Site, production: str, copy: str, tmp_path: Path) -> None:
    run_commands(DUMP_WITHOUT_RUNS + RESTORE, tmp_path, DATABASE_URL=production, NEW_DATABASE_URL=copy)
    await nothing_happens(site)
    connection = await asyncpg.connect(copy)
    try:
        assert await connection.fetchval("SELECT name FROM customers") == "ann"
    finally:
        await connection.close()


async def test_log_in_partitions(
    site: Site, database: asyncpg.Connection, production: str, copy: str, tmp_path: Path
) -> None:
    """What the pages say of it: divided by its owner, worked on, looked at, dumped, emptied, and joined again."""
    [divide, join] = blocks("scaling.md", "console", "A log in partitions")
    how_large, each = blocks("scaling.md", "sql", "A log in partitions")
    watch, *_ = blocks("operations.md", "sql", "Vacuum")
    rights = await site.rights()
    run_commands(divide, tmp_path, DATABASE_URL=site.dsn("app_owner"))
    assert await site.rights() == rights, "nobody has any on the partitions, whatever is the default"
    async with PostgresWorkflowStore.connect(site.dsn("app_worker"), schema="workflows") as store:
        runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS)
        await runtime.deliver_approval("waits", "boss", approved=True, decided_by="ann")
        assert (await runtime.sweep()).outcomes == {"finished": 3}
    assert len(await database.fetch(how_large)) == 1
    assert len(await database.fetch(each)) == 16
    assert len(await database.fetch(watch)) == 4 + 16

    run_commands(DUMP_WITHOUT_RUNS + RESTORE, tmp_path, DATABASE_URL=production, NEW_DATABASE_URL=copy)
    await nothing_happens(site)
    there, events = await asyncpg.connect(copy), "SELECT count(*) FROM workflows.workflow_events"
    try:
        assert await database.fetchval(events) > await there.fetchval(events) == 0
        await there.execute("INSERT INTO workflows.workflow_events VALUES (0, 1, 0, 'r', 'k', NULL, NULL)")
        await there.execute(f"SET search_path = workflows; {EMPTY_THE_TABLES}")
        assert await there.fetchval(events) == 0
    finally:
        await there.close()
    run_commands(join, tmp_path, DATABASE_URL=site.dsn("app_owner"))
    assert await database.fetch(each) == []
    assert await site.rights() == rights


@pytest.mark.parametrize("way", ["empty", "end"])
async def test_copy_that_is_made_harmless(site: Site, production: str, copy: str, tmp_path: Path, way: str) -> None:
    run_commands(DUMP + RESTORE, tmp_path, DATABASE_URL=production, NEW_DATABASE_URL=copy)
    if way == "empty":
        await run_on(copy, f"SET search_path = workflows; {EMPTY_THE_TABLES}")
    else:
        page: dict[str, Any] = {}
        [code] = blocks("backup-and-restore.md", "python", "Production's data in staging")
        exec(code.partition("async def make_harmless")[0], page)
        async with PostgresWorkflowStore.connect(site.dsn("app_worker", "copy"), schema="workflows") as store:
            await page["end_copied_runs"](store)
            assert dict(await store.count_runs()) == {"finished": 1, "aborted": 2}
    await nothing_happens(site)


async def test_copy_with_paused_schedules_still_acts(site: Site, production: str, copy: str, tmp_path: Path) -> None:
    run_commands(DUMP + RESTORE, tmp_path, DATABASE_URL=production, NEW_DATABASE_URL=copy)
    async with PostgresWorkflowStore.connect(site.dsn("app_worker", "copy"), schema="workflows") as store:
        runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS)
        await runtime.terminate_runs()
        await runtime.schedules.pause("hourly")
        assert (await runtime.sweep()).ticks == {"started": 1}


async def nothing_happens(site: Site) -> None:
    """A worker of staging finds tables that fit, and nothing to do."""
    async with PostgresWorkflowStore.connect(site.dsn("app_worker", "copy"), schema="workflows") as store:
        await store.check_schema(deep=True)
        report = await WorkflowRuntime(store=store, workflows=WORKFLOWS).sweep()
        assert (report.handled, report.next_due_ms) == (0, None)
        assert not (await store.list_schedules(limit=5)).schedules


# D1.

PROJECT = """{
    "name": "orders",
    "compatibility_date": "2025-10-01",
    "d1_databases": [
        {"binding": "ORDERS", "database_name": "orders", "database_id": "00000000-0000-4000-8000-000000000001"},
        {"binding": "OTHER", "database_name": "other", "database_id": "00000000-0000-4000-8000-000000000002"},
        {"binding": "THIRD", "database_name": "third", "database_id": "00000000-0000-4000-8000-000000000003"}
    ]
}"""
RUN = """
INSERT INTO workflow_runs VALUES ('a', 'busy', '1', 'default', 0, 5);
INSERT INTO workflow_run_states (run_id, input) VALUES ('a', '"it''s\\n"');
INSERT INTO workflow_event_locks (
    run_id, status, workflow_id, workflow_version, queue, priority, due_at, lease_number, next_index, inbox_seq,
    cancel_requested, crashes, awaiting, operation_id, operation_answer, created_at, updated_at
) VALUES ('a', 'queued', 'busy', '1', 'default', 0, 5, 0, 0, 0, 0, 0, '[]', 'create', '{}', 5, 5);
"""
ENLARGE = "UPDATE workflow_run_states SET input = '\"' || hex(zeroblob(60000)) || '\"'"


async def test_export_of_d1_is_a_sqlite_file(tmp_path: Path) -> None:
    """Wrangler writes it, SQLite reads it. D1 reads it too, unless a payload is larger than its longest statement."""
    page = (DOCS / "backup-and-restore.md").read_text(encoding="utf-8")
    [export] = re.findall(r"^npx wrangler (d1 export .*)$", page, re.MULTILINE)
    [load] = re.findall(r"`npx wrangler (d1 execute .*?)`", page)

    def run(command: str) -> None:
        wrangler(tmp_path, *command.replace("--remote", "--local").split())

    (tmp_path / "wrangler.jsonc").write_text(PROJECT)
    (tmp_path / "tables.sql").write_text(get_migration_sql() + RUN)
    run("d1 execute orders --remote --file=tables.sql")
    run(export)
    with closing(sqlite3.connect(tmp_path / "orders.db")) as connection:
        connection.executescript((tmp_path / "orders.sql").read_text())
    async with SQLiteWorkflowStore.open(tmp_path / "orders.db") as store:
        await store.check_schema(deep=True)
        stored = await store.load_run(run_id="a")
        assert stored is not None
        assert decode_json(stored.input) == "it's\n"
        await WorkflowRuntime(store=store, workflows=WORKFLOWS).terminate_run("a")
    run(load)

    (tmp_path / "enlarge.sql").write_text(ENLARGE)
    run("d1 execute orders --remote --file=enlarge.sql")
    run(export)
    with pytest.raises(OSError, match="statement too long"):
        run(load.replace("other", "third"))


# Deploying.

DEPLOYING = (DOCS / "deploying.md").read_text(encoding="utf-8")


def seconds(pattern: str) -> float:
    [value] = set(re.findall(pattern, DEPLOYING))
    return float(value)


@pytest.mark.parametrize("host", [r"^TimeoutStopSec=(\d+)$", r"^ +terminationGracePeriodSeconds: (\d+)$"])
def test_host_leaves_the_time_that_a_stop_takes(host: str) -> None:
    """The drain, then the closing of the store; the table says the same."""
    drain = DRAIN_TIMEOUT.total_seconds()
    killed_after = seconds(f"(?m){host}")
    assert seconds(r"--drain-timeout (\d+)\n") == drain
    assert drain + _CLOSE_S < killed_after
    column = [float(row) for row in re.findall(r"^\| [^|]+ \| (\d+) \| [^|]*\|$", DEPLOYING, re.MULTILINE)]
    assert column == [0.8 * drain, drain, drain + _CLOSE_S, killed_after]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    [unit] = blocks("deploying.md", "ini", "systemd")
    command = re.findall(r"^ExecStart=\S+ (-m .*)$", unit, re.MULTILINE)[0].replace("app:open_runtime", "none:at_all")
    unit = unit.replace("/srv/app/.venv/bin/python", sys.executable)
    (tmp_path / "workflow-worker@.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "./workflow-worker@.service"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    refused = subprocess.run(
        [sys.executable, *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    [exit_code] = re.findall(r"^RestartPreventExitStatus=(\d+)$", unit, re.MULTILINE)
    assert refused.returncode == int(exit_code)
    assert "cannot load 'none:at_all'" in refused.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed here")
def test_manifests_are_yaml(tmp_path: Path) -> None:
    manifests = blocks("deploying.md", "yaml", "Kubernetes")
    for number, manifest in enumerate(manifests):
        (tmp_path / f"{number}.yaml").write_text(manifest)
    (tmp_path / "kustomization.yaml").write_text("resources: [0.yaml, 1.yaml]\n")
    done = subprocess.run(
        ["kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^kind: (\w+)", done.stdout, re.MULTILINE) == ["Deployment", "Job"]
    assert "path: /ready" in done.stdout


async def test_worker_of_the_page_answers_probes_and_drains(empty_dsn: str, tmp_path: Path) -> None:
    """It says that it is ready, says that it is not while it drains, and hands its run over."""
    common, probes = blocks("deploying.md", "python")
    [start] = blocks("deploying.md", "py", "Kubernetes")
    handler = """

async def linger() -> None:
    open("lingers", "w").close()
    await asyncio.sleep(2)


@workflow(id="linger")
async def lingering(ctx: Context, _: None) -> None:
    await ctx.step(linger)
    await ctx.step(linger)
"""
    common = re.sub(r"^asyncio\.run\(.*\n", "", common, flags=re.MULTILINE)
    common = common.replace("workflows=[greet]", "workflows=[greet, lingering]")
    common = common.replace("\n\n@asynccontextmanager", f"{handler}\n\n@asynccontextmanager")
    port = free_port()
    (tmp_path / "worker.py").write_text(f"{common}\n\n{probes}\n\n{start.replace('8080', str(port))}")

    async def ask_for(path: str) -> tuple[int, str]:
        try:
            return await asyncio.to_thread(look, f"http://127.0.0.1:{port}{path}")
        except OSError:
            return (0, "nobody answers")

    def start_worker(**options: Any) -> subprocess.Popen[str]:
        environment = os.environ | {"DATABASE_URL": empty_dsn}
        return subprocess.Popen([sys.executable, "worker.py"], cwd=tmp_path, env=environment, text=True, **options)

    async with PostgresWorkflowStore.connect(empty_dsn) as store:
        worker = start_worker(stderr=subprocess.PIPE)
        try:
            assert "SchemaMissingError" in (await asyncio.to_thread(worker.communicate, timeout=PATIENCE_S))[1]
            assert worker.returncode == 1
            await store.ensure_schema()
            worker = start_worker()

            async def is_ready() -> bool:
                return await ask_for("/ready") == (200, "ready")

            await until(is_ready)
            await store.create_run(
                run_id="a",
                workflow_id="linger",
                workflow_version="1",
                input=encode_json(None),
                operation_id="create",
                now_ms=await store.read_clock(),
            )

            async def lingers() -> bool:
                return (tmp_path / "lingers").exists()

            await until(lingers)
            assert await ask_for("/live") == (200, "driving 1")
            asked_at = time.monotonic()
            worker.send_signal(signal.SIGTERM)

            async def drains() -> bool:
                assert worker.poll() is None
                return (await ask_for("/ready"))[0] == 503

            await until(drains)
            assert (await ask_for("/live"))[0] == 200
            assert await asyncio.to_thread(worker.wait, PATIENCE_S) == 0
            assert time.monotonic() - asked_at < DRAIN_TIMEOUT.total_seconds()
        finally:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        stored = await store.load_run(run_id="a")
        assert stored is not None
        assert stored.status is RunStatus.QUEUED
        assert [event.kind for event in await store.read_events(run_id="a", limit=5)] == ["step-completed"]


def look(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def test_what_a_rollback_needs_to_know(site: Site, database: asyncpg.Connection) -> None:
    statements = blocks("deploying.md", "sql", "Back to the release before")[0].split(";\n")
    await database.execute(EMPTY_THE_TABLES)
    async with PostgresWorkflowStore.connect(site.dsn("app_worker"), schema="workflows") as store:
        await create(store, "a")
    assert await database.fetchval(statements[0]) == max(str(one.oldest_code) for one in get_migrations())
    assert [tuple(row) for row in await database.fetch(statements[1])] == [("busy", "1", "queued", 1)]
