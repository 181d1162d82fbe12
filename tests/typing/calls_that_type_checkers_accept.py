"""Read by mypy and pyright, never run: what users write, and the types that they get."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypedDict, assert_type

from workflow_runtime import (
    Approval,
    Context,
    DeliverSignal,
    Every,
    RunHandle,
    Schedule,
    StartRun,
    Workflow,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.testing import TestClock, run_to_completion
from workflow_store_d1 import D1WorkflowStore, SQLiteWorkflowStore
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_postgres import PostgresWorkflowStore


class Order(TypedDict):
    id: str


async def charge(order: str, *, amount: int) -> float:
    return float(amount)


def render(order: str) -> bytes:
    return order.encode()


async def pay(tx: Any, order: str) -> int:
    return len(order)


@workflow(id="checkout", version="2")
async def checkout(ctx: Context, order: str) -> int:
    assert_type(await ctx.step(charge, order, amount=5), float)
    assert_type(await ctx.step(render, order), bytes)
    assert_type(await ctx.step.options(id="again")(render, order), bytes)
    assert_type(await ctx.transaction("pay", pay, order), int)
    assert_type(await ctx.wait_for_event("paid", type=Order), Order)
    assert_type(await ctx.wait_for_event("paid", type=dict[str, int]), dict[str, int])
    assert_type(await ctx.wait_for_event("paid", timeout=timedelta(days=1)), Any)
    assert_type(await ctx.approve("ship"), Approval)
    return 5


@workflow()
async def nightly(ctx: Context, _: None) -> list[str]:
    return []


@workflow()
async def optional(ctx: Context, at: int | None) -> str:
    return str(at)


@workflow()
async def anything(ctx: Context, _: Any) -> None: ...


def any_store(postgres: PostgresWorkflowStore, sqlite: SQLiteWorkflowStore, d1: D1WorkflowStore) -> None:
    for store in (InMemoryWorkflowStore(), postgres, sqlite, d1):
        WorkflowRuntime(store=store, workflows=[checkout, nightly], schedules=[Schedule(id="s", workflow="x", when=at)])


at = Every(timedelta(hours=1))
schedules = [
    Schedule(id="a", workflow=checkout, when=at, input="order"),
    Schedule(id="b", workflow=nightly, when=at),
    Schedule(id="c", workflow="by its id", when=at, input={"any": "thing"}),
    Schedule(id="d", workflow=optional, when=at, input=5),
]


async def calls(runtime: WorkflowRuntime, clock: TestClock) -> None:
    assert_type(checkout, Workflow[str, int])
    run = await runtime.start_run(checkout, "order", run_id="run")
    assert_type(run, RunHandle[int])
    assert_type(await run.result(timeout=timedelta(seconds=5)), int)
    assert_type(await (await runtime.run_here(checkout, "order")).result(), int)
    assert_type(await (await runtime.start_run(nightly)).result(), list[str])
    assert_type(await (await runtime.start_run(optional)).result(), str)
    assert_type(await (await runtime.start_run(optional, 5)).result(), str)
    assert_type(await runtime.start_runs(checkout, [StartRun("order", run_id="run")]), list[RunHandle[int]])
    assert_type(await runtime.start_runs(nightly, [StartRun(None)]), list[RunHandle[list[str]]])
    assert_type(await runtime.start_runs("checkout", (StartRun(n) for n in range(3))), list[RunHandle[Any]])
    await runtime.start_runs(anything, [StartRun({"any": "thing"}), StartRun(5)])
    await runtime.deliver_signals(DeliverSignal(f"run-{n}", "go", n) for n in range(3))
    assert_type(await runtime.start_run("checkout", {"any": "thing"}), RunHandle[Any])
    await runtime.start_run(anything, {"any": "thing"})
    await runtime.start_run(anything)
    assert_type(await runtime.attach("run", checkout).result(), int)
    assert_type(await runtime.attach("run").result(), Any)
    assert_type(await run_to_completion(runtime, run, clock), int)
