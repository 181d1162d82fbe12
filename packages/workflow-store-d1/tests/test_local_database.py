"""The local database behaves like D1, and a batch is one transaction whatever happens around it."""

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from workflow_runtime.errors import ConfigurationError, InvalidArgumentError
from workflow_store_d1 import D1DatabaseError
from workflow_store_d1.local import LocalD1Database

OpenDatabase = Callable[..., Awaitable[LocalD1Database]]
Ask = Callable[[LocalD1Database, str], Awaitable[Any]]


@pytest.fixture
async def database(open_database: OpenDatabase) -> LocalD1Database:
    database = await open_database()
    await database.prepare("CREATE TABLE t (n INTEGER PRIMARY KEY, v)").run()
    return database


async def numbers(database: LocalD1Database) -> list[int]:
    return [row["n"] for row in (await database.prepare("SELECT n FROM t ORDER BY n").all()).results]


async def test_rows_are_mappings_and_changes_are_counted(database: LocalD1Database) -> None:
    written = await database.prepare("INSERT INTO t VALUES (?1, ?2), (?1 + 1, ?2)").bind(1, "é\0").run()
    assert written.meta["changes"] == 2
    read = await database.prepare("SELECT n, v AS value FROM t").all()
    assert read.results == [{"n": 1, "value": "é\0"}, {"n": 2, "value": "é\0"}]


async def test_values_come_back_as_they_went_in(database: LocalD1Database) -> None:
    values = (None, 2**53, -(2**53), 0.5, "text", b"bytes", True)
    sql = "SELECT " + ", ".join(f"?{number} AS v{number}" for number in range(1, len(values) + 1))
    (row,) = (await database.prepare(sql).bind(*values).all()).results
    assert tuple(row.values()) == values


async def test_batch_is_all_or_none(database: LocalD1Database) -> None:
    insert = database.prepare("INSERT INTO t (n) VALUES (?1)")
    with pytest.raises(D1DatabaseError, match="UNIQUE") as refused:
        await database.batch([insert.bind(1), insert.bind(2), insert.bind(1)])
    assert isinstance(refused.value.__cause__, sqlite3.IntegrityError)
    assert not refused.value.unavailable
    results = await database.batch([insert.bind(3), database.prepare("SELECT count(*) AS rows FROM t")])
    assert results[1].results == [{"rows": 1}]
    assert await numbers(database) == [3]


async def test_schema_changes_roll_back_too(database: LocalD1Database) -> None:
    with pytest.raises(D1DatabaseError, match="no such table"):
        await database.batch([database.prepare("CREATE TABLE u (n)"), database.prepare("DROP TABLE nowhere")])
    with pytest.raises(D1DatabaseError, match="no such table: u"):
        await database.prepare("SELECT * FROM u").all()


@pytest.mark.parametrize("turns", range(6))
async def test_cancelled_batch_is_all_or_none_and_leaves_no_transaction(
    database: LocalD1Database, open_database: OpenDatabase, turns: int
) -> None:
    """Cancelling at any turn of the loop leaves nothing open: another handle can write at once."""
    insert = database.prepare("INSERT INTO t (n) VALUES (?1)")
    task = asyncio.ensure_future(database.batch([insert.bind(n) for n in range(2_000)]))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await numbers(database)) in {0, 2_000}
    other = await open_database(busy_timeout=timedelta(0))
    await other.prepare("INSERT INTO t (n) VALUES (-1)").run()


async def test_batches_of_many_tasks_do_not_mix(database: LocalD1Database) -> None:
    await database.prepare("INSERT INTO t (n, v) VALUES (0, 0)").run()
    read = database.prepare("SELECT v FROM t WHERE n = 0")
    write = database.prepare("UPDATE t SET v = v + 1 WHERE n = 0")

    async def increment() -> bool:
        before, _, after = await database.batch([read, write, read])
        return bool(after.results[0]["v"] == before.results[0]["v"] + 1)

    assert all(await asyncio.gather(*(increment() for _ in range(50))))


async def test_settings_are_durable_by_default(
    database: LocalD1Database, open_database: OpenDatabase, unguarded: Ask
) -> None:
    assert await unguarded(database, "PRAGMA journal_mode") == "wal"
    assert await unguarded(database, "PRAGMA synchronous") == 2
    relaxed = await open_database(synchronous="NORMAL")
    assert await unguarded(relaxed, "PRAGMA synchronous") == 1


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN",
        "begin immediate",
        " \n COMMIT",
        "-- a comment\nEND",
        "/* BEGIN; */ ROLLBACK",
        "SAVEPOINT a",
        "RELEASE a",
        "ATTACH 'x' AS x",
        "DETACH x",
        "VACUUM",
    ],
)
async def test_transactions_from_outside_are_refused(database: LocalD1Database, sql: str) -> None:
    with pytest.raises(D1DatabaseError, match="batch\\(\\) is the only transaction"):
        database.prepare(sql)


@pytest.mark.parametrize("text", ["x" * 2_000_000, "é" * 1_000_000, b"x" * 2_000_000])
async def test_largest_value_is_carried_and_a_larger_one_refused(database: LocalD1Database, text: Any) -> None:
    length = database.prepare("SELECT length(CAST(?1 AS BLOB)) AS size")
    assert (await length.bind(text).all()).results == [{"size": 2_000_000}]
    with pytest.raises(D1DatabaseError, match="at most 2000000 are allowed"):
        length.bind(text + text[:1])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (2**63, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ("\ud800", "surrogate"),
        ([1], "list"),
        ({}, "dict"),
        (1j, "complex"),
    ],
)
async def test_values_that_d1_does_not_know_are_refused(database: LocalD1Database, value: Any, problem: str) -> None:
    with pytest.raises(D1DatabaseError, match=problem):
        database.prepare("SELECT ?1").bind(value)


