"""Verbs as values, for cases that are repeated over several of them.

Each holds typed callables, so that a search for a verb of the contract finds the cases that call it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from workflow_runtime.errors import LeaseLostError
from workflow_runtime.store import Awaited, ClaimBatch, LeaseLost, LeaseRenewal, Timer, WorkflowExecutionStore

from .harness import StoreHarness
from .holder import LeaseHolder
from .samples import events
from .scenarios import claim_due, claim_pending, claim_stale, create, start, start_waiting

__all__ = [
    "APPEND_EVENTS",
    "CLAIM_DUE_TIMERS",
    "CLAIM_PENDING_RUNS",
    "CLAIM_STALE_RUNS",
    "CLAIM_VERBS",
    "HEARTBEAT_RUN_LEASE",
    "HEARTBEAT_RUN_LEASES",
    "LEASE_VERBS",
    "MARK_RUN_ERRORED",
    "MARK_RUN_FINISHED",
    "MARK_RUN_PAUSED",
    "RELEASE_RUN_LEASE",
    "SCHEDULE_TIMER",
    "WRITES_WITH_EVENTS",
    "ClaimVerb",
    "LeaseVerb",
    "StoreMethod",
]

_BUSY_S = 0.001
"""Pause of whoever finds a lease busy."""

StoreMethod: TypeAlias = Callable[[WorkflowExecutionStore], Callable[..., Coroutine[Any, Any, Any]]]
"""Picks a verb from a store: `lambda store: store.load_run`."""


@dataclass(frozen=True, slots=True)
class ClaimVerb:
    """One of the three claims of several runs."""

    name: str
    call: Callable[..., Awaitable[ClaimBatch]] = field(repr=False)
    """Calls it. Takes the harness, the `store` to ask, and arguments of the verb."""
    make_ready: Callable[..., Awaitable[str]] = field(repr=False)
    """Makes a run that it can claim from a later moment on, and returns its id. Takes the harness, the moment, and
    arguments of `create_run`."""

    def __str__(self) -> str:
        return self.name


async def _queue(h: StoreHarness, at_ms: int, **facts: Any) -> str:
    return (await create(h, available_at_ms=at_ms, **facts)).run_id


async def _let_expire(h: StoreHarness, at_ms: int, **facts: Any) -> str:
    return (await start(h, lease_ms=at_ms - h.now_ms, **facts)).run_id


async def _set_alarm(h: StoreHarness, at_ms: int, **facts: Any) -> str:
    return (await start_waiting(h, timers={"t": at_ms, "u": at_ms + 1}, **facts)).run_id


CLAIM_PENDING_RUNS = ClaimVerb("claim_pending_runs", claim_pending, _queue)
CLAIM_STALE_RUNS = ClaimVerb("claim_stale_runs", claim_stale, _let_expire)
CLAIM_DUE_TIMERS = ClaimVerb("claim_due_timers", claim_due, _set_alarm)
CLAIM_VERBS = (CLAIM_PENDING_RUNS, CLAIM_STALE_RUNS, CLAIM_DUE_TIMERS)


def _nothing(holder: LeaseHolder) -> dict[str, Any]:
    return {}


def _log_and_inbox(holder: LeaseHolder) -> dict[str, Any]:
    return {"events": events('"e1"', '"e2"'), "taken_inbox": [1]}


def _log_inbox_and_timers(holder: LeaseHolder) -> dict[str, Any]:
    new = Timer(timer_id="new", fire_at_ms=holder.harness.now_ms + 10**6)
    return _log_and_inbox(holder) | {"set_timers": [new], "removed_timers": ["old"]}


def _all_of_a_pause(holder: LeaseHolder) -> dict[str, Any]:
    awaited = [Awaited(kind="signal", name="go", step_id="wait-go")]
    return _log_inbox_and_timers(holder) | {"seen_inbox_seq": 1, "awaited": awaited}


@dataclass(frozen=True, slots=True)
class LeaseVerb:
    """One of the verbs that the holder of a lease calls with its token."""

    name: str
    of: StoreMethod = field(repr=False)
    arguments: Callable[..., dict[str, Any]] = field(repr=False)
    """Returns arguments with which it works. Takes the holder, and arguments that replace some of these."""
    changes: Callable[[LeaseHolder], dict[str, Any]] = field(default=_nothing, repr=False)
    """Returns the arguments with which it changes all that it can: log, inbox, timers."""

    def __str__(self) -> str:
        return self.name

    async def call(self, holder: LeaseHolder, **overrides: Any) -> Any:
        """Call it as the holder."""
        return await self.of(holder.store)(**self.arguments(holder, **overrides))

    def everything(self, holder: LeaseHolder, **overrides: Any) -> dict[str, Any]:
        """Return arguments with which it works and changes all that it can.

        The run should have a timer `old` and an inbox entry.
        """
        return self.arguments(holder, **(self.changes(holder) | overrides))


APPEND_EVENTS = LeaseVerb(
    "append_events", lambda store: store.append_events, LeaseHolder.append_arguments, _log_inbox_and_timers
)
HEARTBEAT_RUN_LEASE = LeaseVerb(
    "heartbeat_run_lease", lambda store: store.heartbeat_run_lease, LeaseHolder.heartbeat_arguments
)


def _one_of_many(store: WorkflowExecutionStore) -> Callable[..., Coroutine[Any, Any, LeaseRenewal]]:
    """Return `heartbeat_run_leases` for one lease, which answers as `heartbeat_run_lease` does."""

    async def heartbeat_run_leases(*, run_id: str, lease_token: str, lease_ms: int, now_ms: int) -> LeaseRenewal:
        while True:
            leases = [(run_id, lease_token)]
            (answer,) = await store.heartbeat_run_leases(leases=leases, lease_ms=lease_ms, now_ms=now_ms)
            if isinstance(answer, LeaseLost):
                raise LeaseLostError(f"run {run_id!r}")
            if isinstance(answer, LeaseRenewal):
                return answer
            await asyncio.sleep(_BUSY_S)

    return heartbeat_run_leases


HEARTBEAT_RUN_LEASES = LeaseVerb("heartbeat_run_leases", _one_of_many, LeaseHolder.heartbeat_arguments)
RELEASE_RUN_LEASE = LeaseVerb("release_run_lease", lambda store: store.release_run_lease, LeaseHolder.release_arguments)
SCHEDULE_TIMER = LeaseVerb("schedule_timer", lambda store: store.schedule_timer, LeaseHolder.set_timer_arguments)
MARK_RUN_PAUSED = LeaseVerb(
    "mark_run_paused", lambda store: store.mark_run_paused, LeaseHolder.pause_arguments, _all_of_a_pause
)
MARK_RUN_FINISHED = LeaseVerb(
    "mark_run_finished", lambda store: store.mark_run_finished, LeaseHolder.finish_arguments, _log_and_inbox
)
MARK_RUN_ERRORED = LeaseVerb(
    "mark_run_errored", lambda store: store.mark_run_errored, LeaseHolder.fail_arguments, _log_and_inbox
)
WRITES_WITH_EVENTS = (APPEND_EVENTS, MARK_RUN_PAUSED, MARK_RUN_FINISHED, MARK_RUN_ERRORED)
LEASE_VERBS = (HEARTBEAT_RUN_LEASE, HEARTBEAT_RUN_LEASES, RELEASE_RUN_LEASE, SCHEDULE_TIMER, *WRITES_WITH_EVENTS)
