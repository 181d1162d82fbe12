"""The time for which Python's garbage collector has stopped the process.

Whoever measures how long code runs measures that as well, though the code is not at fault: the collector looks at all
objects of the process, and a worker with thousands of runs has millions.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

__all__ = ["GarbageTime"]

_CALLBACKS: list[Callable[[str, Mapping[str, Any]], None]] = getattr(gc, "callbacks", [])
"""Functions that CPython calls around each collection. An interpreter without them shows no such time."""


class GarbageTime:
    """A clock that goes while garbage is collected, between `begin` and `end`."""

    def __init__(self) -> None:
        self.taken_s: float = 0.0
        """Seconds of all collections that have ended."""
        self._longest_s = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """Take notice of collections from now on."""
        _CALLBACKS.append(self._note)

    def end(self) -> None:
        """Take notice no more."""
        with suppress(ValueError):  # the list is the whole process's: somebody may have cleared it
            _CALLBACKS.remove(self._note)
        self._began = None

    def until(self, now: float) -> float:
        """Return the seconds of all collections so far, with one that goes on.

        Args:
            now: The present, of `time.monotonic`.
        """
        began = self._began
        return self.taken_s if began is None else self.taken_s + now - began

    def take_longest(self) -> float:
        """Return how long the longest collection took since the last call, in seconds."""
        longest, self._longest_s = self._longest_s, 0.0
        return longest

    def _note(self, phase: str, info: Mapping[str, Any]) -> None:
        # Called at any moment, in any thread, perhaps while a lock of the logging is held: nothing is logged here.
        if phase == "start":
            self._began = time.monotonic()
        elif (began := self._began) is not None:
            took_s = time.monotonic() - began
            self._began = None
            self.taken_s += took_s
            self._longest_s = max(self._longest_s, took_s)
