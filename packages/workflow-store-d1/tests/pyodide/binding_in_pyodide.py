"""Runs inside Pyodide: what `BindingD1Database` makes of a Worker's binding, in each of its forms."""

import asyncio
import functools
import gc
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

import pyodide_js  # these three exist in Pyodide only
from pyodide.code import run_js
from pyodide.ffi import JsProxy
from workers.rpc import _EnvWrapper
from workflow_runtime.errors import ConfigurationError, StoreOperationError, StoreUnavailableError
from workflow_runtime.payloads import JsonText
from workflow_store_d1 import BindingD1Database, D1DatabaseError, D1WorkflowStore
from workflow_store_d1.javascript import as_read
from workflow_store_d1.retries import Retries

E = TypeVar("E", bound=Exception)

FALSE_BINDING = """(text) => ({
  prepare(sql) {
    if (sql === "prepare") throw new Error(text);
    return {
      bind() {
        if (sql === "bind") throw new Error(text);
        return this;
      },
      async all() { throw new Error(text); },
    };
  },
  batch() { throw new Error(text); },
})"""
LOSSY_BINDING = """(db) => {
  let lost = false;
  return {
    prepare: (sql) => db.prepare(sql),
    async batch(statements) {
      const results = await db.batch(statements);
      lost = !lost;
      if (lost) throw new Error("D1_ERROR: Network connection lost.");
      return results;
    },
  };
}"""
SLOW_BINDING = """(outcomes) => ({
  prepare() { return this; },
  batch() {
    return new Promise((resolve, reject) => setTimeout(() => {
      outcomes.push("over");
      reject(new Error("D1_ERROR: it came to nothing"));
    }, 200));
  },
})"""
SPY = """(seen) => ({
  prepare() {
    return { bind(...values) { seen.push(...values.map((value) => (value === null ? "null" : typeof value))); } };
  },
})"""


def bound(env: Any, form: str) -> Any:
    """Give one of the forms in which a Worker may get its binding, all of the same database."""
    return {"bare": env.DB, "wrapped": _EnvWrapper(env).DB, "proxy": env.PROXY}[form]


def database_of(env: Any, form: str) -> BindingD1Database:
    return BindingD1Database(bound(env, form))


async def ended_by(kind: type[E], call: Awaitable[object]) -> E:
    """Give the error that a call ends with."""
    try:
        await call
    except kind as error:
        return error
    raise AssertionError("it was not refused")


async def refused(call: Awaitable[object]) -> D1DatabaseError:
    """Give the database's error that a call ends with."""
    return await ended_by(D1DatabaseError, call)


