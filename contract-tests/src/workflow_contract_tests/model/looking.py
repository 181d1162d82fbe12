"""Looking at runs: one by one, their logs, listings, counts, timelines."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.errors import RunNotFoundError
from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    Event,
    Execution,
    RunCounts,
    RunPage,
    RunRecord,
    RunStatus,
    RunTimeline,
    TimelineEntry,
)
from workflow_runtime.store.cursors import decode_run_cursor, encode_run_cursor

from .pages import page
from .state import Run, State

__all__ = ["LookingVerbs"]


class LookingVerbs:
    """The verbs that change nothing."""

    state: State

    def load_run(self, *, run_id: str) -> RunRecord | None:
        """Read one run (RUN-6)."""
        run = self.state.runs.get(run_id)
        return None if run is None else run.record()

    def load_execution(
        self,
        *,
        run_id: str,
        history_limit: int = DEFAULT_HISTORY_EVENTS,
        history_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Execution | None:
        """Read one run with history, inbox and timers (RUN-7)."""
        run = self.state.runs.get(run_id)
        if run is None:
            return None
        return Execution(
            run=run.record(),
            history=page(run.log, history_limit, history_bytes),
            inbox=page(run.inbox.untaken(), DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES),
            timers=run.due_timers(),
        )

    def read_events(
        self, *, run_id: str, limit: int, from_index: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[Event, ...]:
        """Read a page of the log (LOG-7)."""
        run = self.state.runs.get(run_id)
        return () if run is None else page(run.log[from_index:], limit, max_bytes)

    def list_runs(
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
        """List runs by creation (LIST-1 to LIST-3, LIST-6)."""
        matching = self._matching(statuses, workflow_ids, queues, run_id_prefix, created_from_ms, created_before_ms)
        ordered = sorted(matching, key=_place, reverse=descending)
        if cursor is not None:
            after = decode_run_cursor(cursor)
            ordered = [run for run in ordered if (_place(run) < after if descending else _place(run) > after)]
        shown = ordered[:limit]
        more = 0 < len(shown) < len(ordered)
        return RunPage(
            runs=tuple(run.summary() for run in shown),
            next_cursor=encode_run_cursor(*_place(shown[-1])) if more else None,
        )

    def count_runs(
        self,
        *,
        statuses: Sequence[RunStatus] | None = None,
        workflow_ids: Sequence[str] | None = None,
        queues: Sequence[str] | None = None,
        run_id_prefix: str | None = None,
        created_from_ms: int | None = None,
        created_before_ms: int | None = None,
    ) -> RunCounts:
        """Count runs by status (LIST-4)."""
        counts: dict[RunStatus, int] = {}
        for run in self._matching(statuses, workflow_ids, queues, run_id_prefix, created_from_ms, created_before_ms):
            counts[run.status] = counts.get(run.status, 0) + 1
        return RunCounts(counts)

    def get_run_timeline(self, *, run_id: str, limit: int = 1_000) -> RunTimeline:
        """Return what happened to a run (LIST-5)."""
        run = self.state.runs.get(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        events, entries = run.log[:limit], run.inbox.entries[:limit]
        lines = [_line(run.created_at_ms, "run", "created", detail=run.input)]
        lines += [_line(e.created_at_ms, "log", e.kind, step_id=e.step_id, detail=e.payload) for e in events]
        lines += [_line(e.received_at_ms, "inbox", f"{e.kind} {e.name}", detail=e.payload) for e in entries]
        lines += [_line(t.fire_at_ms, "timer", "fires", step_id=t.timer_id) for t in run.due_timers()]
        return RunTimeline(
            run=run.record(),
            entries=tuple(sorted(lines, key=lambda line: line.at_ms)),
            truncated=len(run.log) > limit or len(run.inbox.entries) > limit,
        )

    def _matching(
        self,
        statuses: Sequence[RunStatus] | None,
        workflow_ids: Sequence[str] | None,
        queues: Sequence[str] | None,
        run_id_prefix: str | None,
        created_from_ms: int | None,
        created_before_ms: int | None,
    ) -> list[Run]:
        """Return the runs that every filter lets through."""
        return [
            run
            for run in self.state.runs.values()
            if (statuses is None or run.status in statuses)
            and (workflow_ids is None or run.workflow_id in workflow_ids)
            and (queues is None or run.queue in queues)
            and (run_id_prefix is None or run.run_id.startswith(run_id_prefix))
            and (created_from_ms is None or run.created_at_ms >= created_from_ms)
            and (created_before_ms is None or run.created_at_ms < created_before_ms)
        ]


def _place(run: Run) -> tuple[int, str]:
    return run.created_at_ms, run.run_id


def _line(
    at_ms: int, source: str, what: str, *, step_id: str | None = None, detail: str | None = None
) -> TimelineEntry:
    return TimelineEntry(at_ms=at_ms, source=source, what=what, step_id=step_id, detail=detail)  # type: ignore[arg-type]  # JSON text and a source
