"""Workers hear of work by LISTEN and NOTIFY: how soon, at what cost, and what happens when the connection is lost.

Every worker here polls once in a thousand seconds, unless a test says otherwise: what it finds, a notice was about.
"""

import asyncio
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import asyncpg
import pytest
from workflow_runtime import Context, StoreUnavailableError, WorkflowRuntime, unserved, worker, workflow
from workflow_runtime.clock import from_ms
from workflow_runtime.store import SupportsNotify, WorkNotice
from workflow_store_postgres import PostgresWorkflowStore, listening, notices
from workflow_store_sql import load_queries
from workflow_test_support.relays.postgres_wire import wire_to
from workflow_test_support.servers.postgres_server import LocalServer

Connect = Callable[..., Awaitable[PostgresWorkflowStore]]

NEVER = timedelta(seconds=1_000)
LONG_LEASE = timedelta(hours=1)
"""No heartbeat of such a lease falls into a test."""
_PATIENCE_S = 20.0
_SOON_MS = 500
"""What a busy machine may add to the 50 ms that the design asks for; the figures are printed."""

ran: dict[str, float] = {}
"""When each run's step ran."""


async def note(run_id: str) -> None:
    ran[run_id] = time.time()


@workflow()
async def notes(ctx: Context, _: Any) -> None:
    await ctx.step(note, ctx.run_id)


@workflow()
async def notes_a_signal(ctx: Context, _: Any) -> None:
    await ctx.wait_for_event("go")
    await ctx.step(note, ctx.run_id)


@workflow()
async def notes_late(ctx: Context, seconds: float) -> None:
    await ctx.sleep(timedelta(seconds=seconds))
    await ctx.step(note, ctx.run_id)


async def last_for_ever() -> None:
    await asyncio.Event().wait()


@workflow()
async def notes_a_signal_beside_a_step(ctx: Context, _: Any) -> None:
    async def wait() -> None:
        await ctx.wait_for_event("go")
        await ctx.step(note, ctx.run_id)

    await asyncio.gather(ctx.step(last_for_ever), wait())


WORKFLOWS = [notes, notes_a_signal, notes_late, notes_a_signal_beside_a_step]


def runtime_on(store: PostgresWorkflowStore) -> WorkflowRuntime:
    return WorkflowRuntime(store=store, workflows=WORKFLOWS, lease=LONG_LEASE)


async def until(condition: Callable[[], Any], seconds: float = _PATIENCE_S) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


class Heard:
    """What somebody who listens hears."""

    def __init__(self, live: Any) -> None:
        self.live = live
        self.notices: list[WorkNotice] = []

    @property
    def run_ids(self) -> list[str | None]:
        return [notice.run_id for notice in self.notices]


@asynccontextmanager
async def hearing(store: PostgresWorkflowStore, *, live: bool = True) -> AsyncIterator[Heard]:
    heard = Heard(None)
    async with cast(SupportsNotify, store).listen(heard.notices.append) as listening:
        heard.live = listening
        if live:
            await until(lambda: listening.live)
            heard.notices.clear()
        yield heard


@asynccontextmanager
async def working(store: PostgresWorkflowStore, poll_interval: timedelta | None = NEVER) -> AsyncIterator[None]:
    """A worker that listens already, and has nothing to do."""
    stop = asyncio.Event()
    idle = asyncio.Event()

    class Watched(WorkflowRuntime):
        def _noticed(self, notice: WorkNotice) -> None:
            super()._noticed(notice)
            if notice.run_id is None:
                idle.set()

    runtime = Watched(store=store, workflows=WORKFLOWS, lease=LONG_LEASE)
    task = asyncio.create_task(runtime.work(stop=stop, handle_signals=False, poll_interval=poll_interval))
    try:
        if store.capabilities.notify:
            await asyncio.wait_for(idle.wait(), _PATIENCE_S)
        await asyncio.sleep(0.1)
        yield
    finally:
        for driver in list(runtime._drivers.values()):
            driver.stop(cancel_steps=True)
        stop.set()
        await asyncio.wait_for(task, _PATIENCE_S)


def figures(what: str, late_s: list[float]) -> None:
    late_ms = sorted(1_000 * late for late in late_s)
    p99 = late_ms[int(len(late_ms) * 0.99) - 1 if len(late_ms) > 1 else 0]
    print(f"{what}: median {statistics.median(late_ms):.1f} ms, p99 {p99:.1f} ms, worst {late_ms[-1]:.1f} ms")
    assert statistics.median(late_ms) < _SOON_MS


