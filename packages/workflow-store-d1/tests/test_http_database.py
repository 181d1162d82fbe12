"""D1 over HTTP: values, errors, repeats, and what must never be said."""

import asyncio
import json
import logging
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from workflow_runtime.errors import ConfigurationError, InvalidArgumentError
from workflow_store_d1 import D1Database, D1DatabaseError, D1HttpDatabase, Retries
from workflow_store_d1.database import D1Value
from workflow_store_d1.rest import request_body
from workflow_test_support.relays.http_relay import Fault, Relay, cut_before, gateway, hang, lose_answer, relay_to
from workflow_test_support.servers.d1_rest import RestDatabase

OPEN: dict[str, Any] = {"account_id": "0account0", "database_id": "0database0", "token": "0token0"}
REFUSED = "http://127.0.0.1:9/client/v4"
"""Nobody listens on the port that throws everything away."""


class Waits:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
async def relay(rest: RestDatabase) -> AsyncIterator[Relay]:
    async with relay_to(rest.base_url) as relay:
        yield relay


@pytest.fixture
async def connect(rest: RestDatabase, relay: Relay, waits: Waits) -> AsyncIterator[Callable[..., D1HttpDatabase]]:
    """Open databases through the relay; they are closed after the test."""
    opened: list[D1HttpDatabase] = []

    def open_one(**options: Any) -> D1HttpDatabase:
        retries = Retries(attempts=3, sleep=waits.sleep, random=lambda: 0.0)
        opened.append(D1HttpDatabase(**{**rest.arguments, "base_url": relay.url, "retries": retries, **options}))
        return opened[-1]

    yield open_one
    for database in opened:
        await database.close()


@pytest.fixture
def database(connect: Callable[..., D1HttpDatabase]) -> D1HttpDatabase:
    return connect()


@pytest.fixture
def counter(rest: RestDatabase) -> Callable[[], int]:
    """Make a table whose row counts how often an UPDATE was applied; give how often."""
    rest.run_all([{"sql": "CREATE TABLE counter (n INTEGER)"}, {"sql": "INSERT INTO counter VALUES (0)"}])
    return lambda: int(rest.run("SELECT n FROM counter")[0]["n"])


COUNT = "UPDATE counter SET n = n + 1"


def as_contract(database: D1HttpDatabase) -> D1Database:
    return database


@pytest.mark.parametrize("form", ["raw", "query"])
async def test_values_come_back(connect: Callable[..., D1HttpDatabase], rest: RestDatabase, form: str) -> None:
    rest.run("CREATE TABLE kept (whole INTEGER, part REAL, text TEXT) STRICT")
    database = connect(form=form)
    put = database.prepare("INSERT INTO kept VALUES (?1, ?2, ?3)")
    rows = [(None, None, None), (2**53, 0.5, ""), (-(2**53), -1.5e300, "é\x00'\"\\ \U0001f600"), (True, 3.25, "null")]
    await as_contract(database).batch([put.bind(*row) for row in rows])
    got = await database.prepare("SELECT * FROM kept ORDER BY rowid").all()
    assert [tuple(row.values()) for row in got.results] == rows
    assert got.meta["rows_read"] == 4


def test_what_is_sent() -> None:
    body = request_body([("SELECT ?1", (None, True, False, 2**53, 2**53 + 1, 0.5, "\x00é")), ("SELECT 1", ())])
    assert json.loads(body) == {
        "batch": [
            {"sql": "SELECT ?1", "params": [None, 1, 0, 2**53, str(2**53 + 1), 0.5, "\x00é"]},
            {"sql": "SELECT 1", "params": []},
        ]
    }
    assert b"true" not in body


