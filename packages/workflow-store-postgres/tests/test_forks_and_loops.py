"""A store is used where it was opened: on one event loop, in one process."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from workflow_runtime.errors import ConfigurationError, SchemaMissingError
from workflow_runtime.payloads import JsonText
from workflow_store_postgres import PostgresWorkflowStore

ONE = JsonText("1")
NEW: dict[str, Any] = {"workflow_id": "w", "workflow_version": "1", "input": ONE, "operation_id": "create", "now_ms": 1}


async def never(tx: Any) -> Any:
    raise AssertionError("it was called")


async def listen(store: PostgresWorkflowStore) -> None:
    async with store.listen(lambda notice: None):
        pass


async def follow(store: PostgresWorkflowStore) -> None:
    async for _ in store.subscribe_events(run_id="a"):
        pass


USES: dict[str, Callable[[PostgresWorkflowStore], Awaitable[Any]]] = {
    "read_clock": lambda store: store.read_clock(),
    "ensure_schema": lambda store: store.ensure_schema(),
    "check_schema": lambda store: store.check_schema(),
    "create_run": lambda store: store.create_run(run_id="b", **NEW),
    "claim_pending_runs": lambda store: store.claim_pending_runs(owner="w", lease_ms=10, now_ms=1, limit=1),
    "deliver_signal": lambda store: store.deliver_signal(run_id="a", signal_id="s", name="go", payload=ONE, now_ms=5),
    "append_in_transaction": lambda store: store.append_in_transaction(
        run_id="a", lease_token="t", operation_id="o", work=never
    ),
    "listen": listen,
    "subscribe_events": follow,
}


async def refused(store: PostgresWorkflowStore, why: str) -> None:
    for use in USES.values():
        with pytest.raises(ConfigurationError, match=why):
            await use(store)


@pytest.mark.parametrize("pool", ["own", "user's"])
def test_second_event_loop_is_refused(template: str, server_dsn: str, pool: str) -> None:
    """Before anything is sent: the first one goes on as if nothing had been."""

    users = []

    async def opened() -> PostgresWorkflowStore:
        if pool == "own":
            return await PostgresWorkflowStore.connect(server_dsn)
        users.append(await asyncpg.create_pool(server_dsn, min_size=1, max_size=2))
        return PostgresWorkflowStore(users[0])

    async def close(store: PostgresWorkflowStore) -> None:
        with pytest.raises(ConfigurationError, match="belongs to another event loop"):
            await store.close()

    loop = asyncio.new_event_loop()
    try:
        store = loop.run_until_complete(opened())
        loop.run_until_complete(store.read_clock())
        asyncio.run(refused(store, "belongs to another event loop"))
        asyncio.run(close(store))
        assert loop.run_until_complete(store.read_clock()) > 0
        loop.run_until_complete(store.close())
        for one in users:
            loop.run_until_complete(one.close())
    finally:
        loop.close()


@pytest.mark.parametrize("pool", ["own", "user's"])
def test_event_loop_that_is_over_is_named(server_dsn: str, pool: str) -> None:
    async def opened() -> PostgresWorkflowStore:
        if pool == "own":
            return await PostgresWorkflowStore.connect(server_dsn, min_size=0)
        return PostgresWorkflowStore(await asyncpg.create_pool(server_dsn, min_size=0, max_size=2))

    asyncio.run(refused(asyncio.run(opened()), "belongs to an event loop that is closed"))


def test_pool_of_another_event_loop_is_refused(server_dsn: str) -> None:
    """Also where the store was made on the right one."""

    async def pool() -> asyncpg.Pool:
        return await asyncpg.create_pool(server_dsn, min_size=0, max_size=2)

    async def use(foreign: asyncpg.Pool) -> None:
        await refused(PostgresWorkflowStore(foreign), "event loop")

    asyncio.run(use(asyncio.run(pool())))


def test_heartbeats_may_be_opened_on_any_event_loop(server_dsn: str) -> None:
    async def opened() -> PostgresWorkflowStore:
        return await PostgresWorkflowStore.connect(server_dsn)

    async def beat(store: PostgresWorkflowStore) -> None:
        async with store.open_heartbeats() as renewer:
            with pytest.raises(SchemaMissingError):
                await renewer.heartbeat_run_lease(run_id="a", lease_token="t", lease_ms=10, now_ms=1)

    loop = asyncio.new_event_loop()
    store = loop.run_until_complete(opened())
    asyncio.run(beat(store))
    loop.run_until_complete(store.close())
    loop.close()


FORKED = """
import asyncio, gc, os, sys, warnings
import asyncpg
from workflow_runtime.errors import ConfigurationError
from workflow_store_postgres import PostgresWorkflowStore

