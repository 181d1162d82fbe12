"""Each release works on the tables of its neighbour: a rolling deploy and a rollback lose nothing."""

import asyncio
import json
import os
import runpy
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import workflow_store_d1
import workflow_store_postgres
from workflow_migrations import Migration
from workflow_runtime.store import RunStatus
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PREVIOUS, NOW = "0.1.0", workflow_store_postgres.__version__
STORES = {"postgres": workflow_store_postgres, "sqlite": workflow_store_d1}
CLAUSES = ("SCHEMA", "LIST", "RETAIN") if os.environ.get("WORKFLOW_CRASH_POINTS") != "all" else ("",)
"""Clauses whose verbs read or write what the migrations have changed; in `release` all of them."""
RUNS = int(os.environ.get("WORKFLOW_MENDED_RUNS", "60")) * 2


@pytest.fixture(scope="session")
def previous_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of the previous release, unpacked."""
    folder = tmp_path_factory.mktemp("previous")
    runpy.run_path(str(ROOT / "scripts" / "build_release.py"))["build_release"](PREVIOUS, folder)
    return folder


def environment_of(release: str, previous_release: Path, **variables: str) -> dict[str, str]:
    """Return an environment in which Python runs the code of a release."""
    first = [str(previous_release)] if release == PREVIOUS else []
    paths = [*first, str(ROOT / "test-support" / "src"), str(HERE), *filter(None, sys.path)]
    return {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(paths), "EXPECTED_RELEASE": release}


def script_of(migrations: Sequence[Migration]) -> str:
    return "\n".join(migration.in_transaction().sql for migration in migrations)


# The contract tests.


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(
    ("release", "phases"),
    [(PREVIOUS, ("expand", "online")), (NOW, ("expand",))],
    ids=["previous-code-on-new-tables", "new-code-on-tables-without-new-indexes"],
)
@pytest.mark.timeout(3600)
def test_contract_is_kept_half_way(
    tmp_path: Path, previous_release: Path, release: str, phases: tuple[str, ...], store: str, clause: str
) -> None:
    """Each release by its own contract tests."""
    script, report = tmp_path / "tables.sql", tmp_path / "report.json"
    script.write_text(script_of([one for one in STORES[store].get_migrations() if one.phase in phases]))
    variables = {"TABLES_SCRIPT": str(script)} | ({"TABLES_STAY": "yes"} if release == NOW else {})
    command = [sys.executable, "-m", "workflow_contract_tests", f"half_way:on_{store}", "--json", str(report)]
    command += ["-k", clause, "--scale", "0.05"] if clause else ["--scale", "1"]
    done = subprocess.run(
        command,
        env=environment_of(release, previous_release, **variables),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    results = json.loads(report.read_text())["results"] if report.exists() else []
    failed = [one for one in results if one["outcome"] not in {"passed", "not-applicable", "not applicable"}]
    assert failed == [], done.stdout[-3000:]
    assert len([one for one in results if one["outcome"] == "passed"]) >= 5, done.stdout + done.stderr


# A rolling deploy and a rollback beside live work.


class Fleet:
    """Processes of two releases on one database."""

    def __init__(self, where: str, previous_release: Path, folder: Path) -> None:
        self._where = where
        self._previous_release = previous_release
        self._folder = folder
        self._processes: list[subprocess.Popen[str]] = []

    def begin(self, release: str, *words: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(HERE / "flows.py"), words[0], self._where, *words[1:]],
            env=environment_of(release, self._previous_release),
            cwd=self._folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def worker(self, release: str) -> "subprocess.Popen[str]":
        return self.begin(release, "work")

    async def end(self, process: "subprocess.Popen[str]", *, ask: bool = False) -> str:
        """Wait for the end of a process, which is no failure, and return what it said."""
        if ask:
            process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate, None, 90)
        assert process.returncode == 0, said
        return said

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@contextmanager
def fleet(where: str, previous_release: Path, folder: Path) -> Iterator[Fleet]:
    made = Fleet(where, previous_release, folder)
    try:
        yield made
    finally:
        made.kill()


def open_store(where: str) -> Any:
    if where.startswith("postgresql"):
        return PostgresWorkflowStore.connect(where)
    return SQLiteWorkflowStore.open(where)


async def make_first_tables(where: str) -> None:
    first = next(iter(STORES["postgres" if where.startswith("postgresql") else "sqlite"].get_migrations()))
    if not where.startswith("postgresql"):
        with closing(sqlite3.connect(where)) as database:
            database.executescript(first.sql)
        return
    async with PostgresWorkflowStore.connect(where) as store, store._sender.transaction() as connection:
        for statement in first.statements:
            await connection.execute(statement)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.timeout(600)
async def test_rolling_deploy_and_rollback_beside_live_work(
    store: str, empty_dsn: str, tmp_path: Path, previous_release: Path
) -> None:
    """No process ends by itself, and no run fails. Contracted tables shut the earlier release out."""
    where = empty_dsn if store == "postgres" else str(tmp_path / "app.db")
    await make_first_tables(where)
    with fleet(where, previous_release, tmp_path) as processes:
        first, second = processes.worker(PREVIOUS), processes.worker(PREVIOUS)
        before = processes.begin(PREVIOUS, "start", "0", str(RUNS))
        await finished(where, 5)

        # Migrate first; then replace the programs one after the other, also by an old one that starts again.
        async with open_store(where) as migrating:
            await migrating.ensure_schema()
        await processes.end(first, ask=True)
        third = processes.worker(NOW)
        await processes.end(second, ask=True)
        again = processes.worker(PREVIOUS)
        beside = processes.begin(NOW, "start", str(RUNS), str(RUNS))
        await processes.end(before)
        await finished(where, RUNS + 5)

        # Roll back: the earlier release takes over everything.
        await processes.end(third, ask=True)
        await processes.end(beside)
        await finished(where, 2 * RUNS)

        # Deploy again and contract: the earlier release hears what it needs.
        fourth = processes.worker(NOW)
        await processes.end(again, ask=True)
        async with open_store(where) as migrating:
            await migrating.ensure_schema(contract=True)
            await migrating.check_schema(deep=True)
        refused = processes.worker(PREVIOUS)
        _, said = await asyncio.to_thread(refused.communicate, None, 60)
        assert refused.returncode == 1
        assert f"to {NOW} or later; this is {PREVIOUS}" in said
        await processes.end(processes.begin(NOW, "start", str(2 * RUNS), "10"))
        await finished(where, 2 * RUNS + 10)
        await processes.end(fourth, ask=True)

    async with open_store(where) as looking:
        counts = await looking.count_runs()
        assert {str(status): count for status, count in counts.items() if count} == {"finished": 2 * RUNS + 10}
        for number in range(0, 2 * RUNS + 10, 7):
            run = await looking.load_run(run_id=f"run-{number}")
            assert json.loads(run.output) == 3 * number


async def finished(where: str, count: int) -> None:
    """Wait until so many runs have finished: real time is the subject."""
    async with open_store(where) as store, asyncio.timeout(120):
        while ((await store.count_runs()).get(RunStatus.FINISHED) or 0) < count:
            await asyncio.sleep(0.05)
