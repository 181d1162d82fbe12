"""Read by mypy and pyright, never run: each mistake is found.

A marker that suppresses nothing is an error itself.
"""

from __future__ import annotations

from datetime import timedelta

from workflow_runtime import Context, Every, RunHandle, Schedule, StartRun, WorkflowRuntime, workflow


async def charge(order: str, *, amount: int) -> float:
    return float(amount)


@workflow(id="checkout")
async def checkout(ctx: Context, order: str) -> int:
    await ctx.step(charge, 5, amount=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await ctx.step(charge, order)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await ctx.sleep(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    text: str = await ctx.wait_for_event("paid", type=int)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    return text  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


@workflow  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def without_parentheses(ctx: Context, order: str) -> int:
    return 5


async def undecorated(ctx: Context, order: str) -> int:
    return 5


async def calls(runtime: WorkflowRuntime) -> None:
    await runtime.start_run(checkout, 5)  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await runtime.start_run(checkout)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await runtime.start_runs(checkout, [StartRun(5)])  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await runtime.start_runs(checkout, ["order"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await runtime.run_here(checkout, {"id": "x"})  # type: ignore[misc]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await runtime.start_run(undecorated, "order")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await runtime.start_run(None)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    text: str = await (await runtime.start_run(checkout, "order")).result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    handle: RunHandle[str] = runtime.attach("run", checkout)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    Schedule(id="s", workflow=checkout, when=Every(timedelta(hours=1)), input=5)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    await handle.result(timeout=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print(text)
