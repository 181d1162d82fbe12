"""Worker and client processes whose wall clock is ten minutes off, or steps back, or must not be read at all."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore

_HERE = Path(__file__).parent
_KINDS = ("fast", "slow", "steps-back", "forbidden")
_MINUTES_10 = 600
_NEAR_S = 60
_RUNS = 3


@dataclass(frozen=True)
class Place:
    location: str
    schema: str
    store: SQLiteWorkflowStore | PostgresWorkflowStore


@pytest.fixture(params=["sqlite", "postgres"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "sqlite":
        location = str(tmp_path / "app.db")
        async with SQLiteWorkflowStore.open(location) as sqlite:
            await sqlite.ensure_schema()
            yield Place(location, "", sqlite)
        return
    schema = f"clocks_{secrets.token_hex(4)}"
    dsn = request.getfixturevalue("server_dsn")
    await execute(dsn, f"CREATE SCHEMA {schema}")
    async with PostgresWorkflowStore.connect(dsn, schema=schema) as postgres:
        await postgres.ensure_schema()
        yield Place(dsn, schema, postgres)
    await execute(dsn, f"DROP SCHEMA {schema} CASCADE")


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


class Process:
    """A process with a wrong clock; it ends at the latest with this one."""

    def __init__(self, stack: ExitStack, folder: Path, kind: str, role: str, place: Place) -> None:
        self._said, self._complaints = (folder / f"{role}-{kind}.{what}" for what in ("out", "err"))
        script = "import wrong_clock; wrong_clock.main()"
        command = [sys.executable, "-c", script, kind, role, place.location, place.schema]
        with self._said.open("wb") as out, self._complaints.open("wb") as err:
            self._process = stack.enter_context(
                subprocess.Popen(command, cwd=_HERE, stdin=subprocess.PIPE, stdout=out, stderr=err)
            )
        stack.callback(self._process.kill)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while not self._said.stat().st_size:
            assert self._process.poll() is None, self._complaints.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> list[dict[str, Any]]:
        """Wait until it has ended well; give what it said."""
        status = self._process.wait(timeout=90)
        complaints = self._complaints.read_text()
        assert status == 0, complaints
        assert "WallClockReadError" not in complaints
        return [json.loads(line) for line in self._said.read_text().splitlines()]


@pytest.mark.real_time
async def test_wrong_wall_clocks_change_nothing(place: Place, tmp_path: Path) -> None:
    """Sleeps, timeouts and leases keep to the store's time; no step runs twice, though it outlasts its lease."""
    before_s = await place.store.read_clock() / 1000
    with ExitStack() as stack:
        workers = {kind: Process(stack, tmp_path, kind, "worker", place) for kind in _KINDS}
        for worker in workers.values():
            worker.wait_until_ready()
        clients = {kind: Process(stack, tmp_path, kind, "client", place) for kind in _KINDS}
        served = {kind: client.end() for kind, client in clients.items()}
        for worker in workers.values():
            worker.stop()
        worked = {kind: worker.end()[1:] for kind, worker in workers.items()}
    after_s = await place.store.read_clock() / 1000

    assert_clocks_were_wrong(served, worked)
    executed = [line["run"] for lines in worked.values() for line in lines]
    assert sorted(executed) == sorted(f"{kind}-{number}" for kind in _KINDS for number in range(_RUNS))
    assert all(worked.values()), "a worker had nothing to do"
    results = [result for [line] in served.values() for result in line["results"].items()]
    for run_id, result in results:
        assert result["got"] == int(run_id[-1])
        begun, worked_at, slept, waited = result["times"]
        # Two workers may have answered: each sets its clock by one reading, which is off by half of a slow round trip.
        assert before_s - 1 <= begun <= worked_at - 2
        assert worked_at + 1 <= slept <= waited - 0.5
        assert waited <= after_s + 1


def assert_clocks_were_wrong(served: dict[str, list[dict[str, Any]]], worked: dict[str, list[dict[str, Any]]]) -> None:
    """What the applications' own code saw in these processes."""
    errors = {kind: lines[0]["wall"] - time.time() for kind, lines in served.items()}
    assert abs(errors["fast"] - _MINUTES_10) < _NEAR_S
    assert abs(errors["slow"] + _MINUTES_10) < _NEAR_S
    for kind, error in (("fast", _MINUTES_10), ("slow", -_MINUTES_10)):
        walls = [wall for line in worked[kind] for wall in line["walls"]]
        assert all(abs(wall - time.time() - error) < _NEAR_S for wall in walls)
    assert any(line["walls"][0] - line["walls"][-1] > _MINUTES_10 - _NEAR_S for line in worked["steps-back"])


def test_a_library_that_reads_the_wall_clock_is_caught(tmp_path: Path) -> None:
    """The trap of these processes snaps: it would not be seen otherwise."""
    (tmp_path / "workflow_wrong.py").write_text(
        "import datetime, sys, time\n"
        "sources = {'time': time.time, 'ns': time.time_ns, 'now': datetime.datetime.now, 'gm': time.gmtime}\n"
        "def read(): sources[sys.argv[1]]()\n"
    )
    script = (
        "import time, wrong_clock; wrong_clock.install('forbidden'); time.time()\n"
        "import workflow_wrong; workflow_wrong.read()"
    )
    paths = os.pathsep.join([str(_HERE), str(tmp_path)])
    for source in ("time", "ns", "now", "gm"):
        done = subprocess.run(
            [sys.executable, "-c", script, source],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env=os.environ | {"PYTHONPATH": paths},
        )
        assert "WallClockReadError: workflow_wrong" in done.stderr
