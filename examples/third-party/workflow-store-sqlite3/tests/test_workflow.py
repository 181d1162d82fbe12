"""A workflow runs on the store, and what is special to a file: others that lock it, and a call that is given up."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from workflow_runtime import Context, TestClock, WorkflowRuntime, workflow
from workflow_runtime.store import (
    ConfigurationError,
    Created,
    JsonText,
    LeaseLostError,
    SchemaMissingError,
    StoreUnavailableError,
    TransactionWrite,
)
from workflow_runtime.testing import run_to_completion
from workflow_store_sqlite3 import Sqlite3WorkflowStore, Transaction, database


async def take_from_stock(tx: Transaction, item: str) -> int:
    [row] = await tx.execute("UPDATE stock SET count = count - 1 WHERE item = ? RETURNING count", [item])
    return int(row["count"])


@workflow(id="parcel")
async def parcel(ctx: Context, item: str) -> str:
    left = await ctx.transaction("take", take_from_stock, item)
    await ctx.sleep(timedelta(days=7))
    return f"sent, {left} left"


def test_workflow_goes_on_in_another_handle(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE stock (item TEXT, count INTEGER); INSERT INTO stock VALUES ('lamp', 3);")

    async def scenario() -> object:
        clock = TestClock()
        async with Sqlite3WorkflowStore(path) as store:
            await store.ensure_schema()
            runtime = WorkflowRuntime(store=store, workflows=[parcel], clock=clock)
            await runtime.start_run(parcel, "lamp", run_id="parcel-1")
            await runtime.sweep()
        async with Sqlite3WorkflowStore(path) as store:
            runtime = WorkflowRuntime(store=store, workflows=[parcel], clock=clock)
            again = await runtime.start_run(parcel, "lamp", run_id="parcel-1")  # it is there already
            return await run_to_completion(runtime, again, clock)

    assert asyncio.run(scenario()) == "sent, 2 left"


def test_file_that_others_keep_locked_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.sqlite"
    monkeypatch.setattr(database, "BUSY_S", 0.1)

    async def scenario() -> None:
        async with Sqlite3WorkflowStore(path) as store:
            await store.ensure_schema()
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(StoreUnavailableError, match="locked"):
                    await store.delete_schedule(schedule_id="nightly")
                assert (await store.list_runs(limit=1)).runs == ()  # readers do not mind
                other.execute("ROLLBACK")
            assert (await store.delete_schedule(schedule_id="nightly")).kind == "not-found"

    asyncio.run(scenario())


def test_call_that_is_given_up_leaves_the_handle_usable(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"

    async def scenario() -> None:
        async with Sqlite3WorkflowStore(path) as store:
            await store.ensure_schema()
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(store.delete_schedule(schedule_id="nightly"), 0.05)
                other.execute("ROLLBACK")
            assert (await store.delete_schedule(schedule_id="nightly")).kind == "not-found"

    asyncio.run(scenario())


def test_missing_tables_and_closed_handles_are_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Sqlite3WorkflowStore(tmp_path / "shop.sqlite")
        for call in (store.check_schema(), store.load_run(run_id="parcel-1")):
            with pytest.raises(SchemaMissingError, match="ensure_schema"):
                await call
        await store.close()
        await store.close()
        with pytest.raises(ConfigurationError, match="closed"):
            await store.load_run(run_id="parcel-1")

    asyncio.run(scenario())


def test_first_statements_of_a_transaction_may_come_together(tmp_path: Path) -> None:
    async def scenario() -> list[int]:
        async with Sqlite3WorkflowStore(tmp_path / "shop.sqlite") as store:
            await store.ensure_schema()

            async def work(tx: Transaction) -> list[int]:
                found = await asyncio.gather(*(tx.execute("SELECT ?", [number]) for number in range(3)))
                return [row[0] for [row] in found]

            @workflow(id="several")
            async def several(ctx: Context, _: None) -> list[int]:
                return await ctx.transaction("read", work)

            runtime = WorkflowRuntime(store=store, workflows=[several])
            return await (await runtime.run_here(several)).result()

    assert asyncio.run(scenario()) == [0, 1, 2]


def test_refused_transaction_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function may catch the error, and go on for as long as it likes."""
    monkeypatch.setattr(database, "BUSY_S", 0.1)

    async def scenario() -> None:
        async with Sqlite3WorkflowStore(tmp_path / "shop.sqlite") as store:
            await store.ensure_schema()

            async def work(tx: Transaction) -> TransactionWrite:
                await store.delete_run(run_id="sale", now_ms=2, force=True)
                with pytest.raises(LeaseLostError):
                    await tx.execute("SELECT 1")
                await store.delete_schedule(schedule_id="nightly")  # another writer
                raise LookupError("enough")

            created = await store.create_run(
                run_id="sale",
                workflow_id="sale",
                workflow_version="1",
                input=JsonText("null"),
                operation_id="create",
                now_ms=1,
                owner="worker",
                lease_ms=9_000,
            )
            assert isinstance(created, Created)
            assert created.claim is not None
            token = created.claim.lease.token
            with pytest.raises(LookupError, match="enough"):
                await store.append_in_transaction(run_id="sale", lease_token=token, operation_id="sell", work=work)

    asyncio.run(scenario())
