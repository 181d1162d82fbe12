"""Isolation of a handler from the runtime, every store, and clients that belong to the application's event loop.

The handler gets an error that says to use a step, and nothing was sent. The client, the worker and the store work on.
"""

import asyncio
import concurrent.futures
import gc
import threading
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
import httpx
import pytest
from workflow_runtime import ConfigurationError, Context, RunFailedError, WorkflowRuntime, workflow
from workflow_runtime.store import WorkflowExecutionStore
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.relays.tcp_server import tcp_server

Body = Callable[[], Awaitable[Any]]
bodies: dict[str, Body] = {}
"""What the handlers of these tests do, by the input of their run."""


@workflow(id="intruder")
async def intruder(ctx: Context, which: str) -> Any:
    return await bodies[which]()


@workflow(id="catching-intruder")
async def catching_intruder(ctx: Context, which: str) -> str:
    """What the handler itself sees, and that it can go on."""
    with pytest.raises(ConfigurationError, match="in a step") as refusal:
        await bodies[which]()
    return await ctx.step(str, refusal.value)


@workflow(id="stepping")
async def stepping(ctx: Context, which: str) -> Any:
    return await ctx.step(bodies[which])


@workflow(id="child")
async def child(ctx: Context, _: Any) -> str:
    return "child"


