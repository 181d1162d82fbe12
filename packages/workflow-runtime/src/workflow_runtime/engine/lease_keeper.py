"""The leases of the runs that are driven on one event loop: their heartbeats from there, and its signs of life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING

from ..clock import Clock, StoreClock
from ..errors import LeaseLostError
from ..logs import get_logger, one_line
from ..store import LeaseRenewal, LeaseRenewer
from .held_lease import HeldLease, beat_patience_s, due_leases

if TYPE_CHECKING:
    from ..heartbeats import HeartbeatThread

__all__ = ["LeaseKeeper"]

logger = get_logger("workflow_runtime")

_END_S = 0.5
"""The longest that the last drive waits for the end of a heartbeat that nobody needs any more."""


class LeaseKeeper:
    """A keeper of leases, by heartbeats on the event loop where it was made.

    To keep a lease takes no task and no timer of its own: the keeper looks at all of them, six times within a lease.
    A heartbeat sees the context variables that the keeper was made with.

    Args:
        renewer: The store.
        clock: The runtime's.
        lease_ms: How long a renewal lasts.
        thread: Thread that renews the leases first: the event loop's own heartbeats are for when it cannot.
    """

    def __init__(
        self, *, renewer: LeaseRenewer, clock: Clock, lease_ms: int, thread: HeartbeatThread | None = None
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.looks_every_s: float = lease_ms / 1000 / 6
        self.alive_at: float = time.monotonic()
        """Time of the event loop's last sign of life, by `time.monotonic`. Whenever the keeper looks it gives one."""
        self._renewer = renewer
        self._clock = clock
        self._lease_ms = lease_ms
        self._thread = thread
        self._patience_ms = 0 if thread is None else lease_ms // 6
        self._context = copy_context()
        self._leases: dict[HeldLease, None] = {}
        self._next_look: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._renewing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def keep(self, lease: HeldLease) -> AsyncIterator[None]:
        """Keep a lease while the block lasts."""
        self._leases[lease] = None
        if self._next_look is None:
            self._begin()
        try:
            yield
        finally:
            del self._leases[lease]
            if not self._leases:
                await self._end()

    def holds(self, lease: HeldLease) -> bool:
        """Return whether a lease is still to be kept. For other threads too."""
        return lease in self._leases

    def held(self) -> list[HeldLease]:
        """Return the leases that are to be kept. For other threads too."""
        while True:
            try:
                return list(self._leases)
            except RuntimeError:  # they changed meanwhile
                continue

    def hear(self, answers: Sequence[tuple[HeldLease, LeaseRenewal | None]]) -> None:
        """Note what became of leases; those without a renewal are lost.

        To be called on the event loop.
        """
        for lease, renewal in answers:
            if lease not in self._leases:
                continue
            if renewal is None:
                lease.lose()
            else:
                lease.renewed(renewal)

    def _begin(self) -> None:
        self.alive_at = time.monotonic()
        if isinstance(self._clock, StoreClock):
            self._look_in(self.looks_every_s)
        else:
            self._next_look = self.loop.create_task(self._follow(self._clock), context=self._context)
        if self._thread is not None:
            self._thread.watch(self)

    async def _end(self) -> None:
        if self._thread is not None:
            self._thread.forget(self)
        ending = set(self._renewing)
        if isinstance(self._next_look, asyncio.Task):
            ending.add(self._next_look)
        elif self._next_look is not None:
            self._next_look.cancel()
        self._next_look = None
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending, timeout=_END_S)

    def _look_in(self, wait_s: float) -> None:
        self._next_look = self.loop.call_later(wait_s, self._look_again, context=self._context)

    def _look_again(self) -> None:
        next_ms = self._look()
        if self._thread is not None:
            self._thread.watch(self)  # it may have been impossible to start it
        wait_s = max(0, next_ms - self._clock.now_ms()) / 1000
        self._look_in(min(self.looks_every_s, wait_s))

    async def _follow(self, clock: Clock) -> None:
        """Look whenever a clock says so that something else moves than the event loop's time."""
        never = asyncio.Event()
        next_ms = self._look()
        while True:
            await clock.wait(never, next_ms)
            next_ms = self._look()

    def _look(self) -> int:
        """Renew what is due, and return when to look again."""
        self.alive_at = time.monotonic()
        now_ms = self._clock.now_ms()
        due, next_ms = due_leases(self._leases, now_ms, early_ms=self._lease_ms // 12, due_ms=self._due_ms)
        if due:
            for lease in due:
                lease.renew_at_ms = now_ms + self._lease_ms // 3  # after a failure too: the next one is not hurried
            task = self.loop.create_task(self._renew_all(due, now_ms), context=self._context.copy())
            self._renewing.add(task)
            task.add_done_callback(self._renewing.discard)
        latest_ms = now_ms + self._lease_ms // 6
        return latest_ms if next_ms is None else min(next_ms, latest_ms)

    def _due_ms(self, lease: HeldLease) -> int:
        return lease.renew_at_ms + self._patience_ms

    async def _renew_all(self, due: Sequence[HeldLease], now_ms: int) -> None:
        await asyncio.gather(*(self._renew(lease, now_ms) for lease in due))

    async def _renew(self, lease: HeldLease, now_ms: int) -> None:
        try:
            async with asyncio.timeout(beat_patience_s(self._lease_ms)):
                renewal = await self._renewer.heartbeat_run_lease(
                    run_id=lease.run_id, lease_token=lease.token, lease_ms=self._lease_ms, now_ms=now_ms
                )
        except LeaseLostError:
            self.hear([(lease, None)])
        except Exception as error:  # noqa: BLE001  # whatever it is, the next beat must come
            # Not lost yet: an expired holder that nobody replaced may go on (FENCE-2). The next heartbeat will tell.
            logger.warning("run %r: heartbeat failed: %s", lease.run_id, one_line(error))
        else:
            self.hear([(lease, renewal)])
