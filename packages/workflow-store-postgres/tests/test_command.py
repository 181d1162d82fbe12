"""The command `workflow-store-postgres`. What it has in common with that of D1 is tested there, on files."""

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from workflow_migrations import quote_identifier
from workflow_store_postgres import get_migration_sql, get_migrations
from workflow_store_postgres.__main__ import main

FIRST, EXPAND, FAILED, TERMINAL, CONTRACT = IDS = [one.migration_id for one in get_migrations()]
CAN_RUN = "this release can run on these tables"
MARKER = "quokka-7"
"""A word that is in nothing that anybody says by himself."""
FAILED_INDEX = "workflow_event_locks_failed"
RECORDS = "SELECT migration_id FROM workflow_schema_migrations ORDER BY migration_id"


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Coroutine[Any, Any, Done]]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")] + ["DATABASE_URL"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command in this process, and beside this event loop."""

    async def call(*words: str) -> Done:
        monkeypatch.setattr("sys.stdin", io.StringIO())
        capsys.readouterr()
        status = await asyncio.to_thread(main, words)
        return Done(status, *capsys.readouterr())

    return call


@pytest.fixture
def at(call: Call, empty_dsn: str) -> Call:
    """The same for the database."""
    return lambda *words: call(*words, "--dsn", empty_dsn)


@pytest.fixture
async def admin(empty_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_dsn, server_settings={"application_name": "monthly report"})
    yield connection
    await connection.close()


@pytest.fixture
async def old(admin: asyncpg.Connection) -> None:
    """The tables of the first release."""
    await admin.execute(get_migration_sql(to_id=FIRST, transaction=False))


@pytest.fixture
async def half_built(at: Call, admin: asyncpg.Connection, old: None) -> None:
    """Tables of which an index was built in part."""
    await at("migrate", "--phase", "expand")
    await admin.execute("CREATE INDEX workflow_event_locks_failed ON workflow_event_locks (status)")
    await admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid::regclass::text = $1", FAILED_INDEX)


async def recorded(admin: asyncpg.Connection) -> list[str]:
    return [row["migration_id"] for row in await admin.fetch(RECORDS)]


@asynccontextmanager
async def holding(admin: asyncpg.Connection, sql: str, *values: object) -> AsyncIterator[None]:
    """A transaction that has done something and stays open."""
    async with admin.transaction():
        await admin.execute(sql, *values)
        yield


async def test_new_tables_from_a_process_to_the_last_line(empty_dsn: str, admin: asyncpg.Connection) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "workflow_store_postgres", *words]
        environment = {**os.environ, "DATABASE_URL": empty_dsn}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    nothing = await asyncio.to_thread(run, "check")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr == (
        "the workflow tables are missing; looked in schema 'public'; run `workflow-store-postgres migrate`\n"
    )
    made = await asyncio.to_thread(run, "migrate")
    assert (made.returncode, made.stdout.splitlines()) == (0, [f"applied: {', '.join(IDS)}", CAN_RUN])
    assert made.stderr.endswith(f" applying {', '.join(IDS)}\n")
    status = await asyncio.to_thread(run, "status")
    lines = status.stdout.splitlines()
    assert (status.returncode, status.stderr, lines[-1]) == (0, "", CAN_RUN)
    assert lines[1].startswith(f"looked in: schema public, database {urlsplit(empty_dsn).path[1:]}, server PostgreSQL ")
    assert [line.split()[0] for line in lines if line.endswith("checksum matches")] == IDS
    assert await recorded(admin) == IDS


@pytest.mark.usefixtures("old")
async def test_old_tables_are_upgraded_phase_by_phase(at: Call, admin: asyncpg.Connection) -> None:
    plan = await at("plan", "--exit-code")
    assert (plan.status, plan.out.splitlines()) == (
        1,
        [
            f"{EXPAND}  expand, transaction 1: which environment the tables belong to.",
            f"{FAILED}  online, without a transaction: finds runs that ended badly by their status.",
            f"{TERMINAL}  online, without a transaction: finds ended runs by their status and age.",
            f"later: {CONTRACT} (needs --phase contract, once no program of an earlier release runs)",
        ],
    )
    status = await at("status", "--json")
    assert (status.status, status.json["missing"]["expand"]) == (1, [EXPAND])
    assert (await at("migrate", "--dry-run")).out == plan.out
    assert await recorded(admin) == [FIRST]
    assert (await at("migrate", "--phase", "expand")).status == 0
    assert await recorded(admin) == [FIRST, EXPAND]
    done = await at("migrate")
    assert f"applying {FAILED}" in done.err
    assert f"building the index {FAILED_INDEX}: programs go on meanwhile" in done.err
    assert await recorded(admin) == IDS[:-1]
    assert (await at("migrate", "--phase", "contract", "--json")).json["applied"] == [CONTRACT]
    assert (await at("check", "--deep")).status == 0


