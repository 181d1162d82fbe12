"""Passing failures below a SQLite file: a call says that it may be repeated, and a worker does so."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime import Context, RunStatus, StoreUnavailableError, WorkflowRuntime, workflow
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_d1.sqlite_connection import PASSES_AT_THE_START, database_error


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes: what SQLite calls a disk I/O error."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def wal_size(path: Path) -> int:
    return (path.parent / f"{path.name}-wal").stat().st_size


async def test_limit_of_the_files_size_passes(tmp_path: Path) -> None:
    """Nothing of the call is done; when the limit is gone the same call succeeds."""
    path = tmp_path / "app.db"

    @workflow()
    async def waits(ctx: Context, text: str) -> None:
        await ctx.wait_for_event("never")

    async with SQLiteWorkflowStore.open(path) as store:
        await store.ensure_schema()
        runtime = WorkflowRuntime(store=store, workflows=[waits])
        await runtime.start_run(waits, "a", run_id="a")
        with no_file_beyond(wal_size(path)), pytest.raises(StoreUnavailableError, match="disk I/O error"):
            await runtime.start_run(waits, "b" * 50_000, run_id="b")
        assert await store.load_run(run_id="b") is None
        await runtime.start_run(waits, "b" * 50_000, run_id="b")


@pytest.mark.real_time
async def test_worker_sits_the_limit_out(tmp_path: Path) -> None:
    """Its runs go on from their last record, and none counts a crash."""
    path, ran = tmp_path / "app.db", []

    async def step(number: int) -> str:
        ran.append(number)
        return "x" * 2_000

    @workflow()
    async def works(ctx: Context, _: Any) -> None:
        for number in range(10):
            await ctx.step(step, number)
            await ctx.step(asyncio.sleep, 0.01)

    async with SQLiteWorkflowStore.open(path) as store:
        await store.ensure_schema()
        runtime = WorkflowRuntime(store=store, workflows=[works])
        stop = asyncio.Event()
        working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False))
        handle = await runtime.start_run(works, run_id="run")
        async with asyncio.timeout(60):
            while not ran:
                await asyncio.sleep(0.001)
            with no_file_beyond(wal_size(path)):
                await asyncio.sleep(0.5)
                assert not working.done()
            await handle.result(timeout=timedelta(seconds=50))
            stop.set()
            report = await working
        run = await store.load_run(run_id="run")
    assert run is not None
    assert (run.status, run.crashes) == (RunStatus.FINISHED, 0)
    assert ran == list(range(10))
    assert report.failed == 0


def failed_with(code: int) -> Exception:
    error = sqlite3.OperationalError("as SQLite says")
    error.sqlite_errorcode = code
    return error


def codes(*names: str) -> list[int]:
    return [getattr(sqlite3, f"SQLITE_{name}") for name in names]


@pytest.mark.parametrize(
    "code",
    codes(
        *("BUSY", "LOCKED", "FULL", "NOMEM", "PROTOCOL", "READONLY", "CANTOPEN", "IOERR", "IOERR_WRITE", "IOERR_READ"),
        *("IOERR_SHMSIZE", "IOERR_NOMEM", "READONLY_CANTINIT", "READONLY_ROLLBACK", "BUSY_SNAPSHOT", "CANTOPEN_ISDIR"),
    ),
)
def test_failures_that_pass(code: int) -> None:
    error = database_error(failed_with(code))
    assert (error.unavailable, error.outcome_unknown) == (True, False)


@pytest.mark.parametrize(
    "code",
    codes(
        "CORRUPT", "NOTADB", "IOERR_DATA", "IOERR_CORRUPTFS", "READONLY_DBMOVED", "CONSTRAINT_UNIQUE", "TOOBIG", "ERROR"
    ),
)
def test_failures_that_do_not_pass(code: int) -> None:
    assert not database_error(failed_with(code)).unavailable


@pytest.mark.parametrize("code", codes("IOERR_FSYNC", "IOERR_DIR_FSYNC"))
def test_commit_that_could_not_be_made_safe_is_in_doubt(code: int) -> None:
    """What was written may be there after a crash all the same."""
    error = database_error(failed_with(code))
    assert (error.unavailable, error.outcome_unknown) == (True, True)


@pytest.mark.parametrize("code", codes("CANTOPEN", "READONLY"))
def test_file_that_cannot_be_opened_is_wrong_at_the_start(code: int) -> None:
    """A path that leads nowhere does not mend itself."""
    assert not database_error(failed_with(code), passes=PASSES_AT_THE_START).unavailable
