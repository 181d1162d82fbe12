"""Notices of work for waiting workers: which statement sends one, and which are sent afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from workflow_runtime.store import StoreUnavailableError, WorkflowError, get_logger, one_line

from .statement_sender import Row, StatementSender

__all__ = ["ANYTHING", "NoticeSender", "PendingNotice"]

logger = get_logger("workflow_store_postgres")

ANYTHING = ""
"""Text that stands in place of a run's id when anything may have happened. No id is empty."""

_WINDOW_S = 0.02
"""One commit of this process notifies within this time. Commits that notify wait for each other on the whole server."""
_MOST_RUNS = 100
"""The most runs that get notices of their own; for more, one notice says that anything may have happened."""
_FLUSH_S = 1.0


class PendingNotice:
    """One transaction that may leave work for somebody.

    Args:
        by_statement: True if its statement is to notify, if there is work.
    """

    def __init__(self, *, by_statement: bool) -> None:
        self.by_statement = by_statement
        self.wakes: bool = False
        """True if there was work."""

    def read_answer(self, rows: Sequence[Row]) -> None:
        """Take note of what the statement answered."""
        self.wakes = bool(rows and rows[0]["wakes"])


class NoticeSender:
    """Notices of all work, sent by few commits.

    The first statement notifies by itself: its notice goes out with its commit. The notices of further work within the
    window after it go out together at the window's end, by a statement of their own, which begins the next window. A
    process that dies in between has not notified; the workers' polls find what it left.

    Args:
        sender: Where statements go.
    """

    def __init__(self, sender: StatementSender) -> None:
        self._sender = sender
        self._window: asyncio.TimerHandle | None = None
        self._unsent: set[str] = set()
        self._sending: asyncio.Task[None] | None = None

    @property
    def quiet(self) -> bool:
        """True if the next statement may notify, and no notice is left to be sent."""
        return self._window is None and not self._is_sending()

    @contextmanager
    def about(self, run_id: str | None) -> Iterator[PendingNotice]:
        """Accompany one transaction; without a run id it makes no work."""
        self._sender.check_open()
        window = self._open_window() if run_id is not None and self._window is None else None
        pending = PendingNotice(by_statement=window is not None)
        try:
            yield pending
        except (StoreUnavailableError, asyncio.CancelledError):
            # It may have been committed all the same, and a later try of the same operation has no notice to send.
            pending.by_statement, pending.wakes = False, True
            raise
        finally:
            if run_id is not None and pending.wakes and not pending.by_statement:
                self._notify_later(run_id)
            elif window is not None and window is self._window and not pending.wakes:
                self._end_window()

    def notify_of_anything(self) -> None:
        """Notify everybody, by a statement of its own: for what happens seldom."""
        self._notify_later(ANYTHING)

    async def flush(self) -> None:
        """Send the notices that are left, now. Stops trying soon when the server is away."""
        await self._end_sending()
        if self._unsent:
            self._send()
            await self._end_sending()
        self._close_window()

    def _notify_later(self, run_id: str) -> None:
        self._unsent.add(run_id)
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
        if self._unsent and self._is_sending():
            self._open_window()  # the server is slow: the remaining notices wait for its answer
        elif self._unsent:
            self._send()

    def _send(self) -> None:
        run_ids, self._unsent = self._unsent, set()
        self._open_window()
        self._sending = asyncio.get_running_loop().create_task(self._notify(run_ids))

    def _is_sending(self) -> bool:
        return self._sending is not None and not self._sending.done()

    async def _end_sending(self) -> None:
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=_FLUSH_S)
            self._sending.cancel()
            await asyncio.wait([self._sending], timeout=_FLUSH_S)

    async def _notify(self, run_ids: set[str]) -> None:
        sent = sorted(run_ids) if len(run_ids) <= _MOST_RUNS else [ANYTHING]
        try:
            await self._sender.rows("notify", self._sender.head_table, sent)
        except WorkflowError as error:
            logger.debug("no notice was sent of %d runs: %s", len(run_ids), one_line(error))
