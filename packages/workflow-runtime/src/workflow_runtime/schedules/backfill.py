"""Ticks of a period that were asked for, and what became of each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from itertools import takewhile

from ..clock import from_ms
from ..frozen_value import Value, value
from ..store import RequestedBucket, WorkflowExecutionStore
from .decisions import tick_run_id

__all__ = ["Backfill", "BackfillStatus", "read_status"]

_PAGE = 1_000
_ONE_BY_ONE = 20
"""Up to so many runs are looked up by their ids; more are found in a listing."""


@value
class BackfillStatus(Value):
    """The ticks of a period by what has become of them. Each is in exactly one of the four."""

    waiting: tuple[datetime, ...]
    """No worker has dealt with these yet, or they wait for their turn (`buffer-all`)."""
    buffered: tuple[datetime, ...]
    """Put back until the run before has ended; one at most."""
    started: Mapping[datetime, str]
    """The ids of their runs, which this backfill has started, or the schedule before it."""
    left_out: tuple[datetime, ...]
    """Without a run: the overlap policy skipped or replaced them, or the run was deleted since, or nobody asked."""

    @property
    def settled(self) -> bool:
        """True if nothing is left to be done."""
        return not self.waiting and not self.buffered


class Backfill:
    """A request for the ticks of a period. Made by `runtime.schedules.backfill`; workers fire the ticks."""

    def __init__(
        self,
        *,
        schedule_id: str,
        ticks: Sequence[datetime],
        requested: int,
        status: Callable[[], Awaitable[BackfillStatus]],
    ) -> None:
        self.schedule_id = schedule_id
        """Id of the schedule."""
        self.ticks: tuple[datetime, ...] = tuple(ticks)
        """All ticks of the period, oldest first."""
        self.requested = requested
        """Number of ticks that were not waiting already."""
        self._status = status

    def __repr__(self) -> str:
        return f"<Backfill of {self.schedule_id!r}: {len(self.ticks)} ticks, {self.requested} requested>"

    async def status(self) -> BackfillStatus:
        """Ask what has become of the ticks by now.

        Raises:
            ScheduleNotFoundError: The schedule was deleted.
        """
        return await self._status()


async def read_status(store: WorkflowExecutionStore, schedule_id: str, ticks_ms: Sequence[int]) -> BackfillStatus:
    """Find out what has become of ticks.

    A tick waits, then it is buffered, then it has a run: read in this order, none that moves on meanwhile is missed.

    Raises:
        ScheduleNotFoundError: There is no such schedule.
    """
    waiting = {one.fire_at_ms for one in await _requested(store, schedule_id, ticks_ms)}
    buffered = {(await store.get_schedule(schedule_id=schedule_id)).buffered_fire_at_ms} - waiting
    rest = {at_ms: tick_run_id(schedule_id, at_ms) for at_ms in ticks_ms if at_ms not in waiting | buffered}
    known = await _known_runs(store, sorted(rest.values()))
    return BackfillStatus(
        waiting=tuple(from_ms(at_ms) for at_ms in ticks_ms if at_ms in waiting),
        buffered=tuple(from_ms(at_ms) for at_ms in ticks_ms if at_ms in buffered),
        started={from_ms(at_ms): run_id for at_ms, run_id in rest.items() if run_id in known},
        left_out=tuple(from_ms(at_ms) for at_ms, run_id in rest.items() if run_id not in known),
    )


async def _requested(
    store: WorkflowExecutionStore, schedule_id: str, ticks_ms: Sequence[int]
) -> Sequence[RequestedBucket]:
    found: list[RequestedBucket] = []
    from_at_ms = ticks_ms[0] if ticks_ms else None
    while from_at_ms is not None and from_at_ms <= ticks_ms[-1]:
        page = await store.list_requested_buckets(schedule_id=schedule_id, from_ms=from_at_ms, limit=_PAGE)
        found += page
        from_at_ms = page[-1].fire_at_ms + 1 if len(page) == _PAGE else None
    return found


async def _known_runs(store: WorkflowExecutionStore, run_ids: Sequence[str]) -> frozenset[str]:
    if len(run_ids) <= _ONE_BY_ONE:
        runs = await asyncio.gather(*(store.load_run(run_id=run_id) for run_id in run_ids))
        return frozenset(run.run_id for run in runs if run is not None)
    known: set[str] = set()
    prefix, cursor = _common_prefix(run_ids[0], run_ids[-1]), None
    while True:
        page = await store.list_runs(limit=_PAGE, cursor=cursor, run_id_prefix=prefix)
        known.update(run.run_id for run in page.runs)
        cursor = page.next_cursor
        if cursor is None:
            return frozenset(known)


def _common_prefix(first: str, last: str) -> str:
    """Find what all of several strings begin with, given the first and the last of them in their order."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(one for one, _ in same)