@pytest.mark.parametrize("whole", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
async def test_large_integers_are_kept_exactly(database: D1HttpDatabase, rest: RestDatabase, whole: int) -> None:
    """JSON's numbers end at 2^53: what is beyond goes out as text, and comes back exactly as text."""
    rest.run("CREATE TABLE kept (whole INTEGER) STRICT")
    await database.prepare("INSERT INTO kept VALUES (?1)").bind(whole).run()
    [row] = rest.run("SELECT CAST(whole AS TEXT) AS whole, typeof(whole) AS type FROM kept")
    assert row == {"whole": str(whole), "type": "integer"}


async def test_bytes_travel_as_hex(database: D1HttpDatabase, rest: RestDatabase) -> None:
    """The way round that the refusal of bytes names."""
    rest.run("CREATE TABLE kept (data BLOB) STRICT")
    await database.prepare("INSERT INTO kept VALUES (unhex(?1))").bind(b"\x00\xff".hex()).run()
    assert (await database.prepare("SELECT hex(data) AS data FROM kept").all()).results == [{"data": "00FF"}]


async def test_statement_without_rows(database: D1HttpDatabase, rest: RestDatabase) -> None:
    made = await database.prepare("CREATE TABLE kept (n INTEGER)").run()
    none = await database.prepare("SELECT * FROM kept").all()
    changed = await database.prepare("INSERT INTO kept VALUES (1), (2)").run()
    assert (made.results, none.results, changed.results, changed.meta["changes"]) == ([], [], [], 2)


async def test_batch_is_one_transaction(database: D1HttpDatabase, counter: Callable[[], int]) -> None:
    with pytest.raises(D1DatabaseError, match="no such table: nobody") as refused:
        await database.batch([database.prepare(COUNT), database.prepare("DELETE FROM nobody")])
    assert (refused.value.unavailable, refused.value.outcome_unknown, counter()) == (False, False, 0)


async def test_batch_is_one_request(database: D1HttpDatabase, relay: Relay) -> None:
    await database.batch([database.prepare("SELECT ?1 AS n").bind(number) for number in range(50)])
    assert relay.requests == 1


@pytest.mark.parametrize(
    ("sql", "values", "problem"),
    [
        ("SELECT ?1", [b"x"], r"\?1 is bytes.*unhex"),
        ("SELECT ?1, ?2", [1.0, float("nan")], r"\?2 is not a finite number"),
        ("SELECT ?1", [float("-inf")], "not a finite number"),
        ("SELECT ?1", [2**63], "64 bits"),
        ("SELECT ?1", ["x" * 2_000_001], "2000000"),
        ("SELECT ?1", ["\ud800"], "surrogate"),
        ("SELECT 1", [1] * 101, "101 values"),
        ("SELECT 1" + " " * 100_000, [], "too long"),
        ("BEGIN", [], "only transaction"),
        ("SELECT 1; DELETE FROM t", [], "several statements"),
    ],
)
async def test_limits_are_kept_before_anything_is_sent(
    database: D1HttpDatabase, relay: Relay, sql: str, values: list[D1Value], problem: str
) -> None:
    with pytest.raises(D1DatabaseError, match=problem):
        database.prepare(sql).bind(*values)
    with pytest.raises(D1DatabaseError, match="without statements"):
        await database.batch([])
    assert relay.requests == 0


async def test_trigger_is_one_statement(database: D1HttpDatabase, rest: RestDatabase) -> None:
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM a; DELETE FROM a; END"
    assert database.prepare(trigger).sql == trigger


async def test_statements_of_another_kind_are_refused(database: D1HttpDatabase) -> None:
    with pytest.raises(TypeError, match="same kind"):
        await database.batch([object()])  # type: ignore[list-item]  # that is the point


@pytest.mark.parametrize(
    "wrong",
    [
        {"account_id": "a/b"},
        {"account_id": ""},
        {"database_id": "a?b"},
        {"token": "0token0\n"},
        {"token": ""},
        {"token": None},
        {"account_id": None},
        {"database_id": None},
        {"base_url": "ftp://api"},
        {"timeout": timedelta(0)},
        {"max_connections": 0},
        {"form": "rows"},
    ],
)
def test_unusable_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        D1HttpDatabase(**{**OPEN, **wrong})
    assert refused.value.argument == next(iter(wrong))
    assert "0token0" not in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"token": "another"}, r"HTTP 401.*D1:Edit"),
        ({"account_id": "another"}, r"HTTP 403.*D1:Edit"),
        ({"database_id": "another"}, "no such database"),
    ],
)
async def test_wrong_address(
    connect: Callable[..., D1HttpDatabase], relay: Relay, wrong: dict[str, str], problem: str
) -> None:
    with pytest.raises(D1DatabaseError, match=problem) as refused:
        await connect(**wrong).prepare("SELECT 1").all()
    assert (refused.value.unavailable, relay.requests) == (False, 1)