# How soon.


async def test_start_elsewhere_wakes_an_idle_worker(connect: Connect) -> None:
    client, late = runtime_on(await connect()), []
    async with working(await connect()):
        for number in range(40):
            began = time.time()
            await client.start_run(notes, run_id=f"start-{number}")
            await until(lambda number=number: f"start-{number}" in ran)  # type: ignore[misc]  # a default's type
            late.append(ran[f"start-{number}"] - began)
            await asyncio.sleep(0.03)
    figures("start to step, other handle", late)


STARTER = """
import asyncio, sys, time
from workflow_runtime import WorkflowRuntime, workflow
from workflow_store_postgres import PostgresWorkflowStore

@workflow(id="notes")
async def notes(ctx, _): ...

async def main():
    async with PostgresWorkflowStore.connect(sys.argv[1]) as store:
        runtime = WorkflowRuntime(store=store, workflows=[notes])
        for number in range(5):
            before = time.time()
            await runtime.start_run("notes", run_id=f"process-{number}")
            print(before, flush=True)
            await asyncio.sleep(0.05)

asyncio.run(main())
"""


async def test_start_in_another_process_wakes_an_idle_worker(connect: Connect, dsn: str) -> None:
    assert notes.id == "notes"
    async with working(await connect()):
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", STARTER, dsn], capture_output=True, text=True, check=True, timeout=60
        )
        began = [float(line) for line in done.stdout.split()]
        await until(lambda: all(f"process-{number}" in ran for number in range(5)))
    figures("start to step, other process", [ran[f"process-{number}"] - at for number, at in enumerate(began)])


async def test_signal_from_elsewhere_wakes_a_paused_run(connect: Connect) -> None:
    store = await connect()
    client, late = runtime_on(store), []
    async with working(await connect()):
        for number in range(10):
            handle = await client.start_run(notes_a_signal, run_id=f"paused-{number}")
            while await handle.status() != "paused":
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.03)
            began = time.time()
            await client.deliver_signal(handle.run_id, "go")
            await until(lambda handle=handle: handle.run_id in ran)  # type: ignore[misc]  # a default's type
            late.append(ran[handle.run_id] - began)
    figures("signal to step, paused run", late)


async def test_signal_from_elsewhere_reaches_a_running_run(connect: Connect) -> None:
    """Its driver learns of it without a heartbeat."""
    client = runtime_on(await connect())
    async with working(await connect()):
        handle = await client.start_run(notes_a_signal_beside_a_step, run_id="running")
        while (await handle.load()).next_index < 1:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        began = time.time()
        assert (await client.deliver_signal("running", "go")).kind == "buffered"
        await until(lambda: "running" in ran)
        figures("signal to step, running run", [ran["running"] - began])
        await client.cancel_run("running")
        async with asyncio.timeout(_PATIENCE_S):
            while await handle.status() != "aborted":
                await asyncio.sleep(0.005)


async def test_timers_of_others_are_kept_to(connect: Connect) -> None:
    """A process without a worker leaves a run asleep; a worker elsewhere, idle until then, wakes it in time."""
    client, late = runtime_on(await connect()), []
    async with working(await connect()):
        handles = [await client.run_here(notes_late, 2 + number / 10, run_id=f"late-{number}") for number in range(5)]
        dues = [(await handle.load()).due_at_ms for handle in handles]  # all of them, before the first one is woken
        for handle, due in zip(handles, dues, strict=True):
            assert due is not None
            await until(lambda handle=handle: handle.run_id in ran)  # type: ignore[misc]  # a default's type
            late.append(ran[handle.run_id] - due / 1_000)
    assert min(late) > -0.01
    figures("timer to step", late)


async def test_run_that_a_client_starts_for_later_is_started_then(connect: Connect) -> None:
    store = await connect()
    client = runtime_on(store)
    async with working(await connect()):
        start_at = from_ms(await store.read_clock() + 1_500)
        await client.start_run(notes, run_id="for later", start_at=start_at)
        await until(lambda: "for later" in ran)
    assert ran["for later"] >= start_at.timestamp() - 0.01
    figures("start_at to step", [ran["for later"] - start_at.timestamp()])


# At what cost.


