"""The number of queries that a drive may send, and the part of them that it keeps back.

A run whose lease runs out counts as crashed and makes the next worker wait. So a drive begins nothing whose record it
could not pay for, and always keeps enough to record what its steps have done and to hand the run over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ..errors import QueryLimitReachedError
from ..metering import QueryMeter, meter_queries
from ..store import QueryCosts
from .log_draft import MAX_EVENTS

__all__ = ["Allowance", "QueryAllowance"]


class Allowance:
    """The queries that a drive may send: any number, unless a sweep or a caller limits them."""

    limited: bool = False
    """True if there is anything to count and to keep back."""
    max_events = MAX_EVENTS
    """So many events go into one write."""

    def opened(self) -> AbstractContextManager[None]:
        """Bound everything that is sent in the block, by whatever task."""
        return nullcontext()

    def use_all(self) -> AbstractContextManager[None]:
        """Allow the driver's own writes what is kept back."""
        return nullcontext()

    def covers_unit(self, unrecorded_steps: int) -> bool:
        """Return True if a full unit can be written, and after it the results of so many steps."""
        return True

    def covers_write(self, events: int) -> bool:
        """Return True if a write of so many events that ends the drive can be paid for."""
        return True

    def require_unit(self) -> None:
        """Raise when a full unit cannot be written.

        Raises:
            QueryLimitReachedError: So few queries are left.
        """

    def startable_steps(self, unrecorded_steps: int) -> int | None:
        """Return how many more steps may start beside those; `None` means any number."""
        return None

    def keep_back(self, *, unrecorded_steps: int, unwritten_events: int | None) -> None:
        """Keep what it takes to record so many steps, to write what is decided, and to hand the run over.

        Args:
            unrecorded_steps: Steps that run, or have ended since.
            unwritten_events: How many events the next write has; `None` when there is nothing to write.
        """

    @property
    def exceeded(self) -> bool:
        """True if something was refused."""
        return False


class QueryAllowance(Allowance):
    """A limited number of queries for one drive. A sweep with a limit, or a meter around a call, gives one.

    Args:
        costs: What calls cost.
        max_queries: How many there are.
        max_events: So many events go into one write.
    """

    limited: bool = True

    def __init__(self, costs: QueryCosts, max_queries: int, max_events: int) -> None:
        self.max_events = max_events
        self._costs = costs
        self._max_queries = max_queries
        self._meter = QueryMeter(max_queries)

    @staticmethod
    def least(costs: QueryCosts, max_events: int) -> int:
        """Return with how many queries a drive gets on: it writes what it decides, runs a step, and hands over."""
        return costs.write_of(max_events) + costs.write_of(1) + costs.release

    @contextmanager
    def opened(self) -> Iterator[None]:
        """See `Allowance`."""
        with meter_queries(self._max_queries) as self._meter:
            yield

    def use_all(self) -> AbstractContextManager[None]:
        """See `Allowance`."""
        return self._meter.use_all()

    def covers_unit(self, unrecorded_steps: int) -> bool:
        """See `Allowance`."""
        return self._beyond(unrecorded_steps) >= self._costs.write_of(self.max_events)

    def covers_write(self, events: int) -> bool:
        """See `Allowance`."""
        return (self._meter.remaining or 0) >= self._costs.write_of(events)

    def require_unit(self) -> None:
        """See `Allowance`."""
        if not self.covers_unit(0):
            used = self._max_queries - (self._meter.remaining or 0)
            raise QueryLimitReachedError(self._max_queries, used, self._costs.write_of(self.max_events))

    def startable_steps(self, unrecorded_steps: int) -> int:
        """See `Allowance`."""
        return max(0, self._beyond(unrecorded_steps) // self._costs.write_of(1))

    def keep_back(self, *, unrecorded_steps: int, unwritten_events: int | None) -> None:
        """See `Allowance`."""
        unit = 0 if unwritten_events is None else self._costs.write_of(unwritten_events)
        self._meter.keep_back(self._floor(unrecorded_steps) + unit)

    @property
    def exceeded(self) -> bool:
        """See `Allowance`."""
        return self._meter.limit_reached

    def _beyond(self, unrecorded_steps: int) -> int:
        return (self._meter.remaining or 0) - self._floor(unrecorded_steps)

    def _floor(self, unrecorded_steps: int) -> int:
        # Each step may end on its own, so each of them is a write.
        return self._costs.release + unrecorded_steps * self._costs.write_of(1)