def said(message: str) -> bytes:
    return f'{{"result":null,"success":false,"errors":[{{"code":7500,"message":"{message}"}}],"messages":[]}}'.encode()


BUSY = "D1 DB is overloaded. Requests queued for too long."
LOST = "Network connection lost."
SYNTAX = "near x: syntax error: SQLITE_ERROR"


@pytest.mark.parametrize(
    ("fault", "unavailable", "unknown"),
    [
        (cut_before, True, True),
        (lose_answer, True, True),
        (gateway(429), True, False),
        (gateway(400, body=said(SYNTAX)), False, False),
        (gateway(500, body=said(SYNTAX)), False, False),
        (gateway(503, body=said(SYNTAX)), False, False),
        (gateway(500, body=said(BUSY)), True, False),
        (gateway(503, body=said(BUSY)), True, False),
        (gateway(400, body=said(LOST)), True, True),
        (gateway(500, body=said("internal error")), True, True),
        (gateway(500, body=said("unknown error")), True, True),
        (gateway(502, body=said("bad gateway")), True, True),
        (gateway(500), True, True),
        (gateway(503, body=b"<html>"), True, True),
        (gateway(408), True, True),
        (gateway(302, {"Location": "http://127.0.0.1:9/"}), False, False),
        (gateway(400, body=b"<html>"), False, False),
        (gateway(413), False, False),
        (gateway(200, body=said(SYNTAX)), False, False),
        (gateway(200, body=b"<html>"), True, True),
        (gateway(200, body=b""), True, True),
        (gateway(200, body=b"[]"), True, True),
        (gateway(200, body=b'{"success":true}'), True, True),
        (gateway(200, body=b'{"success":true,"result":[]}'), True, True),
        (gateway(200, body=b'{"success":true,"result":[{"results":{"columns":["a"],"rows":[[1,2]]}}]}'), True, True),
        (gateway(200, body=b'{"success":true,"result":[{"results":[1]}]}'), True, True),
        (gateway(200, {"Content-Encoding": "gzip"}, b"no gzip"), True, True),
        (Fault(forwarded=False, answer=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), True, True),
    ],
)
async def test_what_a_failure_means(
    database: D1HttpDatabase,
    relay: Relay,
    counter: Callable[[], int],
    fault: Fault,
    unavailable: bool,
    unknown: bool,
) -> None:
    """A write is sent again exactly when it was certainly not done."""
    relay.always = fault
    with pytest.raises(D1DatabaseError) as failed:
        await database.prepare(COUNT).run()
    assert (failed.value.unavailable, failed.value.outcome_unknown) == (unavailable, unknown)
    assert relay.requests == (3 if unavailable and not unknown else 1)
    assert counter() == int(fault is lose_answer)


@pytest.mark.parametrize("fault", [cut_before, lose_answer, gateway(429), gateway(503), gateway(200, body=b"")])
async def test_what_only_reads_is_repeated(
    database: D1HttpDatabase, relay: Relay, counter: Callable[[], int], fault: Fault
) -> None:
    relay.next(fault, fault)
    read = [database.prepare(" -- one\nSELECT 1 AS n"), database.prepare("explain DELETE FROM counter")]
    assert (await database.batch(read))[0].results == [{"n": 1}]
    assert relay.requests == 3


@pytest.mark.parametrize("sql", [COUNT, f"WITH one AS (SELECT 1) {COUNT}", f"{COUNT} RETURNING n"])
async def test_write_of_unknown_outcome_is_not_applied_twice(
    database: D1HttpDatabase, relay: Relay, counter: Callable[[], int], sql: str
) -> None:
    relay.next(lose_answer)
    with pytest.raises(D1DatabaseError) as failed:
        await database.batch([database.prepare("SELECT 1"), database.prepare(sql)])
    assert (failed.value.outcome_unknown, relay.requests, counter()) == (True, 1, 1)


