"""Heartbeats come from a thread: a blocked event loop keeps its leases for a while, a stopped process does not.

Real time is the subject: leases are short, and everything is waited for with a deadline.
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from workflow_runtime import Context, TestClock, WorkflowRuntime, workflow
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.relays.silent_relay import silent_relay_to
from workflow_test_support.workloads import heartbeat_process
from workflow_test_support.workloads.heartbeat_process import LEASE, open_store

LEASE_S = LEASE.total_seconds()
THREE_LEASES_S = 3 * LEASE_S
PATIENCE_S = 30.0


@workflow(id="slow")
async def slow(ctx: Context, _: None) -> str:
    return await ctx.step.options(id="step")(answer)


async def answer() -> str:
    return "parent"


@pytest.fixture(params=["sqlite", "postgres"])
async def location(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "beats.db")
        return
    async with request.getfixturevalue("databases").database() as dsn:
        yield dsn


@pytest.fixture
async def store(location: str) -> AsyncIterator[Any]:
    async with open_store(location) as opened, asyncio.timeout(PATIENCE_S):
        await opened.ensure_schema()
        yield opened


@contextmanager
def child(
    location: str, step_s: float, max_block_s: float, how: str, lease_s: float = LEASE_S
) -> Iterator[subprocess.Popen[str]]:
    """A worker that takes the run; the block begins when its step has begun."""
    program = [sys.executable, "-m", heartbeat_process.__name__]
    arguments = [location, str(step_s), str(max_block_s), how, str(lease_s)]
    process = subprocess.Popen([*program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.wait()


async def taken_over(runtime: WorkflowRuntime, seconds: float) -> float | None:
    """Sweep until the run is taken over, and tell when; `None` when it never was."""
    begin = time.monotonic()
    while time.monotonic() < begin + seconds:
        if (await runtime.sweep()).total:
            return time.monotonic() - begin
        await asyncio.sleep(0.05)
    return None


async def test_blocked_event_loop_keeps_its_lease(location: str, store: Any) -> None:
    runtime = WorkflowRuntime(store=store, workflows=[slow], lease=LEASE)
    handle = await runtime.start_run(slow)
    with child(location, THREE_LEASES_S, 60, "block") as process:
        assert await taken_over(runtime, THREE_LEASES_S - LEASE_S / 2) is None
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert output == "finished\n"
    assert await handle.result() == "child"
    assert "the event loop has been blocked" in errors
    assert "time.sleep(step_s)" in errors, "the log says where"


@pytest.mark.parametrize("location", ["postgres"], indirect=True)
@pytest.mark.parametrize("moment", ["falls_silent_at", "loses_answer_to"])
async def test_silent_connection_for_heartbeats_gets_a_successor_in_time(
    location: str, store: Any, moment: str
) -> None:
    """It stays open and brings nothing, while the step blocks the event loop: nobody else can renew the lease."""
    lease_s = 4.0
    runtime = WorkflowRuntime(store=store, workflows=[slow], lease=timedelta(seconds=lease_s))
    handle = await runtime.start_run(slow)
    with silent_relay_to(location) as relay, child(relay.dsn, 2.5 * lease_s, 60, "block", lease_s) as process:
        setattr(relay, moment, b"lease_expires_at = greatest")
        await asyncio.to_thread(relay.wait_until_silent)
        relay.restore()
        assert await taken_over(runtime, 2 * lease_s) is None
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert output == "finished\n"
    assert "heartbeats failed: no answer within 1.0 s" in errors
    assert await handle.result() == "child"


async def test_event_loop_that_is_blocked_for_too_long_loses_its_lease(location: str, store: Any) -> None:
    runtime = WorkflowRuntime(store=store, workflows=[slow], lease=LEASE)
    handle = await runtime.start_run(slow)
    with child(location, 8 * LEASE_S, 2 * LEASE_S, "block") as process:
        after_s = await taken_over(runtime, 6 * LEASE_S)
        assert after_s is not None
        assert after_s > 2 * LEASE_S, "it was taken before the cap"
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert output == "lost\n"
    assert await handle.result() == "parent"
    assert "its leases are left to run out" in errors


async def test_without_a_thread_a_blocked_event_loop_loses_its_lease(location: str, store: Any) -> None:
    runtime = WorkflowRuntime(store=store, workflows=[slow], lease=LEASE)
    await runtime.start_run(slow)
    with child(location, THREE_LEASES_S, 0, "block") as process:
        assert await taken_over(runtime, THREE_LEASES_S) is not None
        assert process.communicate(timeout=PATIENCE_S)[0] == "lost\n"


async def test_stopped_process_loses_its_lease_and_can_write_nothing(location: str, store: Any) -> None:
    runtime = WorkflowRuntime(store=store, workflows=[slow], lease=LEASE)
    handle = await runtime.start_run(slow)
    with child(location, LEASE_S, 60, "await") as process:
        os.kill(process.pid, signal.SIGSTOP)
        assert await taken_over(runtime, THREE_LEASES_S) is not None
        log = await store.read_events(run_id=handle.run_id, limit=100)
        os.kill(process.pid, signal.SIGCONT)
        assert process.communicate(timeout=PATIENCE_S)[0] == "lost\n"
    assert await handle.result() == "parent"
    assert await store.read_events(run_id=handle.run_id, limit=100) == log


def beating(but: Collection[threading.Thread] = ()) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "workflow heartbeats" and thread not in but]


@pytest.fixture
def others() -> list[threading.Thread]:
    """The threads of other tests: they stay for a while, and longer with longer leases."""
    return beating()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_thread_lives_while_there_are_leases_and_connects_when_one_is_due(
    store: Any, monkeypatch: pytest.MonkeyPatch, others: list[threading.Thread]
) -> None:
    opened = []
    open_heartbeats = type(store).open_heartbeats

    def open_and_count(self: Any) -> Any:
        opened.append(1)
        return open_heartbeats(self)

    monkeypatch.setattr(type(store), "open_heartbeats", open_and_count)
    going_on, seen = asyncio.Event(), []

    async def wait() -> None:
        seen.extend(beating(others))
        await going_on.wait()

    @workflow(id="waits")
    async def waits(ctx: Context, _: None) -> None:
        await ctx.step(wait)

    runtime = WorkflowRuntime(store=store, workflows=[waits], lease=LEASE)
    going_on.set()
    await runtime.run_here(waits)
    assert len(seen) == 1
    assert opened == [], "a short run needs no connection"
    await until(lambda: not beating(others))
    going_on.clear()
    drives = [asyncio.create_task(runtime.run_here(waits)) for _ in range(3)]
    await until(lambda: opened)
    assert len(beating(others)) == 1
    going_on.set()
    await asyncio.gather(*drives)
    await until(lambda: not beating(others))
    assert opened == [1]


async def test_worker_that_has_ended_leaves_no_connection_behind(
    store: Any, monkeypatch: pytest.MonkeyPatch, others: list[threading.Thread]
) -> None:
    """Also when closing takes a while: whoever waited for the worker may take the database away."""
    opened, closed, stop = asyncio.Event(), [], asyncio.Event()
    here = asyncio.get_running_loop()
    open_heartbeats = type(store).open_heartbeats

    @asynccontextmanager
    async def open_and_close_slowly(self: Any) -> AsyncIterator[Any]:
        async with open_heartbeats(self) as renewer:
            here.call_soon_threadsafe(opened.set)
            yield renewer
            await asyncio.sleep(0.3)
        closed.append(1)

    monkeypatch.setattr(type(store), "open_heartbeats", open_and_close_slowly)

    @workflow(id="waits-for-the-connection")
    async def waits(ctx: Context, _: None) -> None:
        await ctx.step(opened.wait)

    runtime = WorkflowRuntime(store=store, workflows=[waits], lease=LEASE)
    handle = await runtime.start_run(waits)
    working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False))
    await handle.result()
    stop.set()
    await working
    assert closed == [1]
    assert not beating(others)


async def test_thread_that_cannot_connect_is_stood_in_for(
    store: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Any) -> Any:
        raise ConnectionRefusedError("no way")

    monkeypatch.setattr(type(store), "open_heartbeats", refuse)
    caplog.set_level(logging.WARNING)

    async def take_time() -> str:
        await asyncio.sleep(THREE_LEASES_S)
        return "kept"

    @workflow(id="takes-time")
    async def takes_time(ctx: Context, _: None) -> str:
        return await ctx.step(take_time)

    runtime = WorkflowRuntime(store=store, workflows=[takes_time], lease=LEASE)
    drive = asyncio.create_task(runtime.run_here(takes_time))
    assert await taken_over(WorkflowRuntime(store=store, workflows=[takes_time], lease=LEASE), THREE_LEASES_S) is None
    assert await (await drive).result() == "kept"
    assert "no way" in caplog.text


async def test_clock_of_a_test_needs_no_thread(store: Any, others: list[threading.Thread]) -> None:
    seen = []

    async def look() -> None:
        seen.append(beating(others))

    @workflow(id="looks")
    async def looks(ctx: Context, _: None) -> None:
        await ctx.step(look)

    await WorkflowRuntime(store=store, workflows=[looks], clock=TestClock()).run_here(looks)
    assert seen == [[]]


@pytest.mark.parametrize("location", ["postgres"], indirect=True)
async def test_pool_of_the_users_needs_to_be_told_how_to_connect(location: str, store: Any) -> None:
    made = []

    async def connect() -> Any:
        made.append(await asyncpg.connect(location))
        return made[-1]

    async with asyncpg.create_pool(location, min_size=1, max_size=1) as pool:
        assert not PostgresWorkflowStore(pool).capabilities.heartbeats
        theirs = PostgresWorkflowStore(pool, heartbeat_connect=connect)
        assert theirs.capabilities.heartbeats

        async def block() -> str:
            time.sleep(THREE_LEASES_S)  # the subject
            return "kept"

        @workflow(id="blocks")
        async def blocks(ctx: Context, _: None) -> str:
            return await ctx.step(block)

        runtime = WorkflowRuntime(store=theirs, workflows=[blocks], lease=LEASE)
        handle = await runtime.run_here(blocks)
        assert await handle.result() == "kept"
        assert made
        await until(lambda: all(connection.is_closed() for connection in made))
