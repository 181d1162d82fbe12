"""The leases of the runs that are driven on one event loop: their heartbeats from there, and its signs of life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING

from ..clock import Clock, StoreClock
from ..logs import get_logger, one_line
from ..store import MAX_HEARTBEAT_LEASES, LeaseBusy, LeaseLost, LeaseRenewal, LeaseRenewer, LeaseResult
from .held_lease import HeldLease, due_leases, renew_held

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
        self._patience_ms = 0 if thread is None else lease_ms // 12
        self._context = copy_context()
        self._leases: dict[HeldLease, None] = {}
        self._next_look: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._renewing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def keep(self, lease: HeldLease) -> AsyncIterator[None]:
        """Keep a lease while the block lasts."""
        self._leases[lease], lease.keeper = None, self
        if self._next_look is None:
            self._begin()
        try:
            yield
        finally:
            del self._leases[lease]
            lease.keeper = None
            if not self._leases:
                await self._end()

    def held(self) -> list[HeldLease]:
        """Return the leases that are to be kept. For other threads too."""
        while True:
            try:
                return list(self._leases)
            except RuntimeError:  # they changed meanwhile
                continue

    def hear(self, answers: Sequence[tuple[HeldLease, LeaseResult]]) -> None:
        """Note what became of leases. To be called on the event loop."""
        for lease, answer in answers:
            if lease.keeper is None:  # its run has ended
                continue
            if isinstance(answer, LeaseRenewal):
                lease.renewed(answer)
            elif isinstance(answer, LeaseLost):
                lease.lose()
        for _, answer in answers:
            if isinstance(answer, LeaseRenewal):
                self._clock.correct(answer.store_clock_ms)
                break  # all come from one moment

    def tell(self, answers: Sequence[tuple[HeldLease, LeaseResult]]) -> None:
        """Have the event loop hear what became of leases. For other threads."""
        with suppress(RuntimeError):  # the event loop is closed: nobody drives the runs any more
            self.loop.call_soon_threadsafe(self.hear, answers)

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
        if self._thread is None:
            wait_s = max(0, next_ms - self._clock.now_ms()) / 1000
            self._look_in(min(self.looks_every_s, wait_s))
        else:  # which renews in time: no look besides those that are signs of life
            self._thread.watch(self)  # it may have been impossible to start it
            self._look_in(self.looks_every_s)

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
        leases = list(self._leases)
        at_ms = [lease.renew_at_ms + self._patience_ms for lease in leases]
        due, next_ms = due_leases(leases, at_ms, now_ms, early_ms=self._lease_ms // 12)
        if due:
            for lease in due:
                lease.renew_at_ms = now_ms + self._lease_ms // 3  # after a failure too: the next one is not hurried
            task = self.loop.create_task(self._renew_all(due), context=self._context.copy())
            self._renewing.add(task)
            task.add_done_callback(self._renewing.discard)
        return min(next_ms, now_ms + self._lease_ms // 6)

    async def _renew_all(self, due: Sequence[HeldLease]) -> None:
        for first in range(0, len(due), MAX_HEARTBEAT_LEASES):
            chunk = due[first : first + MAX_HEARTBEAT_LEASES]
            held = [lease for lease in chunk if lease.keeper is not None]  # a run may have ended meanwhile
            if held:
                await self._renew(held)

    async def _renew(self, leases: Sequence[HeldLease]) -> None:
        now_ms = self._clock.now_ms()
        try:
            answers = await renew_held(self._renewer, leases, lease_ms=self._lease_ms, now_ms=now_ms)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next beat must come
            # Not lost yet: an expired holder that nobody replaced may go on (FENCE-2). The next heartbeat will tell.
            logger.warning("%d heartbeats failed: %s", len(leases), one_line(error))
            return
        self.hear(answers)
        for lease, answer in answers:
            if isinstance(answer, LeaseBusy):
                lease.renew_at_ms = now_ms + self._lease_ms // 12
