"""No part of a DSN is in anything that a program could print: errors and their causes, logs, reprs, warnings."""

import asyncio
import io
import itertools
import logging
import traceback
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
from workflow_runtime.errors import WorkflowError
from workflow_store_postgres import PostgresWorkflowStore

# Words that are in nothing that anybody says by himself.
USER, HOST, DATABASE, FIRST, SECOND = "quokka", "wombat", "numbat", "bandicoot", "potoroo"
WORDS = (USER, HOST, DATABASE, FIRST, SECOND)
SEPARATORS = [
    "/",
    "@",
    "#",
    "?",
    "%",
    ":",
    "&",
    "=",
    " ",
    "[",
    "]",
    "[::1]",
    "%2F",
    "%zz",
    "//",
    "?x=",
    "?port=",
    "é",
    ",",
]

DSNS = [
    *(f"postgresql://{USER}:{FIRST}{between}{SECOND}@{HOST}/{DATABASE}" for between in SEPARATORS),
    *(f"postgresql://{USER}:7{between}{SECOND}@{HOST}/{DATABASE}" for between in SEPARATORS),
    *(f"postgresql://{FIRST}{between}{SECOND}:{USER}@127.0.0.1:1/{DATABASE}" for between in SEPARATORS),
    f"postgresql://{HOST}/{DATABASE}?user={USER}&password={FIRST}/{SECOND}",
    f"postgresql://{HOST}/{DATABASE}?password={FIRST}&{SECOND}",
    f"postgresql://{HOST}/{DATABASE}?{FIRST}={SECOND}",
    f"postgresql://{HOST}/{DATABASE}?sslmode={FIRST}",
    f"postgresql://{HOST}/{DATABASE}?sslmode=verify-full&sslrootcert=/{FIRST}/{SECOND}",
    f"postgresql://{HOST}/{DATABASE}?target_session_attrs={FIRST}",
    f"postgresql:///{DATABASE}?host=/{FIRST}/{SECOND}&user={USER}",
    f"postgresql://{USER}:{FIRST}@{HOST}:{SECOND}/{DATABASE}",
    f"postgresql://{USER}:{FIRST}@{HOST}:99999999999/{DATABASE}",
    f"postgresql://{USER}:{FIRST}@{HOST},{SECOND}:1,2,3/{DATABASE}",
    f"postgresql://{USER}:{FIRST}\0@{HOST}/{DATABASE}",
    f"{FIRST}://{USER}:{SECOND}@{HOST}/{DATABASE}",
    f"{USER}:{FIRST}@{HOST}/{DATABASE}",
    f"host={HOST} user={USER} password={FIRST}/{SECOND} dbname={DATABASE}",
    f"host={HOST} password={FIRST}:{SECOND}",
    f"{FIRST}",
]


def everything_said(error: BaseException) -> str:
    """Write down an exception as any handler of exceptions may: with causes, contexts, and what they carry."""
    said, found = [], [error]
    while found:
        one = found.pop()
        said += [str(one), repr(one), repr(one.args), *map(str, vars(one).values())]
        said += traceback.format_exception(one)
        found += [more for more in (one.__cause__, one.__context__) if more is not None]
    return "\n".join(said)


@contextmanager
def overheard() -> Iterator[io.StringIO]:
    """Listen to all logs and warnings."""
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield heard
            heard.write("\n".join(str(warning.message) for warning in warned))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def assert_silent(said: str) -> None:
    # A source line that raises is quoted by its traceback; none of ours holds such a word.
    quoted = [word for word in WORDS if word in said.lower()]
    assert not quoted, said


@pytest.mark.parametrize("dsn", DSNS, ids=range(len(DSNS)))
async def test_what_goes_wrong_with_a_dsn_quotes_nothing_of_it(dsn: str) -> None:
    with overheard() as heard:
        with pytest.raises(WorkflowError) as raised:
            await PostgresWorkflowStore.connect(dsn, statement_timeout=timedelta(seconds=5))
        assert_silent(everything_said(raised.value))
        assert str(raised.value), "and it says something"
    assert_silent(heard.getvalue())


@pytest.mark.parametrize("dsn", DSNS, ids=range(len(DSNS)))
async def test_nor_does_a_store_on_a_pool_of_the_users(dsn: str) -> None:
    """One that opens its first connection when the store wants it."""
    async with asyncio.timeout(30):
        pool = await asyncpg.create_pool(dsn, min_size=0, max_size=2, timeout=5)
        with overheard() as heard:
            with pytest.raises(WorkflowError) as raised:
                await PostgresWorkflowStore(pool).read_clock()
            assert_silent(everything_said(raised.value))
        assert_silent(heard.getvalue())
        pool.terminate()


