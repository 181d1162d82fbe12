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
    follow_events,
)

from .atomic import atomic
from .records import first_page
from .store_role import StoreRole

__all__ = ["EventLog"]


class EventLog(StoreRole):
    """The roles `EventLogStore` and `SupportsSubscribe`."""

    @atomic
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
        """LOG-1 to LOG-6."""
        repeated = self._repeated(run_id, operation_id, Appended)
        if repeated is not None:
            return repeated
        run = self._driven(run_id, lease_token, expected_next_index)
        run.append(events, taken_inbox, now_ms)
        run.change_timers(set_timers, removed_timers)
        lease = run.renew_lease(now_ms + lease_ms)
        answer = Appended(
            next_index=run.next_index,
            lease_expires_at_ms=lease.expires_at_ms,
            inbox_seq=run.inbox_seq,
            cancel_requested=run.cancel_requested,
        )
        return run.record(operation_id, answer)

    @atomic
    async def read_events(
        self, *, run_id: str, limit: int, from_index: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[Event, ...]:
        """LOG-7."""
        run = self._data.runs.get(run_id)
        if run is None:
            return ()
        return first_page(run.events_from(from_index), limit=limit, max_bytes=max_bytes)

    def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        """SUBSCRIBE-1 to SUBSCRIBE-4."""
        return follow_events(self._look_at_log, run_id=run_id, from_index=from_index)

    @atomic
    async def _look_at_log(self, *, run_id: str, from_index: int) -> LogPage | None:
        run = self._data.runs.get(run_id)
        if run is None:
            return None
        return LogPage(
            status=run.status,
            created_at_ms=run.created_at_ms,
            next_index=run.next_index,
            events=first_page(
                run.events_from(from_index), limit=DEFAULT_HISTORY_EVENTS, max_bytes=DEFAULT_HISTORY_BYTES
            ),
        )
