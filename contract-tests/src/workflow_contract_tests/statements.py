"""The passage of a store's statements, at which cases disturb them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

__all__ = ["DISTURBANCES", "Disturbance", "Passage", "Statements"]

R = TypeVar("R")

Disturbance = Literal["not sent", "not answered", "cancelled before", "cancelled after"]
DISTURBANCES: tuple[Disturbance, ...] = ("not sent", "not answered", "cancelled before", "cancelled after")
"""The connection breaks before a statement, or after the database has run it; the caller goes away before or after."""


@dataclass(slots=True)
class Passage:
    """The statements that pass while one of them is to be disturbed."""

    number: int
    """The statement, counted from 1."""
    disturbance: Disturbance
    caller: asyncio.Task[Any] | None = None
    """The task that a disturbance cancels."""
    passed: int = 0
    """The statements that have come so far."""
    too_late: bool = False
    """True if the caller had its answer when the statement came: the store sent it for itself."""

    @property
    def reached(self) -> bool:
        """True if the statement has come."""
        return self.passed >= self.number


class Statements:
    """The passage through which a harness sends the statements of its store, if it can. Without a case it does nothing.

    Your connection, or what you wrap it in, sends each statement by it, `BEGIN` and `COMMIT` too:

        rows = await statements.send(lambda: connection.fetch(sql, *values))

    Args:
        lost: Makes the error by which your driver says that the connection broke.
    """

    def __init__(self, lost: Callable[[], Exception] = lambda: ConnectionResetError("the connection broke")) -> None:
        self._lost = lost
        self._passage: Passage | None = None

    async def send(self, statement: Callable[[], Awaitable[R]]) -> R:
        """Send a statement, and return its answer."""
        passage = self._passage
        if passage is not None:
            passage.passed += 1
        if passage is None or passage.passed != passage.number:
            return await statement()
        if passage.disturbance == "not sent":
            raise self._lost()
        if passage.disturbance == "cancelled before":
            await _cancel(passage)
        answer = await statement()
        if passage.disturbance == "not answered":
            raise self._lost()
        if passage.disturbance == "cancelled after":
            await _cancel(passage)
        return answer

    @contextlib.contextmanager
    def disturbed(self, number: int, disturbance: Disturbance) -> Iterator[Passage]:
        """Disturb one of the statements that come in the block."""
        self._passage = Passage(number, disturbance)
        try:
            yield self._passage
        finally:
            self._passage = None


async def _cancel(passage: Passage) -> None:
    assert passage.caller is not None, "a statement came before the caller was known"
    passage.too_late = not passage.caller.cancel()
    await asyncio.sleep(0)  # where the caller itself sends the statement, it ends here
