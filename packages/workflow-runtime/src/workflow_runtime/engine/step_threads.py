"""Threads for steps that are plain functions: the runtime's own.

On the event loop's threads, long steps would starve whatever else is done there: name resolution, files. These ones are
made when they are needed and go when they are not. They are daemons, so that a step which never returns does not keep
the interpreter from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias

__all__ = ["StepThreads", "ThreadCall"]

_Outcome: TypeAlias = tuple[Any, BaseException | None]

_IDLE_S = 10.0
"""Time for which an idle thread waits for another call before it ends."""


class ThreadCall:
    """One call of a plain function on a thread. It cannot be interrupted once it runs."""

    def __init__(self, key: str, function: Callable[[], Any]) -> None:
        self.key = key
        self._function = function
        self._context = contextvars.copy_context()
        self._future: Future[_Outcome] = Future()

    @property
    def running(self) -> bool:
        """True if the function has begun, and not returned."""
        return self._future.running()

    @property
    def is_over(self) -> bool:
        """True if it has returned, or will never begin."""
        return self._future.done()

    def when_over(self, tell: Callable[[], None]) -> None:
        """Have something called, on the running event loop, when it has returned or will never begin."""
        loop = asyncio.get_running_loop()

        def over(_: object) -> None:
            try:
                loop.call_soon_threadsafe(tell)
            except RuntimeError:
                return  # the loop is closed

        self._future.add_done_callback(over)

    async def result(self) -> Any:
        """Wait for the function's result. Cancelled before a thread has begun it, it never runs.

        Raises:
            BaseException: Whatever the function raises.
        """
        # A future cannot carry every exception (not StopIteration), so it carries none.
        value, error = await asyncio.wrap_future(self._future)
        if error is None:
            return value
        try:
            raise error
        finally:
            del error  # break the cycle: its traceback holds this frame

    async def over(self) -> None:
        """Wait until it has returned, or will never begin."""
        await asyncio.wait({asyncio.wrap_future(self._future)})

    def take_back(self) -> bool:
        """Refuse to call the function. Return whether it will never begin."""
        return self._future.cancel()

    def run(self) -> Callable[[], None]:
        """Call the function, on a thread, and return what reports the outcome."""
        if not self._future.set_running_or_notify_cancel():
            return lambda: None
        return partial(self._future.set_result, self._context.run(_outcome, self._function))


class StepThreads:
    """Up to `size` threads.

    Args:
        size: So many functions run at once; others wait for their turn.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._latest: dict[str, ThreadCall] = {}
        self._begin_anew()

    async def begin(self, key: str, function: Callable[[], Any]) -> ThreadCall:
        """Hand a function to a thread, as soon as no earlier one of the same key runs any more.

        Args:
            key: What must not run twice at once.
            function: What to call, in a copy of the present context.
        """
        while (earlier := self._latest.get(key)) is not None and not earlier.is_over:
            await earlier.over()
        call = ThreadCall(key, function)
        self._put(call)
        return call

    def _put(self, call: ThreadCall) -> None:
        if self._pid != os.getpid():
            self._begin_anew()  # after a fork: the threads are the parent's
        with self._changed:
            self._latest[call.key] = call
            self._waiting.append(call)
            if len(self._waiting) <= self._idle:
                self._changed.notify()
            elif self._threads < self._size:
                self._start_thread(call)

    def _start_thread(self, call: ThreadCall) -> None:
        thread = threading.Thread(target=self._work, name="workflow step", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if self._threads:
                return  # no more threads are allowed: a running one takes the call later
            self._waiting.remove(call)
            call.take_back()
            raise
        self._threads += 1

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[ThreadCall] = deque()
        self._threads = 0
        self._idle = 0
        self._latest.clear()

    # On a thread.

    def _work(self) -> None:
        with self._changed:
            self._idle += 1
        while (call := self._next()) is not None:
            tell = call.run()
            with self._changed:
                if self._latest.get(call.key) is call:
                    del self._latest[call.key]
                self._idle += 1  # before reporting: the receiver may submit the next call at once
            tell()
            del call, tell  # do not keep the result alive until the next call

    def _next(self) -> ThreadCall | None:
        """Wait for a call; `None` when none comes for a while."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._waiting, _IDLE_S)
            self._idle -= 1
            if came:
                return self._waiting.popleft()
            self._threads -= 1
            return None


def _outcome(function: Callable[[], Any]) -> _Outcome:
    try:
        return function(), None
    except BaseException as error:  # noqa: BLE001  # raised where the result is awaited
        return None, error
