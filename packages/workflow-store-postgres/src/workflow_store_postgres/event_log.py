"""The append-only history of a run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    Appended,
    Event,
    LogPage,
    NewEvent,
    Timer,
    checked,
    follow_events,
)
from workflow_store_sql import Fence, answer_append, read_log_page

from .combined_writes import driver_unit
from .fenced_write import FencedWrite, Outcome, done, event_values, timer_values
from .store_role import StoreRole

__all__ = ["EventLog", "append", "appended"]


class EventLog(StoreRole):
    """The roles `EventLogStore` and `SupportsSubscribe`."""

    @checked
    async def append_events(
        self,
        *,
        run_id: str,
        lease_token: str,
        operation_id: str,
        expected_next_index: int,
        events: Sequence[NewEvent],
        now_ms: int,
        lease_ms: int,
        taken_inbox: Sequence[int] = (),
        set_timers: Sequence[Timer] = (),
        removed_timers: Sequence[str] = (),
    ) -> Appended:
        fence = Fence("append_events", run_id, lease_token, operation_id, expected_next_index)
        write = FencedWrite(self._sender, fence)
        if taken_inbox or set_timers or removed_timers:
            return appended(await append(write, events, taken_inbox, set_timers, removed_timers, now_ms, lease_ms))
        times = (now_ms + lease_ms, now_ms)
        return appended(
            await self._combined.appends.commit(
                lambda: driver_unit(fence, events, *times),
                lambda: write.commit("append_plain", *event_values(events, ())[:3], *times),
                done,
            )
        )

    @checked
    async def read_events(
        self, *, run_id: str, limit: int, from_index: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[Event, ...]:
        rows = await self._sender.rows("read_events", run_id, from_index, limit, max_bytes)
        return self._read.history(rows, run_id, from_index=from_index)

    def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        return follow_events(self._look_at_log, run_id=run_id, from_index=from_index)

    @checked
    async def _look_at_log(self, *, run_id: str, from_index: int) -> LogPage | None:
        bounds = (DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES)
        rows = await self._sender.rows("look_at_log", run_id, from_index, *bounds)
        return read_log_page(self._read, run_id, rows, from_index)


async def append(
    write: FencedWrite,
    events: Sequence[NewEvent],
    taken_inbox: Sequence[int],
    set_timers: Sequence[Timer],
    removed_timers: Sequence[str],
    now_ms: int,
    lease_ms: int,
) -> Outcome:
    """Append events and renew the lease, as a part of whatever the write is sent in."""
    return await write.commit(
        "append_events",
        *event_values(events, taken_inbox),
        *timer_values(set_timers, removed_timers),
        now_ms + lease_ms,
        now_ms,
    )


def appended(outcome: Outcome) -> Appended:
    """Answer an append."""
    return answer_append(outcome.repeated or outcome.row, outcome.row)
