"""The local file and real D1, asked the same things, answer the same."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from workflow_store_d1 import D1Database, D1DatabaseError
from workflow_store_d1.database import D1Value
from workflow_store_d1.local import LocalD1Database
from workflow_test_support.servers.worker_database import open_empty

VALUE_BYTES = 2_000_000
NAMES = ", ".join(f"c{number}" for number in range(100))


@pytest.fixture(params=["local", "workerd"])
async def database(request: pytest.FixtureRequest) -> AsyncIterator[D1Database]:
    if request.param == "workerd":
        async with open_empty(request.getfixturevalue("d1").url) as worker_database:
            yield worker_database
        return
    local = await LocalD1Database.open(":memory:")
    yield local
    await local.close()


@pytest.fixture
async def local() -> AsyncIterator[LocalD1Database]:
    local = await LocalD1Database.open(":memory:")
    yield local
    await local.close()


@pytest.fixture
async def both(local: LocalD1Database, worker_database: D1Database) -> list[D1Database]:
    return [local, worker_database]


async def ask(database: D1Database, sql: str, *values: D1Value) -> list[dict[str, Any]]:
    return [dict(row) for row in (await database.prepare(sql).bind(*values).all()).results]


ANSWERS: dict[str, tuple[str, tuple[D1Value, ...], dict[str, Any]]] = {
    "a bound integer is REAL": ("SELECT typeof(?1) AS t, ?1 || '' AS x", (3,), {"t": "real", "x": "3.0"}),
    "so is a bound truth value": ("SELECT typeof(?1) AS t, ?1 AS v", (True,), {"t": "real", "v": 1}),
    "a cast makes it an integer": ("SELECT typeof(CAST(?1 AS INTEGER)) AS t", (3,), {"t": "integer"}),
    "JSON is made of REAL too": ("SELECT json_object('n', ?1 + 1) AS x", (3,), {"x": '{"n":4.0}'}),
    "a limit may be bound": ("SELECT v FROM (SELECT 1 AS v UNION ALL SELECT 2) LIMIT ?1", (1,), {"v": 1}),
    "infinity is NULL": ("SELECT typeof(?1) AS t, ?2 AS v", (float("inf"), float("-inf")), {"t": "null", "v": None}),
    "what is no number is NULL": ("SELECT typeof(?1) AS t", (float("nan"),), {"t": "null"}),
    "infinity cannot be read": ("SELECT 1e999 AS v, -1e999 AS w", (), {"v": None, "w": None}),
    "an integral REAL is read as an integer": ("SELECT 3.0 AS v, -0.0 AS w, 0.5 AS x", (), {"v": 3, "w": 0, "x": 0.5}),
    "2^53 is exact": ("SELECT typeof(?1) AS t, ?1 AS v", (2**53,), {"t": "real", "v": 2**53}),
    "beyond, an integer is bound as text": ("SELECT ?1 AS v", (2**53 + 1,), {"v": "9007199254740993"}),
    "and exact by a cast": ("SELECT CAST(?1 AS INTEGER) = -9007199254740993 AS v", (-(2**53) - 1,), {"v": 1}),
    "read, it is rounded": ("SELECT 9007199254740993 AS v", (), {"v": 2**53}),
    "the largest one too": ("SELECT 9223372036854775807 AS v", (), {"v": float(2**63)}),
    "as text it is exact": ("SELECT CAST(9223372036854775807 AS TEXT) AS v", (), {"v": "9223372036854775807"}),
    "bytes": ("SELECT typeof(?1) AS t, ?1 AS v", (b"\x00\xff",), {"t": "blob", "v": b"\x00\xff"}),
    "text with NUL": ("SELECT ?1 AS v, hex(?1) AS x", ("a\0b",), {"v": "a\0b", "x": "610062"}),
    "text beyond the basic plane": ("SELECT ?1 AS v, length(?1) AS n", ("\U0001f600é",), {"v": "\U0001f600é", "n": 2}),
    "empty text and nothing": ("SELECT ?1 AS v, ?2 AS w", ("", None), {"v": "", "w": None}),
    "a value used twice": ("SELECT ?1 AS v, ?1 AS w", (1,), {"v": 1, "w": 1}),
    "of two columns of one name the last": ("SELECT 1 AS v, 2 AS v", (), {"v": 2}),
    "a comment before": ("-- BEGIN\n/* and */ SELECT 1 AS v;", (), {"v": 1}),
    "columns of a table": ("SELECT count(*) AS n FROM pragma_table_info(?1)", ("t",), {"n": 0}),
    "JSON functions": ("SELECT json_extract('[1,\"x\"]', '$[1]') AS v", (), {"v": "x"}),
    "100 values": (
        f"SELECT sum(column1) AS v FROM (VALUES {', '.join(f'(?{n})' for n in range(1, 101))})",
        tuple(range(100)),
        {"v": 4_950},
    ),
    "a value that is not used": ("SELECT ?1 + ?3 AS v", (1, 2, 3), {"v": 4}),
    "a value of 2,000,000 bytes": ("SELECT length(?1) AS n", ("x" * VALUE_BYTES,), {"n": VALUE_BYTES}),
    "a statement of 100,000 bytes": ("SELECT 1 AS v -- ".ljust(100_000, "x"), (), {"v": 1}),
    "a LIKE pattern of 50 bytes": ("SELECT 'x' LIKE ?1 AS v", ("é" * 25,), {"v": 0}),
    "a compound of 5": (" UNION ALL ".join(["SELECT 1 AS v WHERE 0"] * 4 + ["SELECT 2"]), (), {"v": 2}),
    "many rows of values": (
        f"SELECT count(*) AS n FROM (VALUES {', '.join(['(1)'] * 2_000)})", (), {"n": 2_000},
    ),
    "a function of 32": (f"SELECT max({', '.join(map(str, range(32)))}) AS v", (), {"v": 31}),
    "an expression 100 deep": (f"SELECT {'+'.join(['1'] * 100)} AS v", (), {"v": 100}),
}  # fmt: skip


# Python 3.12.0 and 3.12.1 warn of this one.
UNUSED = pytest.mark.filterwarnings(r"ignore:Binding \d:DeprecationWarning")


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=UNUSED if what == "a value that is not used" else ()) for what in ANSWERS]
)
async def test_answer_is_the_same(database: D1Database, what: str) -> None:
    sql, values, expected = ANSWERS[what]
    [row] = await ask(database, sql, *values)
    assert row == expected
    assert [type(value) for value in row.values()] == [type(value) for value in expected.values()]


REFUSALS: dict[str, tuple[str, tuple[D1Value, ...], str]] = {
    "101 values": ("SELECT ?1 + ?101", (0,) * 101, "101 values are bound|variable number must be"),
    "a statement of 100,001 bytes": ("SELECT 1 -- ".ljust(100_001, "x"), (), "statement (is )?too long|is too long"),
    "a LIKE pattern of 51 bytes": ("SELECT 'x' LIKE ?1", ("é" * 25 + "x",), "pattern too complex"),
    "a GLOB pattern of 51 bytes": ("SELECT 'x' GLOB ?1", ("x" * 51,), "pattern too complex"),
    "a table of 101 columns": (f"CREATE TABLE t ({NAMES}, one_more)", (), "too many columns"),
    "a result of 101 columns": (f"SELECT {', '.join(['1'] * 101)}", (), "too many columns"),
    "a compound of 6": (" UNION ALL ".join(["SELECT 1"] * 6), (), "too many terms in compound SELECT"),
    "a function of 128": (f"SELECT max({', '.join(['1'] * 128)})", (), "too many arguments on function max"),
    "an expression 101 deep": (f"SELECT {'+'.join(['1'] * 101)}", (), "maximum depth 100"),
    "a chain of 101": (f"SELECT 1 WHERE {' OR '.join(['1 = 1'] * 101)}", (), "maximum depth 100"),
    "a value of 2,200,001 bytes": ("SELECT ?1", ("x" * 2_200_001,), "too big|at most"),
    "too few values": ("SELECT ?1, ?2", (1,), "(?i)number of (parameter )?bindings"),
    "too many values": ("SELECT ?1", (1, 2), "(?i)number of (parameter )?bindings"),
    "a fraction as a limit": ("SELECT 1 LIMIT ?1", (2.5,), "datatype mismatch"),
    "BEGIN": ("BEGIN IMMEDIATE", (), "transaction"),
    "COMMIT": ("COMMIT", (), "transaction"),
    "ROLLBACK": ("/* x */ ROLLBACK", (), "transaction"),
    "SAVEPOINT": ("SAVEPOINT a", (), "transaction"),
    "RELEASE": ("RELEASE a", (), "transaction"),
    "VACUUM": ("VACUUM", (), "VACUUM"),
    "ATTACH": ("ATTACH 'x' AS x", (), "not a(uthoriz|llow)ed"),
    "DETACH": ("DETACH x", (), "not a(uthoriz|llow)ed"),
    "a table of the connection": ("CREATE TEMP TABLE t (n)", (), "not authorized"),
    "a view of the connection": ("CREATE TEMP VIEW v AS SELECT 1", (), "not authorized"),
    "the mode of the file": ("PRAGMA journal_mode = DELETE", (), "not authorized"),
    "the durability": ("PRAGMA synchronous = OFF", (), "not authorized"),
    "the version of the user": ("PRAGMA user_version", (), "not authorized"),
    "a pragma as a table": ("SELECT * FROM pragma_user_version", (), "not authorized|no such table"),
    "the version of SQLite": ("SELECT sqlite_version()", (), "not authorized to use function: sqlite_version"),
    "a function that D1 lacks": ("SELECT power(2, 3)", (), "not authorized to use function: power|no such function"),
    "REGEXP": ("SELECT 'a' REGEXP 'a'", (), "no such function"),
    "a series": ("SELECT * FROM generate_series(1, 2)", (), "no such table"),
    "nothing": ("", (), "(?i)no .*statement"),
    "a comment alone": ("-- nothing\n/* at all */", (), "(?i)no.* statement"),
    "two statements with a value": ("SELECT ?1; SELECT 2", (1,), "one statement|multiple SQL statements"),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_refusal_is_the_same(database: D1Database, what: str) -> None:
    sql, values, problem = REFUSALS[what]
    with pytest.raises(D1DatabaseError, match=problem) as refused:
        await ask(database, sql, *values)
    assert not refused.value.unavailable


STRICTER: dict[str, tuple[str, tuple[D1Value, ...], str]] = {
    "a value beyond the documented limit": ("SELECT typeof(?1)", ("x" * (VALUE_BYTES + 1),), "at most 2000000"),
    "a function beyond the documented limit": (f"SELECT max({', '.join(['1'] * 33)})", (), "too many arguments"),
    "text that is no Unicode, which D1 damages": ("SELECT ?1", ("\ud800",), "lone surrogate"),
    "an integer beyond 64 bits, which D1 leaves text": ("SELECT ?1", (2**63,), "does not fit into 64 bits"),
    "two statements at once": ("SELECT 1; SELECT 2", (), "one statement"),
}


@pytest.mark.parametrize("what", STRICTER)
async def test_local_file_refuses_what_nobody_should_rely_on(both: list[D1Database], what: str) -> None:
    """D1, as workerd has it, goes beyond what it documents; the local file keeps to what is promised."""
    local, worker = both
    sql, values, problem = STRICTER[what]
    assert len(await ask(worker, sql, *values)) == 1
    with pytest.raises(D1DatabaseError, match=problem):
        await ask(local, sql, *values)


async def test_columns_of_integers_keep_integers(database: D1Database) -> None:
    await ask(database, "CREATE TABLE t (n INTEGER, x TEXT, v ANY) STRICT")
    insert = "INSERT INTO t VALUES (?1, ?2, ?3) RETURNING typeof(n) AS n, x, typeof(v) AS v, CAST(n AS TEXT) AS exact"
    assert await ask(database, insert, 7, 7, 7) == [{"n": "integer", "x": "7.0", "v": "real", "exact": "7"}]
    large = 2**63 - 1
    expected = {"n": "integer", "x": str(large), "v": "text", "exact": str(large)}
    assert await ask(database, insert, large, large, large) == [expected]
    with pytest.raises(D1DatabaseError, match="cannot store REAL value in INTEGER column"):
        await ask(database, insert, 7.5, "", None)


async def test_row_has_a_size_too(database: D1Database) -> None:
    await ask(database, "CREATE TABLE t (a TEXT, b TEXT)")
    insert = "INSERT INTO t VALUES (?1, ?2) RETURNING length(a) + length(b) AS n"
    half = "x" * 999_990
    assert await ask(database, insert, half, half) == [{"n": 1_999_980}]
    with pytest.raises(D1DatabaseError, match="too big"):
        await ask(database, insert, half, half + "x" * 200_100)
    assert await ask(database, "SELECT count(*) AS n FROM t") == [{"n": 1}]


async def test_batch_is_the_only_transaction(database: D1Database) -> None:
    create = database.prepare("CREATE TABLE t (n INTEGER UNIQUE)")
    insert = database.prepare("INSERT INTO t VALUES (?1)")
    with pytest.raises(D1DatabaseError, match=r"UNIQUE constraint failed: t\.n"):
        await database.batch([create, insert.bind(1), insert.bind(1)])
    with pytest.raises(D1DatabaseError, match="no such table: t"):
        await ask(database, "SELECT n FROM t")
    created, once, changed, read = await database.batch(
        [create, insert.bind(1), database.prepare("UPDATE t SET n = n + 1 RETURNING n"), database.prepare("SELECT 5")]
    )
    assert [list(one.results) for one in (created, once, changed, read)] == [[], [], [{"n": 2}], [{"5": 5}]]
    assert [one.meta["changes"] for one in (once, changed)] == [1, 1]
    with pytest.raises(D1DatabaseError, match=r"(?i)without statements|no SQL statements"):
        await database.batch([])