@pytest.fixture(autouse=True)
def nothing_left_to_later_tests() -> Iterator[None]:
    """What a refused client of the handler has left un-awaited warns here, where it is expected."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()


@pytest.fixture(scope="session")
def dsn(server_dsn: str) -> str:
    return server_dsn


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TEMP TABLE written (number integer)")
    yield connection
    await connection.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WorkflowExecutionStore]:
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            yield InMemoryWorkflowStore()
            return
        if request.param == "sqlite":
            opened: Any = await stack.enter_async_context(SQLiteWorkflowStore.open(tmp_path / "app.db"))
        else:
            dsn = request.getfixturevalue("dsn")
            await reset(dsn)
            opened = await stack.enter_async_context(PostgresWorkflowStore.connect(dsn, schema="isolation", max_size=2))
        await opened.ensure_schema()
        yield opened


async def reset(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("DROP SCHEMA IF EXISTS isolation CASCADE")
    await connection.execute("CREATE SCHEMA isolation")
    await connection.close()


def runtime_on(store: WorkflowExecutionStore) -> WorkflowRuntime:
    return WorkflowRuntime(store=store, workflows=[intruder, catching_intruder, stepping, child])


async def refusal_of(body: Body, store: WorkflowExecutionStore | None = None) -> str:
    """Run it in a handler that does not catch anything and in one that does; give what the second one saw."""
    bodies["it"] = body
    runtime = runtime_on(store or InMemoryWorkflowStore())
    async with asyncio.timeout(20):
        with pytest.raises(RunFailedError, match="in a step") as failure:
            await (await runtime.run_here(intruder, "it")).result()
        assert failure.value.error_type == "ConfigurationError"
        return str(await (await runtime.run_here(catching_intruder, "it")).result())


def calls_of(runtime: WorkflowRuntime) -> dict[str, Body]:
    """Everything of a runtime that somebody may call in a handler."""
    handle, schedules = runtime.attach("other"), runtime.schedules

    async def iterate(items: Any) -> None:
        async for _ in items:
            pass

    now = datetime.now(UTC)
    return {
        "start_run": lambda: runtime.start_run(child, 1, run_id="other"),
        "run_here": lambda: runtime.run_here(child, 1),
        "deliver_signal": lambda: runtime.deliver_signal("other", "go"),
        "deliver_approval": lambda: runtime.deliver_approval("other", "go", approved=True),
        "cancel_run": lambda: runtime.cancel_run("other"),
        "terminate_run": lambda: runtime.terminate_run("other"),
        "requeue_run": lambda: runtime.requeue_run("other"),
        "materialize_schedules": runtime.materialize_schedules,
        "sweep": runtime.sweep,
        "work": lambda: runtime.work(handle_signals=False),
        "load": handle.load,
        "status": handle.status,
        "result": handle.result,
        "events": lambda: iterate(handle.events()),
        "get": lambda: schedules.get("daily"),
        "list": lambda: iterate(schedules.list()),
        "delete": lambda: schedules.delete("daily"),
        "pause": lambda: schedules.pause("daily"),
        "resume": lambda: schedules.resume("daily"),
        "trigger": lambda: schedules.trigger("daily"),
        "backfill": lambda: schedules.backfill("daily", now, now),
    }


async def test_the_runtime_is_not_for_handlers(store: WorkflowExecutionStore) -> None:
    """No run is started, nothing hangs, and the same call works in a step."""
    runtime = runtime_on(store)
    for name, call in calls_of(runtime).items():
        assert name in await refusal_of(call, store), name
    assert {run.workflow_id for run in (await store.list_runs(limit=100)).runs} == {"intruder", "catching-intruder"}

    async def start() -> str:
        return (await runtime.start_run(child, 1, run_id="other")).run_id

    bodies["it"] = start
    assert await (await runtime.run_here(stepping, "it")).result() == "other"
    assert (await runtime.sweep()).outcomes == {"finished": 1}


async def test_a_store_is_not_for_handlers(store: Any) -> None:
    """Neither its verbs nor what is around them."""
    calls: list[Body] = [
        lambda: store.load_run(run_id="x"),
        lambda: store.list_runs(limit=1),
        lambda: store.deliver_signal(run_id="x", signal_id="s", name="go", payload="1", now_ms=1),
        lambda: store.delete_run(run_id="x", now_ms=1),
        store.read_clock,
        store.check_schema,
        store.ensure_schema,
        store.close,
    ]
    for call in calls:
        await refusal_of(call, store)
    assert await store.load_run(run_id="x") is None


async def test_the_database_of_a_sqlite_store_is_not_for_handlers(tmp_path: Path) -> None:
    async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
        await store.ensure_schema()
        await store.database.prepare("CREATE TABLE written (number integer)").run()
        writes = store.database.prepare("INSERT INTO written VALUES (1)")
        await refusal_of(writes.run, store)
        await refusal_of(lambda: store.database.batch([writes, writes]), store)
        assert (await store.database.prepare("SELECT count(*) AS n FROM written").all()).results == [{"n": 0}]


async def test_a_store_is_not_opened_in_a_handler(tmp_path: Path, dsn: str) -> None:
    async def enter(opening: Any) -> None:
        async with opening:
            pass

    async def wait_for(opening: Any) -> None:
        await opening

    for enters in (enter, wait_for):
        await refusal_of(lambda enters=enters: enters(SQLiteWorkflowStore.open(tmp_path / "new.db")))  # type: ignore[misc]
        await refusal_of(lambda enters=enters: enters(PostgresWorkflowStore.connect(dsn)))  # type: ignore[misc]
    assert not (tmp_path / "new.db").exists()
    assert not threads_of_aiosqlite()


# Clients of the application's own.


async def test_a_connection_of_aiosqlite(tmp_path: Path) -> None:
    """Its thread lives on: an error raised there would end it."""
    async with aiosqlite.connect(tmp_path / "own.db") as connection:
        await connection.execute("CREATE TABLE written (number integer)")

        async def write() -> None:
            await connection.execute("INSERT INTO written VALUES (1)")

        async def read() -> None:
            async with connection.execute("SELECT 1") as cursor:
                await cursor.fetchall()

        for body in (write, read, connection.commit):
            assert "aiosqlite" in await refusal_of(body)
        async with connection.execute("SELECT count(*) FROM written") as cursor:
            assert await cursor.fetchone() == (0,)


async def test_a_connection_of_aiosqlite_that_is_made_in_a_handler(tmp_path: Path) -> None:
    """It leaves no thread behind, which would keep the program from ending."""

    async def connect() -> None:
        async with aiosqlite.connect(tmp_path / "own.db"):
            pass

    await refusal_of(connect)
    await until(lambda: not threads_of_aiosqlite())
    assert not (tmp_path / "own.db").exists()


def threads_of_aiosqlite() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "connection_worker" in thread.name]


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_connection_of_asyncpg(connection: asyncpg.Connection) -> None:
    """It sends before it waits; it is refused before that, and answers the next question of the application."""
    prepared = await connection.prepare("SELECT 1")

    async def transact() -> None:
        async with connection.transaction():
            pass

    async def iterate() -> None:
        async for _ in connection.cursor("SELECT 1"):
            pass

    calls: list[Body] = [
        lambda: connection.execute("INSERT INTO written VALUES (1)"),
        lambda: connection.execute("INSERT INTO written VALUES ($1)", 1),
        lambda: connection.fetch("INSERT INTO written VALUES (1) RETURNING 1"),
        lambda: connection.fetchval("SELECT 1", timeout=3),
        lambda: connection.executemany("INSERT INTO written VALUES ($1)", [(1,), (2,)]),
        lambda: connection.copy_records_to_table("written", records=[(1,)]),
        lambda: connection.prepare("SELECT 2"),
        prepared.fetchval,
        transact,
    ]
    for call in calls:
        assert "asyncpg" in await refusal_of(call)
        assert await connection.fetchval("SELECT count(*) FROM written") == 0
    with suppress(asyncpg.InterfaceError):
        await refusal_of(iterate)  # a cursor outside of a transaction is refused by asyncpg itself, if it comes to that


# asyncpg makes a coroutine, finds that there is no timeout to be had, and drops it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lifetime", [0, 300.0])
async def test_a_pool_of_asyncpg(dsn: str, lifetime: float) -> None:
    """No connection stays marked as taken."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2, max_inactive_connection_lifetime=lifetime) as pool:

        async def borrow() -> None:
            async with pool.acquire() as borrowed:
                await borrowed.execute("CREATE TABLE never (number integer)")

        async def borrow_in_time() -> None:
            async with pool.acquire(timeout=5) as borrowed:
                await borrowed.fetchval("SELECT 1")

        async def only_borrow() -> None:
            async with pool.acquire():
                pass

        calls: list[Body] = [lambda: pool.fetchval("SELECT 1"), borrow, borrow_in_time, only_borrow]
        for call in calls:
            await refusal_of(call)
            assert await pool.fetchval("SELECT to_regclass('never')", timeout=10) is None
        holders = await asyncio.gather(pool.acquire(timeout=10), pool.acquire(timeout=10))
        for holder in holders:
            await pool.release(holder)
    gc.collect()


