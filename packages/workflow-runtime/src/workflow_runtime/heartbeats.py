"""Heartbeats from a thread of their own, on a connection of their own: a blocked event loop cannot stop them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from typing import Protocol

from .clock import Clock
from .engine.held_lease import beat_patience_s
from .errors import LeaseLostError
from .logs import get_logger, indented, one_line
from .store import LeaseRenewal, LeaseRenewer

__all__ = ["HeartbeatThread", "RenewableLease"]

logger = get_logger("workflow_runtime")

_PATS_PER_LEASE = 6
_END_S = 5.0
"""The longest that a connection takes to close when the server does not answer."""


class RenewableLease(Protocol):
    """A lease as its driver holds it. All but the reading of attributes happens on the driver's event loop."""

    run_id: str
    token: str
    renew_at_ms: int

    def renewed(self, renewal: LeaseRenewal) -> None:
        """Note that the lease was renewed."""
        ...

    def lose(self) -> None:
        """Note that another worker has the run."""
        ...


class _Entry:
    """A lease in the care of the thread, and the event loop that drives its run."""

    def __init__(self, lease: RenewableLease, pat_every_s: float) -> None:
        self.lease = lease
        self.loop = asyncio.get_running_loop()
        self.not_before_ms = 0
        self.reported_blocked = False
        self.given_up = False
        self._thread_id = threading.get_ident()
        self._alive_at = time.monotonic()
        self._pat_every_s = pat_every_s
        self._next_pat = self.loop.call_later(pat_every_s, self._pat)

    def _pat(self) -> None:
        self._alive_at = time.monotonic()
        self.reported_blocked = self.given_up = False
        self._next_pat = self.loop.call_later(self._pat_every_s, self._pat)

    def end(self) -> None:
        self._next_pat.cancel()

    @property
    def blocked_s(self) -> float:
        """For how long the event loop has not shown life, beyond the time between two signs of it."""
        return time.monotonic() - self._alive_at - self._pat_every_s

    def where(self) -> str:
        """Return what the event loop's thread is doing."""
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001  # the documented way
        return "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)"

    def tell(self, hear: Callable[..., None], *facts: object) -> None:
        try:
            self.loop.call_soon_threadsafe(hear, *facts)
        except RuntimeError:
            self.given_up = True  # the event loop is closed: nobody drives the run any more


