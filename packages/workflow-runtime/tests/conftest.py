"""Fixtures of the runtime's tests: workers over one memory store, a clock that they move, a store that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import pytest
from workflow_runtime import RunStatus, SweepReport, TestClock, Workflow, WorkflowRuntime
from workflow_runtime.engine.context import Context
from workflow_runtime.engine.handler_outcome import Outcome
from workflow_runtime.engine.history import from_event
from workflow_runtime.engine.machine import Machine
from workflow_runtime.payloads import JsonCodec
from workflow_runtime.store import (
    ClaimedRun,
    Event,
    RunRecord,
    StoreCapabilities,
    Timer,
    WorkflowExecutionStore,
)
from workflow_runtime.testing import run_to_completion
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

Hook = Callable[[str, dict[str, Any]], Awaitable[None]]


class TappedStore:
    """A store whose calls a test counts, delays and breaks: `before` a call is sent, or `after` it was committed."""

    def __init__(self, inner: WorkflowExecutionStore) -> None:
        self.calls: list[str] = []
        self.arguments: list[tuple[str, dict[str, Any]]] = []
        self.before: Hook = _nothing
        self.after: Hook = _nothing
        self._inner = inner

    async def until_idle(self) -> None:
        """Wait until a worker has looked and calls nothing any more, then forget the calls."""
        seen = -1
        async with asyncio.timeout(10):
            while not self.calls or seen != len(self.calls):
                seen = len(self.calls)
                await asyncio.sleep(0.03)
        self.calls.clear()

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._inner, verb)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(**arguments: Any) -> Any:
            self.calls.append(verb)
            self.arguments.append((verb, arguments))
            await self.before(verb, arguments)
            answer = await method(**arguments)
            await self.after(verb, arguments)
            return answer

        return call


async def _nothing(verb: str, arguments: dict[str, Any]) -> None:
    """Let the call pass."""


class SilentStore(InMemoryWorkflowStore):
    """A store that tells nobody of work."""

    @property
    def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(max_payload_bytes=2_000_000, durable=False)


class Lab:
    """Any number of workers on one store, all with one clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.clock = TestClock()
        self.data = InMemoryData()
        self.ran: Counter[Any] = Counter()
        """How often the bodies of steps ran, as they counted themselves."""

    def store(self, **options: Any) -> InMemoryWorkflowStore:
        """Open another handle on the same data."""
        defaults: dict[str, Any] = {"data": self.data, "clock": self.clock.now_ms}
        return InMemoryWorkflowStore(**(defaults | options))

    def silent(self) -> SilentStore:
        """Open a handle whose workers only poll."""
        return SilentStore(data=self.data, clock=self.clock.now_ms)

    def tapped(self, inner: InMemoryWorkflowStore | None = None, **options: Any) -> TappedStore:
        """Open a handle whose calls the test watches, or watch those of one that is open."""
        return TappedStore(inner or self.store(**options))

    def runtime(
        self, *workflows: Workflow[Any, Any], store: InMemoryWorkflowStore | TappedStore | None = None, **options: Any
    ) -> WorkflowRuntime:
        """Put another worker's runtime together, on a handle of its own."""
        handle = cast("WorkflowExecutionStore", store or self.store())
        # On a busy machine anything may take a second, and some tests count warnings.
        options.setdefault("warn_blocked_after", None)
        return WorkflowRuntime(store=handle, workflows=workflows, clock=self.clock, **options)

    async def finish(self, workflow: Workflow[Any, Any], input: Any = None, **options: Any) -> Any:
        """Start a run, drive it to its end on a worker of its own, and give its output."""
        runtime = self.runtime(workflow)
        handle = await runtime.start_run(workflow, input, **options)
        return await run_to_completion(runtime, handle, self.clock)

    async def sweep(self, *workflows: Workflow[Any, Any], **options: Any) -> SweepReport:
        """Do one pass as a worker that nobody has seen before."""
        return await self.runtime(*workflows).sweep(**options)

    def advance(self, **duration: float) -> None:
        """Move the clock."""
        self.clock.advance(timedelta(**duration))

    async def load(self, run_id: str) -> RunRecord:
        """Read a run."""
        run = await self.store().load_run(run_id=run_id)
        assert run is not None
        return run

    async def status(self, run_id: str) -> RunStatus:
        """Tell where a run stands."""
        return (await self.load(run_id)).status

    async def events(self, run_id: str) -> tuple[Event, ...]:
        """Read the whole log of a run."""
        return await self.store().read_events(run_id=run_id, limit=100_000, max_bytes=1_000_000_000)

    async def log(self, run_id: str) -> list[str]:
        """Read the kinds and step ids of a run's log, as `kind step-id`."""
        return [f"{event.kind} {event.step_id or ''}".strip() for event in await self.events(run_id)]

    async def timers(self, run_id: str) -> tuple[Timer, ...]:
        """Read the timers that the store holds for a run."""
        execution = await self.store().load_execution(run_id=run_id)
        assert execution is not None
        return execution.timers

    async def claim(self, run_id: str, owner: str = "thief") -> ClaimedRun | None:
        """Claim a run without driving it, as a worker does that dies right afterwards."""
        answer = await self.store().claim_run(
            run_id=run_id, owner=owner, lease_ms=30_000, now_ms=self.clock.now_ms(), max_crashes=100
        )
        return answer.claim if answer.kind == "claimed" else None

    async def steal(self, run_id: str) -> ClaimedRun:
        """Take a run away from the worker that drives it, as if its heartbeats had not come through."""
        run = self.data.runs[run_id]
        assert run.lease is not None
        expires_at_ms = run.lease.expires_at_ms
        claim = await self.store().claim_run(
            run_id=run_id, owner="thief", lease_ms=3_600_000, now_ms=expires_at_ms, max_crashes=100
        )
        assert claim.kind == "claimed"
        return claim.claim

    def picture(self) -> Any:
        """Copy everything that the store holds, to compare later."""
        return copy.deepcopy((self.data.runs, self.data.schedules))

    async def replayed(self, workflow: Workflow[Any, Any], run_id: str) -> Outcome | None:
        """Replay a run's whole log on a fresh machine, and give how the handler ends."""
        events = [from_event(run_id, event) for event in await self.events(run_id)]
        run = await self.load(run_id)
        machine = Machine(run_id)
        codec = JsonCodec()
        context = Context(
            machine=machine,
            run_id=run_id,
            codec=codec,
            retry=workflow.retry,
            max_payload_bytes=2_000_000,
            now_ms=self.clock.now_ms,
            store=self.store(),
        )
        done: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()

        async def handler() -> Any:
            return await workflow.handler(context, codec.decode(run.input))

        def replay() -> None:
            try:
                machine.start(handler)
                machine.run()
                for event in events:
                    machine.apply(event)
                    machine.run()
                done.set_result(machine.outcome)
                machine.suspend()
            except Exception as error:  # noqa: BLE001  # handed to the test
                done.set_exception(error)

        asyncio.get_running_loop().call_soon(replay)
        return await done

    async def until(self, condition: Callable[..., Any], *arguments: Any, seconds: float = 5.0) -> None:
        """Let other tasks run until a condition holds."""
        deadline = asyncio.get_running_loop().time() + seconds
        turns = 0
        while not condition(*arguments):
            assert asyncio.get_running_loop().time() < deadline, "the condition did not come true"
            turns += 1
            # What takes longer waits for a thread or for time, and must not cost other processes theirs.
            await asyncio.sleep(0 if turns < 1_000 else 0.001)

    @contextlib.asynccontextmanager
    async def driving(self, runtime: WorkflowRuntime, **options: Any) -> AsyncIterator[asyncio.Task[Any]]:
        """Sweep in the background, for a test that acts while a step is running."""
        task = asyncio.create_task(runtime.sweep(**options))
        try:
            yield task
            await asyncio.wait_for(task, 20)
        finally:
            task.cancel()

    @contextlib.asynccontextmanager
    async def working(self, runtime: WorkflowRuntime, **options: Any) -> AsyncIterator[asyncio.Event]:
        """Keep a worker running in the background; set the event to drain it."""
        stop = asyncio.Event()
        task = asyncio.create_task(runtime.work(stop=stop, handle_signals=False, **options))
        try:
            yield stop
            stop.set()
            await asyncio.wait_for(task, 20)
        finally:
            task.cancel()


class Gate:
    """Holds a step until the test lets it go, and tells the test that the step has come."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.cancelled = False

    async def pass_through(self, result: Any = "passed") -> Any:
        """Wait; the body of a step."""
        self.reached.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return result


@pytest.fixture
def lab() -> Lab:
    """A fresh store and clock."""
    return Lab()


@pytest.fixture
def gate() -> Gate:
    """A gate for one step."""
    return Gate()
