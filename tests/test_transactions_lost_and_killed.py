"""`ctx.transaction` when the answer is lost, the server asks for a repeat, or the process dies: exactly once."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from workflow_runtime import (
    NO_RETRY,
    Context,
    InvalidArgumentError,
    RunFailedError,
    Workflow,
    WorkflowRuntime,
    workflow,
)
from workflow_store_d1 import D1DatabaseError, D1Transaction, D1WorkflowStore
from workflow_store_d1.local import LocalD1Database
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_postgres import transactions
from workflow_test_support.relays.postgres_wire import wire_to
from workflow_test_support.servers.database_pool import DatabasePool
from workflow_test_support.servers.postgres_databases import server_version
from workflow_test_support.workloads.shop import Shop, kinds, postgres_shop, read_log, sell, sqlite_shop

PATIENCE_S = 60


@pytest.fixture
async def shop(databases: DatabasePool) -> AsyncIterator[Shop]:
    async with postgres_shop(databases) as opened, asyncio.timeout(PATIENCE_S):
        yield opened


def selling(function: Any, **options: Any) -> Workflow[Any, Any]:
    @workflow(id="sale", retry=NO_RETRY)
    async def sale(ctx: Context, key: str) -> Any:
        return await ctx.transaction.options(**options)("pay", function, key)

    return sale


async def run(store: Any, sale: Workflow[Any, Any]) -> Any:
    runtime = WorkflowRuntime(store=store, workflows=[sale])
    return await (await runtime.run_here(sale, "a", run_id="a")).result()


async def failure(store: Any, sale: Workflow[Any, Any]) -> str:
    with pytest.raises(RunFailedError) as failed:
        await run(store, sale)
    return str(failed.value)


async def test_lost_answer_to_the_commit(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has committed; the function is not called again, and the run goes on with the record."""
    calls = 0
    commit = transactions._commit

    async def count(tx: Any, key: str) -> str:
        nonlocal calls
        calls += 1
        return await sell(tx, key)

    async with wire_to(shop.location) as wire, shop.open(dsn=wire.dsn) as store:

        async def commit_and_lose(transaction: Any) -> None:
            if calls == 1:
                wire.swallow_answers = 1
            await commit(transaction)

        monkeypatch.setattr(transactions, "_commit", commit_and_lose)
        assert await run(store, selling(count)) == "sold a"
        assert wire.swallow_answers == 0
        assert (calls, await shop.sales()) == (1, ["a"])
        assert await kinds(store, "a") == ["step-completed pay", "run-finished"]


