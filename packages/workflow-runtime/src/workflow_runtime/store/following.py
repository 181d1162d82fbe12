"""Following a run's log by looking at it again and again: how a store keeps `SupportsSubscribe` without pushing.

No notice comes of an append, because notices would make every append dearer. A follower looks often
while there is something to see, and seldom while there is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Protocol

from ..errors import CorruptRecordError, RunNotFoundError
from ..frozen_value import Value, value
from .values import Event, RunStatus

__all__ = ["LogPage", "LookAtLog", "follow_events"]

_FIRST_DELAY_S = 0.02
_LAST_DELAY_S = 0.5
_GROWTH = 1.5


@value
class LogPage(Value):
    """A page of a run's log, and where the run stands, both of one moment."""

    status: RunStatus
    created_at_ms: int
    next_index: int
    events: tuple[Event, ...]
    """Events in order, without gaps, from the index that was asked for; empty only when there is none."""


class LookAtLog(Protocol):
    """A store's one look: a single statement."""

    async def __call__(self, *, run_id: str, from_index: int) -> LogPage | None:
        """Read a page; `None` when there is no such run."""
        ...


async def follow_events(look: LookAtLog, *, run_id: str, from_index: int) -> AsyncGenerator[Event, None]:
    """Yield the events of a run from an index on, as `SupportsSubscribe` says. Holds nothing between two looks.

    Raises:
        RunNotFoundError: There is no such run, or not any more.
        CorruptRecordError: The log has a gap.
    """
    position, delay_s = from_index, _FIRST_DELAY_S
    created_at_ms: int | None = None
    while True:
        page = await look(run_id=run_id, from_index=position)
        if page is None or _is_another_record(page, created_at_ms, position, from_index):
            raise RunNotFoundError(run_id)
        created_at_ms = page.created_at_ms
        for event in page.events:
            yield event
        position += len(page.events)
        if position < page.next_index:
            if not page.events:
                raise CorruptRecordError("events", run_id, f"event {position} is missing")
            continue
        if page.status.is_terminal:
            return
        delay_s = _FIRST_DELAY_S if page.events else min(delay_s * _GROWTH, _LAST_DELAY_S)
        await asyncio.sleep(delay_s)


def _is_another_record(page: LogPage, created_at_ms: int | None, position: int, from_index: int) -> bool:
    """Return True if the run was deleted, and its id given to another, since the last look."""
    return created_at_ms not in {None, page.created_at_ms} or position > max(from_index, page.next_index)