class HeartbeatThread:
    """A thread that renews leases, for as long as their event loops are not blocked for too long.

    The thread lives while there are leases, and opens its connection when the first one is due: runs that are
    shorter than a third of a lease cost nothing but the start of a thread.

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
        self._changed = threading.Condition()
        self._entries: set[_Entry] = set()
        self._thread: threading.Thread | None = None
        """Thread that renews the leases; `None` when there are none."""
        self._latest: threading.Thread | None = None
        """The last one that was started: it may still be closing its connection."""
        self._renewals: _Renewals | None = None
        """Renewals that run on the thread."""

    @contextmanager
    def keep(self, lease: RenewableLease) -> Iterator[None]:
        """Keep a lease while the block lasts."""
        entry = _Entry(lease, self._lease_ms / 1000 / _PATS_PER_LEASE)
        with self._changed:
            self._entries.add(entry)
            if self._thread is None:
                self._start()
            self._changed.notify()
        try:
            yield
        finally:
            entry.end()
            with self._changed:
                self._entries.discard(entry)
                if not self._entries:
                    self._changed.notify()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="workflow heartbeats", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # as many threads as the system allows
            logger.warning("no thread for heartbeats, they come from the event loop: %s", one_line(error))
            return  # the next lease to be kept tries again
        self._thread = self._latest = thread

    async def ended(self) -> None:
        """Wait until the thread is gone, with its connection, but not for ever. Nothing must be kept any more."""
        if self._renewals is not None:
            self._renewals.cut_short()
        thread, end = self._latest, time.monotonic() + _END_S
        while thread is not None and thread.is_alive() and time.monotonic() < end:  # noqa: ASYNC110  # no Event is set at its end
            await asyncio.sleep(0.001)

    # On the thread.

    def _run(self) -> None:
        with _Renewals(self._open_renewer) as renewals:
            self._renewals = renewals
            while (due := self._wait_for_due()) is not None:
                renewals.renew(due, lease_ms=self._lease_ms, now_ms=self._clock.now_ms())

    def _wait_for_due(self) -> list[_Entry] | None:
        """Wait until leases are due; `None` when there is none left."""
        with self._changed:
            while self._entries:
                now_ms = self._clock.now_ms()
                due = [entry for entry in self._entries if self._due_ms(entry) <= now_ms]
                if due:
                    kept = [entry for entry in due if self._may_keep(entry)]
                    for entry in due:
                        entry.not_before_ms = now_ms + self._lease_ms // 6
                    if kept:
                        return kept
                else:
                    next_ms = min(self._due_ms(entry) for entry in self._entries)
                    self._changed.wait((next_ms - now_ms) / 1000)
            self._thread = None  # under the lock: the next caller starts another thread
            return None

    def _due_ms(self, entry: _Entry) -> int:
        return max(entry.lease.renew_at_ms, entry.not_before_ms)

    def _may_keep(self, entry: _Entry) -> bool:
        """Return True if the event loop still deserves the lease; log it when it does not."""
        blocked_s = entry.blocked_s
        if blocked_s > self._max_block_s and not entry.given_up:
            entry.given_up = True
            logger.error(
                "run %r: the event loop has been blocked for %.0f s, its lease is left to run out. It is at:\n%s",
                entry.lease.run_id, blocked_s, indented(entry.where()),
            )  # fmt: skip
        elif blocked_s > self._lease_ms / 1000 and not entry.reported_blocked:
            entry.reported_blocked = True
            logger.warning(
                "run %r: the event loop has been blocked for %.1f s. It is at:\n%s",
                entry.lease.run_id, blocked_s, indented(entry.where()),
            )  # fmt: skip
        return not entry.given_up


class _Renewals:
    """The thread's own event loop and connection."""

    def __init__(self, open_renewer: Callable[[], AbstractAsyncContextManager[LeaseRenewer]]) -> None:
        self._open_renewer = open_renewer
        self._runner: asyncio.Runner | None = None
        self._stack = AsyncExitStack()
        self._renewer: LeaseRenewer | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        """Connections that fell silent, and are being closed beside their successors."""

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

    def renew(self, due: list[_Entry], *, lease_ms: int, now_ms: int) -> None:
        """Renew leases, one after the other: a heartbeat takes about a millisecond."""
        try:
            runner = self._open_runner()
        except Exception as error:  # noqa: BLE001  # no file handles left, say: the thread must live on
            logger.warning("heartbeats failed: %s", one_line(error))
            return
        with suppress(asyncio.CancelledError):
            runner.run(self._renew_all(due, lease_ms, now_ms))

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

    async def _renew_all(self, due: list[_Entry], lease_ms: int, now_ms: int) -> None:
        self._renewing = asyncio.current_task()
        patience_s = beat_patience_s(lease_ms)
        try:
            if self._renewer is None:
                async with asyncio.timeout(patience_s):
                    self._renewer = await self._stack.enter_async_context(self._open_renewer())
            for entry in due:
                async with asyncio.timeout(patience_s):
                    await self._renew(self._renewer, entry, lease_ms, now_ms)
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

    async def _renew(self, renewer: LeaseRenewer, entry: _Entry, lease_ms: int, now_ms: int) -> None:
        lease = entry.lease
        try:
            renewal = await renewer.heartbeat_run_lease(
                run_id=lease.run_id, lease_token=lease.token, lease_ms=lease_ms, now_ms=now_ms
            )
        except LeaseLostError:
            entry.given_up = True
            entry.tell(lease.lose)
        else:
            entry.not_before_ms = now_ms + lease_ms // 3
            entry.tell(lease.renewed, renewal)
