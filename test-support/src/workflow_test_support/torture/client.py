"""The client of the chaos runs: it starts them and sends signals, and repeats each call until it is acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from workflow_runtime import StoreUnavailableError, WorkflowRuntime
from workflow_test_support.torture.errand import SIGNAL, SIGNALS, errand

__all__ = ["Client", "until_acknowledged"]

T = TypeVar("T")

_AGAIN_S = 0.05
_LONGEST_PAUSE_S = 2.0
_BETWEEN_STARTS_S = 0.03


class Client:
    """Serves all runs at once.

    Args:
        runtime: Without a worker.
        runs: How many to start.
        rng: For its pauses.
        between_starts_s: The pause between two starts.
    """

    def __init__(
        self, runtime: WorkflowRuntime, runs: int, rng: random.Random, *, between_starts_s: float = _BETWEEN_STARTS_S
    ) -> None:
        self._runtime = runtime
        self._runs = runs
        self._rng = rng
        self._between_starts_s = between_starts_s
        self.inputs: dict[str, int] = {}
        """The input of each run whose start was acknowledged."""
        self.signals: Counter[str] = Counter()
        """Number of acknowledged signals, by run."""
        self.answers: Counter[str] = Counter()
        self.repeats = 0
        """Number of calls that had to be made again."""

    async def serve(self) -> None:
        """Start the runs and send them all their signals."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._runs):
                group.create_task(self._serve_one(f"errand-{number}", number))
                await asyncio.sleep(self._between_starts_s)

    async def _serve_one(self, run_id: str, number: int) -> None:
        await self._until_acknowledged(lambda: self._runtime.start_run(errand, number, run_id=run_id))
        self.inputs[run_id] = number
        for signal in range(SIGNALS):
            await asyncio.sleep(self._rng.uniform(0, _LONGEST_PAUSE_S))
            await self._send(run_id, signal)
            self.signals[run_id] += 1
            if self._rng.random() < 0.3:
                await self._send(run_id, self._rng.randrange(signal + 1))  # nobody knows what a client forgets

    async def _send(self, run_id: str, signal: int) -> None:
        answer = await self._until_acknowledged(
            lambda: self._runtime.deliver_signal(run_id, SIGNAL, signal, signal_id=f"signal-{signal}")
        )
        self.answers[answer.kind] += 1

    async def _until_acknowledged(self, call: Callable[[], Awaitable[T]]) -> T:
        answer, repeats = await until_acknowledged(call)
        self.repeats += repeats
        return answer


async def until_acknowledged(call: Callable[[], Awaitable[T]]) -> tuple[T, int]:
    """Make a call until the store acknowledges it; say how often it had to be made again."""
    repeats = 0
    while True:
        try:
            return await call(), repeats
        except StoreUnavailableError:
            repeats += 1
            await asyncio.sleep(_AGAIN_S)