async def test_a_pool_that_is_used_up(dsn: str) -> None:
    """The queue in which a handler would wait for a connection does not come to belong to its loop."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            bodies["it"] = lambda: pool.fetchval("SELECT 1")
            with pytest.raises(RunFailedError, match="in a step"):
                await (await runtime_on(InMemoryWorkflowStore()).run_here(intruder, "it")).result()
            waits = asyncio.create_task(pool.fetchval("SELECT 2"))
            await asyncio.sleep(0)
            assert await connection.fetchval("SELECT 1") == 1
        assert await asyncio.wait_for(waits, 10) == 2


async def test_locks_and_queues_of_the_application() -> None:
    """One for which a handler was the first that had to wait is the application's all the same."""
    lock, queue, event = asyncio.Lock(), asyncio.Queue[int](), asyncio.Event()
    await lock.acquire()
    for body in (lock.acquire, queue.get, event.wait):
        bodies["it"] = body
        with pytest.raises(RunFailedError, match="in a step"):
            await (await runtime_on(InMemoryWorkflowStore()).run_here(intruder, "it")).result()
    waits = [asyncio.create_task(wait) for wait in (lock.acquire(), queue.get(), event.wait())]
    await asyncio.sleep(0)
    lock.release()
    queue.put_nowait(7)
    event.set()
    async with asyncio.timeout(10):
        assert await asyncio.gather(*waits) == [True, 7, True]


async def test_a_connection_of_asyncpg_that_is_made_in_a_handler(dsn: str) -> None:
    await refusal_of(lambda: asyncpg.connect(dsn))

    async def pool() -> None:
        async with asyncpg.create_pool(dsn, min_size=1, max_size=1):
            pass

    await refusal_of(pool)


class Server:
    """Answers every HTTP request, and counts them."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests[head.split()[1].decode()] += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    serving = Server()
    async with tcp_server(serving.answer) as port:
        serving.url = f"http://127.0.0.1:{port}"
        yield serving


@pytest.mark.parametrize("is_warm", [False, True])
async def test_a_client_of_httpx(server: Server, is_warm: bool) -> None:
    """Whether it has a connection to the server or would have to make one."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        if is_warm:
            assert (await client.get("/before")).text == "ok"
        await refusal_of(lambda: client.get("/handler"))
        await refusal_of(lambda: client.post("/handler", content=b"x"))
        assert (await client.get("/after")).text == "ok"
    assert server.requests["/handler"] == 0


async def test_a_client_of_httpx_that_is_made_in_a_handler(server: Server) -> None:
    async def get() -> None:
        async with httpx.AsyncClient() as client:
            await client.get(f"{server.url}/handler")

    await refusal_of(get)
    assert server.requests["/handler"] == 0


