"""Writes that wait at the same time share a commit, and none of them can tell."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit
from signal import SIGKILL
from typing import Any

import pytest
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import LeaseLostError, NewEvent
from workflow_store_d1 import D1DatabaseError, SQLiteWorkflowStore, combined_writes, sqlite_connection
from workflow_store_d1.jobs import Job
from workflow_store_d1.local import LocalD1Database

OpenDatabase = Callable[..., Awaitable[LocalD1Database]]
UNITS = 8


@pytest.fixture
async def database(open_database: OpenDatabase) -> LocalD1Database:
    return await with_tables(await open_database())


async def with_tables(database: LocalD1Database) -> LocalD1Database:
    await database.prepare("CREATE TABLE t (n INTEGER PRIMARY KEY, v)").run()
    return database


@asynccontextmanager
async def held(database: LocalD1Database) -> AsyncIterator[None]:
    """Keep the connection's thread busy: what is called meanwhile waits."""
    free = threading.Event()
    holding = asyncio.ensure_future(database._thread.call(lambda _: free.wait(10), within_s=30))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        free.set()
        await holding


async def together(database: LocalD1Database, *calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """Make calls that all wait before the first begins, in this order; give their results and errors."""
    async with held(database):
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
    return await asyncio.gather(*tasks, return_exceptions=True)


async def traced(database: LocalD1Database) -> list[str]:
    """Return a list that grows by each statement that the connection runs from now on."""
    seen: list[str] = []
    await database._thread.call(lambda connection: connection.set_trace_callback(seen.append), within_s=10)
    return seen


def pair(database: LocalD1Database, number: int) -> Coroutine[Any, Any, Any]:
    """Write two rows in one batch: n and -n."""
    insert = database.prepare("INSERT INTO t (n) VALUES (?1)")
    return database.batch([insert.bind(number), insert.bind(-number)])


def insert(database: LocalD1Database, number: int, sql: str = "INSERT INTO t (n) VALUES (?1)") -> Any:
    return database.prepare(sql).bind(number).run()


async def numbers(database: LocalD1Database) -> list[int]:
    return [row["n"] for row in (await database.prepare("SELECT n FROM t ORDER BY n").all()).results]


def both(*positive: int) -> list[int]:
    return sorted([*positive, *(-number for number in positive)])


def refused(answers: Sequence[Any]) -> dict[int, str]:
    """Return the errors, by position."""
    errors = {n: answer for n, answer in enumerate(answers) if isinstance(answer, BaseException)}
    assert all(isinstance(error, D1DatabaseError) for error in errors.values()), errors
    return {n: str(error) for n, error in errors.items()}


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes, so that a commit fails."""
    before, hard = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        setrlimit(RLIMIT_FSIZE, (before, hard))


def log_size(database: LocalD1Database) -> int:
    return Path(f"{database.path}-wal").stat().st_size


@pytest.mark.parametrize(("combine", "commits"), [(True, 1), (False, UNITS)])
async def test_what_waits_shares_a_commit(open_database: OpenDatabase, combine: bool, commits: int) -> None:
    database = await with_tables(await open_database(combine=combine))
    seen = await traced(database)
    answers = await together(database, *(pair(database, n) for n in range(1, UNITS + 1)))
    assert refused(answers) == {}
    assert (seen.count("BEGIN IMMEDIATE"), seen.count("COMMIT")) == (commits, commits)
    assert await numbers(database) == both(*range(1, UNITS + 1))


async def test_single_statements_share_it_too(database: LocalD1Database) -> None:
    seen = await traced(database)
    answers = await together(
        database,
        insert(database, 1),
        insert(database, 2, "UPDATE t SET v = ?1"),
        insert(database, 3, "REPLACE INTO t (n) VALUES (?1)"),
        insert(database, 3, "DELETE FROM t WHERE n = ?1"),
    )
    assert [answer.meta["changes"] for answer in answers] == [1, 1, 1, 1]
    assert seen.count("COMMIT") == 1
    assert await numbers(database) == [1]


async def test_steps_of_many_runs_share_it(tmp_path: Path) -> None:
    """The store's own writes: starts, then appends, of which one has lost its lease."""
    async with SQLiteWorkflowStore.open(tmp_path / "app.db") as store:
        await store.ensure_schema()
        database: Any = store.database
        seen = await traced(database)
        created = await together(database, *(start(store, n) for n in range(UNITS)))
        assert seen.count("COMMIT") == 1
        tokens = [one.claim.lease.token for one in created]
        answers = await together(database, *(append(store, n, token) for n, token in enumerate([*tokens[1:], "lost"])))
        assert all(isinstance(answer, LeaseLostError) for answer in answers)
        answers = await together(database, *(append(store, n, token) for n, token in enumerate([*tokens[:-1], "lost"])))
        assert [type(answer).__name__ for answer in answers] == ["Appended"] * (UNITS - 1) + ["LeaseLostError"]
        assert seen.count("COMMIT") == 3


@pytest.mark.parametrize(("options", "commits"), [({}, 1), ({"combine": True}, 1), ({"combine": False}, UNITS)])
async def test_a_store_can_be_told_to_share_none(tmp_path: Path, options: dict[str, Any], commits: int) -> None:
    """The same goes for what it opens for heartbeats."""
    async with SQLiteWorkflowStore.open(tmp_path / "app.db", **options) as store:
        await store.ensure_schema()
        async with store.open_heartbeats() as heartbeats:
            both_of_them: list[Any] = [store, heartbeats]
            for one in both_of_them:
                seen = await traced(one.database)
                await together(one.database, *(start(one, n) for n in range(UNITS)))
                assert seen.count("COMMIT") == commits


def start(store: SQLiteWorkflowStore, number: int) -> Coroutine[Any, Any, Any]:
    return store.create_run(
        run_id=f"run-{number}",
        workflow_id="ship",
        workflow_version="1",
        input=JsonText("1"),
        operation_id=f"start-{number}",
        now_ms=1_000_000,
        owner="worker",
        lease_ms=10_000,
    )


def append(store: SQLiteWorkflowStore, number: int, token: str) -> Coroutine[Any, Any, Any]:
    return store.append_events(
        run_id=f"run-{number}",
        lease_token=token,
        operation_id="append",
        expected_next_index=0,
        events=[NewEvent(kind="step", payload=JsonText("1"))],
        now_ms=1_000_000,
        lease_ms=10_000,
    )


async def test_nothing_waits_when_nothing_else_is_there(database: LocalD1Database) -> None:
    seen = await traced(database)
    for number in range(1, 4):
        await pair(database, number)
    assert seen.count("COMMIT") == 3
    assert not any("SAVEPOINT" in statement for statement in seen)


@pytest.mark.parametrize("position", [0, 3, UNITS - 1])
@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("INSERT INTO t (n) VALUES (?1)", "UNIQUE"),
        ("INSERT INTO t (n, v) VALUES (?1 + 1000, (SELECT json('no json')))", "malformed JSON"),
        ("INSERT INTO t (n, v) VALUES (?1 + 1000, zeroblob(3000000))", "too big"),
        ("INSERT INTO nowhere VALUES (?1)", "no such table"),
    ],
)
async def test_a_unit_that_fails_is_undone_alone(
    database: LocalD1Database, position: int, sql: str, problem: str
) -> None:
    """Also what it wrote before it failed."""
    await pair(database, 100)
    calls = [pair(database, n) for n in range(1, UNITS)]
    bad = [database.prepare("INSERT INTO t (n) VALUES (50)"), database.prepare(sql).bind(100)]
    calls.insert(position, database.batch(bad))
    seen = await traced(database)
    errors = refused(await together(database, *calls))
    assert list(errors) == [position]
    assert problem in errors[position]
    assert seen.count("COMMIT") == 1
    assert await numbers(database) == both(*range(1, UNITS), 100)


