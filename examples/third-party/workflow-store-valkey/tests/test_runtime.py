"""A runtime drives workflows on this store."""

import asyncio
from datetime import timedelta

from valkey_harness import new_prefix, shared_url
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_runtime.store import SupportsHeartbeats, SupportsNotify, SupportsSubscribe
from workflow_store_valkey import ValkeyWorkflowStore


async def charge(order: str) -> str:
    return f"receipt for {order}"


@workflow(id="checkout")
async def checkout(ctx: Context, order: str) -> str:
    receipt = await ctx.step(charge, order)
    await ctx.sleep(timedelta(milliseconds=50))
    decision = await ctx.approve("ship", timeout=timedelta(days=3))
    return f"{receipt}, shipped: {decision.approved}"


def test_worker_drives_a_run_to_its_end() -> None:
    async def scenario(url: str) -> str:
        async with ValkeyWorkflowStore(url, prefix=new_prefix()) as store:
            await store.ensure_schema()
            runtime = WorkflowRuntime(store=store, workflows=[checkout])
            run = await runtime.start_run(checkout, "A-7", run_id="checkout-A-7")
            await runtime.deliver_approval(run.run_id, "ship", approved=True, decided_by="ann")
            worker = asyncio.create_task(runtime.work())
            result = await run.result(timeout=timedelta(seconds=60))
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
            return result

    assert asyncio.run(scenario(shared_url())) == "receipt for A-7, shipped: True"


def abilities_of(store: ValkeyWorkflowStore) -> tuple[SupportsSubscribe, SupportsNotify, SupportsHeartbeats]:
    """Return the store by what it declares: a check for the reader of types."""
    return store, store, store
