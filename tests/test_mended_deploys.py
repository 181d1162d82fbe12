"""Deploys that ended runs wrongly, and what it takes to mend them: the code, and one call.

What steps did is written to a journal, a file of its own: the store is not asked whether something was done twice.
`WORKFLOW_MENDED_RUNS` sets how many runs each deploy hits.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime import BulkReport, Context, RunStatus, TestClock, Workflow, WorkflowRuntime, workflow
from workflow_runtime.store import WorkflowExecutionStore
from workflow_store_d1 import SQLiteWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore

RUNS = int(os.environ.get("WORKFLOW_MENDED_RUNS", "60"))


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WorkflowExecutionStore]:
    if request.param == "sqlite":
        async with SQLiteWorkflowStore.open(tmp_path / "app.db", synchronous="NORMAL") as opened:
            await opened.ensure_schema()
            yield opened
        return
    async with (
        request.getfixturevalue("databases").database() as dsn,
        PostgresWorkflowStore.connect(dsn) as connected,
    ):
        yield connected


class Journal:
    """What was done outside, one line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def write(self, what: str, order: int) -> str:
        with self._path.open("a") as file:
            file.write(f"{what} {order}\n")
        return f"{what} {order}"

    def read(self) -> Counter[str]:
        return Counter(self._path.read_text().split("\n")[:-1])


class Shop:
    """The deploys of one workflow over one store."""

    def __init__(self, store: WorkflowExecutionStore, journal: Journal) -> None:
        self.store = store
        self.journal = journal
        self.clock = TestClock()

    async def deploy(self, version: Workflow[Any, Any]) -> WorkflowRuntime:
        """Let this code run everything that is due."""
        runtime = WorkflowRuntime(store=self.store, workflows=[version], clock=self.clock)
        while (await runtime.sweep(limit=10_000, concurrency=20)).handled:
            pass
        return runtime

    async def open_orders(self, version: Workflow[Any, Any]) -> None:
        runtime = WorkflowRuntime(store=self.store, workflows=[version], clock=self.clock)
        for number in range(RUNS):
            await runtime.start_run(version, number, run_id=f"order-{number:06}")

    async def counts(self) -> dict[RunStatus, int]:
        return dict(await self.store.count_runs(workflow_ids=["order"]))


@pytest.fixture
def shop(store: WorkflowExecutionStore, tmp_path: Path) -> Shop:
    return Shop(store, Journal(tmp_path / "journal"))


def _expected(*kinds: str) -> dict[str, int]:
    return {f"{kind} {number}": 1 for kind in kinds for number in range(RUNS)}


async def test_typo_after_a_recorded_payment(shop: Shop) -> None:
    journal = shop.journal

    async def pay(order: int) -> str:
        return journal.write("pay", order)

    async def ship(order: int, receipt: str) -> str:
        assert receipt == f"pay {order}"
        return journal.write("ship", order)

    @workflow(id="order")
    async def with_a_typo(ctx: Context, order: int) -> str:
        await ctx.step(pay, order)
        return await ctx.step(ship, order, reciept)  # type: ignore[name-defined]  # noqa: F821

    @workflow(id="order")
    async def mended(ctx: Context, order: int) -> str:
        receipt = await ctx.step(pay, order)
        return await ctx.step(ship, order, receipt)

    await shop.open_orders(with_a_typo)
    runtime = await shop.deploy(with_a_typo)
    assert await shop.counts() == {RunStatus.ERRORED: RUNS}
    assert journal.read() == _expected("pay")

    batches: list[int] = []

    async def progress(report: BulkReport) -> None:
        batches.append(report.total)

    report = await runtime.retry_runs(
        workflow_ids=["order"],
        statuses=[RunStatus.ERRORED],
        limit=RUNS,
        reason="the typo is mended",
        on_progress=progress,
    )
    assert (report.outcomes, report.more) == ({"retried": RUNS}, False)
    assert batches[-1] == RUNS
    await shop.deploy(mended)
    assert await shop.counts() == {RunStatus.FINISHED: RUNS}
    assert journal.read() == _expected("pay", "ship")


async def test_edit_without_a_new_version_is_rolled_back(shop: Shop) -> None:
    journal = shop.journal

    async def pay(order: int) -> str:
        return journal.write("pay", order)

    async def ship(order: int) -> str:
        return journal.write("ship", order)

    @workflow(id="order")
    async def order_v1(ctx: Context, order: int) -> str:
        await ctx.step(pay, order)
        await ctx.sleep(timedelta(hours=1))
        return await ctx.step(ship, order)

    @workflow(id="order")
    async def edited(ctx: Context, order: int) -> str:
        await ctx.sleep(timedelta(hours=1))
        await ctx.step(pay, order)
        return await ctx.step(ship, order)

    await shop.open_orders(order_v1)
    await shop.deploy(order_v1)
    assert await shop.counts() == {RunStatus.PAUSED: RUNS}
    shop.clock.advance(timedelta(hours=1))
    runtime = await shop.deploy(edited)
    assert await shop.counts() == {RunStatus.DEAD: RUNS}
    parked = await shop.store.load_run(run_id="order-000000")
    assert parked is not None
    assert "diverges from its history at 'pay'" in (parked.reason or "")

    report = await runtime.retry_runs(workflow_ids=["order"], limit=RUNS, reason="rolled back")
    assert (report.outcomes, report.more) == ({"retried": RUNS}, False)
    await shop.deploy(order_v1)
    assert await shop.counts() == {RunStatus.FINISHED: RUNS}
    assert journal.read() == _expected("pay", "ship")