async def test_connection_lost_before_the_commit(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was committed: the whole unit is repeated, as the same attempt, although there is no retry."""
    calls = 0
    commit = transactions._commit

    async def count(tx: Any, key: str) -> str:
        nonlocal calls
        calls += 1
        return f"{await sell(tx, key)} at {calls}"

    async with wire_to(shop.location) as wire, shop.open(dsn=wire.dsn) as store:

        async def lose(transaction: Any) -> None:
            if calls == 1:
                wire.cut()
            await commit(transaction)

        monkeypatch.setattr(transactions, "_commit", lose)
        assert await run(store, selling(count)) == "sold a at 2"
        assert (calls, await shop.sales()) == (2, ["a"])
        assert await kinds(store, "a") == ["step-completed pay", "run-finished"]


async def test_connection_lost_inside_the_function(shop: Shop) -> None:
    calls = 0
    async with wire_to(shop.location) as wire, shop.open(dsn=wire.dsn) as store:

        async def lose(tx: Any, key: str) -> str:
            nonlocal calls
            calls += 1
            sold = await sell(tx, key)
            if calls == 1:
                wire.cut()
                await tx.execute("SELECT 1")
            return sold

        assert await run(store, selling(lose)) == "sold a"
        assert (calls, await shop.sales()) == (2, ["a"])


async def test_terminated_backend_inside_the_function(shop: Shop) -> None:
    calls = 0

    async def die(tx: Any, key: str) -> str:
        nonlocal calls
        calls += 1
        sold = await sell(tx, key)
        if calls == 1:
            await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return sold

    async with shop.open() as store:
        assert await run(store, selling(die)) == "sold a"
        assert (calls, await shop.sales()) == (2, ["a"])


@pytest.mark.parametrize("goes_on", [True, False])
async def test_connection_that_breaks_while_the_function_does_something_else(shop: Shop, goes_on: bool) -> None:
    """No statement of the function met it, and the pool has taken the connection back by then."""
    calls = 0

    async def think(tx: Any, key: str) -> str:
        nonlocal calls
        calls += 1
        sold = await sell(tx, key)
        if calls == 1:
            other = await asyncpg.connect(shop.location)
            await other.execute("SELECT pg_terminate_backend($1)", tx.get_server_pid())
            await other.close()
            await asyncio.sleep(0.1)
            if goes_on:
                await tx.execute("SELECT 1")
        return sold

    async with shop.open() as store:
        assert await run(store, selling(think)) == "sold a"
        assert (calls, await shop.sales()) == (2, ["a"])


async def test_statement_that_outlasts_the_server_s_patience_fails_the_attempt(shop: Shop) -> None:
    if await server_version(shop.location) < 17:
        pytest.skip("the setting transaction_timeout came with PostgreSQL 17")

    async def dawdle(tx: Any, key: str) -> None:
        await sell(tx, key)
        await tx.execute("SELECT pg_sleep(5)")

    async with shop.open(server_settings={"transaction_timeout": "100"}) as store:
        assert "transaction timeout" in await failure(store, selling(dawdle))
        assert await shop.sales() == []


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_serialization_failure_repeats_the_whole_function(shop: Shop, level: str) -> None:
    """Also a mere heartbeat or a delivery while the function runs is a conflict there, and it ends all the same."""
    calls = 0
    settings = {"default_transaction_isolation": level}
    async with shop.open(server_settings=settings, max_size=3) as store:
        runtime: WorkflowRuntime

        async def meet(tx: Any, key: str) -> str:
            nonlocal calls
            calls += 1
            sold = await sell(tx, key)
            if calls < 4:
                await runtime.deliver_signal("a", "go", calls)
            return sold

        @workflow(id="sale", retry=NO_RETRY)
        async def sale(ctx: Context, key: str) -> Any:
            paid = await ctx.transaction("pay", meet, key)
            return [paid, *[await ctx.wait_for_event("go") for _ in range(3)]]

        runtime = WorkflowRuntime(store=store, workflows=[sale])
        assert await (await runtime.run_here(sale, "a", run_id="a")).result() == ["sold a", 1, 2, 3]
        assert calls == 4
        assert await shop.sales() == ["a"]


async def test_conflict_of_two_functions_repeats_one_of_them(shop: Shop) -> None:
    """Both read a count and write it down: under `serializable` one of them has to begin again."""
    calls = 0
    both = asyncio.Barrier(2)

    async def count(tx: Any, key: str) -> int:
        nonlocal calls
        calls += 1
        number: int = await tx.fetchval("SELECT count(*) FROM sales")
        if calls <= 2:
            await both.wait()
        await sell(tx, f"{number}")
        return number

    settings = {"default_transaction_isolation": "serializable"}
    async with shop.open(server_settings=settings) as store:
        sale = selling(count)
        runtime = WorkflowRuntime(store=store, workflows=[sale])
        handles = await asyncio.gather(*(runtime.run_here(sale, "", run_id=key) for key in "ab"))
        assert sorted([await handle.result() for handle in handles]) == [0, 1]
        assert calls == 3
        assert await shop.sales() == ["0", "1"]


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
async def test_function_must_not_end_the_transaction(shop: Shop, ending: str) -> None:
    """It is not tried again: what it committed would be committed twice."""
    calls = 0

    async def end(tx: Any, key: str) -> str:
        nonlocal calls
        calls += 1
        sold = await sell(tx, key)
        await tx.execute(ending)
        return sold

    async with shop.open() as store:
        failed = await failure(store, selling(end))
        assert "TransactionEndedError" in failed
        assert "leave BEGIN, COMMIT and ROLLBACK to the store" in failed
        assert calls == 1
        assert (await kinds(store, "a"))[0] == "step-failed pay"


async def test_function_must_not_go_on_after_a_failed_statement(shop: Shop) -> None:
    async def go_on(tx: Any, key: str) -> str:
        await sell(tx, key)
        try:
            await tx.execute("SELECT 1 / 0")
        except Exception:  # noqa: BLE001  # what users do
            return "never mind"
        return "fine"

    async def use_a_savepoint(tx: Any, key: str) -> str:
        sold = await sell(tx, key)
        try:
            async with tx.transaction():
                await sell(tx, "undone")
                await tx.execute("SELECT 1 / 0")
        except Exception:  # noqa: BLE001
            return sold
        return "fine"

    async with shop.open() as store:
        assert "went on after a statement had failed" in await failure(store, selling(go_on))
        sale = selling(use_a_savepoint)
        handle = await WorkflowRuntime(store=store, workflows=[sale]).run_here(sale, "b")
        assert await handle.result() == "sold b"
        assert await shop.sales() == ["b"]


@pytest.mark.parametrize(
    "setting",
    ["SET LOCAL search_path = pg_catalog", "SET LOCAL ROLE pg_monitor", "SET LOCAL transaction_read_only = on"],
)
async def test_function_must_not_take_the_tables_away(shop: Shop, setting: str) -> None:
    """It is the function that cannot go on, not the store: no other worker would fare better."""

    async def take_away(tx: Any, key: str) -> str:
        sold = await sell(tx, key)
        await tx.execute(setting)
        return sold

    async with shop.open() as store:
        assert "changed its search_path, its role or transaction_read_only" in await failure(store, selling(take_away))
        assert await shop.sales() == []
        assert (await kinds(store, "a"))[-1] == "run-errored"


async def test_function_must_not_leave_a_statement_running(shop: Shop) -> None:
    left: list[asyncio.Task[Any]] = []

    async def leave(tx: Any, key: str) -> str:
        left.append(asyncio.ensure_future(tx.execute("SELECT pg_sleep(1)")))
        await asyncio.sleep(0.05)
        return "done"

    async with shop.open() as store:
        assert "left a statement running" in await failure(store, selling(leave))
        await asyncio.gather(*left, return_exceptions=True)


async def test_rule_that_is_checked_at_the_commit_is_the_function_s_business(shop: Shop) -> None:
    """A deferred constraint fails the attempt, not the run's driver."""
    async with shop.open() as store:
        async with store._sender.transaction() as connection:
            await connection.execute("ALTER TABLE sales ADD UNIQUE (key) DEFERRABLE INITIALLY DEFERRED")

        async def sell_twice(tx: Any, key: str) -> str:
            await sell(tx, key)
            return await sell(tx, key)

        assert "UniqueViolationError" in await failure(store, selling(sell_twice))
        assert await shop.sales() == []


async def test_what_the_function_sets_does_not_stay_on_the_store_s_connections(shop: Shop) -> None:
    async def set_something(tx: Any, key: str) -> str:
        await tx.execute("SET default_transaction_read_only TO on")
        return key

    async with shop.open(max_size=1) as store:
        assert await run(store, selling(set_something)) == "a"


async def test_store_without_transactions_says_so_before_anything_runs() -> None:
    async def never(tx: Any, key: str) -> None:
        raise AssertionError

    store = InMemoryWorkflowStore()
    assert "ConfigurationError: InMemoryWorkflowStore has no transactions" in await failure(store, selling(never))
    assert await kinds(store, "a") == ["run-errored"]


@pytest.mark.parametrize("function", [lambda tx, key: None, "pay", None])
async def test_function_must_be_async(shop: Shop, function: Any) -> None:
    async with shop.open() as store:
        wanted = "an `async def`" if callable(function) else "a function"
        assert f"{InvalidArgumentError.__name__}: fn: must be {wanted}" in await failure(store, selling(function))


class OnlyBatches:
    """D1 as Cloudflare has it: no transactions but batches. One batch may arrive late, after its answer was lost."""

    def __init__(self, inner: LocalD1Database) -> None:
        self.prepare = inner.prepare
        self.late: list[Any] = []
        self.lose_next_transaction = False
        self._inner = inner

    async def batch(self, statements: Any) -> Any:
        if self.lose_next_transaction and any("sales" in statement.sql for statement in statements):
            self.lose_next_transaction = False
            self.late.append(statements)
            raise D1DatabaseError("no answer", unavailable=True)
        return await self._inner.batch(statements)

    async def deliver_late(self) -> None:
        while self.late:
            await self._inner.batch(self.late.pop())


async def test_batch_that_arrives_late_is_not_done_twice(tmp_path: Path) -> None:
    """The function had to run again, with another result, when the first batch came through after all."""
    calls = 0
    async with sqlite_shop(str(tmp_path / "shop.db")) as shop:
        inner = await LocalD1Database.open(tmp_path / "shop.db")
        database = OnlyBatches(inner)
        database.lose_next_transaction = True
        store = D1WorkflowStore(database)

        async def count(tx: D1Transaction, key: str) -> int:
            nonlocal calls
            calls += 1
            tx.add("INSERT INTO sales VALUES (?1)", f"{key}{calls}")
            if calls == 2:
                await database.deliver_late()
            return calls

        sale = selling(count)
        runtime = WorkflowRuntime(store=store, workflows=[sale], lease=timedelta(milliseconds=200))
        handle = await runtime.start_run(sale, "a", run_id="a")
        report = await runtime.sweep(limit=1)
        assert len(report.failures) == 1, "the driver went on with a result that is not the recorded one"
        async with asyncio.timeout(PATIENCE_S):
            while not (await handle.load()).status.is_terminal:
                await runtime.sweep()
                await asyncio.sleep(0.05)
        assert await handle.result() == 1
        assert (calls, await shop.sales()) == (2, ["a1"])
        await store.close()
        await inner.close()


async def test_batch_whose_answer_was_lost_is_not_done_twice(tmp_path: Path) -> None:
    calls = 0
    async with sqlite_shop(str(tmp_path / "shop.db")) as shop:
        inner = await LocalD1Database.open(tmp_path / "shop.db")
        database = OnlyBatches(inner)
        database.lose_next_transaction = True
        store = D1WorkflowStore(database)

        async def count(tx: D1Transaction, key: str) -> int:
            nonlocal calls
            calls += 1
            tx.add("INSERT INTO sales VALUES (?1)", key)
            return calls

        running = asyncio.create_task(run(store, selling(count)))
        async with asyncio.timeout(PATIENCE_S):
            while not database.late:
                await asyncio.sleep(0)
            await database.deliver_late()
        assert await running == 1
        assert (calls, await shop.sales()) == (1, ["a"])
        await inner.close()


_CHILD = """
import asyncio, os, signal, sys
from datetime import timedelta
from workflow_test_support.workloads.shop import sell
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore
kind, where, moment = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def pay(tx, key):
    sold = await sell(tx, key)
    if moment == "in-the-function":
        die()
    return f"{sold} by {os.getpid()}"

@workflow(id="sale")
async def sale(ctx: Context, key: str) -> str:
    return await ctx.transaction("pay", pay, key)

async def main():
    opening = SQLiteWorkflowStore.open(where) if kind == "sqlite" else PostgresWorkflowStore.connect(where)
    async with opening as store:
        commit = store.append_in_transaction
        async def append(**arguments):
            answer = await commit(**arguments)
            if moment == "after-the-commit":
                die()
            return answer
        store.append_in_transaction = append
        runtime = WorkflowRuntime(store=store, workflows=[sale], lease=timedelta(milliseconds=500))
        handle = runtime.attach("a")
        while not (await handle.load()).status.is_terminal:
            await runtime.sweep()
            await asyncio.sleep(0.05)
        print(await handle.result())

asyncio.run(main())
"""


@dataclass
class Child:
    pid: int
    returncode: int
    stdout: str
    stderr: str


def _child(kind: str, where: str, moment: str) -> Child:
    command = [sys.executable, "-c", _CHILD, kind, where, moment]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    return Child(process.pid, process.returncode, stdout, stderr)


@pytest.mark.real_time
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize("moment", ["in-the-function", "after-the-commit"])
async def test_killed_process(databases: DatabasePool, tmp_path: Path, kind: str, moment: str) -> None:
    """Whenever it dies, the row is there once, and the record is that of the process that wrote it."""
    opening = sqlite_shop(str(tmp_path / "shop.db")) if kind == "sqlite" else postgres_shop(databases)
    async with opening as shop:
        async with shop.open() as store:
            sale = selling(sell)
            await WorkflowRuntime(store=store, workflows=[sale]).start_run(sale, "a", run_id="a")
        killed = await asyncio.to_thread(_child, kind, shop.location, moment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        async with shop.open() as store:
            done = moment == "after-the-commit"
            assert await shop.sales() == (["a"] if done else [])
            assert [event.payload for event in await read_log(store, "a")] == (
                [f'"sold a by {killed.pid}"'] if done else []
            )
            recovered = await asyncio.to_thread(_child, kind, shop.location, "never")
            assert recovered.returncode == 0, recovered.stderr
            assert recovered.stdout == f"sold a by {killed.pid if done else recovered.pid}\n"
            assert await shop.sales() == ["a"]
