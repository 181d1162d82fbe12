"""The append-only history of a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from workflow_runtime.store import DEFAULT_HISTORY_BYTES, Appended, Event, NewEvent, Timer

from .records import first_page
from .role import Role, unit

__all__ = ["EventLog"]


class EventLog(Role):
    """Keeps `EventLogStore`."""

    @unit
    def append_events(
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

    @unit
    def read_events(
        self, *, run_id: str, limit: int, from_index: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[Event, ...]:
        """LOG-7."""
        run = self._data.runs.get(run_id)
        if run is None:
            return ()
        return first_page(islice(run.events, from_index, None), limit=limit, max_bytes=max_bytes)
