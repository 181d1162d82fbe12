"""Many runs started, and many signals delivered, by one call of a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from .bulk import BulkReport, Progress
from .clock import to_ms
from .engine.definition import Registry, Workflow
from .errors import InvalidArgumentError, RunConflictError, RunConflictsError
from .handles import RunHandle
from .ids import new_id, new_operation_id
from .isolation import outside_handlers
from .payloads import ExactCodec
from .sources import Source
from .store import (
    DEFAULT_QUEUE,
    MAX_BULK_BYTES,
    MAX_BULK_RUNS,
    CreatedOfMany,
    CreateManyResult,
    DeliverSignalResult,
    ExistingOfMany,
    RunToCreate,
    SignalToDeliver,
    WorkflowExecutionStore,
    about,
)

__all__ = ["DeliverSignal", "ManyRuns", "StartRun"]

GivenT = TypeVar("GivenT")
InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")
ItemT = TypeVar("ItemT", RunToCreate, SignalToDeliver)


@dataclass(frozen=True, slots=True)
class StartRun(Generic[InputT]):
    """One run of many that `start_runs` starts."""

    input: InputT
    """Input of the handler; any value that the codec carries."""
    _: KW_ONLY
    run_id: str | None = None
    """Chosen by the caller, so that starting is idempotent; random when absent."""
    queue: str = DEFAULT_QUEUE
    """The queue that it waits in."""
    priority: int = 0
    """Greater is sooner; from -32768 to 32767."""
    start_at: datetime | None = None
    """Not before this moment (an aware datetime)."""


@dataclass(frozen=True, slots=True)
class DeliverSignal:
    """One signal of many that `deliver_signals` delivers."""

    run_id: str
    """Id of the run."""
    name: str
    """Name that its handler waits for with `ctx.wait_for_event(name)`."""
    payload: Any = None
    """Any value that the codec carries."""
    _: KW_ONLY
    signal_id: str | None = None
    """Deduplicates: a signal acts once per run, however often it is sent. Random when absent."""


@outside_handlers
class ManyRuns(ABC):
    """The part of a runtime that starts many runs, and delivers many signals, some hundreds of them in one unit."""

    _store: WorkflowExecutionStore
    _registry: Registry
    _codec: ExactCodec

    @abstractmethod
    async def _now_ms(self) -> int: ...

    @abstractmethod
    def _delivered(self, run_id: str) -> None: ...

    @abstractmethod
    def _wake_workers(self, *sources: Source) -> None: ...

    @abstractmethod
    def _handle(self, run_id: str, *, created: bool) -> RunHandle[Any]: ...

    @overload
    async def start_runs(
        self,
        workflow: Workflow[InputT, OutputT],
        runs: Iterable[StartRun[InputT]] | AsyncIterable[StartRun[InputT]],
        *,
        on_progress: Progress | None = None,
    ) -> list[RunHandle[OutputT]]: ...
    @overload
    async def start_runs(
        self,
        workflow: str,
        runs: Iterable[StartRun[Any]] | AsyncIterable[StartRun[Any]],
        *,
        on_progress: Progress | None = None,
    ) -> list[RunHandle[Any]]: ...
    async def start_runs(
        self,
        workflow: Workflow[Any, Any] | str,
        runs: Iterable[StartRun[Any]] | AsyncIterable[StartRun[Any]],
        *,
        on_progress: Progress | None = None,
    ) -> list[RunHandle[Any]]:
        """Create many runs of one workflow, each as `start_run` does. Returns once all of them are durable.

        Some hundreds go to the store together. `runs` may be a generator, also an async one: it is asked for as many
        as go next. What is raised before the end says in a note how many runs were started before: with run ids of your
        own the call can be made again, and starts the others.

        Args:
            workflow: Which workflow, or its id. New runs start on its current version.
            runs: What to start.
            on_progress: Awaited each time that some hundreds are durable, with what has been done so far: how many
                were `created`, were `existing`, or had a `conflict`.

        Returns:
            The handles, in the order of `runs`. Each says whether this call created the run.

        Raises:
            UnknownWorkflowError: This runtime does not know the workflow.
            InvalidArgumentError: One of the runs can never be started; nothing of what was to go with it is.
            RunConflictsError: Some run ids exist with another workflow or input. All others are started.
        """
        current = self._registry.current(workflow)
        handles: list[RunHandle[Any]] = []
        conflicts: list[RunConflictError] = []

        async def create(chunk: Sequence[RunToCreate]) -> Iterator[str]:
            answers = await self._store.create_runs(runs=chunk, now_ms=await self._now_ms())
            self._wake_workers("pending")
            for run, answer in zip(chunk, answers, strict=True):
                handles.append(self._handle(run.run_id, created=isinstance(answer, CreatedOfMany)))
                if isinstance(answer, ExistingOfMany) and answer.differs:
                    conflicts.append(RunConflictError(run.run_id, answer.differs))
            return map(_kind, answers)

        await _in_chunks(runs, lambda run: self._to_create(current, run), create, on_progress)
        if conflicts:
            raise RunConflictsError(tuple(conflicts), tuple(handle.run_id for handle in handles))
        return handles

    async def deliver_signals(
        self,
        signals: Iterable[DeliverSignal] | AsyncIterable[DeliverSignal],
        *,
        on_progress: Progress | None = None,
    ) -> list[DeliverSignalResult]:
        """Send many signals to any runs, each as `deliver_signal` does. Returns once all of them are durable.

        Some hundreds go to the store together; a run gets its own in their order. `signals` may be a generator, also an
        async one. What is raised before the end says in a note how many were delivered before: with signal ids of your
        own the call can be made again.

        Args:
            signals: What to deliver.
            on_progress: Awaited each time that some hundreds are durable, with what has been done so far, by the `kind`
                of the answers.

        Returns:
            The answers, in the order of `signals`.

        Raises:
            InvalidArgumentError: One of the signals can never be delivered; nothing of what was to go with it is.
        """
        told: list[DeliverSignalResult] = []

        async def deliver(chunk: Sequence[SignalToDeliver]) -> Iterator[str]:
            answers = await self._store.deliver_signals(signals=chunk, now_ms=await self._now_ms())
            for run_id in dict.fromkeys(signal.run_id for signal in chunk):
                self._delivered(run_id)
            told.extend(about(answer, run_id=signal.run_id) for signal, answer in zip(chunk, answers, strict=True))
            return (answer.kind for answer in answers)

        await _in_chunks(signals, self._to_deliver, deliver, on_progress)
        return told

    def _to_create(self, workflow: Workflow[Any, Any], run: StartRun[Any]) -> RunToCreate:
        if not isinstance(run, StartRun):
            raise InvalidArgumentError("runs", f"must hold StartRun(input), not {type(run).__name__}")
        return RunToCreate(
            run_id=new_id() if run.run_id is None else run.run_id,
            workflow_id=workflow.id,
            workflow_version=workflow.version,
            input=self._codec.encode(run.input, "runs.input"),
            operation_id=new_operation_id(),
            queue=run.queue,
            priority=run.priority,
            available_at_ms=None if run.start_at is None else to_ms("runs.start_at", run.start_at),
        )

    def _to_deliver(self, signal: DeliverSignal) -> SignalToDeliver:
        if not isinstance(signal, DeliverSignal):
            raise InvalidArgumentError("signals", f"must hold DeliverSignal(...), not {type(signal).__name__}")
        return SignalToDeliver(
            run_id=signal.run_id,
            signal_id=new_id() if signal.signal_id is None else signal.signal_id,
            name=signal.name,
            payload=self._codec.encode(signal.payload, "signals.payload"),
        )


def _kind(answer: CreateManyResult) -> str:
    return "conflict" if isinstance(answer, ExistingOfMany) and answer.differs else answer.kind


async def _in_chunks(
    given: Iterable[GivenT] | AsyncIterable[GivenT],
    prepare: Callable[[GivenT], ItemT],
    send: Callable[[Sequence[ItemT]], Awaitable[Iterable[str]]],
    on_progress: Progress | None,
) -> None:
    """Prepare what is given, and send as much of it together as one call of the store takes.

    Args:
        given: What the caller gave.
        prepare: Makes of it what the store takes.
        send: Sends some, and returns the kinds of their answers.
        on_progress: The caller's.
    """
    report = BulkReport()
    try:
        async with aclosing(_chunks(given, prepare)) as chunks:
            async for chunk in chunks:
                report.outcomes.update(await send(chunk))
                if on_progress is not None:
                    await on_progress(report)
    except Exception as error:
        error.add_note(f"before this happened, the first {report.total} of the call were done")
        raise


async def _chunks(
    given: Iterable[GivenT] | AsyncIterable[GivenT], prepare: Callable[[GivenT], ItemT]
) -> AsyncGenerator[list[ItemT], None]:
    chunk: list[ItemT] = []
    size = 0
    async with aclosing(_one_by_one(given)) as items:
        async for one in items:
            item = prepare(one)
            size += item.bulk_bytes
            if chunk and (len(chunk) == MAX_BULK_RUNS or size > MAX_BULK_BYTES):
                yield chunk
                chunk, size = [], item.bulk_bytes
            chunk.append(item)
    if chunk:
        yield chunk


async def _one_by_one(given: Iterable[GivenT] | AsyncIterable[GivenT]) -> AsyncGenerator[GivenT, None]:
    if not isinstance(given, AsyncIterable):
        for one in given:
            yield one
        return
    try:
        async for one in given:
            yield one
    finally:
        if isinstance(given, AsyncGenerator):  # the caller may have no name for it
            await given.aclose()
