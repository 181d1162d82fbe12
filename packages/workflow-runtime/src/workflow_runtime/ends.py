"""The ends of runs that are driven in this process, for those in it who wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["AwaitedEnd", "Ends"]


class AwaitedEnd:
    """The end of a run that somebody waits for: it may come here, or elsewhere, and then nobody tells."""

    def __init__(self) -> None:
        self._came = asyncio.Event()

    def came(self) -> None:
        """Wake who waits: the run has ended, or may have."""
        self._came.set()

    async def wait(self, longest_s: float) -> None:
        """Wait for the end, but no longer than that, in seconds. One that came before counts."""
        timer = asyncio.get_running_loop().call_later(longest_s, self._came.set)
        try:
            await self._came.wait()
        finally:
            timer.cancel()
            self._came.clear()


class Ends:
    """The ends of runs, as far as this process makes them."""

    def __init__(self) -> None:
        self._awaited: dict[str, set[AwaitedEnd]] = {}

    @contextmanager
    def awaited(self, run_id: str) -> Iterator[AwaitedEnd]:
        """Yield what the end of a run wakes while the block lasts, also one that comes before anybody waits."""
        end = AwaitedEnd()
        awaited = self._awaited.setdefault(run_id, set())
        awaited.add(end)
        try:
            yield end
        finally:
            awaited.discard(end)
            if not awaited:
                self._awaited.pop(run_id, None)

    def note(self, run_id: str) -> None:
        """Wake those who wait for the end of a run."""
        for end in tuple(self._awaited.get(run_id, ())):
            end.came()
