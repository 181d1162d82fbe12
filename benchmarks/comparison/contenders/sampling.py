"""A sampling profile of a contender: which layer's Python code the process is in, each millisecond of its CPU time."""

from __future__ import annotations

import signal
from collections import Counter
from types import FrameType

__all__ = ["LAYERS", "Sampler", "layer_of"]

_EVERY_S = 0.001
LAYERS = {
    "engine": ("/workflow_runtime/engine/",),
    "runtime": ("/workflow_runtime/",),
    "store": ("/workflow_store_",),
    "driver": ("/asyncpg/", "/aiosqlite/", "/sqlite3/"),
    "JSON": ("/json/",),
    "event loop": ("/asyncio/", "/selectors.py"),
}
"""Parts of a file's path, by layer; the first one that fits. Everything else is `rest`."""


def layer_of(path: str) -> str:
    """Return the layer that a file belongs to."""
    path = path.replace("\\", "/")
    return next((layer for layer, parts in LAYERS.items() if any(part in path for part in parts)), "rest")


class Sampler:
    """A count of where the main thread is, each time that the process has used another millisecond of CPU time.

    Time in C counts for the function that called it. Time of other threads counts for whatever the main thread does
    then, which is to wait in the event loop.
    """

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)

    def stop(self) -> dict[str, int]:
        """Return how many samples each layer has."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        return dict(self.samples)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if frame is not None:
            self.samples[layer_of(frame.f_code.co_filename)] += 1
