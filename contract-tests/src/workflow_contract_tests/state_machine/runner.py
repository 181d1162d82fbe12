"""The search for a script on which stores and the model differ."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from workflow_runtime.store import WorkflowExecutionStore

from ..harness import START_MS, StoreHarness
from . import drawing
from .playing import Difference, Match, Player
from .printing import report
from .script import Operation
from .shrinking import shrink

__all__ = ["Freshly", "Search", "emptied", "empty"]

Freshly: TypeAlias = Callable[[], AbstractAsyncContextManager[Sequence[Player]]]
"""Opens the stores of a match, with nothing in them."""

LENGTH = 60
"""Operations of one sequence, without what is read to compare. Longer ones find little more, and shrink slowly."""
READ_EVERY = 12
SHRINKING_S = 20.0


@dataclass(kw_only=True)
class Search:
    """Sequences of one part of the verbs, one after the other, until one fails or enough was played."""

    part: drawing.Part
    freshly: Freshly
    seed: int
    operations: int
    """The number of calls to make, reads that compare included."""
    seconds: float = float("inf")
    """No sequence is begun after so long, but the first."""
    played: int = 0
    sequences: int = 0

    async def run(self) -> None:
        """Play sequences.

        Raises:
            AssertionError: Answers differ; it tells how, and the shortest script that was found.
        """
        deadline = time.monotonic() + self.seconds
        for seed in itertools.count(self.seed):
            found = await self._play_sequence(seed)
            if found is not None:
                raise AssertionError(await self._explain(found, seed))
            if self.played >= self.operations or time.monotonic() > deadline:
                return

    async def _play_sequence(self, seed: int) -> Difference | None:
        async with self.freshly() as players:
            match = Match(*players)
            self.sequences += 1
            for operation in _drawn(drawing.Sequence(seed, self.part, match.model, START_MS)):
                found = await match.play(operation)
                if found is not None:
                    return found
            self.played += len(match.played)
        return None

    async def _explain(self, found: Difference, seed: int) -> str:
        last = found

        async def replay(script: Sequence[Operation]) -> Difference | None:
            nonlocal last
            again = await self._replay(script)
            if again is not None and again.operation.verb == found.operation.verb:
                last = again
            return again

        await shrink(found.script, replay, seconds=SHRINKING_S)
        return report(last, seed=seed, operations=len(found.script))

    async def _replay(self, script: Sequence[Operation]) -> Difference | None:
        async with self.freshly() as players:
            match = Match(*players)
            for operation in script:
                if (found := await match.play(operation)) is not None:
                    return found
        return None


def _drawn(sequence: drawing.Sequence) -> Iterator[Operation]:
    """Yield the operations of a sequence, and now and then everything that can be read."""
    for number in range(1, LENGTH + 1):
        yield sequence.draw()
        if number % READ_EVERY == 0:
            yield from sequence.read_everything(all_timelines=number == LENGTH)


def emptied(h: StoreHarness, *, schedules: bool) -> Freshly:
    """Return what empties the store of a case, of schedules too if wanted, by its own verbs, before each match."""

    @asynccontextmanager
    async def freshly() -> AsyncIterator[Sequence[Player]]:
        await empty(h.store, schedules=schedules)
        yield [Player(h.store_name, [h.store, h.second])]

    return freshly


async def empty(store: WorkflowExecutionStore, *, schedules: bool) -> None:
    """Delete every run of a store, and every schedule if it has any."""
    for run in (await store.list_runs(limit=1_000)).runs:
        await store.delete_run(run_id=run.run_id, now_ms=START_MS, force=True)
    for schedule in (await store.list_schedules(limit=1_000)).schedules if schedules else ():
        await store.delete_schedule(schedule_id=schedule.schedule_id)
    left = (await store.list_runs(limit=1)).runs
    assert left == (), f"runs are left after all were deleted: {left}"
