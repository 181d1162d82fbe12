"""The count of what a store sends to its database, and its limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .errors import InvalidArgumentError, QueryLimitReachedError

__all__ = ["QueryMeter", "is_counted", "meter_queries", "note_rows", "queries_left", "spend_queries"]


class QueryMeter:
    """The count of what was sent while its block lasted. Made by `meter_queries`."""

    def __init__(self, max_queries: int | None = None, outer: QueryMeter | None = None) -> None:
        self.max_queries = max_queries
        self.queries = 0
        """Statements; each one of a batch counts."""
        self.requests = 0
        """Round trips: a batch is one."""
        self.rows_read = 0
        """Number of rows read, as far as the database tells; the same for `rows_written`."""
        self.rows_written = 0
        self.limit_reached = False
        """True if something was refused here, or by a meter around this one."""
        self._outer = outer
        self._kept_back: Callable[[], int] = lambda: 0

    @property
    def remaining(self) -> int | None:
        """Number of queries that may still be sent; `None` without any limit.

        What is kept back here counts, because it is kept for the caller. What a meter around keeps back does not.
        """
        here = None if self.max_queries is None else self.max_queries - self.queries
        rooms = (here, *(meter._room() for meter in self._around()))  # noqa: SLF001  # one class
        return min((max(0, room) for room in rooms if room is not None), default=None)

    def spend(self, statements: int) -> None:
        """Count statements that are about to be sent together, here and on the meters around.

        Raises:
            QueryLimitReachedError: One of the meters has not so many left. Nothing is counted.
        """
        for meter in self._chain():
            left = meter._room()  # noqa: SLF001  # one class
            if left is not None and statements > left:
                self._mark_refused(meter)
                raise QueryLimitReachedError(meter.max_queries or 0, meter.queries, statements)
        for meter in self._chain():
            meter.queries += statements
            meter.requests += 1

    def note(self, *, rows_read: int, rows_written: int) -> None:
        """Count rows, here and on the meters around."""
        for meter in self._chain():
            meter.rows_read += rows_read
            meter.rows_written += rows_written

    def keep_back(self, queries: int | Callable[[], int]) -> None:
        """Refuse, from now on, what would leave less than this, unless it is sent inside `use_all`.

        Args:
            queries: So many, or a function that says how many at each moment.
        """
        self._kept_back = queries if callable(queries) else lambda: queries

    @contextmanager
    def use_all(self) -> Iterator[None]:
        """Allow the present task to use what is kept back too."""
        token = _using_all.set(self)
        try:
            yield
        finally:
            _using_all.reset(token)

    def _chain(self) -> Iterator[QueryMeter]:
        yield self
        yield from self._around()

    def _around(self) -> Iterator[QueryMeter]:
        meter = self._outer
        while meter is not None:
            yield meter
            meter = meter._outer  # noqa: SLF001

    def _room(self) -> int | None:
        if self.max_queries is None:
            return None
        kept_back = 0 if _using_all.get() is self else self._kept_back()
        return self.max_queries - self.queries - kept_back

    def _mark_refused(self, by: QueryMeter) -> None:
        for meter in self._chain():
            meter.limit_reached = True
            if meter is by:
                return


_current: ContextVar[QueryMeter | None] = ContextVar("workflow_runtime_meter", default=None)
_using_all: ContextVar[QueryMeter | None] = ContextVar("workflow_runtime_meter_used_up", default=None)


@contextmanager
def meter_queries(max_queries: int | None = None) -> Iterator[QueryMeter]:
    """Count the queries of everything that is called in the block, also by the tasks that are started there.

    Blocks may be nested: each counts, and the tightest limit holds. Stores that do not declare `capabilities.metered`
    count nothing. Neither does a thread: what renews leases beside a blocked event loop is not counted.

    Args:
        max_queries: Send no more than so many. A call that would go over raises `QueryLimitReachedError`, and nothing
            of it is sent.
    """
    if max_queries is not None and max_queries < 0:
        raise InvalidArgumentError("max_queries", f"must not be negative, not {max_queries}")
    meter = QueryMeter(max_queries, _current.get())
    token = _current.set(meter)
    try:
        yield meter
    finally:
        _current.reset(token)


def queries_left() -> int | None:
    """Return how many queries the present task may still send; `None` without any limit."""
    return QueryMeter(outer=_current.get()).remaining


def is_counted() -> bool:
    """Return whether somebody counts the queries of the present task."""
    return _current.get() is not None


def spend_queries(statements: int = 1) -> None:
    """Count statements that a store is about to send together; for stores.

    Raises:
        QueryLimitReachedError: So many are not left. Nothing must be sent.
    """
    meter = _current.get()
    if meter is not None:
        meter.spend(statements)


def note_rows(*, rows_read: int, rows_written: int) -> None:
    """Count the rows that a database says a call has read and written; for stores."""
    meter = _current.get()
    if meter is not None:
        meter.note(rows_read=rows_read, rows_written=rows_written)