async def test_a_unit_that_ends_the_transaction_takes_nobody_along(database: LocalD1Database) -> None:
    """ON CONFLICT ROLLBACK takes back what the others wrote, so each of them is run again by itself."""
    await pair(database, 100)
    calls = [pair(database, n) for n in range(1, UNITS)]
    calls.insert(3, insert(database, 100, "INSERT OR ROLLBACK INTO t (n) VALUES (?1)"))
    errors = refused(await together(database, *calls))
    assert list(errors) == [3]
    assert "UNIQUE" in errors[3]
    assert await numbers(database) == both(*range(1, UNITS), 100)


async def orphans(database: LocalD1Database) -> None:
    await database.prepare("PRAGMA foreign_keys = ON").run()
    await database.prepare(
        "CREATE TABLE o (n INTEGER PRIMARY KEY, p INTEGER REFERENCES t (n) DEFERRABLE INITIALLY DEFERRED)"
    ).run()


async def test_a_unit_because_of_which_the_commit_fails_takes_nobody_along(database: LocalD1Database) -> None:
    await orphans(database)
    calls = [pair(database, n) for n in range(1, UNITS)]
    calls.insert(3, insert(database, 100, "INSERT INTO o VALUES (?1, 100)"))
    errors = refused(await together(database, *calls))
    assert errors == {3: "FOREIGN KEY constraint failed"}
    assert await numbers(database) == both(*range(1, UNITS))