DSN, POOL, WHERE, END = sys.argv[1:]

async def opened():
    # Nothing but the store refers to the connections.
    size = {"min_size": 2, "max_inactive_connection_lifetime": 0}
    if POOL == "own":
        return await PostgresWorkflowStore.connect(DSN, **size)
    pool = await asyncpg.create_pool(DSN, max_size=3, **size)
    return PostgresWorkflowStore(pool, heartbeat_connect=lambda: asyncpg.connect(DSN))

async def listen(store):
    async with store.listen(print):
        raise AssertionError("it listens")

async def work_of_the_child(store):
    uses = [store.read_clock, store.ensure_schema, lambda: listen(store)]
    for use in uses:
        try:
            await use()
        except ConfigurationError as error:
            assert f"belongs to process {os.getppid()}" in str(error), error
        else:
            raise AssertionError("it was not refused")
    try:
        store.open_heartbeats()
    except ConfigurationError as error:
        assert "forked" in str(error), error
    else:
        raise AssertionError("heartbeats were not refused")
    await store.close()
    async with PostgresWorkflowStore.connect(DSN) as own:
        assert await own.read_clock() > 0

def be_the_child(box):
    try:
        asyncio.run(work_of_the_child(box[0]))
        box.clear()
        gc.collect()
    except BaseException as error:
        sys.stderr.write(f"child: {error!r}")
        os._exit(1)
    if END == "quickly":
        os._exit(0)

async def pids(store):
    async with store._sender.held() as held:
        return await held.connection.fetchval("SELECT pg_backend_pid()")

async def main():
    box = [await opened()]
    first = {await pids(box[0]) for _ in range(3)}
    child = 0
    if WHERE == "inside":
        child = os.fork()
        if not child:
            # Not the parent's event loop: a thread of the child runs one of its own.
            be_the_child(box)
            os._exit(0)
        await asyncio.to_thread(os.waitpid, child, 0)
        for _ in range(3):
            assert await box[0].read_clock() > 0
        assert {await pids(box[0]) for _ in range(3)} <= first, "a connection was lost"
        await box[0].close()
    return box

if WHERE == "inside":
    asyncio.run(main())
else:
    loop = asyncio.new_event_loop()
    box = [loop.run_until_complete(opened())]
    first = {loop.run_until_complete(pids(box[0])) for _ in range(3)}
    child = os.fork()
    if not child:
        be_the_child(box)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    assert {loop.run_until_complete(pids(box[0])) for _ in range(3)} <= first, "a connection was lost"
    loop.run_until_complete(box[0].close())
    loop.close()
print("done")
"""


@pytest.mark.parametrize("pool", ["own", "user's"])
@pytest.mark.parametrize("where", ["inside", "outside"])
@pytest.mark.parametrize("end", ["quickly", "in good order"])
def test_forked_child_is_refused_and_leaves_the_parent_its_connections(
    server_dsn: str, pool: str, where: str, end: str
) -> None:
    """Also when it throws the store away, and when the interpreter ends and throws away what is left."""
    arguments = [sys.executable, "-W", "error::RuntimeWarning", "-c", FORKED, server_dsn, pool, where, end]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout == "done\n", done.stderr
    assert "child:" not in done.stderr
