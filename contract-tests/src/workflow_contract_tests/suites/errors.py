"""ERROR: the callers of a store see errors of the contract only, also when its database fails."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from workflow_runtime.errors import CorruptRecordError, StoreError, WorkflowError
from workflow_runtime.store import NotClaimable

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..samples import LEASE_MS, MANY
from ..scenarios import claim_stale, create, create_arguments, start
from ..verbs import StoreMethod

_READS: dict[str, StoreMethod] = {
    "load_run": lambda store: store.load_run,
    "load_execution": lambda store: store.load_execution,
    "get_run_timeline": lambda store: store.get_run_timeline,
}


@clause("ERROR-1", "CLAIM-8", needs=("corrupt",), each=_READS)
async def corrupt_row_is_named(h: StoreHarness, verb: str) -> None:
    """Reading a damaged run raises the error that names table and key, and spares the others."""
    await create(h, "bad")
    await create(h, "good")
    await h.corrupt("bad")
    for handle in await h.handles(2):
        with refused(CorruptRecordError, f"{verb} of a damaged run") as refusal:
            await _READS[verb](handle)(run_id="bad")
        assert "bad" in refusal.error.key
        assert refusal.error.table
        assert await _READS[verb](handle)(run_id="good") is not None


@clause("CLAIM-8", "ERROR-1", needs=("corrupt",))
async def corrupt_run_is_named_where_its_record_would_be(h: StoreHarness) -> None:
    """A claim by id, and the creation of a run of that id, raise the error that names a damaged run."""
    await create(h, "bad")
    await h.corrupt("bad")
    with refused(CorruptRecordError, "the creation of a run whose id a damaged one has") as refusal:
        await h.store.create_run(**create_arguments(h, run_id="bad"))
    assert "bad" in refusal.error.key
    with refused(CorruptRecordError, "a claim of a damaged run") as refusal:
        await h.store.claim_run(run_id="bad", owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms, max_crashes=MANY)
    assert "bad" in refusal.error.key


@clause("ERROR-1", needs=("corrupt",))
async def corrupt_run_can_be_claimed_by_id_and_deleted(h: StoreHarness) -> None:
    """A damaged run answers or raises an error of the contract by every verb, and can be got rid of."""
    await create(h, "bad")
    await h.corrupt("bad")
    with contextlib.suppress(StoreError):
        answer = await h.store.claim_run(run_id="bad", owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms, max_crashes=MANY)
        assert isinstance(answer, NotClaimable), f"a damaged run was claimed: {answer.kind}"
    with contextlib.suppress(StoreError):
        await h.store.create_run(**create_arguments(h, run_id="bad"))
    assert (await h.store.terminate_run(run_id="bad", now_ms=h.now_ms)).kind == "terminated"
    assert (await h.store.delete_run(run_id="bad", now_ms=h.now_ms)).kind == "deleted"
    assert await h.store.load_run(run_id="bad") is None


@clause("ERROR-1")
async def closed_handle_speaks_the_contract(h: StoreHarness) -> None:
    """A handle that was closed answers, or raises an error of the contract's tree; it does not hang."""
    holder = await start(h)
    handle = await h.open_handle()
    close = getattr(handle, "close", None)
    if close is not None:
        await close()
        await close()
    arguments = holder.append_arguments()
    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: handle.load_run(run_id=holder.run_id),
        lambda: handle.append_events(**arguments),
        handle.read_clock,
    )
    for call in calls:
        with contextlib.suppress(WorkflowError):
            await call()
    # The other handles still work.
    await holder.heartbeat()
    assert len((await claim_stale(h, now_ms=h.advance(LEASE_MS))).claims) == 1
