"""The lease of a run, as its driver holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..clock import Clock
from ..errors import LeaseLostError
from ..logs import get_logger, one_line
from ..store import ClaimedRun, LeaseRenewal, LeaseRenewer

__all__ = ["HeldLease", "beat_patience_s"]

logger = get_logger("workflow_runtime")


def beat_patience_s(lease_ms: int) -> float:
    """Return how long a heartbeat may go without an answer: so that several fit in before the lease runs out."""
    return max(lease_ms / 6, min(lease_ms / 3, 1_000)) / 1_000


class HeldLease:
    """The lease of the run that a driver drives: when to renew it, whether it is lost, and what its renewals brought.

    Args:
        claim: The claim that gave it.
        clock: The runtime's.
        lease_ms: How long each renewal lasts.
        on_news: Called when the lease is lost or something has come into the run's inbox.
    """

    def __init__(self, *, claim: ClaimedRun, clock: Clock, lease_ms: int, on_news: Callable[[], None]) -> None:
        self.run_id: str = claim.run.run_id
        self.token: str = claim.lease.token
        self.lease_ms = lease_ms
        self.inbox_seq: int = claim.run.inbox_seq
        self.lost: bool = False
        self.renew_at_ms: int = clock.now_ms() + lease_ms // 3
        self._clock = clock
        self._on_news = on_news

    def extended(self, lease_expires_at_ms: int) -> None:
        """Note that a write has renewed the lease along the way."""
        self.renew_at_ms = max(self.renew_at_ms, lease_expires_at_ms - self.lease_ms + self.lease_ms // 3)

    def renewed(self, renewal: LeaseRenewal) -> None:
        """Note the answer to a heartbeat."""
        self.extended(renewal.lease_expires_at_ms)
        self._clock.correct(renewal.store_clock_ms)
        if renewal.inbox_seq > self.inbox_seq:
            self.inbox_seq = renewal.inbox_seq
            self._on_news()

    def lose(self) -> None:
        """Note that another worker has the run."""
        self.lost = True
        self._on_news()

    async def keep(self, renewer: LeaseRenewer, *, patience_ms: int) -> None:
        """Renew the lease whenever a third of it has passed without a write, until cancelled or lost.

        Args:
            renewer: The store.
            patience_ms: Time left for somebody else to renew it first.
        """
        never = asyncio.Event()
        while not self.lost:
            await self._clock.wait(never, self.renew_at_ms + patience_ms)
            if self._clock.now_ms() >= self.renew_at_ms + patience_ms:
                await self._renew(renewer)

    async def _renew(self, renewer: LeaseRenewer) -> None:
        now_ms = self._clock.now_ms()
        self.renew_at_ms = now_ms + self.lease_ms // 3  # after a failure too: the next heartbeat is not hurried
        try:
            async with asyncio.timeout(beat_patience_s(self.lease_ms)):
                renewal = await renewer.heartbeat_run_lease(
                    run_id=self.run_id, lease_token=self.token, lease_ms=self.lease_ms, now_ms=now_ms
                )
        except LeaseLostError:
            self.lose()
        except Exception as error:  # noqa: BLE001  # whatever it is, the next beat must come
            # Not lost yet: an expired holder that nobody replaced may go on (FENCE-2). The next heartbeat will tell.
            logger.warning("run %r: heartbeat failed: %s", self.run_id, one_line(error))
        else:
            self.renewed(renewal)