async def test_gateway_may_say_no_to_what_was_done(
    database: D1HttpDatabase, relay: Relay, counter: Callable[[], int]
) -> None:
    relay.next(gateway(504, forwarded=True))
    with pytest.raises(D1DatabaseError) as failed:
        await database.prepare(COUNT).run()
    assert (failed.value.outcome_unknown, relay.requests, counter()) == (True, 1, 1)


async def test_nobody_there(connect: Callable[..., D1HttpDatabase], waits: Waits) -> None:
    with pytest.raises(D1DatabaseError, match="ConnectError") as failed:
        await connect(base_url=REFUSED).prepare(COUNT).run()
    assert (failed.value.unavailable, failed.value.outcome_unknown, len(waits.seconds)) == (True, False, 2)


async def test_answer_that_does_not_come(connect: Callable[..., D1HttpDatabase], relay: Relay) -> None:
    relay.next(hang)
    database = connect(timeout=timedelta(milliseconds=100))
    with pytest.raises(D1DatabaseError, match="ReadTimeout") as failed:
        await database.prepare("CREATE TABLE t (n)").run()
    assert (failed.value.unavailable, failed.value.outcome_unknown, relay.requests) == (True, True, 1)


async def test_no_connection_is_free(
    connect: Callable[..., D1HttpDatabase], relay: Relay, counter: Callable[[], int]
) -> None:
    """What waits for a connection in vain was never sent."""
    relay.gate = asyncio.Event()
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as client:
        first = asyncio.ensure_future(connect(client=client).prepare(COUNT).run())
        await reached(lambda: relay.requests == 1)
        with pytest.raises(D1DatabaseError, match="PoolTimeout") as failed:
            await connect(client=client, timeout=timedelta(milliseconds=50)).prepare(COUNT).run()
        relay.gate.set()
        await first
    assert (failed.value.unavailable, failed.value.outcome_unknown, counter()) == (True, False, 1)


async def test_connections_are_limited(connect: Callable[..., D1HttpDatabase], relay: Relay) -> None:
    database, relay.gate = connect(max_connections=3), asyncio.Event()
    calls = [asyncio.ensure_future(database.prepare("SELECT 1").all()) for _ in range(12)]
    await reached(lambda: relay.requests == 3)
    relay.gate.set()
    await asyncio.gather(*calls)
    assert (relay.requests, relay.most_connections) == (12, 3)


@pytest.mark.parametrize("steps", range(12))
async def test_cancelled_calls_leave_their_connections(connect: Callable[..., D1HttpDatabase], steps: int) -> None:
    """Wherever many calls are cancelled, whether they wait, connect or ask: the next one gets its turn."""
    database = connect(max_connections=2)
    calls = [asyncio.ensure_future(database.prepare("SELECT 1").all()) for _ in range(8)]
    for _ in range(steps):
        await asyncio.sleep(0)
    for call in calls[:4]:
        call.cancel()
    for _ in range(steps):
        await asyncio.sleep(0)
    for call in calls[4:]:
        call.cancel()
    await asyncio.wait(calls)
    async with asyncio.timeout(5):
        await asyncio.gather(*(database.prepare("SELECT 1").all() for _ in range(4)))


async def test_close_does_not_wait_for_calls_that_were_cancelled(
    connect: Callable[..., D1HttpDatabase], relay: Relay
) -> None:
    database, relay.gate = connect(), asyncio.Event()
    call = asyncio.ensure_future(database.prepare("SELECT 1").all())
    await reached(lambda: relay.requests == 1)
    call.cancel()
    await asyncio.wait([call])
    async with asyncio.timeout(5):
        await database.close()


