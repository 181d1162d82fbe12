"""The database that the store needs: the shape of Cloudflare's D1, and nothing else.

The store talks to a `D1Database` only. What is behind it (a file, a Worker's binding, an HTTP API) raises
`D1DatabaseError` for whatever goes wrong below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

__all__ = [
    "D1Database",
    "D1DatabaseError",
    "D1PreparedStatement",
    "D1Result",
    "D1Value",
    "InteractiveD1Database",
    "InteractiveTransaction",
    "Row",
]

D1Value: TypeAlias = "str | int | float | bytes | None"
"""Types that may be bound to a parameter. A `bool` is an `int`."""

Row: TypeAlias = Mapping[str, Any]


class D1DatabaseError(Exception):
    """The database could not do what it was asked; nothing of the batch was done, unless its outcome is unknown.

    Args:
        problem: What it said.
        unavailable: Whether the same call may succeed later (busy, restarting, away).
        outcome_unknown: Whether the batch may have been done as a whole: only the answer is missing.
        retry_after: How long the database asks to be left alone.
        no_access: Whether it does not let this program in, whatever it asks.
    """

    def __init__(
        self,
        problem: str,
        *,
        unavailable: bool = False,
        outcome_unknown: bool = False,
        retry_after: timedelta | None = None,
        no_access: bool = False,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.unavailable = unavailable
        self.outcome_unknown = outcome_unknown
        self.retry_after = retry_after
        self.no_access = no_access


class D1Result(Protocol):
    """The outcome of one statement."""

    @property
    def results(self) -> Sequence[Row]:
        """The rows that it gave; empty for a statement that gives none."""
        ...

    @property
    def meta(self) -> Mapping[str, Any]:
        """Further facts from the database: `changes` is the number of rows written."""
        ...


class D1PreparedStatement(Protocol):
    """One statement, with or without its values."""

    def bind(self, *values: D1Value) -> Self:
        """Return a statement of the same text with these values for `?1`, `?2` and so on."""
        ...

    async def all(self) -> D1Result:
        """Run it as a transaction of its own and give its rows."""
        ...

    async def run(self) -> D1Result:
        """Run it as a transaction of its own."""
        ...


class D1Database(Protocol):
    """A database like D1."""

    def prepare(self, sql: str) -> D1PreparedStatement:
        """Make a statement of SQL text."""
        ...

    async def batch(self, statements: Sequence[D1PreparedStatement]) -> Sequence[D1Result]:
        """Run statements that `prepare` made, in order, as one transaction: all or none."""
        ...


class InteractiveTransaction(Protocol):
    """A transaction that is open while its caller decides what comes next. D1 has none."""

    @property
    def begun(self) -> bool:
        """True if anything has run in it."""
        ...

    async def run(self, statements: Sequence[D1PreparedStatement]) -> Sequence[D1Result]:
        """Run statements in it, beginning it first if need be."""
        ...

    async def commit(self, statements: Sequence[D1PreparedStatement]) -> Sequence[D1Result]:
        """Run the last statements and commit. An error rolls everything back."""
        ...


@runtime_checkable
class InteractiveD1Database(D1Database, Protocol):
    """A database that can do more than batches."""

    def interactive(self) -> AbstractAsyncContextManager[InteractiveTransaction]:
        """Open a transaction; one that is not committed at the end is rolled back."""
        ...