def refused_at_once(kind: type[Exception], call: Callable[[], object]) -> str:
    """Give the text of the error that a call raises."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError("it was not refused")


async def make_table(database: BindingD1Database) -> None:
    await database.batch(
        [
            database.prepare("DROP TABLE IF EXISTS things"),
            database.prepare("CREATE TABLE things (id INTEGER PRIMARY KEY, n INTEGER, r REAL, t TEXT, b BLOB)"),
        ]
    )


async def test_forms_are_what_they_seem(env: Any, form: str) -> None:
    assert isinstance(bound(env, form), JsProxy) is (form != "wrapped")


async def test_values_come_back_as_they_went(env: Any, form: str) -> None:
    database = database_of(env, form)
    await make_table(database)
    insert = database.prepare("INSERT INTO things (n, r, t, b) VALUES (?1, ?2, ?3, ?4) RETURNING n, r, t, b")
    rows: list[tuple[Any, ...]] = [
        (0, 0.5, "", b""),
        (1, -1.5, "zażółć 🦆", b"\x00\x01\xff"),
        (-1, 1e300, "nul \0 inside", bytes(range(256))),
        (2**53 - 1, 2.5, "null", b"x" * 10_000),
        (-(2**53) + 1, None, None, None),
        (None, 3.25, "0", b"0"),
    ]
    results = await database.batch([insert.bind(*row) for row in rows])
    came_back = [tuple(result.results[0].values()) for result in results]
    assert came_back == rows
    assert [[type(value) for value in row] for row in came_back] == [[type(value) for value in row] for row in rows]


async def test_truth_is_a_number_and_nan_is_none(env: Any, form: str) -> None:
    row = (await database_of(env, form).prepare("SELECT ?1 AS yes, ?2 AS no").bind(True, False).all()).results[0]
    assert row == {"yes": 1, "no": 0}
    assert {type(value) for value in row.values()} == {int}
    endless = database_of(env, form).prepare("SELECT ?1 AS nan, ?2 AS inf, 1e999 AS read")
    row = (await endless.bind(math.nan, -math.inf).all()).results[0]
    assert row == {"nan": None, "inf": None, "read": None}


async def test_integers_that_javascript_lacks_are_stored_exactly(env: Any, form: str) -> None:
    database = database_of(env, form)
    await make_table(database)
    numbers = [2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]
    insert = database.prepare("INSERT INTO things (n) VALUES (?1)")
    await database.batch([insert.bind(number) for number in numbers])
    read = database.prepare("SELECT CAST(n AS TEXT) AS text, typeof(n) AS type FROM things ORDER BY id")
    rows = (await read.all()).results
    assert [int(row["text"]) for row in rows] == numbers
    assert {row["type"] for row in rows} == {"integer"}
    as_numbers = (await database.prepare("SELECT n FROM things ORDER BY id").all()).results
    assert [repr(row["n"]) for row in as_numbers] == [repr(as_read(number)) for number in numbers]


async def test_what_is_sent_is_never_undefined(env: Any, form: str) -> None:
    seen = run_js("[]")
    database = BindingD1Database(run_js(SPY)(seen))
    database.prepare("x").bind(None, True, 1, 2**53, 2**53 + 1, 1.5, "a", b"a", -(2**53))
    sent = ["null", "number", "number", "number", "string", "number", "string", "object", "number"]
    assert seen.to_py() == sent


async def test_results_are_plain_python(env: Any, form: str) -> None:
    result = await database_of(env, form).prepare("SELECT NULL AS missing, 1.5 AS half, x'01' AS blob").all()
    assert result.results == [{"missing": None, "half": 1.5, "blob": b"\x01"}]
    assert (type(result.results), type(result.results[0]), type(result.meta)) == (list, dict, dict)
    assert result.results[0]["missing"] is None
    assert "rows_read" in result.meta


async def test_meta_tells_what_changed(env: Any, form: str) -> None:
    database = database_of(env, form)
    await make_table(database)
    written = await database.prepare("INSERT INTO things (n) VALUES (?1), (?1)").bind(1).run()
    assert (written.results, written.meta["changes"]) == ([], 2)
    assert written.meta["rows_written"] >= 2


async def test_errors_are_told_by_their_text(env: Any, form: str) -> None:
    database = database_of(env, form)
    await make_table(database)
    insert = database.prepare("INSERT INTO things (id) VALUES (1)")
    await insert.run()
    for call in (insert.run(), insert.all(), database.batch([insert])):
        error = await refused(call)
        assert error.problem.startswith("UNIQUE constraint failed: things.id"), error.problem
        assert (error.unavailable, error.outcome_unknown) == (False, False)
    assert "no such table: missing" in (await refused(database.prepare("SELECT * FROM missing").all())).problem
    assert "Wrong number of parameter" in (await refused(database.prepare("SELECT ?1, ?2").bind(1).all())).problem


async def test_what_is_thrown_at_once_is_an_error_like_the_others(env: Any, form: str) -> None:
    """The binding throws from `prepare` and `bind`, before there is anything to wait for."""
    for text, unavailable, unknown in (
        ("D1_TYPE_ERROR: Type 'bigint' not supported for value '1'", False, False),
        ("D1_ERROR: D1 DB is overloaded. Too many requests queued.", True, False),
        ("D1_ERROR: Network connection lost.", True, True),
    ):
        database = BindingD1Database(run_js(FALSE_BINDING)(text))

        async def prepare(database: BindingD1Database = database) -> None:
            database.prepare("prepare")

        async def bind(database: BindingD1Database = database) -> None:
            database.prepare("bind").bind(1)

        statement = database.prepare("all")
        for call in (prepare(), bind(), statement.all(), database.batch([statement])):
            error = await refused(call)
            assert error.problem == text.partition(": ")[2]
            assert (error.unavailable, error.outcome_unknown) == (unavailable, unknown)


async def test_the_store_says_it_in_the_contracts_words(env: Any, form: str) -> None:
    for text, kind in (
        ("D1_ERROR: Network connection lost.", StoreUnavailableError),
        ("D1_ERROR: boom", StoreOperationError),
    ):
        store = D1WorkflowStore(run_js(FALSE_BINDING)(text), retries=Retries(attempts=1))
        assert isinstance((await ended_by(kind, store.load_run(run_id="a"))).__cause__, D1DatabaseError)


async def test_a_batch_whose_answer_was_lost_is_repeated(env: Any, form: str) -> None:
    """The first answer to every batch is lost after the commit: the store finds what it did."""
    lossy = D1WorkflowStore(run_js(LOSSY_BINDING)(env.DB), retries=Retries(first_wait=timedelta(milliseconds=1)))
    store = D1WorkflowStore(bound(env, form))
    await store.ensure_schema()
    run_id = f"lost-{form}"
    created = await lossy.create_run(
        run_id=run_id,
        workflow_id="w",
        workflow_version="1",
        input=JsonText("null"),
        operation_id="o",
        now_ms=1,
        owner="me",
        lease_ms=1_000,
    )
    assert created.kind == "created"
    for _ in range(2):
        answer = await lossy.deliver_signal(run_id=run_id, signal_id="s", name="n", payload=None, now_ms=2)
        assert answer.kind == "duplicate"
    assert [entry.inbox_seq for entry in await store.read_inbox(run_id=run_id, limit=5)] == [1]


async def test_limits_are_those_of_a_local_file(env: Any, form: str) -> None:
    database = database_of(env, form)
    statement = database.prepare("SELECT 1")
    for attempt, words in (
        (lambda: statement.bind(*range(101)), "101 values are bound"),
        (lambda: statement.bind("x" * 2_000_001), "takes 2000001 bytes"),
        (lambda: statement.bind("\ud800"), "lone surrogate"),
        (lambda: statement.bind(2**63), "64 bits"),
        (lambda: statement.bind([1]), "type that cannot be stored: list"),  # type: ignore[arg-type]  # which it refuses
        (lambda: database.prepare("SELECT " + "1" * 100_000), "too long"),
        (lambda: database.prepare("BEGIN"), "BEGIN is not allowed"),
    ):
        assert words in refused_at_once(D1DatabaseError, attempt)


async def test_batch_is_all_or_none(env: Any, form: str) -> None:
    database = database_of(env, form)
    await make_table(database)
    insert = database.prepare("INSERT INTO things (id) VALUES (?1)")
    assert "UNIQUE" in (await refused(database.batch([insert.bind(1), insert.bind(2), insert.bind(1)]))).problem
    assert (await database.prepare("SELECT count(*) AS n FROM things").all()).results == [{"n": 0}]


async def test_batch_keeps_its_order(env: Any, form: str) -> None:
    database = database_of(env, form)
    select = database.prepare("SELECT ?1 AS n")
    results = await database.batch([select.bind(number) for number in range(30)])
    assert [result.results for result in results] == [[{"n": number}] for number in range(30)]


async def test_batch_needs_statements_of_its_own_kind(env: Any, form: str) -> None:
    database = database_of(env, form)
    assert "without statements" in (await refused(database.batch([]))).problem
    await ended_by(TypeError, database.batch([object()]))  # type: ignore[list-item]  # which it refuses


async def test_calls_at_once_lose_nothing(env: Any, form: str) -> None:
    database = database_of(env, form)
    await make_table(database)
    await database.prepare("INSERT INTO things (id, n) VALUES (1, 0)").run()
    add = database.prepare("UPDATE things SET n = n + 1")
    await asyncio.gather(*(add.run() for _ in range(50)))
    assert (await database.prepare("SELECT n FROM things").all()).results == [{"n": 50}]


async def test_a_call_that_nobody_waits_for_ends_by_itself(env: Any, form: str) -> None:
    """Its promise is rejected later, which would end the program if nobody had looked after it."""
    outcomes = run_js("[]")
    database = BindingD1Database(run_js(SLOW_BINDING)(outcomes))
    await ended_by(TimeoutError, asyncio.wait_for(database.batch([database.prepare("x")]), 0.05))
    assert outcomes.length == 0
    task = asyncio.ensure_future(database.batch([database.prepare("x")]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await asyncio.sleep(0.3)
    assert outcomes.to_py() == ["over", "over"]


async def test_a_cancelled_batch_is_done_as_a_whole_or_not_at_all(env: Any, form: str) -> None:
    database = database_of(env, form)
    await make_table(database)
    insert = database.prepare("INSERT INTO things (n) VALUES (?1)")
    for number in range(20):
        task = asyncio.ensure_future(database.batch([insert.bind(number), insert.bind(number)]))
        await asyncio.sleep(number / 4000)
        task.cancel()
        await asyncio.wait([task])
    await asyncio.sleep(0.2)  # real time: what is under way comes to its end
    counts = await database.prepare("SELECT count(*) AS n FROM things GROUP BY n").all()
    assert {row["n"] for row in counts.results} <= {2}


async def test_store_takes_the_binding(env: Any, form: str) -> None:
    binding = bound(env, form)
    database = D1WorkflowStore(binding).database
    assert isinstance(database, BindingD1Database)
    assert D1WorkflowStore(database).database is database
    assert (await database.prepare("SELECT 1 AS one").all()).results == [{"one": 1}]


async def test_store_takes_a_session_of_the_binding(env: Any, form: str) -> None:
    """Only the original has sessions."""
    database = D1WorkflowStore(env.PROXY.withSession("first-primary")).database
    assert isinstance(database, BindingD1Database)
    one = database.prepare("SELECT ?1 AS one").bind(1)
    assert [result.results for result in await database.batch([one, one])] == [[{"one": 1}], [{"one": 1}]]


async def test_what_is_no_binding_is_refused(env: Any, form: str) -> None:
    for wrong in (5, "DB", object(), None):
        problem = refused_at_once(ConfigurationError, functools.partial(BindingD1Database, wrong))
        assert type(wrong).__name__ in problem


async def test_calls_leave_nothing_behind(env: Any, form: str) -> None:
    """A Worker's isolate lives for days: neither Python's memory nor the table of JavaScript's objects may grow."""
    database = database_of(env, form)
    calls = 20 if form == "proxy" else 300

    async def call() -> None:
        statement = database.prepare("SELECT ?1 AS t, ?2 AS b, NULL AS n").bind("x" * 1_000, b"y" * 100)
        await database.batch([statement, statement])
        await refused(database.prepare("SELECT * FROM missing").all())

    for _ in range(20):
        await call()
    before = await held()
    for _ in range(calls):
        await call()
    grown = [now - then for now, then in zip(await held(), before, strict=True)]
    assert max(grown) < calls / 4, grown


async def held() -> tuple[int, int]:
    """Count Python's objects, and the objects of JavaScript that it holds."""
    await asyncio.sleep(0.01)  # callbacks of what has just ended
    gc.collect()
    return len(gc.get_objects()), int(pyodide_js._module._hiwire_num_refs())