async def test_idle_worker_hardly_talks(dsn: str) -> None:
    """Nothing within the seconds of a test. In 30 seconds there is one poll, of four statements, in 20 one probe.

    In ten minutes there are three more, for runs that nobody takes; a sweep sends those too.
    """
    async with (
        wire_to(dsn) as wire,
        PostgresWorkflowStore.connect(wire.dsn, max_size=1) as store,
        working(store, poll_interval=None),
    ):
        wire.reset()
        await asyncio.sleep(3)
        assert wire.trips == 0
        await runtime_on(store).sweep()
        poll, probe = 0, 0
        for _ in range(2):  # the first time a statement is prepared
            runtime = runtime_on(store)
            await runtime.sweep(limit=0)
            wire.reset()
            await runtime.sweep()
            poll = wire.trips
            wire.reset()
            await store._sender.rows("probe", store._sender.head_table, "nobody")
            probe = wire.trips
    assert (poll, probe, listening._PROBE_EVERY_S, worker._CLOCK_MS) == (4 + 3, 1, 20, 90_000)
    assert unserved._EVERY_MS == 600_000
    asks_for_the_time = 1
    assert (poll - 3) / 30 + 3 / 600 + probe / 20 + asks_for_the_time / 90 <= 0.2


class NoticeCounter:
    """A count of the commits that notify, by what the store sends."""

    def __init__(self, store: PostgresWorkflowStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commits = 0
        notify, creation = store._sender.sql("notify"), store._sender.sql("create_run")
        fetch = store._sender._fetch

        async def counted(sql: str, values: Any) -> Any:
            self.commits += sql == notify or (sql == creation and values[-1] is True)
            return await fetch(sql, values)

        monkeypatch.setattr(store._sender, "_fetch", counted)


@pytest.mark.parametrize("at_once", [1, 20])
async def test_notices_of_a_process_are_put_together(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    store, count = await connect(), 500
    client, notices_sent = runtime_on(store), NoticeCounter(store, monkeypatch)
    async with hearing(await connect()) as heard:
        began = time.monotonic()

        async def start(first: int) -> None:
            for number in range(first, count, at_once):
                await client.start_run(notes, run_id=f"many-{number}")

        await asyncio.gather(*(start(first) for first in range(at_once)))
        seconds = time.monotonic() - began
        wanted = {f"many-{number}" for number in range(count)}
        await until(lambda: None in heard.run_ids or wanted <= set(heard.run_ids))
    print(f"{count} starts, {at_once} at a time, in {seconds:.2f} s: {notices_sent.commits} commits that notify")
    assert notices_sent.commits <= 2 + seconds / notices._WINDOW_S


async def test_waiting_notices_are_sent_when_the_store_is_closed(connect: Connect, dsn: str) -> None:
    async with hearing(await connect()) as heard:
        async with PostgresWorkflowStore.connect(dsn) as store:
            client = runtime_on(store)
            for number in range(3):
                await client.start_run(notes, run_id=f"closing-{number}")
        await until(lambda: {f"closing-{number}" for number in range(3)} <= set(heard.run_ids), 5)


async def test_work_whose_answer_is_lost_is_notified(
    dsn: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it was committed, and the second try, which finds it there, has nothing to tell."""
    monkeypatch.setattr(notices, "_WINDOW_S", 0.5)  # open for as long as the test needs it, on a busy machine too
    async with (
        wire_to(dsn) as wire,
        PostgresWorkflowStore.connect(wire.dsn, max_size=1) as store,
        hearing(await connect()) as heard,
    ):
        client = runtime_on(store)
        await client.start_run(notes, run_id="notified by itself")
        assert not store._notices.quiet
        wire.swallow_answers = 1
        with pytest.raises(StoreUnavailableError):
            await client.start_run(notes, run_id="answer lost")
        assert not (await client.start_run(notes, run_id="answer lost")).created
        await until(lambda: "answer lost" in heard.run_ids)


def test_only_statements_that_make_work_notify() -> None:
    queries = load_queries("workflow_store_postgres")
    assert {name for name, query in queries.items() if "pg_notify" in query.sql} == {
        "cancel_run",
        "create_run",
        "deliver",
        "deliver_signals",
        "fork_run",
        "notify",
        "mark_run_paused",
        "mark_runs_paused",
        "mark_schedule_bucket_started",
        "probe",
        "release_run_lease",
        "requeue_run",
        "retry_runs",
        "start_runs_together",
    }


# Who hears whom.


async def test_tables_of_one_database_do_not_hear_each_other(connect: Connect, dsn: str) -> None:
    """Who uses the same tables hears each other, however the tables are named."""
    schema = 'odd "schema"'
    path = {"search_path": '"odd ""schema""", public'}
    stores = {
        "by schema": await connect(schema=schema),
        "by path": await connect(server_settings=path),
        "public": await connect(),
        "other tables": await connect(tables={"event_locks": "My Heads"}, schema="third"),
    }
    await stores["by schema"].ensure_schema()
    await stores["other tables"].ensure_schema()
    for name, hears in {
        "by schema": {"by schema", "by path"},
        "by path": {"by schema", "by path"},
        "public": {"public"},
        "other tables": {"other tables"},
    }.items():
        async with hearing(stores[name]) as heard:
            for teller, store in stores.items():
                await runtime_on(store).start_run(notes, run_id=f"{teller} to {name}")
                await asyncio.sleep(0.1)
            assert heard.run_ids == [f"{teller} to {name}" for teller in stores if teller in hears]


async def test_tables_that_are_made_anew_are_listened_to(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, database: asyncpg.Connection
) -> None:
    monkeypatch.setattr(listening, "_PROBE_EVERY_S", 0.1)
    store = await connect(schema="again")
    async with hearing(store, live=False) as heard:
        for number in range(2):
            await store.ensure_schema()
            await until(lambda: heard.live.live)
            await runtime_on(store).start_run(notes, run_id=f"made-{number}")
            await until(lambda number=number: f"made-{number}" in heard.run_ids)  # type: ignore[misc]  # a default's type
            await database.execute("DROP SCHEMA again CASCADE")
            await until(lambda: not heard.live.live)


# Losing the connection.


async def kill_listeners(database: asyncpg.Connection) -> int:
    killed = await database.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND query ~ '^(UN)?LISTEN' AND pid <> pg_backend_pid()"
    )
    return len(killed)


async def test_lost_connection_is_made_again(connect: Connect, database: asyncpg.Connection) -> None:
    client = runtime_on(await connect())
    async with working(await connect()):
        for number in range(3):
            assert await kill_listeners(database) == 1
            await client.start_run(notes, run_id=f"lost-{number}")  # the notice goes to nobody
            await until(lambda number=number: f"lost-{number}" in ran)  # type: ignore[misc]  # a default's type
            await asyncio.sleep(0.2)


async def test_what_starts_while_nobody_listens_is_found(dsn: str, connect: Connect) -> None:
    """The worker is cut off for a while; when it listens again it looks for everything."""
    client = runtime_on(await connect())
    async with wire_to(dsn) as wire, PostgresWorkflowStore.connect(wire.dsn) as store, working(store):
        wire.refusing = True
        wire.cut()
        await asyncio.sleep(0.3)
        await client.start_run(notes, run_id="cut off")
        await asyncio.sleep(0.3)
        assert "cut off" not in ran
        wire.refusing = False
        await until(lambda: "cut off" in ran)


async def test_restart_of_the_server_is_survived() -> None:
    with LocalServer() as server:
        async with (
            PostgresWorkflowStore.connect(server.dsn) as store,
            PostgresWorkflowStore.connect(server.dsn) as other,
        ):
            await store.ensure_schema()
            client = runtime_on(other)
            async with working(store):
                await client.start_run(notes, run_id="before the restart")
                await until(lambda: "before the restart" in ran)
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
                await client.start_run(notes, run_id="after the restart")
                await until(lambda: "after the restart" in ran)


async def test_restart_of_the_server_costs_no_running_step() -> None:
    """The lost connection makes every driver look, and there is nobody to answer."""
    with LocalServer() as server:
        async with PostgresWorkflowStore.connect(server.dsn) as store:
            await store.ensure_schema()
            stop, begun, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
            calls = 0

            async def last() -> str:
                nonlocal calls
                calls += 1
                begun.set()
                await end.wait()
                return "lasted"

            @workflow()
            async def lasts(ctx: Context, _: Any) -> str:
                return await ctx.step(last)

            runtime = WorkflowRuntime(store=store, workflows=[lasts], lease=LONG_LEASE)
            working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False))
            handle = await runtime.start_run(lasts)
            await asyncio.wait_for(begun.wait(), _PATIENCE_S)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)
            end.set()
            assert await handle.result(timeout=timedelta(seconds=_PATIENCE_S)) == "lasted"
            assert calls == 1
            stop.set()
            await working