async def test_an_error_because_of_what_is_not_committed_then_is_none(database: LocalD1Database) -> None:
    """The second unit fails by what the first one wrote, of which nothing stays."""
    await orphans(database)
    orphan = database.batch(
        [database.prepare("INSERT INTO o VALUES (1, 100)"), database.prepare("INSERT INTO t (n) VALUES (1)")]
    )
    errors = refused(await together(database, orphan, pair(database, 1)))
    assert errors == {0: "FOREIGN KEY constraint failed"}
    assert await numbers(database) == both(1)


async def test_a_commit_that_fails_fails_all_and_nothing_is_there(database: LocalD1Database) -> None:
    await pair(database, 100)
    with no_file_beyond(log_size(database)):
        answers = await together(database, *(pair(database, n) for n in range(1, UNITS)))
    assert set(refused(answers)) == set(range(UNITS - 1))
    assert len({id(answer) for answer in answers}) == UNITS - 1
    assert all((answer.unavailable, answer.outcome_unknown) == (True, False) for answer in answers)
    assert await numbers(database) == both(100)
    assert refused(await together(database, *(pair(database, n) for n in range(1, UNITS)))) == {}


async def test_a_commit_that_may_be_there_is_not_made_again(
    database: LocalD1Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is cannot be told from here, and a unit that is done twice may do more than once."""
    await pair(database, 100)
    monkeypatch.setattr(sqlite_connection, "_COMMIT_IN_DOUBT", frozenset({sqlite3.SQLITE_IOERR_WRITE}))
    seen = await traced(database)
    with no_file_beyond(log_size(database)):
        answers = await together(database, *(pair(database, n) for n in range(1, UNITS)))
    assert seen.count("BEGIN IMMEDIATE") == 1
    assert len({id(answer) for answer in answers}) == UNITS - 1, "one caller's repeat must not change another's error"
    assert all((answer.unavailable, answer.outcome_unknown) == (True, True) for answer in answers)


async def test_units_in_a_file_that_is_lost_meanwhile_are_not_acknowledged(
    database: LocalD1Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = stopping(monkeypatch)
    async with held(database):
        tasks = [asyncio.ensure_future(pair(database, n)) for n in range(1, UNITS)]
        await asyncio.sleep(0)
    await asyncio.to_thread(began.wait, 10)
    Path(f"{database.path}-wal").unlink()
    go_on.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all("was deleted, moved or replaced" in problem for problem in refused(answers).values())
    assert len({id(answer) for answer in answers}) == UNITS - 1, "one caller's repeat must not change another's error"


async def test_a_first_unit_that_fails_leaves_the_file_to_others(
    database: LocalD1Database, open_database: OpenDatabase
) -> None:
    await pair(database, 1)
    assert refused(await together(database, pair(database, 1))) == {0: "UNIQUE constraint failed: t.n"}
    await insert(await open_database(busy_timeout=timedelta(0)), 2)


async def test_a_transaction_of_which_the_end_was_lost_is_no_part_of_it(database: LocalD1Database) -> None:
    def leave_open(connection: Any) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t (n) VALUES (1000)")

    await database._thread.call(leave_open, within_s=10)
    assert refused(await together(database, pair(database, 1), pair(database, 2))) == {}
    assert await numbers(database) == both(1, 2)


async def test_a_read_sees_nothing_that_may_still_fail(database: LocalD1Database) -> None:
    await pair(database, 100)
    count = database.prepare("SELECT count(*) AS rows FROM t")
    with no_file_beyond(log_size(database)):
        _, alone, _, batch, _ = await together(
            database, pair(database, 1), count.all(), pair(database, 2), database.batch([count]), pair(database, 3)
        )
    assert (alone.results, batch[0].results) == ([{"rows": 2}], [{"rows": 2}])


async def test_reads_let_writes_pass_and_hold_up_no_commit(database: LocalD1Database) -> None:
    """They see all that was called before them, and come before what was called after the transaction."""
    seen = await traced(database)
    count = database.prepare("SELECT count(*) AS rows FROM t")
    _, first, _, second, _ = await together(
        database, pair(database, 1), count.all(), pair(database, 2), count.all(), pair(database, 3)
    )
    assert seen.count("COMMIT") == 1
    assert first.results[0]["rows"] >= 2
    assert second.results[0]["rows"] >= 4


async def test_a_read_that_begins_with_another_word_waits_for_no_writer(
    database: LocalD1Database, open_database: OpenDatabase, path: Path
) -> None:
    impatient = await open_database(busy_timeout=timedelta(0))
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        read = await impatient.prepare("WITH a AS (SELECT count(*) AS rows FROM t) SELECT rows FROM a").all()
    assert read.results == [{"rows": 0}]


async def test_a_change_of_tables_or_settings_is_passed_by_nobody(database: LocalD1Database) -> None:
    seen = await traced(database)
    answers = await together(
        database,
        pair(database, 1),
        database.prepare("ALTER TABLE t ADD COLUMN w").run(),
        database.prepare("UPDATE t SET w = 1").run(),
        database.batch([database.prepare("PRAGMA defer_foreign_keys = ON"), database.prepare("DELETE FROM t")]),
        pair(database, 2),
    )
    assert refused(answers) == {}
    assert seen.count("COMMIT") == 4
    assert await numbers(database) == both(2)


async def test_a_transaction_that_stays_open_is_nobody_elses(database: LocalD1Database) -> None:
    """It begins behind what was called before it, and what is called later waits for its end."""

    async def stay_open() -> None:
        async with database.interactive() as transaction:
            await transaction.run([database.prepare("INSERT INTO t (n) VALUES (1000)")])
            await asyncio.sleep(0.01)

    answers = await together(database, pair(database, 1), pair(database, 2), stay_open(), pair(database, 3))
    assert refused(answers) == {}
    assert await numbers(database) == both(1, 2, 3)


@pytest.mark.parametrize(
    ("bound", "value", "commits"),
    [("MAX_UNITS", 3, 3), ("MAX_BYTES", 2_000, 4), ("LONGEST_S", 0.0, UNITS), ("MAX_UNITS", 1, UNITS)],
)
async def test_a_transaction_is_bounded(
    database: LocalD1Database, monkeypatch: pytest.MonkeyPatch, bound: str, value: float, commits: int
) -> None:
    monkeypatch.setattr(combined_writes, bound, value)
    seen = await traced(database)
    text = database.prepare("INSERT INTO t VALUES (?1, ?2)")
    answers = await together(database, *(text.bind(n, "x" * 1_000).run() for n in range(UNITS)))
    assert refused(answers) == {}
    assert seen.count("COMMIT") == commits
    assert await numbers(database) == list(range(UNITS))


async def test_units_are_done_in_their_order(database: LocalD1Database) -> None:
    await insert(database, 0)
    digit = database.prepare("UPDATE t SET v = coalesce(v, '') || ?1 || ',' WHERE n = 0 RETURNING v")
    answers = await together(database, *(digit.bind(str(n)).run() for n in range(UNITS)))
    told = [answer.results[0]["v"] for answer in answers]
    assert told == ["".join(f"{n}," for n in range(end)) for end in range(1, UNITS + 1)]


@pytest.mark.parametrize("position", range(0, UNITS, 3))
async def test_a_unit_that_is_cancelled_before_it_began_is_dropped(database: LocalD1Database, position: int) -> None:
    async with held(database):
        tasks = [asyncio.ensure_future(pair(database, n)) for n in range(1, UNITS + 1)]
        await asyncio.sleep(0)
        tasks[position].cancel()
        await asyncio.sleep(0)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, BaseException)] == [position]
    assert await numbers(database) == both(*(n for n in range(1, UNITS + 1) if n != position + 1))


def stopping(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Stop before a unit joins: the first event is set then, and the second one lets it go on."""
    began, go_on = threading.Event(), threading.Event()
    plain = sqlite_connection.SQLiteConnection.join_unit

    def join_unit(self: Any, call: Any) -> Any:
        began.set()
        go_on.wait(10)
        return plain(self, call)

    monkeypatch.setattr(sqlite_connection.SQLiteConnection, "join_unit", join_unit)
    return began, go_on


@pytest.mark.parametrize("ends", [False, True])
async def test_a_unit_that_is_cancelled_in_the_middle_is_done_as_a_whole(
    database: LocalD1Database, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """Or not at all, where the transaction has to be made again without it."""
    began, go_on = stopping(monkeypatch)
    await pair(database, 100)
    last = insert(database, 100, "INSERT OR ROLLBACK INTO t (n) VALUES (?1)") if ends else pair(database, 3)
    async with held(database):
        tasks = [asyncio.ensure_future(call) for call in (pair(database, 1), pair(database, 2), last)]
        await asyncio.sleep(0)
    await asyncio.to_thread(began.wait, 10)
    tasks[0].cancel()
    await asyncio.sleep(0)
    go_on.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert await numbers(database) == (both(2, 100) if ends else both(1, 2, 3, 100))


@pytest.mark.parametrize("turns", range(6))
async def test_cancelling_at_any_turn_leaves_all_units_whole(
    database: LocalD1Database, open_database: OpenDatabase, turns: int
) -> None:
    tasks = [asyncio.ensure_future(pair(database, n)) for n in range(1, 21)]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    kept = await numbers(database)
    assert kept == both(*(n for n in kept if n > 0))
    assert set(kept) >= set(range(2, 21, 2))
    other = await open_database(busy_timeout=timedelta(0))
    await insert(other, 1_000)


async def test_a_call_counts_as_begun_before_it_is_known_whether_anybody_waits() -> None:
    """Its caller may give up at that moment, and must not hear that nothing was begun."""
    seen: list[bool] = []

    class Watched(asyncio.Future[None]):
        def done(self) -> bool:
            seen.append(job.begun)
            return super().done()

    job = Job(lambda connection: None, Watched())
    assert job.begin()
    job.future.cancel()
    assert not job.begin()
    assert (seen, job.begun) == ([True, True], False)


async def test_a_unit_that_takes_too_long_does_not_leave_the_others_in_half(open_database: OpenDatabase) -> None:
    database = await open_database(busy_timeout=timedelta(0), call_timeout=timedelta(seconds=0.2))
    await with_tables(database)
    endless = database.prepare(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) INSERT INTO t SELECT max(n), 0 FROM c"
    )
    tasks = [pair(database, 1), database.batch([endless]), pair(database, 2)]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(answer.unavailable for answer in answers if isinstance(answer, D1DatabaseError))
    assert isinstance(answers[1], D1DatabaseError)
    async with asyncio.timeout(10):
        while (kept := await known(database)) is None:
            await asyncio.sleep(0.001)
    assert kept == both(*(n for n in kept if n > 0))
    assert {n for n in (1, 2) if not isinstance(answers[2 * (n - 1)], D1DatabaseError)} <= set(kept)


async def known(database: LocalD1Database) -> list[int] | None:
    try:
        return await numbers(database)
    except D1DatabaseError:
        return None


async def test_units_wait_together_for_another_process(database: LocalD1Database, path: Path) -> None:
    seen = await traced(database)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.05, lambda: holder.execute("ROLLBACK"))
        release.start()
        answers = await together(database, *(pair(database, n) for n in range(1, UNITS + 1)))
        release.join()
    assert refused(answers) == {}
    assert seen.count("COMMIT") == 1