@pytest.mark.parametrize("dsn", DSNS, ids=range(len(DSNS)))
async def test_nor_do_listeners_and_heartbeats(server_dsn: str, dsn: str) -> None:
    """They open connections of their own later, and what goes wrong with them is logged."""
    with overheard() as heard:
        opening = PostgresWorkflowStore.connect(dsn, min_size=0, listen=True)
        store = await opening
        async with store.listen(lambda notice: None):
            await asyncio.sleep(0.05)
        async with store.open_heartbeats() as renewer:
            with pytest.raises(WorkflowError) as raised:
                await renewer.heartbeat_run_lease(run_id="a", lease_token="t", lease_ms=10, now_ms=1)
        assert_silent(everything_said(raised.value))
        for thing in (opening, store, store._sender, store._open_listening, store._open_heartbeats):
            assert_silent(repr(thing) + str(thing))
        await store.close()
    assert_silent(heard.getvalue())


@pytest.fixture
async def role(server_dsn: str) -> AsyncIterator[str]:
    connection = await asyncpg.connect(server_dsn)
    await connection.execute(f"CREATE ROLE {USER} LOGIN CONNECTION LIMIT 0")
    yield USER
    await connection.execute(f"DROP ROLE {USER}")
    await connection.close()


async def test_what_the_server_refuses_quotes_nothing_but_the_code(server_dsn: str, role: str) -> None:
    base = server_dsn.rpartition("/")[0]
    address = base.rpartition("@")[2]
    refusals = {
        f"{base}/{DATABASE}": "3D000",
        f"postgresql://{FIRST}@{address}/postgres": "28000",
        f"postgresql://{role}@{address}/postgres": "53300",
        f"{server_dsn}?{FIRST}={SECOND}": "42704",
        f"{server_dsn}?datestyle={FIRST}": "22023",
        f"{base}/{quote(DATABASE + '/' + SECOND, safe='')}": "3D000",
    }
    for dsn, state in refusals.items():
        with overheard() as heard, pytest.raises(WorkflowError, match=state) as raised:
            await PostgresWorkflowStore.connect(dsn)
        assert_silent(everything_said(raised.value))
        assert_silent(heard.getvalue())
        assert raised.value.__cause__ is not None
        assert getattr(raised.value.__cause__, "sqlstate", None) == state


async def test_environment_is_not_quoted_either(
    server_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passwords = tmp_path / FIRST
    passwords.write_text(f"{HOST}:1:{DATABASE}:{USER}:{SECOND}\n")
    for more in ({"PGPASSWORD": f"{FIRST}/{SECOND}"}, {"PGPASSFILE": str(passwords)}, {"PGPORT": FIRST}):
        with monkeypatch.context() as patched:
            for name, value in {"PGHOST": HOST, "PGUSER": USER, "PGDATABASE": DATABASE, **more}.items():
                patched.setenv(name, value)
            with overheard() as heard, pytest.raises(WorkflowError) as raised:
                await PostgresWorkflowStore.connect()
            assert_silent(everything_said(raised.value))
            if "PGPASSFILE" not in more:  # asyncpg warns of a file of passwords that others can read, by its path
                assert_silent(heard.getvalue())


@pytest.mark.parametrize("dsn", [b"postgresql://quokka", 7, Path("quokka"), ["quokka"], object()])
async def test_dsn_that_is_no_text(dsn: object) -> None:
    with pytest.raises(WorkflowError) as raised:
        await PostgresWorkflowStore.connect(dsn)  # type: ignore[arg-type]
    assert_silent(everything_said(raised.value))


async def test_dsn_in_the_place_of_a_pool() -> None:
    with pytest.raises(WorkflowError, match="connect") as raised:
        PostgresWorkflowStore(f"postgresql://{USER}:{FIRST}@{HOST}/{DATABASE}")
    assert_silent(everything_said(raised.value))


async def test_password_that_is_percent_encoded_works(server_dsn: str) -> None:
    """As the error advises."""
    password = "".join(itertools.chain(SEPARATORS, WORDS))
    encoded = server_dsn.replace("postgres@", f"postgres:{quote(password, safe='')}@")
    async with PostgresWorkflowStore.connect(encoded) as store:
        assert await store.read_clock() > 0
