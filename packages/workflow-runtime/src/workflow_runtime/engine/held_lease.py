"""The lease of a run, as its driver holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..clock import Clock
from ..store import ClaimedRun, LeaseRenewal

__all__ = ["HeldLease", "beat_patience_s", "due_leases"]


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
        """Time of the next heartbeat, as the event loop knows it."""
        self.asked_until_ms: int = 0
        """The same as the heartbeat thread knows it, and for that thread only: a blocked event loop hears nothing."""
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


def due_leases(
    leases: Iterable[HeldLease], now_ms: int, *, early_ms: int, due_ms: Callable[[HeldLease], int]
) -> tuple[list[HeldLease], int | None]:
    """Choose the leases to renew now: none before one of them is due, and then those too that are due soon.

    So leases come to be renewed together, and however many there are they are looked at some times within their length.

    Args:
        leases: All that are held.
        now_ms: The present.
        early_ms: How long before its time a lease may be renewed together with others.
        due_ms: When a lease is due.

    Returns:
        The leases, and the time at which the next of the others is due; `None` when there are no others.
    """
    at_ms = [(due_ms(lease), lease) for lease in leases if not lease.lost]
    first_ms = min((at for at, _ in at_ms), default=None)
    if first_ms is None or first_ms > now_ms:
        return [], first_ms
    until_ms = now_ms + early_ms
    due = [lease for at, lease in at_ms if at <= until_ms]
    return due, min((at for at, _ in at_ms if at > until_ms), default=None)
