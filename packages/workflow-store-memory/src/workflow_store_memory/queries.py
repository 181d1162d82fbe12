"""Looking at many runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from workflow_runtime.store import (
    RunCounts,
    RunNotFoundError,
    RunPage,
    RunStatus,
    RunTimeline,
    build_timeline,
    decode_run_cursor,
    encode_run_cursor,
)

from .atomic import atomic
from .data import Run
from .records import run_record, run_summary
from .store_role import StoreRole

__all__ = ["Queries"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """The filters of a listing; `None` lets everything through."""

    statuses: Sequence[RunStatus] | None
    workflow_ids: Sequence[str] | None
    queues: Sequence[str] | None
    run_id_prefix: str | None
    created_from_ms: int | None
    created_before_ms: int | None

    def matches(self, run: Run) -> bool:
        """Return True if the listing shows the run."""
        return (
            (self.statuses is None or run.status in self.statuses)
            and (self.workflow_ids is None or run.workflow_id in self.workflow_ids)
            and (self.queues is None or run.queue in self.queues)
            and run.run_id.startswith(self.run_id_prefix or "")
            and (self.created_from_ms is None or run.created_at_ms >= self.created_from_ms)
            and (self.created_before_ms is None or run.created_at_ms < self.created_before_ms)
        )


class Queries(StoreRole):
    """The role `QueryStore`."""

    @atomic
    async def list_runs(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        run_id_prefix: str | None = None,
        created_from_ms: int | None = None,
        created_before_ms: int | None = None,
        descending: bool = False,
    ) -> RunPage:
        """LIST-1 to LIST-3."""
        listing = _Listing(
            statuses=statuses,
            workflow_ids=workflow_ids,
            queues=queues,
            run_id_prefix=run_id_prefix,
            created_from_ms=created_from_ms,
            created_before_ms=created_before_ms,
        )
        keys = [(run.created_at_ms, run.run_id) for run in self._data.runs.values() if listing.matches(run)]
        if cursor is not None:
            last = decode_run_cursor(cursor)
            keys = [key for key in keys if (key < last if descending else key > last)]
        page = sorted(keys, reverse=descending)[:limit]
        return RunPage(
            runs=tuple(run_summary(self._data.runs[run_id]) for _, run_id in page),
            next_cursor=encode_run_cursor(*page[-1]) if page and len(keys) > limit else None,
        )

    @atomic
    async def count_runs(
        self,
        *,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        run_id_prefix: str | None = None,
        created_from_ms: int | None = None,
        created_before_ms: int | None = None,
    ) -> RunCounts:
        """LIST-4."""
        listing = _Listing(
            statuses=statuses,
            workflow_ids=workflow_ids,
            queues=queues,
            run_id_prefix=run_id_prefix,
            created_from_ms=created_from_ms,
            created_before_ms=created_before_ms,
        )
        return RunCounts(Counter(run.status for run in self._data.runs.values() if listing.matches(run)))

    @atomic
    async def get_run_timeline(self, *, run_id: str, limit: int = 1_000) -> RunTimeline:
        """LIST-5."""
        run = self._data.runs.get(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        return build_timeline(
            run=run_record(run),
            events=run.events[:limit],
            inbox=run.inbox[:limit],
            timers=run.pending_timers,
            limit=limit,
        )
