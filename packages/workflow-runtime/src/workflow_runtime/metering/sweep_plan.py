"""The plan for the queries that a sweep may send: what it may begin, and how much each drive gets."""

from __future__ import annotations

from ..errors import ConfigurationError
from ..query_meter import QueryMeter, queries_left
from ..store import QueryCosts
from .drive_budget import MAX_EVENTS, LimitedDriveBudget

__all__ = ["SweepPlan", "can_start_and_drive", "whole_budget"]

_WRITE_SHARE = 5
"""One write may take at most 1/5 of what a sweep has beyond the least."""


def can_start_and_drive(costs: QueryCosts) -> bool:
    """Return True if what is left pays for a new run, and for driving it as well."""
    least = LimitedDriveBudget.least(costs, costs.events_per_query)
    return (queries_left() or 0) >= costs.read + costs.call + least


def whole_budget(costs: QueryCosts) -> LimitedDriveBudget:
    """Return a budget of everything that is left, for one drive."""
    left = queries_left() or 0
    beyond = left - LimitedDriveBudget.least(costs, costs.events_per_query)
    return LimitedDriveBudget(costs, left, _max_events(costs, beyond))


def _max_events(costs: QueryCosts, beyond: int) -> int:
    """Return how many events go into one write, given what there is beyond the least."""
    return min(MAX_EVENTS, costs.events_per_query * max(1, beyond // _WRITE_SHARE))


class SweepPlan:
    """The plan of one sweep within a limit of queries. What is left always suffices to bring to an end what is begun.

    Args:
        meter: What counts the sweep. It must have a limit.
        costs: What the store's calls cost.
        one_first: Whether the first run to be driven gets all there is, for those that need as much.

    Raises:
        ConfigurationError: So few queries that a sweep could do nothing.
    """

    def __init__(self, meter: QueryMeter, costs: QueryCosts, *, one_first: bool = False) -> None:
        self._meter = meter
        self._one_at_a_time = one_first
        self._costs = costs
        self._tick = 2 * costs.tick + costs.read + costs.call  # started; or refused, followed up and put back
        per_query = costs.events_per_query
        least = costs.claim + max(LimitedDriveBudget.least(costs, per_query), self._tick)
        minimum = least + 2 * costs.read  # a look at the tables, and at the store's clock
        if self._left < minimum:
            raise ConfigurationError(
                f"max_queries: a sweep of this store needs at least {minimum} queries, and {self._left} are left"
            )
        self._max_events = _max_events(costs, self._left - minimum)
        self._least = LimitedDriveBudget.least(costs, self._max_events)
        self._driven = 0
        self._spent = 0
        self._refused = False

    @property
    def _left(self) -> int:
        return self._meter.remaining or 0

    def ticks(self, wanted: int) -> int:
        """Return how many ticks may be claimed: 0 when not even one."""
        return max(0, min(wanted, (self._left - self._costs.claim) // self._tick))

    def runs(self, wanted: int) -> int:
        """Return how many runs may be claimed at once: 0 when not even one.

        Few queries are better spent on a few runs that get on than on claims of many that hardly do.
        """
        left = self._left - self._costs.claim
        if left < self._least:
            return 0
        return min(wanted, 1 if self._one_at_a_time else max(1, left // self._expected()))

    def budget(self, runs: int) -> LimitedDriveBudget:
        """Return one of so many equal parts of what is left, for one drive."""
        return LimitedDriveBudget(self._costs, self._left // runs, self._max_events)

    def learn(self, runs: int, queries: int, *, refused: bool) -> None:
        """Note what drives took, and whether one of them would have taken more."""
        self._driven += runs
        self._spent += queries
        self._refused = self._refused or refused
        if runs:
            self._one_at_a_time = self._refused  # too expensive for one share, perhaps not for the whole rest

    def _expected(self) -> int:
        if not self._driven:
            return self._least
        return max(self._least, -(-self._spent // self._driven))
