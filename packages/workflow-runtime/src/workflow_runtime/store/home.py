"""The home of a store's connections: one process, one event loop."""

from __future__ import annotations

import asyncio
import os

from ..errors import ConfigurationError
from ..isolation import refuse_in_handler

__all__ = ["Home"]


class Home:
    """The process and the event loop that the connections of a store belong to.

    A connection is tied to both. On another event loop its answers wake nobody; in a forked child it is still the
    parent's connection, and one takes the answers that are meant for the other. So a store asks before each call, and
    before it touches anything.

    Args:
        what: How errors call the store, such as "this SQLite store".
        loop: The event loop. By default the one that runs now; when none does, the first one that is asked about.
    """

    __slots__ = ("_loop", "_pid", "_what")

    def __init__(self, what: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._what = what
        self._pid = os.getpid()
        self._loop = loop if loop is not None else _running_loop()

    @property
    def is_inherited(self) -> bool:
        """True if this process is a forked child, and the connections are its parent's: they are not to be closed."""
        return self._pid != os.getpid()

    def check(self) -> None:
        """Raise unless the connections can be used here.

        Raises:
            ConfigurationError: This is a forked child, another event loop, or a workflow's handler.
        """
        self.check_process()
        running = _running_loop()
        if running is not self._loop:
            self._settle_on(running)

    def check_process(self) -> None:
        """Raise in a forked child; on which event loop does not matter.

        Raises:
            ConfigurationError: This is a forked child.
        """
        if self._pid != os.getpid():
            raise ConfigurationError(
                f"{self._what} belongs to process {self._pid}, from which this one ({os.getpid()}) was forked: "
                "connections do not survive a fork. Open a store of its own in the child"
            )

    def _settle_on(self, running: asyncio.AbstractEventLoop | None) -> None:
        refuse_in_handler(self._what)
        if self._loop is not None:
            where = "an event loop that is closed" if self._loop.is_closed() else "another event loop"
            raise ConfigurationError(
                f"{self._what} belongs to {where}, and connections cannot move. Open a store on the event loop that "
                "uses it: inside the function that asyncio.run() runs, one for each asyncio.run() and for each thread"
            )
        self._loop = running


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
