"""The store counts every statement before it goes out, and the rows that the database tells of, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pytest
from workflow_runtime import (
    Context,
    QueryLimitReachedError,
    StoreUnavailableError,
    WorkflowRuntime,
    meter_queries,
    workflow,
)
from workflow_runtime.hosting import sweep_summary
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent, TransactionWrite
from workflow_store_d1 import D1DatabaseError, D1WorkflowStore, SQLiteTransaction
from workflow_store_d1.local import LocalD1Database, LocalStatement
from workflow_store_d1.retries import Retries
from workflow_test_support.servers.d1_server import D1Server
from workflow_test_support.servers.worker_database import open_empty

ONE = JsonText("1")
NEW: dict[str, Any] = {"workflow_id": "w", "workflow_version": "1", "input": ONE, "operation_id": "create", "now_ms": 1}
HELD: dict[str, Any] = {"owner": "w", "lease_ms": 10}


@dataclass(frozen=True)
class ToldResult:
    results: Sequence[Any]
    meta: dict[str, Any]


class ToldStatement:
    def __init__(self, inner: LocalStatement, meta: dict[str, Any]) -> None:
        self.inner = inner
        self._meta = meta

    def bind(self, *values: Any) -> Self:
        return type(self)(self.inner.bind(*values), self._meta)

    async def all(self) -> ToldResult:
        return ToldResult((await self.inner.all()).results, self._meta)

    async def run(self) -> ToldResult:
        return await self.all()


class TellingDatabase:
    """Says of each statement what D1 says; counts the statements that reach it."""

    def __init__(self, inner: LocalD1Database, meta: dict[str, Any]) -> None:
        self._inner = inner
        self._meta = meta
        self.reached = 0
        self.loses_answers = False

    def prepare(self, sql: str) -> ToldStatement:
        return ToldStatement(self._inner.prepare(sql), self._meta)

    async def batch(self, statements: Sequence[Any]) -> list[ToldResult]:
        self.reached += len(statements)
        results = await self._inner.batch([statement.inner for statement in statements])
        if self.loses_answers:
            raise D1DatabaseError("Network connection lost.", unavailable=True, outcome_unknown=True)
        return [ToldResult(result.results, self._meta) for result in results]


async def no_time(seconds: float) -> None:
    """Do not wait."""


OpenDatabase = Callable[[], Awaitable[LocalD1Database]]


async def test_rows_are_summed_over_a_batch(open_database: OpenDatabase) -> None:
    store = D1WorkflowStore(TellingDatabase(await open_database(), {"rows_read": 3, "rows_written": 2, "changes": 9}))
    await store.ensure_schema()
    with meter_queries() as meter:
        await store.create_run(run_id="a", **NEW)
        await store.load_run(run_id="a")
    assert (meter.queries, meter.requests) == (5, 2)
    assert (meter.rows_read, meter.rows_written) == (15, 10)


@pytest.mark.parametrize("meta", [{}, {"rows_read": None}])
async def test_database_that_tells_of_no_rows_is_no_error(open_database: OpenDatabase, meta: dict[str, Any]) -> None:
    store = D1WorkflowStore(TellingDatabase(await open_database(), meta))
    with meter_queries() as meter:
        await store.ensure_schema()
    assert meter.queries > 10
    assert (meter.rows_read, meter.rows_written) == (0, 0)


async def test_migration_that_is_too_long_for_the_limit_is_not_sent(open_database: OpenDatabase) -> None:
    database = TellingDatabase(await open_database(), {})
    store = D1WorkflowStore(database)
    with meter_queries(10), pytest.raises(QueryLimitReachedError):
        await store.ensure_schema()
    assert database.reached == 0, "a part of the batch was sent"
    await store.ensure_schema()
    await store.check_schema()


async def test_repeat_that_may_not_be_sent_leaves_the_outcome_unknown(open_database: OpenDatabase) -> None:
    """To say that nothing was sent would be wrong: the first try was, and it was done."""
    database = TellingDatabase(await open_database(), {})
    store = D1WorkflowStore(database)
    await store.ensure_schema()
    database.loses_answers = True
    with meter_queries(7) as meter, pytest.raises(StoreUnavailableError, match="outcome is unknown"):
        await store.create_run(run_id="a", **NEW)
    assert meter.queries == 4
    database.loses_answers = False
    assert await store.load_run(run_id="a") is not None


async def test_each_try_counts(open_database: OpenDatabase) -> None:
    database = TellingDatabase(await open_database(), {"rows_read": 1})
    store = D1WorkflowStore(database, retries=Retries(attempts=3, sleep=no_time))
    await store.ensure_schema()
    database.loses_answers = True
    with meter_queries() as meter, pytest.raises(StoreUnavailableError):
        await store.create_run(run_id="a", **NEW)
    assert (meter.queries, meter.requests, meter.rows_read) == (12, 3, 0)


async def test_statements_of_an_open_transaction_count_as_they_are_sent(store: D1WorkflowStore) -> None:
    """On a local file the function may look at what it wrote; where it may not, nothing stays."""
    await store.database.prepare("CREATE TABLE business (key TEXT)").run()
    created = await store.create_run(run_id="a", **NEW, **HELD)
    assert created.kind == "created"
    assert created.claim is not None
    facts: dict[str, Any] = {"run_id": "a", "lease_token": created.claim.lease.token, "operation_id": "o"}

    async def work(tx: SQLiteTransaction) -> TransactionWrite:
        tx.add("INSERT INTO business VALUES (?1)", "added")
        assert len(await tx.fetch("SELECT key FROM business")) == 1
        await tx.execute("INSERT INTO business VALUES (?1)", "executed")
        return TransactionWrite(
            expected_next_index=0, events=(NewEvent(kind="step", payload=ONE),), now_ms=5, lease_ms=10
        )

    for allowed in range(8):
        with meter_queries(allowed), pytest.raises(QueryLimitReachedError):
            await store.append_in_transaction(**facts, work=work)
        assert (await store.database.prepare("SELECT key FROM business").all()).results == []
    with meter_queries(8) as meter:
        await store.append_in_transaction(**facts, work=work)
    # A look at the head, three of the function, and the head, the guard, the event and the head again.
    assert (meter.queries, meter.requests) == (8, 4)


async def test_sweep_on_real_d1_tells_the_rows_that_are_billed(d1: D1Server) -> None:
    """They come out of the meta of each statement; a sweep that finds nothing writes nothing."""

    async def shout(text: str) -> str:
        return text.upper()

    @workflow(id="shouts")
    async def shouts(ctx: Context, text: str) -> str:
        return str(await ctx.step(shout, text))

    async with open_empty(d1.url) as database:
        store = D1WorkflowStore(database)
        await store.ensure_schema()
        runtime = WorkflowRuntime(store=store, workflows=[shouts])
        await runtime.start_run(shouts, "hello")
        report = await runtime.sweep(max_queries=50)
        assert report.outcomes == {"finished": 1}
        assert report.queries is not None
        assert report.queries <= 50
        assert report.rows_read
        assert report.rows_written
        told = sweep_summary(report)
        assert (told["rows_read"], told["rows_written"]) == (report.rows_read, report.rows_written)
        with meter_queries() as idle:
            assert (await runtime.sweep(max_queries=50)).rows_written == 0
        assert idle.rows_written == 0