async def test_batch_takes_only_its_own_statements(database: LocalD1Database) -> None:
    with pytest.raises(TypeError, match="prepare"):
        await database.batch(["SELECT 1"])  # type: ignore[list-item]  # that is the point
    with pytest.raises(D1DatabaseError, match="without statements"):
        await database.batch([])


async def test_locked_file_is_unavailable_for_writers_only(
    database: LocalD1Database, path: Path, open_database: OpenDatabase
) -> None:
    """A reading batch takes a snapshot; it does not ask for the right to write."""
    impatient = await open_database(busy_timeout=timedelta(0))
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(D1DatabaseError, match="locked") as refused:
            await impatient.batch([impatient.prepare("INSERT INTO t (n) VALUES (1)")])
        assert refused.value.unavailable
        read = impatient.prepare("SELECT count(*) AS rows FROM t")
        assert [result.results for result in await impatient.batch([read, read])] == [[{"rows": 0}]] * 2


async def test_writer_waits_for_the_busy_timeout(database: LocalD1Database, path: Path) -> None:
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, lambda: holder.execute("ROLLBACK"))
    release.start()
    await database.batch([database.prepare("INSERT INTO t (n) VALUES (1)")])
    release.join()
    holder.close()


async def test_closing_ends_the_thread_and_every_later_call(open_database: OpenDatabase) -> None:
    before = set(threading.enumerate())
    database = await open_database()
    select = database.prepare("SELECT 1")
    (thread,) = set(threading.enumerate()) - before
    await database.close()
    assert not thread.is_alive()
    await database.close()
    for call in (select.all, select.run, lambda: database.batch([select])):
        with pytest.raises(ConfigurationError, match="closed"):
            await call()


async def test_calls_under_way_are_finished_by_closing(path: Path, open_database: OpenDatabase) -> None:
    database = await open_database()
    await database.prepare("CREATE TABLE t (n)").run()
    insert = database.prepare("INSERT INTO t (n) VALUES (?1)")
    writing = [asyncio.ensure_future(insert.bind(n).run()) for n in range(20)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writing)
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (20,)


@pytest.mark.parametrize("turns", range(5))
async def test_cancelled_opening_leaves_no_thread(path: Path, turns: int) -> None:
    before = set(threading.enumerate())
    opening = asyncio.ensure_future(LocalD1Database.open(path))
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


async def test_database_in_memory_ends_with_its_handle() -> None:
    database = await LocalD1Database.open(":memory:")
    await database.batch([database.prepare("CREATE TABLE t (n)"), database.prepare("INSERT INTO t VALUES (1)")])
    assert await numbers(database) == [1]
    await database.close()


async def test_file_that_stays_locked_is_unavailable_when_opened(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(D1DatabaseError, match="locked") as refused:
            await LocalD1Database.open(path, busy_timeout=timedelta(seconds=0.05))
    assert refused.value.unavailable


def not_there(path: Path) -> Path:
    return path.parent / "no" / "such" / "folder" / "app.db"


def no_database(path: Path) -> Path:
    path.write_text("This is a text, and longer than the header of a database. " * 10)
    return path


@pytest.mark.parametrize("make", [not_there, no_database])
async def test_unusable_file_is_an_error_and_leaves_no_thread(path: Path, make: Callable[[Path], Path]) -> None:
    before = set(threading.enumerate())
    with pytest.raises(D1DatabaseError) as refused:
        await LocalD1Database.open(make(path))
    assert not refused.value.unavailable
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("path", {"path": ""}),
        ("path", {"path": "a\0b"}),
        ("synchronous", {"synchronous": "OFF"}),
        ("busy_timeout", {"busy_timeout": timedelta(seconds=-1)}),
    ],
)
async def test_unusable_options_are_refused(path: Path, argument: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        await LocalD1Database.open(**{"path": path, **options})
    assert refused.value.argument == argument
    assert not path.exists()


async def test_missing_driver_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiosqlite", None)
    with pytest.raises(ConfigurationError, match=r'pip install "workflow-store-d1\[local\]"'):
        await LocalD1Database.open(path)


async def test_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.0")
    with pytest.raises(ConfigurationError, match=r"3\.37\.0 or newer is needed; this Python has 3\.36\.0"):
        await LocalD1Database.open(path)


async def test_each_call_is_one_hop_to_the_driver(database: LocalD1Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second hop would be a moment at which a cancellation finds a transaction open."""
    hops = []
    plain = aiosqlite.Connection.execute_fetchall

    def counted(self: aiosqlite.Connection, sql: str, *parameters: Any) -> Any:
        hops.append(str(sql))
        return plain(self, sql, *parameters)

    monkeypatch.setattr(aiosqlite.Connection, "execute_fetchall", counted)
    insert = database.prepare("INSERT INTO t (n) VALUES (?1)")
    await database.batch([insert.bind(n) for n in range(10)])
    await insert.bind(10).run()
    assert hops == ["a unit of 10 statements", "a unit of 1 statements"]
