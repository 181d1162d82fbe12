"""Calls on their way to a connection's thread, and their answers on the way back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

__all__ = ["Job", "JobQueue", "Manner", "Outcome", "answer", "settle"]


class Manner(Enum):
    """The relation of a call to a transaction that others share."""

    ALONE = "alone"
    """It shares no transaction, and none passes it."""
    READS = "reads"
    """It sees what was committed only: it runs when the transaction has ended, which may pass it."""
    JOINS = "joins"
    """It may share the transaction."""


class Job:
    """One call.

    Args:
        function: Does it, by itself.
        future: Gets the answer.
        manner: How it stands to what others do.
        unit: What it is for a transaction that it joins.
    """

    __slots__ = ("begun", "done", "function", "future", "manner", "unit")

    def __init__(
        self,
        function: Callable[[Any], Any],
        future: asyncio.Future[Any],
        manner: Manner = Manner.ALONE,
        unit: Any = None,
    ) -> None:
        self.function: Callable[[Any], Any] = function
        self.future: asyncio.Future[Any] = future
        self.manner: Manner = manner
        self.unit: Any = unit
        self.begun: bool = False
        self.done: bool = False

    def begin(self) -> bool:
        """Mark it as begun, unless nobody waits for it any more."""
        # In this order: whoever gives up meanwhile must not call a thing not begun that is done all the same.
        self.begun = True
        if self.future.done() or self.future.get_loop().is_closed():
            self.begun = False
        return self.begun

    def run(self, connection: Any) -> None:
        """Do it by itself, and answer."""
        if not self.begin():
            self.done = True
            return
        try:
            result, error = self.function(connection), None
        except BaseException as problem:  # noqa: BLE001  # whatever it is, it is the caller's
            result, error = None, problem
        answer([Outcome(self, result, error)])


class Outcome(NamedTuple):
    """The end of a call: a result, or an error."""

    job: Job
    result: Any
    error: BaseException | None


def answer(outcomes: Sequence[Outcome]) -> None:
    """Hand outcomes over to the event loops of their callers, to each at once: a wake-up costs a call of the system."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome.job.future.get_loop(), []).append(outcome)
    for loop, its_own in by_loop.items():
        # The event loop is closed, so nobody is waiting.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle_all, its_own)
    for outcome in outcomes:
        outcome.job.done = True


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Answer a future, unless it has an answer."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):  # a future cannot hold StopIteration
        future.set_exception(RuntimeError(f"StopIteration: {error}"))
    else:
        future.set_exception(error)


def _settle_all(outcomes: Sequence[Outcome]) -> None:
    for job, result, error in outcomes:
        settle(job.future, result, error)


class JobQueue:
    """The calls that wait for the thread, in their order. `None` is the end of it.

    Each caller waits for its own answer, so there are as many calls as callers, and no more.
    """

    def __init__(self) -> None:
        self._arrived: SimpleQueue[Job | None] = SimpleQueue()
        self._aside: deque[Job | None] = deque()
        """Those that a transaction could not take, in their order; they come next."""

    @property
    def has_arrived(self) -> bool:
        """True if a call waits that nobody has looked at."""
        return not self._arrived.empty()

    def put(self, job: Job | None) -> None:
        """Add a call; on any thread."""
        self._arrived.put(job)

    def get(self) -> Job | None:
        """Wait for the next call."""
        return self._aside.popleft() if self._aside else self._arrived.get()

    def get_joining(self) -> Job | None:
        """Take the next call that joins a transaction, if there is one now; reads before it have to wait."""
        with suppress(Empty):
            while self.has_arrived:  # an exception takes as long as a statement
                job = self._arrived.get_nowait()
                if job is not None and job.manner is Manner.JOINS:
                    return job
                self._aside.append(job)
                if job is None or job.manner is Manner.ALONE:
                    break
        return None

    def drain(self) -> Iterator[Job]:
        """Take out what has arrived; on any thread, when nothing is taken any more."""
        with suppress(Empty):
            while True:
                job = self._arrived.get_nowait()
                if job is not None:
                    yield job
