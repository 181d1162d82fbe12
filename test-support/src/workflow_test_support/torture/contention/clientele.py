"""The client of the contention runs: creates schedules that are far behind, and asks for more ticks all the while."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

from workflow_runtime import Every, Schedule, TestClock, WorkflowExecutionStore, WorkflowRuntime
from workflow_runtime.store import OverlapPolicy
from workflow_test_support.torture.contention.brief import brief

__all__ = ["Clientele"]

_SECOND = timedelta(seconds=1)
_AT_ONCE = 5
"""Ticks in one request for a period."""
_LONGEST_PAUSE_S = 0.5


class Clientele:
    """A client that gives one policy's schedules so many ticks to settle.

    Of the ticks of a schedule seven tenths are its own: it fires every second, and nobody has done so since its
    beginning. Two tenths are asked for as a period before that, and one tenth is fired by hand.

    Args:
        store: Where the schedules live.
        policy: Of all its schedules.
        schedules: How many of them.
        ticks: Of all of them together.
        rng: For the pauses.
    """

    def __init__(
        self, store: WorkflowExecutionStore, policy: OverlapPolicy, schedules: int, ticks: int, rng: random.Random
    ) -> None:
        self._store = store
        self.policy = policy
        self._ids = [f"{policy}-{number}" for number in range(schedules)]
        each = ticks // schedules
        self._periods = each // (5 * _AT_ONCE)
        self._triggers = each // 10
        self._own = each - self._periods * _AT_ONCE - self._triggers
        self._rng = rng
        self._runtime = WorkflowRuntime(store=store, workflows=[brief])
        self.expected: defaultdict[str, set[int]] = defaultdict(set)
        """The moments of all ticks, by schedule."""
        self.sources: Counter[str] = Counter()

    async def serve(self) -> None:
        """Create the schedules, and make all requests while they are worked off."""
        until = datetime.fromtimestamp(await self._store.read_clock() // 1_000, UTC)
        async with asyncio.TaskGroup() as group:
            for schedule_id in self._ids:
                group.create_task(self._serve_one(schedule_id, until))

    async def _serve_one(self, schedule_id: str, until: datetime) -> None:
        begun = until - self._own * _SECOND
        # Who creates a schedule says when it begins; this one was created long ago and then forgotten.
        long_ago = WorkflowRuntime(store=self._store, workflows=[brief], clock=TestClock(begun))
        await long_ago.schedules.create(
            Schedule(
                id=schedule_id, workflow=brief, when=Every(_SECOND), overlap=self.policy,
                missed="all", missed_limit=1_000, ends_at=until,
            )
        )  # fmt: skip
        self._expect(schedule_id, begun, self._own)
        self.sources["own"] += self._own
        wanted = [self._ask_for_period] * self._periods + [self._trigger] * self._triggers
        self._rng.shuffle(wanted)
        for number, request in enumerate(wanted):
            await asyncio.sleep(self._rng.uniform(0, _LONGEST_PAUSE_S))
            await request(schedule_id, begun - (number + 1) * _AT_ONCE * _SECOND)

    async def _ask_for_period(self, schedule_id: str, begin: datetime) -> None:
        asked = (await self._runtime.schedules.backfill(schedule_id, begin, begin + _AT_ONCE * _SECOND)).requested
        assert asked == _AT_ONCE
        self._expect(schedule_id, begin, _AT_ONCE)
        self.sources["requested"] += _AT_ONCE

    async def _trigger(self, schedule_id: str, _: datetime) -> None:
        handle = await self._runtime.schedules.trigger(schedule_id)
        moment = datetime.fromisoformat(handle.run_id.rpartition("@")[2])
        self.expected[schedule_id].add(round(moment.timestamp() * 1_000))
        self.sources["triggered"] += 1

    def _expect(self, schedule_id: str, begin: datetime, count: int) -> None:
        first_ms = int(begin.timestamp()) * 1_000
        self.expected[schedule_id].update(first_ms + number * 1_000 for number in range(count))
