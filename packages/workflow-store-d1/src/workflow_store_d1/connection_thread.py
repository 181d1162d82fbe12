"""The thread on which a SQLite connection lives.

A library could lend one. This one is our own for what it does at the edges. Nothing that happens to a caller ends it,
not even that his event loop is closed. What nobody waits for any more is not begun. Nobody waits for it without a
bound. And it does not keep a program from ending, because what was acknowledged is in the file already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Event, Thread
from typing import Any, Protocol, TypeVar

from .combined_writes import CombinedWrites
from .database import D1DatabaseError
from .jobs import Job, JobQueue, Manner, Outcome, answer, settle

__all__ = ["Connection", "ConnectionThread"]

_LAST_WAIT_S = 5.0
"""The longest that an interrupted connection takes to close."""


class Connection(Protocol):
    """The object that lives on the thread. All but `interrupt` is called there."""

    def interrupt(self) -> None:
        """Make the statement that runs fail; called on any thread."""
        ...

    def close(self) -> None:
        """End it."""
        ...


C = TypeVar("C", bound=Connection)
R = TypeVar("R")


class ConnectionThread:
    """A connection on a thread of its own, where all calls to it are made, one after the other.

    Args:
        name: Of the thread.
        connect: Opens the connection; called on the thread. It gets a flag that is set when there is no time left:
            whatever waits on the thread waits for that too.
    """

    def __init__(self, name: str, connect: Callable[[Event], C]) -> None:
        self._jobs = JobQueue()
        self._hurry = Event()
        self._reason: BaseException | None = None
        """Reason why the thread takes no more calls."""
        self._ending = False
        self._overdue: Job | None = None
        self._connected: list[Connection] = []
        self._thread = Thread(target=self._serve, args=(connect,), name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True if the thread is there, and with it the connection."""
        return self._thread.is_alive()

    async def connected(self, within_s: float) -> None:
        """Wait until the connection is open; raise what prevented it.

        A caller that is cancelled meanwhile must `end` the thread. It closes then what it may have opened.
        """
        await self.call(lambda connection: None, within_s=within_s)

    async def call(
        self, function: Callable[[Any], R], *, within_s: float, manner: Manner = Manner.ALONE, unit: Any = None
    ) -> R:
        """Call a function with the connection, on the thread.

        Args:
            function: It is not begun when its caller is cancelled before.
            within_s: How long to wait for it, in seconds. What is under way then is interrupted.
            manner: How it stands to a transaction that others share.
            unit: What to take into such a transaction instead of calling the function.

        Raises:
            D1DatabaseError: No answer in time, or the thread has ended.
        """
        self._check()
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        job = Job(function, future, manner, unit)
        self._jobs.put(job)
        if self._reason is not None:
            self._refuse_waiting(self._reason)
        timer = future.get_loop().call_later(within_s, _expire, future)
        try:
            return await future
        except _TooLateError:
            raise self._give_up(job, within_s) from None
        finally:
            timer.cancel()

    def end(self, *, hurry: bool = False) -> None:
        """Make the thread close the connection and end, behind what was called before.

        Args:
            hurry: Interrupt what is under way, and begin nothing more.
        """
        if hurry:
            self._hurry.set()
            self._interrupt()
        if not self._ending:
            self._ending = True
            self._jobs.put(None)

    async def ended(self, within_s: float) -> bool:
        """Wait for the end of the thread; after that time hurry it, and wait a little longer.

        Returns:
            Whether it has ended.
        """
        if await self._wait(within_s):
            return True
        self.end(hurry=True)
        return await self._wait(_LAST_WAIT_S)

    def join(self, within_s: float) -> None:
        """Wait for the end of the thread where no event loop runs."""
        self._thread.join(within_s)

    def _check(self) -> None:
        if self._overdue is not None:
            if not self._overdue.done and self.is_alive:
                raise D1DatabaseError("the file does not answer: a call before is still under way", unavailable=True)
            self._overdue = None

    def _give_up(self, job: Job, within_s: float) -> D1DatabaseError:
        """Return the error of a call that took too long; it says whether the call may still do what it was to do."""
        if not job.begun:
            did = "was busy with other calls for" if self._connected else "could not be opened within"
            return D1DatabaseError(f"the file {did} {within_s:g} s", unavailable=True)
        self._overdue = job
        self._interrupt()
        return D1DatabaseError(f"no answer from the file within {within_s:g} s", unavailable=True, outcome_unknown=True)

    def _interrupt(self) -> None:
        for connection in self._connected:
            with suppress(Exception):  # it has just been closed
                connection.interrupt()

    async def _wait(self, within_s: float) -> bool:
        end, pause_s = time.monotonic() + within_s, 0.0005
        while self.is_alive and time.monotonic() < end:
            await asyncio.sleep(pause_s)  # a thread's end cannot set an asyncio.Event
            pause_s = min(pause_s * 1.5, 0.02)
        return not self.is_alive

    # On the thread.

    def _serve(self, connect: Callable[[Event], C]) -> None:
        try:
            connection = connect(self._hurry)
        except BaseException as error:  # noqa: BLE001  # raised where the connection is awaited
            self._finish(error)
            return
        self._connected.append(connection)
        while (job := self._jobs.get()) is not None:
            self._do(job, connection)
            del job  # release what it holds now, not when the next call comes
        self._connected.clear()
        with suppress(Exception):  # acknowledged writes are in the file already
            connection.close()
        self._finish(_gone())

    def _do(self, job: Job, connection: Any) -> None:
        if job.manner is Manner.JOINS and not self._hurry.is_set():
            run_alone = partial(self._do_alone, connection=connection)
            CombinedWrites(connection, run_alone, self._hurry).run(job, self._jobs)
        else:
            self._do_alone(job, connection)

    def _do_alone(self, job: Job, connection: Any) -> None:
        if self._hurry.is_set():
            answer([Outcome(job, None, _gone())])
        else:
            job.run(connection)

    def _finish(self, error: BaseException) -> None:
        self._reason = error
        self._refuse_waiting(error)

    def _refuse_waiting(self, error: BaseException) -> None:
        # Runs on either thread: one of the two sees a call that arrives just now.
        for job in self._jobs.drain():
            answer([Outcome(job, None, error)])


class _TooLateError(Exception):
    """The time for a call is up."""


def _gone() -> D1DatabaseError:
    return D1DatabaseError("the connection has ended", unavailable=True)


def _expire(future: asyncio.Future[Any]) -> None:
    settle(future, None, _TooLateError())