async def test_the_loop_of_the_application_itself() -> None:
    """By whatever way a handler got hold of it."""
    loop = asyncio.get_running_loop()
    did: list[str] = []

    async def act() -> None:
        did.append("task")

    def start(make: Callable[[], Any]) -> Body:
        async def body() -> None:
            made = make()
            if asyncio.iscoroutine(made) or asyncio.isfuture(made):
                await made

        return body

    def submitted() -> Any:
        coroutine = act()
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, loop)
        finally:
            coroutine.close()

    def task() -> Any:
        coroutine = act()
        try:
            return loop.create_task(coroutine)
        finally:
            coroutine.close()

    calls: dict[str, Callable[[], Any]] = {
        "future": loop.create_future,
        "bare future": lambda: asyncio.Future(loop=loop),
        "task": task,
        "timer": lambda: loop.call_later(0, did.append, "timer"),
        "moment": lambda: loop.call_at(0, did.append, "timer"),
        "thread": lambda: loop.run_in_executor(None, did.append, "thread"),
        "submitted": submitted,
        "connection": lambda: loop.create_connection(asyncio.Protocol, "127.0.0.1", 1),
        "resolver": lambda: loop.getaddrinfo("localhost", 1),
    }
    for name, call in calls.items():
        assert "event loop" in await refusal_of(start(call)), name
    await asyncio.sleep(0.01)
    assert did == []


async def test_the_application_is_told_things_by_a_handler() -> None:
    """Setting an event of the application, or handing something to its loop as a log handler does, is no I/O."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    heard: list[str] = []
    waits = asyncio.create_task(told.wait())
    await asyncio.sleep(0)

    async def tell() -> str:
        told.set()
        loop.call_soon_threadsafe(heard.append, "handed over")
        return "told"

    bodies["it"] = tell
    assert await (await runtime_on(InMemoryWorkflowStore()).run_here(intruder, "it")).result() == "told"
    assert await waits
    await asyncio.sleep(0)
    assert heard == ["handed over"]


async def test_the_loop_of_the_application_is_given_back() -> None:
    """Nothing of the fence is left on it, and what somebody else had put there is."""
    loop = asyncio.get_running_loop()
    mine = loop.call_later
    loop.call_later = mine  # type: ignore[method-assign]
    before = dict(vars(loop))
    try:
        await refusal_of(lambda: asyncio.sleep(1))
        after = dict(vars(loop))
    finally:
        del loop.call_later
    assert {name: after[name] for name in ("call_later", *(set(after) - set(before)))} == {"call_later": mine}
    assert "get_debug" not in vars(loop)


async def test_a_future_of_the_application() -> None:
    """Of asyncio's own error the run's says what to do instead."""
    future = asyncio.get_running_loop().create_future()
    lock = asyncio.Lock()
    await lock.acquire()
    waits = asyncio.create_task(lock.acquire())  # so that the lock knows its loop
    await asyncio.sleep(0)
    for body in (lambda: future, lock.acquire, lambda: asyncio.wait_for(waits, None)):
        bodies["it"] = body
        with pytest.raises(RunFailedError, match=r"different .*loop.*in a step") as failure:
            await (await runtime_on(InMemoryWorkflowStore()).run_here(intruder, "it")).result()
        assert failure.value.error_type == "ConfigurationError"
    waits.cancel()


async def test_a_thread_that_calls_back_is_not_hurt() -> None:
    """It hears nothing, and lives on; the run ends with an error that names the thread."""
    outcome: list[BaseException | None] = []

    async def wait_for_a_thread() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def call_back() -> None:
            try:
                loop.call_soon_threadsafe(future.set_result, 1)
                outcome.append(None)
            except BaseException as error:  # noqa: BLE001  # what the test is about
                outcome.append(error)

        thread = threading.Thread(target=call_back, name="caller")
        thread.start()
        thread.join()
        await future

    bodies["it"] = wait_for_a_thread
    with pytest.raises(RunFailedError, match=r"'caller' has called back.*in a step"):
        await (await runtime_on(InMemoryWorkflowStore()).run_here(intruder, "it")).result()
    assert outcome == [None]


async def test_the_result_of_a_thread() -> None:
    """An executor's future that is awaited by way of asyncio."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:

        async def wrap() -> None:
            await asyncio.wrap_future(executor.submit(str, 1))

        assert "thread" in await refusal_of(wrap)


async def test_a_worker_drives_other_runs_after_it(store: WorkflowExecutionStore) -> None:
    """Which is what used to hang: the worker, the next start, the stop and the close."""
    runtime, stop = runtime_on(store), asyncio.Event()
    bodies["it"] = lambda: runtime.start_run(child, 1)
    worker = asyncio.create_task(runtime.work(stop=stop, handle_signals=False))
    bad = [await runtime.start_run(intruder, "it") for _ in range(3)]
    good = await runtime.start_run(child, 1)
    assert await good.result(timeout=timedelta(seconds=20)) == "child"
    for handle in bad:
        with pytest.raises(RunFailedError, match="in a step"):
            await handle.result(timeout=timedelta(seconds=20))
    stop.set()
    async with asyncio.timeout(20):
        report = await worker
    assert report.outcomes == {"errored": 3, "finished": 1}
