"""The role `QueryStore`, and following a log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    CorruptRecordError,
    Event,
    LogPage,
    RunCounts,
    RunNotFoundError,
    RunPage,
    RunStatus,
    RunSummary,
    RunTimeline,
    build_timeline,
    checked,
    decode_run_cursor,
    encode_run_cursor,
    follow_events,
)

from . import codec
from .server import Reply, Server


class Queries:
    """The methods that look at many runs, or at the whole of one."""

    _server: Server

    @checked
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
        after = None if cursor is None else "{:016d}{}".format(*decode_run_cursor(cursor))
        rows = await self._server.call(
            "list_runs",
            limit=limit + 1,
            after=after,
            descending=descending,
            columns=codec.SUMMARY_COLUMNS,
            statuses=statuses,
            workflow_ids=workflow_ids,
            queues=queues,
            run_id_prefix=run_id_prefix,
            created_from_ms=created_from_ms,
            created_before_ms=created_before_ms,
        )
        return _page(rows, limit)

    @checked
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
        counted = await self._server.call(
            "count_runs",
            statuses=statuses,
            workflow_ids=workflow_ids,
            queues=queues,
            run_id_prefix=run_id_prefix,
            created_from_ms=created_from_ms,
            created_before_ms=created_before_ms,
        )
        return RunCounts.of(counted)

    @checked
    async def get_run_timeline(self, *, run_id: str, limit: int = DEFAULT_HISTORY_EVENTS) -> RunTimeline:
        record, events, entries, timers = await self._server.call("get_run_timeline", run_id=run_id, limit=limit)
        if not record:
            raise RunNotFoundError(run_id)
        return build_timeline(
            run=codec.read_record(codec.read_row(record)),
            events=codec.read_events(events, run_id),
            inbox=codec.read_entries(entries, run_id),
            timers=codec.read_timers(timers),
            limit=limit,
        )

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        following = follow_events(self._look_at_log, run_id=run_id, from_index=from_index)
        try:
            async for event in following:
                yield event
        finally:
            await following.aclose()

    @checked
    async def _look_at_log(self, *, run_id: str, from_index: int) -> LogPage | None:
        head, texts = await self._server.call(
            "follow_log",
            run_id=run_id,
            from_index=from_index,
            limit=DEFAULT_HISTORY_EVENTS,
            max_bytes=DEFAULT_HISTORY_BYTES,
        )
        status, created_at_ms, next_index = head
        if status is None:
            return None
        return LogPage(
            status=RunStatus(status),
            created_at_ms=int(created_at_ms),
            next_index=int(next_index),
            events=codec.read_events(texts, run_id),
        )


def _page(rows: Reply, limit: int) -> RunPage:
    """Return a page of rows, of which there is one more than the page holds when others follow."""
    runs: list[RunSummary] = []
    corrupt: list[CorruptRecordError] = []
    shown = [dict(zip(codec.SUMMARY_COLUMNS, row, strict=True)) for row in rows[:limit]]
    for row in shown:
        try:
            runs.append(codec.read_summary(row))
        except CorruptRecordError as error:
            corrupt.append(error)
    more = bool(shown) and len(rows) > limit
    next_cursor = encode_run_cursor(int(shown[-1]["created_at_ms"]), shown[-1]["run_id"]) if more else None
    return RunPage(runs=tuple(runs), next_cursor=next_cursor, corrupt=tuple(corrupt))
