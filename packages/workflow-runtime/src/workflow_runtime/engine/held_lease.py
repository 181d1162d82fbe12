"""The lease of a run, as its driver holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ..clock import Clock
from ..store import ClaimedRun, LeaseRenewal, LeaseRenewer, LeaseResult

if TYPE_CHECKING:
    from .lease_keeper import LeaseKeeper

__all__ = ["NEVER_MS", "HeldLease", "beat_patience_s", "due_leases", "renew_held"]


NEVER_MS: Final = 2**62
"""Later than any time."""


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

    __slots__ = (
        "_on_news",
        "asked_until_ms",
        "inbox_seq",
        "keeper",
        "lease_ms",
        "lost",
        "renew_at_ms",
        "run_id",
        "token",
    )

    def __init__(self, *, claim: ClaimedRun, clock: Clock, lease_ms: int, on_news: Callable[[], None]) -> None:
        self.run_id: str = claim.run.run_id
        self.token: str = claim.lease.token
        self.lease_ms: int = lease_ms
        self.inbox_seq: int = claim.run.inbox_seq
        self.lost: bool = False
        self.renew_at_ms: int = clock.now_ms() + lease_ms // 3
        """Time of the next heartbeat, as the event loop knows it."""
        self.asked_until_ms: int = 0
        """The same as the heartbeat thread knows it, and for that thread only: a blocked event loop hears nothing."""
        self.keeper: LeaseKeeper | None = None
        """The keeper that keeps it at present; `None` when its run has ended."""
        self._on_news = on_news

    def extended(self, lease_expires_at_ms: int) -> None:
        """Note that a write has renewed the lease along the way."""
        self.renew_at_ms = max(self.renew_at_ms, lease_expires_at_ms - self.lease_ms + self.lease_ms // 3)

    def renewed(self, renewal: LeaseRenewal) -> None:
        """Note the answer to a heartbeat."""
        self.extended(renewal.lease_expires_at_ms)
        if renewal.inbox_seq > self.inbox_seq:
            self.inbox_seq = renewal.inbox_seq
            self._on_news()

    def lose(self) -> None:
        """Note that another worker has the run."""
        self.lost = True
        self.renew_at_ms = NEVER_MS
        self._on_news()


async def renew_held(
    renewer: LeaseRenewer, leases: Sequence[HeldLease], *, lease_ms: int, now_ms: int
) -> list[tuple[HeldLease, LeaseResult]]:
    """Renew leases by one call, and return what became of each.

    Args:
        renewer: The store, or its connection for heartbeats.
        leases: At most `MAX_HEARTBEAT_LEASES`.
        lease_ms: How long the renewal lasts.
        now_ms: The present.

    Raises:
        TimeoutError: No answer came in time.
        StoreError: The store could not do it.
    """
    named = [(lease.run_id, lease.token) for lease in leases]
    async with asyncio.timeout(beat_patience_s(lease_ms)):
        answers = await renewer.heartbeat_run_leases(leases=named, lease_ms=lease_ms, now_ms=now_ms)
    return list(zip(leases, answers, strict=True))


def due_leases(
    leases: Sequence[HeldLease], at_ms: Sequence[int], now_ms: int, *, early_ms: int
) -> tuple[list[HeldLease], int]:
    """Choose the leases to renew now: none before one of them is due, and then those too that are due soon.

    So leases come to be renewed together, and however many there are they are looked at some times within their length.

    Args:
        leases: All that are held.
        at_ms: When each of them is due.
        now_ms: The present.
        early_ms: How long before its time a lease may be renewed together with others.

    Returns:
        The leases, the longest due first, and when the next of the others is due.
    """
    first_ms = min(at_ms, default=NEVER_MS)
    if first_ms > now_ms:
        return [], first_ms
    until_ms = now_ms + early_ms
    # By their places: pairs of a time and a lease would each be a burden to the garbage collector.
    due = sorted([place for place, at in enumerate(at_ms) if at <= until_ms], key=at_ms.__getitem__)
    return [leases[place] for place in due], min([at for at in at_ms if at > until_ms], default=NEVER_MS)
