"""SCHEMA and TIME: making the tables, and the store's clock."""

from __future__ import annotations

import time

from ..cases import clause
from ..children import run_children
from ..harness import StoreHarness
from ..scenarios import create, record, start
from ..settings import PROCESSES
from ..tasks import all_of

_DAY_MS = 86_400_000


@clause("SCHEMA-1", "SCHEMA-2", fresh=True)
async def schema_is_made_by_many_at_once(h: StoreHarness) -> None:
    """Several handles may make the tables of a fresh store at once; afterwards each of them checks."""
    handles = await h.handles(4)
    await all_of(*(handle.ensure_schema() for handle in handles))
    for handle in handles:
        await handle.check_schema()
    await create(h)


@clause("SCHEMA-1")
async def schema_may_be_ensured_again(h: StoreHarness) -> None:
    """Ensuring the schema again keeps what is stored."""
    holder = await start(h)
    await holder.append('"kept"')
    before = await record(h, holder.run_id)
    for handle in await h.handles(2):
        await handle.ensure_schema()
        await handle.check_schema()
    assert await record(h, holder.run_id) == before
    await holder.append("2")


@clause("SCHEMA-1", needs=("processes",), fresh=True)
async def schema_is_made_by_processes_at_once(h: StoreHarness) -> None:
    """Several processes may make the tables of a fresh store at once."""
    results = await run_children(h, [{"task": "ensure_schema"} for _ in range(PROCESSES)])
    assert results == ["ready"] * PROCESSES
    await h.store.check_schema()
    await create(h)


@clause("TIME-2")
async def clock_is_in_milliseconds(h: StoreHarness) -> None:
    """The store's time is in milliseconds since the Unix epoch, and does not run backwards."""
    readings = [await h.store.read_clock() for _ in range(20)]
    assert all(type(reading) is int for reading in readings)
    assert readings == sorted(readings), f"the clock ran backwards: {readings}"
    # A day of tolerance: another unit of time is off by a factor of a thousand, another zone by hours.
    assert abs(readings[0] - time.time() * 1_000) < _DAY_MS, f"{readings[0]} is not the time in milliseconds"


@clause("TIME-1", each=("long-ago", "far-future"))
async def time_comes_from_the_arguments(h: StoreHarness, when: str) -> None:
    """Leases, timers and due times are compared with `now_ms` alone, in 1970 as in the year 140000."""
    h.now_ms = 1_000 if when == "long-ago" else 2**52
    holder = await start(h, lease_ms=100)
    refused = await h.second.claim_run(
        run_id=holder.run_id, owner="w", lease_ms=100, now_ms=h.now_ms + 99, max_crashes=9
    )
    assert refused.kind == "not-claimable", "a live lease was taken: the store looked at a clock of its own"
    await holder.pause(timers={"t": h.now_ms + 50})
    early = await h.second.claim_due_timers(owner="w", lease_ms=100, now_ms=h.now_ms + 49, limit=9)
    assert early.claims == ()
    due = await h.second.claim_due_timers(owner="w", lease_ms=100, now_ms=h.now_ms + 50, limit=9)
    assert len(due.claims) == 1
    assert due.claims[0].lease.expires_at_ms == h.now_ms + 150
    waiting = await create(h, available_at_ms=h.now_ms + 10)
    assert (await h.store.claim_pending_runs(owner="w", lease_ms=9, now_ms=h.now_ms + 9, limit=9)).claims == ()
    assert (await record(h, waiting.run_id)).created_at_ms == h.now_ms
    stale = await h.store.claim_stale_runs(owner="w", lease_ms=9, now_ms=h.now_ms + 150, limit=9, max_crashes=9)
    assert [c.run.run_id for c in stale.claims] == [holder.run_id]
