"""Calls of operators for many runs at once: by filter, in bounded batches, with progress."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypedDict, Unpack

from .clock import to_ms
from .engine.history import EventKind, run_event
from .errors import InvalidArgumentError
from .isolation import outside_handlers
from .payloads import encode_json
from .sources import Source
from .store import RunStatus, WorkflowExecutionStore

__all__ = ["BulkReport", "Progress", "RunFilters", "RunsInBulk"]

_BATCH = 200
"""Runs in one transaction of the store: a few milliseconds, during which others who write them wait."""
_LIVE = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.PAUSED)


class RunFilters(TypedDict, total=False):
    """Filters that choose runs; what is given must all hold. As for `list_runs`."""

    statuses: Sequence[RunStatus]
    workflow_ids: Sequence[str]
    queues: Sequence[str]
    run_id_prefix: str
    created_from: datetime
    """The earliest time of creation (an aware datetime); included."""
    created_before: datetime


@dataclass(slots=True, kw_only=True)
class BulkReport:
    """The effect of a call for many runs, so far or in all."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Runs by the `kind` of their answer: `retried`, `requested`, …; a run that changed meanwhile has another one."""
    more: bool = False
    """True if the limit left runs behind that match."""

    @property
    def total(self) -> int:
        """Number of runs that were dealt with."""
        return self.outcomes.total()


Progress = Callable[[BulkReport], Awaitable[None]]


class _Answer(Protocol):
    @property
    def kind(self) -> str: ...


class _Verb(Protocol):
    def __call__(self, *, run_ids: Sequence[str], now_ms: int) -> Awaitable[Mapping[str, _Answer]]: ...


@outside_handlers
class RunsInBulk(ABC):
    """The part of a runtime that deals with many runs.

    Each run is dealt with by itself. The calls take the runs that match a filter, oldest first, some hundreds in one
    batch. One that breaks off because the store is away has done the batches that it reported: repeat it.
    """

    _store: WorkflowExecutionStore

    @abstractmethod
    async def _now_ms(self) -> int: ...

    @abstractmethod
    def _delivered(self, run_id: str) -> None: ...

    @abstractmethod
    def _wake_workers(self, *sources: Source) -> None:
        """Have the workers of this runtime ask these sources; all of them when none is named."""

    async def retry_runs(
        self,
        *,
        limit: int = 1_000,
        reason: str | None = None,
        on_progress: Progress | None = None,
        **filters: Unpack[RunFilters],
    ) -> BulkReport:
        """Requeue runs that ended wrongly, as `retry_run` does: `errored` and `dead` ones by default.

        Args:
            limit: At most so many runs.
            reason: Recorded with each run; for people.
            on_progress: Awaited after each batch, with what has been done so far.
            **filters: Which runs; see `RunFilters`. `statuses` may name `aborted` too.
        """
        statuses = filters.setdefault("statuses", (RunStatus.ERRORED, RunStatus.DEAD))
        event = run_event(EventKind.RUN_RETRIED, encode_json({"reason": reason}))
        verb = partial(self._store.retry_runs, event=event, statuses=statuses)
        return await self._each_batch(verb, filters, limit, on_progress)

    async def cancel_runs(
        self,
        *,
        limit: int = 1_000,
        reason: str | None = None,
        on_progress: Progress | None = None,
        **filters: Unpack[RunFilters],
    ) -> BulkReport:
        """Ask runs to end, as `cancel_run` does: by default those that have not ended.

        Args:
            limit: At most so many runs.
            reason: Recorded with each run; for people.
            on_progress: Awaited after each batch, with what has been done so far.
            **filters: Which runs; see `RunFilters`.
        """
        filters.setdefault("statuses", _LIVE)
        return await self._each_batch(partial(self._store.cancel_runs, reason=reason), filters, limit, on_progress)

    async def terminate_runs(
        self,
        *,
        limit: int = 1_000,
        reason: str | None = None,
        on_progress: Progress | None = None,
        **filters: Unpack[RunFilters],
    ) -> BulkReport:
        """End runs at once, as `terminate_run` does: by default those that have not ended.

        Args:
            limit: At most so many runs.
            reason: Recorded with each run; for people.
            on_progress: Awaited after each batch, with what has been done so far.
            **filters: Which runs; see `RunFilters`. `statuses` may name `dead` too.
        """
        filters.setdefault("statuses", _LIVE)
        return await self._each_batch(partial(self._store.terminate_runs, reason=reason), filters, limit, on_progress)

    async def requeue_runs(
        self, *, limit: int = 1_000, on_progress: Progress | None = None, **filters: Unpack[RunFilters]
    ) -> BulkReport:
        """Requeue runs that are `dead`, as `requeue_run` does.

        Args:
            limit: At most so many runs.
            on_progress: Awaited after each batch, with what has been done so far.
            **filters: Which runs; see `RunFilters`.
        """
        filters.setdefault("statuses", (RunStatus.DEAD,))
        return await self._each_batch(self._store.requeue_runs, filters, limit, on_progress)

    async def _each_batch(
        self, verb: _Verb, filters: RunFilters, limit: int, on_progress: Progress | None
    ) -> BulkReport:
        if limit < 0:
            raise InvalidArgumentError("limit", f"must not be negative, not {limit}")
        wanted = _for_the_store(filters)
        report, cursor = BulkReport(), None
        # Finish a page before the next one is read: its changes then lie behind the cursor.
        while room := limit - report.total:
            page = await self._store.list_runs(limit=min(room, _BATCH), cursor=cursor, **wanted)
            if page.runs:
                answers = await verb(run_ids=[run.run_id for run in page.runs], now_ms=await self._now_ms())
                report.outcomes.update(answer.kind for answer in answers.values())
                for run_id in answers:
                    self._delivered(run_id)
                self._wake_workers()  # a tick may have waited for an end
            cursor = page.next_cursor
            report.more = cursor is not None
            if page.runs and on_progress is not None:
                await on_progress(report)
            if cursor is None:
                break
        return report


def _for_the_store(filters: RunFilters) -> dict[str, Any]:
    wanted: dict[str, Any] = dict(filters)
    unknown = wanted.keys() - RunFilters.__annotations__.keys()
    if unknown:
        raise InvalidArgumentError(min(unknown), f"is no filter; there are {', '.join(RunFilters.__annotations__)}")
    for name in ("created_from", "created_before"):
        if name in wanted:
            wanted[f"{name}_ms"] = to_ms(name, wanted.pop(name))
    return wanted
