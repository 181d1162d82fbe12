"""The store: an in-memory store whose every write is a line of a file first read back by whoever comes next."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from workflow_runtime.store import (
    CorruptRecordError,
    InvalidArgumentError,
    LeaseLostError,
    LogConflictError,
    StoreCapabilities,
)
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

from .commands import read_command, write_command
from .file import LineFile

__all__ = ["JsonlWorkflowStore"]

P = ParamSpec("P")
R = TypeVar("R")
Verb = Callable[P, Coroutine[Any, Any, R]]


def _reads(verb: Verb[P, R]) -> Verb[P, R]:
    """Make a verb look at everything that others have written before it answers."""

    @functools.wraps(verb)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        async with cast(JsonlWorkflowStore, args[0]).turn():
            return await verb(*args, **kwargs)

    return call


def _writes(verb: Verb[P, R]) -> Verb[P, R]:
    """Make a verb a line of the file. The state changes first: a verb that refuses raises there, and writes nothing."""

    @functools.wraps(verb)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        store = cast(JsonlWorkflowStore, args[0])
        async with store.turn():
            store.line_at = store.file.position
            answer = await verb(*args, **kwargs)
            store.file.add(write_command(verb.__name__, dict(kwargs)))
            return answer

    return call


class JsonlWorkflowStore(InMemoryWorkflowStore):
    """Keeps the contract in a file of JSON lines, for several handles and processes on one machine."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.file = LineFile(path)
        self.line_at = 0  # where the line begins that is being carried out
        self.forget()

    @property
    def capabilities(self) -> StoreCapabilities:
        """What this store declares."""
        return StoreCapabilities(max_payload_bytes=1_000_000, durable=True, auto_schema=True)

    def forget(self) -> None:
        """Begin with no state: the next call reads the file from its beginning."""
        # Lease tokens grow out of the line's place in the file: the same for all who read it, and never given twice.
        self._data = InMemoryData(new_generation=lambda: f"{self.line_at:x}")
        self.file.position = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold the file, with all that others have written carried out."""
        async with self.file.locked():
            try:
                await self._catch_up()
                yield
            except (InvalidArgumentError, LeaseLostError, LogConflictError, LookupError):
                raise  # refused: nothing has changed
            except BaseException:  # a full disk, a caller that was cancelled: the state may be ahead of the file
                self.forget()
                raise

    async def _catch_up(self) -> None:
        for place, line in self.file.new_lines():
            self.line_at = place
            try:
                verb, arguments = read_command(line)
            except ValueError as error:
                raise CorruptRecordError(str(self.file.path), f"byte {place}", str(error)) from error
            await getattr(InMemoryWorkflowStore, verb)(self, **arguments)

    async def close(self) -> None:
        self.file.close()

    create_run = _writes(InMemoryWorkflowStore.create_run)
    mark_run_paused = _writes(InMemoryWorkflowStore.mark_run_paused)
    mark_run_finished = _writes(InMemoryWorkflowStore.mark_run_finished)
    mark_run_errored = _writes(InMemoryWorkflowStore.mark_run_errored)
    cancel_run = _writes(InMemoryWorkflowStore.cancel_run)
    terminate_run = _writes(InMemoryWorkflowStore.terminate_run)
    requeue_run = _writes(InMemoryWorkflowStore.requeue_run)
    retry_run = _writes(InMemoryWorkflowStore.retry_run)
    fork_run = _writes(InMemoryWorkflowStore.fork_run)
    create_runs = _writes(InMemoryWorkflowStore.create_runs)
    cancel_runs = _writes(InMemoryWorkflowStore.cancel_runs)
    terminate_runs = _writes(InMemoryWorkflowStore.terminate_runs)
    requeue_runs = _writes(InMemoryWorkflowStore.requeue_runs)
    retry_runs = _writes(InMemoryWorkflowStore.retry_runs)
    delete_run = _writes(InMemoryWorkflowStore.delete_run)
    prune_runs = _writes(InMemoryWorkflowStore.prune_runs)
    append_events = _writes(InMemoryWorkflowStore.append_events)
    claim_run = _writes(InMemoryWorkflowStore.claim_run)
    heartbeat_run_lease = _writes(InMemoryWorkflowStore.heartbeat_run_lease)
    heartbeat_run_leases = _writes(InMemoryWorkflowStore.heartbeat_run_leases)
    release_run_lease = _writes(InMemoryWorkflowStore.release_run_lease)
    claim_stale_runs = _writes(InMemoryWorkflowStore.claim_stale_runs)
    claim_pending_runs = _writes(InMemoryWorkflowStore.claim_pending_runs)
    schedule_timer = _writes(InMemoryWorkflowStore.schedule_timer)
    claim_due_timers = _writes(InMemoryWorkflowStore.claim_due_timers)
    deliver_signal = _writes(InMemoryWorkflowStore.deliver_signal)
    deliver_signals = _writes(InMemoryWorkflowStore.deliver_signals)
    deliver_approval = _writes(InMemoryWorkflowStore.deliver_approval)
    deliver_retry = _writes(InMemoryWorkflowStore.deliver_retry)
    upsert_schedule = _writes(InMemoryWorkflowStore.upsert_schedule)
    delete_schedule = _writes(InMemoryWorkflowStore.delete_schedule)
    request_schedule_buckets = _writes(InMemoryWorkflowStore.request_schedule_buckets)
    claim_due_schedule_buckets = _writes(InMemoryWorkflowStore.claim_due_schedule_buckets)
    mark_schedule_bucket_started = _writes(InMemoryWorkflowStore.mark_schedule_bucket_started)

    load_run = _reads(InMemoryWorkflowStore.load_run)
    load_execution = _reads(InMemoryWorkflowStore.load_execution)
    read_events = _reads(InMemoryWorkflowStore.read_events)
    read_inbox = _reads(InMemoryWorkflowStore.read_inbox)
    list_pending_runs = _reads(InMemoryWorkflowStore.list_pending_runs)
    get_schedule = _reads(InMemoryWorkflowStore.get_schedule)
    list_schedules = _reads(InMemoryWorkflowStore.list_schedules)
    list_requested_buckets = _reads(InMemoryWorkflowStore.list_requested_buckets)
    list_runs = _reads(InMemoryWorkflowStore.list_runs)
    count_runs = _reads(InMemoryWorkflowStore.count_runs)
    get_run_timeline = _reads(InMemoryWorkflowStore.get_run_timeline)
