"""Heartbeats from a thread of their own, on a connection of their own: a blocked event loop cannot stop them."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress

from .clock import Clock
from .engine.held_lease import NEVER_MS, HeldLease, beat_patience_s, due_leases, renew_held
from .engine.lease_keeper import LeaseKeeper
from .logs import get_logger, indented, one_line
from .store import MAX_HEARTBEAT_LEASES, LeaseLost, LeaseRenewal, LeaseRenewer, LeaseResult

__all__ = ["HeartbeatThread"]

logger = get_logger("workflow_runtime")

_END_S = 5.0
"""The longest that a connection takes to close when the server does not answer."""


class _WatchedLoop:
    """An event loop whose leases are in the care of the thread, as the thread sees it."""

    def __init__(self, keeper: LeaseKeeper) -> None:
        self.keeper = keeper
        self.given_up = False
        self._thread_id = threading.get_ident()
        self._seen_alive_at = keeper.alive_at
        self._reported = False

    def look(self, *, lease_s: float, max_block_s: float) -> None:
        """Set `given_up` if the event loop deserves its leases no more. What blocks it is logged."""
        if self.keeper.alive_at != self._seen_alive_at:
            self._seen_alive_at = self.keeper.alive_at
            self._reported = self.given_up = False
        blocked_s = time.monotonic() - self._seen_alive_at - self.keeper.looks_every_s
        if blocked_s > max_block_s and not self.given_up:
            self.given_up = True
            logger.error(
                "%s: the event loop has been blocked for %.0f s, its leases are left to run out. It is at:\n%s",
                one_line(self._runs()), blocked_s, indented(self._where()),
            )  # fmt: skip
        elif blocked_s > lease_s and not self._reported and not self.given_up:
            self._reported = True
            logger.warning(
                "%s: the event loop has been blocked for %.1f s. It is at:\n%s",
                one_line(self._runs()), blocked_s, indented(self._where()),
            )  # fmt: skip

    def _runs(self) -> str:
        held = self.keeper.held()
        others = f" and {len(held) - 1} others" if len(held) > 1 else ""
        return f"run {held[0].run_id!r}{others}" if held else "no run"

    def _where(self) -> str:
        """Return what the event loop's thread is doing."""
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001  # the documented way
        return "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)"