@pytest.mark.usefixtures("half_built")
async def test_index_that_was_left_behind_is_shown_and_built_again(at: Call) -> None:
    status = await at("status", "--json")
    assert (status.status, status.json["index_builders"]) == (0, {}), "programs do without it"
    index = {"index": FAILED_INDEX, "table": "workflow_event_locks", "builder": None}
    assert status.json["unusable_indexes"] == [index]
    assert f"unusable index: {FAILED_INDEX} of workflow_event_locks; nobody builds it" in (await at("status")).out
    done = await at("migrate")
    assert f"dropping the index {FAILED_INDEX}, which was built in part" in done.err
    status = await at("status", "--json")
    assert (status.json["unusable_indexes"], status.json["missing"]["online"]) == ([], [])


@pytest.mark.usefixtures("half_built")
async def test_index_that_another_builds_is_waited_for_on_request(at: Call, admin: asyncpg.Connection) -> None:
    lock = "LOCK TABLE workflow_event_locks IN SHARE UPDATE EXCLUSIVE MODE"
    async with holding(admin, lock):
        status = await at("status")
        assert "unusable index: workflow_event_locks_failed of workflow_event_locks; it is being built" in status.out
        builder = "an index of workflow_event_locks is being built by process"
        assert builder in status.out
        assert "(monthly report, role postgres" in status.out
        done = await at("migrate")
        assert (done.status, builder in done.out, f"left: {FAILED} (an index" in done.out) == (0, True, True)
        waiting = asyncio.create_task(at("migrate", "--wait"))
        await asyncio.sleep(0.5)
        assert not waiting.done()
    assert (await waiting).status == 0
    assert await recorded(admin) == IDS[:-1]


@pytest.mark.usefixtures("old")
async def test_who_uses_the_tables_is_waited_for_and_named(at: Call, admin: asyncpg.Connection) -> None:
    use = "SELECT FROM workflow_schema_migrations"
    async with holding(admin, use):
        done = await at("migrate", "--lock-timeout", "0.7")
        assert (done.status, done.out) == (1, "")
        assert done.err.count(" applying ") == 1, "although it was tried more than once"
        assert "a migration waits for whoever uses the tables: process" in done.err
        assert done.err.splitlines()[-1].startswith(
            "the store is unavailable: waited 0.7 s for whoever uses the tables: process "
        )
        waiting = asyncio.create_task(at("migrate", "--wait", "--phase", "expand"))
        await asyncio.sleep(0.8)
        assert not waiting.done()
    assert (await waiting).status == 0


async def test_repairs_after_psql(at: Call, admin: asyncpg.Connection) -> None:
    await admin.execute(get_migration_sql(transaction=False))
    assert (await at("status")).out.count("no checksum recorded") == len(IDS)
    for migration_id in IDS:
        assert (await at("repair", "--checksum", migration_id, "--yes")).status == 0
    assert (await at("status")).out.count("checksum matches") == len(IDS)
    await admin.execute("UPDATE workflow_schema_migrations SET checksum = 'abc' WHERE migration_id = $1", FIRST)
    assert "abc is recorded" in (await at("repair", "--checksum", FIRST, "--yes")).err
    for migration_id in IDS[1:]:
        await admin.execute("DELETE FROM workflow_schema_migrations WHERE migration_id = $1", migration_id)
        assert (await at("repair", "--record", migration_id, "--yes")).status == 0
    assert (await at("repair", "--environment", "production", "--yes")).status == 0
    assert (await at("check", "--deep")).status == 0
    assert (await at("status", "--json")).json["environment"] == "production"
    assert (await at("migrate")).status == 0
    assert (await at("repair", "--no-environment", "--yes")).status == 0
    assert (await at("status", "--json")).json["environment"] is None


@pytest.mark.usefixtures("half_built")
async def test_index_that_cannot_be_used_is_not_recorded(at: Call, admin: asyncpg.Connection) -> None:
    done = await at("repair", "--record", FAILED, "--yes")
    assert (done.status, f"index '{FAILED_INDEX}' of 'workflow_event_locks' is not valid" in done.err) == (1, True)
    assert await recorded(admin) == [FIRST, EXPAND]


