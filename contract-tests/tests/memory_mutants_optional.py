"""Stores with one fault each in what a store may declare: following a run's log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.errors import RunNotFoundError
from workflow_runtime.store import Event


@broken("SUBSCRIBE-1")
class FollowerEndsWithTheRun(Faulty):
    """Following ends as soon as the run has ended, whatever is left of its log."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        while run_id in self._data.runs:
            page = self.current(run_id).events[from_index : from_index + 1]
            for event in page:
                yield event
            from_index += len(page)
            if self.current(run_id).status.is_terminal:
                return
            await asyncio.sleep(0.001)
        raise RunNotFoundError(run_id)


@broken("SUBSCRIBE-1")
class FollowerGetsOnePage(Faulty):
    """Only the first page of a log is given."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        async for event in super().subscribe_events(run_id=run_id, from_index=from_index):
            yield event
            if event.index == from_index + 999:
                return


@broken("SUBSCRIBE-1")
class FollowerBeginsAtTheBeginning(Faulty):
    """The index to begin with is ignored."""

    def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        return super().subscribe_events(run_id=run_id)


@broken("SUBSCRIBE-2")
class FollowerDoesNotWait(Faulty):
    """What there is is given, and that is all."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        for event in await self.read_events(run_id=run_id, from_index=from_index, limit=1_000):
            yield event


@broken("SUBSCRIBE-2")
class FollowerHearsItsOwnHandle(Faulty):
    """Only what this handle appends is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.appended = asyncio.Event()

    async def append_events(self, **arguments: Any) -> Any:
        answer = await super().append_events(**arguments)
        self.appended.set()
        return answer

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        async for event in super().subscribe_events(run_id=run_id, from_index=from_index):
            await self.appended.wait()
            yield event


@broken("SUBSCRIBE-3")
class FollowerWaitsForNobody(Faulty):
    """A run that is not there ends the following as if it had ended."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        try:
            async for event in super().subscribe_events(run_id=run_id, from_index=from_index):
                yield event
        except RunNotFoundError:
            return


@broken("SUBSCRIBE-4")
class FollowerCannotBeStopped(Faulty):
    """A follower that waits does not let itself be cancelled."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        events = super().subscribe_events(run_id=run_id, from_index=from_index)
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            while not coming.done():
                try:
                    await asyncio.wait([coming])
                except asyncio.CancelledError:
                    continue
            event = coming.result()
            if event is None:
                return
            yield event
