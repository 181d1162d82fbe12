"""Counts on the caller's meters: what is about to be sent, and the rows that D1 then says it has read and written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import TypeAlias

from workflow_runtime.store import QueryLimitReachedError, note_rows, spend_queries

from .database import D1DatabaseError, D1PreparedStatement, D1Result

__all__ = ["MeteredBatch", "SendBatch", "spend_repeat"]

SendBatch: TypeAlias = Callable[[Sequence[D1PreparedStatement]], Awaitable[Sequence[D1Result]]]


class MeteredBatch:
    """Statements that go out together, counted anew each time they are sent.

    Args:
        statements: What to send.
        send: How; the only statement on its own when absent.
    """

    def __init__(self, statements: Sequence[D1PreparedStatement], send: SendBatch | None = None) -> None:
        self._statements = statements
        self._send = send or _send_one
        self._failure: D1DatabaseError | None = None

    async def send(self) -> Sequence[D1Result]:
        """Send them.

        Raises:
            QueryLimitReachedError: There are more of them than may be sent. They never were.
            D1DatabaseError: The database refused them, or they may not be sent again to learn what became of them.
        """
        counting = _counting.set(True)
        try:
            spend_queries(len(self._statements))
            results = await self._send(self._statements)
        except QueryLimitReachedError as error:
            if self._failure is None:
                raise
            raise D1DatabaseError(f"{self._failure.problem} ({error})", unavailable=True) from error
        except D1DatabaseError as error:
            self._failure = error
            raise
        finally:
            _counting.reset(counting)
        _note(results)
        return results


_counting: ContextVar[bool] = ContextVar("workflow_store_d1_counting", default=False)
"""True while statements of the store are being sent. What an application sends by itself is not counted."""


def spend_repeat(statements: int) -> None:
    """Count statements that a database is about to send again by itself; for databases.

    Raises:
        QueryLimitReachedError: They may not be sent again. What was sent before had no effect.
    """
    if _counting.get():
        spend_queries(statements)


async def _send_one(statements: Sequence[D1PreparedStatement]) -> Sequence[D1Result]:
    return [await statement.all() for statement in statements]


def _note(results: Sequence[D1Result]) -> None:
    # A local file does not count the rows read.
    metas = [result.meta for result in results]
    note_rows(
        rows_read=sum(int(meta.get("rows_read") or 0) for meta in metas),
        rows_written=sum(int(meta.get("rows_written") or 0) for meta in metas),
    )
