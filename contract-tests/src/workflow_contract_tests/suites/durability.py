"""DURABLE and SCHEMA: what was written outlives the handles that wrote it, and another look at the tables."""

from __future__ import annotations

from typing import Any

from ..cases import clause
from ..children import run_children
from ..harness import StoreHarness
from ..samples import MANY
from ..traces import leave_tick_traces, leave_traces, look_around


def _same(before: dict[str, Any], now: dict[str, Any], after: str) -> None:
    changed = {what: (before.get(what), now.get(what)) for what in before | now if before.get(what) != now.get(what)}
    assert not changed, f"{after} changed {changed}"


@clause("DURABLE-1", capability="durable")
async def everything_is_there_when_all_handles_were_closed(h: StoreHarness) -> None:
    """All that any verb wrote is found by handles that are opened when none was open, and what was known is known."""
    traces = await leave_traces(h)
    before = await look_around(h)
    await h.reopen()
    await h.store.check_schema()
    _same(before, await look_around(h), "closing all handles")
    await traces.check_memory(h)


@clause("DURABLE-1", capability="durable", schedules=True)
async def schedules_are_there_when_all_handles_were_closed(h: StoreHarness) -> None:
    """Schedules, their ticks and the claims of these are found by handles that are opened when none was open."""
    traces = await leave_tick_traces(h)
    before = await look_around(h, schedules=True)
    await h.reopen()
    _same(before, await look_around(h, schedules=True), "closing all handles")
    await traces.check_memory(h)


@clause("DURABLE-1", capability="durable", needs=("processes",))
async def other_processes_find_everything(h: StoreHarness) -> None:
    """A process that begins when all handles here are closed finds each run as it was written."""
    await leave_traces(h)
    runs = (await h.store.list_runs(limit=MANY)).runs
    expected: dict[str, Any] = {}
    for run in runs:
        record = await h.store.load_run(run_id=run.run_id)
        assert record is not None
        log = await h.store.read_events(run_id=run.run_id, limit=MANY)
        expected[run.run_id] = [run.status.value, record.input, [event.payload for event in log]]
    await h.reopen()
    (found,) = await run_children(h, [{"task": "look", "run_ids": list(expected)}])
    assert found == expected


@clause("SCHEMA-1", "SCHEMA-2")
async def ensuring_the_schema_again_changes_nothing(h: StoreHarness) -> None:
    """Ensuring the schema again, through the same handle or another, leaves all as it is, while others work."""
    traces = await leave_traces(h)
    before = await look_around(h)
    for handle in await h.handles(3):
        await handle.ensure_schema()
        await handle.check_schema()
        _same(before, await look_around(h), "ensure_schema")
    await traces.check_memory(h)


@clause("SCHEMA-1", "SCHEMA-2", schedules=True)
async def ensuring_the_schema_again_keeps_schedules(h: StoreHarness) -> None:
    """Ensuring the schema again leaves schedules and their ticks as they are."""
    traces = await leave_tick_traces(h)
    before = await look_around(h, schedules=True)
    for handle in await h.handles(3):
        await handle.ensure_schema()
        _same(before, await look_around(h, schedules=True), "ensure_schema")
    await traces.check_memory(h)