async def test_closing_finishes_what_waits(open_database: OpenDatabase, path: Path) -> None:
    database = await with_tables(await open_database())
    async with held(database):
        tasks = [asyncio.ensure_future(pair(database, n)) for n in range(1, UNITS + 1)]
        reading = asyncio.ensure_future(database.prepare("SELECT count(*) AS rows FROM t").all())
        await asyncio.sleep(0)
        closing_it = asyncio.ensure_future(database.close())
        await asyncio.sleep(0)
    assert refused(await asyncio.gather(*tasks)) == {}
    assert (await reading).results == [{"rows": 2 * UNITS}]
    await closing_it


async def test_nothing_more_begins_when_there_is_no_time_left(
    database: LocalD1Database, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = stopping(monkeypatch)
    async with held(database):
        tasks = [asyncio.ensure_future(pair(database, n)) for n in range(1, UNITS + 1)]
        await asyncio.sleep(0)
    await asyncio.to_thread(began.wait, 10)
    database._thread.end(hurry=True)
    go_on.set()
    errors = refused(await asyncio.gather(*tasks, return_exceptions=True))
    assert list(errors) == list(range(2, UNITS))
    assert await numbers(await open_database()) == both(1, 2)


# What another process finds after this one was killed.


async def be_killed(path: Path, point: str, count: int) -> None:
    """Write units together and die at a point: before the n-th unit, before the commit, or behind it."""
    database = await LocalD1Database.open(path)
    left = [count]

    def dying(plain: Callable[..., Any], *, behind: bool = False) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = plain(*arguments) if behind else None
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), SIGKILL)
            return result if behind else plain(*arguments)

        return call

    connection: Any = sqlite_connection.SQLiteConnection
    name = {"unit": "join_unit"}.get(point, "commit_units")
    setattr(connection, name, dying(getattr(connection, name), behind=point == "answer"))
    await together(database, *(told(database, n) for n in range(1, UNITS + 1)))


async def told(database: LocalD1Database, number: int) -> None:
    await pair(database, number)
    print(json.dumps(number), flush=True)  # an acknowledgement


@pytest.mark.parametrize(
    ("point", "count", "there"),
    [("unit", 1, 0), ("unit", UNITS // 2, 0), ("unit", UNITS - 1, 0), ("commit", 1, 0), ("answer", 1, UNITS)],
)
async def test_a_process_that_is_killed_leaves_none_of_the_units_or_all(
    database: LocalD1Database, path: Path, point: str, count: int, there: int
) -> None:
    command = [sys.executable, __file__, str(path), point, str(count)]
    killed = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -SIGKILL, killed.stderr
    assert killed.stdout == ""
    assert await numbers(database) == both(*range(1, there + 1))
    await pair(database, 100)


if __name__ == "__main__":
    asyncio.run(be_killed(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
