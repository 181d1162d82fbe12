"""Telling waiting workers of work: which statement does it, and what is told afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from workflow_runtime.errors import StoreUnavailableError, WorkflowError
from workflow_runtime.logs import get_logger, one_line

from .session import Row, Session

__all__ = ["ANYTHING", "NoticeSender", "Telling"]

logger = get_logger("workflow_store_postgres")

ANYTHING = ""
"""What is told instead of a run's id when anything may have happened. No id is empty."""

_WINDOW_S = 0.02
"""One commit of this process tells within this time. Commits that tell wait for each other on the whole server."""
_MOST_RUNS = 100
"""Told one by one; of more at once only that anything may have happened."""
_FLUSH_S = 1.0


class Telling:
    """One transaction that may leave work for somebody.

    Args:
        itself: Whether its statement is to tell, if there is something to tell.
    """

    def __init__(self, *, itself: bool) -> None:
        self.itself = itself
        self.wakes: bool = False
        """True if there was something to tell."""

    def hear(self, rows: Sequence[Row]) -> None:
        """Take note of what the statement answered."""
        self.wakes = bool(rows and rows[0]["wakes"])


class NoticeSender:
    """Sees to it that all work is told of, and that few commits do so.

    The first statement tells by itself: its notice goes out with its commit. What others make within the window after
    it is told together at the window's end, by a statement of its own, which begins the next window. A process that
    dies in between has not told; the workers' polls find what it left.

    Args:
        session: Where statements go.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._window: asyncio.TimerHandle | None = None
        self._untold: set[str] = set()
        self._sending: asyncio.Task[None] | None = None

    @property
    def quiet(self) -> bool:
        """True if the next statement may tell, and nothing is left to be told."""
        return self._window is None and not self._is_sending()

    @contextmanager
    def about(self, run_id: str | None) -> Iterator[Telling]:
        """Accompany one transaction; without a run id it makes no work."""
        self._session.check_open()
        window = self._open_window() if run_id is not None and self._window is None else None
        telling = Telling(itself=window is not None)
        try:
            yield telling
        except (StoreUnavailableError, asyncio.CancelledError):
            # It may have been committed all the same, and a later try of the same operation has nothing to tell.
            telling.itself, telling.wakes = False, True
            raise
        finally:
            if run_id is not None and telling.wakes and not telling.itself:
                self._tell_later(run_id)
            elif window is not None and window is self._window and not telling.wakes:
                self._end_window()

    def tell_of_anything(self) -> None:
        """Notify everybody, by a statement of its own: for what happens seldom."""
        self._tell_later(ANYTHING)

    async def flush(self) -> None:
        """Send the notices that are left, now. Stops trying soon when the server is away."""
        await self._end_sending()
        if self._untold:
            self._send()
            await self._end_sending()
        self._close_window()

    def _tell_later(self, run_id: str) -> None:
        self._untold.add(run_id)
        if self._window is None:
            self._open_window()

    def _open_window(self) -> asyncio.TimerHandle:
        self._close_window()
        self._window = asyncio.get_running_loop().call_later(_WINDOW_S, self._end_window)
        return self._window

    def _close_window(self) -> None:
        if self._window is not None:
            self._window.cancel()
            self._window = None

    def _end_window(self) -> None:
        self._close_window()
        if self._untold and self._is_sending():
            self._open_window()  # the server is slow: what is left to be told waits for its answer
        elif self._untold:
            self._send()

    def _send(self) -> None:
        told, self._untold = self._untold, set()
        self._open_window()
        self._sending = asyncio.get_running_loop().create_task(self._tell(told))

    def _is_sending(self) -> bool:
        return self._sending is not None and not self._sending.done()

    async def _end_sending(self) -> None:
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=_FLUSH_S)
            self._sending.cancel()
            await asyncio.wait([self._sending], timeout=_FLUSH_S)

    async def _tell(self, run_ids: set[str]) -> None:
        told = sorted(run_ids) if len(run_ids) <= _MOST_RUNS else [ANYTHING]
        try:
            await self._session.rows("tell", self._session.head_table, told)
        except WorkflowError as error:
            logger.debug("%d runs were not told of: %s", len(run_ids), one_line(error))
