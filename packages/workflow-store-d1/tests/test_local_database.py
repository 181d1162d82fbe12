"""The local database behaves like D1, and a batch is one transaction whatever happens around it."""

import asyncio
import contextvars
import gc
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime.errors import ConfigurationError, InvalidArgumentError
from workflow_store_d1 import D1DatabaseError, connection_thread
from workflow_store_d1.connection_thread import ConnectionThread
from workflow_store_d1.local import LocalD1Database, LocalStatement, largest_payload_bytes
from workflow_store_d1.sqlite_connection import SQLiteConnection, greatest_value_bytes

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
    if task.cancel():
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(await numbers(database)) in {0, 2_000}
    else:  # the machine took so long for a turn that the batch was done by then
        assert turns > 0
        assert len(await numbers(database)) == 2_000
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


@pytest.mark.parametrize("value", [1, "text", None, 0.5])
async def test_no_more_values_are_bound_than_d1_takes(database: LocalD1Database, value: Any) -> None:
    text = "SELECT 1"
    database.prepare(text).bind(*[value] * 100)
    with pytest.raises(D1DatabaseError, match="101 values are bound: at most 100 are allowed"):
        database.prepare(text).bind(*[value] * 101)


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
    if opening.cancel():
        with pytest.raises(asyncio.CancelledError):
            await opening
    else:  # the machine took so long for a turn that the file was open by then
        assert turns > 0
        await (await opening).close()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