async def test_close_finishes_what_somebody_waits_for(connect: Callable[..., D1HttpDatabase], relay: Relay) -> None:
    database, relay.gate = connect(), asyncio.Event()
    call = asyncio.ensure_future(database.prepare("SELECT 7 AS n").all())
    await reached(lambda: relay.requests == 1)
    closing = asyncio.ensure_future(database.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    relay.gate.set()
    await closing
    assert (await call).results == [{"n": 7}]


async def test_call_that_waits_for_its_turn_hears_of_the_close(
    connect: Callable[..., D1HttpDatabase], relay: Relay
) -> None:
    database, relay.gate = connect(max_connections=1), asyncio.Event()
    first, second = (asyncio.ensure_future(database.prepare("SELECT 1").all()) for _ in range(2))
    await reached(lambda: relay.requests == 1)
    closing = asyncio.ensure_future(database.close())
    await asyncio.sleep(0.01)
    relay.gate.set()
    await closing
    assert (await first).results
    with pytest.raises(ConfigurationError, match="closed"):
        await second
    assert relay.requests == 1


async def reached(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({}, 0),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "86400000"}, 60),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:50 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 13),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT", "Date": "Sun, 06 Nov 1994 08:49:50 GMT"}, 0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "soon"}, 0),
    ],
)
async def test_api_is_left_alone_as_it_asks(
    database: D1HttpDatabase,
    relay: Relay,
    waits: Waits,
    counter: Callable[[], int],
    headers: dict[str, str],
    waited: float,
) -> None:
    relay.next(gateway(429, headers))
    await database.prepare(COUNT).run()
    assert (waits.seconds, counter()) == ([waited], 1)


FAULTS = [
    cut_before,
    lose_answer,
    gateway(401),
    gateway(429),
    gateway(503),
    gateway(200, body=b"<html>"),
]


@pytest.mark.parametrize("fault", FAULTS)
async def test_token_is_nowhere(
    database: D1HttpDatabase, rest: RestDatabase, relay: Relay, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    """Neither in logs, nor in texts of errors, nor in the variables that tools write down with a traceback."""
    caplog.set_level(logging.DEBUG)
    await database.prepare("CREATE TABLE t (n)").run()
    relay.always = fault
    with pytest.raises(D1DatabaseError) as failed:
        await database.prepare("DROP TABLE t").run()
    error: BaseException | None = failed.value
    told = [repr(database), repr(database.prepare("SELECT 1")), *(record.getMessage() for record in caplog.records)]
    while error is not None:
        told += [str(error), repr(error), str(vars(error))]
        told += traceback.TracebackException.from_exception(error, capture_locals=True).format()
        assert not isinstance(error, httpx.HTTPError)
        error = error.__cause__ or error.__context__
    told = [text for text in told if "test_http_database.py" not in text]  # it has the token in a variable of its own
    assert not [text for text in told if rest.token in text]
    assert not [text for text in told if rest.account_id in text and "HTTP Request: POST" not in text]


async def test_what_the_api_says_is_cleaned(database: D1HttpDatabase, relay: Relay) -> None:
    relay.next(gateway(400, body=said("test-token of test-account")))
    with pytest.raises(D1DatabaseError) as failed:
        await database.prepare(COUNT).run()
    assert (str(failed.value), failed.value.problem) == ("[token] of [account]", "[token] of [account]")


async def test_client_of_ones_own(connect: Callable[..., D1HttpDatabase]) -> None:
    async with httpx.AsyncClient() as client:
        async with connect(client=client) as database:
            await database.prepare("SELECT 1").all()
        assert not client.is_closed
        assert not [value for value in client.headers.values() if "Bearer" in value]
    with pytest.raises(ConfigurationError, match="closed"):
        await connect(client=client).prepare("SELECT 1").all()


async def test_closed_database_says_so(connect: Callable[..., D1HttpDatabase]) -> None:
    database = connect()
    await database.close()
    await database.close()
    with pytest.raises(ConfigurationError, match="the database is closed"):
        await database.prepare("SELECT 1").all()


def test_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigurationError, match=r'pip install "workflow-store-d1\[http\]"'):
        D1HttpDatabase(**OPEN)


def test_nothing_is_imported_before_a_database_is_made() -> None:
    program = "import sys, workflow_store_d1; print({'httpx', 'sqlite3', 'workflow_store_d1.local'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
