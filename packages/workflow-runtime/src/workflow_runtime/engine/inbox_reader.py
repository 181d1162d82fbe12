"""Reading what came into a run's inbox while it is driven."""

from __future__ import annotations

import asyncio

from ..errors import StoreError
from ..logs import get_logger, one_line
from ..store import WorkflowExecutionStore
from ..store_retry import may_pass
from .held_lease import HeldLease
from .inbox import Inbox

__all__ = ["InboxReader"]

logger = get_logger("workflow_runtime")

_PAGE = 1_000
_RETRY_S = 1.0
"""After the inbox could not be read."""


class InboxReader:
    """The way of entries from the store into a driver's inbox, whenever there is news of one.

    Args:
        store: Has the entries.
        lease: Its renewals bring the newest number.
        inbox: Gets the entries.
        wake: Set when the driver should look for news.
    """

    def __init__(self, *, store: WorkflowExecutionStore, lease: HeldLease, inbox: Inbox, wake: asyncio.Event) -> None:
        self.nudged: bool = False
        """True if the driver was asked to look, and has not done so."""
        self._store = store
        self._lease = lease
        self._inbox = inbox
        self._wake = wake
        self._resting = False
        """True if the inbox could not be read a moment ago."""

    def nudge(self) -> None:
        """Ask the driver to look now: something may have been delivered."""
        self.nudged = True
        self._wake.set()

    @property
    def has_news(self) -> bool:
        """True if there may be entries that are not read yet, and it is time to read them."""
        return not self._resting and (self.nudged or self._lease.inbox_seq > self._inbox.seen_seq)

    async def read_news(self) -> None:
        """Read the inbox if there is news. A store that is away for the moment is asked again later.

        Raises:
            StoreError: The inbox cannot be read, and that does not pass. It is not asked again.
        """
        if not self.has_news or self._lease.lost:
            return
        self.nudged = False
        try:
            await self.read()
        except StoreError as error:
            self._resting = True
            if not may_pass(error):
                raise
            # Do not give up running steps for it: nothing is lost, and a pause is refused while entries are unseen.
            logger.warning("run %r: cannot read the inbox: %s", self._lease.run_id, one_line(error))
            asyncio.get_running_loop().call_later(_RETRY_S, self._end_rest)

    async def read(self) -> None:
        """Read everything that is not read yet."""
        known = self._lease.inbox_seq
        while True:
            seen, run_id = self._inbox.seen_seq, self._lease.run_id
            entries = await self._store.read_inbox(run_id=run_id, after_seq=seen, limit=_PAGE)
            self._inbox.add(entries)
            if not entries:
                break
        # Numbers missing from the page were taken before.
        self._inbox.seen_seq = max(self._inbox.seen_seq, known)

    def _end_rest(self) -> None:
        self._resting = False
        self.nudge()
