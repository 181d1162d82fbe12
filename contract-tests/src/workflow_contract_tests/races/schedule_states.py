"""Schedules as the subjects of races: one in each state, and what is left of it afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from workflow_runtime.errors import ScheduleNotFoundError
from workflow_runtime.store import Schedule

from ..harness import StoreHarness
from ..samples import LEASE_MS, MANY
from .calls import Call, show
from .orders import Arena
from .run_calls import ABSENT
from .schedule_calls import ScheduleSubject

__all__ = ["look_at_schedule", "make_schedule", "schedule_arena"]

_LATER_MS = 10
"""The time between the making of a schedule and the calls: the shortest lease of a tick has expired."""


def schedule_arena(h: StoreHarness, state: str) -> Arena[ScheduleSubject]:
    """Return the place where calls meet at schedules in a state."""
    return Arena(h=h, state=state, make=make_schedule, look=look_at_schedule, glance=glance_at_schedule)


async def make_schedule(h: StoreHarness, state: str) -> ScheduleSubject:
    """Make a schedule in one of the states, or only an id."""
    schedule = ScheduleSubject(id=h.new_id("schedule"), fire_at_ms=h.now_ms, token="none", now_ms=h.now_ms + _LATER_MS)
    if state == ABSENT:
        return schedule
    first_ms = h.now_ms + (LEASE_MS if state in {"idle", "requested"} else 0)
    await h.store.upsert_schedule(**(schedule.definition("first") | {"next_fire_at_ms": first_ms}))
    match state:
        case "requested":
            await h.store.request_schedule_buckets(schedule_id=schedule.id, fire_times_ms=[h.now_ms], now_ms=h.now_ms)
        case "claimed":
            schedule = await _claim(h, schedule)
        case "expired":
            schedule = await _claim(h, schedule, lease_ms=1)
        case "overlapping":
            schedule = await _claim(h, await _start_previous(h, schedule))
        case "waiting":
            schedule = await _claim(h, await _start_previous(h, schedule))
            await h.store.mark_schedule_bucket_started(**schedule.mark(0), action="buffer")
        case "idle" | "due":
            pass
        case _:
            raise AssertionError(f"races cannot make a schedule that is {state!r}")
    return schedule


async def _claim(h: StoreHarness, schedule: ScheduleSubject, **overrides: Any) -> ScheduleSubject:
    claim = schedule.claim(0) | {"now_ms": schedule.fire_at_ms} | overrides
    (tick,) = (await h.store.claim_due_schedule_buckets(**claim)).buckets
    return dataclasses.replace(schedule, token=tick.lease.token)


async def _start_previous(h: StoreHarness, schedule: ScheduleSubject) -> ScheduleSubject:
    """Start the run of the first tick; the next one is due a moment later."""
    schedule = await _claim(h, schedule)
    next_ms = schedule.fire_at_ms + 1
    mark = schedule.mark(0) | {"operation_id": f"{schedule.id}:previous", "next_fire_at_ms": next_ms}
    await h.store.mark_schedule_bucket_started(**mark, action="start", run_id=schedule.previous_id)
    return dataclasses.replace(schedule, fire_at_ms=next_ms)


async def glance_at_schedule(h: StoreHarness, schedule: ScheduleSubject) -> str:
    """Return what a store shows of a schedule, its requested ticks and its runs."""
    seen: list[object] = [await _load(h, schedule)]
    seen.append(await h.store.list_requested_buckets(schedule_id=schedule.id, limit=MANY))
    page = await h.store.list_runs(limit=MANY, workflow_ids=[schedule.id])
    seen += [await h.second.load_run(run_id=run.run_id) for run in page.runs]
    return "\n  ".join(show(value, schedule) for value in seen)


async def look_at_schedule(h: StoreHarness, schedule: ScheduleSubject, calls: Sequence[Call[ScheduleSubject]]) -> str:
    """Return what a store shows of a schedule, its requested ticks and its runs, and what a worker then gets.

    The id of a schedule that is gone is used again: its namesake must have nothing of it.
    """
    seen: list[object] = [await _load(h, schedule)]
    if seen == [None]:
        idle = schedule.definition("namesake") | {"next_fire_at_ms": None}
        seen.append(await h.second.upsert_schedule(**idle))
    seen.append(await h.store.list_requested_buckets(schedule_id=schedule.id, limit=MANY))
    seen.append(await h.second.claim_due_schedule_buckets(**schedule.claim(len(calls))))
    page = await h.store.list_runs(limit=MANY, workflow_ids=[schedule.id])
    seen += [await h.second.load_run(run_id=run.run_id) for run in page.runs]
    return "\n      ".join(show(value, schedule) for value in seen)


async def _load(h: StoreHarness, schedule: ScheduleSubject) -> Schedule | None:
    try:
        return await h.second.get_schedule(schedule_id=schedule.id)
    except ScheduleNotFoundError:
        return None