class HeartbeatThread:
    """A thread that renews leases, for as long as their event loops are not blocked for too long.

    It looks at all leases some times within their length, and nobody wakes it in between: a run that is shorter than
    that costs it nothing. Its connection is opened when a lease is due, and closed with the last lease. Without one,
    it stays until there has been no lease between two looks.

    Args:
        open_renewer: Opens the connection, on the event loop of the thread.
        clock: The runtime's; must follow real time.
        lease_ms: How long a renewal lasts.
        max_block_s: A lease whose event loop is blocked for longer is left to run out.
    """

    def __init__(
        self,
        open_renewer: Callable[[], AbstractAsyncContextManager[LeaseRenewer]],
        *,
        clock: Clock,
        lease_ms: int,
        max_block_s: float,
    ) -> None:
        self._open_renewer = open_renewer
        self._clock = clock
        self._lease_ms = lease_ms
        self._max_block_s = max_block_s
        self._begin_anew()

    def watch(self, keeper: LeaseKeeper) -> None:
        """Renew the leases of a keeper from now on. To be called on its event loop, any number of times."""
        if self._pid != os.getpid():
            self._begin_anew()  # after a fork: the thread is the parent's, and so are the leases
        with self._changed:
            if keeper not in self._loops:
                self._loops[keeper] = _WatchedLoop(keeper)
            self._used = True
            if self._thread is None or not self._thread.is_alive():
                self._start()

    def forget(self, keeper: LeaseKeeper) -> None:
        """Renew the leases of a keeper no more: it has none."""
        with self._changed:
            self._loops.pop(keeper, None)
            if not self._loops and self._renewals is not None and self._renewals.began:
                self._changed.notify()

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._loops: dict[LeaseKeeper, _WatchedLoop] = {}
        self._used = False
        """True if there was a lease since the last look."""
        self._next_look_at = 0.0
        """Time of the next look at all leases, by `time.monotonic`."""
        self._ending = False
        self._thread: threading.Thread | None = None
        """Thread that renews the leases."""
        self._latest: threading.Thread | None = None
        """The last one that was started: it may still be closing its connection."""
        self._renewals: _Renewals | None = None
        """Renewals that run on the thread."""

    def _start(self) -> None:
        self._ending, self._next_look_at = False, 0.0
        renewals = _Renewals(self._open_renewer, self._clock, self._lease_ms)
        thread = threading.Thread(target=self._run, args=(renewals,), name="workflow heartbeats", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # as many threads as the system allows
            logger.warning("no thread for heartbeats, they come from the event loop: %s", one_line(error))
            return  # the keeper asks again
        self._thread = self._latest = thread
        self._renewals = renewals

    async def ended(self) -> None:
        """Wait until the thread is gone, with its connection, but not for ever. Nothing must be kept any more."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._renewals is not None:
            self._renewals.cut_short()
        thread, end = self._latest, time.monotonic() + _END_S
        while thread is not None and thread.is_alive() and time.monotonic() < end:  # noqa: ASYNC110  # no Event is set at its end
            await asyncio.sleep(0.001)

    # On the thread.

    def _run(self, renewals: _Renewals) -> None:
        with renewals:
            while (due := self._wait_for_due(renewals)) is not None:
                renewals.renew(due)

    def _wait_for_due(self, renewals: _Renewals) -> list[HeldLease] | None:
        """Wait until leases are due; `None` when there is none left."""
        with self._changed:
            while True:
                wait_s = self._next_look_at - time.monotonic()
                if not self._loops and (self._ending or renewals.began or (wait_s <= 0 and not self._used)):
                    self._thread = None  # under the lock: the next caller starts another thread
                    return None
                if wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                self._used = bool(self._loops)
                due, next_look_s = self._look()
                self._next_look_at = time.monotonic() + next_look_s
                if due:
                    return due

    def _look(self) -> tuple[list[HeldLease], float]:
        """Return the leases that are due, and how long to wait before the next look."""
        now_ms, due, wait_ms = self._clock.now_ms(), [], self._lease_ms // 6
        for watched in list(self._loops.values()):
            if watched.keeper.loop.is_closed():
                del self._loops[watched.keeper]  # nobody drives its runs any more
                continue
            watched.look(lease_s=self._lease_ms / 1000, max_block_s=self._max_block_s)
            leases = watched.keeper.held()
            at_ms = [
                lease.renew_at_ms if lease.renew_at_ms > lease.asked_until_ms else lease.asked_until_ms
                for lease in leases
            ]
            found, next_ms = due_leases(leases, at_ms, now_ms, early_ms=self._lease_ms // 12)
            soon_ms = now_ms + self._lease_ms // 12
            for lease in found:
                lease.asked_until_ms = soon_ms
            next_ms = min(next_ms, soon_ms) if found else next_ms
            due += [] if watched.given_up else found
            wait_ms = min(wait_ms, max(0, next_ms - now_ms))
        return due, wait_ms / 1000


class _Renewals:
    """The thread's own event loop and connection."""

    def __init__(
        self, open_renewer: Callable[[], AbstractAsyncContextManager[LeaseRenewer]], clock: Clock, lease_ms: int
    ) -> None:
        self._open_renewer = open_renewer
        self._clock = clock
        self._lease_ms = lease_ms
        self._runner: asyncio.Runner | None = None
        self._stack = AsyncExitStack()
        self._renewer: LeaseRenewer | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        """Connections that fell silent, and are being closed beside their successors."""

    @property
    def began(self) -> bool:
        """True if there is something to close."""
        return self._runner is not None

    def __enter__(self) -> _Renewals:
        return self

    def __exit__(self, *error: object) -> None:
        if self._runner is None:
            return
        with self._runner:
            try:
                self._runner.run(self._close_all())
            except Exception as problem:  # noqa: BLE001  # it is gone anyway
                logger.warning("the connection for heartbeats could not be closed: %s", one_line(problem))

    def renew(self, due: list[HeldLease]) -> None:
        """Renew leases, many by one call."""
        try:
            runner = self._open_runner()
        except Exception as error:  # noqa: BLE001  # no file handles left, say: the thread must live on
            logger.warning("heartbeats failed: %s", one_line(error))
            return
        with suppress(asyncio.CancelledError):
            runner.run(self._renew_all(due))

    def cut_short(self) -> None:
        """Wait for no answer any more: nobody needs the lease. For other threads."""
        if self._runner is not None:
            with suppress(RuntimeError):  # the thread has ended
                self._runner.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()

    def _open_runner(self) -> asyncio.Runner:
        if self._runner is None:
            runner = asyncio.Runner()
            runner.get_loop()  # created on first use
            self._runner = runner
        return self._runner

    async def _renew_all(self, due: list[HeldLease]) -> None:
        self._renewing = asyncio.current_task()
        patience_s = beat_patience_s(self._lease_ms)
        try:
            if self._renewer is None:
                async with asyncio.timeout(patience_s):
                    self._renewer = await self._stack.enter_async_context(self._open_renewer())
            for first in range(0, len(due), MAX_HEARTBEAT_LEASES):
                chunk = due[first : first + MAX_HEARTBEAT_LEASES]
                held = [lease for lease in chunk if lease.keeper is not None]  # a run may have ended meanwhile
                if held:
                    await self._renew(self._renewer, held)
        except TimeoutError:
            logger.warning("heartbeats failed: no answer within %.1f s; they get another connection", patience_s)
            self._replace()
        except Exception as error:  # noqa: BLE001  # whatever it is, the thread must live on
            # Not lost yet: an expired holder that nobody replaced may go on (FENCE-2). The next heartbeat will tell.
            logger.warning("heartbeats failed: %s", one_line(error))
        finally:
            self._renewing = None

    def _replace(self) -> None:
        """Have the next beat on another connection: this one is silent, and closing it may take its time."""
        task = asyncio.get_running_loop().create_task(self._stack.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closed)
        self._stack, self._renewer = AsyncExitStack(), None

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.debug("a silent connection for heartbeats could not be closed: %s", one_line(task.exception()))

    async def _close_all(self) -> None:
        if self._closing:
            await asyncio.wait(self._closing, timeout=_END_S)
        await self._stack.aclose()

    async def _renew(self, renewer: LeaseRenewer, leases: list[HeldLease]) -> None:
        lease_ms, now_ms = self._lease_ms, self._clock.now_ms()
        for lease in leases:
            # Longer than for those that do not get their turn because this fails: they come first the next time.
            lease.asked_until_ms = now_ms + lease_ms // 6
        answers = await renew_held(renewer, leases, lease_ms=lease_ms, now_ms=now_ms)
        by_loop: dict[LeaseKeeper, list[tuple[HeldLease, LeaseResult]]] = {}
        for news in answers:
            lease, answer = news
            lease.asked_until_ms = now_ms + _next_after_ms(answer, lease_ms)
            if lease.keeper is not None:
                by_loop.setdefault(lease.keeper, []).append(news)
        for keeper, all_news in by_loop.items():
            keeper.tell(all_news)


def _next_after_ms(answer: LeaseResult, lease_ms: int) -> int:
    """Return how long to wait with the next heartbeat of a lease."""
    if isinstance(answer, LeaseRenewal):
        return lease_ms // 3
    # One that is lost is asked for no more, however long its event loop does not hear of it.
    return NEVER_MS if isinstance(answer, LeaseLost) else lease_ms // 12
