"""The story of an order: a workflow that uses what the runtime has, and the stage on which workers play it on a store.

No step waits and no time passes by itself: the stage moves a clock of its own from one due time to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from workflow_runtime import (
    NO_RETRY,
    Context,
    RetryPolicy,
    RunStatus,
    Schedule,
    StepFailedError,
    TestClock,
    WaitTimeoutError,
    Workflow,
    WorkflowExecutionStore,
    WorkflowRuntime,
    fixed_backoff,
    step_info,
    workflow,
)
from workflow_runtime.clock import from_ms
from workflow_runtime.logs import get_logger
from workflow_runtime.store import RunRecord
from workflow_runtime.testing import run_until_blocked

from .harness import StoreHarness
from .samples import MANY
from .scenarios import record

__all__ = ["ITEMS", "LOG", "OUTPUT", "STEPS", "Stage", "World", "order_workflow", "quiet"]

ITEMS = ["book", "pen"]
"""The input of the story."""
STEPS = ["price book", "price pen", "charge 1", "charge 2", "charge 3", "wrap", "ship"]
"""The attempts of its steps, in their order, when no worker dies or is late."""
OUTPUT: dict[str, Any] = {
    "prices": [12, 3],
    "receipt": "15 paid at attempt 3",
    "wrapping": "no paper",
    "released_by": "ann",
    "coupon": None,
    "parcel": "to Elm Street",
    "number": 4,
}
LOG = [
    "step-completed price-book",
    "step-completed price-pen",
    "step-retrying charge",
    "step-retrying charge",
    "step-completed charge",
    "step-failed wrap",
    "approval-requested approval:release",
    "approval-received approval:release",
    "value-recorded now",
    "sleep-started sleep",
    "sleep-ended sleep",
    "wait-started wait:coupon",
    "wait-timed-out wait:coupon",
    "wait-started wait:address",
    "signal-received wait:address",
    "step-completed ship",
    "emitted emit:sent",
    "value-recorded uuid",
    "run-finished",
]
"""The kinds and steps of the events of its log, whichever workers wrote them."""

_PRICES = {"book": 12, "pen": 3}
_RETRY = RetryPolicy(max_attempts=3, backoff=fixed_backoff(timedelta(minutes=1)))
_MOST_SCENES = 40


class World:
    """The world outside of the story: what its steps do, and what a run is told that waits.

    Args:
        in_step: Awaited inside of each attempt of a step, with what it does: what happens meanwhile.
        tells: What it tells runs that wait for it.
    """

    def __init__(
        self,
        in_step: Callable[[str], Awaitable[None]] | None = None,
        *,
        tells: Collection[str] = ("release", "address"),
    ) -> None:
        self.done: list[str] = []
        self.in_step = in_step
        self._tells = tells

    async def do(self, what: str) -> None:
        """Note what a step does."""
        self.done.append(what)
        if self.in_step is not None:
            await self.in_step(what)

    async def price(self, item: str) -> int:
        """Return the price of an item."""
        await self.do(f"price {item}")
        return _PRICES[item]

    async def charge(self, amount: int) -> str:
        """Fail twice, then return a receipt."""
        attempt = step_info().attempt
        await self.do(f"charge {attempt}")
        if attempt < _RETRY.max_attempts:
            raise ConnectionError("the bank does not answer")
        return f"{amount} paid at attempt {attempt}"

    async def wrap(self) -> None:
        """Fail."""
        await self.do("wrap")
        raise LookupError("no paper")

    async def ship(self, address: str) -> str:
        """Return the parcel."""
        await self.do("ship")
        return f"to {address}"

    async def give_back(self) -> None:
        """Clean up after a story that was cancelled."""
        await self.do("give back")

    async def tell(self, client: WorkflowRuntime, run_id: str, awaited: Iterable[str]) -> bool:
        """Deliver what a run waits for, and then something else that comes too late. Return False if there is nothing.

        Args:
            client: Delivers it.
            run_id: The run.
            awaited: The names of what it waits for.
        """
        told = set(awaited) & set(self._tells)
        if "release" in told:
            for by, approved in (("ann", True), ("bob", False)):
                await client.deliver_approval(run_id, "release", approved=approved, decided_by=by)
        if "address" in told:
            for street in ("Elm Street", "Oak Street"):
                await client.deliver_signal(run_id, "address", street, signal_id="letter")
        return bool(told)


def order_workflow(world: World, *, version: str = "2") -> Workflow[list[str], dict[str, Any]]:
    """Return the story as a workflow. All that it remembers is in the log."""

    @workflow(id="order", version=version, retry=_RETRY)
    async def order(ctx: Context, items: list[str]) -> dict[str, Any]:
        try:
            return await _fulfil(ctx, world, items)
        except asyncio.CancelledError:
            await ctx.step(world.give_back)
            raise

    return order


async def _fulfil(ctx: Context, world: World, items: list[str]) -> dict[str, Any]:
    prices = await asyncio.gather(*(ctx.step.options(id=f"price-{item}")(world.price, item) for item in items))
    receipt = await ctx.step(world.charge, sum(prices))
    try:
        await ctx.step.options(retry=NO_RETRY)(world.wrap)
        wrapping = "wrapped"
    except StepFailedError as error:
        wrapping = error.message
    decision = await ctx.approve("release", timeout=timedelta(days=3))
    await ctx.sleep_until(await ctx.now() + timedelta(days=7))
    try:
        coupon = await ctx.wait_for_event("coupon", timeout=timedelta(hours=1))
    except WaitTimeoutError:
        coupon = None
    parcel = await ctx.step(world.ship, await ctx.wait_for_event("address", timeout=timedelta(days=30)))
    await ctx.emit("sent", parcel)
    return {
        "prices": prices,
        "receipt": receipt,
        "wrapping": wrapping,
        "released_by": decision.decided_by if decision.approved else None,
        "coupon": coupon,
        "parcel": parcel,
        "number": (await ctx.uuid()).version,
    }


class Stage:
    """The place where runs are played on a store: a clock, a client, and workers that know nothing of each other."""

    def __init__(
        self, h: StoreHarness, *workflows: Workflow[Any, Any], schedules: Sequence[Schedule[Any]] = ()
    ) -> None:
        self._h = h
        self._workflows = workflows
        self._schedules = schedules
        self._workers = itertools.count(1)
        self.clock = TestClock(from_ms(h.now_ms))
        self.client = self.worker(h.second)
        """Starts runs and delivers to them, through the second handle."""

    def worker(
        self,
        store: WorkflowExecutionStore | None = None,
        *,
        workflows: Sequence[Workflow[Any, Any]] | None = None,
        clock: TestClock | None = None,
    ) -> WorkflowRuntime:
        """Return a new worker.

        Args:
            store: Its handle; the first one if it is not said.
            workflows: What it knows, if it is not all of them.
            clock: Its clock, if it is not that of the stage.
        """
        return WorkflowRuntime(
            store=store or self._h.store,
            workflows=self._workflows if workflows is None else workflows,
            schedules=self._schedules,
            clock=clock or self.clock,
            max_crashes=2,  # so that two in a row without progress show
            owner=f"worker-{next(self._workers)}",
        )

    async def start(self) -> str:
        """Start the story and return the id of its run."""
        return (await self.client.start_run("order", ITEMS, run_id=self._h.new_id("order"))).run_id

    async def play(
        self,
        run_id: str,
        world: World,
        next_worker: Callable[[], Awaitable[WorkflowRuntime]] | None = None,
        *,
        until: str = "",
        check_replay: bool = False,
    ) -> RunRecord:
        """Play a run to its end, and return it as it is then.

        Args:
            run_id: The run. Others that are due are driven too.
            world: Tells it what it waits for.
            next_worker: Returns who goes on when time has passed; one worker does all of it if it is not said.
            until: The name of a signal or an approval: the run is left as soon as it waits for that.
            check_replay: Replay the run after each write, and compare.
        """
        worker = self.worker()
        for _ in range(_MOST_SCENES):
            if next_worker is not None:
                worker = await next_worker()
            due_ms = await self.scene(worker, world, check_replay=check_replay)
            run = await record(self._h, run_id)
            if run.status.is_terminal or until in {awaited.name for awaited in run.awaited}:
                return run
            assert due_ms is not None, f"the run is {run.status}, waits for {run.first_awaited}, and is never due"
            self.move_to(due_ms)
        raise AssertionError(f"the story does not end: {await self.log(run_id)}")

    async def scene(self, worker: WorkflowRuntime, world: World, *, check_replay: bool = False) -> int | None:
        """Have a worker do what is due, tell runs what they wait for, and return when there is more to do."""
        due_ms = await run_until_blocked(worker, check_replay=check_replay)
        waiting = (await self._h.second.list_runs(statuses=[RunStatus.PAUSED], limit=MANY)).runs
        told = [await world.tell(self.client, run.run_id, (one.name for one in run.first_awaited)) for run in waiting]
        return self.clock.now_ms() if any(told) else due_ms

    def move_to(self, at_ms: int) -> None:
        """Move the clock on, and the harness's with it."""
        self.clock.advance_to_ms(at_ms)
        self._h.now_ms = self.clock.now_ms()

    async def log(self, run_id: str) -> list[str]:
        """Return the kind and the step of each event of a run."""
        events = await self._h.second.read_events(run_id=run_id, limit=MANY)
        return [f"{event.kind} {event.step_id or ''}".rstrip() for event in events]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the failures that the story wants out of the log."""
    logger = get_logger("workflow_runtime")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
