"""The client of the soak's orders: it starts them and decides about them, sometimes twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from workflow_runtime import WorkflowRuntime
from workflow_test_support.torture.client import until_acknowledged
from workflow_test_support.torture.soak.jobs import APPROVAL, order

__all__ = ["Customer", "Ordered"]

T = TypeVar("T")

_LONGEST_PAUSE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """The acknowledged facts of an order."""

    number: int
    approved: bool
    decided_by: str


class Customer:
    """Orders at a steady pace.

    Args:
        runtime: Without a worker.
        orders: How many to place.
        between_orders_s: The pause between two of them.
        rng: For pauses and decisions.
    """

    def __init__(self, runtime: WorkflowRuntime, orders: int, between_orders_s: float, rng: random.Random) -> None:
        self._runtime = runtime
        self._orders = orders
        self._between_orders_s = between_orders_s
        self._rng = rng
        self.ordered: dict[str, Ordered] = {}
        """The orders whose start and decision were acknowledged."""
        self.answers: Counter[str] = Counter()
        self.repeats = 0
        """Number of calls that had to be made again."""

    async def serve(self) -> None:
        """Place all orders and decide about each."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._orders):
                group.create_task(self._serve_one(f"order-{number}", number))
                await asyncio.sleep(self._between_orders_s)

    async def _serve_one(self, run_id: str, number: int) -> None:
        await self._until_acknowledged(lambda: self._runtime.start_run(order, number, run_id=run_id))
        await asyncio.sleep(self._rng.uniform(0, _LONGEST_PAUSE_S))
        decision = Ordered(number=number, approved=self._rng.random() < 0.8, decided_by=f"person-{number}")
        await self._decide(run_id, approved=decision.approved, decided_by=decision.decided_by)
        self.ordered[run_id] = decision
        if self._rng.random() < 0.3:
            await self._decide(run_id, approved=not decision.approved, decided_by="too late")

    async def _decide(self, run_id: str, *, approved: bool, decided_by: str) -> None:
        answer = await self._until_acknowledged(
            lambda: self._runtime.deliver_approval(run_id, APPROVAL, approved=approved, decided_by=decided_by)
        )
        self.answers[answer.kind] += 1

    async def _until_acknowledged(self, call: Callable[[], Awaitable[T]]) -> T:
        answer, repeats = await until_acknowledged(call)
        self.repeats += repeats
        return answer
