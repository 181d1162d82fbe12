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

from .fenced_write import FencedWrite, Outcome
from .store_role import StoreRole

__all__ = ["EventLog", "add_append", "appended"]


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
        add_append(write, events, taken_inbox, set_timers, removed_timers, now_ms, lease_ms)
        return appended(await write.commit(), expected_next_index + len(events), now_ms + lease_ms)

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


def add_append(
    write: FencedWrite,
    events: Sequence[NewEvent],
    taken_inbox: Sequence[int],
    set_timers: Sequence[Timer],
    removed_timers: Sequence[str],
    now_ms: int,
    lease_ms: int,
) -> None:
    """Add an append, with the renewal of the lease, to a write that ends with it."""
    write.append(events, taken_inbox, now_ms)
    write.change_timers(set_timers, removed_timers)
    write.add("append_events.head", len(events), now_ms + lease_ms, now_ms)


def appended(outcome: Outcome, next_index: int = 0, lease_expires_at_ms: int = 0) -> Appended:
    """Answer an append.

    Args:
        outcome: What became of it.
        next_index: The length of the log behind it, if it was not a repeat.
        lease_expires_at_ms: When the lease ends by it, if it was not a repeat.
    """
    first = outcome.repeated or {
        "next_index": next_index,
        "lease_expires_at": max(outcome.before["lease_expires_at"], lease_expires_at_ms),
    }
    return answer_append(first, outcome.before)
