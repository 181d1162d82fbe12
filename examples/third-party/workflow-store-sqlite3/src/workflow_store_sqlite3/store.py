"""The store: the list of its verbs. Each is a function of a connection and its arguments, run as one transaction.

What a verb must do is said once, in the store contract; these functions say how it is done on SQLite.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from sqlite3 import Connection
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from workflow_runtime.store import Appended, Event, StoreCapabilities, TransactionWork, checked, follow_events

from . import claims, driving, inbox, listings, runs, schedules, schema, ticks
from .database import READ, WRITE, Begin, Database
from .transactions import append_in_transaction

P = ParamSpec("P")
R = TypeVar("R")
Unit = Callable[Concatenate[Connection, P], R]
Verb = Callable[Concatenate["Sqlite3WorkflowStore", P], Coroutine[Any, Any, R]]


def _verb(begin: Begin) -> Callable[[Unit[P, R]], Verb[P, R]]:
    """Make a verb of a unit: it checks its arguments, and runs the unit in one transaction in the handle's thread."""

    def make(unit: Unit[P, R]) -> Verb[P, R]:
        async def verb(self: Sqlite3WorkflowStore, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return await self._database.run(begin, lambda db: unit(db, *args, **kwargs))

        functools.update_wrapper(verb, unit)
        return checked(verb)

    return make


_reads, _writes = _verb(READ), _verb(WRITE)


class Sqlite3WorkflowStore:
    """A handle on a workflow store in a SQLite file. Open one in each process and each event loop; close it in the end.

    Args:
        path: Where the file is. It must lie on a disk of this machine: SQLite's locks do not hold over a network.
    """

    capabilities = StoreCapabilities(
        max_payload_bytes=1_000_000, durable=True, subscribe=True, transactions=True, heartbeats=True, auto_schema=True
    )

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._database = Database(path)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the handle; what it was asked before is done first."""
        await self._database.close()

    create_run = _writes(runs.create_run)
    fork_run = _writes(runs.fork_run)
    load_run = _reads(runs.load_run)
    load_execution = _reads(runs.load_execution)
    cancel_run = _writes(runs.cancel_run)
    terminate_run = _writes(runs.terminate_run)
    requeue_run = _writes(runs.requeue_run)
    retry_run = _writes(runs.retry_run)
    delete_run = _writes(runs.delete_run)
    prune_runs = _writes(runs.prune_runs)
    create_runs = _writes(runs.create_runs)
    cancel_runs = _writes(runs.cancel_runs)
    terminate_runs = _writes(runs.terminate_runs)
    requeue_runs = _writes(runs.requeue_runs)
    retry_runs = _writes(runs.retry_runs)

    claim_run = _writes(claims.claim_run)
    claim_pending_runs = _writes(claims.claim_pending_runs)
    claim_stale_runs = _writes(claims.claim_stale_runs)
    claim_due_timers = _writes(claims.claim_due_timers)
    list_pending_runs = _reads(claims.list_pending_runs)

    append_events = _writes(driving.append_events)
    schedule_timer = _writes(driving.schedule_timer)
    heartbeat_run_lease = _writes(driving.heartbeat_run_lease)
    heartbeat_run_leases = _writes(driving.heartbeat_run_leases)
    release_run_lease = _writes(driving.release_run_lease)
    mark_run_paused = _writes(driving.mark_run_paused)
    mark_run_finished = _writes(driving.mark_run_finished)
    mark_run_errored = _writes(driving.mark_run_errored)
    read_events = _reads(driving.read_events)
    _read_log_page = _reads(driving.read_log_page)

    deliver_signal = _writes(inbox.deliver_signal)
    deliver_signals = _writes(inbox.deliver_signals)
    deliver_approval = _writes(inbox.deliver_approval)
    deliver_retry = _writes(inbox.deliver_retry)
    read_inbox = _reads(inbox.read_inbox)

    list_runs = _reads(listings.list_runs)
    count_runs = _reads(listings.count_runs)
    get_run_timeline = _reads(listings.get_run_timeline)

    upsert_schedule = _writes(schedules.upsert_schedule)
    get_schedule = _reads(schedules.get_schedule)
    list_schedules = _reads(schedules.list_schedules)
    delete_schedule = _writes(schedules.delete_schedule)
    request_schedule_buckets = _writes(schedules.request_schedule_buckets)
    list_requested_buckets = _reads(schedules.list_requested_buckets)
    claim_due_schedule_buckets = _writes(ticks.claim_due_schedule_buckets)
    mark_schedule_bucket_started = _writes(ticks.mark_schedule_bucket_started)

    ensure_schema = _writes(schema.ensure_schema)
    check_schema = _reads(schema.check_schema)

    @checked
    async def append_in_transaction(
        self, *, run_id: str, lease_token: str, operation_id: str, work: TransactionWork
    ) -> Appended:
        """Run `work` with a `Transaction`, append what it says, and commit both. Other writers wait meanwhile."""
        fence = {"run_id": run_id, "lease_token": lease_token, "operation_id": operation_id}
        return await append_in_transaction(Database(self._path), self.capabilities, **fence, work=work)

    async def read_clock(self) -> int:
        """Read the clock of this machine: a file has no other."""
        return driving.clock_ms()

    def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the run's events from an index on, looking for new ones again and again."""
        return follow_events(self._read_log_page, run_id=run_id, from_index=from_index)

    @asynccontextmanager
    async def open_heartbeats(self) -> AsyncIterator[Sqlite3WorkflowStore]:
        """Open another handle, which may live on the event loop of another thread."""
        async with Sqlite3WorkflowStore(self._path) as renewer:
            yield renewer