async def test_cancelled_opening_waits_for_nobody(path: Path) -> None:
    """A heartbeat that cannot open its connection in time must not be held up by the lock that it waits for."""
    before = set(threading.enumerate())
    loop = asyncio.get_running_loop()
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await LocalD1Database.open(path, busy_timeout=timedelta(seconds=60))
        assert loop.time() - began < 10
        for thread in set(threading.enumerate()) - before:
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive(), "nor does the thread wait any longer"


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
        ("path", {"path": b"app.db"}),
        ("busy_timeout", {"busy_timeout": timedelta(seconds=-1)}),
        ("call_timeout", {"call_timeout": timedelta(0)}),
    ],
)
async def test_unusable_options_are_refused(path: Path, argument: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        await LocalD1Database.open(**{"path": path, **options})
    assert refused.value.argument == argument
    assert not path.exists()


async def test_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.0")
    with pytest.raises(ConfigurationError, match=r"3\.37\.0 or newer is needed; this Python has 3\.36\.0"):
        await LocalD1Database.open(path)


async def test_each_call_is_one_hop_to_the_thread(database: LocalD1Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second hop would be a moment at which a cancellation finds a transaction open."""
    hops = []
    plain = ConnectionThread.call

    async def counted(self: ConnectionThread, *arguments: Any, **options: Any) -> Any:
        hops.append(arguments)
        return await plain(self, *arguments, **options)

    monkeypatch.setattr(ConnectionThread, "call", counted)
    insert = database.prepare("INSERT INTO t (n) VALUES (?1)")
    await database.batch([insert.bind(n) for n in range(10)])
    await insert.bind(10).run()
    assert len(hops) == 2


COUNT_FOR_EVER = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


async def blocked(database: LocalD1Database, until: threading.Event) -> "asyncio.Task[None]":
    """Keep the thread busy, as a disk does that does not answer; nothing interrupts it."""

    def wait(_: object) -> None:
        until.wait(10)

    task = asyncio.ensure_future(database._thread.call(wait, within_s=database._longest_s))
    await asyncio.sleep(0)
    return task


@pytest.fixture
def released() -> Iterator[threading.Event]:
    released = threading.Event()
    yield released
    released.set()


async def test_a_call_that_is_cancelled_before_its_turn_is_not_begun(
    database: LocalD1Database, released: threading.Event
) -> None:
    blocking = await blocked(database, released)
    writing = asyncio.ensure_future(database.prepare("INSERT INTO t (n) VALUES (1)").run())
    await asyncio.sleep(0)
    writing.cancel()
    released.set()
    await blocking
    assert await numbers(database) == []


async def test_statement_that_takes_too_long_is_interrupted(open_database: OpenDatabase) -> None:
    database = await open_database(busy_timeout=timedelta(0), call_timeout=timedelta(seconds=0.2))
    with pytest.raises(D1DatabaseError, match=r"no answer from the file within 0\.2 s") as refused:
        await database.prepare(COUNT_FOR_EVER).all()
    assert (refused.value.unavailable, refused.value.outcome_unknown) == (True, True)
    await until_it_answers(database)


async def until_it_answers(database: LocalD1Database) -> None:
    async with asyncio.timeout(10):
        while True:
            with suppress(D1DatabaseError):
                await database.prepare("SELECT 1").all()
                return
            await asyncio.sleep(0.001)


async def test_file_that_does_not_answer_holds_nobody_up(
    open_database: OpenDatabase, released: threading.Event
) -> None:
    """The first call finds out; those behind it and those that come later are told at once. Closing returns too."""
    database = await open_database(busy_timeout=timedelta(0), call_timeout=timedelta(seconds=0.1))
    first = await blocked(database, released)
    second = asyncio.ensure_future(database.prepare("SELECT 1").all())
    with pytest.raises(D1DatabaseError, match="no answer") as unknown:
        await first
    with pytest.raises(D1DatabaseError, match="busy with other calls") as not_done:
        await second
    assert (unknown.value.outcome_unknown, not_done.value.outcome_unknown) == (True, False)
    with pytest.raises(D1DatabaseError, match="does not answer") as told:
        await database.prepare("SELECT 1").all()
    assert (told.value.unavailable, told.value.outcome_unknown) == (True, False)
    released.set()
    await until_it_answers(database)


async def test_closing_a_file_that_does_not_answer_returns(
    open_database: OpenDatabase, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_thread, "_LAST_WAIT_S", 0.1)
    database = await open_database(busy_timeout=timedelta(0), call_timeout=timedelta(seconds=0.1))
    blocking = await blocked(database, released)
    with pytest.raises(D1DatabaseError, match="could not be closed: it does not answer"):
        await database.close()
    await database.close()
    released.set()
    with pytest.raises(D1DatabaseError):
        await blocking


async def test_closing_during_a_long_statement_interrupts_it(open_database: OpenDatabase) -> None:
    database = await open_database(busy_timeout=timedelta(0), call_timeout=timedelta(seconds=0.2))
    counting = asyncio.ensure_future(database.prepare(COUNT_FOR_EVER).all())
    await asyncio.sleep(0)
    await database.close()
    with pytest.raises(D1DatabaseError):
        await counting


async def test_thread_that_has_ended_is_an_error_and_can_be_closed(open_database: OpenDatabase) -> None:
    database = await open_database()
    database._thread.end()
    assert await database._thread.ended(10)
    with pytest.raises(D1DatabaseError, match="the connection has ended") as refused:
        await database.prepare("SELECT 1").all()
    assert refused.value.unavailable
    await database.close()


async def test_all_calls_together_wait_for_the_busy_timeout_once(open_database: OpenDatabase, path: Path) -> None:
    database = await open_database(busy_timeout=timedelta(seconds=0.5))
    await database.prepare("CREATE TABLE t (n)").run()
    loop = asyncio.get_running_loop()
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        began = loop.time()
        insert = database.prepare("INSERT INTO t VALUES (1)")
        answers = await asyncio.gather(*(insert.run() for _ in range(20)), return_exceptions=True)
        assert loop.time() - began < 5  # and not 20 times half a second
    assert all(isinstance(answer, D1DatabaseError) and answer.unavailable for answer in answers)


async def test_transaction_that_does_not_end_makes_others_wait_for_the_busy_timeout(
    open_database: OpenDatabase,
) -> None:
    database = await open_database(busy_timeout=timedelta(seconds=0.1))
    select = database.prepare("SELECT 1")
    async with database.interactive() as transaction:
        await transaction.run([select])
        waiting = asyncio.create_task(select.all(), context=contextvars.Context())
        with pytest.raises(D1DatabaseError, match="another transaction of this program has held the file") as refused:
            await waiting
    assert (refused.value.unavailable, refused.value.outcome_unknown) == (True, False)
    assert (await select.all()).results == [{"1": 1}]


async def test_what_a_function_raises_is_its_callers_and_not_the_threads(database: LocalD1Database) -> None:
    def fail(error: BaseException) -> Callable[[object], None]:
        def function(_: object) -> None:
            raise error

        return function

    for error, raised in ((StopIteration("1"), RuntimeError), (SystemExit(1), SystemExit), (GeneratorExit(), None)):
        with pytest.raises(raised or type(error)):
            await database._thread.call(fail(error), within_s=10)
    assert await numbers(database) == []


def deleted(path: Path) -> None:
    path.unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replaced(path: Path) -> None:
    other = path.with_name("other.db")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def log_deleted(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def index_deleted(path: Path) -> None:
    path.with_name(path.name + "-shm").unlink()


def log_replaced(path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    copy = path.with_name("copy")
    copy.write_bytes(log.read_bytes())
    copy.replace(log)


def folder_deleted(path: Path) -> None:
    shutil.rmtree(path.parent)


def folder_moved(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


LOSSES = (deleted, moved, replaced, log_deleted, log_replaced, index_deleted, folder_deleted, folder_moved)


@pytest.fixture
async def in_a_folder(tmp_path: Path) -> AsyncIterator[LocalD1Database]:
    (tmp_path / "folder").mkdir()
    database = await LocalD1Database.open(tmp_path / "folder" / "app.db")
    await database.prepare("CREATE TABLE t (n INTEGER PRIMARY KEY)").run()
    yield database
    await database.close()


@pytest.mark.parametrize("lose", LOSSES)
async def test_nothing_is_acknowledged_in_a_file_that_was_lost(
    in_a_folder: LocalD1Database, lose: Callable[[Path], None]
) -> None:
    insert = in_a_folder.prepare("INSERT INTO t (n) VALUES (?1)")
    await insert.bind(1).run()
    lose(Path(in_a_folder.path))
    for call in (insert.bind(2).run, insert.bind(2).all, lambda: in_a_folder.batch([insert.bind(2)])):
        with pytest.raises(D1DatabaseError, match="was deleted, moved or replaced") as refused:
            await call()
        assert not refused.value.unavailable


@pytest.mark.real_time
@pytest.mark.parametrize("lose", LOSSES)
async def test_whoever_only_reads_hears_of_it_soon(in_a_folder: LocalD1Database, lose: Callable[[Path], None]) -> None:
    lose(Path(in_a_folder.path))
    read = in_a_folder.prepare("SELECT n FROM t")
    with pytest.raises(D1DatabaseError, match="was deleted, moved or replaced"):
        async with asyncio.timeout(10):
            await read_on(read)


async def read_on(statement: LocalStatement) -> None:
    while True:
        await statement.all()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("lose", LOSSES)
async def test_what_is_under_way_when_the_file_is_lost_is_not_acknowledged(
    in_a_folder: LocalD1Database, lose: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SQLiteConnection._run_all

    def run(self: SQLiteConnection, call: Any) -> Any:
        lose(Path(in_a_folder.path))
        return plain(self, call)

    monkeypatch.setattr(SQLiteConnection, "_run_all", run)
    with pytest.raises(D1DatabaseError, match="was deleted, moved or replaced"):
        await in_a_folder.prepare("INSERT INTO t (n) VALUES (1)").run()


async def test_a_transaction_in_a_file_that_was_lost_is_rolled_back(in_a_folder: LocalD1Database) -> None:
    insert = in_a_folder.prepare("INSERT INTO t (n) VALUES (1)")
    async with in_a_folder.interactive() as transaction:
        await transaction.run([insert])
        deleted(Path(in_a_folder.path))
        with pytest.raises(D1DatabaseError, match="was deleted"):
            await transaction.commit([insert])
    assert not await in_a_folder._thread.call(lambda connection: connection.in_transaction, within_s=10)


async def test_a_link_that_leads_elsewhere_now_is_another_file(tmp_path: Path) -> None:
    """SQLite follows a link once; whoever opens the file now gets another one."""
    link = tmp_path / "app.db"
    link.symlink_to(tmp_path / "one.db")
    database = await LocalD1Database.open(link)
    create = database.prepare("CREATE TABLE IF NOT EXISTS t (n)")
    await create.run()
    (tmp_path / "two.db").touch()
    link.unlink()
    link.symlink_to(tmp_path / "two.db")
    with pytest.raises(D1DatabaseError, match="is another file now"):
        await create.run()
    await database.close()


async def test_a_file_stays_the_same_wherever_the_program_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = await LocalD1Database.open("app.db")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    await database.prepare("CREATE TABLE t (n)").run()
    await database.close()
    assert (tmp_path / "app.db").exists()


async def test_writing_back_and_other_handles_do_not_look_like_a_loss(
    database: LocalD1Database, path: Path, unguarded: Ask, open_database: OpenDatabase
) -> None:
    for number in range(3):
        other = await open_database()
        await other.prepare("INSERT INTO t (n) VALUES (?1)").bind(number).run()
        await unguarded(other, "PRAGMA wal_checkpoint(TRUNCATE)")
        await other.close()
        with closing(sqlite3.connect(path, isolation_level=None)) as plain:
            plain.execute("VACUUM")
        await database.prepare("UPDATE t SET v = 1").run()
    assert await numbers(database) == [0, 1, 2]


@pytest.mark.parametrize("size", [1, 900_000, 5_000_000])
async def test_room_for_payloads_follows_what_is_asked_for(open_database: OpenDatabase, size: int) -> None:
    """Two of them lie in one row; smaller ones leave the limits as D1 has them."""
    database = await open_database(max_payload_bytes=size)
    assert database.max_value_bytes == max(2_000_000, 2 * size + 200_000)
    largest = "x" * database.max_value_bytes
    length = database.prepare("SELECT length(?1) AS size")
    assert (await length.bind(largest).all()).results == [{"size": len(largest)}]
    with pytest.raises(D1DatabaseError, match=f"at most {len(largest)} are allowed"):
        length.bind(largest + "x")
    with pytest.raises(D1DatabaseError, match="too big"):
        await database.prepare("SELECT ?1 || 'x'").bind(largest).all()
    await database.prepare("CREATE TABLE pairs (a TEXT, b TEXT)").run()
    await database.prepare("INSERT INTO pairs VALUES (?1, ?1)").bind("x" * size).run()


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "900000", largest_payload_bytes() + 1, 10**30])
async def test_room_that_sqlite_has_not_is_refused(path: Path, size: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"an int from 1 to \d+, which SQLite carries"):
        await LocalD1Database.open(path, max_payload_bytes=size)
    assert not path.exists()


async def test_largest_room_is_what_sqlite_carries(open_database: OpenDatabase) -> None:
    database = await open_database(max_payload_bytes=largest_payload_bytes())
    assert largest_payload_bytes() >= 1_000_000
    assert database.max_value_bytes <= greatest_value_bytes()


async def test_without_a_thread_there_is_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(D1DatabaseError, match="no thread for the file: can't start new thread") as refused:
        await LocalD1Database.open(path)
    assert refused.value.unavailable
    gc.collect()


async def test_interrupt_that_comes_late_hits_nobody_for_good(database: LocalD1Database) -> None:
    """The call that it was meant for has just ended: the next one may be interrupted, and may be made again."""
    counting = asyncio.ensure_future(database.prepare(COUNT_FOR_EVER).all())
    async with asyncio.timeout(10):
        while not counting.done():
            database._thread._interrupt()
            await asyncio.sleep(0.001)
    with pytest.raises(D1DatabaseError, match="interrupted") as refused:
        await counting
    assert (refused.value.unavailable, refused.value.outcome_unknown) == (True, False)
    assert await numbers(database) == []


async def test_file_that_does_not_open_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    def connect(self: SQLiteConnection, *_: object) -> None:
        released.wait(10)
        raise sqlite3.OperationalError("too late")

    monkeypatch.setattr(SQLiteConnection, "__init__", connect)
    with pytest.raises(D1DatabaseError, match=r"the file could not be opened within 0\.1 s") as refused:
        await LocalD1Database.open(path, busy_timeout=timedelta(0), call_timeout=timedelta(seconds=0.1))
    assert (refused.value.unavailable, refused.value.outcome_unknown) == (True, False)


async def test_transaction_whose_end_nobody_heard_of_is_no_part_of_what_comes_next(
    open_database: OpenDatabase, path: Path, released: threading.Event
) -> None:
    """Its rollback could not be sent while the file did not answer. What is acknowledged later must be in the file."""
    database = await open_database(busy_timeout=timedelta(0), call_timeout=timedelta(seconds=0.1))
    await database.prepare("CREATE TABLE t (n INTEGER PRIMARY KEY)").run()
    insert = database.prepare("INSERT INTO t (n) VALUES (?1)")
    async with database.interactive() as transaction:
        await transaction.run([insert.bind(1)])
        blocking = await blocked(database, released)
        with pytest.raises(D1DatabaseError, match="no answer"):
            await blocking
    released.set()
    await until_it_answers(database)
    await insert.bind(2).run()
    await database.batch([insert.bind(3)])
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT n FROM t").fetchall() == [(2,), (3,)]