async def test_change_of_liveness_is_notified(connect: Connect, database: asyncpg.Connection) -> None:
    async with hearing(await connect()) as heard:
        await kill_listeners(database)
        await until(lambda: len(heard.notices) == 2)
        assert heard.run_ids == [None, None]
        assert heard.live.live


async def test_connection_that_hears_nothing_is_found(
    dsn: str, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As behind a pooler in transaction mode: LISTEN succeeds, and no notice ever comes."""
    monkeypatch.setattr(listening, "_PROBE_TIMEOUT_S", 0.2)
    async with wire_to(dsn) as wire:
        wire.deaf = True
        async with PostgresWorkflowStore.connect(wire.dsn) as store, hearing(store, live=False) as heard:
            await until(lambda: "listen=False" in caplog.text)
            await asyncio.sleep(0.5)
            assert not heard.live.live
            assert heard.notices == []
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == 1


async def test_connection_that_goes_deaf_is_made_again(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_PROBE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(listening, "_PROBE_EVERY_S", 0.2)
    monkeypatch.setattr(listening, "_LAST_DELAY_S", 0.5)
    async with wire_to(dsn) as wire, PostgresWorkflowStore.connect(wire.dsn) as store, hearing(store) as heard:
        wire.deaf = True
        await until(lambda: not heard.live.live)
        wire.deaf = False
        await until(lambda: heard.live.live)
        await runtime_on(store).start_run(notes, run_id="deaf")
        await until(lambda: "deaf" in heard.run_ids)


async def test_callback_that_raises_hurts_nobody(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    store, heard = await connect(), []

    def on_notice(notice: WorkNotice) -> None:
        heard.append(notice.run_id)
        raise RuntimeError("oops")

    async with cast(SupportsNotify, store).listen(on_notice) as listening:
        await until(lambda: listening.live)
        await runtime_on(store).start_run(notes, run_id="raises")
        await until(lambda: "raises" in heard)
    assert "a listener for work raised" in caplog.text


# Other ways to connect.


async def test_without_listening_work_is_notified_all_the_same_and_workers_poll(connect: Connect) -> None:
    """Behind a pooler a program can tell, but not listen: workers elsewhere hear of what it starts."""
    deaf = await connect(listen=False)
    assert not deaf.capabilities.notify
    async with hearing(await connect()) as heard:
        await runtime_on(deaf).start_run(notes, run_id="queued")
        await until(lambda: "queued" in heard.run_ids)
    async with working(deaf, poll_interval=timedelta(milliseconds=100)):
        await until(lambda: "queued" in ran)


async def test_pool_of_the_users_lends_a_connection(dsn: str, connect: Connect) -> None:
    """It goes back as it came: nobody who gets it next hears anything."""
    client = runtime_on(await connect())
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        store = PostgresWorkflowStore(pool)
        assert store.capabilities.notify
        async with working(store):
            await until(lambda: pool.get_size() - pool.get_idle_size() == 1)
            await client.start_run(notes, run_id="lent")
            await until(lambda: "lent" in ran)
        assert pool.get_size() == pool.get_idle_size()
        async with pool.acquire() as first, pool.acquire() as second:
            for connection in (first, second):
                assert await connection.fetch("SELECT pg_listening_channels()") == []


async def test_pool_of_one_tells_and_does_not_listen(
    dsn: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with hearing(await connect()) as heard, asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        store = PostgresWorkflowStore(pool)
        assert "workers on this store poll" in caplog.text
        assert not store.capabilities.notify
        async with working(store, poll_interval=timedelta(milliseconds=100)):
            await runtime_on(store).start_run(notes, run_id="alone")
            await until(lambda: "alone" in ran)
        await until(lambda: "alone" in heard.run_ids)


async def test_workers_leave_a_connection_of_a_small_pool_for_their_statements(dsn: str) -> None:
    """Two workers on one store: one listens, the other polls until its turn comes."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        store = PostgresWorkflowStore(pool)
        async with hearing(store, live=False) as waiting:
            async with hearing(store, live=False) as other:
                await until(lambda: waiting.live.live or other.live.live)
                async with asyncio.timeout(_PATIENCE_S):
                    await store.read_clock()
                assert not (waiting.live.live and other.live.live)
            await until(lambda: waiting.live.live)


async def test_listening_connection_is_made_as_those_of_the_pool(dsn: str, database: asyncpg.Connection) -> None:
    sessions = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1"

    async def names() -> list[str]:
        return [row[0] for row in await database.fetch(sessions, database.get_server_pid())]

    settings = {"application_name": "mine"}
    async with PostgresWorkflowStore.connect(dsn, max_size=1, server_settings=settings) as store:
        async with hearing(store):
            assert await names() == ["mine", "mine"]
        async with asyncio.timeout(_PATIENCE_S):
            while await names() != ["mine"]:
                await asyncio.sleep(0.01)
