"""Warns of code that keeps an event loop from going on: a handler, or an `async def` step, that blocks it.

Each turn of a handler is timed. While runs are driven a thread looks on as well, so that a block is reported while it
lasts, with the place in the code, and so that steps are seen too: whether an event loop is blocked shows in that it
does not answer. Python without threads only has the first. The time of garbage collections is nobody's: a long one has
a warning of its own.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
import traceback
from _thread import allocate_lock, get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .garbage import GarbageTime
from .logs import get_logger, indented, one_line

__all__ = ["LoopWatch", "WatchedDrive"]

logger = get_logger("workflow_runtime")

_LONGEST_PERIOD_S = 0.25
_SHORTEST_PERIOD_S = 0.01


class WatchedDrive:
    """One drive, as the watch sees it. To be entered around each turn of its handler."""

    def __init__(self, watch: LoopWatch, run_id: str, workflow_id: str, step_of: Callable[[Any], str | None]) -> None:
        self.run_id = run_id
        self.workflow_id = workflow_id
        self.step_of = step_of
        self.spent_s: float = 0.0
        """The time of all turns so far."""
        self.began: float = 0.0
        self.reported: bool = False
        self._collected_s = 0.0
        """Time of all garbage collections before."""
        self._watch = watch
        self._loop: _Loop | None = None

    def __enter__(self) -> None:
        self.reported = False
        self.began = time.monotonic()
        self._collected_s = self._watch.garbage.taken_s
        if self._loop is not None:
            self._loop.turn = self

    def __exit__(self, *error: object) -> None:
        if self._loop is not None:
            self._loop.turn = None
        took_s = time.monotonic() - self.began - (self._watch.garbage.taken_s - self._collected_s)
        self.spent_s += took_s
        if took_s > self._watch.after_s:
            logger.warning(
                "run %r of %r: its handler has blocked the event loop for %.1f s. What takes time belongs in a step",
                self.run_id, self.workflow_id, took_s,
            )  # fmt: skip

    def so_far_s(self, now: float) -> float:
        """Return how long the turn has taken, without garbage collections. For the thread that looks on."""
        return now - self.began - (self._watch.garbage.until(now) - self._collected_s)

    def report_replay(self, events: int) -> None:
        """Log the replay if it took long; the event loop went on in between."""
        if events and self.spent_s > self._watch.after_s:
            logger.warning(
                "run %r of %r: the replay of its %d events took %.1f s of the event loop",
                self.run_id, self.workflow_id, events, self.spent_s,
            )  # fmt: skip

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have the thread watch for as long as the block lasts."""
        self._loop = self._watch.begin(self)
        try:
            yield
        finally:
            self._watch.end(self, self._loop)


class _Loop:
    """An event loop on which runs are driven."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.thread_id: int = get_ident()
        self.drives: dict[WatchedDrive, None] = {}
        """The drives, in the order in which they began."""
        self.turn: WatchedDrive | None = None
        """Whose handler is running at this moment."""
        self.asked_at: float | None = None
        """Time at which it was asked for a sign of life that it has not given yet."""
        self.collected_s: float = 0.0
        """Time of all garbage collections before that."""
        self.blamed: str | None = None
        """Step that was reported since."""

    def ask(self, collected_s: float) -> None:
        """Ask for a sign of life.

        Args:
            collected_s: Time of all garbage collections before.
        """
        self.blamed = None
        self.collected_s = collected_s
        self.asked_at = time.monotonic()
        try:
            self.loop.call_soon_threadsafe(self._answer)
        except RuntimeError:
            self.asked_at = None  # it is closed

    def _answer(self) -> None:
        if self.blamed is not None and self.asked_at is not None:
            logger.warning(
                "%s has blocked the event loop for %.1f s", one_line(self.blamed), time.monotonic() - self.asked_at
            )
        self.asked_at = None

    def step(self) -> str | None:
        """Return which step is running at this moment, if one is."""
        task = asyncio.current_task(self.loop)
        for drive in list(self.drives) if task is not None else ():
            if (step_id := drive.step_of(task)) is not None:
                return f"run {drive.run_id!r} of {drive.workflow_id!r}: its step {step_id!r}"
        return None

    def where(self) -> str:
        """Return what its thread is doing."""
        frame = sys._current_frames().get(self.thread_id)  # noqa: SLF001  # the documented way
        return "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)"


class LoopWatch:
    """A watch on the event loops on which a runtime drives runs.

    Args:
        after_s: Warns of whatever blocks for longer.
    """

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self.garbage: GarbageTime = GarbageTime()
        self._period_s = min(_LONGEST_PERIOD_S, max(_SHORTEST_PERIOD_S, after_s / 4))
        self._lock = allocate_lock()
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        self._thread: Any = None

    def begin(self, drive: WatchedDrive) -> _Loop:
        """Look at a drive on the running event loop from now on."""
        loop = asyncio.get_running_loop()
        with self._lock:
            known = self._loops.get(loop)
            if known is None:
                if not self._loops:
                    self.garbage.begin()
                known = self._loops[loop] = _Loop(loop)
            known.drives[drive] = None
            self._start()
        return known

    def end(self, drive: WatchedDrive, known: _Loop) -> None:
        """Look at a drive no more; without any the thread ends."""
        with self._lock:
            del known.drives[drive]
            if not known.drives and self._loops.pop(known.loop, None) is not None and not self._loops:
                self.garbage.end()

    def _start(self) -> None:
        if sys.platform == "emscripten" or self.after_s == math.inf:
            return
        if self._thread is None or not self._thread.is_alive():  # a forked child has none of its parent's threads
            import threading  # noqa: PLC0415  # there are Pythons without threads

            self._thread = threading.Thread(target=self._run, name="workflow watch", daemon=True)
            self._thread.start()

    # On the thread.

    def _run(self) -> None:
        while True:
            time.sleep(self._period_s)
            with self._lock:
                watched = list(self._loops.values())
                self._report_garbage()
                if not watched:
                    self._thread = None
                    return
            for known in watched:
                self._look_at(known)

    def _report_garbage(self) -> None:
        if (longest_s := self.garbage.take_longest()) > self.after_s:
            logger.warning(
                "Python's garbage collector has stopped the process for %.1f s: it looks at all objects, and there are "
                "very many. gc.set_threshold() makes it rarer, a smaller concurrency makes them fewer",
                longest_s,
            )

    def _look_at(self, known: _Loop) -> None:
        now = time.monotonic()
        turn = known.turn
        if turn is not None:
            if (so_far_s := turn.so_far_s(now)) > self.after_s and not turn.reported:
                turn.reported = True
                logger.warning(
                    "run %r of %r: its handler blocks the event loop, for %.1f s so far. It is at:\n%s",
                    turn.run_id, turn.workflow_id, so_far_s, indented(known.where()),
                )  # fmt: skip
        elif known.asked_at is None:
            known.ask(self.garbage.until(now))
        elif self._silent_s(known, now) > self.after_s and known.blamed is None and (step := known.step()) is not None:
            known.blamed = step
            logger.warning(
                "%s blocks the event loop, for %.1f s so far. It is at:\n%s",
                one_line(step), self._silent_s(known, now), indented(known.where()),
            )  # fmt: skip

    def _silent_s(self, known: _Loop, now: float) -> float:
        asked_at = known.asked_at  # the loop may answer at any moment
        return 0.0 if asked_at is None else now - asked_at - (self.garbage.until(now) - known.collected_s)