@pytest.mark.usefixtures("old")
async def test_nothing_is_repaired_while_another_migrates(
    at: Call, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at("migrate")
    monkeypatch.setattr("workflow_store_postgres.schema.SchemaInTransaction.lock_key", lock_seven)
    async with holding(admin, "SELECT pg_advisory_xact_lock(7)"):
        done = await at("repair", "--environment", "production", "--yes")
    assert (done.status, done.out) == (1, "")
    assert "another migration goes on, of process" in done.err
    assert (await at("status", "--json")).json["environment"] is None


async def lock_seven(_: object) -> int:
    return 7


async def test_tables_of_others(at: Call, admin: asyncpg.Connection) -> None:
    await admin.execute("CREATE TABLE workflow_schema_migrations (id integer)")
    status = await at("status")
    assert (status.status, "its columns are not those of this package" in status.out) == (1, True)
    for words in (["migrate"], ["check"], ["repair", "--record", FIRST, "--yes"]):
        assert (await at(*words)).status == 1
    assert await admin.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'workflow%'") == 1


async def test_schema_and_names_with_quotes(call: Call, at: Call, admin: asyncpg.Connection) -> None:
    names = ("--schema", 'The "flows"', "--table", 'runs=my "runs"', "--table", "schema_migrations=it's applied")
    assert (await at("check", *names)).status == 1
    assert await admin.fetch("SELECT FROM pg_namespace WHERE nspname = $1", names[1]) == [], "only migrate makes it"
    assert (await at("migrate", *names)).status == 0
    assert (await at("check", "--deep", *names)).status == 0
    records = f'{quote_identifier(names[1])}."it\'s applied"'
    await admin.execute(f"DELETE FROM {records} WHERE migration_id = $1", TERMINAL)
    assert (await at("repair", "--record", TERMINAL, "--yes", *names)).status == 0
    assert (await at("status", *names, "--json")).json["place"]["schema"] == names[1]
    assert (await at("status")).status == 1, "there are none of the default names"
    sql = (await call("sql", *names[:4])).out
    assert sql == get_migration_sql('The "flows"', {"runs": 'my "runs"'})


async def test_libpq_variables_lead_to_the_server(call: Call, empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = urlsplit(empty_dsn)
    facts = {"HOST": parts.hostname, "PORT": parts.port, "USER": parts.username, "DATABASE": parts.path[1:]}
    for name, value in facts.items():
        monkeypatch.setenv(f"PG{name}", str(value))
    assert (await call("status", "--json")).json["place"]["database"] == parts.path[1:]


COMMANDS = (["status"], ["plan"], ["migrate"], ["migrate", "--dry-run"], ["check"], ["repair", "--record", FIRST])


@pytest.mark.parametrize("words", COMMANDS)
async def test_password_is_in_nothing_that_is_said(
    call: Call, server_dsn: str, words: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    address = server_dsn.rpartition("@")[2]
    server = address.partition("/")[0]
    wrong = [
        f"postgresql://nobody:{MARKER}@{address}",
        f"postgresql://postgres:{MARKER}@{server}/no_such_database",
        f"postgresql://postgres:{MARKER}@127.0.0.1:1/app",
        f"postgresql://postgres:7/{MARKER}@{address}",
        f"{MARKER}://postgres@{address}",
        f"postgresql://postgres:{MARKER}@{server}:{MARKER}/app",
    ]
    for dsn in wrong:
        for as_json in ([], ["--json"]):
            done = await call(*words, "--dsn", dsn, *as_json)
            assert (done.status, bool(done.err)) == (2, True)
            assert MARKER not in done.out + done.err + caplog.text
        misplaced = await call(*words, dsn)
        assert (misplaced.status, "(not shown)" in misplaced.err, MARKER in misplaced.err) == (2, True, False)
    monkeypatch.setenv("DATABASE_URL", wrong[0])
    done = await call(*words)
    assert (done.status, MARKER in done.out + done.err) == (2, False)


async def test_password_is_not_said_after_the_connection_either(
    call: Call, empty_dsn: str, admin: asyncpg.Connection
) -> None:
    await admin.execute("CREATE TABLE workflow_runs (id integer)")
    dsn = empty_dsn.replace("postgres@", f"postgres:{MARKER}@")
    assert MARKER in dsn
    for words in COMMANDS:
        done = await call(*words, "--dsn", dsn, "--json")
        assert (done.status, MARKER in done.out + done.err) == (1, False)


async def test_path_needs_no_server(call: Call) -> None:
    folder = Path((await call("path")).out.strip())
    assert sorted(file.stem for file in folder.glob("*.sql")) == IDS
    script = await call("sql", "--no-transaction", "--from", FAILED)
    assert script.out == get_migration_sql(from_id=FAILED, transaction=False)
    assert (await call("sql")).out == get_migration_sql()
