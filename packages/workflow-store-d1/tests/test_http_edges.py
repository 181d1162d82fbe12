"""D1 over HTTP at its edges: no wait without a bound, one event loop, one process, and an end that is noticed."""

import asyncio
import gc
import os
import warnings
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from workflow_runtime.errors import ConfigurationError
from workflow_store_d1 import D1DatabaseError, D1HttpDatabase, D1WorkflowStore, Retries
from workflow_test_support.relays.http_relay import Relay, hang, relay_to, trickle
from workflow_test_support.servers.d1_rest import RestDatabase

pytestmark = pytest.mark.real_time

ONCE = Retries(attempts=1)
SOON = timedelta(seconds=0.2)


@pytest.fixture
async def relay(rest: RestDatabase) -> AsyncIterator[Relay]:
    async with relay_to(rest.base_url) as relay:
        yield relay


@pytest.fixture
async def connect(rest: RestDatabase, relay: Relay) -> AsyncIterator[Callable[..., D1HttpDatabase]]:
    opened: list[D1HttpDatabase] = []

    def open_one(**options: Any) -> D1HttpDatabase:
        opened.append(D1HttpDatabase(**{**rest.arguments, "base_url": relay.url, "retries": ONCE, **options}))
        return opened[-1]

    yield open_one
    relay.cut()
    for database in opened:
        await database.close()


async def test_an_answer_that_trickles_in_is_given_up(connect: Callable[..., D1HttpDatabase], relay: Relay) -> None:
    """Each byte comes within the timeout; a request may take four times that."""
    relay.always = trickle(0.05)
    database = connect(timeout=timedelta(milliseconds=500))  # ten times as long, for a machine that is busy
    async with asyncio.timeout(20):
        with pytest.raises(D1DatabaseError, match="no whole answer from the API within 2 s") as write:
            await database.prepare("CREATE TABLE t (n)").run()
        with pytest.raises(D1DatabaseError, match="no whole answer") as read:
            await database.prepare("SELECT 1").all()
    assert (write.value.unavailable, write.value.outcome_unknown) == (True, True)
    assert (read.value.unavailable, read.value.outcome_unknown) == (True, False)


async def test_a_connection_that_was_given_up_is_not_lost(connect: Callable[..., D1HttpDatabase], relay: Relay) -> None:
    relay.always = trickle(0.05)
    database = connect(timeout=SOON, max_connections=1)
    for _ in range(3):
        with pytest.raises(D1DatabaseError):
            await database.prepare("SELECT 1").all()
    relay.always = None
    assert len((await database.prepare("SELECT 1 AS one").all()).results) == 1


async def test_a_turn_that_does_not_come_is_given_up(connect: Callable[..., D1HttpDatabase], relay: Relay) -> None:
    relay.gate = asyncio.Event()
    database = connect(timeout=timedelta(seconds=1), max_connections=1)
    first = asyncio.create_task(database.prepare("SELECT 1").all())
    await asyncio.sleep(0)
    with pytest.raises(D1DatabaseError, match="no connection to the API was free for 1 s") as refused:
        await database.prepare("INSERT INTO nowhere VALUES (1)").run()
    assert (refused.value.unavailable, refused.value.outcome_unknown) == (True, False)
    relay.gate.set()
    await asyncio.gather(first, return_exceptions=True)


async def test_closing_returns_whatever_the_api_does(connect: Callable[..., D1HttpDatabase], relay: Relay) -> None:
    relay.always = trickle(0.05)
    database = connect(timeout=SOON)
    waiting = asyncio.create_task(database.prepare("SELECT 1").all())
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        await database.close()
    with pytest.raises(D1DatabaseError):
        await waiting


async def test_closing_ends_what_nobody_waits_for(connect: Callable[..., D1HttpDatabase], relay: Relay) -> None:
    relay.always = hang
    database = connect(timeout=timedelta(seconds=60))
    waiting = asyncio.create_task(database.prepare("SELECT 1").all())
    await asyncio.sleep(0.1)
    waiting.cancel()
    async with asyncio.timeout(10):
        await database.close()


async def ask(database: D1HttpDatabase) -> int:
    return len((await database.prepare("SELECT 1").all()).results)


def test_a_second_event_loop_is_told_why_and_can_close(rest: RestDatabase) -> None:
    database = D1HttpDatabase(**rest.arguments)
    assert asyncio.run(ask(database)) == 1
    with pytest.raises(ConfigurationError, match="this D1 store over HTTP belongs to an event loop that is closed"):
        asyncio.run(ask(database))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # asyncio says that its transports were left open
        asyncio.run(database.close())
        asyncio.run(database.close())
        gc.collect()


def test_a_forked_child_is_told_why_and_closes_nothing(rest: RestDatabase) -> None:
    async def parent() -> int:
        database = D1HttpDatabase(**rest.arguments)
        await ask(database)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that the process has threads
            pid = os.fork()
        if pid == 0:
            os._exit(in_child(database))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert await ask(database) == 1, "the connection is the parent's"
        await database.close()
        return status

    assert asyncio.run(parent()) == 0


def in_child(database: D1HttpDatabase) -> int:
    asyncio.events._set_running_loop(None)  # the parent's, which the child has got with everything else
    try:
        asyncio.run(ask(database))
    except ConfigurationError as error:
        asyncio.run(database.close())
        return 0 if "forked" in str(error) else 2
    return 1


async def test_whoever_forgets_to_close_is_warned(rest: RestDatabase) -> None:
    store = await D1WorkflowStore.connect_http(**rest.arguments)
    await store.database.prepare("SELECT 1").all()
    client = store.database._client  # type: ignore[attr-defined]  # closed below, or asyncio warns of its connections
    with pytest.warns(ResourceWarning, match="nobody closed the D1 store over HTTP") as warned:
        del store
    gc.collect()
    assert rest.arguments["token"] not in str(warned[0].message)
    await client.aclose()


async def test_what_was_closed_lent_or_never_used_is_not_forgotten(rest: RestDatabase) -> None:
    unused = D1HttpDatabase(**rest.arguments)
    async with D1HttpDatabase(**rest.arguments) as closed:
        await ask(closed)
        lent = D1HttpDatabase(**rest.arguments, client=closed._client)
        await ask(lent)
        del lent
        gc.collect()
    del unused, closed
    gc.collect()
