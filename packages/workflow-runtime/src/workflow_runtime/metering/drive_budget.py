"""The queries that one drive may send, and what it keeps back of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, cast

from ..errors import QueryLimitReachedError
from ..escapes import cause_of, members_of
from ..query_meter import QueryMeter, meter_queries
from ..store import QueryCosts, WorkflowExecutionStore
from .budgeted_store import BudgetedStore

__all__ = ["MAX_EVENTS", "DriveBudget", "DriveProgress", "LimitedDriveBudget"]

MAX_EVENTS = 50
"""The most events in one write. Each sets one timer at most: so many timers are never too many for one call."""


class DriveProgress(NamedTuple):
    """The state of a drive, as far as it decides what must be kept back."""

    unrecorded_steps: int = 0
    """Steps that run, or have ended since."""
    draft_events: int | None = None
    """Number of events of the next write; `None` when there is nothing to write."""
    next_index: int = 0
    """The position in the log."""


class DriveBudget:
    """The queries of a drive that nobody limits: it may begin whatever it likes."""

    max_events: int = MAX_EVENTS
    """The most events in one write."""
    low: bool = False
    """True if so few queries are left that nothing new is begun, as of the last measuring."""

    def __init__(self) -> None:
        self.refusal: QueryLimitReachedError | None = None
        """The error that the drive ends with, because a query was refused or nothing could be begun."""

    def wrap(self, store: WorkflowExecutionStore) -> WorkflowExecutionStore:
        """Return the store that the drive works with."""
        return store

    def opened(self, progress: Callable[[], DriveProgress]) -> AbstractContextManager[None]:
        """Bound everything that is sent in the block, by whatever task.

        Args:
            progress: Says how far the drive is, whenever that matters.
        """
        return nullcontext()

    def measure(self) -> None:
        """Set `low`."""

    def startable_steps(self) -> int | None:
        """Return how many more steps may start; `None` means any number."""
        return None

    def covers_end(self) -> bool:
        """Return whether the draft and an end of the run can be written."""
        return True

    def refused(self, error: BaseException) -> bool:
        """Return whether a step failed because the drive's limit refused it a query; then `refusal` says so."""
        return False


class LimitedDriveBudget(DriveBudget):
    """A limited number of queries for one drive. A sweep with a limit, or a meter around a call, gives one.

    Args:
        costs: What calls cost.
        max_queries: How many queries there are.
        max_events: The most events in one write.
    """

    def __init__(self, costs: QueryCosts, max_queries: int, max_events: int) -> None:
        super().__init__()
        self.max_events = max_events
        self._costs = costs
        self._max_queries = max_queries
        self._meter = QueryMeter(max_queries)
        self._progress: Callable[[], DriveProgress] = DriveProgress
        self._first_index = 0

    @staticmethod
    def least(costs: QueryCosts, max_events: int) -> int:
        """Return the fewest queries with which a drive gets on: it writes a draft, runs a step, and hands over."""
        return costs.write_of(max_events) + costs.write_of(1) + costs.release

    def wrap(self, store: WorkflowExecutionStore) -> WorkflowExecutionStore:
        """See `DriveBudget`."""
        return cast("WorkflowExecutionStore", BudgetedStore(store, self._open_write))

    @contextmanager
    def opened(self, progress: Callable[[], DriveProgress]) -> Iterator[None]:
        """See `DriveBudget`."""
        self._progress = progress
        self._first_index = progress().next_index
        with meter_queries(self._max_queries) as self._meter:
            self._meter.keep_back(self._kept_back)
            yield

    def measure(self) -> None:
        """See `DriveBudget`."""
        self.low = not self._covers_write()

    def startable_steps(self) -> int:
        """See `DriveBudget`."""
        return max(0, self._free() // self._costs.write_of(1))

    def covers_end(self) -> bool:
        """See `DriveBudget`."""
        return self._left >= self._costs.write_of((self._progress().draft_events or 0) + 1)

    def refused(self, error: BaseException) -> bool:
        """See `DriveBudget`."""
        # A step may have a meter of its own: what that refuses is the step's failure.
        refusal = _refusal_behind(error) if self._meter.limit_reached else None
        self.refusal = refusal or self.refusal
        return refusal is not None

    @contextmanager
    def _open_write(self, verb: str) -> Iterator[None]:
        if verb == "release_run_lease":
            self._refuse_if_in_vain()
        with self._meter.use_all():
            yield

    def _refuse_if_in_vain(self) -> None:
        """Set `refusal` if the drive has written nothing, and never would with so few queries."""
        # Otherwise a run that never makes progress would stay unnoticed.
        if self.low and self._progress().next_index == self._first_index and not self._covers_write():
            wanted = self._costs.write_of(self.max_events)
            self.refusal = QueryLimitReachedError(self._max_queries, self._max_queries - self._left, wanted)

    @property
    def _left(self) -> int:
        return self._meter.remaining or 0

    def _covers_write(self) -> bool:
        """Return True if a write with all the events that it may have can be paid for, and the steps after it."""
        return self._free() >= self._costs.write_of(self.max_events)

    def _free(self) -> int:
        return self._left - self._kept_for_steps_and_release()

    def _kept_back(self) -> int:
        events = self._progress().draft_events
        return self._kept_for_steps_and_release() + (0 if events is None else self._costs.write_of(events))

    def _kept_for_steps_and_release(self) -> int:
        # Each step may end on its own, so each of them is a write.
        return self._costs.release + self._progress().unrecorded_steps * self._costs.write_of(1)


def _refusal_behind(error: BaseException) -> QueryLimitReachedError | None:
    """Return what refused a step's call, though the step has raised something else because of it."""
    seen: set[int] = set()
    found = [error]
    while found:
        each = found.pop()
        if issubclass(type(each), QueryLimitReachedError):
            return cast("QueryLimitReachedError", each)
        if id(each) not in seen:
            seen.add(id(each))
            found += members_of(each)
            cause = cause_of(each)
            found += () if cause is None else (cause,)
    return None
