"""The runs that one call drives, and how that call comes to its end: in good order if it can, and in time anyway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .engine.driver import Driver
from .engine.shielding import run_shielded
from .logs import get_logger, one_line

__all__ = ["Drives", "see_through"]

T = TypeVar("T")
logger = get_logger("workflow_runtime")

_HAND_OVER_S = 5.0
"""Kept back from the time of a stop: steps are cancelled, and their runs handed over, in this time."""
_HAND_OVER_SHARE = 0.2
_LEAST_HAND_OVER_S = 0.5
"""A stop may take this long though its caller gave it less: without it no run would ever be handed over."""
_GIVEN_UP_S = 1.0
"""The last part of that: what is not ready is cancelled, and may clean up."""
_GIVEN_UP_SHARE = 0.25
_NAMED = 10


class Drives:
    """The drivers that are at work for one call of `work`, `sweep` or `run_here`.

    Args:
        on_stop: Called when they are asked to stop.
        asked: Set by the caller to make them stop. It counts from that moment on, though `stop` follows later.
    """

    def __init__(self, on_stop: Callable[[], None] = lambda: None, asked: asyncio.Event | None = None) -> None:
        self._stopped = False
        self._asked = asked
        self.hurried: asyncio.Event = asyncio.Event()
        """Set when the steps that run are not to be waited for either."""
        self._on_stop = on_stop
        self._drivers: set[Driver] = set()

    @property
    def stopping(self) -> bool:
        """True if nothing new is to be begun."""
        return self._stopped or (self._asked is not None and self._asked.is_set())

    def add(self, driver: Driver) -> None:
        """Begin to drive a run. A stop that came before holds for it too."""
        self._drivers.add(driver)
        if self._asked is not None:
            driver.stop_with(self._asked)
        if self.stopping:
            driver.stop(cancel_steps=self.hurried.is_set())

    def discard(self, driver: Driver) -> None:
        """Forget a drive that has ended."""
        self._drivers.discard(driver)

    def stop(self, *, hurry: bool = False) -> None:
        """Have all runs handed over: no new step begins.

        Args:
            hurry: Cancel the steps that run.
        """
        news = not self._stopped or (hurry and not self.hurried.is_set())
        self._stopped = True
        if hurry:
            self.hurried.set()
        if news:
            for driver in tuple(self._drivers):
                driver.stop(cancel_steps=hurry)
            self._on_stop()

    def run_ids(self) -> list[str]:
        """Name the runs that are being driven."""
        return sorted(driver.run_id for driver in self._drivers)


async def see_through(
    work: Coroutine[Any, Any, T], drives: Drives, *, stop: asyncio.Event | None = None, within_s: float = _HAND_OVER_S
) -> T | None:
    """Run a call to its end; when it is asked to stop, or is cancelled, have it hand over what it drives.

    Whatever the work waits for then (a step, a store that does not answer), this returns in time.

    Args:
        work: The work. It ends by itself soon after `drives` were asked to stop.
        drives: What it drives.
        stop: Set to make it stop.
        within_s: How long a stop may take in all, in seconds. A cancelled call takes no longer than 5 either.

    Returns:
        What the work gives; `None` when it was given up.
    """
    if stop is not None and stop.is_set():
        drives.stop()
    working = asyncio.create_task(work)
    try:
        await _until(working, stop)
        if not working.done() and await _drain(working, drives, within_s):
            return None
    except asyncio.CancelledError:
        await _end_though_cancelled(working, drives, min(within_s, _HAND_OVER_S))
        raise
    return working.result()


async def _drain(working: asyncio.Task[T], drives: Drives, within_s: float) -> bool:
    """Wait for steps to end, then cancel them. Return True if some were not handed over in time and are abandoned."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + within_s
    drives.stop()
    await _until(working, drives.hurried, within_s - min(_HAND_OVER_S, _HAND_OVER_SHARE * within_s))
    return await _end(working, drives, min(_HAND_OVER_S, ends_at - loop.time()))


async def _end(working: asyncio.Task[T], drives: Drives, within_s: float) -> bool:
    """Cancel the steps that run and have the runs handed over; then give up, with a warning."""
    if working.done():
        return False
    drives.stop(hurry=True)
    within_s = max(within_s, _LEAST_HAND_OVER_S)
    good_bye_s = min(_GIVEN_UP_S, _GIVEN_UP_SHARE * within_s)
    await asyncio.wait({working}, timeout=within_s - good_bye_s)
    if working.done():
        return False
    logger.warning("not handed over in time, their leases run out: %s", one_line(_named(drives.run_ids())))
    working.cancel()
    await asyncio.wait({working}, timeout=good_bye_s)
    if not working.done():
        logger.error("the stop takes too long: what does not end is left behind")
        working.add_done_callback(_forget)
    return True


async def _end_though_cancelled(working: asyncio.Task[T], drives: Drives, within_s: float) -> None:
    await run_shielded(_end(working, drives, within_s))
    if working.done() and not working.cancelled() and (error := working.exception()) is not None:
        logger.error("a call that was cancelled failed: %s", one_line(error), exc_info=error)


async def _until(working: asyncio.Task[T], event: asyncio.Event | None, within_s: float | None = None) -> None:
    """Wait for the end of the work, or for an event."""
    if event is None:
        await asyncio.wait({working}, timeout=within_s)
        return
    told = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, told}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
        await asyncio.wait({told})  # no task outlives this call


def _forget(working: asyncio.Task[Any]) -> None:
    if not working.cancelled():
        working.exception()  # mark the exception as retrieved, or asyncio logs it


def _named(run_ids: list[str]) -> str:
    if not run_ids:
        return "(no runs)"
    more = f" and {len(run_ids) - _NAMED} more" if len(run_ids) > _NAMED else ""
    return ", ".join(map(repr, run_ids[:_NAMED])) + more
